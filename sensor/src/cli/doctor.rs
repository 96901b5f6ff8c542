//! `sensor doctor`: what this kernel and this user can do, and what is degraded. Needs no daemon.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::{
    Parts,
    error::CliError,
    out::{self, View},
    style::{Style, Tone},
    table::{Cell, Table},
    text,
};
use crate::config::Config;

const EXAMPLES: &str = "\
Examples:
  sudo sensor doctor
  sudo sensor doctor --json | jq '.[] | select(.state != \"ok\")'";

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

/// One thing that the sensor makes use of, tried here and now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Capability {
    /// Short, e.g. `tp_btf/sched_process_fork`.
    pub name: String,
    pub state: CapabilityState,
    /// What the sensor needs it for.
    pub used_for: String,
    /// What was tried and what came of it.
    pub why: String,
    /// What to do about it; empty where nothing needs doing, or nothing can be done.
    pub remedy: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CapabilityState {
    Ok,
    /// There, but less than it should be; or something else stands in for it.
    Degraded,
    Missing,
}

impl CapabilityState {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Missing => "missing",
        }
    }

    const fn tone(self) -> Tone {
        match self {
            Self::Ok => Tone::Good,
            Self::Degraded => Tone::Warning,
            Self::Missing => Tone::Bad,
        }
    }
}

pub fn run(args: &DoctorArgs, parts: &Parts) -> Result<(), CliError> {
    let config = Config::load(args.config.as_deref())?;
    let capabilities = (parts.doctor)(&config);
    if args.json {
        return out::json(&capabilities);
    }
    out::print(&report(&capabilities, &View::current().style))
}

/// A table, and below it what to do.
pub fn report(capabilities: &[Capability], style: &Style) -> String {
    let mut table = Table::new(["CAPABILITY", "STATE", "USED FOR", "WHY"]);
    for capability in capabilities {
        table.push([
            text::safe(&capability.name).into(),
            Cell::toned(capability.state.word(), capability.state.tone()),
            text::safe(&capability.used_for).into(),
            text::safe(&capability.why).into(),
        ]);
    }
    let mut report = table.render(0, style);
    let todo = capabilities
        .iter()
        .filter(|one| one.state != CapabilityState::Ok && !one.remedy.is_empty())
        .map(|one| (text::safe(&one.name), text::safe(&one.remedy)));
    for (index, (name, remedy)) in todo.enumerate() {
        if index == 0 {
            report.push_str(&format!("\n{}\n", style.paint(Tone::Strong, "What to do")));
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

    #[test]
    fn what_is_missing_comes_with_what_to_do() {
        let capabilities = [
            Capability {
                name: "tp_btf".into(),
                state: CapabilityState::Ok,
                used_for: "lineage".into(),
                why: "loaded".into(),
                remedy: String::new(),
            },
            Capability {
                name: "lsm".into(),
                state: CapabilityState::Missing,
                used_for: "the pause".into(),
                why: "EPERM\nhere".into(),
                remedy: "boot with lsm=bpf".into(),
            },
        ];
        assert_eq!(
            report(&capabilities, &Style::PLAIN),
            "CAPABILITY  STATE    USED FOR   WHY\n\
             tp_btf      ok       lineage    loaded\n\
             lsm         missing  the pause  EPERM\\x0ahere\n\
             \n\
             What to do\n  - lsm: boot with lsm=bpf\n",
        );
    }
}
