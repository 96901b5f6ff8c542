//! Containment: the brake first, then everything stands still. A tree that owns a cgroup is frozen
//! by the kernel's freezer, which no process notices; another one is stopped process by process,
//! top-down, again and again until nothing new has appeared for long.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use sensor_common::brake::{Deed, Tally};

use super::{
    Contained, Doing, Held, Responder, Target,
    brake::{Sweep, unmark_all},
    count,
    process::{Stat, signal_all},
    targets,
};
use crate::{
    cgroup::{self, CgroupError},
    clock,
    lineage::ProcessKey,
    proto::{self, ActionKind},
};

/// Nothing new for this long: the tree stands. A marked process that is on its way through a fork
/// or an exec needs less, on a loaded host too (a turn among 300 runnable tasks is about 25 ms).
const QUIET: Duration = Duration::from_millis(50);

/// A tree that still grows after this is not held by signals; the record says so.
const LONGEST: Duration = Duration::from_secs(10);

/// Between passes while processes appear, and what it backs off to.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(8);

/// `cgroup.freeze` took 178 ms to 1.2 s for live bombs of 900 to 2,000 processes.
const FREEZER_PATIENCE: Duration = Duration::from_secs(3);

/// A containment whose first pass is done.
pub struct Started {
    target: Target,
    sweep: Sweep,
    /// Told to freeze; perhaps not all of it stands yet.
    cgroup: Option<PathBuf>,
    brake: proto::Action,
    /// What the brake did while the tree was held.
    before: Tally,
    freezing_ns: u64,
    stopped: u32,
}

impl Started {
    pub fn held(&self) -> Held {
        Held {
            incident: self.target.incident.clone(),
            mark: self.sweep.mark,
            roots: self.sweep.roots.clone(),
            cgroup: self.cgroup.clone(),
            processes: self.sweep.reached.clone(),
        }
    }
}

impl Responder {
    fn stop_pending(&self, started: &mut Started) {
        started.stopped += self.signal(started.sweep.pending.drain(..), Signal::STOP);
    }

    /// The quick half, for the thread that reacts: marks every process of the tree and stops them
    /// once, or tells the freezer to. An error is the refusal, with what was done until then, as actions.
    ///
    /// To look at each process takes as long as a storm may have left, so the tree is held before that
    /// ([`super::hold`]), where it may be. `armed` is called before the first process is stopped, and
    /// whenever there is more to undo: the guardian must know of everything that it may have to undo
    /// before it happens. Where it is refused in the end nothing is left to undo.
    pub fn begin(
        &self,
        target: &Target,
        armed: &mut dyn FnMut(&Held),
    ) -> Result<Started, Vec<proto::Action>> {
        let refusing = Doing::now(ActionKind::Refuse, &target.by, &target.why);
        if !self.take_token() {
            let result = "refused: too many containments began within a minute".to_owned();
            return Err(vec![refusing.done(false, 0, result)]);
        }
        let mut forest = self.marks.forest();
        let hold = self.hold_first(target, &forest, armed);
        if hold.is_some() {
            // With those who were born until then.
            forest = self.marks.forest();
        }
        let (mut sweep, narrowed) = match self.admit(target, &forest) {
            Ok(admitted) => admitted,
            Err(reason) => {
                let let_go = hold.map(|(held, mut brake)| {
                    brake.braked = Some(self.braked(held.mark));
                    [brake, self.let_go(&held, &target.by, "it may not be contained")]
                });
                let refusal = refusing.done(false, 0, format!("refused: {reason}"));
                return Err(let_go.into_iter().flatten().chain([refusal]).collect());
            }
        };
        armed(&Held {
            incident: target.incident.clone(),
            mark: target.mark,
            roots: sweep.roots.clone(),
            cgroup: None,
            processes: targets(&forest, &sweep.roots, target.mark),
        });

        let mut braking = Doing::now(ActionKind::Brake, &target.by, &target.why);
        let mut result = String::new();
        let mut before = Tally::default();
        if let Some((held, brake)) = &hold {
            let ms = (braking.started_ns - brake.started_ns) / 1_000_000;
            result = format!("; held for {ms} ms before, while they were looked at");
            braking.started_ns = brake.started_ns;
            // Engaged again, it counts from zero.
            before = self.marks.tally(held.mark);
        }
        self.engage(&sweep);
        if let Some(because) = narrowed {
            result = format!("{result}; {because}");
            // Who was held with the others, and is no target any more.
            self.wake(self.unmark_others(&sweep));
            forest = self.marks.forest();
        }
        let marked = self.mark_new(&mut sweep, &forest);
        let mut started = Started {
            target: target.clone(),
            brake: braking.done(
                marked > 0,
                marked,
                format!("{} may not fork{result}", count(marked)),
            ),
            before,
            freezing_ns: clock::boot_ns(),
            // One that somebody else froze is not ours to thaw.
            cgroup: self.owned(&mut sweep).filter(|dir| !cgroup::frozen(dir)),
            sweep,
            stopped: 0,
        };
        if started.cgroup.is_some() {
            armed(&started.held());
        }
        // That all of it stands is waited for in the second half.
        started.cgroup = started.cgroup.filter(|dir| {
            let told = cgroup::freeze(dir, Duration::ZERO);
            matches!(told, Ok(()) | Err(CgroupError::TooSlow { .. }))
        });
        if started.cgroup.is_none() {
            self.stop_pending(&mut started);
        }
        Ok(started)
    }

    /// The patient half: goes on until nothing new has appeared for 50 ms, or 10 s are over.
    pub fn settle(&self, mut started: Started, armed: &mut dyn FnMut(&Held)) -> Contained {
        let begin = Instant::now();
        self.marks.complete();
        let mut problem = self.settle_group(&mut started);
        // Behind the freezer there is only left what was born elsewhere in between.
        let enough = if started.cgroup.is_some() { Duration::ZERO } else { QUIET };
        let mut pause = SHORTEST_PAUSE;
        let mut quiet = Instant::now();
        loop {
            if self.mark_new(&mut started.sweep, &self.marks.forest()) > 0 {
                self.keep_strays(&mut started);
                self.stop_pending(&mut started);
                quiet = Instant::now();
                pause = SHORTEST_PAUSE;
            } else if quiet.elapsed() >= enough {
                // Whom the kernel side missed, nobody has stopped.
                self.marks.complete();
                if self.mark_new(&mut started.sweep, &self.marks.forest()) == 0 {
                    break;
                }
                self.keep_strays(&mut started);
                self.stop_pending(&mut started);
                quiet = Instant::now();
            }
            if begin.elapsed() > LONGEST {
                problem = Some("new processes still appear after 10 s".to_owned());
                break;
            }
            thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        self.let_protected_go(&mut started);
        let held = started.held();
        armed(&held);

        let reached: HashSet<ProcessKey> = held.processes.iter().copied().collect();
        let standing =
            self.living(&held).into_iter().filter(|key| reached.contains(key)).count() as u32;
        let mut result = match &held.cgroup {
            Some(dir) => format!("{} frozen with cgroup {}", count(standing), dir.display()),
            None => format!("{} stopped by signal, {standing} stand", count(started.stopped)),
        };
        if started.sweep.spared > 0 {
            let spared = count(started.sweep.spared);
            result = format!("{result}; {spared} left alone, protected or out of scope");
        }
        if let Some(problem) = &problem {
            result = format!("{result}; {problem}");
        }
        let freezing = Doing {
            kind: ActionKind::Freeze,
            by: &started.target.by,
            why: &started.target.why,
            started_ns: started.freezing_ns,
        };
        let freeze = freezing.done(problem.is_none(), standing, result);
        let mut brake = started.brake;
        brake.braked = Some(braked(&started.before.and(&self.marks.tally(held.mark))));
        Contained { held: Some(held), actions: vec![brake, freeze] }
    }

    /// Waits until the group stands, or gives it up where it is not the tree's own any more; what
    /// went wrong, one sentence.
    fn settle_group(&self, started: &mut Started) -> Option<String> {
        let dir = started.cgroup.clone()?;
        let problem = cgroup::freeze(&dir, FREEZER_PATIENCE).err().map(|error| error.to_string());
        // Somebody may have moved in after we looked.
        if self.owns(&dir, &mut started.sweep) {
            self.keep_strays(started);
            self.stop_pending(started);
            return problem;
        }
        started.cgroup = None;
        started.sweep.pending.clone_from(&started.sweep.reached);
        self.stop_pending(started);
        thaw_group(&dir)
    }

    /// Who executed a protected program while the tree was being stopped runs again.
    fn let_protected_go(&self, started: &mut Started) {
        let held = started.sweep.reached.len();
        let free = self.relent(&mut started.sweep);
        if started.sweep.reached.len() < held
            && let Some(dir) = started.cgroup.take()
        {
            started.sweep.pending.clone_from(&started.sweep.reached);
            self.stop_pending(started);
            thaw_group(&dir);
        }
        self.wake(free);
    }

    /// Of what is yet to be stopped, keeps what the freezer does not hold.
    fn keep_strays(&self, started: &mut Started) {
        let Some(frozen) = started.cgroup.as_ref().and_then(|dir| self.hierarchies.path(dir))
        else {
            return;
        };
        started.sweep.pending.retain(|key| {
            !self.hierarchies.path_of(key.tgid).is_ok_and(|path| path.starts_with(&frozen))
        });
    }

    /// Lets everything run again; the brake stays on. Also wakes what only the kernel side stopped.
    pub fn thaw(&self, held: &Held, by: &str, why: &str) -> proto::Action {
        let doing = Doing::now(ActionKind::Thaw, by, why);
        let problem = held.cgroup.as_deref().and_then(thaw_group);
        let woken = self.wake(self.living(held));
        let result = match &problem {
            None => format!("{} run again; the brake is still on", count(woken)),
            Some(problem) => format!("{} run again; {problem}", count(woken)),
        };
        let braked = Some(braked(&self.marks.tally(held.mark)));
        proto::Action { braked, ..doing.done(problem.is_none(), woken, result) }
    }

    /// Takes the brake off and lets everything run again.
    pub fn release(&self, held: &Held, by: &str, why: &str) -> proto::Action {
        let doing = Doing::now(ActionKind::Release, by, why);
        // Asked before the marks that tell are gone.
        let mut stopped = self.living(held);
        let known: HashSet<ProcessKey> = stopped.iter().copied().collect();
        let carriers = unmark_all(self.marks.as_ref(), held.mark);
        let freed = carriers.len() as u32;
        stopped.extend(carriers.iter().filter(|key| !known.contains(key)));
        let braked = Some(braked(&self.marks.tally(held.mark)));
        let problem = held.cgroup.as_deref().and_then(thaw_group);
        let woken = self.wake(stopped);
        self.wake_late(held.mark, carriers);
        let mut result = format!("{} may fork again, {woken} run", count(freed));
        if let Some(problem) = &problem {
            result = format!("{result}; {problem}");
        }
        proto::Action { braked, ..doing.done(problem.is_none(), woken, result) }
    }

    /// Lets go of what another containment holds as well: of the two only a freezer has an end of its own.
    pub fn hand_over(&self, held: &Held) {
        if let Some(problem) = held.cgroup.as_deref().and_then(thaw_group) {
            tracing::warn!("what another incident holds stands twice: {problem}");
        }
    }

    pub(super) fn wake(&self, processes: Vec<ProcessKey>) -> u32 {
        wake(processes, |key| self.marks.lives(key))
    }

    /// What lives of a containment now and may be touched, parents before children.
    fn living(&self, held: &Held) -> Vec<ProcessKey> {
        let forest = self.marks.forest();
        let mut found = targets(&forest, &held.roots, held.mark);
        let known: HashSet<ProcessKey> = found.iter().copied().collect();
        found.extend(held.processes.iter().filter(|key| !known.contains(key)));
        found.retain(|key| {
            Stat::read(key.tgid).is_ok_and(|stat| stat.is(*key) && stat.lives())
                && (self.scope.is_empty()
                    || self.hierarchies.path_of(key.tgid).is_ok_and(|path| self.in_scope(&path)))
        });
        found
    }
}

/// Lets processes run, listed parents before children, the other way around: a shell that runs while
/// its job still stands takes that for Ctrl-Z, and takes its terminal back.
pub(super) fn wake(processes: Vec<ProcessKey>, lives: impl Fn(ProcessKey) -> bool) -> u32 {
    signal_all(processes.into_iter().rev(), Signal::CONT, lives)
}

pub(super) fn braked(tally: &Tally) -> proto::Braked {
    proto::Braked {
        paused: tally.of(Deed::Paused),
        passed: tally.of(Deed::Passed),
        executed: tally.of(Deed::Executed),
        refused: tally.of(Deed::Refused),
    }
}

/// Thaws a frozen group; what went wrong, one sentence.
pub(super) fn thaw_group(dir: &Path) -> Option<String> {
    match cgroup::thaw(dir, FREEZER_PATIENCE) {
        Ok(()) => None,
        // Removed with its last member.
        Err(_) if !dir.exists() => None,
        Err(error) => Some(error.to_string()),
    }
}
