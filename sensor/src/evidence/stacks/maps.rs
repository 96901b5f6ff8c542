//! What a process has mapped, by /proc/PID/maps. The kernel escapes newlines in names, so a line is one
//! mapping; the names are anybody's choice.

/// A page-aligned piece of its memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Map {
    pub start: u64,
    pub end: u64,
    /// In the file, bytes.
    pub offset: u64,
    pub executable: bool,
    /// Of the file; 0: anonymous memory.
    pub inode: u64,
    /// Empty: anonymous memory.
    pub path: Vec<u8>,
}

impl Map {
    pub fn holds(&self, address: u64) -> bool {
        (self.start..self.end).contains(&address)
    }
}

/// Mappings in the order of their addresses; lines that are none are left out.
pub(crate) fn parse(text: &[u8]) -> Vec<Map> {
    text.split(|byte| *byte == b'\n').filter_map(line).collect()
}

/// `start-end perms offset dev inode   path`
fn line(line: &[u8]) -> Option<Map> {
    let mut fields = line.splitn(6, |byte| *byte == b' ');
    let mut text = || std::str::from_utf8(fields.next()?).ok();
    let (range, permissions, offset, _) = (text()?, text()?, text()?, text()?);
    let inode = text()?.parse().ok()?;
    let (start, end) = range.split_once('-')?;
    let hex = |text| u64::from_str_radix(text, 16).ok();
    Some(Map {
        start: hex(start)?,
        end: hex(end)?,
        offset: hex(offset)?,
        executable: permissions.as_bytes().get(2) == Some(&b'x'),
        inode,
        path: fields.next().unwrap_or_default().trim_ascii_start().to_vec(),
    })
}

/// The mapping that holds an address.
pub(crate) fn find(maps: &[Map], address: u64) -> Option<&Map> {
    maps.get(position(maps, address)?)
}

/// Which one that is.
pub(super) fn position(maps: &[Map], address: u64) -> Option<usize> {
    let before = maps.partition_point(|map| map.start <= address).checked_sub(1)?;
    maps.get(before)?.holds(address).then_some(before)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_of_the_kernel() {
        let text = b"5590a000-5590b000 r-xp 00001000 08:01 77                         /srv/a b (deleted)\n\
                     7f00-7fff rw-p 00000000 00:00 0 \nodd\n";
        let maps = parse(text);
        let code = Map {
            start: 0x5590_a000,
            end: 0x5590_b000,
            offset: 0x1000,
            executable: true,
            inode: 77,
            path: b"/srv/a b (deleted)".to_vec(),
        };
        let heap = Map { start: 0x7f00, end: 0x7fff, ..Map::default() };
        assert_eq!(maps, [code.clone(), heap]);
        let mut maps = maps;
        maps.reverse();
        assert_eq!(find(&maps, 0x5590_afff), Some(&code));
        assert_eq!((find(&maps, 0x5590_b000), find(&maps, 0)), (None, None));
    }

    proptest! {
        #[test]
        fn any_text(text in prop::collection::vec(any::<u8>(), 0..300), address: u64) {
            let maps = parse(&text);
            prop_assert!(find(&maps, address).is_none_or(|map| map.holds(address)));
        }
    }
}
