//! `sensor replay`: a trace through the gates and the detectors. Needs neither root nor a daemon.

use std::{fmt::Write as _, path::PathBuf};

use clap::Args;
use sensor_common::gate::Rule;

use super::{
    error::CliError,
    out::{self, View},
    style::{Style, Tone},
    table::{Cell, Table},
    text, time,
};
use crate::{
    config::Config,
    trace::replay::{self, Agreement, Found, Report},
};

const EXAMPLES: &str = "\
Examples:
  sensor replay build.trace
  sensor replay build.trace --config ./other-thresholds.toml
  sensor replay build.trace --cgroup /user.slice
  sensor replay build.trace --json | jq '.findings[].culprit.argv'";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ReplayArgs {
    /// What `sensor record --lifecycle` wrote.
    file: PathBuf,
    /// One JSON object (docs/schema/replay.json).
    #[arg(long)]
    json: bool,
    /// Only what ran in this cgroup and below: a v2 path as in /proc/PID/cgroup.
    #[arg(long, value_name = "PATH")]
    cgroup: Option<PathBuf>,
    /// Configuration instead of /etc/sensor/sensor.toml: other thresholds, other policy.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub fn run(args: &ReplayArgs) -> Result<(), CliError> {
    let config = Config::load(args.config.as_deref())?;
    let report =
        replay::replay(&args.file, &config, args.cgroup.as_deref()).map_err(CliError::part)?;
    if args.json {
        return out::json(&report);
    }
    out::print(&page(&report, &View::current()))
}

pub(crate) fn page(report: &Report, view: &View) -> String {
    let style = &view.style;
    let trace = &report.trace;
    let mut page = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        page,
        "{}: {}, Linux {}, from {}, {}",
        style.paint(Tone::Strong, "trace"),
        text::safe(&trace.host),
        text::safe(&trace.kernel),
        time::moment(trace.started_at, &view.zone),
        time::duration((trace.seconds * 1e9) as u64),
    );
    let _ = writeln!(
        page,
        "  {}, {}, {}; at most {} alive at once",
        text::count(trace.forks, "fork", "forks"),
        text::count(trace.execs, "exec", "execs"),
        text::count(trace.exits, "exit", "exits"),
        trace.peak_live,
    );
    if let Some(scope) = &report.scope {
        let _ = writeln!(page, "  only what ran in {} and below", text::safe(scope));
    }
    if trace.lost > 0 {
        let reasons: Vec<String> = trace
            .losses
            .iter()
            .map(|(reason, count)| format!("{count} {}", text::safe(reason)))
            .collect();
        let lost = format!("the kernel side lost something: {}", reasons.join(", "));
        let _ = writeln!(page, "  {}", style.paint(Tone::Warning, &lost));
    }
    if !trace.complete {
        let cut = "it was cut off: the recorder did not end in good order";
        let _ = writeln!(page, "  {}", style.paint(Tone::Warning, cut));
    }
    page.push_str(&agreement(&report.agreement, style));
    page.push('\n');
    if report.findings.is_empty() {
        page.push_str("no findings\n");
        return page;
    }
    let mut table = Table::new(["AT", "KIND", "RULE", "WOULD", "CULPRIT", "COMMAND"]);
    for (first, contained) in by_culprit(&report.findings) {
        let would = match contained {
            Some(found) if found.at_ns == first.at_ns => Cell::toned("contain", Tone::Bad),
            Some(found) => {
                let later = time::duration(found.at_ns.saturating_sub(first.at_ns));
                Cell::toned(format!("contain {later} later"), Tone::Bad)
            }
            None if first.rule == WATCHED => Cell::toned("watch", Tone::Plain),
            None => Cell::toned("tell", Tone::Plain),
        };
        table.push([
            format!("+{:.3} s", first.after_s).into(),
            text::safe(&first.kind).into(),
            contained.unwrap_or(first).rule.into(),
            would,
            first.culprit.pid.to_string().into(),
            command(first).into(),
        ]);
    }
    page.push_str(&table.render(0, style));
    let _ = writeln!(
        page,
        "\n{}, {}",
        text::count(report.incidents as u64, "incident", "incidents"),
        text::count(report.containments as u64, "containment", "containments"),
    );
    if report.watched > 0 {
        let _ = writeln!(
            page,
            "{} would be watched: an incident if it goes on growing, contained if its limits are near \
             and nothing in it listens; a trace knows neither sockets nor limits",
            text::count(report.watched as u64, "explosion", "explosions"),
        );
    }
    page
}

/// The culprit's command, and what it restarts.
fn command(found: &Found) -> String {
    let command = text::command(&found.culprit.argv);
    if found.restarts.is_empty() {
        return command;
    }
    format!("{command} restarts {}", text::command(&found.restarts))
}

/// The rule whose findings a daemon watches before it says anything.
const WATCHED: &str = Rule::R3.name();

/// The first finding about each culprit, and the first that has it contained.
fn by_culprit(findings: &[Found]) -> Vec<(&Found, Option<&Found>)> {
    let mut told: Vec<(&Found, Option<&Found>)> = Vec::new();
    for found in findings {
        let key = |found: &Found| (found.culprit.pid, found.culprit.start_ns);
        match told.iter_mut().find(|(first, _)| key(first) == key(found)) {
            Some((_, contained)) if found.contain => *contained = contained.or(Some(found)),
            // Of what is only watched the next finding may say more.
            Some((first, _)) if first.rule == WATCHED => *first = found,
            Some(_) => {}
            None => told.push((found, found.contain.then_some(found))),
        }
    }
    told
}

fn agreement(agreement: &Agreement, style: &Style) -> String {
    let Agreement {
        comparable,
        agree,
        differ,
        in_flight,
        storms_agree,
        storms_differ,
        differences,
    } = agreement;
    if !comparable {
        return "  other thresholds than when it was recorded: the kernel's verdicts are not compared\n"
            .to_owned();
    }
    let storms = match storms_agree + storms_differ {
        0 => String::new(),
        all => format!(", and on {storms_agree} of {}", text::count(all, "alarm", "alarms")),
    };
    if *differ == 0 && *storms_differ == 0 {
        return format!(
            "  kernel and replay agree on {} ({in_flight} with something under way on another CPU){storms}\n",
            text::count(*agree, "verdict", "verdicts"),
        );
    }
    let all = agree + differ;
    let head = format!("kernel and replay agree on {agree} of {all} verdicts{storms}");
    let mut lines = format!("  {}\n", style.paint(Tone::Bad, &head));
    for difference in differences {
        lines.push_str("    ");
        lines.push_str(&text::safe(difference));
        lines.push('\n');
    }
    lines
}
