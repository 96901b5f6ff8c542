//! The plug is pulled when the kernel has just ended a leak: what the sensor announced of the kill has to be in the
//! log at the next start, though nobody had the time to write anything down.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::{Guest, PROCESSORS, disk};
use crate::{test::Built, vm::Plan};

/// 800 MB at 5 MB a second, on a machine that is several times slower than others.
const KILLED_WITHIN: Duration = Duration::from_mins(10);

/// What leaks, as the kernel names it.
const LEAK: &str = "python3";

/// What is short in a guest and how fast it leaks, MB a second, for its init; and what an incident has to say of it.
struct Turn {
    what: &'static str,
    pace: u32,
    /// That it is the host says the kernel's own report, which comes a moment later.
    scope: &'static str,
    limit: Option<u64>,
}

/// What is said of a scope that is not known yet.
const NOT_YET: &str = "unspecified";

const fn host(pace: u32) -> Turn {
    Turn { what: "host", pace, scope: NOT_YET, limit: None }
}

const TURNS: [Turn; 4] = [
    host(50),
    Turn { what: "limit", pace: 20, scope: "cgroup", limit: Some(256 << 20) },
    host(200),
    host(5),
];

pub fn run(kernel: &str, times: u32) -> Result<()> {
    let (built, disk) = (Built::all()?, disk()?);
    let mut turns: Vec<(&Turn, Command)> = Vec::new();
    for turn in &TURNS {
        let more = format!("sensor.cut={} sensor.pace={}", turn.what, turn.pace);
        let plan = Plan { processors: PROCESSORS, ..Plan::of(kernel, &built) };
        turns.push((turn, plan.machine(&more)?));
    }
    let mut announced: Vec<Kill> = Vec::new();
    for (cut, (turn, machine)) in (1..=times).zip(turns.iter().cycle()) {
        let guest = Guest::start(machine, &disk)?;
        guest.knows_kills(&announced)?;
        let kill = guest.kills()?;
        // Whatever is not on the disk by now never gets there.
        drop(guest);
        kill.tells_all(turn).with_context(|| format!("announced by cut {cut}: {kill:#?}"))?;
        eprintln!(
            "{kernel}: cut {cut} of {times}: {} of the {} at {} MB/s, written down {} ms after the kill; the {} before \
             it are known",
            kill.id,
            turn.what,
            turn.pace,
            kill.after_ms(),
            announced.len()
        );
        announced.push(kill);
    }
    let (_, machine) = &turns[0];
    Guest::start(machine, &disk)?.knows_kills(&announced)?;
    let slowest = announced.iter().map(Kill::after_ms).max().unwrap_or_default();
    println!(
        "{kernel}: {times} cuts right after an OOM kill: each of the {} incidents is known, with victim, trigger, limit and \
         ranking as announced; the slowest was written down {slowest} ms after its kill",
        announced.len()
    );
    Ok(())
}

/// What an incident says of an OOM kill.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kill {
    id: String,
    /// When it was announced, and when the kernel killed, boot clock, ns.
    announced_ns: u64,
    killed_ns: u64,
    scope: String,
    limit: Option<u64>,
    /// Victims and who asked for memory, with their pids.
    victims: Vec<Process>,
    triggers: Vec<Process>,
    /// Who had grown, most first, and by how many bytes.
    ranking: Vec<(Process, u64)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Process {
    pid: u64,
    comm: String,
}

impl Process {
    fn of(key: &Value, comm: &Value) -> Option<Self> {
        Some(Self { pid: key["pid"].as_u64()?, comm: comm.as_str()?.to_owned() })
    }
}

impl Kill {
    /// Of `sensor incidents --json`, or of the incident in a record.
    fn of(incident: &Value) -> Option<Self> {
        let oom = &incident["oom"];
        let victims = oom["victims"].as_array()?;
        let of_all = |role: &str| {
            let actors = victims.iter().map(|kill| &kill[role]);
            actors.filter_map(|it| Process::of(&it["process"], &it["comm"])).collect()
        };
        let ns = |number: &Value| number.as_str()?.parse().ok();
        let ranked = |holder: &Value| {
            Some((Process::of(&holder["root"], &holder["comm"])?, holder["grown_bytes"].as_u64()?))
        };
        Some(Self {
            id: incident["id"].as_str()?.to_owned(),
            announced_ns: 0,
            killed_ns: ns(&victims.first()?["at_ns"])?,
            scope: oom["scope"].as_str()?.to_owned(),
            limit: oom["limit_bytes"].as_u64(),
            victims: of_all("victim"),
            triggers: of_all("trigger"),
            ranking: oom["holders"].as_array()?.iter().filter_map(ranked).collect(),
        })
    }

    fn after_ms(&self) -> u64 {
        self.announced_ns.saturating_sub(self.killed_ns) / 1_000_000
    }

    /// Fails when something of what there is to say is missing.
    fn tells_all(&self, turn: &Turn) -> Result<()> {
        let [victim] = self.victims.as_slice() else {
            bail!("there are {} victims", self.victims.len())
        };
        ensure!(victim.comm == LEAK, "the victim is {}", victim.comm);
        ensure!(!self.triggers.is_empty(), "nobody asked for memory");
        ensure!(self.scope == turn.scope, "what was short is {}", self.scope);
        ensure!(self.limit == turn.limit, "the limit is {:?}", self.limit);
        let (first, grown) = self.ranking.first().context("nobody had grown")?;
        ensure!(first == victim && *grown > 0, "{first:?} had grown most, by {grown} bytes");
        Ok(())
    }

    /// The same is known of it. Others may be ranked below, as the kernel's own report had them.
    fn is_same(&self, known: &Self) -> bool {
        (self.scope == NOT_YET || self.scope == known.scope)
            && self.limit == known.limit
            && self.victims == known.victims
            && self.triggers == known.triggers
            && known.ranking.starts_with(&self.ranking)
    }
}

impl Guest {
    /// Fails when it has come up without one of these, or with less of it than was announced.
    fn knows_kills(&self, announced: &[Kill]) -> Result<()> {
        let said = self.comes_up()?.join("\n");
        let incidents: Vec<Value> =
            serde_json::from_str(&said).with_context(|| format!("the guest says: {said}"))?;
        let known: Vec<Kill> = incidents.iter().filter_map(Kill::of).collect();
        missing(announced, &known)
    }

    /// The kill that it announces first.
    fn kills(&self) -> Result<Kill> {
        let end = Instant::now() + KILLED_WITHIN;
        while let Some(line) = self.line(end) {
            if let Some(kill) = announced(&line) {
                return Ok(kill);
            }
        }
        bail!("no kill was announced within {} s", KILLED_WITHIN.as_secs())
    }
}

fn missing(announced: &[Kill], known: &[Kill]) -> Result<()> {
    for kill in announced {
        let Some(found) = known.iter().find(|it| it.id == kill.id) else {
            bail!("announced and not there any more: {kill:#?}");
        };
        ensure!(kill.is_same(found), "announced as {kill:#?}\nand known as {found:#?}");
    }
    Ok(())
}

/// A record that says that an incident about a kill has opened.
fn announced(line: &str) -> Option<Kill> {
    let record: Value = serde_json::from_str(line).ok()?;
    let announced_ns = record["boot_ns"].as_str()?.parse().ok()?;
    Some(Kill { announced_ns, ..Kill::of(&record["transition"]["incident"])? })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn incident() -> Value {
        let python = json!({"process": {"pid": 120, "start_ns": "5"}, "comm": "python3"});
        json!({
            "id": "4k2m-1",
            "oom": {
                "scope": "cgroup",
                "limit_bytes": 256 << 20,
                "victims": [{"at_ns": "31480000000", "victim": python, "trigger": python}],
                "holders": [{"root": {"pid": 120, "start_ns": "5"}, "comm": "python3", "grown_bytes": 240 << 20}],
            },
        })
    }

    #[test]
    fn a_kill_is_read_from_the_record_that_announces_it() {
        let line =
            json!({"boot_ns": "31500000000", "transition": {"to": "open", "incident": incident()}});
        let kill = announced(&line.to_string()).unwrap();
        assert_eq!((&*kill.id, kill.after_ms()), ("4k2m-1", 20));
        kill.tells_all(&TURNS[1]).unwrap();
        assert!(kill.tells_all(&TURNS[0]).is_err(), "it was a group that was short");
        for other in
            ["", "ready", "{\"kind\":\"lost\"}", "{\"transition\":{\"incident\":{\"id\":\"a\"}}}"]
        {
            assert_eq!(announced(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_not_said_of_a_kill_is_a_failure() {
        for (path, without) in [
            ("/oom/victims/0/victim", Value::Null),
            ("/oom/victims/0/victim/comm", "sensor".into()),
            ("/oom/victims/0/trigger", Value::Null),
            ("/oom/limit_bytes", Value::Null),
            ("/oom/holders", json!([])),
            ("/oom/holders/0/grown_bytes", 0.into()),
        ] {
            let mut incident = incident();
            *incident.pointer_mut(path).unwrap() = without;
            let kill = Kill::of(&incident).unwrap();
            assert!(kill.tells_all(&TURNS[1]).is_err(), "{path}");
            let whole = Kill::of(&self::incident()).unwrap();
            assert!(missing(&[whole], &[kill]).is_err(), "{path}");
        }
    }

    #[test]
    fn what_was_announced_has_to_be_known() {
        let kill = Kill::of(&incident()).unwrap();
        let kill = [kill];
        missing(&kill, &kill).unwrap();
        let said = missing(&kill, &[]).unwrap_err().to_string();
        assert!(said.starts_with("announced and not there any more"), "{said}");
        // The kernel's own report ranks others below.
        let mut more = kill.clone();
        more[0].ranking.push((Process { pid: 9, comm: "dash".into() }, 0));
        missing(&kill, &more).unwrap();
        assert!(missing(&more, &kill).is_err());
    }
}
