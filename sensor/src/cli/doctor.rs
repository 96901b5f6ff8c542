//! `sensor doctor`: what this kernel and this user can do, and what is degraded. Needs no daemon.

use std::{fmt::Write as _, path::PathBuf};

use clap::Args;

use super::{
    error::CliError,
    out::{self, View},
    style::{Style, Tone},
    table::{Cell, Table},
    text,
};
use crate::{
    config::Config,
    core,
    kernel::{Capability, Working},
};

const EXAMPLES: &str = "\
Examples:
  sudo sensor doctor
  sudo sensor doctor --json | jq '.[] | select(.state != \"ok\")'

On a terminal of less than 150 columns, what a capability is used for is left out.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct DoctorArgs {
    /// A JSON array (docs/schema/capabilities.json).
    #[arg(long)]
    json: bool,
    /// Configuration instead of /etc/sensor/sensor.toml.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

const fn word(state: Working) -> (&'static str, Tone) {
    match state {
        Working::Ok => ("ok", Tone::Good),
        Working::Degraded => ("degraded", Tone::Warning),
        Working::Missing => ("missing", Tone::Bad),
    }
}

pub fn run(args: &DoctorArgs) -> Result<(), CliError> {
    let config = Config::load(args.config.as_deref())?;
    let capabilities = core::doctor(&config);
    if args.json {
        return out::json(&capabilities);
    }
    out::print(&report(&capabilities, &View::current().style))
}

/// Narrower than this, USED FOR leaves no room to read WHY, which says more.
const WITH_USES: usize = 150;

/// A table, and below it what to do.
fn report(capabilities: &[Capability], style: &Style) -> String {
    let uses = style.width.is_none_or(|columns| columns >= WITH_USES);
    let mut table = Table::new(["CAPABILITY", "STATE", "USED FOR", "WHY"])
        .only([true, true, uses, true])
        .wrapped();
    for capability in capabilities {
        let (state, tone) = word(capability.state);
        table.push([
            text::safe(capability.name).into(),
            Cell::toned(state, tone),
            text::safe(capability.used_for).into(),
            text::safe(&capability.why).into(),
        ]);
    }
    let mut report = table.render(0, style);
    let todo = capabilities
        .iter()
        .filter(|one| one.state != Working::Ok && !one.remedy.is_empty())
        .map(|one| (text::safe(one.name), text::safe(one.remedy)));
    for (index, (name, remedy)) in todo.enumerate() {
        if index == 0 {
            let head = style.paint(Tone::Strong, "What to do");
            // Writing to a String cannot fail.
            let _ = writeln!(report, "\n{head}");
        }
        for (line, words) in
            text::wrap(&format!("{name}: {remedy}"), style.text_width() - 4).iter().enumerate()
        {
            report.push_str(if line == 0 { "  - " } else { "    " });
            report.push_str(words);
            report.push('\n');
        }
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capabilities() -> [Capability; 2] {
        [
            Capability {
                name: "tp_btf",
                state: Working::Ok,
                used_for: "lineage",
                why: "loaded".into(),
                remedy: "",
            },
            Capability {
                name: "lsm",
                state: Working::Missing,
                used_for: "the pause",
                why: "EPERM\nhere".into(),
                remedy: "boot with lsm=bpf",
            },
        ]
    }

    #[test]
    fn what_is_missing_comes_with_what_to_do() {
        assert_eq!(
            report(&capabilities(), &Style::PLAIN),
            "CAPABILITY  STATE    USED FOR   WHY\n\
             tp_btf      ok       lineage    loaded\n\
             lsm         missing  the pause  EPERM\\x0ahere\n\
             \n\
             What to do\n  - lsm: boot with lsm=bpf\n",
        );
    }

    #[test]
    fn why_is_told_in_full_however_narrow_the_terminal() {
        let why = "forks are paused at the system call, as the kernel was built without it";
        let [mut capability, _] = capabilities();
        capability.why = why.into();
        for columns in [40, 60, 80, 100, 149, 150, 200] {
            let style = Style { colour: false, width: Some(columns) };
            let report = report(&[capability.clone()], &style);
            assert!(report.lines().all(|line| text::width(line) <= columns), "{report}");
            let words: Vec<&str> = report.split_whitespace().collect();
            assert!(words.join(" ").ends_with(why), "{report}");
            assert_eq!(report.contains("lineage"), columns >= WITH_USES, "{report}");
        }
    }
}
