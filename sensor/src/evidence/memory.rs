//! What can be read of a process only under its memory lock. A process that sits in a page fault which
//! nobody answers holds that lock for ever, so a thread beside asks, and is left behind where it hangs.

use std::time::{Duration, Instant};

use super::{beside::Beside, proc::Proc};
use crate::lineage::ProcessKey;

/// How long is waited for one answer, and for all of them.
#[derive(Clone, Copy)]
struct Patience {
    one: Duration,
    all: Duration,
}

/// In passing: 20 us for arguments, 10 ms for the share of a GiB.
const BRIEF: Patience =
    Patience { one: Duration::from_millis(50), all: Duration::from_millis(150) };
/// Where memory is what it is about: of 16 GiB the share takes 160 ms.
const LONG: Patience =
    Patience { one: Duration::from_millis(500), all: Duration::from_millis(500) };
/// After so many that hang the others are not asked any more.
const HANGING: u32 = 2;

enum Question {
    Argv(ProcessKey),
    Pss(ProcessKey),
}

enum Answer {
    Argv(Vec<Vec<u8>>),
    Pss(u64),
}

/// Asks one process after the other.
pub(super) struct Memory {
    proc: Proc,
    /// Bytes of a command line.
    limit: usize,
    patience: Patience,
    beside: Option<Beside<Question, Answer>>,
    hanging: u32,
    deadline: Option<Instant>,
}

impl Memory {
    pub fn new(proc: &Proc, limit: usize) -> Self {
        Self::asked(proc, limit, BRIEF)
    }

    /// For shares alone, of processes of any size.
    pub fn thorough(proc: &Proc) -> Self {
        Self::asked(proc, 0, LONG)
    }

    fn asked(proc: &Proc, limit: usize, patience: Patience) -> Self {
        Self { proc: proc.clone(), limit, patience, beside: None, hanging: 0, deadline: None }
    }

    /// Arguments as they are now; none where there is no answer.
    pub fn argv(&mut self, key: ProcessKey) -> Vec<Vec<u8>> {
        match self.ask(Question::Argv(key)) {
            Some(Answer::Argv(argv)) => argv,
            _ => Vec::new(),
        }
    }

    /// Proportional set size, bytes; 0 where there is no answer.
    pub fn pss(&mut self, key: ProcessKey) -> u64 {
        match self.ask(Question::Pss(key)) {
            Some(Answer::Pss(bytes)) => bytes,
            _ => 0,
        }
    }

    fn ask(&mut self, question: Question) -> Option<Answer> {
        let now = Instant::now();
        let deadline = *self.deadline.get_or_insert(now + self.patience.all);
        let left = deadline.saturating_duration_since(now).min(self.patience.one);
        if self.hanging >= HANGING || left.is_zero() {
            return None;
        }
        let (proc, limit) = (&self.proc, self.limit);
        let beside = match &mut self.beside {
            Some(beside) => beside,
            none => none.insert(start(proc.clone(), limit)?),
        };
        let answer = beside.ask(question, left);
        if answer.is_none() {
            self.hanging += 1;
            self.beside = None;
        }
        answer
    }
}

fn start(proc: Proc, limit: usize) -> Option<Beside<Question, Answer>> {
    let answer = move |question| match question {
        Question::Argv(key) => {
            Answer::Argv(proc.open(key).map(|opened| opened.argv(limit).0).unwrap_or_default())
        }
        Question::Pss(key) => {
            let rollup = proc.open(key).and_then(|opened| opened.rollup());
            Answer::Pss(rollup.map_or(0, |rollup| rollup.pss))
        }
    };
    Beside::start("memory", || Ok::<_, std::io::Error>(()), answer).ok()
}
