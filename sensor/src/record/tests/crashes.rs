//! Power is lost, over and over, on a disk that drops, tears and reorders what was not synced: what was
//! acknowledged is there, no number is used twice, the database opens.

use std::{collections::BTreeMap, env};

use rusqlite::ffi;

use super::{
    super::{queue::Item, store::Store, *},
    disk::{Dice, Disk},
    *,
};

/// How many losses of power are tried; 10,000 take some minutes:
/// `SENSOR_TEST_POWER_LOSSES=10000 cargo test --release -p sensor record::tests::crashes`.
const SEEDS: &str = "SENSOR_TEST_POWER_LOSSES";
const SEEDS_HERE: u64 = 150;

/// Only this one, to look into a failure.
const SEED: &str = "SENSOR_TEST_SEED";

/// Starts of the daemon, one after the other, on the same disk.
const STARTS: u64 = 3;

fn options() -> LogOptions {
    LogOptions { max_bytes: ROOMY, reader_gid: None }
}

/// Says which seed it was.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("again with {SEED}={}", self.0);
        }
    }
}

/// What is known of the disk, and what was told to the outside, to be compared with what is found.
struct Told {
    /// Content by number, of all that was handed to the disk since it was compared last, and of what
    /// was found then.
    written: BTreeMap<u64, u64>,
    /// All contents by number that were ever handed to it. A group that was not synced may be gone after
    /// one loss of power and back after the next: SQLite writes over it with the same salts, and what
    /// that leaves can be the old group again. More than one where nobody had been told of the first.
    ever: BTreeMap<u64, Vec<u64>>,
    /// Newest number that anybody was told of.
    used: u64,
    /// Up to here everything was acknowledged as durable.
    durable: u64,
    /// What the setting may be: as it was acknowledged, or as any of those that came after it.
    settings: Vec<Option<String>>,
    /// Records that retention took.
    removed: u64,
}

impl Told {
    fn new() -> Self {
        let (written, ever) = (BTreeMap::new(), BTreeMap::new());
        Self { written, ever, used: 0, durable: 0, settings: vec![None], removed: 0 }
    }

    fn compare(&mut self, store: &Store) {
        let mut statement = store.connection.prepare("SELECT seq, record FROM records").unwrap();
        let found: BTreeMap<u64, u64> = statement
            .query_map([], |row| Ok((row.get(0)?, row.get::<_, Vec<u8>>(1)?)))
            .unwrap()
            .map(|row| {
                let (seq, blob) = row.unwrap();
                (seq, content(&proto::Record::decode(blob.as_slice()).unwrap()))
            })
            .collect();
        for (seq, content) in &found {
            let known = self.ever.get(seq).is_some_and(|known| known.contains(content));
            assert!(known, "record {seq} is not what was written");
        }
        let missing = |seq: &&u64| !found.contains_key(seq);
        let gone = self.written.range(..=self.durable).map(|(seq, _)| seq).filter(missing).count();
        // What retention took may have come back: then its removal was lost, not a record.
        assert!(gone as u64 <= self.removed, "{gone} acknowledged records are gone");
        if self.removed == 0 {
            // Behind what was acknowledged there is a beginning of what followed, without holes.
            let later: Vec<u64> =
                self.written.range(self.durable + 1..).map(|(seq, _)| *seq).collect();
            let first_gone = later.iter().position(|seq| !found.contains_key(seq));
            let hole =
                first_gone.and_then(|at| later[at..].iter().find(|seq| found.contains_key(seq)));
            assert_eq!(hole, None, "a record is there, an earlier one is not");
        }
        let setting: Option<String> = store
            .connection
            .query_row("SELECT value FROM settings WHERE key = ?1", [PAUSED], |row| row.get(0))
            .ok();
        assert!(self.settings.contains(&setting), "a setting is not what was written");
        // The incidents are as the newest of their transitions that are there.
        let mut statement = store
            .connection
            .prepare(
                "SELECT id, state, (SELECT record FROM records WHERE incident = id
                 AND kind = 'transition' ORDER BY seq DESC LIMIT 1) FROM incidents",
            )
            .unwrap();
        let mut rows = statement.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let Some(blob) = row.get::<_, Option<Vec<u8>>>(2).unwrap() else {
                assert!(self.removed > 0, "an incident without records");
                continue;
            };
            let record = proto::Record::decode(blob.as_slice()).unwrap();
            let Some(Body::Transition(newest)) = record.body else { panic!("{record:?}") };
            assert_eq!(row.get::<_, i32>(1).unwrap(), newest.to);
        }
        // What is there now is there for good.
        self.durable = found.keys().next_back().copied().unwrap_or(0);
        self.used = self.used.max(self.durable);
        (self.written, self.settings, self.removed) = (found, vec![setting], 0);
    }
}

/// A number that tells a test's record from all others.
fn content(record: &proto::Record) -> u64 {
    match record.body.as_ref().unwrap() {
        Body::Lost(lost) => lost.count,
        Body::Transcript(line) => u64::from(line.line),
        Body::Transition(transition) => transition.why.parse().unwrap(),
        other => panic!("{other:?}"),
    }
}

fn draft(n: u64, dice: &mut Dice) -> Draft {
    match dice.below(8) {
        0 | 1 => {
            let state = [proto::State::Open, proto::State::Contained, proto::State::Resolved]
                [dice.below(3) as usize];
            let mut draft = transition(&format!("incident{}", dice.below(3)), state, 1);
            let Body::Transition(change) = &mut draft.body else { panic!("{draft:?}") };
            change.why = n.to_string();
            draft
        }
        // Longer than a page, so that it goes to pages of its own.
        2 => Draft::of(
            "incident0",
            Body::Transcript(proto::Transcript {
                line: n as u32,
                text: vec![n as u8; 3_000 + dice.below(6_000) as usize],
                ..Default::default()
            }),
        ),
        _ => Draft::bulk(numbered(n)),
    }
}

/// One disk through several losses of power; how many operations it took.
fn lose_power(seed: u64, directory: &Path) -> u64 {
    let told_of = Seed(seed);
    let mut dice = Dice(seed);
    let disk = Disk::new(directory);
    let mut told = Told::new();
    let mut n = 0;
    for _ in 0..STARTS {
        // From the first writes of a new database to a busy one at rest.
        let reach = [12, 60, 250][dice.below(3) as usize];
        disk.plan_power_loss(1 + dice.below(reach), Dice(dice.roll()));
        let (mut store, found) = Store::open(directory, &host(), &options(), true).unwrap();
        assert!(found.set_aside.is_none(), "{:?}", found.set_aside);
        if !disk.has_lost_power() {
            told.compare(&store);
            work(&mut store, &disk, &mut told, &mut dice, &mut n);
        }
        drop(store);
        disk.lose_power();
        disk.restart();
    }
    let (store, found) = Store::open(directory, &host(), &options(), true).unwrap();
    assert!(found.set_aside.is_none(), "{:?}", found.set_aside);
    told.compare(&store);
    drop((store, told_of));
    n
}

/// Until power is lost, or for a while.
fn work(store: &mut Store, disk: &Disk, told: &mut Told, dice: &mut Dice, n: &mut u64) {
    store.pace.block = 1 + dice.below(40);
    (store.pace.checkpoint_idle, store.pace.checkpoint_busy) = (2_000, 20_000);
    if dice.one_in(4) {
        store.retention.max_bytes = 60_000 + dice.below(100_000);
    }
    for _ in 0..dice.below(24) {
        let mut items = Vec::new();
        let mut contents = Vec::new();
        for _ in 0..=dice.below(12) {
            *n += 1;
            contents.push(*n);
            items.push(Item::own(Entry::record(draft(*n, dice))));
        }
        let setting = dice.one_in(4).then(|| dice.below(1_000).to_string());
        if let Some(value) = setting.clone() {
            items.push(Item::own(Entry::Setting { key: PAUSED, value }));
        }
        let durable = dice.one_in(3);
        let last = store.write(&items, durable).unwrap();
        let begin = last + 1 - contents.len() as u64;
        assert!(begin > told.used, "number {begin} was used before");
        for (seq, content) in (begin..).zip(contents) {
            told.ever.entry(seq).or_default().push(content);
            told.written.insert(seq, content);
        }
        told.settings.extend(setting.map(Some));
        if disk.has_lost_power() {
            // Nobody was told of this group. It may be there all the same.
            return;
        }
        told.used = last;
        if durable {
            told.durable = last;
            told.settings.drain(..told.settings.len() - 1);
        }
        store.tidy(dice.one_in(2)).unwrap();
        if dice.one_in(3) {
            told.removed += store.shrink().unwrap().0;
        }
        if disk.has_lost_power() {
            return;
        }
    }
    if dice.one_in(3) {
        store.finish().unwrap();
        if !disk.has_lost_power() {
            told.durable = told.used;
            told.settings.drain(..told.settings.len() - 1);
        }
    }
}

#[test]
fn power_is_lost_and_nothing_that_was_promised() {
    let number = |name: &str| env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
    let seeds = match number(SEED) {
        Some(seed) => seed..seed + 1,
        None => 0..number(SEEDS).unwrap_or(SEEDS_HERE),
    };
    let base = tempfile::tempdir().unwrap();
    let mut records = 0;
    for seed in seeds.clone() {
        let directory = base.path().join("disk");
        fs::create_dir(&directory).unwrap();
        records += lose_power(seed, &directory);
        fs::remove_dir_all(&directory).unwrap();
    }
    assert!(records > 0);
    println!("{} seeds, {} losses of power, {records} records", seeds.count(), STARTS);
}

/// What the model says must be what a test of it can find: a writer that does not sync loses records.
#[test]
fn the_disk_does_lose_what_is_not_synced() {
    let base = tempfile::tempdir().unwrap();
    let (mut lost, mut kept) = (0, 0);
    for seed in 0..20 {
        let directory = base.path().join(seed.to_string());
        fs::create_dir(&directory).unwrap();
        let disk = Disk::new(&directory);
        let (mut store, _) = Store::open(&directory, &host(), &options(), true).unwrap();
        let record = || Item::own(Entry::record(Draft::bulk(numbered(1))));
        store.write(&[record()], true).unwrap();
        store.write(&[record(), record()], false).unwrap();
        disk.plan_power_loss(u64::MAX / 2, Dice(seed));
        disk.lose_power();
        drop(store);
        disk.restart();
        let (store, _) = Store::open(&directory, &host(), &options(), true).unwrap();
        match store::last_seq(&store.connection).unwrap() {
            1 => lost += 1,
            3 => kept += 1,
            other => panic!("half a group: {other}"),
        }
    }
    assert!(lost > 0 && kept > 0, "{lost} times lost, {kept} times kept");
}

/// The disk fails for a while at any operation, in any way: nothing is lost, nothing is twice.
#[test]
fn a_disk_that_fails_for_a_while_loses_nothing() {
    let codes = [
        ffi::SQLITE_FULL,
        ffi::SQLITE_IOERR_WRITE,
        ffi::SQLITE_IOERR_FSYNC,
        ffi::SQLITE_IOERR_TRUNCATE,
        ffi::SQLITE_READONLY,
    ];
    thread::scope(|scope| {
        for seed in 0..15_u64 {
            scope.spawn(move || {
                let _told_of = Seed(seed);
                let mut dice = Dice(seed);
                let base = tempfile::tempdir().unwrap();
                let disk = Disk::new(base.path());
                let (log, _) = open(base.path());
                let code = codes[seed as usize % codes.len()];
                disk.plan_trouble(code, 1 + dice.below(60), 1 + dice.below(40));
                let mut promised = Vec::new();
                for n in 1..=600_u64 {
                    if dice.one_in(12) {
                        let answer = log.append_durable(Draft::of("i", numbered(n))).wait();
                        promised.extend(answer.ok().map(|seq| (seq, n)));
                    } else {
                        log.append(Draft::of("i", numbered(n)));
                    }
                }
                disk.end_trouble();
                wait_for("recovery", || log.health().borrow().ok);
                log.append_durable(Draft::of("i", numbered(601))).wait().unwrap();
                let records = all(&Reader::open(base.path()).unwrap());
                assert!(records.iter().filter_map(number).eq(1..=601), "all, once, in order");
                for (seq, n) in promised {
                    let at = records.binary_search_by_key(&seq, |record| record.seq).unwrap();
                    assert_eq!(number(&records[at]), Some(n));
                }
                // Readers of the test have no layer below them: the log must be closed before it goes.
                log.close("test").unwrap();
            });
        }
    });
}
