//! A trace as a file: a zstd stream of entries, each with its length before it as a varint. The
//! format is documented in `proto/sensor/v1/trace.proto`.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, Read, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use crate::{
    packed::{Packer, Unpacker, damage},
    proto::{TraceEntry, trace_entry::Entry},
};

/// Longest entry, bytes: 512 bytes of arguments and the rest come to 1 KiB, a cgroup's path to 4 KiB.
/// A longer length is no length.
const ENTRY_LIMIT: u64 = 64 << 10;

#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    #[error("cannot {what} {file}: {source}", file = .file.display())]
    Io { what: &'static str, file: PathBuf, source: io::Error },
    #[error(
        "{file} exists already, and a recording overwrites nothing: name another file, or remove it",
        file = .0.display()
    )]
    Exists(PathBuf),
    #[error(
        "{file} is no trace ({why}); `sensor record --lifecycle` writes one", file = .file.display()
    )]
    NoTrace { file: PathBuf, why: &'static str },
    #[error(
        "{file} has entries of a kind that sensor {ours} does not know: replay it with sensor {by}, \
         which recorded it, or a newer one",
        file = .file.display(), ours = env!("CARGO_PKG_VERSION")
    )]
    Newer { file: PathBuf, by: String },
}

/// Writes a trace.
pub struct Writer<W: Write = BufWriter<File>> {
    stream: Packer<W>,
}

impl Writer {
    /// Starts a trace in a new file that only its owner may read: arguments tell much about a host.
    pub fn create(file: &Path) -> Result<Self, TraceError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AlreadyExists => TraceError::Exists(file.to_owned()),
            _ => TraceError::Io { what: "create", file: file.to_owned(), source },
        };
        let open = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(file)
            .map_err(failed)?;
        Self::new(BufWriter::new(open)).map_err(failed)
    }

    /// Ends the stream; the file is on disk afterwards. Answers its size, bytes.
    pub fn finish(self) -> io::Result<u64> {
        let file = self.stream.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        Ok(file.metadata()?.len())
    }

    /// Size of the file so far, bytes.
    pub fn size(&self) -> io::Result<u64> {
        Ok(self.stream.get_ref().get_ref().metadata()?.len())
    }
}

impl<W: Write> Writer<W> {
    fn new(to: W) -> io::Result<Self> {
        Ok(Self { stream: Packer::new(to)? })
    }

    pub fn write(&mut self, entry: Entry) -> io::Result<()> {
        self.stream.write(&TraceEntry { entry: Some(entry) })
    }

    /// Everything up to here can be read even if the recorder dies now.
    pub fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Reads a trace. Whatever the file holds, memory stays bounded.
pub struct Reader<R: Read = File> {
    stream: Unpacker<R>,
    file: PathBuf,
    /// Entries that were read.
    entries: u64,
    /// Version of the sensor that recorded it, as its first entry says.
    by: String,
    over: bool,
    damage: Option<String>,
}

impl Reader {
    pub fn open(file: &Path) -> Result<Self, TraceError> {
        let failed = |source| TraceError::Io { what: "open", file: file.to_owned(), source };
        let open = File::open(file).map_err(failed)?;
        Self::new(open, file).map_err(failed)
    }
}

impl<R: Read> Reader<R> {
    pub(crate) fn new(from: R, file: &Path) -> io::Result<Self> {
        Ok(Self {
            // A trace may be as long as its recording was.
            stream: Unpacker::new(from, ENTRY_LIMIT, u64::MAX)?,
            file: file.to_owned(),
            entries: 0,
            by: String::new(),
            over: false,
            damage: None,
        })
    }

    /// The next entry; none at the end, wherever that is: see [`Self::damage`].
    pub fn entry(&mut self) -> Result<Option<Entry>, TraceError> {
        if self.over {
            return Ok(None);
        }
        match self.read() {
            Ok(Some(entry)) => {
                self.entries += 1;
                match &entry {
                    Entry::Start(start) => self.by.clone_from(&start.version),
                    Entry::End(_) => self.over = true,
                    _ => {}
                }
                Ok(Some(entry))
            }
            Ok(None) if self.entries == 0 => Err(self.no_trace("it is empty")),
            Ok(None) => Ok(self.stop(None)),
            Err(error) if self.entries == 0 => Err(self.no_trace(match error.kind() {
                io::ErrorKind::UnexpectedEof => "it ends before anything in it can be read",
                _ => "it does not begin like one",
            })),
            // Our own version writes no kind that it does not know: then it is damaged.
            Err(error)
                if error.kind() == io::ErrorKind::Unsupported
                    && self.by != env!("CARGO_PKG_VERSION") =>
            {
                Err(TraceError::Newer { file: self.file.clone(), by: self.by.clone() })
            }
            Err(error) => Ok(self.stop(Some(&error))),
        }
    }

    /// Nothing more can be read.
    fn stop(&mut self, why: Option<&io::Error>) -> Option<Entry> {
        self.over = true;
        self.damage = Some(damage("entry", self.entries, why));
        None
    }

    /// Where the trace was cut off or damaged, and how, once [`Self::entry`] has said that it is over: goes on
    /// behind "it is". None where the recorder ended in good order.
    pub fn damage(self) -> Option<String> {
        self.damage
    }

    /// This file, as something that it is not.
    pub fn no_trace(&self, why: &'static str) -> TraceError {
        TraceError::NoTrace { file: self.file.clone(), why }
    }

    fn read(&mut self) -> io::Result<Option<Entry>> {
        let Some(entry) = self.stream.message::<TraceEntry>()? else { return Ok(None) };
        // A newer sensor may write more kinds of entries than we know. To pass over them would be a
        // replay of something else than what happened.
        let unknown = || io::Error::new(io::ErrorKind::Unsupported, "an entry of an unknown kind");
        entry.entry.ok_or_else(unknown).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::proto::{Lost, ProcessKey, TraceEnd, TraceExit, TraceStart};

    fn exit(pid: u32, code: u32) -> Entry {
        Entry::Exit(TraceExit {
            process: Some(ProcessKey { pid, start_ns: u64::from(pid) << 20 }),
            exit_ns: 9,
            code,
            respawn: None,
        })
    }

    fn started(by: &str) -> Entry {
        Entry::Start(TraceStart { version: by.into(), ..TraceStart::default() })
    }

    fn written(entries: &[Entry], end: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes).unwrap();
        writer.write(started("1.2.3")).unwrap();
        for entry in entries {
            writer.write(entry.clone()).unwrap();
        }
        if end {
            writer.write(Entry::End(TraceEnd { boot_ns: 10 })).unwrap();
        }
        writer.flush().unwrap();
        if end {
            writer.stream.finish().unwrap();
        } else {
            // As a recorder that was killed: no end of the frame.
            std::mem::forget(writer);
        }
        bytes
    }

    fn read(bytes: &[u8]) -> Result<(Vec<Entry>, Option<String>), TraceError> {
        let mut reader = Reader::new(bytes, Path::new("x")).unwrap();
        let mut entries = Vec::new();
        while let Some(entry) = reader.entry()? {
            entries.push(entry);
        }
        Ok((entries, reader.damage()))
    }

    #[test]
    fn what_was_written_is_read() {
        let entries = [exit(7, 256), Entry::Lost(Lost { reason: "ring_full".into(), count: 3 })];
        let (read, damage) = read(&written(&entries, true)).unwrap();
        assert_eq!(damage, None);
        assert_eq!(read[1..3], entries);
    }

    #[test]
    fn what_a_killed_recorder_left_is_read_up_to_there() {
        let (read, damage) = read(&written(&[exit(7, 0)], false)).unwrap();
        assert_eq!(damage.as_deref(), Some("cut off behind entry 2"));
        assert_eq!(read[1..], [exit(7, 0)]);
    }

    #[test]
    fn an_unknown_kind_of_entry_is_a_newer_sensors() {
        let recorded = |by: &str| {
            let mut bytes = Vec::new();
            let mut stream = zstd::Encoder::new(&mut bytes, 1).unwrap();
            let start = TraceEntry { entry: Some(started(by)) };
            stream.write_all(&start.encode_length_delimited_to_vec()).unwrap();
            // Field 100, two bytes.
            stream.write_all(&[5, 0xa2, 0x06, 2, 7, 7]).unwrap();
            stream.finish().unwrap();
            read(&bytes)
        };
        let ours = env!("CARGO_PKG_VERSION");
        let said = recorded("9.8.7").unwrap_err().to_string();
        assert!(said.contains("with sensor 9.8.7") && said.contains(ours), "{said}");
        let (_, damage) = recorded(ours).unwrap();
        let why = "damaged behind entry 1: an entry of an unknown kind";
        assert_eq!(damage.as_deref(), Some(why));
    }

    #[test]
    fn other_files_are_named() {
        for other in [&b""[..], b"{\"json\": 1}", &[0x28, 0xb5, 0x2f, 0xfd]] {
            let error = read(other).unwrap_err();
            assert!(matches!(error, TraceError::NoTrace { .. }), "{other:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_file_holds_it_is_an_answer(
            pids in proptest::collection::vec(1_u32..40_000, 1..40),
            cut in any::<proptest::sample::Index>(),
            flip in proptest::option::of((any::<proptest::sample::Index>(), 1_u8..)),
        ) {
            let entries: Vec<Entry> = pids.iter().map(|pid| exit(*pid, 0)).collect();
            let mut bytes = written(&entries, true);
            bytes.truncate(cut.index(bytes.len() + 1));
            if let (Some((at, bits)), false) = (flip, bytes.is_empty()) {
                let at = at.index(bytes.len());
                bytes[at] ^= bits;
            }
            if let (Ok((read, damage)), None) = (read(&bytes), flip) {
                prop_assert_eq!(damage.is_none(), read.len() == entries.len() + 2);
                prop_assert_eq!(&read[1..read.len().min(entries.len() + 1)], &entries[..read.len().min(entries.len() + 1) - 1]);
            }
        }

        #[test]
        fn random_entries_are_an_answer(noise in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut stream = zstd::Encoder::new(Vec::new(), 1).unwrap();
            stream.write_all(&noise).unwrap();
            let _ = read(&stream.finish().unwrap());
        }
    }
}
