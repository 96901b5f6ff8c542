//! Pressure on memory, host-wide and in cgroups at their limit: a thread of its own, which is woken by the
//! kernel's PSI triggers and looks the more often the less is left.
//!
//! Its loop asks for no memory: files stay open and are read into one buffer. Only what it tells of is
//! handed over in a message. Whoever could make things worse asks [`Strain`] before.
//!
//! - `place`: the files of a host or cgroup, and one look at them
//! - `trend`: how fast what is left falls
//! - `trigger`: PSI triggers

mod place;
mod trend;
mod trigger;

use std::{
    io, mem,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use self::place::{BUFFER, Place, pause};
pub use self::{
    place::Reclaimed,
    trigger::{Trigger, Who},
};
use crate::{
    clock,
    detect::pressure::{Level, Limits, Teller},
    proto::Pressure,
};

/// cgroups that are watched beside the host: 7 open files, triggers included, and a look of 50 µs each.
pub const GROUPS: usize = 8;

/// Whether the host's memory is exhausted: then nobody scans processes or asks for memory that can wait.
#[derive(Clone, Debug, Default)]
pub struct Strain(Arc<AtomicBool>);

impl Strain {
    pub fn is_exhausted(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, exhausted: bool) {
        self.0.store(exhausted, Ordering::Relaxed);
    }
}

/// A cgroup to watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// v2 path.
    pub name: String,
    pub dir: PathBuf,
}

/// What the thread works with.
pub struct Options {
    pub proc: PathBuf,
    /// That are online.
    pub cpus: u32,
    pub limits: Limits,
    pub strain: Strain,
    /// Real-time priority; none: an ordinary thread.
    pub priority: Option<i32>,
}

/// The thread; ends with this value.
pub struct Watcher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// Why the kernel wakes us not at all, or later than it could.
    pub degraded: Option<String>,
}

struct Shared {
    /// Wakes the thread: there are other groups, or it is to end.
    wake: OwnedFd,
    ends: AtomicBool,
    /// Which cgroups are to be watched, where that has changed.
    wanted: Mutex<Option<Vec<Group>>>,
}

impl Watcher {
    /// Starts the thread. `reclaimed`: what the kernel side counts; `tell` gets the looks that are worth a
    /// record, and must not wait.
    pub fn start(
        options: Options,
        reclaimed: impl Fn() -> Reclaimed + Send + 'static,
        mut tell: impl FnMut(Pressure) + Send + 'static,
    ) -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let shared =
            Arc::new(Shared { wake, ends: AtomicBool::new(false), wanted: Mutex::new(None) });
        let mut why = None;
        let host = Place::host(&options.proc, options.cpus, &mut why);
        let degraded = degraded(&host, why);
        let ours = Arc::clone(&shared);
        let thread = thread::Builder::new().name("pressure".into()).spawn(move || {
            if let Some(priority) = options.priority {
                // Refused: then it is as late as others under a storm.
                let _ = crate::kernel::become_realtime(priority);
            }
            let mut watch = Watch::new(host, &options);
            while !ours.ends.load(Ordering::Relaxed) {
                watch.wait(&ours.wake);
                let now_ns = clock::boot_ns();
                watch.bury(now_ns, |place| place.disarmed, &mut tell);
                if let Some(wanted) = ours.take() {
                    watch.change(wanted, now_ns, &mut tell);
                }
                watch.look(now_ns, &reclaimed, &mut tell);
            }
        })?;
        Ok(Self { shared, thread: Some(thread), degraded })
    }

    /// Which cgroups to watch from now on; of more than [`GROUPS`] the first.
    pub fn watch(&self, groups: Vec<Group>) {
        *self.shared.wanted.lock().unwrap_or_else(PoisonError::into_inner) = Some(groups);
        self.shared.wake();
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        self.shared.wake();
        if let Some(thread) = self.thread.take() {
            // It panicked: then there is nothing to wait for.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn wake(&self) {
        // An eventfd takes eight bytes; it is full only if nobody has read it for ever.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    fn take(&self) -> Option<Vec<Group>> {
        // Whoever changes it does so in one step.
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// What is worse than it could be about the host's triggers.
fn degraded(host: &Place, why: Option<String>) -> Option<String> {
    match (host.window(), why) {
        (_, Some(why)) => Some(format!("no PSI triggers, pressure is polled: {why}")),
        (Some(window), None) if window > Duration::from_secs(1) => {
            Some(format!("PSI windows of {} s instead of 1 s", window.as_secs()))
        }
        _ => None,
    }
}

/// Descriptors that one wait may have: two triggers a place, and what wakes us.
const WAITS: usize = 2 * (GROUPS + 1) + 1;

/// A place and what is known of it.
struct Watched {
    place: Place,
    teller: Teller,
    /// Which of its triggers have come.
    fired: [bool; 2],
    /// When it was looked at, and how long nothing can happen from then on, ns.
    looked_ns: u64,
    pause_ns: u64,
}

impl Watched {
    fn of(place: Place) -> Self {
        Self { place, teller: Teller::default(), fired: [false; 2], looked_ns: 0, pause_ns: 0 }
    }

    /// One that is due soon is looked at with those that are: one wake-up less.
    fn is_due(&self, now_ns: u64) -> bool {
        let waited_ns = now_ns.saturating_sub(self.looked_ns);
        self.fired.contains(&true) || waited_ns >= self.pause_ns - self.pause_ns / 16
    }
}

/// All places.
struct Watch {
    limits: Limits,
    strain: Strain,
    /// The host first.
    places: Vec<Watched>,
    pause: Duration,
    buffer: Box<[u8; BUFFER]>,
}

impl Watch {
    fn new(host: Place, options: &Options) -> Self {
        let mut places = Vec::with_capacity(GROUPS + 1);
        places.push(Watched::of(host));
        Self {
            limits: options.limits,
            strain: options.strain.clone(),
            places,
            pause: Duration::ZERO,
            buffer: Box::new([0; BUFFER]),
        }
    }

    /// Waits for a trigger, or as long as nothing can have happened.
    fn wait(&mut self, wake: &OwnedFd) {
        let timeout = Timespec {
            tv_sec: self.pause.as_secs() as i64,
            tv_nsec: i64::from(self.pause.subsec_nanos()),
        };
        let mut waits: [PollFd<'_>; WAITS] =
            std::array::from_fn(|_| PollFd::from_borrowed_fd(wake.as_fd(), PollFlags::IN));
        let mut of = [(0, 0); WAITS];
        let mut used = 1;
        for (at, watched) in self.places.iter().enumerate() {
            for (which, trigger) in watched.place.triggers().into_iter().enumerate() {
                if let Some(trigger) = trigger {
                    waits[used] = PollFd::from_borrowed_fd(trigger, PollFlags::PRI);
                    of[used] = (at, which);
                    used += 1;
                }
            }
        }
        // Interrupted or timed out: look all the same.
        let _ = poll(&mut waits[..used], Some(&timeout));
        let came: [PollFlags; WAITS] = std::array::from_fn(|at| waits[at].revents());
        if !came[0].is_empty() {
            let _ = rustix::io::read(wake, &mut [0; 8]);
        }
        for watched in &mut self.places {
            watched.fired = [false; 2];
        }
        for (came, (at, which)) in came[1..used].iter().zip(&of[1..used]) {
            let Watched { place, fired, .. } = &mut self.places[*at];
            // A dead one has `PRI` as well.
            if came.contains(PollFlags::ERR) {
                place.disarm();
            } else {
                fired[*which] = came.contains(PollFlags::PRI);
            }
        }
    }

    fn look(
        &mut self,
        now_ns: u64,
        reclaimed: &impl Fn() -> Reclaimed,
        tell: &mut impl FnMut(Pressure),
    ) {
        let reclaimed = reclaimed();
        let mut next_ns = u64::MAX;
        for watched in &mut self.places {
            if watched.is_due(now_ns) {
                let Watched { place, teller, fired, .. } = watched;
                let mut pressure =
                    place.look(now_ns, *fired, reclaimed, self.buffer.as_mut_slice());
                let told = teller.tells(&pressure, &self.limits);
                if place.dir.is_none() {
                    self.strain.set(teller.held() == Level::Critical);
                }
                (watched.looked_ns, watched.pause_ns) =
                    (now_ns, pause(&pressure).as_nanos() as u64);
                if told {
                    pressure.cgroup.clone_from(&watched.place.name);
                    tell(pressure);
                }
            }
            next_ns = next_ns.min(watched.looked_ns.saturating_add(watched.pause_ns));
        }
        self.pause = Duration::from_nanos(next_ns.saturating_sub(now_ns));
    }

    /// Drops those of the suspects whose cgroup is gone, or is another one by the same name. Whoever was told that it
    /// is not calm there is told of its end.
    fn bury(
        &mut self,
        now_ns: u64,
        suspected: impl Fn(&Place) -> bool,
        tell: &mut impl FnMut(Pressure),
    ) {
        self.places.retain_mut(|Watched { place, teller, .. }| {
            let stays = !suspected(place) || place.is_there();
            if !stays && teller.held() > Level::Calm {
                let cgroup = mem::take(&mut place.name);
                tell(Pressure { at_ns: now_ns, cgroup, gone: true, ..Pressure::default() });
            }
            stays
        });
    }

    /// Other cgroups; those that are watched already go on as they are, and so do those that are not calm.
    fn change(&mut self, wanted: Vec<Group>, now_ns: u64, tell: &mut impl FnMut(Pressure)) {
        self.bury(now_ns, |_| true, tell);
        self.places.retain(|Watched { place, teller, .. }| {
            place.dir.is_none()
                || teller.held() > Level::Calm
                || wanted.iter().any(|group| group.name == place.name)
        });
        for group in wanted {
            let room = self.places.len() <= GROUPS;
            let known = self.places.iter_mut().find(|it| it.place.name == group.name);
            if let Some(known) = known {
                // Its files are opened anew, what is held of it stays.
                if known.place.disarmed {
                    known.place = Place::group(group.name, &group.dir);
                }
            } else if room {
                self.places.push(Watched::of(Place::group(group.name, &group.dir)));
            }
        }
    }
}

/// What `sensor doctor` says of triggers: the window that the kernel takes.
pub fn try_trigger(proc: &Path) -> Result<String, String> {
    let file = proc.join("pressure/memory");
    let trigger =
        Trigger::set(&file, Who::Some).map_err(|error| format!("{}: {error}", file.display()))?;
    let window = Duration::from_nanos(trigger.window_ns);
    match window.as_secs() {
        1 => Ok("windows of 1 s".into()),
        longer => Err(format!("windows of {longer} s only")),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::mpsc};

    use super::*;

    fn meminfo(available_kib: u64) -> String {
        format!("MemTotal: 1000000 kB\nMemAvailable: {available_kib} kB\n")
    }

    #[test]
    fn a_host_and_a_cgroup_that_run_out() {
        let proc = tempfile::tempdir().unwrap();
        let group = tempfile::tempdir().unwrap();
        fs::write(proc.path().join("meminfo"), meminfo(900_000)).unwrap();
        fs::write(group.path().join("memory.max"), "1000\n").unwrap();
        fs::write(group.path().join("memory.current"), "990\n").unwrap();
        let strain = Strain::default();
        let options = Options {
            proc: proc.path().to_owned(),
            cpus: 1,
            limits: Limits::default(),
            strain: strain.clone(),
            priority: None,
        };
        let (told, tellings) = mpsc::channel();
        let reclaimed = || (0, 0);
        let watcher = Watcher::start(options, reclaimed, move |pressure| {
            let _ = told.send(pressure);
        })
        .unwrap();
        assert!(watcher.degraded.as_ref().unwrap().contains("polled"), "{:?}", watcher.degraded);
        let boxed = Group { name: "/box".into(), dir: group.path().to_owned() };
        watcher.watch(vec![boxed]);
        let next = || tellings.recv_timeout(Duration::from_secs(20)).unwrap();
        let first = next();
        assert_eq!((first.cgroup.as_str(), first.available_bytes), ("/box", Some(10)));
        assert!(!strain.is_exhausted(), "that is no matter of the host");
        fs::write(proc.path().join("meminfo"), meminfo(10_000)).unwrap();
        let host = std::iter::from_fn(|| Some(next())).find(|it| it.cgroup.is_empty()).unwrap();
        assert_eq!(host.available_bytes, Some(10_240_000));
        assert!(strain.is_exhausted());
        drop(watcher);
        assert!(tellings.iter().count() < 100, "it has ended");
    }

    /// Of a host that tells nothing.
    fn watch() -> Watch {
        let options = Options {
            proc: "/nowhere".into(),
            cpus: 1,
            limits: Limits::default(),
            strain: Strain::default(),
            priority: None,
        };
        Watch::new(Place::host(&options.proc, 1, &mut None), &options)
    }

    fn names(watch: &Watch) -> Vec<&str> {
        watch.places.iter().map(|watched| watched.place.name.as_str()).collect()
    }

    fn silence(pressure: Pressure) {
        panic!("nothing is worth a record: {pressure:?}");
    }

    #[test]
    fn groups_come_and_go() {
        let mut watch = watch();
        let dirs: Vec<tempfile::TempDir> =
            (0..GROUPS + 4).map(|_| tempfile::tempdir().unwrap()).collect();
        let group = |at: usize| Group { name: format!("/{at}"), dir: dirs[at].path().to_owned() };
        watch.change((0..GROUPS + 4).map(group).collect(), 1, &mut silence);
        assert_eq!(watch.places.len(), GROUPS + 1);
        watch.change(vec![group(3), group(10)], 1, &mut silence);
        assert_eq!(names(&watch), ["", "/3", "/10"]);
        fs::remove_dir(dirs[3].path()).unwrap();
        watch.change(vec![group(3)], 1, &mut silence);
        assert_eq!(names(&watch), ["", "/3"], "a cgroup may be made once more");
    }

    /// Makes a group that has so much left of 1,000 bytes.
    fn make(dir: &Path, left: u32) {
        fs::create_dir(dir).unwrap();
        fs::write(dir.join("memory.max"), "1000\n").unwrap();
        fs::write(dir.join("memory.current"), format!("{}\n", 1000 - left)).unwrap();
    }

    #[test]
    fn each_place_is_looked_at_in_its_own_time() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("box");
        make(&dir, 10);
        let mut watch = watch();
        let ms = |ms: u64| 1_000_000_000 + ms * 1_000_000;
        watch.change(vec![Group { name: "/box".into(), dir }], ms(0), &mut silence);
        let mut looked = |at_ns, fired: [bool; 2]| {
            watch.places[0].fired = fired;
            watch.look(at_ns, &|| (0, 0), &mut |_| {});
            let at = watch.places.iter().map(|it| it.looked_ns).collect::<Vec<_>>();
            (at, watch.pause.as_millis())
        };
        // The host has room for a second, the cgroup for no time at all.
        assert_eq!(looked(ms(0), [false; 2]), (vec![ms(0), ms(0)], 50));
        assert_eq!(looked(ms(20), [false; 2]), (vec![ms(0), ms(0)], 30), "neither is due");
        assert_eq!(looked(ms(50), [false; 2]), (vec![ms(0), ms(50)], 50));
        assert_eq!(looked(ms(60), [true, false]), (vec![ms(60), ms(50)], 40), "a trigger");
        assert_eq!(looked(ms(950), [false; 2]), (vec![ms(60), ms(950)], 50));
        assert_eq!(looked(ms(1000), [false; 2]), (vec![ms(1000), ms(1000)], 50), "together");
    }

    #[test]
    fn one_that_is_gone_is_told_of_and_the_next_by_its_name_is_another() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("box");
        let wanted = || vec![Group { name: "/box".into(), dir: dir.clone() }];
        let mut told: Vec<Pressure> = Vec::new();
        let mut tell = |pressure| told.push(pressure);
        let mut watch = watch();
        make(&dir, 10);
        watch.change(wanted(), 1, &mut tell);
        watch.look(2, &|| (0, 0), &mut tell);
        // It was made anew before anybody looked whether it is there.
        make(&root.path().join("other"), 900);
        fs::remove_dir_all(&dir).unwrap();
        fs::rename(root.path().join("other"), &dir).unwrap();
        watch.change(wanted(), 3, &mut tell);
        assert_eq!(names(&watch), ["", "/box"]);
        watch.look(4, &|| (0, 0), &mut tell);
        // Nobody was told of the new one: its end is no news.
        fs::remove_dir_all(&dir).unwrap();
        watch.change(Vec::new(), 5, &mut tell);
        assert_eq!(names(&watch), [""]);
        let gone = Pressure { at_ns: 3, cgroup: "/box".into(), gone: true, ..Pressure::default() };
        assert_eq!((told[0].available_bytes, told[0].gone), (Some(10), false));
        assert_eq!(told[1..], [gone]);
    }

    #[test]
    fn a_dead_trigger_is_waited_for_once() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("box");
        make(&dir, 10);
        let mut told: Vec<Pressure> = Vec::new();
        let mut tell = |pressure| told.push(pressure);
        let mut watch = watch();
        let wanted = || vec![Group { name: "/box".into(), dir: dir.clone() }];
        watch.change(wanted(), 1, &mut tell);
        watch.look(2, &|| (0, 0), &mut tell);
        let kill = |watch: &mut Watch| {
            let watched = watch.places.pop().unwrap();
            let place = watched.place.with_dead_triggers();
            watch.places.push(Watched { place, ..watched });
        };
        kill(&mut watch);
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        watch.pause = Duration::from_secs(5);
        watch.wait(&wake);
        let armed = |watch: &Watch| watch.places[1].place.triggers().iter().flatten().count();
        assert_eq!((armed(&watch), watch.places[1].fired), (0, [false; 2]));
        // Its PSI was switched off, and it is still there: it goes on as it was, with files that are opened anew.
        watch.bury(3, |place| place.disarmed, &mut tell);
        assert_eq!(names(&watch), ["", "/box"]);
        watch.change(wanted(), 3, &mut tell);
        let Watched { place, teller, .. } = &watch.places[1];
        assert_eq!((place.disarmed, teller.held()), (false, Level::Critical));
        // It was removed.
        kill(&mut watch);
        fs::remove_dir_all(&dir).unwrap();
        watch.wait(&wake);
        watch.bury(4, |place| place.disarmed, &mut tell);
        assert_eq!(names(&watch), [""]);
        let told: Vec<(u64, bool)> = told.iter().map(|it| (it.at_ns, it.gone)).collect();
        assert_eq!(told, [(2, false), (4, true)]);
    }
}
