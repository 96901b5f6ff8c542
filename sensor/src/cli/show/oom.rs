//! What the OOM killer did: whom it took, who asked, what was short, and who had the memory.

use sensor_proto::v1::{Actor, Oom, OomKill, OomScope};

use crate::cli::{
    describe,
    style::{Style, Tone},
    table::{Cell, Table},
    text, time,
};
use crate::detect::oom::held;

/// Victims and holders that are shown; `--json` has all.
const SHOWN: usize = 8;

pub(super) fn section(page: &mut String, oom: &Oom, style: &Style) {
    super::title(page, "What the kernel did", "", style);
    let mut facts = Table::headless();
    let mut fact = |name: &str, value: String| {
        if !value.is_empty() {
            facts.push([Cell::toned(name, Tone::Faint), value.into()]);
        }
    };
    for (at, kill) in oom.victims.iter().take(SHOWN).enumerate() {
        fact(if at == 0 { "killed" } else { "" }, victim(kill));
    }
    if oom.victims.len() > SHOWN {
        fact("", format!("and {} more", oom.victims.len() - SHOWN));
    }
    let first = oom.victims.first();
    let trigger = first.and_then(|kill| kill.trigger.as_ref());
    let itself = first.is_some_and(|kill| {
        kill.victim.as_ref().and_then(|victim| victim.process)
            == trigger.and_then(|trigger| trigger.process)
    });
    fact("asked by", if itself { "itself".into() } else { trigger.map_or_else(String::new, name) });
    fact("short", short(oom));
    if oom.kills > 1 {
        fact(
            "so far",
            format!(
                "{} of {}, one every {} on average",
                text::count(oom.kills, "kill", "kills"),
                text::count(oom.killed, "process", "processes"),
                time::duration(oom.period_ns),
            ),
        );
    }
    page.push_str(&facts.render(2, style));
    holders(page, oom, style);
}

fn name(actor: &Actor) -> String {
    format!("{} of uid {}", describe::actor(actor), actor.uid)
}

fn victim(kill: &OomKill) -> String {
    let who = kill.victim.as_ref().map_or_else(String::new, name);
    match held(kill) {
        0 => who,
        bytes => format!("{who}, held {}, score {:+}", text::bytes(bytes), kill.oom_score_adj),
    }
}

fn short(oom: &Oom) -> String {
    match (oom.scope(), oom.limit_bytes) {
        (OomScope::Cgroup, Some(limit)) => {
            let used = oom.peak_bytes.unwrap_or_default();
            let (used, limit) = (text::bytes(used), text::bytes(limit));
            format!("{used} used of the limit of {limit} of {}", text::safe(&oom.cgroup))
        }
        (OomScope::Cgroup, None) => "a cgroup's memory".into(),
        (OomScope::Host, _) => "the memory of the host".into(),
        (OomScope::Nodes, _) => "the memory of some nodes".into(),
        (OomScope::Unspecified, _) => String::new(),
    }
}

/// Who had the memory, those first that had grown most.
fn holders(page: &mut String, oom: &Oom, style: &Style) {
    if oom.holders.is_empty() {
        return;
    }
    super::title(page, "Who had the memory", "trees, by what they had grown before", style);
    let mut table = Table::headless();
    for holder in oom.holders.iter().take(SHOWN) {
        let grown = match (holder.grown_bytes, holder.grown_ns) {
            (0, _) => String::new(),
            (bytes, ns) => format!("+{} in {}", text::bytes(bytes), time::duration(ns)),
        };
        let processes = match holder.processes {
            0 | 1 => String::new(),
            count => format!("{count} processes"),
        };
        table.push([
            holder.root.unwrap_or_default().pid.to_string().into(),
            text::safe(&holder.comm).into(),
            text::bytes(holder.bytes).into(),
            grown.into(),
            Cell::toned(processes, Tone::Faint),
        ]);
    }
    page.push_str(&table.render(2, style));
}
