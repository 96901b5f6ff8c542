//! How `sensor parse` is: whether a fresh one answers, and how many did not.
//!
//! One that fails on what a culprit wrote is no fault of the others. Only until a fresh one has answered a
//! question of ours is the part said to be broken.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use sensor_proto::internal::v1::{GitWanted, RefWanted, git_wanted::Of, parse_job::What};

use super::{ParseError, Parser, git_head};
use crate::proto::PartStatus;

/// What a fresh one may take for a question of ours: it takes 20 ms, and on a machine that is short of
/// everything a hundred times that.
const PATIENCE: Duration = Duration::from_secs(5);
/// From one attempt to the next while it is broken: one that cannot be started costs a fork each time.
const AGAIN: Duration = Duration::from_secs(30);
/// What stands in the file that is asked about.
const BRANCH: &str = "refs/heads/sensor";

#[derive(Debug, Default)]
struct State {
    /// Why the last one did not answer; nothing: it did.
    broken: Option<String>,
    /// Since the start.
    failures: u64,
    /// The last of them.
    last: String,
    tried: Option<Instant>,
    trying: bool,
}

/// Shared by all that ask: how the part is, and for each who asks whether one of its own has failed.
#[derive(Clone, Debug, Default)]
pub(super) struct Health {
    state: Arc<Mutex<State>>,
    failed: Arc<AtomicBool>,
}

impl Health {
    fn state(&self) -> MutexGuard<'_, State> {
        // Whoever panicked with it has changed one field.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn note<T>(&self, answer: Result<T, ParseError>) -> Result<T, ParseError> {
        let mut state = self.state();
        match &answer {
            Ok(_) => state.broken = None,
            Err(error) => {
                self.failed.store(true, Ordering::Relaxed);
                state.failures += 1;
                state.last = error.to_string();
                state.broken = Some(error.to_string());
            }
        }
        drop(state);
        answer
    }
}

impl Parser {
    /// The same for one step: see [`Self::has_failed`].
    pub(in crate::evidence) fn of_one_step(&self) -> Self {
        let health = Health { failed: Arc::default(), ..self.health.clone() };
        Self { health, ..self.clone() }
    }

    /// Whether an answer to this one, or to a clone of it, did not come.
    pub(in crate::evidence) fn has_failed(&self) -> bool {
        self.health.failed.load(Ordering::Relaxed)
    }

    /// How the part is, for people and for the health service.
    pub fn part(&self) -> PartStatus {
        let state = self.health.state();
        let detail = match (&state.broken, state.failures) {
            (Some(why), _) => format!("{why}; a fresh one is tried every {} s", AGAIN.as_secs()),
            (None, 0) => String::new(),
            (None, count) => format!("{count} failed since the start, the last: {}", state.last),
        };
        PartStatus { part: "parse".into(), ok: state.broken.is_none(), detail }
    }

    /// Whether a fresh one should be tried now: at the start, and while it is broken. Then whoever asked is the one
    /// to do it.
    pub fn is_due(&self) -> bool {
        let mut state = self.health.state();
        let due = match state.tried {
            None => true,
            Some(tried) => state.broken.is_some() && tried.elapsed() >= AGAIN,
        };
        let due = due && !state.trying;
        state.trying |= due;
        due
    }

    /// Starts one and asks it what is known. Waits for the answer.
    pub fn try_fresh(&self) {
        let wanted = GitWanted { of: Some(Of::Ref(RefWanted {})) };
        let content = format!("ref: {BRANCH}\n");
        let answer = self
            .dialogue(Vec::new(), PATIENCE)
            .and_then(|mut dialogue| dialogue.ask_of(content.as_bytes(), What::Git(wanted)));
        if let Ok(answer) = answer {
            let found = git_head::checked(answer);
            if found.is_none_or(|found| found.branch != BRANCH.as_bytes()) {
                let _ = self.health.note::<()>(Err(ParseError::Nonsense));
            }
        }
        let mut state = self.health.state();
        (state.tried, state.trying) = (Some(Instant::now()), false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_until_a_fresh_one_answers() {
        let good = Parser::here();
        assert!(good.is_due(), "nobody knows yet");
        assert!(!good.is_due(), "one at a time");
        good.try_fresh();
        assert!(!good.is_due());
        assert_eq!(
            good.part(),
            PartStatus { part: "parse".into(), ok: true, detail: String::new() }
        );

        let step = good.of_one_step();
        let _ = step.health.note::<()>(Err(ParseError::Failed));
        assert!(step.has_failed() && step.clone().has_failed());
        assert!(!good.has_failed() && !good.of_one_step().has_failed(), "only who asked");
        let part = good.part();
        assert!(!part.ok && part.detail.starts_with("`sensor parse` failed on"), "{part:?}");
        good.try_fresh();
        let part = good.part();
        assert!(part.ok && part.detail.starts_with("1 failed since the start, the last: `sensor"));
    }

    #[test]
    fn one_that_cannot_be_started_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let none = Parser::new(directory.path().join("none"), None);
        none.try_fresh();
        let part = none.part();
        assert!(!part.ok && part.detail.contains("cannot be started"), "{part:?}");
        assert!(!none.is_due(), "not at once again");
    }
}
