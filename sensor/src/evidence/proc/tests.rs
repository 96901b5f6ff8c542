use std::{os::unix::fs::MetadataExt as _, path::Path, process};

use proptest::prelude::*;

use super::*;

fn fixture() -> Proc {
    Proc::at(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/evidence/fixtures/proc"))
}

/// The fixture started at 123456 ticks; within one tick is the same process, as /proc rounds down.
const KEY: ProcessKey = ProcessKey::new(4242, 1_234_560_000_000 + 9_999_999);

#[test]
fn a_name_may_look_like_fields() {
    let opened = fixture().open(KEY).unwrap();
    assert_eq!(
        opened.stat,
        Stat {
            comm: b"od) S 1 (d\nx".to_vec(),
            state: 'S',
            ppid: 4000,
            session: 4100,
            threads: 11,
            start_ticks: 123_456,
            cpu_ticks: 0
        }
    );
}

#[test]
fn another_start_is_another_process() {
    assert!(fixture().open(ProcessKey::new(4242, 1_234_570_000_000)).is_none());
    assert!(fixture().open(ProcessKey::new(4242, 1_234_559_999_999)).is_none());
    assert!(fixture().open(ProcessKey::new(4243, KEY.start_ns)).is_none());
}

#[test]
fn all_facts_of_a_process() {
    let opened = fixture().open(KEY).unwrap();
    // The real ids: the effective ones are 0.
    let status = Status {
        uid: 1000,
        gid: 1000,
        groups: vec![4, 24, 1000],
        rss: 70_000 << 10,
        anon: 50_000 << 10,
        shmem: 3_000 << 10,
        swap: 2_000 << 10,
    };
    assert_eq!(opened.status(), status);
    assert_eq!(opened.argv(4096), (vec![b"npm run quux".to_vec()], false));
    assert_eq!(opened.argv(3), (vec![b"npm".to_vec()], true));
    assert_eq!(opened.cwd().unwrap().path, b"/srv/quux");
    assert_eq!(opened.exe().unwrap().path, b"/usr/bin/node (deleted)");
    assert_eq!(opened.cgroup(), "/user.slice/run-1.scope");
    let (count, files) = opened.files(2);
    assert_eq!((count, files.len()), (3, 2));
}

#[test]
fn what_a_process_holds_exactly() {
    let text =
        b"55d0-7ffe ---p 00000000 00:00 0 [rollup]\nRss:  2000 kB\nPss:  1000 kB\nPss_Anon: 7 kB\n\
                 Swap: 12 kB\nSwapPss: 3 kB\n";
    let expected = Rollup { rss: 2_000 << 10, pss: 1_000 << 10, swap: 12 << 10 };
    assert_eq!(parse_rollup(text), expected);
    assert_eq!(parse_rollup(b""), Rollup::default());
}

#[test]
fn empty_arguments_stay() {
    let opened = fixture().open(ProcessKey::new(4300, 1_234_700_000_000)).unwrap();
    let argv = ["sh", "-c", "", "echo hi"].map(|argument| argument.as_bytes().to_vec());
    assert_eq!(opened.argv(4096).0, argv);
    assert_eq!(opened.files(2), (0, Vec::new()));
}

/// This process as /proc has it.
fn own_key() -> ProcessKey {
    let stat = parse_stat(&std::fs::read("/proc/self/stat").unwrap()).unwrap();
    ProcessKey::new(process::id(), stat.start_ticks * TICK_NS)
}

#[test]
fn the_real_proc_agrees_with_stat() {
    let opened = Proc::default().open(own_key()).unwrap();
    let here = std::env::current_dir().unwrap();
    let cwd = opened.cwd().unwrap();
    assert_eq!(Path::new(std::str::from_utf8(&cwd.path).unwrap()), here);
    assert!(!cwd.deleted);

    let metadata = std::fs::metadata(&here).unwrap();
    let dev = kernel_dev(libc::major(metadata.dev()), libc::minor(metadata.dev()));
    let file = FileId { ino: metadata.ino(), dev, zero: 0 };
    assert!(opened.is(&cwd, file));
    assert!(!opened.is(&cwd, FileId { ino: file.ino + 1, ..file }));
    assert!(!opened.is(&cwd, FileId { dev: file.dev ^ 1, ..file }));

    let (count, files) = opened.files(1);
    assert!(count >= 3 && files.len() == 1, "{count}");
}

#[test]
fn the_device_of_a_mount_is_the_superblocks() {
    let text = b"21 1 0:19 / /sys rw - sysfs sysfs rw\n36 1 259:3 /a\\040b /mnt rw shared:1 - ext4 /dev/x rw\nbroken\n";
    assert_eq!(mount_dev(text, 36), Some(259 << 20 | 3));
    assert_eq!(mount_dev(text, 21), Some(19));
    assert_eq!(mount_dev(text, 2), None);
}

proptest! {
    #[test]
    fn parsers_take_any_bytes(text in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse_stat(&text);
        let _ = parse_status(&text);
        let _ = parse_rollup(&text);
        let _ = mount_dev(&text, 1);
        let argv = split_argv(&text);
        prop_assert!(argv.iter().map(Vec::len).sum::<usize>() <= text.len());
    }

    #[test]
    fn any_name_is_read_back(comm in prop::collection::vec(any::<u8>(), 0..16), ppid: u32, ticks: u64) {
        let mut text = b"7 (".to_vec();
        text.extend_from_slice(&comm);
        text.extend_from_slice(format!(") Z {ppid} 0 0 0 0 0 0 0 0 0 7 4 0 0 0 0 1 0 {ticks} 0 0\n").as_bytes());
        let stat = parse_stat(&text).unwrap();
        prop_assert_eq!((stat.comm, stat.ppid, stat.start_ticks), (comm, ppid, ticks));
        prop_assert_eq!((stat.cpu_ticks, stat.threads), (11, 1));
    }
}
