//! `sensor watch`: records as they come, one a line.

use std::fmt::Write as _;

use clap::Args;
use sensor_common::gate::Rule;
use sensor_proto::{
    json::{self, RecordLine, escape},
    v1::{
        Actor, Killed, Observation, OomKill, Pressure, Record, StreamRecordsRequest,
        observation::Fact, record::Body,
    },
};

use crate::detect::{pressure::projected_s, respawn::ending};

use super::{
    client, describe,
    error::CliError,
    evidence,
    out::{self, View},
    style::Tone,
    text, time,
};

const EXAMPLES: &str = "\
Examples:
  sensor watch                        from now on
  sensor watch --from 0               from the oldest record on
  sensor watch --json --from 4711     go on where another watch ended, without gap or repetition
  sensor watch --json | jq 'select(.kind == \"transition\")'";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct WatchArgs {
    /// One JSON object a line (docs/schema/record.json).
    #[arg(long)]
    json: bool,
    /// First sequence number, included; 0: from the oldest. Without it: only what is new.
    #[arg(long, value_name = "SEQ")]
    from: Option<u64>,
}

pub async fn run(daemon: &client::Address, args: &WatchArgs) -> Result<(), CliError> {
    let request = StreamRecordsRequest {
        from_seq: args.from.unwrap_or(0),
        from_end: args.from.is_none(),
        follow: true,
        ..Default::default()
    };
    let view = View::current();
    follow(daemon, request, |record| {
        if args.json {
            out::json_line(&RecordLine::from(record))
        } else {
            out::print(&format!("{}\n", line(record, &view)))
        }
    })
    .await
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
            Ok(None) => {
                return Err(CliError::StreamEnded { next, why: "the sensor ended it".into() });
            }
            Err(status) if next == 0 => return Err(status.into()),
            Err(status) => {
                return Err(CliError::StreamEnded { next, why: status.message().into() });
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
                "sensor {} on kernel {}, {} processes known, {} of kernel memory{degraded}",
                text::safe(&started.version),
                text::safe(&started.kernel),
                started.baseline_processes,
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
        Some(Fact::Memory(sample)) => format!(
            "memory: {} available, {} hold 64 MiB or more",
            sample
                .host
                .and_then(|host| host.available_bytes)
                .map_or_else(|| "nobody knows what is".into(), text::bytes),
            text::count(sample.trees.len() as u64, "tree", "trees"),
        ),
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

/// How hard memory is to get, in a line.
fn shortage(pressure: &Pressure) -> String {
    let place =
        if pressure.cgroup.is_empty() { "the host".into() } else { text::safe(&pressure.cgroup) };
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
