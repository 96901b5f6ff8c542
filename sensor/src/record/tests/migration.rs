//! Files of older versions, as those wrote them.

use rusqlite::{Connection, params};

use super::{super::*, *};

/// The tables of version 1, and how that version opened its file. Not to be changed: such files exist.
const VERSION_1: &str = "
    PRAGMA auto_vacuum = INCREMENTAL;
    PRAGMA journal_mode = WAL;
    BEGIN;
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE runs (run INTEGER PRIMARY KEY, boot_id TEXT NOT NULL, host TEXT NOT NULL);
    CREATE TABLE gaps (first INTEGER PRIMARY KEY, last INTEGER NOT NULL);
    CREATE TABLE records (
        seq INTEGER PRIMARY KEY,
        run INTEGER NOT NULL,
        priority INTEGER NOT NULL,
        incident TEXT NOT NULL,
        kind TEXT NOT NULL,
        record BLOB NOT NULL
    );
    CREATE INDEX records_by_incident ON records (incident) WHERE incident <> '';
    CREATE TABLE incidents (
        id TEXT PRIMARY KEY,
        kind INTEGER NOT NULL,
        severity INTEGER NOT NULL,
        state INTEGER NOT NULL,
        opened_ns INTEGER NOT NULL,
        opened_at INTEGER NOT NULL,
        fingerprint TEXT NOT NULL,
        incident BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX incidents_by_time ON incidents (opened_at);
    INSERT INTO meta VALUES ('log_id', '2f1d8a52-4b8e-4a27-9be4-52f4a1b0c3aa'), ('reserved', '4'),
        ('clean', '1');
    INSERT INTO settings VALUES ('paused', '1');
    INSERT INTO runs VALUES (1, 'b', 'h');
    PRAGMA application_id = 1936618354;
    PRAGMA user_version = 1;
    COMMIT;
";

fn action(why: &str) -> Body {
    Body::Action(proto::Action { why: why.into(), ok: true, ..Default::default() })
}

fn investigation(id: &str, state: proto::InvestigationState) -> Body {
    let state = state as i32;
    Body::Investigation(proto::Investigation { id: id.into(), state, ..Default::default() })
}

fn whys(reader: &Reader, incident: &str, limit: u32) -> Vec<(u64, String)> {
    let why = |record: proto::Record| match record.body {
        Some(Body::Action(action)) => (record.seq, action.why),
        other => panic!("{other:?}"),
    };
    reader.actions(incident, limit).unwrap().into_iter().map(why).collect()
}

#[test]
fn a_file_of_version_1_is_taken_over() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(FILE);
    let old = Connection::open(&path).unwrap();
    old.execute_batch(VERSION_1).unwrap();
    let insert = |seq: u64, incident: &str, body: Body| {
        let record = proto::Record { body: Some(body), ..Default::default() };
        old.execute(
            "INSERT INTO records VALUES (?1, 1, 2, ?2, ?3, ?4)",
            params![seq, incident, record.kind(), record.encode_to_vec()],
        )
        .unwrap();
    };
    insert(1, "abc", action("first"));
    insert(2, "abc", investigation("i1", proto::InvestigationState::Running));
    insert(3, "", numbered(7));
    insert(4, "abc", action("second"));
    drop(old);

    let (log, opened) = open(directory.path());
    assert!(opened.set_aside.is_none() && opened.paused && !opened.unclean);
    assert_eq!(opened.log_id, "2f1d8a52-4b8e-4a27-9be4-52f4a1b0c3aa");
    assert_eq!(log.append_durable(Draft::of("abc", action("third"))).wait().unwrap(), 5);
    let reader = Reader::open(directory.path()).unwrap();
    assert_eq!(all(&reader).len(), 5);
    let expected = [(1, "first"), (4, "second"), (5, "third")].map(|(seq, why)| (seq, why.into()));
    assert_eq!(whys(&reader, "abc", 10), expected);
    let running = reader.investigations(proto::InvestigationState::Running).unwrap();
    assert_eq!((running.len(), running[0].0.as_str(), running[0].1.id.as_str()), (1, "abc", "i1"));
    log.close("test").unwrap();
    drop(log);
    // Once is enough.
    let (_log, opened) = open(directory.path());
    assert!(!opened.unclean && opened.set_aside.is_none());
}

#[test]
fn a_newer_file_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path()));
    let newer = Connection::open(directory.path().join(FILE)).unwrap();
    newer.pragma_update(None, "user_version", 99).unwrap();
    drop(newer);
    let options = LogOptions { max_bytes: ROOMY, reader_gid: None };
    let refused = Log::open(directory.path(), &host(), options).map(drop).unwrap_err();
    assert!(matches!(refused, LogError::Newer { version: 99, .. }), "{refused}");
}

#[test]
fn actions_and_investigations_are_as_their_records_leave_them() {
    use proto::InvestigationState::{Done, Running};
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(directory.path());
    for (incident, body) in [
        ("abc", action("1")),
        ("xyz", action("2")),
        ("abc", investigation("i1", Running)),
        ("xyz", investigation("i1", Running)),
        ("", action("3")),
        ("abc", investigation("i1", Done)),
    ] {
        log.append_durable(Draft::of(incident, body)).wait().unwrap();
    }
    let reader = Reader::open(directory.path()).unwrap();
    assert_eq!(whys(&reader, "", 2), [(2, "2".into()), (5, "3".into())], "the newest, in order");
    assert_eq!(whys(&reader, "xyz", 9), [(2, "2".into())]);
    let of =
        |state| reader.investigations(state).unwrap().into_iter().map(|(incident, _)| incident);
    assert!(of(Running).eq(["xyz"]));
    assert!(of(Done).eq(["abc"]));
}

#[test]
fn the_flight_recorder_keeps_its_rings() {
    let directory = tempfile::tempdir().unwrap();
    let (log, opened) = open(directory.path());
    assert!(opened.vitals.is_empty());
    let sample = |boot_ns, seconds| proto::VitalsSample { boot_ns, seconds, ..Default::default() };
    for n in 1..=700 {
        log.append_vitals(&sample(n, 1));
        if n % 60 == 0 {
            log.append_vitals(&sample(n, 60));
        }
    }
    let seq = log.append_durable(Draft::bulk(numbered(1))).wait().unwrap();
    assert_eq!(seq, 1, "samples are no records");
    drop(log);
    let (_log, opened) = open(directory.path());
    let (minutes, seconds): (Vec<proto::VitalsSample>, Vec<proto::VitalsSample>) =
        opened.vitals.into_iter().partition(|sample| sample.seconds == 60);
    assert!(minutes.iter().map(|it| it.boot_ns).eq((1..=11).map(|n| n * 60)));
    assert!(seconds.iter().map(|it| it.boot_ns).eq(101..=700), "ten minutes");
}
