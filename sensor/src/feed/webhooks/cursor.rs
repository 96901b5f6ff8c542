//! How far a webhook got, on disk: whatever ends this process or the machine, the next one goes on there.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use uuid::Uuid;

/// A UUID and a number have 57 bytes at most.
const FILE_MAX: u64 = 128;

/// In the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    pub log_id: Uuid,
    /// Number of the first record that has not arrived; 0: the oldest.
    pub next_seq: u64,
}

/// The file that remembers a position.
#[derive(Debug)]
pub struct Cursor {
    directory: PathBuf,
    path: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum CursorError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{0} is damaged")]
    Damaged(PathBuf),
}

impl Cursor {
    /// `name` is one that a file may have.
    pub fn new(directory: &Path, name: &str) -> Self {
        Self { directory: directory.to_owned(), path: directory.join(name) }
    }

    /// None: it is a new one.
    pub fn read(&self) -> Result<Option<Position>, CursorError> {
        let mut bytes = Vec::new();
        let read = File::open(&self.path)
            .and_then(|file| file.take(FILE_MAX).read_to_end(&mut bytes).map(drop));
        match read {
            Ok(()) => {
                parse(&bytes).map(Some).ok_or_else(|| CursorError::Damaged(self.path.clone()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(CursorError::Read { path: self.path.clone(), source }),
        }
    }

    /// Durable when it returns; a crash leaves either the old one or this one.
    pub fn write(&self, position: &Position) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let mut file = File::create(&new)?;
        writeln!(file, "{} {}", position.log_id, position.next_seq)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        File::open(&self.directory)?.sync_all()
    }
}

fn parse(bytes: &[u8]) -> Option<Position> {
    let (log_id, seq) = str::from_utf8(bytes).ok()?.strip_suffix('\n')?.split_once(' ')?;
    Some(Position { log_id: log_id.parse().ok()?, next_seq: seq.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_position_survives_and_a_new_one_replaces_it() {
        let directory = tempfile::tempdir().unwrap();
        let cursor = Cursor::new(directory.path(), "board");
        assert_eq!(cursor.read().unwrap(), None);
        let log_id = Uuid::new_v4();
        for next_seq in [0, 17, u64::MAX] {
            let position = Position { log_id, next_seq };
            cursor.write(&position).unwrap();
            assert_eq!(cursor.read().unwrap(), Some(position));
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left behind");
    }

    #[test]
    fn a_part_of_a_position_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let cursor = Cursor::new(directory.path(), "board");
        let whole = format!("{} 4711\n", Uuid::new_v4());
        for end in 0..whole.len() {
            fs::write(&cursor.path, &whole[..end]).unwrap();
            assert!(matches!(cursor.read(), Err(CursorError::Damaged(_))), "{end}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_position_or_none(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            parse(&bytes);
        }

        #[test]
        fn what_is_written_is_read(id in any::<u128>(), next_seq in any::<u64>()) {
            let log_id = Uuid::from_u128(id);
            let text = format!("{log_id} {next_seq}\n");
            prop_assert_eq!(parse(text.as_bytes()), Some(Position { log_id, next_seq }));
        }
    }
}
