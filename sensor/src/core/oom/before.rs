//! Kills that an earlier run of the daemon saw, as the log has them: a loop goes on over a restart.

use std::path::Path;

use super::{Deaths, Going};
use crate::{
    detect::oom::RESTART_NS,
    proto::{Kind, OomKill, State, observation::Fact, record::Body},
    record::{Filter, IncidentFilter, ReadError, Reader},
};

/// Incidents that are looked through, the newest of each kind: as many as cases are remembered.
const INCIDENTS: usize = 64;

/// Bytes of them at most; one with all its victims has some 20 KiB.
const BYTES: usize = 4 << 20;

/// Records of a page.
const PAGE: u32 = 1000;

/// A kill that is in the log, and the incident that it belongs to.
pub struct Known {
    incident: String,
    /// Another kill may join it.
    unresolved: bool,
    kill: OomKill,
}

/// The kills of this boot that another one may be the same cause as, oldest first.
pub fn kills(state_dir: &Path, boot_id: &str, now_ns: u64) -> Result<Vec<Known>, ReadError> {
    let log = Reader::open(state_dir)?;
    let mut known = Vec::new();
    for kind in [Kind::OomKill, Kind::OomLoop] {
        let filter = IncidentFilter { kind: Some(kind), ..IncidentFilter::default() };
        let (incidents, _) = log.incidents(&filter, BYTES)?;
        let here = incidents.into_iter().filter(|incident| incident.boot_id == boot_id);
        for incident in here.take(INCIDENTS) {
            let unresolved = incident.state() != State::Resolved;
            let filter = Filter::new(&incident.id, &["observation"])?;
            let mut next = 0;
            loop {
                let page = log.records(next, &filter, PAGE)?;
                for record in page.records {
                    let Some(Body::Observation(observation)) = record.body else { continue };
                    let Some(Fact::OomKill(kill)) = observation.fact else { continue };
                    known.push(Known { incident: incident.id.clone(), unresolved, kill });
                }
                next = page.next_seq;
                if page.end {
                    break;
                }
            }
        }
    }
    // Of what is over long ago nothing can be the same cause any more.
    let newest = |id: &str| {
        let own = known.iter().filter(|one| one.incident == id);
        own.map(|one| one.kill.at_ns).max().unwrap_or_default()
    };
    let recent: Vec<bool> = known
        .iter()
        .map(|one| one.unresolved || now_ns.saturating_sub(newest(&one.incident)) <= RESTART_NS)
        .collect();
    let mut recent = recent.into_iter();
    known.retain(|_| recent.next().unwrap_or_default());
    known.sort_by_key(|one| one.kill.at_ns);
    Ok(known)
}

impl Deaths {
    /// Counts them as if they had been seen.
    pub fn recall(&mut self, known: Vec<Known>) {
        for Known { incident, unresolved, kill } in known {
            let (_, case) = self.kills.took(&kill);
            let going = Going::new(case.number, case.last_ns);
            if unresolved {
                self.oom.insert(incident, going);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        detect::oom::Step,
        host::Host,
        proto::{Actor, Incident, Observation, ProcessKey, Transition},
        record::{Draft, Log, LogOptions},
    };

    const SECOND: u64 = 1_000_000_000;

    fn kill(pid: u32, at_s: u64) -> OomKill {
        OomKill {
            at_ns: at_s * SECOND,
            victim: Some(Actor {
                process: Some(ProcessKey { pid, start_ns: at_s * SECOND - 1 }),
                comm: "eats".into(),
                cgroup: "/a".into(),
                ..Actor::default()
            }),
            ..OomKill::default()
        }
    }

    fn host(boot_id: &str) -> Host {
        Host { name: "box".into(), boot_id: boot_id.into(), kernel: String::new() }
    }

    /// A log of this boot with kills at these seconds, of one incident in this state.
    fn write(state_dir: &Path, boot_id: &str, id: &str, state: State, seconds: &[u64]) {
        let options = LogOptions { max_bytes: 64 << 20, reader_gid: None };
        let (log, _) = Log::open(state_dir, &host(boot_id), options).unwrap();
        let mut incident = Incident {
            id: id.into(),
            boot_id: boot_id.into(),
            opened_at: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 0 }),
            ..Incident::default()
        };
        incident.set_kind(Kind::OomKill);
        incident.set_state(state);
        for (number, at_s) in (100..).zip(seconds) {
            let fact = Some(Fact::OomKill(kill(number, *at_s)));
            log.append(Draft::of(id, Body::Observation(Observation { fact })));
        }
        let mut transition = Transition { incident: Some(incident), ..Transition::default() };
        transition.set_to(state);
        log.append(Draft::of(id, Body::Transition(transition)));
        log.close("end of a test").unwrap();
    }

    #[test]
    fn a_loop_goes_on_over_a_restart() {
        let place = tempfile::tempdir().unwrap();
        write(place.path(), "now", "i1", State::Open, &[100, 200]);
        let mut deaths = Deaths::default();
        deaths.recall(kills(place.path(), "now", 300 * SECOND).unwrap());
        let going = deaths.oom["i1"];
        assert_eq!(going.seen_ns, 200 * SECOND);
        let (step, case) = deaths.kills.took(&kill(300, 310));
        assert_eq!((step, case.number, case.oom.kills), (Step::Again, going.case, 3));
        assert_eq!((case.kind(), case.oom.period_ns), (Kind::OomLoop, 105 * SECOND));
    }

    #[test]
    fn what_is_resolved_counts_and_takes_nothing_in() {
        let place = tempfile::tempdir().unwrap();
        write(place.path(), "now", "i1", State::Resolved, &[100]);
        let mut deaths = Deaths::default();
        deaths.recall(kills(place.path(), "now", 300 * SECOND).unwrap());
        assert!(deaths.oom.is_empty());
        assert_eq!(deaths.kills.took(&kill(300, 310)).1.oom.kills, 2);
        // Half an hour later it is another cause.
        assert!(kills(place.path(), "now", 100 * SECOND + RESTART_NS + 1).unwrap().is_empty());
    }

    #[test]
    fn another_boot_is_another_story() {
        let place = tempfile::tempdir().unwrap();
        write(place.path(), "before", "i1", State::Open, &[100]);
        assert!(kills(place.path(), "now", 300 * SECOND).unwrap().is_empty());
        assert!(kills(&place.path().join("none"), "now", 0).is_err());
    }
}
