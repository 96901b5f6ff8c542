//! `sensor replay`: a trace through the gates and the detectors, or a log through those of memory, pressure, OOM kills and
//! thresholds. Needs neither root nor a daemon.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use clap::Args;
use sensor_common::gate::Rule;

use super::{
    error::CliError,
    out::{self, View},
    show,
    style::{Style, Tone},
    table::{Cell, Table},
    text, time,
};
use crate::{
    cgroup::Hierarchies,
    config::Config,
    detect::{memory::measures, usage},
    trace::{
        observed,
        replay::{self, Agreement, Found, Report},
    },
};

const EXAMPLES: &str = "\
Examples:
  sensor replay build.trace
  sensor replay build.trace --config ./other-thresholds.toml
  sensor replay build.trace --cgroup /user.slice
  sensor replay build.trace --json | jq '.findings[].culprit.argv'
  sudo sensor replay /var/lib/sensor
      growth, pressure, OOM kills and thresholds of this host, as far back as its log goes
  sudo sensor replay /var/lib/sensor --keep week.observations
      and what was observed in a file of its own
  sensor replay week.observations --config ./other-thresholds.toml

Of a log all that was observed is replayed, whatever scope.cgroup says. A file that is cut off
or damaged is replayed as far as it can be read; an error says where that ends, and the exit
code is 1.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ReplayArgs {
    /// What `sensor record --lifecycle` wrote; or a state directory, whose log is only read; or observations
    /// that were kept.
    file: PathBuf,
    /// One JSON object (docs/schema/replay.json; of a log docs/schema/replay-log.json).
    #[arg(long)]
    json: bool,
    /// Of a log: write its observations, and nothing else of it, into this new file.
    #[arg(long, value_name = "FILE", conflicts_with = "cgroup")]
    keep: Option<PathBuf>,
    /// Of a trace: only what ran in this cgroup and below, a v2 path as in /proc/PID/cgroup, instead of in those
    /// of the configuration's scope.cgroup.
    #[arg(long, value_name = "PATH")]
    cgroup: Option<String>,
    /// Configuration instead of /etc/sensor/sensor.toml: other thresholds, other policy.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub fn run(args: &ReplayArgs) -> Result<(), CliError> {
    let mut config = Config::load(args.config.as_deref())?;
    if observed::is_log(&args.file) {
        return run_log(args, &config);
    }
    if args.keep.is_some() {
        let why = "--keep is for logs: a trace is a file of its own already".to_owned();
        return Err(CliError::Usage(why));
    }
    if let Some(cgroup) = &args.cgroup {
        config.scope.cgroup = vec![cgroup.clone()];
    }
    config.scope.cgroup = v2_paths(config.scope.cgroup);
    let report = replay::replay(&args.file, &config).map_err(CliError::part)?;
    if args.json {
        out::json(&report)?;
    } else {
        out::print(&page(&report, &View::current()))?;
    }
    show::whole(&args.file, report.trace.damage)
}

fn run_log(args: &ReplayArgs, config: &Config) -> Result<(), CliError> {
    if args.cgroup.is_some() {
        let why = "--cgroup is for traces: samples of a log tell of whole trees, wherever they run"
            .to_owned();
        return Err(CliError::Usage(why));
    }
    let report =
        observed::replay(&args.file, config, args.keep.as_deref()).map_err(CliError::part)?;
    if args.json {
        out::json(&report)?;
    } else {
        out::print(&log_page(&report, &View::current()))?;
    }
    show::whole(&args.file, report.log.damage)
}

/// A trace knows cgroups by their paths; whoever names one may name its directory as well, as in a configuration.
fn v2_paths(scope: Vec<String>) -> Vec<String> {
    let hierarchies = Hierarchies::discover().ok();
    let path = |dir: &str| Some(hierarchies.as_ref()?.path(Path::new(dir))?.display().to_string());
    scope.into_iter().map(|one| path(&one).unwrap_or(one)).collect()
}

/// Narrower than this, UNTIL does not fit beside the others; `--json` has it as well.
const WITH_UNTIL: usize = 96;

pub(crate) fn log_page(report: &observed::Report, view: &View) -> String {
    let style = &view.style;
    let log = &report.log;
    let mut page = String::new();
    // Writing to a String cannot fail, here and below.
    let _ = writeln!(
        page,
        "{}: {}, from {} to {}",
        style.paint(Tone::Strong, "log"),
        text::safe(&log.host),
        time::moment(log.from, &view.zone),
        time::moment(log.to, &view.zone),
    );
    let _ = writeln!(
        page,
        "  {} of memory, {} at pressure, {} at what has a threshold, {} of the OOM killer",
        text::count(log.samples, "sample", "samples"),
        text::count(log.pressures, "look", "looks"),
        text::count(log.usages, "look", "looks"),
        text::count(log.kills, "victim", "victims"),
    );
    if let Some(damage) = &log.damage {
        let said = text::safe(&format!("it is {damage}"));
        let _ = writeln!(page, "  {}", style.paint(Tone::Warning, &said));
    }
    page.push('\n');
    if report.findings.is_empty() {
        page.push_str("no findings\n");
        return page;
    }
    let until = style.width.is_none_or(|columns| columns >= WITH_UNTIL);
    let mut table =
        Table::new(["AT", "RULE", "SEVERITY", "GROWN", "OVER", "FULL IN", "UNTIL", "CULPRIT"])
            .only([true, true, true, true, true, true, until, true])
            .below();
    for found in &report.findings {
        let value =
            |name: &str| found.measures.iter().find(|it| it.name == name).map(|it| it.value);
        let bytes =
            value(measures::GROWN).or(value(measures::HOLDS)).map(|it| text::bytes(it as u64));
        let lasted = |s: f64| time::duration((s * 1e9) as u64);
        let full = match (value(measures::SOONEST), value(measures::LATEST)) {
            (Some(soonest), Some(latest)) => format!("{} to {}", lasted(soonest), lasted(latest)),
            _ => String::new(),
        };
        let until = found.over.as_ref().map(|over| time::moment(over.at, &view.zone));
        table.push([
            time::moment(found.at, &view.zone).into(),
            found.rule.into(),
            found.severity.clone().into(),
            bytes.unwrap_or_default().into(),
            value(measures::OVER).map(lasted).unwrap_or_default().into(),
            full.into(),
            until.unwrap_or_default().into(),
            Cell::from(whose(found)),
        ]);
    }
    page.push_str(&table.render(0, style));
    let _ =
        writeln!(page, "\n{}", text::count(report.findings.len() as u64, "finding", "findings"));
    page
}

/// `node (4711)`, `7 × claude (4711, …)`, or the host.
fn whose(found: &observed::Found) -> String {
    match &found.culprit {
        None if found.rule == usage::RULE => {
            let crossed = found.measures.first().map(usage::crossed).unwrap_or_default();
            format!("the host: {}", text::safe(&crossed))
        }
        None if found.cgroup.as_deref() == Some("") => "the host: it is short of memory".to_owned(),
        None if found.cgroup.is_some() => {
            let cgroup = found.cgroup.as_deref().unwrap_or_default();
            format!("{}: it is short of memory", text::safe(cgroup))
        }
        None => "the host: it is in no process".to_owned(),
        Some(one) if found.members.is_empty() => format!("{} ({})", text::safe(&one.comm), one.pid),
        Some(one) => {
            format!("{} × {} ({}, …)", found.members.len(), text::safe(&one.comm), one.pid)
        }
    }
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
    if !report.scope.is_empty() {
        let scope = text::safe(&report.scope.join(", "));
        let _ = writeln!(page, "  only what ran in {scope} and below");
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
    if let Some(damage) = &trace.damage {
        let said = text::safe(&format!("it is {damage}"));
        let _ = writeln!(page, "  {}", style.paint(Tone::Warning, &said));
    }
    page.push_str(&agreement(&report.agreement, style));
    page.push('\n');
    if report.findings.is_empty() {
        page.push_str("no findings\n");
        return page;
    }
    let mut table = Table::new(["AT", "KIND", "RULE", "WOULD", "CULPRIT", "COMMAND"]).below();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Measure;

    fn found(rule: &'static str, measures: Vec<Measure>) -> observed::Found {
        observed::Found {
            kind: "disk_pressure".into(),
            rule,
            severity: "warning".into(),
            confidence: 0.5,
            at: None,
            at_ns: 0,
            cgroup: Some(String::new()),
            culprit: None,
            members: Vec::new(),
            measures,
            over: None,
            whose: None,
        }
    }

    #[test]
    fn of_a_log_each_kind_is_counted_and_named() {
        let measure = |name: &str, value: f64, threshold: Option<f64>| Measure {
            name: name.into(),
            value,
            threshold,
            unit: "%".into(),
        };
        let disk = vec![measure("disk", 95.0, Some(90.0)), measure("cpu", 5.0, None)];
        let report = observed::Report {
            log: observed::Summary {
                host: "box".into(),
                samples: 5,
                pressures: 4,
                kills: 1,
                usages: 3,
                ..observed::Summary::default()
            },
            findings: vec![found(usage::RULE, disk), found("oom_kill", Vec::new())],
        };
        let page = log_page(&report, &View::plain(None));
        let counted = "  5 samples of memory, 4 looks at pressure, 3 looks at what has a threshold, \
                       1 victim of the OOM killer\n";
        assert!(page.contains(counted), "{page}");
        let disk = "the host: the disk is used to 95 %, above the threshold of 90 %";
        assert!(page.contains(disk), "{page}");
        assert_eq!(page.matches("the host: it is short of memory").count(), 1, "{page}");
    }
}
