use super::*;
use crate::{
    lineage::ProcessKey,
    proto::{Measure, OomKill, ProcessKey as Key},
};

const MIB: u64 = 1 << 20;
const SECOND: u64 = 1_000_000_000;

fn actor_of(pid: u32, name: &str) -> Actor {
    Actor {
        process: Some(Key { pid, start_ns: 40 * SECOND }),
        comm: name.into(),
        argv: vec![name.into(), b"--all".to_vec()],
        ..Actor::default()
    }
}

/// 301 is killed at 100 s, as 7 asks.
fn killed() -> Oom {
    Oom {
        scope: OomScope::Cgroup.into(),
        cgroup: "/a".into(),
        limit_bytes: Some(100 * MIB),
        peak_bytes: Some(100 * MIB),
        victims: vec![OomKill {
            at_ns: 100 * SECOND,
            victim: Some(actor_of(301, "leak")),
            trigger: Some(actor_of(7, "bystander")),
            anon_bytes: Some(90 * MIB),
            ..OomKill::default()
        }],
        kills: 1,
        killed: 1,
        ..Oom::default()
    }
}

fn holder(pid: u32, bytes: u64, grown_bytes: u64, grown_ns: u64) -> OomHolder {
    OomHolder {
        root: Some(Key { pid, start_ns: 40 * SECOND }),
        comm: "node".into(),
        processes: 1,
        bytes,
        grown_bytes,
        grown_ns,
    }
}

fn diagnosed(oom: &Oom, culprit: Option<u32>, after: After) -> proto::Diagnosis {
    diagnosed_after(oom, culprit, None, after)
}

fn diagnosed_after(
    oom: &Oom,
    culprit: Option<u32>,
    growth: Option<&Growth>,
    after: After,
) -> proto::Diagnosis {
    let redactor = Redactor::new([1; 16]);
    let available = |bytes| HostMemory { available_bytes: Some(bytes), ..HostMemory::default() };
    let after_all = HostMemory { shmem_bytes: Some(700 * MIB), ..available(20 * MIB) };
    let before = HostMemory { shmem_bytes: Some(0), ..available(800 * MIB) };
    diagnose(&Case {
        culprit: culprit.map(|pid| ProcessKey::new(pid, 40 * SECOND)),
        growth,
        oom,
        report: None,
        host: Some((before, after_all, 60 * SECOND)),
        after,
        spread: Some(0.1),
        cited: &["e1".into(), "e2".into()],
        redactor: &redactor,
    })
}

#[test]
fn a_single_kill_at_a_limit() {
    let said = diagnosed(&killed(), None, After::default());
    assert_eq!(said.by, "oom_limit");
    assert_eq!(
        said.cause,
        "The kernel's OOM killer ended `leak --all` (301), which held 90 MiB: /a had reached its limit of 100 \
         MiB. The memory was asked for by `bystander --all` (7), which need not be to blame. It came to that \
         limit within 60 s of its start: it needs more than it may have, or takes too much at once."
    );
    assert_eq!(said.evidence, ["e1", "e2"]);
}

#[test]
fn what_bounds_it_is_the_limit_that_was_met() {
    let mut oom = killed();
    oom.holders = vec![OomHolder { processes: 2, ..holder(55, 80 * MIB, 60 * MIB, 30 * SECOND) }];
    let said = diagnosed(&oom, Some(55), After::default());
    assert!(said.cause.contains("`node` (55), with its 1 descendant, had grown"), "{}", said.cause);
    let bound = "More than 100 MiB for /a would only put it off.";
    assert!(said.remedy.ends_with(bound), "{}", said.remedy);
    let mut oom = Oom { cgroup: String::new(), limit_bytes: None, ..oom };
    oom.set_scope(OomScope::Host);
    let said = diagnosed(&oom, Some(55), After::default());
    assert!(said.remedy.contains("A memory limit of its own"), "{}", said.remedy);
}

#[test]
fn one_that_grew_and_was_spared() {
    let mut oom = killed();
    oom.holders = vec![holder(55, 80 * MIB, 60 * MIB, 30 * SECOND)];
    let after = After { span_ns: 10 * SECOND, ended: 2, restarted: true };
    let said = diagnosed(&oom, Some(55), after);
    assert_eq!(said.by, "oom_growth");
    let wanted = " `node` (55) had grown by 60 MiB to 80 MiB in the 30 s before, 2 MiB a second. It was not the \
                  one that was killed. Within 10 s after it 2 more processes beside it have ended, though the \
                  OOM killer did not take them. The same command runs again.";
    assert!(said.cause.ends_with(wanted), "{}", said.cause);
}

/// 5 MiB a minute, of which the last quarter of an hour is little.
#[test]
fn one_that_grew_for_hours() {
    let measure =
        |name: &str, value: f64| Measure { name: name.into(), value, ..Measure::default() };
    let told = [
        measure("grown", 400.0 * MIB as f64),
        measure("over", 4800.0),
        measure("slope", (5 * MIB / 60) as f64),
    ];
    let root = ProcessKey::new(55, 40 * SECOND);
    let growth = Growth::of("k3", vec![root], 10_000 * SECOND, &told).unwrap();
    let mut oom = Oom { cgroup: String::new(), limit_bytes: None, ..killed() };
    oom.set_scope(OomScope::Host);
    oom.victims[0].at_ns = 12_400 * SECOND;
    oom.holders = vec![holder(55, 9216 * MIB, 75 * MIB, 900 * SECOND)];
    let said = diagnosed_after(&oom, Some(55), Some(&growth), After::default());
    assert_eq!(said.by, "oom_growth");
    let wanted = " `node` (55) had grown by 75 MiB to 9.0 GiB in the 15 min before, 5.0 MiB a minute. It has been \
                  growing for 2.0 h at least, by 5.0 MiB a minute, as incident k3 says. It was not the one that \
                  was killed.";
    assert!(said.cause.ends_with(wanted), "{}", said.cause);
    // Of which the samples have nothing new.
    oom.holders = vec![holder(55, 9216 * MIB, 0, 0)];
    let said = diagnosed_after(&oom, Some(55), Some(&growth), After::default());
    assert!(
        said.cause.contains(" `node` (55) held 9.0 GiB. It has been growing"),
        "{}",
        said.cause
    );
}

#[test]
fn a_spike() {
    let mut oom = killed();
    oom.holders = vec![holder(301, 90 * MIB, 90 * MIB, SECOND)];
    let said = diagnosed(&oom, Some(301), After::default());
    assert_eq!(said.by, "oom_spike");
    let wanted = " `node` (301) took 90 MiB within 1.0 s at most: a spike, and no leak.";
    assert!(said.cause.ends_with(wanted), "{}", said.cause);
}

#[test]
fn a_loop() {
    let mut oom = killed();
    (oom.kills, oom.killed, oom.period_ns) = (5, 15, 12 * SECOND);
    oom.holders = vec![holder(301, 90 * MIB, 90 * MIB, SECOND)];
    let said = diagnosed(&oom, Some(301), After::default());
    assert_eq!((said.by.as_str(), said.confidence), ("oom_limit", 0.9));
    let wanted = "This is a loop, as regular as a clock: 5 kills, one every 12 s on average, at 100 MiB used, the \
                  last one 60 s after its process began.";
    assert!(said.cause.contains(wanted), "{}", said.cause);
}

#[test]
fn nobody_in_particular() {
    let mut oom = Oom { cgroup: String::new(), limit_bytes: None, ..killed() };
    oom.set_scope(OomScope::Host);
    let said = diagnosed(&oom, None, After::default());
    assert_eq!(said.by, "oom_unattributed");
    let wanted = " No tree of processes carries it: in the 60 s before, available memory fell by 780 MiB, and \
                  shared memory with tmpfs grew by 700 MiB.";
    assert!(said.cause.ends_with(wanted), "{}", said.cause);
}

#[test]
fn nobody_is_not_said_where_somebody_has_half_of_it() {
    let mut oom = Oom { cgroup: String::new(), limit_bytes: None, ..killed() };
    oom.set_scope(OomScope::Host);
    // 780 MiB are gone.
    oom.holders = vec![holder(55, 900 * MIB, 389 * MIB, 60 * SECOND)];
    assert_eq!(diagnosed(&oom, None, After::default()).by, "oom_unattributed");
    oom.holders = vec![holder(55, 900 * MIB, 390 * MIB, 60 * SECOND)];
    assert_eq!(diagnosed(&oom, None, After::default()).by, "oom");
}
