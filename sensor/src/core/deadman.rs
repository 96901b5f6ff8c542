//! The dead-man's timer: the guardian is started with what keeps the brake alive, and what it says is recorded.

use std::{os::fd::OwnedFd, path::Path, sync::mpsc as std_mpsc, thread};

use sensor_proto::internal::v1::Report;
use tokio::sync::mpsc;

use super::{CoreError, containments::GUARDIAN, desk::Desk};
use crate::{
    clock,
    kernel::{Lineage, Programs},
    proto::{self, ActionKind, State, record::Body},
    record::Draft,
    respond::{
        Responder,
        guardian::{self, Guardian, Launch},
    },
};

/// The guardian with what keeps the brake alive, and its events on a channel of ours.
pub fn start(
    programs: &Programs,
    runtime_dir: &Path,
) -> Result<(Guardian, mpsc::UnboundedReceiver<guardian::Event>), CoreError> {
    let mut keep: Vec<OwnedFd> = programs.guardian_maps()?.into();
    for link in programs.links() {
        keep.push(link.try_clone().map_err(CoreError::Threads)?);
    }
    let (sender, events) = std_mpsc::channel();
    let guardian = Guardian::start(Launch::new(keep, runtime_dir), sender)?;
    let (forward, received) = mpsc::unbounded_channel();
    thread::Builder::new()
        .name("guardian-events".into())
        .spawn(move || {
            while let Ok(event) = events.recv() {
                if forward.send(event).is_err() {
                    return;
                }
            }
        })
        .map_err(CoreError::Threads)?;
    Ok((guardian, received))
}

/// Number of the mark that exempts our own processes: no containment has it.
const OURS: u32 = u32::MAX;

/// Neither the brake nor an action of ours may ever hit us.
pub fn protect_ourselves(responder: &Responder, lineage: &Lineage, guardian: &Guardian) {
    for (pid, what) in [(std::process::id(), "core"), (guardian.pid(), "guardian")] {
        responder.protection().add_own(pid, what);
        if let Some(node) = lineage.living(pid)
            && let Err(error) = lineage.exempt(node.key, OURS, u64::MAX)
        {
            tracing::warn!("the brake does not know that process {pid} is ours: {error}");
        }
    }
}

impl Desk {
    pub fn guardian_said(&mut self, event: &guardian::Event) {
        let (why, recovered) = match event {
            guardian::Event::Report(report) => return self.guardian_acted(report),
            guardian::Event::Died { why } => (why.clone(), false),
            guardian::Event::Restarted { pid } => {
                self.responder.protection().add_own(*pid, "guardian");
                (
                    format!(
                        "another guardian runs as process {pid}, with everything that is frozen"
                    ),
                    true,
                )
            }
        };
        tracing::warn!("{why}");
        self.log.append(Draft::of(
            "",
            Body::Degraded(proto::Degraded { part: "guardian".into(), why, recovered }),
        ));
    }

    /// The dead-man's timer ran out.
    fn guardian_acted(&mut self, report: &Report) {
        let id = report.incident.as_str();
        let (kind, result) = if report.released {
            self.containments.take(id);
            (ActionKind::Release, "the brake expired")
        } else {
            self.containments.thawed(id);
            (ActionKind::Thaw, "runs again; the brake is still on")
        };
        let now = clock::boot_ns();
        self.act(
            id,
            proto::Action {
                kind: kind.into(),
                at: Some(clock::wall()),
                by: GUARDIAN.into(),
                why: "nobody decided within the time of the freeze".into(),
                result: result.into(),
                started_ns: now,
                ended_ns: now,
                processes: report.processes,
                ok: true,
                braked: None,
            },
        );
        self.change(id, |incident| {
            incident.set_state(State::Open);
            incident.thaw_due_ns = 0;
            "the guardian let it run again".to_owned()
        });
    }
}
