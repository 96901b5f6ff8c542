//! What the kernel says. It means no harm, but lets anybody choose names, titles and paths.

use std::{
    fs,
    path::{Component, Path, PathBuf},
    time::Duration,
};

use sensor_common::{
    event,
    gate::{Level, Rule},
    lineage::ARGV_KEPT,
    oom, witness,
};

use super::choice;
use crate::{
    cgroup::{Hierarchies, directory, membership},
    evidence::{
        kmsg::{self, Tail},
        oom_report::{self, Candidate},
        open_files, proc, setting, sockets,
    },
    investigate::sandbox,
    kernel::{Event, btf::Btf, reader, split},
    proto,
    respond::process::Stat,
    vitals::parse,
};

pub fn event(bytes: &[u8]) {
    let Some(event) = reader::parse(bytes) else { return };
    let (alarm, record) = match &event {
        Event::Alarm(alarm) => (Some(alarm), None),
        Event::Respawned(respawned) => (Some(&respawned.alarm), Some(&respawned.record)),
        Event::Executed(exec) => (None, Some(&exec.record)),
        Event::Exec(exec) => {
            let area = &exec.argv[..(exec.kept as usize).min(ARGV_KEPT)];
            return rejoined(area, &split(area));
        }
        Event::Marked(marked) => (None, Some(&marked.record)),
        Event::Ran(ran) => (None, Some(&ran.record)),
        Event::Braked(_)
        | Event::Forked(_)
        | Event::Exited(_)
        | Event::Killed(_)
        | Event::Left(_) => (None, None),
    };
    if let Some(alarm) = alarm {
        assert!(Rule::of(alarm.rule).is_none_or(|rule| rule as u16 == alarm.rule));
        assert!(Level::of(alarm.level).is_none_or(|level| level as u16 == alarm.level));
    }
    if let Some(record) = record {
        let area = &record.argv[..(record.kept as usize).min(ARGV_KEPT)];
        rejoined(area, &split(area));
    }
}

/// Nothing is lost between the arguments.
fn rejoined(area: &[u8], argv: &[Vec<u8>]) {
    let joined = argv.join(&0);
    assert!(area == joined || area.strip_suffix(b"\0") == Some(&joined), "{area:?}");
}

pub fn events() -> Vec<Vec<u8>> {
    [
        (event::ALARM, size_of::<event::Alarm>()),
        (event::EXEC, size_of::<event::Exec>()),
        (event::BRAKED, size_of::<event::Braked>()),
        (event::FORKED, size_of::<event::Forked>()),
        (event::EXECUTED, size_of::<event::Executed>()),
        (event::EXITED, size_of::<event::Exited>()),
        (event::RESPAWNED, size_of::<event::Respawned>()),
        (event::MARKED, size_of::<oom::Marked>()),
        (event::KILLED, size_of::<oom::Killed>()),
        (event::RAN, size_of::<witness::Ran>()),
        (event::LEFT, size_of::<witness::Left>()),
    ]
    .map(|(tag, size)| [&tag.to_ne_bytes()[..], &vec![1; size - 4]].concat())
    .to_vec()
}

/// An odd choice: with a header that fits, which chance would seldom write.
pub fn btf(bytes: &[u8]) {
    let (choice, rest) = choice(bytes);
    let mut file = rest.to_vec();
    if choice % 2 == 1 {
        let types = rest.len() - STRINGS.len().min(rest.len());
        file = header(types as u32);
        file.extend(&rest[..types]);
        file.extend(STRINGS);
    }
    if let Ok(btf) = Btf::parse(file) {
        let _ = btf.offsets();
        for member in ["pid", "tgid"] {
            // Offsets are in bits, 32 of them, and members lie in each other 16 deep.
            let offset = btf.offset("task_struct", member);
            assert!(offset.is_none_or(|offset| offset <= 17 * u64::from(u32::MAX / 8)));
        }
    }
}

const STRINGS: &[u8] = b"\0task_struct\0pid\0tgid\0";

fn header(types: u32) -> Vec<u8> {
    let mut bytes = 0xeb9f_u16.to_ne_bytes().to_vec();
    bytes.extend([1, 0]);
    for word in [24, 0, types, types, STRINGS.len() as u32] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes
}

pub fn btfs() -> Vec<Vec<u8>> {
    // An int; an anonymous struct { tgid at 8 }; task_struct { pid at 0, the other at 4 }.
    let words: [u32; 18] =
        [0, 1 << 24, 4, 32, 0, 4 << 24 | 1, 12, 17, 1, 64, 1, 4 << 24 | 2, 16, 13, 1, 0, 0, 2];
    let mut types: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    types.extend(32_u32.to_ne_bytes());
    let whole = [&[0][..], &header(types.len() as u32), &types, STRINGS].concat();
    vec![whole, [&[1][..], &types, STRINGS].concat()]
}

pub fn proc(bytes: &[u8]) {
    let (choice, text) = choice(bytes);
    match choice % 8 {
        0 => {
            let stat = proc::parse_stat(text);
            if let Some(stat) = &stat {
                assert!(stat.comm.len() + 2 <= text.len());
            }
            // Two readers of one line: where both see something it is the same. A state is a letter of ASCII.
            if let (Some(one), Some(other)) = (stat, Stat::parse(text))
                && one.state.is_ascii()
            {
                assert_eq!((one.ppid, one.state), (other.ppid, char::from(other.state)));
                assert_eq!(other.start_ns(), one.start_ticks.saturating_mul(10_000_000));
            }
        }
        1 => assert!(proc::parse_status(text).groups.len() <= text.len()),
        2 => {
            let argv = proc::split_argv(text);
            let shown = text.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            assert_eq!(argv.join(&0), text[..shown]);
        }
        3 => {
            let _ = proc::mount_dev(text, 26);
        }
        4 => {
            let found = setting::limits(text);
            assert!(found.iter().all(|limit| !limit.name.is_empty()));
        }
        5 => {
            let mut found = proto::Setting::default();
            setting::name(text, &mut found);
            let names = [found.unit, found.slice, found.container, found.pod].concat();
            assert!(!names.chars().any(char::is_control) && names.len() <= 16 * text.len());
        }
        6 => {
            let parsed = [open_files::internet("tcp6", text), open_files::unix(text)];
            assert!(parsed.iter().flatten().all(|(_, row)| row.address.len() <= text.len() + 64));
        }
        _ => {
            let Ok(net) = tempfile::tempdir() else { return };
            for (name, part) in ["tcp", "tcp6", "unix"].iter().zip(text.split(|byte| *byte == 0)) {
                assert!(fs::write(net.path().join(name), part).is_ok());
            }
            let found = sockets::listening(net.path());
            assert!(found.is_ok_and(|found| found.len() <= text.len()));
        }
    }
}

pub fn procs() -> Vec<Vec<u8>> {
    [
        "\x0042 (a) R 1 (b\n) S 7 42 42 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0",
        "\x01Name:\tx\nUid:\t1000\t0\t0\t0\nGid:\t5\t5\nGroups:\t4 24 \nVmRSS:\t  12 kB\nRssAnon:\t 8 kB\n",
        "\x02npm\0run\0\0x\0\0\0",
        "\x0326 1 0:22 / /proc rw,nosuid - proc proc rw\n27 1 8:1 / / rw - ext4 /dev/sda1 rw\n",
        "\x04Max open files            1024                 unlimited            files     \n",
        "\x050::/kubepods/podx/0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n",
        "\x06   0: 0100007F:1F90 00000000:0000 0A 0:0 0:0 0 0 0 4711 1",
        "\x06f0: 00000002 00000000 00010000 0001 01    77 /run/x y",
        "\x07  sl  local_address rem_address   st\n   0: 0100007F:1F90 00000000:0000 0A 0:0 0:0 0 0 0 4711 1\n\0x\0\
         Num RefCount Protocol Flags Type St Inode Path\nf0: 00000002 00000000 00010000 0001 01 77 /run/x\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

pub fn cgroup(bytes: &[u8]) {
    let mut parts = bytes.splitn(3, |byte| *byte == 0);
    let mut part = || parts.next().unwrap_or_default();
    let (mounts, groups, name) = (part(), part(), String::from_utf8_lossy(part()));
    let found = Hierarchies::parse(mounts, Path::new("/proc"));
    for controller in [None, Some("pids")] {
        let Some(path) = membership(groups, controller) else { continue };
        assert!(!path.as_os_str().as_encoded_bytes().contains(&b'\n'));
        if let (Some(dir), Some(at)) = (found.dir(&path), found.unified()) {
            // Nobody leads us out of what is mounted.
            assert!(dir.starts_with(at), "{} of {}", dir.display(), at.display());
            let below = dir.strip_prefix(at).map(Path::to_owned).unwrap_or_default();
            assert!(!below.components().any(|part| part == Component::ParentDir));
            if path.is_absolute() {
                let back = found.path(&dir).map(|it| it.components().collect::<PathBuf>());
                assert_eq!(back, Some(path.components().collect()));
            }
        }
    }
    let _ = directory::flag(&name, "frozen");
    if let Some((key, id)) = sandbox::parse(&name) {
        let again = sandbox::parse(&name[..name.len() - id.len()]);
        assert_eq!(again, Some((key, "")));
    }
}

pub fn cgroups() -> Vec<Vec<u8>> {
    let mounts = "35 31 0:32 /box /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n\
                  39 31 0:36 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
                  41 31 0:38 /a /sys/fs/cgroup/uni\\040fied rw,relatime - cgroup2 cgroup2 rw\n";
    let groups = "12:pids:/x\n0::/a/b:c\n";
    ["frozen 1\npopulated 0\n", "investigation-7-4711-i1"]
        .map(|name| [mounts, groups, name].join("\0").into_bytes())
        .to_vec()
}

pub fn vitals(text: &[u8]) {
    let (load, _) = parse::load(text);
    assert!(load.is_none_or(|load| load.is_finite() && load >= 0.0));
    let memory = parse::memory(text);
    assert!(memory.available.is_none_or(|bytes| bytes % 1024 == 0));
    assert!(memory.swapped().is_none_or(|bytes| bytes % 1024 == 0));
    assert!(memory.file().is_none_or(|bytes| bytes % 1024 == 0));
    let _ = (parse::cache(text), parse::refaults(text), parse::single(text));
    assert!(parse::cpus(text).is_none_or(|(all, idle)| idle <= all));
    let stalls = parse::stalls(text);
    for average in [stalls.some_avg10, stalls.full_avg10].into_iter().flatten() {
        assert!((0.0..=100.0).contains(&average));
    }
    let host = parse::host(text);
    assert!(host.available_bytes.is_none_or(|bytes| bytes % 1024 == 0));
}

pub fn vital_files() -> Vec<Vec<u8>> {
    [
        "some avg10=7.84 avg60=30.06 avg300=29.35 total=4686632056\nfull avg10=0.00 total=12\n",
        "4.86 9.68 10.02 2/99 8980\n",
        "MemTotal: 24684092 kB\nMemAvailable: 1000 kB\nSwapTotal:  2048 kB\nSwapFree:  2000 kB\n\
         Active(file): 3 kB\nInactive(file): 4 kB\n",
        "anon 5\ninactive_file 4096\nactive_file 8192\nworkingset_refault_file 7\n",
        "cpu  100 5 50 800 20 1 2 22 9 0\ncpu0 1 1 1 1 1 1 1 1 1 0\n",
        "max\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

/// Records, each after a zero byte.
pub fn kmsg(bytes: &[u8]) {
    let mut tail = Tail::default();
    for record in bytes.split(|byte| *byte == 0) {
        if let Some((at, text)) = kmsg::parse(record) {
            assert!(at <= Duration::from_micros(u64::MAX) && !text.contains(&b'\n'));
            tail.push(at, text);
        }
    }
    let (text, _) = tail.finish(false);
    assert!(text.len() <= kmsg::BYTES);
    assert!(text.is_empty() || text.starts_with(b"[") && text.ends_with(b"\n"));
}

/// Numbers and names of a report stay within bounds, and names reach no terminal as a command.
pub fn oom(log: &[u8]) {
    for report in oom_report::reports(log) {
        assert!(report.pid != 0 || !report.victims.is_empty());
        assert!(report.victims.len() <= 64 && report.candidates.len() <= 16);
        let size = |one: &Candidate| one.rss_pages.saturating_add(one.swap_entries);
        assert!(report.candidates.is_sorted_by(|one, next| size(one) >= size(next)));
        let names = report.victims.iter().map(|victim| &victim.comm);
        let names = names.chain(report.candidates.iter().map(|one| &one.comm));
        for name in names.chain([&report.trigger, &report.gfp, &report.cgroup]) {
            assert!(!name.contains(char::is_control), "{name:?}");
        }
    }
}

pub fn ooms() -> Vec<Vec<u8>> {
    vec![oom_report::SAMPLE.as_bytes().to_vec()]
}

pub fn kernel_lines() -> Vec<Vec<u8>> {
    vec![
        b"6,339,5140900,-;NET: a;b\n SUBSYSTEM=net\n DEVICE=x\n\x004,340,5140901,c;Out of memory"
            .to_vec(),
    ]
}
