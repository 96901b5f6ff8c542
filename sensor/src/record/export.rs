//! An exported incident as a file, or the observations of a log. The format is documented in `proto/sensor/v1/export.proto`.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Read, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use super::MAX_RECORD_BYTES;
use crate::{
    clock,
    packed::{Packer, Unpacker, damage},
    proto::{ExportEnd, ExportEntry, ExportStart, Incident, Record, export_entry::Entry},
};

/// A skippable frame of 8 bytes (RFC 8878, section 3.1.2), and in it who wrote this.
const MAGIC: [u8; 12] = *b"\x5f\x2a\x4d\x18\x08\x00\x00\x00SNSR";

/// Raised where an older reader would misread a newer file.
const VERSION: u32 = 1;

/// Longest entry, bytes: a record, and around it its host, boot and incident.
const ENTRY_LIMIT: u64 = MAX_RECORD_BYTES as u64 + (64 << 10);

/// What a file may unpack to: this many times its size, and this much in any case. Records pack 4
/// to 50 times; a file that holds more than that was made to hurt.
const MOST_TIMES: u64 = 1_000;
const MOST_ANYWAY: u64 = 256 << 20;

#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("cannot {what} {file}: {source}", file = .file.display())]
    Io { what: &'static str, file: PathBuf, source: io::Error },
    #[error(
        "{file} exists already, and an export overwrites nothing: name another file, or remove it",
        file = .0.display()
    )]
    Exists(PathBuf),
    #[error(
        "{file} is no export ({why}); `sensor export ID FILE` writes one of an incident, and \
         `sensor replay LOG --keep FILE` one of observations",
        file = .file.display()
    )]
    NoExport { file: PathBuf, why: String },
    #[error(
        "{file} is in version {version} of the format, and sensor {ours} knows version {VERSION}: \
         read it with a newer one",
        file = .file.display(), ours = env!("CARGO_PKG_VERSION")
    )]
    Newer { file: PathBuf, version: u32 },
}

/// Writes an export.
pub struct Exporter {
    stream: Packer<BufWriter<File>>,
    records: u64,
    unfinished: Unfinished,
}

/// A file that is removed again unless it comes to its end.
struct Unfinished(Option<PathBuf>);

impl Unfinished {
    fn path(&self) -> &Path {
        self.0.as_deref().unwrap_or(Path::new(""))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(file) = &self.0 {
            // Why it has no end is told already.
            let _ = fs::remove_file(file);
        }
    }
}

impl Exporter {
    /// Starts an export in a new file that only its owner may read: evidence tells much about a host.
    pub fn create(file: &Path, incident: &Incident) -> Result<Self, ExportError> {
        Self::begin(file, Some(incident))
    }

    /// Likewise, of records that need not be of an incident.
    pub fn create_records(file: &Path) -> Result<Self, ExportError> {
        Self::begin(file, None)
    }

    fn begin(file: &Path, incident: Option<&Incident>) -> Result<Self, ExportError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AlreadyExists => ExportError::Exists(file.to_owned()),
            _ => ExportError::Io { what: "create", file: file.to_owned(), source },
        };
        // Neither a file nor a link that stands there already is touched.
        let open = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(file)
            .map_err(failed)?;
        let unfinished = Unfinished(Some(file.to_owned()));
        let mut exporter =
            Self { stream: begin(BufWriter::new(open)).map_err(failed)?, records: 0, unfinished };
        exporter.put(start(incident))?;
        // A block of its own: it can be read whatever becomes of the rest.
        exporter.stream.flush().map_err(failed)?;
        Ok(exporter)
    }

    pub fn record(&mut self, record: Record) -> Result<(), ExportError> {
        self.records += 1;
        self.put(Entry::Record(record))
    }

    fn put(&mut self, entry: Entry) -> Result<(), ExportError> {
        let file = self.unfinished.path();
        self.stream.write(&ExportEntry { entry: Some(entry) }).map_err(|source| ExportError::Io {
            what: "write",
            file: file.to_owned(),
            source,
        })
    }

    /// Ends the file; it is on disk afterwards, and so is its name. Answers records and bytes.
    pub fn finish(mut self) -> Result<(u64, u64), ExportError> {
        self.put(Entry::End(ExportEnd { records: self.records }))?;
        let Self { stream, records, mut unfinished } = self;
        let end = || -> io::Result<u64> {
            let file = stream.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.sync_all()?;
            sync_directory_of(unfinished.path())?;
            Ok(file.metadata()?.len())
        };
        let bytes = end().map_err(|source| ExportError::Io {
            what: "write",
            file: unfinished.path().to_owned(),
            source,
        })?;
        unfinished.0 = None;
        Ok((records, bytes))
    }
}

pub(crate) fn begin<W: Write>(mut to: W) -> io::Result<Packer<W>> {
    to.write_all(&MAGIC)?;
    to.write_all(&VERSION.to_le_bytes())?;
    Packer::new(to)
}

fn start(incident: Option<&Incident>) -> Entry {
    Entry::Start(ExportStart {
        version: env!("CARGO_PKG_VERSION").into(),
        at: Some(clock::wall()),
        incident: incident.cloned(),
    })
}

fn sync_directory_of(file: &Path) -> io::Result<()> {
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    match File::open(directory.unwrap_or(Path::new(".")))?.sync_all() {
        // Some file systems have no such thing, others let nobody look into the directory.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        done => done,
    }
}

/// An exported incident, read from its file. Whatever the file holds, memory stays bounded: by what one
/// entry of at most 3.6 MB takes when it is unpacked.
pub struct Export<R: Read = File> {
    stream: Unpacker<R>,
    /// When it was exported, and by which sensor.
    pub start: ExportStart,
    /// The incident as it was then; of records alone an empty one.
    pub incident: Incident,
    /// Records that were read.
    pub records: u64,
    over: bool,
    /// Where the file was cut off or damaged, and how, once there is no more: goes on behind "it is".
    pub damage: Option<String>,
}

/// Whether a file begins like one of these.
pub fn is_one(file: &Path) -> bool {
    let mut magic = [0; MAGIC.len()];
    open(file).and_then(|(mut open, _)| open.read_exact(&mut magic)).is_ok() && magic == MAGIC
}

/// Opens a regular file, which has so many bytes.
fn open(file: &Path) -> io::Result<(File, u64)> {
    // What is no regular file might never answer.
    let open = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(file)?;
    let metadata = open.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    Ok((open, metadata.len()))
}

impl Export {
    pub fn open(file: &Path) -> Result<Self, ExportError> {
        let (open, size) = Self::opened(file)?;
        Self::read(open, size, file)
    }

    /// Opens records that need not be of an incident.
    pub fn open_records(file: &Path) -> Result<Self, ExportError> {
        let (open, size) = Self::opened(file)?;
        Self::read_records(open, size, file)
    }

    fn opened(file: &Path) -> Result<(File, u64), ExportError> {
        open(file).map_err(|source| match source.kind() {
            io::ErrorKind::InvalidInput => {
                ExportError::NoExport { file: file.to_owned(), why: source.to_string() }
            }
            _ => ExportError::Io { what: "open", file: file.to_owned(), source },
        })
    }
}

impl<R: Read> Export<R> {
    /// `size`: bytes of the file.
    pub(crate) fn read(from: R, size: u64, file: &Path) -> Result<Self, ExportError> {
        let export = Self::read_records(from, size, file)?;
        if export.incident == Incident::default() {
            let why = "no incident stands at its beginning".to_owned();
            return Err(ExportError::NoExport { file: file.to_owned(), why });
        }
        Ok(export)
    }

    /// Likewise, of records that need not be of an incident.
    pub(crate) fn read_records(mut from: R, size: u64, file: &Path) -> Result<Self, ExportError> {
        let foreign = |why: &str| ExportError::NoExport { file: file.to_owned(), why: why.into() };
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::UnexpectedEof => foreign("it ends before anything in it can be read"),
            _ => ExportError::Io { what: "read", file: file.to_owned(), source },
        };
        let (mut magic, mut version) = ([0; MAGIC.len()], [0; 4]);
        from.read_exact(&mut magic).map_err(failed)?;
        if magic != MAGIC {
            return Err(foreign("it does not begin like one"));
        }
        from.read_exact(&mut version).map_err(failed)?;
        match u32::from_le_bytes(version) {
            VERSION => {}
            version => return Err(ExportError::Newer { file: file.to_owned(), version }),
        }
        let most = size.saturating_mul(MOST_TIMES).max(MOST_ANYWAY);
        let mut stream = Unpacker::new(from, ENTRY_LIMIT, most).map_err(failed)?;
        let first = stream.message::<ExportEntry>().map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => foreign("it ends before anything in it can be read"),
            _ => foreign(&error.to_string()),
        })?;
        let Some(Entry::Start(mut start)) = first.and_then(|entry| entry.entry) else {
            return Err(foreign("no beginning stands there"));
        };
        let incident = start.incident.take().unwrap_or_default();
        Ok(Self { stream, start, incident, records: 0, over: false, damage: None })
    }

    /// The end is one only if nothing follows, and if the checksum, which is compared there, is right.
    fn end(&mut self, records: u64) -> io::Result<()> {
        if records != self.records {
            return Err(io::Error::other(format!("it had {records} records")));
        }
        match self.stream.message::<ExportEntry>()? {
            None => Ok(()),
            Some(_) => Err(io::Error::other("something follows its end")),
        }
    }
}

/// The records; none at the end, wherever that is: see [`Export::damage`].
impl<R: Read> Iterator for Export<R> {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        if self.over {
            return None;
        }
        let ended = match self.stream.message::<ExportEntry>() {
            Ok(Some(ExportEntry { entry: Some(Entry::Record(record)) })) => {
                self.records += 1;
                return Some(record);
            }
            Ok(Some(ExportEntry { entry: Some(Entry::End(end)) })) => self.end(end.records),
            Ok(Some(_)) => Err(io::Error::other("an entry of a kind that does not belong there")),
            Ok(None) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) => Err(error),
        };
        self.damage = ended.err().map(|why| damage("record", self.records, Some(&why)));
        self.over = true;
        None
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use proptest::prelude::*;

    use super::*;
    use crate::proto::{Lost, record::Body};

    fn incident() -> Incident {
        Incident { id: "4k2mz9qw0a".into(), summary: "s".into(), ..Default::default() }
    }

    fn record(seq: u64) -> Record {
        let body = Body::Lost(Lost { reason: format!("r{seq}"), count: seq });
        Record { seq, body: Some(body), ..Default::default() }
    }

    fn written(records: u64) -> Vec<u8> {
        let mut stream = begin(Vec::new()).unwrap();
        let mut put = |entry| stream.write(&ExportEntry { entry: Some(entry) }).unwrap();
        put(start(Some(&incident())));
        (1..=records).for_each(|seq| put(Entry::Record(record(seq))));
        put(Entry::End(ExportEnd { records }));
        stream.finish().unwrap()
    }

    fn opened(bytes: &[u8]) -> Result<Export<&[u8]>, ExportError> {
        Export::read(bytes, bytes.len() as u64, Path::new("x"))
    }

    /// What can be read, and what is wrong behind it.
    fn read(bytes: &[u8]) -> Result<(Vec<Record>, Option<String>), ExportError> {
        let mut export = opened(bytes)?;
        assert_eq!(export.incident, incident());
        let records = export.by_ref().collect();
        Ok((records, export.damage))
    }

    #[test]
    fn what_was_exported_is_read_elsewhere() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a");
        let mut exporter = Exporter::create(&file, &incident()).unwrap();
        (1..=100).for_each(|seq| exporter.record(record(seq)).unwrap());
        let (records, bytes) = exporter.finish().unwrap();
        assert_eq!((records, bytes), (100, fs::metadata(&file).unwrap().len()));
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let mut export = Export::open(&file).unwrap();
        assert!(export.by_ref().eq((1..=100).map(record)));
        assert_eq!((export.records, export.damage), (100, None));
        assert_eq!(export.start.version, env!("CARGO_PKG_VERSION"));
    }

    #[test]
    fn nothing_is_overwritten_and_nothing_half_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("a"), directory.path().join("b"));
        fs::write(&file, "mine").unwrap();
        std::os::unix::fs::symlink(directory.path().join("c"), &link).unwrap();
        for taken in [&file, &link] {
            let refused = Exporter::create(taken, &incident()).map(drop).unwrap_err();
            assert!(matches!(refused, ExportError::Exists(_)), "{refused}");
        }
        assert_eq!(fs::read(&file).unwrap(), b"mine");
        let unfinished = directory.path().join("c");
        Exporter::create(&unfinished, &incident()).unwrap().record(record(1)).unwrap();
        assert!(!unfinished.exists());
    }

    #[test]
    fn other_files_are_named() {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(Export::open(directory.path()), Err(ExportError::NoExport { .. })));
        let whole = written(3);
        for other in
            [&b""[..], b"{\"json\": 1, \"long\": true}", &whole[..7], &whole[..16], &whole[16..]]
        {
            let error = read(other).unwrap_err();
            assert!(matches!(error, ExportError::NoExport { .. }), "{other:?}: {error}");
        }
        let mut newer = whole;
        newer[12] = 2;
        let error = read(&newer).unwrap_err().to_string();
        assert!(error.contains("version 2"), "{error}");
    }

    #[test]
    fn a_bomb_is_refused() {
        // One record again and again: a few kB that would be 300 MB.
        let mut stream = begin(Vec::new()).unwrap();
        let mut put = |entry: &ExportEntry| stream.write(entry).unwrap();
        put(&ExportEntry { entry: Some(start(Some(&incident()))) });
        let mut large = record(1);
        large.host = "h".repeat(1 << 20);
        let large = ExportEntry { entry: Some(Entry::Record(large)) };
        (0..300).for_each(|_| put(&large));
        let bytes = stream.finish().unwrap();
        assert!(bytes.len() < 200_000, "{}", bytes.len());
        let (records, damage) = read(&bytes).unwrap();
        assert_eq!(records.len(), 255, "as many as fit into 256 MiB");
        assert!(damage.unwrap().contains("unpacks to more than"));

        // A length that nothing follows takes no memory.
        let empty = begin(Vec::new()).unwrap().finish().unwrap();
        let mut stream = zstd::Encoder::new(empty, 1).unwrap();
        stream.write_all(&[0xff, 0xff, 0xff, 0xff, 0x0f]).unwrap();
        assert!(matches!(read(&stream.finish().unwrap()), Err(ExportError::NoExport { .. })));
    }

    proptest! {
        #[test]
        fn whatever_a_file_holds_it_is_an_answer(
            count in 0_u64..200,
            cut in any::<proptest::sample::Index>(),
            flip in proptest::option::of((any::<proptest::sample::Index>(), 1_u8..)),
        ) {
            let whole = written(count);
            let mut bytes = whole.clone();
            bytes.truncate(cut.index(whole.len() + 1));
            if let (Some((at, bits)), false) = (flip, bytes.is_empty()) {
                let at = at.index(bytes.len());
                bytes[at] ^= bits;
            }
            let Ok(mut export) = opened(&bytes) else { return Ok(()) };
            let records: Vec<Record> = export.by_ref().collect();
            if flip.is_none() {
                prop_assert_eq!(export.damage.is_none(), bytes == whole);
                prop_assert!(records.iter().cloned().eq((1..=records.len() as u64).map(record)));
            }
            // A few bits of a zstd frame say nothing about what is in it; all others are noticed.
            if export.damage.is_none() {
                prop_assert!(records.into_iter().eq((1..=count).map(record)));
                prop_assert_eq!(export.incident, incident());
            }
        }

        #[test]
        fn random_entries_are_an_answer(noise in proptest::collection::vec(any::<u8>(), 0..300)) {
            let empty = begin(Vec::new()).unwrap().finish().unwrap();
            let mut stream = zstd::Encoder::new(empty, 1).unwrap();
            stream.write_all(&noise).unwrap();
            if let Ok(export) = opened(&stream.finish().unwrap()) {
                export.for_each(drop);
            }
        }
    }
}
