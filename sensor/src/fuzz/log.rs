//! The log's file, damaged: it is opened all the same, by salvage if need be, takes new records under
//! numbers that were not used, and gives back what it took.

use std::{
    fs,
    path::Path,
    sync::LazyLock,
    thread,
    time::{Duration, Instant},
};

use super::records;
use crate::{
    host::Host,
    proto::{Incident, Lost, State, Transition, record::Body},
    record::{Draft, Filter, Log, LogError, LogOptions, NotDurable, ReadError, Reader},
};

/// A look through so small a log takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// A small log: the database, its reserved numbers, and the newest number that was used.
struct Whole {
    database: Vec<u8>,
    numbers: Vec<u8>,
    last: u64,
}

static WHOLE: LazyLock<Whole> =
    LazyLock::new(|| make().unwrap_or_else(|| panic!("no log can be made here")));

/// None: it says of itself that it is a newer sensor's, and is left alone.
fn open(directory: &Path) -> Option<Log> {
    let host = Host { name: "h".into(), boot_id: "b".into(), kernel: "k".into() };
    let options = LogOptions { max_bytes: 1 << 30, reader_gid: None };
    match Log::open(directory, &host, options) {
        Ok((log, _)) => Some(log),
        Err(error) => {
            assert!(matches!(error, LogError::Newer { .. }), "{error}");
            None
        }
    }
}

fn make() -> Option<Whole> {
    let directory = tempfile::tempdir().ok()?;
    let log = open(directory.path())?;
    for state in [State::Open, State::Resolved] {
        let incident = Incident { id: "4k2m".into(), state: state.into(), ..Incident::default() };
        let transition =
            Transition { to: state.into(), incident: Some(incident), ..Default::default() };
        log.append(Draft::of("4k2m", Body::Transition(transition)));
    }
    for record in records::samples() {
        log.append(Draft::of("4k2m", record.body?));
    }
    let last = log.close("made").ok()?;
    let read = |name: &str| fs::read(directory.path().join(name)).ok();
    Some(Whole { database: read("log.db")?, numbers: read("log.numbers")?, last })
}

/// The damage: pieces of five bytes, where (three bytes) and what is put there (two). One of two zero bytes
/// cuts the file off; the highest places are in the reserved numbers.
pub fn run(bytes: &[u8]) {
    let whole = &*WHOLE;
    let (mut database, mut numbers) = (whole.database.clone(), whole.numbers.clone());
    for piece in bytes.chunks_exact(5) {
        let place = u32::from_be_bytes([0, piece[0], piece[1], piece[2]]) as usize;
        let (file, at) = match place.checked_sub(0xff_0000) {
            Some(at) => (&mut numbers, at),
            None => (&mut database, place),
        };
        if file.is_empty() {
            continue;
        }
        let at = at % file.len();
        match piece[3..] {
            [0, 0] => file.truncate(at),
            _ => file.iter_mut().skip(at).zip(&piece[3..]).for_each(|(byte, new)| *byte = *new),
        }
    }
    let intact = numbers == whole.numbers;
    let Ok(directory) = tempfile::tempdir() else { return };
    let written = fs::write(directory.path().join("log.db"), database)
        .and_then(|()| fs::write(directory.path().join("log.numbers"), numbers));
    if written.is_err() {
        return;
    }
    let Some(log) = open(directory.path()) else { return };
    let lost = Body::Lost(Lost { reason: "fuzz".into(), count: 1 });
    let receipt = log.append_durable(Draft::of("", lost.clone())).wait();
    // Damage that is found under way has it wait, and the log written anew.
    assert!(matches!(receipt, Ok(_) | Err(NotDurable::Waiting(_))), "{receipt:?}");
    let from = receipt.unwrap_or_default();
    assert!(!intact || from == 0 || from > whole.last, "{from} was used before: {}", whole.last);
    // Likewise.
    let _ = log.close("over");
    drop(log);
    let found = match took(directory.path(), from, &lost) {
        Ok(found) if found.is_kept() => Ok(found),
        // Nobody has looked there yet, and numbers that are out of order look like an end: a daemon that finds the
        // damage writes the log anew.
        Ok(_) => mended(directory.path(), from, &lost),
        Err(error) if error.is_damage() => mended(directory.path(), from, &lost),
        error => error,
    };
    assert!(found.as_ref().is_ok_and(Found::is_kept), "what it took is there once: {found:?}");
}

/// What a reader has of a record.
#[derive(Debug)]
struct Found {
    times: usize,
    /// Damage took something.
    loss_told: bool,
}

impl Found {
    /// It is there once. It may have been written to a page that was damaged before: then the loss is told.
    const fn is_kept(&self) -> bool {
        matches!(self, Self { times: 1, .. } | Self { times: 0, loss_told: true })
    }
}

/// How often this stands in the log, from `from` on.
fn took(directory: &Path, mut from: u64, body: &Body) -> Result<Found, ReadError> {
    let reader = Reader::open(directory)?;
    let mut found = Found { times: 0, loss_told: false };
    loop {
        let page = reader.records(from, &Filter::default(), 1000)?;
        for record in &page.records {
            records::show(record);
            found.times += usize::from(record.body.as_ref() == Some(body));
            found.loss_told |=
                matches!(&record.body, Some(Body::Lost(lost)) if lost.reason == "log_damage");
        }
        if page.end {
            return Ok(found);
        }
        from = page.next_seq;
    }
}

/// The same once a daemon has had the time to look for damage, and to tell of it.
fn mended(directory: &Path, from: u64, body: &Body) -> Result<Found, ReadError> {
    let log = open(directory);
    let until = Instant::now() + PATIENCE;
    loop {
        let found = took(directory, from, body);
        if found.as_ref().is_ok_and(Found::is_kept) || Instant::now() > until {
            drop(log);
            return found;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    vec![
        Vec::new(),
        // The header, the first page's count of cells, a page further on, the end; the numbers.
        vec![0, 0, 0, 1, 1],
        vec![0, 0, 103, 0xff, 0xff],
        vec![0, 0x30, 0, 5, 5, 0, 0x30, 9, 7, 7],
        vec![0, 0x50, 0, 0, 0],
        vec![0xff, 0, 0, 1, 1, 0xff, 0x10, 0, 1, 1],
        vec![0xff, 0, 0, 0, 0],
    ]
}

#[cfg(test)]
mod tests {
    /// The first page, damaged where it is noticed when records are there already: what was taken ahead of it is
    /// read out.
    #[test]
    fn a_first_page_that_is_found_damaged_under_way_costs_nothing() {
        for _ in 0..LOOKS {
            super::run(&[0xe7, 0, 0x6b, 0xff, 0xff]);
        }
    }

    /// A number further on becomes larger than all that follow: readers, who search, do not see what was added.
    #[test]
    fn numbers_that_are_out_of_order_cost_nothing() {
        for _ in 0..LOOKS {
            super::run(&[0x18, 0, 0x2d, 0xd5, 0x0a, 0, 0x2d, 0xd5, 0x0a, 0x29]);
            // The same of a place in the first page of records.
            super::run(&[0x18, 0, 0x29, 0x33, 0x08]);
        }
    }

    /// A thread finds it, before or after.
    const LOOKS: u32 = 100;
}
