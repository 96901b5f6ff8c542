//! `sensor watch`: records as they come, one a line.

use std::{collections::HashSet, fmt::Write as _};

use clap::{Args, builder::PossibleValuesParser};
use sensor_common::gate::Rule;
use sensor_proto::{
    json::{self, RecordLine, escape},
    v1::{
        Actor, Killed, MemorySample, Observation, OomKill, Pressure, Record, Severity,
        StreamRecordsRequest, observation::Fact, record::Body,
    },
};

use crate::{
    detect::{pressure::projected_s, respawn::ending},
    record::KINDS,
};

use super::{
    client, describe,
    error::{self, CliError},
    evidence,
    out::{self, View},
    style::Tone,
    text, time,
};

const EXAMPLES: &str = "\
Examples:
  sensor watch                        from now on
  sensor watch --from 0               from the oldest record on
  sensor watch --incident 4k2m        what belongs to the incident whose id begins with 4k2m
  sensor watch --kind transition --kind action
                                      what becomes of incidents, and what is done about them
  sensor watch --severity critical    only of incidents that are critical by now
  sensor watch --json --from 4711     go on where another watch ended, without gap or repetition
  sensor watch --json | jq 'select(.kind == \"transition\")'

Samples of memory and looks at its pressure come by the second: a text has them with --all only,
--json has them always.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct WatchArgs {
    /// One JSON object a line (docs/schema/record.json).
    #[arg(long)]
    json: bool,
    /// First sequence number, included; 0: from the oldest. Without it: only what is new.
    #[arg(long, value_name = "SEQ")]
    from: Option<u64>,
    /// Only records of this kind; may be given several times.
    #[arg(long, value_name = "KIND", value_parser = PossibleValuesParser::new(KINDS))]
    kind: Vec<String>,
    /// Only records of this incident: its id, or enough of its beginning to be unique.
    #[arg(long, value_name = "ID")]
    incident: Option<String>,
    /// Only records of incidents that are now so severe, or more: info, warning or critical.
    #[arg(long, value_name = "S", value_parser = describe::parse_severity)]
    severity: Option<Severity>,
    /// Also what is observed by the second: samples of memory, and looks at its pressure.
    #[arg(long)]
    all: bool,
}

pub async fn run(daemon: &client::Address, args: &WatchArgs) -> Result<(), CliError> {
    let incident = match &args.incident {
        Some(id) => client::incident(&mut client::connect(daemon).await?, id).await?.id,
        None => String::new(),
    };
    let request = StreamRecordsRequest {
        from_seq: args.from.unwrap_or(0),
        from_end: args.from.is_none(),
        follow: true,
        incident,
        kinds: args.kind.clone(),
        severity: args.severity.unwrap_or_default().into(),
        ..Default::default()
    };
    let view = View::current();
    follow(daemon, request, |record| {
        if args.json {
            out::json_line(&RecordLine::from(record))
        } else if args.all || !comes_by_the_second(record) {
            out::print(&format!("{}\n", line(record, &view)))
        } else {
            Ok(())
        }
    })
    .await
}

/// Nobody reads the few lines that matter between hundreds of these. Where one leads to something, a
/// transition says so.
fn comes_by_the_second(record: &Record) -> bool {
    let Some(Body::Observation(observation)) = &record.body else { return false };
    matches!(observation.fact, Some(Fact::Memory(_) | Fact::Pressure(_)))
}

/// Hands on each record; ends with an error that says where to go on.
pub async fn follow(
    daemon: &client::Address,
    request: StreamRecordsRequest,
    mut each: impl FnMut(&Record) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let mut next = request.from_seq;
    let mut client = client::connect(daemon).await?;
    let mut stream = client.stream_records(request).await?.into_inner();
    loop {
        match stream.message().await {
            Ok(Some(answer)) => {
                if let Some(record) = answer.record {
                    each(&record)?;
                    // What was made for this reader only has no place in the log.
                    if record.seq > 0 {
                        next = record.seq.saturating_add(1);
                    }
                }
            }
            // Nothing came yet: there is no place to go on from.
            Ok(None) if next == 0 => {
                return Err(CliError::BrokenOff("it ended the stream".into()));
            }
            Ok(None) => {
                return Err(CliError::StreamEnded { next, why: "the sensor ended it".into() });
            }
            Err(status) if next == 0 => return Err(status.into()),
            Err(status) => {
                let why = if error::is_lost(&status) {
                    "the sensor answers no more (was it stopped?)"
                } else {
                    status.message()
                };
                return Err(CliError::StreamEnded { next, why: why.into() });
            }
        }
    }
}

/// A record as one line.
pub fn line(record: &Record, view: &View) -> String {
    let style = &view.style;
    let (text, tone) = body(record);
    let head = format!("{} {:>7}", time::of_day(record.at, &view.zone), record.seq);
    let incident = text::safe(&record.incident);
    let room = style.width.map_or(usize::MAX, |columns| columns.saturating_sub(50).max(40));
    format!(
        "{} {incident:<10}  {:<13}  {}",
        style.paint(Tone::Faint, &head),
        record.kind(),
        style.paint(tone, &text::fit(&text, room)),
    )
}

/// What a record says, in one line.
fn body(record: &Record) -> (String, Tone) {
    let Some(body) = &record.body else {
        return ("of a kind that this version does not know".into(), Tone::Faint);
    };
    match body {
        Body::Started(started) => {
            let degraded = match started.degradations.len() {
                0 => String::new(),
                n => format!(
                    ", {} (see `sensor doctor`)",
                    text::count(n as u64, "degradation", "degradations")
                ),
            };
            let line = format!(
                "sensor {} on kernel {}, {} known, {} of kernel memory{degraded}",
                text::safe(&started.version),
                text::safe(&started.kernel),
                text::count(started.baseline_processes, "process", "processes"),
                text::bytes(started.map_bytes),
            );
            (line, Tone::Plain)
        }
        Body::Stopped(stopped) => (text::safe(&stopped.why), Tone::Plain),
        Body::Observation(observation) => (fact(observation), Tone::Faint),
        Body::Transition(transition) => {
            let to = json::state::word(transition.to);
            let way = if transition.from == 0 || transition.from == transition.to {
                to
            } else {
                format!("{} → {to}", json::state::word(transition.from))
            };
            let summary = transition
                .incident
                .as_ref()
                .map_or(String::new(), |incident| format!(" — {}", text::safe(&incident.summary)));
            let line = format!("{way}: {}{summary}", text::safe(&transition.why));
            (line, describe::state_tone(transition.to()))
        }
        Body::Evidence(item) => (evidence::brief(item), Tone::Plain),
        Body::Diagnosis(diagnosis) => {
            let (cause, by) = (text::safe(&diagnosis.cause), text::safe(&diagnosis.by));
            (format!("{by}: {cause}"), Tone::Strong)
        }
        Body::Action(action) => {
            let line = format!(
                "{} by {}: {} ({})",
                json::action_kind::word(action.kind),
                text::safe(&action.by),
                text::safe(&action.result),
                text::safe(&action.why),
            );
            (line, if action.ok { Tone::Warning } else { Tone::Bad })
        }
        Body::Investigation(investigation) => {
            let tail = if investigation.error.is_empty() {
                &investigation.findings
            } else {
                &investigation.error
            };
            let line = format!(
                "{} by {}: {} {}",
                text::safe(&investigation.id),
                text::safe(&investigation.agent),
                json::investigation_state::word(investigation.state),
                text::safe(tail.lines().next().unwrap_or_default()),
            );
            (line.trim_end().to_owned(), Tone::Plain)
        }
        Body::Transcript(line) => {
            let (id, stream) = (text::safe(&line.investigation), text::safe(&line.stream));
            (format!("{id} {stream}: {}", escape(&line.text)), Tone::Plain)
        }
        Body::Lost(lost) => {
            (format!("{} lost: {}", lost.count, text::safe(&lost.reason)), Tone::Warning)
        }
        Body::Degraded(degraded) if degraded.recovered => (
            format!("{} works again: {}", text::safe(&degraded.part), text::safe(&degraded.why)),
            Tone::Good,
        ),
        Body::Degraded(degraded) => (
            format!("{}: {}", text::safe(&degraded.part), text::safe(&degraded.why)),
            Tone::Warning,
        ),
    }
}

fn oom_kill(kill: &OomKill) -> String {
    let who = |actor: &Option<Actor>| actor.as_ref().map_or_else(String::new, describe::actor);
    let held = [kill.anon_bytes, kill.shmem_bytes, kill.swap_bytes];
    let held = match held.into_iter().flatten().sum::<u64>() {
        0 => String::new(),
        bytes => format!(", which held {}", text::bytes(bytes)),
    };
    let limit = match (kill.limit_bytes, kill.limit_used_bytes) {
        (Some(limit), Some(used)) => format!(
            "; the nearest limit is {} of {}, of which {} is used",
            text::bytes(limit),
            text::safe(&kill.limit_cgroup),
            text::bytes(used),
        ),
        _ => String::new(),
    };
    if kill.dying {
        return format!("OOM: {}{held} was ending already", who(&kill.victim));
    }
    format!(
        "OOM: the kernel kills {}{held}, as {} asks{limit}",
        who(&kill.victim),
        who(&kill.trigger)
    )
}

fn end(killed: &Killed) -> String {
    let who = killed.process.as_ref().map_or_else(String::new, describe::actor);
    if let Some(victim) = &killed.victim {
        let victim = describe::actor(victim);
        return format!(
            "SIGKILL ended {who}, by the kernel: it shared the memory of {victim}, which the OOM killer took"
        );
    }
    let by = match (&killed.sender, killed.by_kernel) {
        (Some(sender), false) => format!("by {} of uid {}", describe::actor(sender), sender.uid),
        (Some(sender), true) => format!("by the kernel, on behalf of {}", describe::actor(sender)),
        (None, _) => "by a sender that was not seen".into(),
    };
    format!("SIGKILL ended {who}, {by}; this was no OOM kill")
}

fn fact(observation: &Observation) -> String {
    match &observation.fact {
        None => "of a kind that this version does not know".into(),
        Some(Fact::Alarm(alarm)) if alarm.rule == Rule::R6.name() => format!(
            "{} {}: pid {} restarts what fails at once: {} of {} within {}, the last with {}",
            text::safe(&alarm.rule),
            text::safe(&alarm.level),
            alarm.top.unwrap_or_default().pid,
            alarm.repetitions,
            text::count(u64::from(alarm.exits), "run", "runs"),
            time::duration(alarm.span_ns),
            ending(alarm.code),
        ),
        Some(Fact::Alarm(alarm)) => format!(
            "{} {}: pid {} is repetition {} within {}, {} live below pid {}",
            text::safe(&alarm.rule),
            text::safe(&alarm.level),
            alarm.process.unwrap_or_default().pid,
            alarm.repetitions,
            time::duration(alarm.span_ns),
            text::count(alarm.live, "process", "processes"),
            alarm.top.unwrap_or_default().pid,
        ),
        Some(Fact::Memory(sample)) => held(sample),
        Some(Fact::OomKill(kill)) => oom_kill(kill),
        Some(Fact::Killed(killed)) => end(killed),
        Some(Fact::Pressure(pressure)) => shortage(pressure),
        Some(Fact::Usage(usage)) => {
            let parts = [
                ("memory", usage.memory_percent),
                ("disk", usage.disk_percent),
                ("CPU", usage.cpu_percent),
            ];
            let parts = parts
                .iter()
                .filter_map(|(name, percent)| Some(format!("{name} {} %", (*percent)?)));
            format!("used: {}", parts.collect::<Vec<_>>().join(", "))
        }
        Some(Fact::Exec(exec)) => format!(
            "pid {} of {}: {}",
            exec.process.unwrap_or_default().pid,
            exec.parent.unwrap_or_default().pid,
            text::command(&exec.argv),
        ),
    }
}

/// A tree that holds less says little, bytes.
const MUCH: u64 = 64 << 20;

/// Who holds much of memory. A sample also has what stands above a large tree, and trees that are large in
/// other ways.
fn held(sample: &MemorySample) -> String {
    let available = sample.host.and_then(|host| host.available_bytes);
    let available = available.map_or_else(|| "nobody knows what is".into(), text::bytes);
    let large: Vec<_> = sample.trees.iter().filter(|tree| tree.bytes >= MUCH).collect();
    let roots: HashSet<_> = large.iter().filter_map(|tree| tree.root).collect();
    let is_part = |parent| roots.contains(&parent);
    let parts = large.iter().filter(|tree| tree.parent.is_some_and(is_part)).count();
    let whole = text::count((large.len() - parts) as u64, "tree holds", "trees hold");
    let within = match parts {
        0 => String::new(),
        parts => format!(", and {parts} within them"),
    };
    format!("memory: {available} available, {whole} 64 MiB or more{within}")
}

/// How hard memory is to get, in a line.
fn shortage(pressure: &Pressure) -> String {
    let place =
        if pressure.cgroup.is_empty() { "the host".into() } else { text::safe(&pressure.cgroup) };
    if pressure.gone {
        return format!("{place} is gone");
    }
    let mut line = match (pressure.available_bytes, pressure.total_bytes) {
        (Some(available), Some(total)) => {
            format!("{place}: {} of {} available", text::bytes(available), text::bytes(total))
        }
        _ => place,
    };
    if let Some(seconds) = projected_s(pressure) {
        let _ = write!(line, ", none in {seconds:.0} s");
    }
    let waits = [("some task waits", pressure.some_percent), ("all wait", pressure.full_percent)];
    for (who, percent) in waits {
        if let Some(percent) = percent.filter(|percent| *percent >= 0.5) {
            let _ = write!(line, ", {who} {percent:.0} % of the time");
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use sensor_proto::v1::{Alarm, HostMemory, ProcessKey, TreeMemory};

    use super::*;

    fn observed(fact: Fact) -> Record {
        let body = Body::Observation(Observation { fact: Some(fact) });
        Record { body: Some(body), ..Record::default() }
    }

    #[test]
    fn what_comes_by_the_second_is_known() {
        assert!(comes_by_the_second(&observed(Fact::Memory(MemorySample::default()))));
        assert!(comes_by_the_second(&observed(Fact::Pressure(Pressure::default()))));
        for told in [Fact::Alarm(Alarm::default()), Fact::Killed(Killed::default())] {
            assert!(!comes_by_the_second(&observed(told)));
        }
        assert!(!comes_by_the_second(&Record::default()));
    }

    #[test]
    fn a_tree_within_a_tree_is_counted_apart() {
        let key = |pid| Some(ProcessKey { pid, start_ns: 1 });
        let tree = |pid, parent, bytes: u64| TreeMemory {
            root: key(pid),
            parent: key(parent),
            bytes: bytes << 20,
            ..TreeMemory::default()
        };
        let host = HostMemory { available_bytes: Some(22 << 30), ..HostMemory::default() };
        let sample = |trees| MemorySample { host: Some(host), trees, ..MemorySample::default() };
        // 7 holds what 8 and 9 below it hold; 10 has many processes, and 20 is all by itself.
        let trees =
            vec![tree(7, 1, 900), tree(8, 7, 500), tree(9, 8, 64), tree(10, 7, 3), tree(20, 1, 64)];
        assert_eq!(
            held(&sample(trees.clone())),
            "memory: 22.0 GiB available, 2 trees hold 64 MiB or more, and 2 within them"
        );
        assert_eq!(
            held(&sample(trees[4..].to_vec())),
            "memory: 22.0 GiB available, 1 tree holds 64 MiB or more"
        );
        assert_eq!(
            held(&MemorySample::default()),
            "memory: nobody knows what is available, 0 trees hold 64 MiB or more"
        );
    }
}
