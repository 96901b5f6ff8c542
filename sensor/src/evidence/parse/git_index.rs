//! The files that git knows in a work tree, with what they looked like when it last saw them: the index
//! (gitformat-index(5)), versions 2 to 4, SHA-1 and SHA-256. Nothing is checked against its contents.

use std::{fs::File, io::Read as _};

use sensor_proto::internal::v1::{IndexEntry, IndexWanted, ParseAnswer};

/// Largest index: 300,000 files.
const INDEX_LIMIT: u64 = 32 << 20;
/// Entries that are told.
const ENTRIES: usize = 10_000;
/// As the kernel has it.
const PATH_LIMIT: usize = 4096;

pub(super) fn entries(file: &File, wanted: IndexWanted) -> Result<ParseAnswer, String> {
    let mut bytes = Vec::new();
    file.take(INDEX_LIMIT).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    find(&bytes, wanted)
}

/// The same of bytes.
pub(crate) fn find(bytes: &[u8], wanted: IndexWanted) -> Result<ParseAnswer, String> {
    let word = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let (Some(b"DIRC"), Some(version @ 2..=4), Some(count)) = (bytes.get(..4), word(4), word(8))
    else {
        return Err("no index of a version that is known".to_owned());
    };
    let hash = if wanted.sha256 { 32 } else { 20 };
    let mut entries = Vec::new();
    let mut path: Vec<u8> = Vec::new();
    let mut at = 12;
    for _ in 0..count {
        if entries.len() >= ENTRIES {
            break;
        }
        let mut next = || {
            // ctime, mtime, dev, ino, mode, uid, gid, size: 40 bytes; a hash; flags.
            let (seconds, nanos, mode, size) =
                (word(at + 8)?, word(at + 12)?, word(at + 24)?, word(at + 36)?);
            let flags_at = at + 40 + hash;
            let flags = u16::from_be_bytes(bytes.get(flags_at..flags_at + 2)?.try_into().ok()?);
            // Version 3 and later: more flags behind these.
            let extended = version >= 3 && flags & 0x4000 != 0;
            let mut name_at = flags_at + if extended { 4 } else { 2 };
            if version == 4 {
                let (strip, length) = offset(bytes.get(name_at..)?)?;
                name_at += length;
                path.truncate(path.len().checked_sub(strip)?);
            } else {
                path.clear();
            }
            let name = bytes.get(name_at..)?;
            let end = name.iter().take(PATH_LIMIT).position(|byte| *byte == 0)?;
            path.extend_from_slice(&name[..end]);
            if path.len() > PATH_LIMIT {
                return None;
            }
            let after = name_at + end + 1;
            // Padded with NULs to eight bytes, but for version 4.
            at = if version == 4 { after } else { at + (name_at + end - at + 8) / 8 * 8 };
            Some((seconds, nanos, mode, size, flags))
        };
        let Some((seconds, nanos, mode, size, flags)) = next() else { break };
        // Assumed unchanged, in a merge, or no file: a link, another repository.
        let plain = flags & 0xb000 == 0 && mode & 0o170_000 == 0o100_000;
        if plain {
            let path = path.clone();
            entries.push(IndexEntry { path, seconds, nanos, size });
        }
    }
    Ok(ParseAnswer { entries, files: u64::from(count), ..Default::default() })
}

/// As in packs: seven bits a byte, each continuation one more (gitformat-pack(5)).
fn offset(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0_usize;
    for (at, byte) in bytes.iter().take(5).enumerate() {
        value = value.checked_mul(128)?.checked_add(usize::from(byte & 0x7f))?;
        if byte & 0x80 == 0 {
            return Some((value, at + 1));
        }
        value += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_git_itself_writes() {
        let directory = tempfile::tempdir().unwrap();
        let git = |arguments: &[&str]| {
            let said = Command::new("git")
                .current_dir(directory.path())
                .args(["-c", "user.name=a", "-c", "user.email=a@b"])
                .args(arguments)
                .output();
            said.is_ok_and(|said| said.status.success())
        };
        if !git(&["init", "-q", "."]) {
            return println!("SKIP what_git_itself_writes: no git");
        }
        let names = ["a.js", "src/deep/er/b.js", "src/deep/erest.js", "z"];
        for name in names {
            let path = directory.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, name).unwrap();
        }
        assert!(git(&["add", "."]));
        for version in ["2", "4"] {
            assert!(git(&["update-index", "--index-version", version]));
            let bytes = std::fs::read(directory.path().join(".git/index")).unwrap();
            let found = find(&bytes, IndexWanted { sha256: false }).unwrap();
            let told: Vec<(&str, u32)> = found
                .entries
                .iter()
                .map(|it| (std::str::from_utf8(&it.path).unwrap(), it.size))
                .collect();
            let expected = names.map(|name| (name, name.len() as u32));
            assert_eq!((told, found.files), (expected.to_vec(), 4), "version {version}");
        }
    }

    #[test]
    fn offsets_of_packs() {
        assert_eq!(offset(&[0x05]), Some((5, 1)));
        assert_eq!(offset(&[0x80, 0x00]), Some((128, 2)));
        assert_eq!(offset(&[0xff; 9]), None);
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400), version in 2_u8..5) {
            let mut file = b"DIRC\0\0\0".to_vec();
            file.push(version);
            file.extend(bytes);
            if let Ok(answer) = find(&file, IndexWanted { sha256: false }) {
                prop_assert!(answer.entries.iter().all(|it| it.path.len() <= PATH_LIMIT));
            }
        }
    }
}
