//! How fast the log takes records and how fast clients get them, for `cargo xtask bench`: one line of JSON
//! with the samples of each row. `cargo bench -p sensor --bench black_box -- ROUNDS`

#![expect(clippy::unwrap_used, reason = "a bench that cannot go on panics")]

#[path = "../tests/feed/served.rs"]
mod served;

use std::time::Instant;

use rusqlite::{Connection, params};
use served::{Served, follow};

/// Records of a round, and bytes of text in each: as much as a command with its arguments.
const RECORDS: u64 = 100_000;
const BYTES: usize = 100;

/// Readers that never read what they asked for.
const ASLEEP: usize = 10;

/// Until their windows are full: some MiB in all.
const SETTLED: std::time::Duration = std::time::Duration::from_millis(300);

/// Of the bare database: as many as the log takes together.
const GROUP: u64 = 4_096;

fn main() {
    // cargo itself says `--bench`.
    let rounds = std::env::args().find_map(|word| word.parse().ok()).unwrap_or(3);
    let mut rows: [(&str, Vec<f64>); 4] =
        ["bare", "store", "feed", "feed_beside_sleepers"].map(|name| (name, Vec::new()));
    for _ in 0..rounds {
        rows[0].1.push(bare());
        let served = Served::start();
        let begin = Instant::now();
        let newest = served.fill(RECORDS, BYTES);
        rows[1].1.push(rate(begin));
        rows[2].1.push(read(&served, newest));
        let socket = served.socket();
        let sleepers = served.runtime.block_on(async {
            let mut sleepers = Vec::new();
            for _ in 0..ASLEEP {
                let mut client = Served::client(&socket).await;
                sleepers.push((follow(&mut client, 1).await, client));
            }
            sleepers
        });
        // They sleep once what they are sent has nowhere to go.
        std::thread::sleep(SETTLED);
        rows[3].1.push(read(&served, newest));
        drop(sleepers);
    }
    for (name, samples) in rows {
        println!("{}", serde_json::json!({ "name": name, "samples": samples }));
    }
}

/// Records a second since then.
fn rate(begin: Instant) -> f64 {
    RECORDS as f64 / begin.elapsed().as_secs_f64()
}

/// One reader, from the first record to the newest.
fn read(served: &Served, newest: u64) -> f64 {
    let socket = served.socket();
    served.runtime.block_on(async {
        let mut client = Served::client(&socket).await;
        let begin = Instant::now();
        follow(&mut client, 1).await.read_to(newest).await;
        rate(begin)
    })
}

/// The same bytes into a database with nothing around it.
fn bare() -> f64 {
    let directory = tempfile::tempdir().unwrap();
    let mut connection = Connection::open(directory.path().join("bare.db")).unwrap();
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(())).unwrap();
    connection.pragma_update(None, "synchronous", "NORMAL").unwrap();
    connection.execute("CREATE TABLE records (seq INTEGER PRIMARY KEY, record BLOB)", []).unwrap();
    let blob = vec![b'x'; BYTES];
    let begin = Instant::now();
    for group in 0..RECORDS.div_ceil(GROUP) {
        let transaction = connection.transaction().unwrap();
        for seq in group * GROUP..((group + 1) * GROUP).min(RECORDS) {
            transaction
                .prepare_cached("INSERT INTO records VALUES (?1, ?2)")
                .unwrap()
                .execute(params![seq, blob])
                .unwrap();
        }
        transaction.commit().unwrap();
    }
    rate(begin)
}
