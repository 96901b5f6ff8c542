//! A place where memory can get short, the host or a cgroup: its files, which stay open, and one look at it.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    super::{
        parse::{self, Stalls},
        reading::{percent, read},
    },
    trend::Trend,
    trigger::{FULL_PERCENT, SOME_PERCENT, Trigger, Who},
};
use crate::proto::Pressure;

/// `/proc/vmstat` is the longest, some 5 KiB; a cgroup's `memory.stat` has 2.
pub(super) const BUFFER: usize = 16 << 10;

/// Memory cannot be filled faster than this, bytes a second: earlyoom assumes the same, one core writes 2.4
/// GB/s to fresh pages.
const FASTEST: u64 = 6_000_000_000;

/// Between two looks. earlyoom pauses 100 ms at least: here a look takes some 40 µs, and 50 ms of it are
/// 0.1 % of a core.
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(1);

/// A window is closed when the kernel has added up what was waited, which it does every 2 s and not at each
/// read; after this it has nothing to add.
const WINDOW_NS: u64 = 1_000_000_000;
const WIDEST_NS: u64 = 2_500_000_000;

/// For how long `memory.stat` may stay as it was, and the part of the limit that has to be left for that, one in so many.
const BELIEVED_NS: u64 = 2_000_000_000;
const ROOMY: u64 = 8;

/// Over which file pages that come back are counted, ns.
const REFAULTS_NS: u64 = 10_000_000_000;

/// What the kernel side counts beside it: times that somebody began to look for memory, and the ns it took.
pub type Reclaimed = (u64, u64);

pub(super) struct Place {
    /// cgroup v2 path; empty: the host.
    pub name: String,
    /// Where it is; none: the host.
    pub dir: Option<PathBuf>,
    /// Device and inode of the directory whose files are open: another one may get its name.
    id: Option<(u64, u64)>,
    /// The kernel has taken the triggers away.
    pub disarmed: bool,
    /// Of the host, that are online: on a large one somebody looks for memory somewhere at any time.
    cpus: u64,
    pressure: Option<File>,
    some: Option<Trigger>,
    full: Option<Trigger>,
    holds: Holds,
    trend: Trend,
    window: Window,
    /// Triggers of `full` in a row, and when the last one came.
    fired: (u32, u64),
    refaults: Refaults,
}

/// Files that say what is left.
enum Holds {
    Host { meminfo: Option<File>, vmstat: Option<File> },
    Group { max: Option<File>, high: Option<File>, used: Option<File>, stat: Stat },
}

/// A cgroup's `memory.stat`. To write it down costs the kernel more than all other files of a look together.
struct Stat {
    file: Option<File>,
    seen: Seen,
}

/// What stood in it.
#[derive(Clone, Copy, Default)]
struct Seen {
    at_ns: u64,
    /// What the cgroup used then.
    used: u64,
    cache: Option<u64>,
    refaults: Option<u64>,
}

/// A span of time in which waiting is added up.
#[derive(Default)]
struct Window {
    began_ns: u64,
    stalls: Stalls,
    reclaimed: Reclaimed,
    /// Of the last one that was closed.
    length_ns: u64,
    some: Option<f32>,
    full: Option<f32>,
    reclaims: u32,
    reclaim_percent: f32,
    /// Windows in a row in which all tasks waited.
    full_in_a_row: u32,
}

/// File pages that were read again.
#[derive(Default)]
struct Refaults {
    since_ns: u64,
    count: u64,
    percent: Option<f32>,
}

/// What is left, and of how much.
#[derive(Default)]
struct Left {
    total: Option<u64>,
    available: Option<u64>,
    swap_total: Option<u64>,
    swap_free: Option<u64>,
    /// Page cache that can be given up.
    file: Option<u64>,
    /// Of a cgroup, where it stands in a file that is read anyway: file pages that were read again.
    refaults: Option<u64>,
}

impl Place {
    /// `cpus`: that are online; `why`: gets why a trigger could not be set.
    pub fn host(proc: &Path, cpus: u32, why: &mut Option<String>) -> Self {
        let open = |name: &str| File::open(proc.join(name)).ok();
        let holds = Holds::Host { meminfo: open("meminfo"), vmstat: open("vmstat") };
        let place = Self::new(String::new(), None, &proc.join("pressure/memory"), holds, why);
        Self { cpus: u64::from(cpus.max(1)), ..place }
    }

    pub fn group(name: String, dir: &Path) -> Self {
        // Before its files: if another one comes meanwhile, it is not taken for this one.
        let id = identity(dir);
        let open = |name: &str| File::open(dir.join(name)).ok();
        let holds = Holds::Group {
            max: open("memory.max"),
            high: open("memory.high"),
            used: open("memory.current"),
            stat: Stat { file: open("memory.stat"), seen: Seen::default() },
        };
        let pressure = dir.join("memory.pressure");
        // What the host's say is enough to know.
        Self { id, ..Self::new(name, Some(dir.to_owned()), &pressure, holds, &mut None) }
    }

    fn new(
        name: String,
        dir: Option<PathBuf>,
        pressure: &Path,
        holds: Holds,
        why: &mut Option<String>,
    ) -> Self {
        let mut trigger = |who| {
            let set = Trigger::set(pressure, who);
            set.map_err(|error: io::Error| {
                why.get_or_insert_with(|| format!("{}: {error}", pressure.display()));
            })
            .ok()
        };
        let (some, full) = (trigger(Who::Some), trigger(Who::Full));
        Self {
            name,
            dir,
            id: None,
            disarmed: false,
            cpus: 1,
            pressure: File::open(pressure).ok(),
            some,
            full,
            holds,
            trend: Trend::default(),
            window: Window::default(),
            fired: (0, 0),
            refaults: Refaults::default(),
        }
    }

    /// What to wait for.
    pub fn triggers(&self) -> [Option<BorrowedFd<'_>>; 2] {
        [&self.some, &self.full].map(|trigger| trigger.as_ref().map(Trigger::as_fd))
    }

    /// The triggers are dead: the cgroup was removed, or its PSI switched off. Whoever waited for them would be
    /// woken at once, for ever.
    pub fn disarm(&mut self) {
        (self.some, self.full, self.disarmed) = (None, None, true);
    }

    /// Whether the directory whose files are open is still there by its name.
    pub fn is_there(&self) -> bool {
        self.dir.as_ref().is_none_or(|dir| self.id.is_some() && self.id == identity(dir))
    }

    #[cfg(test)]
    pub fn with_dead_triggers(mut self) -> Self {
        (self.some, self.full) = (Some(Trigger::dead()), Some(Trigger::dead()));
        self
    }

    /// The shortest window that the kernel took, if it took any.
    pub fn window(&self) -> Option<Duration> {
        self.full.as_ref().map(|trigger| Duration::from_nanos(trigger.window_ns))
    }

    /// One look. `fired`: which triggers have come; `now_ns`: boot clock. Asks for no memory.
    pub fn look(
        &mut self,
        now_ns: u64,
        fired: [bool; 2],
        reclaimed: Reclaimed,
        buffer: &mut [u8],
    ) -> Pressure {
        let left = self.holds.read(now_ns, buffer);
        let stalls = read(self.pressure.as_ref(), buffer).map(parse::stalls).unwrap_or_default();
        let host = self.dir.is_none();
        self.window.look(now_ns, stalls, (reclaimed.0, reclaimed.1 / self.cpus));
        let window = &self.window;
        let (mut some, mut full) = (window.some, window.full);
        if fired[0] {
            some = Some(some.unwrap_or_default().max(SOME_PERCENT));
        }
        if fired[1] {
            full = Some(full.unwrap_or_default().max(FULL_PERCENT));
            let window_ns = self.full.as_ref().map_or(WINDOW_NS, |trigger| trigger.window_ns);
            // One comes for each window, a little later than the last.
            let again = now_ns.saturating_sub(self.fired.1) <= window_ns + window_ns / 2;
            self.fired = (if again { self.fired.0 + 1 } else { 1 }, now_ns);
        } else if now_ns.saturating_sub(self.fired.1) > WIDEST_NS {
            self.fired.0 = 0;
        }
        let full_windows = window.full_in_a_row.max(self.fired.0);
        let fall = left.available.and_then(|available| self.trend.see(now_ns, available));
        let refaulted = if full.is_some_and(|it| it > 5.0) {
            let count = match &self.holds {
                Holds::Host { vmstat, .. } => {
                    read(vmstat.as_ref(), buffer).and_then(parse::refaults)
                }
                Holds::Group { .. } => left.refaults,
            };
            self.refaults.see(now_ns, count, left.file)
        } else {
            self.refaults.forget()
        };
        Pressure {
            at_ns: now_ns,
            // The caller's, where it is told of: a name is memory.
            cgroup: String::new(),
            total_bytes: left.total,
            available_bytes: left.available,
            swap_total_bytes: left.swap_total,
            swap_free_bytes: left.swap_free,
            window_ns: window.length_ns,
            some_percent: some,
            full_percent: full,
            some_avg10: stalls.some_avg10,
            full_avg10: stalls.full_avg10,
            full_windows,
            reclaims: host.then_some(window.reclaims),
            reclaim_percent: host.then_some(window.reclaim_percent),
            falling_bytes_per_second: fall.map(|fall| fall.bytes_per_second),
            falling_ns: fall.map_or(0, |fall| fall.for_ns),
            refaulted_percent: refaulted,
            gone: false,
        }
    }
}

/// Device and inode. Where an inode's number has 64 bits, cgroupfs gives it to no other later.
fn identity(dir: &Path) -> Option<(u64, u64)> {
    fs::metadata(dir).ok().map(|found| (found.dev(), found.ino()))
}

/// How long to wait until the next look at a place where so much is left: it cannot be used up meanwhile.
pub(super) fn pause(pressure: &Pressure) -> Duration {
    let left = pressure.available_bytes.unwrap_or(u64::MAX);
    Duration::from_nanos(left.saturating_mul(1_000) / (FASTEST / 1_000_000))
        .clamp(SHORTEST, LONGEST)
}

impl Holds {
    fn read(&mut self, now_ns: u64, buffer: &mut [u8]) -> Left {
        match self {
            Self::Host { meminfo, .. } => {
                let memory = read(meminfo.as_ref(), buffer).map(parse::memory).unwrap_or_default();
                Left {
                    total: memory.total,
                    available: memory.available,
                    swap_total: memory.swap_total,
                    swap_free: memory.swap_free,
                    file: memory.file(),
                    refaults: None,
                }
            }
            Self::Group { max, high, used, stat } => {
                let mut number = |file: &Option<File>| parse::single(read(file.as_ref(), buffer)?);
                let (limit, used) = (parse::limit(number(max), number(high)), number(used));
                let seen = stat.read(now_ns, limit, used, buffer);
                let held = used.map(|used| used.saturating_sub(seen.cache.unwrap_or_default()));
                // Swap of its own is not asked for: what a cgroup may swap, the host has to have.
                Left {
                    total: limit,
                    available: limit.zip(held).map(|(limit, held)| limit.saturating_sub(held)),
                    file: seen.cache,
                    refaults: seen.refaults,
                    ..Left::default()
                }
            }
        }
    }
}

impl Stat {
    /// As it is now; for a while as it was, where as much is used to the byte and there is room: at the limit a cgroup
    /// grows by giving up page cache, and uses no more than before.
    fn read(
        &mut self,
        now_ns: u64,
        limit: Option<u64>,
        used: Option<u64>,
        buffer: &mut [u8],
    ) -> Seen {
        let roomy =
            limit.zip(used).is_some_and(|(limit, used)| limit.saturating_sub(used) > limit / ROOMY);
        let is_recent = now_ns.saturating_sub(self.seen.at_ns) < BELIEVED_NS;
        if !(roomy && is_recent && used == Some(self.seen.used)) {
            let text = read(self.file.as_ref(), buffer).unwrap_or_default();
            self.seen = Seen {
                at_ns: now_ns,
                used: used.unwrap_or_default(),
                cache: parse::cache(text),
                refaults: parse::refaults(text),
            };
        }
        self.seen
    }
}

impl Window {
    fn look(&mut self, now_ns: u64, stalls: Stalls, reclaimed: Reclaimed) {
        let span_ns = now_ns.saturating_sub(self.began_ns);
        let added = stalls.some != self.stalls.some || stalls.full != self.stalls.full;
        if self.began_ns != 0 && (span_ns < WINDOW_NS || !added && span_ns < WIDEST_NS) {
            return;
        }
        if self.began_ns != 0 {
            self.some = percent(self.stalls.some, stalls.some, span_ns);
            self.full = percent(self.stalls.full, stalls.full, span_ns);
            self.length_ns = span_ns;
            let reclaims = reclaimed.0.saturating_sub(self.reclaimed.0);
            self.reclaims = u32::try_from(reclaims).unwrap_or(u32::MAX);
            let took_ns = reclaimed.1.saturating_sub(self.reclaimed.1);
            self.reclaim_percent = (took_ns as f64 / span_ns as f64 * 100.0) as f32;
            let all_waited = self.full.is_some_and(|full| full >= FULL_PERCENT);
            self.full_in_a_row = if all_waited { self.full_in_a_row.saturating_add(1) } else { 0 };
        }
        (self.began_ns, self.stalls, self.reclaimed) = (now_ns, stalls, reclaimed);
    }
}

impl Refaults {
    fn forget(&mut self) -> Option<f32> {
        *self = Self::default();
        None
    }

    /// Percent of the page cache that came back within the last whole span.
    fn see(&mut self, now_ns: u64, count: Option<u64>, file: Option<u64>) -> Option<f32> {
        let count = count?;
        let span_ns = now_ns.saturating_sub(self.since_ns);
        if self.since_ns == 0 {
            (self.since_ns, self.count) = (now_ns, count);
        } else if span_ns >= REFAULTS_NS {
            let pages = file? / rustix::param::page_size() as u64;
            let again = count.saturating_sub(self.count);
            self.percent = Some((again as f64 / pages.max(1) as f64 * 100.0) as f32);
            (self.since_ns, self.count) = (now_ns, count);
        }
        self.percent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::pressure::{Level, Limits, level};

    const S: u64 = 1_000_000_000;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    const MEMINFO: &str = "MemTotal: 1000000 kB\nMemAvailable: 600000 kB\nActive(file): 30000 kB\n\
                           Inactive(file): 10000 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n";

    #[test]
    fn a_host_that_waits() {
        let proc = tree(&[
            ("meminfo", MEMINFO),
            ("pressure/memory", "some avg10=0.00 total=0\nfull avg10=0.00 total=0\n"),
            ("vmstat", "workingset_refault_file 0\n"),
        ]);
        let mut why = None;
        let mut place = Place::host(proc.path(), 1, &mut why);
        // A plain file takes any text.
        fs::write(
            proc.path().join("pressure/memory"),
            "some avg10=0.00 total=0\nfull avg10=0.00 total=0\n",
        )
        .unwrap();
        let mut buffer = [0; BUFFER];
        let first = place.look(S, [false; 2], (0, 0), &mut buffer);
        assert_eq!((first.total_bytes, first.swap_free_bytes), (Some(1_024_000_000), Some(0)));
        assert_eq!((first.some_percent, first.window_ns), (None, 0), "nothing to compare with");
        let mut waited = 0;
        for second in 2..=30_u64 {
            waited += 800_000;
            let text =
                format!("some avg10=30.00 total={waited}\nfull avg10=21.50 total={}\n", waited / 2);
            fs::write(proc.path().join("pressure/memory"), text).unwrap();
            let again = format!("workingset_refault_file {}\n", second * 2_000);
            fs::write(proc.path().join("vmstat"), again).unwrap();
            let reclaimed = (second * 10, second * 60_000_000);
            let now = place.look(second * S, [false; 2], reclaimed, &mut buffer);
            assert_eq!((now.some_percent, now.full_percent), (Some(80.0), Some(40.0)));
            assert_eq!(u64::from(now.full_windows), second - 1);
            assert_eq!(now.full_avg10, Some(21.5));
            if second > 2 {
                assert_eq!((now.reclaims, now.reclaim_percent), (Some(10), Some(6.0)));
            }
            // 20,000 pages in 10 s, of 10,000 that there are.
            let expected = (second >= 12).then_some(200.0);
            assert_eq!(now.refaulted_percent, expected, "{second}");
        }
        // Between two windows the last one stands.
        let now = place.look(30 * S + S / 10, [false; 2], (300, 0), &mut buffer);
        assert_eq!(now.some_percent, Some(80.0));
        let now = place.look(33 * S, [false; 2], (300, 0), &mut buffer);
        assert_eq!((now.some_percent, now.full_windows), (Some(0.0), 0), "nobody waited since");
    }

    #[test]
    fn triggers_that_come_again_and_again() {
        let proc = tree(&[("meminfo", MEMINFO)]);
        let mut place = Place::host(proc.path(), 1, &mut None);
        let mut buffer = [0; BUFFER];
        for (at, fired, row) in [(10, true, 1), (11, true, 2), (12, true, 3), (14, true, 1)] {
            let now = place.look(at * S, [fired; 2], (0, 0), &mut buffer);
            assert_eq!((now.full_windows, now.some_percent), (row, Some(SOME_PERCENT)), "{at}");
        }
        let now = place.look(20 * S, [false; 2], (0, 0), &mut buffer);
        assert_eq!((now.full_windows, now.some_percent), (0, None));
    }

    #[test]
    fn a_large_host() {
        // 95 % of it is hugepages, and most of the rest is free.
        let meminfo = "MemTotal: 1000000 kB\nMemAvailable: 40000 kB\nHugetlb: 950000 kB\n";
        let proc = tree(&[("meminfo", meminfo)]);
        let mut place = Place::host(proc.path(), 256, &mut None);
        let mut buffer = [0; BUFFER];
        let mut look = |at, reclaimed| place.look(at * S, [false; 2], reclaimed, &mut buffer);
        look(1, (0, 0));
        // 2.56 s in each second, by 256 CPUs.
        let now = look(4, (10, 7_680_000_000));
        assert_eq!((now.reclaims, now.reclaim_percent), (Some(10), Some(1.0)));
        assert_eq!(now.total_bytes, Some(51_200_000));
        assert!(level(&now, Level::Calm, &Limits::default()) < Level::Warning, "{now:?}");
    }

    #[test]
    fn another_one_by_the_same_name() {
        let root = tree(&[("box/memory.max", "1000\n"), ("other/memory.max", "1000\n")]);
        let dir = root.path().join("box");
        let place = Place::group("/box".into(), &dir);
        assert!(place.is_there());
        fs::remove_dir_all(&dir).unwrap();
        assert!(!place.is_there());
        fs::rename(root.path().join("other"), &dir).unwrap();
        assert!(!place.is_there(), "it is not the one whose files are open");
        assert!(Place::group("/box".into(), &dir).is_there());
        assert!(!Place::group("/no".into(), &root.path().join("no")).is_there());
        assert!(Place::host(Path::new("/nowhere"), 1, &mut None).is_there());
    }

    #[test]
    fn a_cgroups_page_cache_counts_as_free() {
        let dir = tree(&[
            ("memory.max", "1000000\n"),
            ("memory.current", "900000\n"),
            ("memory.stat", "anon 500000\ninactive_file 300000\nactive_file 50000\n"),
        ]);
        let mut place = Place::group("/box".into(), dir.path());
        let mut buffer = [0; BUFFER];
        let now = place.look(S, [false; 2], (7, 7), &mut buffer);
        assert_eq!((now.total_bytes, now.available_bytes), (Some(1_000_000), Some(450_000)));
        assert_eq!((now.reclaims, now.swap_total_bytes), (None, None));
        fs::write(dir.path().join("memory.max"), "max\n").unwrap();
        let now = place.look(2 * S, [false; 2], (7, 7), &mut buffer);
        assert_eq!((now.total_bytes, now.available_bytes), (None, None), "no limit");
        fs::write(dir.path().join("memory.high"), "600000\n").unwrap();
        let mut place = Place::group("/box".into(), dir.path());
        let now = place.look(3 * S, [false; 2], (7, 7), &mut buffer);
        assert_eq!((now.total_bytes, now.available_bytes), (Some(600_000), Some(50_000)), "stalls");
        drop(dir);
        let gone = tempfile::tempdir().unwrap();
        let mut place = Place::group("/gone".into(), &gone.path().join("gone"));
        let now = place.look(S, [false; 2], (0, 0), &mut buffer);
        assert_eq!(now, Pressure { at_ns: S, ..Pressure::default() });
    }

    #[test]
    fn what_a_cgroup_gives_up_is_read_again_where_that_could_matter() {
        let dir = tree(&[
            ("memory.max", "1000000\n"),
            ("memory.current", "500000\n"),
            ("memory.stat", "inactive_file 300000\nactive_file 0\n"),
        ]);
        let put = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        let mut place = Place::group("/box".into(), dir.path());
        let mut buffer = [0; BUFFER];
        let mut left =
            |at_ns| place.look(at_ns, [false; 2], (0, 0), &mut buffer).available_bytes.unwrap();
        assert_eq!(left(10 * S), 800_000);
        put("memory.stat", "inactive_file 100000\nactive_file 0\n");
        assert_eq!(left(10 * S + BELIEVED_NS - 1), 800_000, "nobody asked for a page");
        put("memory.current", "500001\n");
        assert_eq!(left(11 * S), 599_999, "somebody did");
        put("memory.stat", "inactive_file 0\nactive_file 0\n");
        assert_eq!(left(11 * S + BELIEVED_NS), 499_999, "it is not believed for ever");
        // At its limit.
        put("memory.current", "1000000\n");
        assert_eq!(left(14 * S), 0);
        put("memory.stat", "inactive_file 100000\nactive_file 0\n");
        assert_eq!(left(14 * S + 1), 100_000);
    }

    #[test]
    fn a_cgroup_whose_working_set_does_not_fit() {
        let dir = tree(&[("memory.max", "1000000\n"), ("memory.current", "900000\n")]);
        let put = |name: &str, text: String| fs::write(dir.path().join(name), text).unwrap();
        // 100 pages of page cache, of which 10 come back each second; all wait for half of the time.
        let pages = 100 * rustix::param::page_size();
        let second = |at: u64| {
            let again = at * 10;
            put(
                "memory.stat",
                format!("inactive_file {pages}\nactive_file 0\nworkingset_refault_file {again}\n"),
            );
            put("memory.pressure", format!("some total=0\nfull total={}\n", at * 500_000));
        };
        second(0);
        let mut place = Place::group("/box".into(), dir.path());
        // A plain file takes any text, that of a trigger as well.
        let mut buffer = [0; BUFFER];
        for at in 1..=30 {
            second(at);
            let now = place.look(at * S, [false; 2], (0, 0), &mut buffer);
            let expected = (at >= 12).then_some(100.0);
            assert_eq!(now.refaulted_percent, expected, "{at}");
        }
    }

    #[test]
    fn nobody_fills_what_is_left_between_two_looks() {
        let left =
            |available| pause(&Pressure { available_bytes: available, ..Pressure::default() });
        assert_eq!(left(None), LONGEST);
        assert_eq!(left(Some(24 << 30)), LONGEST);
        assert_eq!(left(Some(3_000_000_000)), Duration::from_millis(500));
        assert_eq!(left(Some(100 << 20)), SHORTEST);
        assert_eq!(left(Some(0)), SHORTEST);
    }
}
