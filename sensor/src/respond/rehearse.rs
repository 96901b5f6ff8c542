//! A dry run: what a containment would do is found out and counted, and nobody is stopped.

use super::{Doing, Responder, Target, View, brake::unmark_all, count};
use crate::{
    present::text,
    proto::{self, ActionKind},
};

/// A tree whose forks are counted as if it were contained.
#[derive(Clone, Debug)]
pub struct Rehearsal {
    pub target: Target,
    /// Processes that would have been stopped.
    pub processes: u32,
    /// Boot clock.
    pub started_ns: u64,
}

impl Responder {
    /// Begins it. An error is the refusal that a containment would have met, as an action.
    pub fn rehearse(&self, target: Target) -> Result<Rehearsal, Box<proto::Action>> {
        let refusing = Doing::now(ActionKind::Refuse, &target.by, &target.why);
        let started_ns = refusing.started_ns;
        let refused = |refusing: Doing<'_>, why: &str| {
            Err(Box::new(refusing.done(false, 0, format!("would be refused: {why}"))))
        };
        let (sweep, _) = match self.admit(&target, &self.marks.forest()) {
            Ok(admitted) => admitted,
            Err(why) => return refused(refusing, &why),
        };
        self.spare_known(&sweep);
        if let Err(error) = self.marks.rehearse(&sweep.roots, target.mark, target.brake_until_ns) {
            return refused(refusing, &error.to_string());
        }
        let open = |view: &&View| matches!(view, View::Open(_));
        let processes = sweep.views().filter(open).count() as u32;
        Ok(Rehearsal { target, processes, started_ns })
    }

    /// Ends it; what came of it.
    pub fn rehearsed(&self, rehearsal: &Rehearsal) -> proto::Action {
        let Rehearsal { target, processes, started_ns } = rehearsal;
        unmark_all(self.marks.as_ref(), target.mark);
        let mut braked = self.braked(target.mark);
        // Who would have been paused had a child, and was counted again.
        braked.passed = braked.passed.saturating_sub(braked.paused);
        let doing = Doing {
            kind: ActionKind::Brake,
            by: &target.by,
            why: &target.why,
            started_ns: *started_ns,
        };
        let forks = text::count(braked.paused + braked.passed, "fork was made", "forks were made");
        let result = format!(
            "dry run, nothing was stopped: {} would stand, and {forks} that would not \
             have been",
            count(*processes)
        );
        proto::Action { braked: Some(braked), ..doing.done(false, *processes, result) }
    }
}
