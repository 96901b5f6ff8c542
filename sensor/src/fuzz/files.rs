//! Files that somebody else may have written: configuration, exports, traces, numbers, certificates.

use std::{io::Write as _, path::Path};

use prost::Message as _;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};

use super::{
    choice,
    records::{self, harmless},
};
use crate::{
    config::{Config, DEFAULT_TEXT},
    feed::tls,
    proto::{
        ExportEnd, ExportEntry, ExportStart, GroupMemory, HostMemory, Lost, MemorySample,
        Observation, ProcessKey, Record, TraceEnd, TraceEntry, TraceExec, TraceExit, TraceFork,
        TraceProcess, TraceSignatures, TraceStart, TreeMemory, export_entry, observation, record,
        trace_entry,
    },
    record::{
        Export,
        export::begin,
        numbers::{Reserved, checksum},
    },
    trace::{file::Reader, observed, replay},
};

/// Records of a file that are looked at: a small one may unpack to 256 MiB.
const RECORDS: usize = 1000;

pub fn config(bytes: &[u8]) {
    match Config::parse(bytes, Path::new("/c.toml")) {
        Ok(config) => {
            let shown = toml::to_string(&config).unwrap_or_default();
            let again = Config::parse(shown.as_bytes(), Path::new("/c.toml"));
            assert!(again.is_ok_and(|again| again == config), "{shown}");
        }
        Err(error) => assert!(error.to_string().starts_with("/c.toml:"), "{error}"),
    }
}

pub fn configs() -> Vec<Vec<u8>> {
    // Its comments are of no use, and longer than an input may be.
    let lines = DEFAULT_TEXT.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut whole = String::new();
    let mut seeds = Vec::new();
    for line in lines {
        if line.starts_with('[') && !whole.is_empty() {
            seeds.push(std::mem::take(&mut whole).into_bytes());
        }
        whole.push_str(line);
        whole.push('\n');
    }
    seeds.push(whole.into_bytes());
    seeds
}

/// An even choice: the file's own bytes. An odd one: what its stream unpacks to, which changed bytes of a
/// packed one would hardly ever be.
fn file(bytes: &[u8], head: Vec<u8>) -> Vec<u8> {
    let (choice, rest) = choice(bytes);
    if choice % 2 == 0 {
        return rest.to_vec();
    }
    let packed = || -> std::io::Result<Vec<u8>> {
        let mut stream = zstd::Encoder::new(head, 1)?;
        stream.write_all(rest)?;
        stream.finish()
    };
    packed().unwrap_or_default()
}

/// Magic number and version of an export.
fn export_head() -> Vec<u8> {
    begin(Vec::new()).and_then(crate::packed::Packer::finish).unwrap_or_default()
}

pub fn export(bytes: &[u8]) {
    let file = file(bytes, export_head());
    let name = Path::new("a\x1bb");
    let mut export = match Export::read(file.as_slice(), file.len() as u64, name) {
        Ok(export) => export,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let mut seen = 0;
    for record in export.by_ref().take(RECORDS) {
        seen += 1;
        records::show(&record);
    }
    assert_eq!(export.records, seen);
    records::tell(&export.incident, Some((name, &export.start)));
}

/// Observations of a log, and their replay.
pub fn observations(bytes: &[u8]) {
    let file = file(bytes, export_head());
    let export = Export::read_records(file.as_slice(), file.len() as u64, Path::new("x"));
    let Ok(mut export) = export else { return };
    let report = observed::read(&mut export, &Config::default());
    assert!(report.log.samples <= export.records);
    harmless(&crate::cli::replay::log_page(&report, &records::view()));
    records::json(&report);
}

pub fn many_observations() -> Vec<Vec<u8>> {
    let start = export_entry::Entry::Start(ExportStart::default());
    let sample = |at: u64| {
        let key = |pid| Some(ProcessKey { pid, start_ns: u64::from(pid) });
        let tree = TreeMemory {
            root: key(7),
            parent: key(2),
            comm: "node".into(),
            bytes: at << 28,
            root_bytes: at << 28,
            processes: 9 + 9 * at as u32,
            zombies: 40 * at as u32,
            program: 3,
            ..Default::default()
        };
        let group = GroupMemory { by: 1, bytes: at << 29, eldest: key(7), ..Default::default() };
        let host = HostMemory {
            total_bytes: Some(8 << 30),
            available_bytes: Some((8 << 30) - (at << 28)),
            ..Default::default()
        };
        let fact = observation::Fact::Memory(MemorySample {
            at_ns: at * 10_000_000_000,
            host: Some(host),
            trees: vec![tree],
            groups: vec![group],
            ..Default::default()
        });
        let body = record::Body::Observation(Observation { fact: Some(fact) });
        export_entry::Entry::Record(Record { seq: at, body: Some(body), ..Default::default() })
    };
    let end = export_entry::Entry::End(ExportEnd { records: 24 });
    let entries = std::iter::once(start).chain((1..25).map(sample)).chain([end]);
    let unpacked: Vec<u8> = entries
        .flat_map(|entry| ExportEntry { entry: Some(entry) }.encode_length_delimited_to_vec())
        .collect();
    both(&unpacked, export_head())
}

pub fn exports() -> Vec<Vec<u8>> {
    let start = ExportStart { incident: Some(records::sample()), ..Default::default() };
    let mut entries = vec![export_entry::Entry::Start(start)];
    entries.extend(records::samples().into_iter().map(export_entry::Entry::Record));
    entries.push(export_entry::Entry::End(ExportEnd { records: entries.len() as u64 - 1 }));
    let mut unpacked = Vec::new();
    for entry in entries {
        unpacked.extend(ExportEntry { entry: Some(entry) }.encode_length_delimited_to_vec());
    }
    both(&unpacked, export_head())
}

/// The stream as such and packed.
fn both(unpacked: &[u8], head: Vec<u8>) -> Vec<Vec<u8>> {
    let inside = [b"\x01", unpacked].concat();
    let outside = [b"\x00".as_slice(), &file(&inside, head)].concat();
    vec![inside, outside]
}

pub fn trace(bytes: &[u8]) {
    let file = file(bytes, Vec::new());
    let Ok(reader) = Reader::new(file.as_slice(), Path::new("x")) else { return };
    match replay::read(reader, &Config::default()) {
        Ok(report) => {
            harmless(&crate::cli::replay::page(&report, &records::view()));
            records::json(&report);
            assert!(report.containments <= report.incidents, "{report:?}");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

pub fn traces() -> Vec<Vec<u8>> {
    use trace_entry::Entry;
    let key = |pid: u32| Some(ProcessKey { pid, start_ns: u64::from(pid) << 20 });
    let signatures = Some(TraceSignatures { strict: 7, loose: 8, exe: 9 });
    let started = TraceStart { version: "1".into(), boot_ns: 1, cpus: 2, ..Default::default() };
    let before = TraceProcess { process: key(1), signatures, ..Default::default() };
    let mut entries = vec![Entry::Start(started), Entry::Process(before)];
    for pid in 2..6 {
        let (child, parent) = (key(pid), key(pid - 1));
        let exec_ns = (u64::from(pid) << 20) + 1;
        entries.push(Entry::Fork(TraceFork { child, parent, ..Default::default() }));
        entries.push(Entry::Exec(TraceExec {
            process: child,
            exec_ns,
            signatures,
            argv: vec![b"make".to_vec()],
            argv_bytes: 5,
            ..Default::default()
        }));
    }
    entries.push(Entry::Exit(TraceExit {
        process: key(5),
        exit_ns: 9 << 20,
        ..Default::default()
    }));
    entries.push(Entry::Lost(Lost { reason: "ring_full".into(), count: 3 }));
    entries.push(Entry::End(TraceEnd { boot_ns: 10 << 20 }));
    let mut unpacked = Vec::new();
    for entry in entries {
        unpacked.extend(TraceEntry { entry: Some(entry) }.encode_length_delimited_to_vec());
    }
    both(&unpacked, Vec::new())
}

pub fn numbers(bytes: &[u8]) {
    let (choice, rest) = choice(bytes);
    let mut line = rest.to_vec();
    if choice % 2 == 1 {
        // With a checksum that is right: nobody finds one by chance.
        line.truncate(36 + 1 + 20 + 1);
        line.extend(format!("{:016x}\n", checksum(&line)).into_bytes());
    }
    if let Some(reserved) = Reserved::parse(&line) {
        let again = reserved.line();
        assert_eq!(again.len(), 75, "{again:?} would run into what is behind it");
        assert_eq!(Reserved::parse(again.as_bytes()), Some(reserved));
    }
}

pub fn number_lines() -> Vec<Vec<u8>> {
    let line = Reserved { log_id: uuid::Uuid::nil().to_string(), last: 4711 }.line();
    [b"\x00", b"\x01"].map(|choice| [choice, line.as_bytes()].concat()).to_vec()
}

pub fn tls(bytes: &[u8]) {
    let (choice, rest) = choice(bytes);
    if choice % 2 == 0 {
        let certificate = CertificateDer::from(rest);
        for name in tls::names(&certificate) {
            assert!(name.len() <= rest.len());
            harmless(&name);
        }
        return;
    }
    let mut parts = rest.split(|byte| *byte == 0).map(<[u8]>::to_vec);
    let mut part = || parts.next().unwrap_or_default();
    let material = tls::Material { certificate: part(), key: part(), client_ca: part() };
    if let Err(error) = tls::server(&material) {
        harmless(&error.to_string());
    }
}

pub fn pems() -> Vec<Vec<u8>> {
    let names = ["host.example.org".to_owned(), "b.example.org".to_owned()];
    let Ok(made) = rcgen::generate_simple_self_signed(names) else { return Vec::new() };
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let files = ["\x01", &certificate, "\0", &key, "\0", &certificate].concat();
    let mut seeds = vec![files.into_bytes()];
    if let Ok(der) = CertificateDer::from_pem_slice(certificate.as_bytes()) {
        seeds.push([b"\x00".as_slice(), der.as_ref()].concat());
    }
    seeds
}
