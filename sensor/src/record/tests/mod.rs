//! The log as its callers and readers see it, with exact counts.

mod crashes;
mod damage;
pub(super) mod disk;
mod migration;
mod no_room;
mod processes;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    time::{Duration, Instant},
};

use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::proto::record::Body;

const ROOMY: u64 = 1 << 30;

fn host() -> Host {
    Host { name: "h".into(), boot_id: "b".into(), kernel: "k".into() }
}

fn open(directory: &Path) -> (Log, Opened) {
    open_sized(directory, ROOMY)
}

fn open_sized(directory: &Path, max_bytes: u64) -> (Log, Opened) {
    Log::open(directory, &host(), LogOptions { max_bytes, reader_gid: None }).unwrap()
}

fn line(text: &[u8]) -> Body {
    Body::Transcript(proto::Transcript { text: text.to_vec(), ..Default::default() })
}

fn numbered(n: u64) -> Body {
    Body::Lost(proto::Lost { reason: "test".into(), count: n })
}

fn number(record: &proto::Record) -> Option<u64> {
    match &record.body {
        Some(Body::Lost(lost)) if lost.reason == "test" => Some(lost.count),
        _ => None,
    }
}

fn transition(id: &str, state: proto::State, opened: i64) -> Draft {
    let incident = proto::Incident {
        id: id.into(),
        kind: proto::Kind::Recursion as i32,
        state: state as i32,
        opened_at: Some(prost_types::Timestamp { seconds: opened, nanos: 0 }),
        ..Default::default()
    };
    let transition =
        proto::Transition { to: state as i32, incident: Some(incident), ..Default::default() };
    Draft::of(id, Body::Transition(transition))
}

/// Everything that passes the filter, page by page; and what is missing.
fn read_all(reader: &Reader, from: u64, filter: &Filter) -> (Vec<proto::Record>, u64) {
    let (mut records, mut missing, mut from) = (Vec::new(), 0, from);
    loop {
        let page = reader.records(from, filter, 1_000).unwrap();
        records.extend(page.records);
        missing += page.missing;
        from = page.next_seq;
        if page.end {
            return (records, missing);
        }
    }
}

fn all(reader: &Reader) -> Vec<proto::Record> {
    read_all(reader, 0, &Filter::default()).0
}

fn reasons(records: &[proto::Record], wanted: &str) -> u64 {
    let count = |record: &proto::Record| match &record.body {
        Some(Body::Lost(lost)) if lost.reason == wanted => lost.count,
        _ => 0,
    };
    records.iter().map(count).sum()
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < until, "{what} did not happen within 20 s");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn kinds_are_the_bodies_of_the_schema() {
    let files = prost_types::FileDescriptorSet::decode(sensor_proto::DESCRIPTORS).unwrap();
    let record = files
        .file
        .iter()
        .filter(|file| file.package() == "sensor.v1")
        .flat_map(|file| &file.message_type)
        .find(|message| message.name() == "Record")
        .unwrap();
    let bodies = record.field.iter().filter(|field| field.oneof_index.is_some());
    assert!(bodies.map(prost_types::FieldDescriptorProto::name).eq(KINDS));
}

#[test]
fn what_is_appended_is_read_in_order_and_once() {
    let directory = tempfile::tempdir().unwrap();
    let (log, opened) = open(directory.path());
    assert_eq!((opened.last_seq, opened.unclean, opened.paused), (0, false, false));
    for n in 1..=10_000 {
        log.append(Draft::bulk(numbered(n)));
    }
    let seq = log.append_durable(Draft::of("i", line(b"last"))).wait().unwrap();
    assert_eq!(seq, 10_001, "a receipt covers all that came before");
    assert_eq!(*log.tail().borrow(), 10_001);
    let reader = Reader::open(directory.path()).unwrap();
    let records = all(&reader);
    assert_eq!(records.len(), 10_001);
    for (record, n) in records.iter().zip(1..) {
        assert_eq!(record.seq, n);
        assert_eq!(number(record), (n <= 10_000).then_some(n));
        assert_eq!(record.log_id, opened.log_id);
        assert_eq!((record.host.as_str(), record.boot_id.as_str()), ("h", "b"));
        assert!(record.at.is_some() && record.boot_ns > 0);
    }
    assert_eq!(records[10_000].incident, "i");
    assert_eq!(records[10_000].priority(), proto::Priority::Incident);
    assert!(records.is_sorted_by_key(|record| record.boot_ns));
}

#[test]
fn a_clean_end_leaves_no_gap_and_keeps_what_must_survive() {
    let directory = tempfile::tempdir().unwrap();
    let (log, first) = open(directory.path());
    log.append(transition("aaaa", proto::State::Open, 1));
    log.append(transition("bbbb", proto::State::Open, 2));
    log.append(transition("aaaa", proto::State::Resolved, 1));
    log.set_paused(true).wait().unwrap();
    assert_eq!(log.close("test").unwrap(), 4, "three transitions and Stopped");
    drop(log);
    let (log, second) = open(directory.path());
    assert_eq!(second.log_id, first.log_id);
    assert_eq!((second.last_seq, second.unclean, second.paused), (4, false, true));
    assert!(second.unsettled.iter().map(|incident| incident.id.as_str()).eq(["bbbb"]));
    assert_eq!(log.append_durable(Draft::bulk(numbered(1))).wait().unwrap(), 5);
    drop(log);
    let (log, third) = open(directory.path());
    assert!(third.unclean, "dropped without close");
    assert_eq!(third.last_seq, 5);
    let seq = log.append_durable(Draft::bulk(numbered(2))).wait().unwrap();
    assert!(seq > 5);
    let reader = Reader::open(directory.path()).unwrap();
    let (records, missing) = read_all(&reader, 1, &Filter::default());
    assert_eq!(records.len(), 6);
    assert_eq!(missing, 0, "numbers that were never used are not missing");
}

#[test]
fn what_is_resolved_is_settled_once_nobody_looks_into_it_any_more() {
    let directory = tempfile::tempdir().unwrap();
    let looks = |state: proto::InvestigationState| {
        let run =
            proto::Investigation { id: "aaaa-1".into(), state: state.into(), ..Default::default() };
        Draft::of("aaaa", Body::Investigation(run))
    };
    let (log, _) = open(directory.path());
    log.append(transition("aaaa", proto::State::Open, 1));
    log.append(looks(proto::InvestigationState::Running));
    log.append(transition("aaaa", proto::State::Resolved, 1));
    log.close("test").unwrap();
    drop(log);
    let (log, second) = open(directory.path());
    assert!(second.unsettled.iter().map(|incident| incident.id.as_str()).eq(["aaaa"]));
    log.append(looks(proto::InvestigationState::Done));
    log.close("test").unwrap();
    drop(log);
    assert!(open(directory.path()).1.unsettled.is_empty());
}

#[test]
fn a_closed_log_refuses() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(directory.path());
    log.close("test").unwrap();
    assert_eq!(log.append_durable(Draft::bulk(numbered(1))).wait(), Err(NotDurable::Closed));
}

#[test]
fn one_writer_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(directory.path());
    let second =
        Log::open(directory.path(), &host(), LogOptions { max_bytes: ROOMY, reader_gid: None });
    assert!(matches!(second, Err(LogError::Busy(_))));

    // As a child has it that was forked and has not executed yet.
    let _inherited = log.0.lock.try_clone().unwrap();
    drop(log);
    open(directory.path());
}

#[test]
fn a_directory_that_anyone_can_write_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    let found =
        Log::open(directory.path(), &host(), LogOptions { max_bytes: ROOMY, reader_gid: None });
    assert!(matches!(found, Err(LogError::Unsafe(_))));
}

#[test]
fn filters_give_what_they_name_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(directory.path());
    for n in 0..40_000_u64 {
        let draft = match n % 1_000 {
            7 => Draft::of("one", line(b"x")),
            8 => Draft::of("two", numbered(n)),
            _ => Draft::bulk(numbered(n)),
        };
        log.append(draft);
    }
    log.append_durable(Draft::of("one", numbered(0))).wait().unwrap();
    let reader = Reader::open(directory.path()).unwrap();
    let count = |incident: &str, kinds: &[&str]| {
        read_all(&reader, 0, &Filter::new(incident, kinds).unwrap()).0.len()
    };
    assert_eq!(count("one", &[]), 41);
    assert_eq!(count("one", &["transcript"]), 40);
    assert_eq!(count("", &["transcript"]), 40);
    assert_eq!(count("", &["transcript", "lost", "lost"]), 40_001);
    assert_eq!(count("three", &[]), 0);
    assert!(matches!(Filter::new("", &["nonsense"]), Err(ReadError::Kind(_))));

    let lane = |lane| {
        let filter = Filter::new::<&str>("", &[]).unwrap().lane(Some(lane));
        read_all(&reader, 0, &filter).0.len()
    };
    assert_eq!(lane(proto::Priority::Incident), 81);
    assert_eq!(lane(proto::Priority::Bulk), 39_920);
    let severe = || Filter::new::<&str>("", &[]).unwrap().severity(Some(proto::Severity::Critical));
    assert_eq!(read_all(&reader, 0, &severe()).0.len(), 0, "no incident has a severity yet");
    let mut draft = transition("one", proto::State::Open, 1);
    let proto::record::Body::Transition(transition) = &mut draft.body else { unreachable!() };
    transition.incident.as_mut().unwrap().set_severity(proto::Severity::Critical);
    log.append_durable(draft).wait().unwrap();
    assert_eq!(read_all(&reader, 0, &severe()).0.len(), 42, "its earlier records as well");
}

#[test]
fn incidents_are_found_by_what_is_asked() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(directory.path());
    for (id, opened) in [("abc", 10), ("abcd", 20), ("xyz", 30)] {
        log.append(transition(id, proto::State::Open, opened));
    }
    log.append_durable(transition("xyz", proto::State::Contained, 30)).wait().unwrap();
    let reader = Reader::open(directory.path()).unwrap();
    let ids = |filter: &IncidentFilter, bytes| {
        let (incidents, omitted) = reader.incidents(filter, bytes).unwrap();
        (incidents.into_iter().map(|incident| incident.id).collect::<Vec<_>>(), omitted)
    };
    let everything = IncidentFilter::default();
    assert_eq!(
        ids(&everything, ROOMY as usize),
        (vec!["xyz".into(), "abcd".into(), "abc".into()], 0)
    );
    let (newest, omitted) = ids(&everything, 40);
    assert_eq!((newest, omitted), (vec!["xyz".to_owned()], 2), "the oldest are left out, counted");
    let open = IncidentFilter { state: Some(proto::State::Open), ..Default::default() };
    assert_eq!(ids(&open, ROOMY as usize).0, ["abcd", "abc"]);
    let since = IncidentFilter {
        since: Some(prost_types::Timestamp { seconds: 20, nanos: 0 }),
        ..Default::default()
    };
    assert_eq!(ids(&since, ROOMY as usize).0, ["xyz", "abcd"]);

    assert_eq!(reader.incident("x").unwrap().state(), proto::State::Contained);
    assert_eq!(reader.incident("abc").unwrap().id, "abc", "a whole id is never ambiguous");
    assert!(matches!(reader.incident("ab"), Err(ReadError::Ambiguous(_))));
    for unknown in ["q", "", "%", "ABC", "abcde"] {
        assert!(matches!(reader.incident(unknown), Err(ReadError::NoIncident(_))), "{unknown}");
    }
}

#[test]
fn two_readers_follow_a_writer_and_miss_nothing() {
    const RECORDS: u64 = 30_000;
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(directory.path());
    let follow = |limit: u32| {
        let reader = Reader::open(directory.path()).unwrap();
        move || {
            let (mut next, mut expected) = (1, 1);
            let until = Instant::now() + Duration::from_mins(1);
            while expected <= RECORDS && Instant::now() < until {
                let page = reader.records(next, &Filter::default(), limit).unwrap();
                assert_eq!(page.missing, 0);
                for record in &page.records {
                    assert_eq!(number(record), Some(expected));
                    expected += 1;
                }
                next = page.next_seq;
            }
            expected - 1
        }
    };
    thread::scope(|scope| {
        let readers = [scope.spawn(follow(17)), scope.spawn(follow(5_000))];
        for n in 1..=RECORDS {
            log.append(Draft::bulk(numbered(n)));
        }
        for reader in readers {
            assert_eq!(reader.join().unwrap(), RECORDS);
        }
    });
}

#[test]
fn the_log_stays_within_its_size_and_says_what_went() {
    const MAX: u64 = 2 << 20;
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open_sized(directory.path(), MAX);
    log.append(transition("kept", proto::State::Open, 1));
    log.append(transition("over", proto::State::Open, 1));
    for n in 0..200_u64 {
        log.append(Draft::of("kept", numbered(n)));
        log.append(Draft::of("over", numbered(n)));
    }
    log.append(transition("over", proto::State::Resolved, 1));
    for n in 0..60_000 {
        log.append(Draft::bulk(numbered(n)));
        if n % 10_000 == 0 {
            log.append_durable(Draft::bulk(line(b"stop"))).wait().unwrap();
        }
    }
    log.append_durable(Draft::bulk(line(b"end"))).wait().unwrap();
    let path = directory.path().join(FILE);
    wait_for("giving space back", || fs::metadata(&path).unwrap().len() <= MAX + (MAX / 10));
    log.close("test").unwrap();
    let reader = Reader::open(directory.path()).unwrap();
    let (records, missing) = read_all(&reader, 1, &Filter::default());
    let of = |id: &str| records.iter().filter(|record| record.incident == id).count();
    assert_eq!((of("kept"), of("over")), (201, 202), "bulk goes first");
    assert!(missing > 10_000, "{missing}");
    assert_eq!(reasons(&records, "retention"), missing, "each removed record is counted once");
    let bulk: Vec<u64> = records
        .iter()
        .filter(|record| record.priority() == proto::Priority::Bulk)
        .filter_map(number)
        .collect();
    assert_eq!(*bulk.last().unwrap(), 59_999);
    assert!(bulk.windows(2).all(|pair| pair[1] == pair[0] + 1), "the oldest went");
}

#[test]
fn resolved_incidents_go_before_open_ones() {
    const MAX: u64 = 1 << 20;
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open_sized(directory.path(), MAX);
    log.append(transition("open", proto::State::Open, 1));
    log.append(Draft::of("open", numbered(1)));
    for n in 0..30 {
        let id = format!("old{n}");
        log.append(transition(&id, proto::State::Open, 2));
        for _ in 0..100 {
            log.append(Draft::of(&id, line(&[b'x'; 1_000])));
        }
        log.append_durable(transition(&id, proto::State::Resolved, 2)).wait().unwrap();
    }
    log.close("test").unwrap();
    let reader = Reader::open(directory.path()).unwrap();
    let (incidents, _) = reader.incidents(&IncidentFilter::default(), ROOMY as usize).unwrap();
    assert!(incidents.iter().any(|incident| incident.id == "open"));
    assert!(incidents.iter().any(|incident| incident.id == "old29"), "the newest stay");
    assert!(incidents.len() < 20, "{} incidents in 1 MiB", incidents.len());
    assert_eq!(read_all(&reader, 0, &Filter::new::<&str>("open", &[]).unwrap()).0.len(), 2);
}

proptest! {
    #[test]
    fn what_readers_are_asked_never_panics(
        from in any::<u64>(),
        limit in any::<u32>(),
        incident in ".{0,12}",
        kinds in prop::collection::vec(prop_oneof![Just("lost".to_owned()), ".{0,8}"], 0..3),
    ) {
        // One log for all cases: opening one costs more than asking.
        static LOG: std::sync::OnceLock<(tempfile::TempDir, Log)> = std::sync::OnceLock::new();
        let (directory, _) = LOG.get_or_init(|| {
            let directory = tempfile::tempdir().unwrap();
            let (log, _) = open(directory.path());
            log.append_durable(transition("abc", proto::State::Open, 1)).wait().unwrap();
            (directory, log)
        });
        let reader = Reader::open(directory.path()).unwrap();
        if let Ok(filter) = Filter::new(&incident, &kinds) {
            let page = reader.records(from, &filter, limit).unwrap();
            prop_assert!(page.records.len() <= 1);
            prop_assert!(page.end);
        }
        let _ = reader.incident(&incident);
    }
}
