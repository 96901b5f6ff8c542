//! `docs/kernels.md`: what the sensor can do on each kernel, as `sensor doctor` found there, and
//! what becomes of bombs.

use std::{collections::BTreeSet, fmt::Write as _};

use ::tests::Bomb;
use serde::Deserialize;

/// What was seen on one kernel.
pub struct Seen {
    /// Its series, or this machine.
    pub place: String,
    /// None of this machine: that is nobody's but ours.
    pub capabilities: Vec<Capability>,
    pub bombs: Vec<Bomb>,
}

/// One line of `sensor doctor --json`.
#[derive(Deserialize)]
pub struct Capability {
    name: String,
    state: String,
    used_for: String,
    why: String,
    remedy: String,
}

/// `None`: the doctor did not get that far.
pub fn capabilities(json: &str) -> Option<Vec<Capability>> {
    serde_json::from_str(json.trim()).ok()
}

/// What no kernel of a series has, by the name of the capability.
const LACKS: [(&str, &str); 1] = [("5.10", "killing a cgroup at once")];

/// What should work on a kernel and does not, a line each.
pub fn lacking(kernel: &str, capabilities: &[Capability]) -> Vec<String> {
    let lacks =
        |one: &&Capability| one.state != "ok" && !LACKS.contains(&(kernel, one.name.as_str()));
    let line = |one: &Capability| format!("{}: {}: {}", one.name, one.state, one.why);
    capabilities.iter().filter(lacks).map(line).collect()
}

/// The page. Equal input makes an equal page.
pub fn markdown(seen: &[Seen]) -> String {
    let mut page = String::from(
        "<!-- Written by `cargo xtask vm 5.10 6.1 6.12 7.2 --page`. Changes by hand are lost: change \
         xtask/src/vm/page.rs. -->\n\
         # Kernels\n\n\
         What the sensor can do on Debian's cloud kernels, each booted in an emulated machine, as root and with `bpf` among its \
         security modules. Each capability was tried there by `sensor doctor`, which tells the same about your own kernel.\n\n",
    );
    let kernels: Vec<&Seen> = seen.iter().filter(|one| !one.capabilities.is_empty()).collect();
    able(&mut page, &kernels);
    bombs(&mut page, seen);
    found(&mut page, &kernels);
    format!("{}\n", page.trim_end())
}

/// Which kernel can do what. Writing to a String cannot fail.
fn able(page: &mut String, kernels: &[&Seen]) {
    page.push_str("| capability | used for |");
    for seen in kernels {
        let _ = write!(page, " {} |", seen.place);
    }
    let _ = writeln!(page, "\n|---|---|{}", "---|".repeat(kernels.len()));
    let Some(first) = kernels.first() else { return };
    for capability in &first.capabilities {
        let _ = write!(page, "| {} | {} |", cell(&capability.name), cell(&capability.used_for));
        for seen in kernels {
            let of_it = seen.capabilities.iter().find(|one| one.name == capability.name);
            let _ = write!(page, " {} |", of_it.map_or("–", |one| one.state.as_str()));
        }
        page.push('\n');
    }
}

/// What became of each bomb.
fn bombs(page: &mut String, seen: &[Seen]) {
    page.push_str(
        "\n## Bombs\n\n\
         Each bomb was set off in a cgroup that allows 400 tasks, under a sensor that sees nothing else. It is contained before its limit \
         where `refused` is 0: no fork met it. `alive`: processes that stand in the end. `past the mark`: forks that had \
         their child although the tree was marked; those that were paused instead are beside it. An emulated machine's \
         processors run in turns, and make tens of forks a second where real ones make thousands: there an explosion (R3) has 60 s instead \
         of 5 s.\n\n\
         | bomb | kernel | brake | contained by | alive | refused | past the mark | paused |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    let names: BTreeSet<&str> =
        seen.iter().flat_map(|seen| &seen.bombs).map(|bomb| bomb.name.as_str()).collect();
    for (name, seen) in names.iter().flat_map(|name| seen.iter().map(move |seen| (name, seen))) {
        let place = &seen.place;
        let Some(bomb) = seen.bombs.iter().find(|bomb| bomb.name == *name) else {
            let _ = writeln!(
                page,
                "| {name} | {place} | – | **not in the time of the test** | – | – | – | – |"
            );
            continue;
        };
        let Bomb { brake, rule, alive, refused, paused, passed, .. } = bomb;
        let brake = cell(brake.trim_start_matches("forks are paused "));
        let _ = writeln!(
            page,
            "| {name} | {place} | {brake} | {rule} | {alive} | {refused} | {passed} | {paused} |"
        );
    }
}

/// What the doctor said of each kernel.
fn found(page: &mut String, kernels: &[&Seen]) {
    page.push_str("\n## What was found\n\n");
    for seen in kernels {
        let _ = writeln!(page, "**{}**\n", seen.place);
        for one in &seen.capabilities {
            let remedy = if one.remedy.is_empty() {
                String::new()
            } else {
                format!(". What to do: {}", one.remedy)
            };
            let _ = writeln!(page, "- {}: {}{remedy}", one.name, one.why);
        }
        page.push('\n');
    }
}

/// Text within a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_capability_has_a_row_and_each_kernel_a_column() {
        let doctor = |state: &str| {
            format!(
                r#"[{{"name":"a|b","state":"{state}","used_for":"x|y","why":"found","remedy":"do"}}]"#
            )
        };
        let bomb = |alive: u64| Bomb {
            name: "star".into(),
            brake: "forks are paused in x".into(),
            rule: "R3".into(),
            alive,
            refused: 0,
            paused: 1,
            passed: 2,
            lost: 0,
        };
        let seen = |place: &str, capabilities, alive| Seen {
            place: place.to_owned(),
            capabilities,
            bombs: vec![bomb(alive)],
        };
        let page = markdown(&[
            seen("this machine", Vec::new(), 257),
            seen("5.10", capabilities(&doctor("ok")).unwrap(), 258),
            seen("7.2", capabilities(&doctor("degraded")).unwrap(), 259),
        ]);
        assert!(page.contains("| capability | used for | 5.10 | 7.2 |"), "{page}");
        assert!(page.contains("| x\\|y | ok | degraded |"), "{page}");
        assert!(page.contains("**7.2**") && page.contains("found. What to do: do"), "{page}");
        assert!(page.contains("| star | this machine | in x | R3 | 257 | 0 | 2 | 1 |"), "{page}");
        assert!(page.contains("| star | 7.2 | in x | R3 | 259 | 0 | 2 | 1 |"), "{page}");
        assert!(capabilities("sensor: no").is_none());
    }

    #[test]
    fn what_a_kernel_cannot_have_is_not_lacking() {
        let doctor = |name: &str| {
            let json = format!(
                r#"[{{"name":"{name}","state":"degraded","used_for":"x","why":"refused","remedy":""}}]"#
            );
            capabilities(&json).unwrap()
        };
        let killing = doctor("killing a cgroup at once");
        assert!(lacking("5.10", &killing).is_empty());
        assert_eq!(lacking("6.1", &killing), ["killing a cgroup at once: degraded: refused"]);
        assert_eq!(lacking("5.10", &doctor("memory sampling")).len(), 1);
    }
}
