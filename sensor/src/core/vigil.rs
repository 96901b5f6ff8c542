//! What the desk looks after once a second: incidents whose culprit is gone or whose loop has ended,
//! losses, and how well each part works.

use std::{collections::HashSet, sync::atomic::Ordering};

use super::{desk::Desk, reactor::REHEARSED_NS};
use crate::{
    clock,
    evidence::Parser,
    incident,
    kernel::{Detail, SKIPPED},
    lineage::{Forest, ProcessKey},
    proto::{self, State, record::Body},
    record::Draft,
    respond::{Marks as _, Rehearsal},
};

/// Why an incident is over that goes on only as long as its culprit.
pub const GONE: &str = "the culprit and its tree are gone";

impl Desk {
    pub fn look_around(&mut self) {
        self.end_rehearsals();
        self.resolve_what_is_gone();
        self.resolve_ended_loops();
        self.resolve_unseen_growth();
        self.resolve_ended_ooms();
        self.end_silent_shortages();
        self.choose_groups();
        self.note_waits();
        self.tend_ballast();
        self.record_losses();
        self.look_after_parser();
        // What a person has ordered is in the book of containments only when it is done.
        if self.acting.is_empty() {
            self.containments.if_none(|| self.reins.disengage());
        }
    }

    /// Dry runs whose time is over, or whose tree is gone.
    fn end_rehearsals(&mut self) {
        let now = clock::boot_ns();
        let rehearsals = std::mem::take(&mut self.rehearsals);
        let is_over = |one: &Rehearsal| {
            now.saturating_sub(one.started_ns) >= REHEARSED_NS || self.is_gone(&one.target.incident)
        };
        let (over, going_on): (Vec<_>, Vec<_>) = rehearsals.into_iter().partition(is_over);
        self.rehearsals = going_on;
        for rehearsal in over {
            let incident = &rehearsal.target.incident;
            // A person has it contained in earnest, under the same mark: that stays.
            if self.containments.of(incident).is_none() && !self.acting.contains(incident) {
                let action = self.responder.rehearsed(&rehearsal);
                self.act(incident, action);
                self.change(incident, |_| "a dry run is over".to_owned());
            }
            self.containments.end_hold(incident);
        }
    }

    fn resolve_what_is_gone(&mut self) {
        let with_culprit: Vec<String> = self
            .incidents
            .iter()
            .filter(|incident| !self.acting.contains(&incident.id))
            // Its culprit may be the one that was killed.
            .filter(|incident| !incident::is_oom(incident.kind()))
            .filter(|incident| !self.incidents.roots(&incident.id).is_empty())
            .map(|incident| incident.id.clone())
            .collect();
        if with_culprit.is_empty() {
            return;
        }
        let forest = self.lineage.forest(Detail::Links);
        for id in with_culprit {
            if !self.lives(&forest, &id) {
                self.resolve(&id, GONE);
            }
        }
    }

    /// Whether nothing is left of an incident's tree, or of all trees of a group.
    pub fn is_gone(&self, id: &str) -> bool {
        !self.lives(&self.lineage.forest(Detail::Links), id)
    }

    fn lives(&self, forest: &Forest, id: &str) -> bool {
        let lives = |root: &ProcessKey| forest.tree(*root).into_iter().any(|(node, _)| node.alive);
        if self.incidents.roots(id).iter().any(lives) {
            return true;
        }
        // After a restart of ours the lineage above the survivors may be lost; the list is not.
        let held = self.containments.of(id);
        let listed: HashSet<ProcessKey> =
            held.iter().flat_map(|it| it.held.processes.iter().copied()).collect();
        let mark = held.map_or(0, |it| it.held.mark);
        forest.nodes().any(|node| {
            node.alive && (listed.contains(&node.key) || mark != 0 && node.mark == mark)
        })
    }

    /// Finds out whether foreign files can be read, before there is an incident, and again after one that failed.
    fn look_after_parser(&self) {
        if let Some(parser) = self.gatherer.parser().filter(|parser| parser.is_due()) {
            let parser = parser.clone();
            tokio::task::spawn_blocking(move || parser.try_fresh());
        }
    }

    fn record_losses(&mut self) {
        let mut now = self.programs.losses();
        now.push(("notices", self.overflow.load(Ordering::Relaxed)));
        let mut missed = false;
        for (reason, total) in now {
            let known = self.losses.entry(reason).or_default();
            let new = total.saturating_sub(*known);
            *known = total;
            if new > 0 {
                missed |= reason == SKIPPED;
                tracing::warn!("lost {new}: {reason}");
                self.log.append(Draft::of(
                    "",
                    Body::Lost(proto::Lost { reason: reason.into(), count: new }),
                ));
            }
        }
        // Births and exits may be among what was skipped: whoever lives now is entered, and who is gone
        // is taken out. Once more at the next look, for those who were just on their way out.
        if missed || self.missed {
            self.reins.complete();
        }
        self.missed = missed;
    }

    /// How well each part works.
    pub fn parts(&self) -> Vec<proto::PartStatus> {
        let part = |part: &str, ok: bool, detail: String| proto::PartStatus {
            part: part.into(),
            ok,
            detail,
        };
        let log = self.log.health().borrow().clone();
        let lost: u64 = self.losses.values().sum();
        let kernel = match (&self.programs.no_baseline, lost) {
            (Some(why), _) => format!("no baseline: {why}"),
            (None, 0) => String::new(),
            (None, lost) => format!("{lost} losses since the start"),
        };
        let guards = self.guardian.ping();
        let paused = self.paused.load(Ordering::Relaxed);
        let mut parts = vec![
            part("kernel", true, kernel),
            part("brake", true, self.reins.brake.gear().to_string()),
            part("record", log.ok, log.detail),
            self.feed.borrow().clone(),
            part(
                "guardian",
                guards,
                if guards { String::new() } else { "being started again".into() },
            ),
            part(
                "respond",
                true,
                if paused { "automatic action is paused".into() } else { String::new() },
            ),
            part("investigate", true, self.investigations.describe()),
        ];
        parts.extend(self.gatherer.parser().map(Parser::part));
        parts.extend(self.webhooks.iter().map(|webhooks| webhooks.borrow().clone()));
        parts
    }

    pub fn status(&self) -> proto::GetStatusResponse {
        let count = |state: State| {
            self.incidents.iter().filter(|incident| incident.state() == state).count() as u32
        };
        let mut losses: Vec<proto::LossCount> = self
            .losses
            .iter()
            .map(|(reason, count)| proto::LossCount { reason: (*reason).into(), count: *count })
            .collect();
        losses.sort_by(|one, other| one.reason.cmp(&other.reason));
        proto::GetStatusResponse {
            version: env!("CARGO_PKG_VERSION").into(),
            host: self.host.name.clone(),
            boot_id: self.host.boot_id.clone(),
            kernel: self.host.kernel.clone(),
            started_at: Some(self.started_at),
            log_id: self.log.log_id(),
            last_seq: *self.log.tail().borrow(),
            paused: self.paused.load(Ordering::Relaxed),
            scope: self.scope.clone(),
            incidents_open: count(State::Open),
            incidents_contained: count(State::Contained),
            processes: self.lineage.living_count(),
            parts: self.parts(),
            losses,
            map_bytes: self.programs.map_bytes(),
            log_bytes: self.log.disk_bytes(),
            memory_sampling: Some(self.memory.cost()),
            degradations: self.degradations.clone(),
        }
    }
}
