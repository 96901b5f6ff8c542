//! Where structure members lie, from the kernel's own type information.
//!
//! A reader of BTF that knows just enough to answer "at which byte of struct S is member M". The
//! crates that parse BTF whole take over a second and 57 MiB for a kernel of today; this takes one
//! pass over 6 MiB. Format: Documentation/bpf/btf.rst of the kernel.

use std::{fs, io, path::Path};

use sensor_common::{
    layout::{ABSENT, FIELDS, Field},
    memory::Layout,
};

/// Offsets in bytes, by [`Field`].
pub type Offsets = [u64; FIELDS];

#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    #[error("cannot read {path}: {source}; the kernel must be built with CONFIG_DEBUG_INFO_BTF")]
    Read { path: String, source: io::Error },
    #[error("the kernel's type information is damaged or of an unknown format: {0}")]
    Malformed(&'static str),
    #[error("this kernel has no {structure}.{member}, which identifies processes")]
    Missing { structure: &'static str, member: &'static str },
}

const MAGIC: u16 = 0xeb9f;
const KIND_INT: u32 = 1;
const KIND_POINTER: u32 = 2;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_CONST: u32 = 10;
const KIND_PROTOTYPE: u32 = 13;
/// Anonymous structures nest two or three deep in reality; a circle cannot be longer than this.
const NESTING: u32 = 16;
/// Members that are looked at for one answer: `task_struct` has some 300, and a structure that holds itself
/// many times over would have no end of them.
const MEMBERS: u32 = 1 << 16;

/// The type information of the running kernel.
pub struct Btf {
    bytes: Vec<u8>,
    strings: usize,
    strings_end: usize,
    /// Where each type's record begins; type 0 is void.
    types: Vec<u32>,
    /// The same of the structures that have a name: some 10,000 of 130,000, which are looked through for each
    /// field.
    structures: Vec<u32>,
}

impl Btf {
    pub fn of_kernel() -> Result<Self, BtfError> {
        Self::read(Path::new("/sys/kernel/btf/vmlinux"))
    }

    pub fn read(path: &Path) -> Result<Self, BtfError> {
        let bytes = fs::read(path)
            .map_err(|source| BtfError::Read { path: path.display().to_string(), source })?;
        Self::parse(bytes)
    }

    pub fn parse(bytes: Vec<u8>) -> Result<Self, BtfError> {
        let word = |at: usize| {
            bytes
                .get(at..at.checked_add(4)?)
                .and_then(|word| word.try_into().ok())
                .map(u32::from_ne_bytes)
        };
        let header =
            |at| word(at).map(|value| value as usize).ok_or(BtfError::Malformed("short header"));
        if bytes.get(..2).and_then(|magic| magic.try_into().ok()).map(u16::from_ne_bytes)
            != Some(MAGIC)
        {
            return Err(BtfError::Malformed("no magic number"));
        }
        let base = header(4)?;
        let section = |offset: usize, length: usize| {
            let start = base.checked_add(offset)?;
            let end = start.checked_add(length)?;
            (end <= bytes.len()).then_some((start, end))
        };
        let (mut at, end) =
            section(header(8)?, header(12)?).ok_or(BtfError::Malformed("types out of bounds"))?;
        let (strings, strings_end) = section(header(16)?, header(20)?)
            .ok_or(BtfError::Malformed("strings out of bounds"))?;

        let (mut types, mut structures) = (vec![0], Vec::new());
        while at < end {
            let info = word(at + 4).ok_or(BtfError::Malformed("short type"))?;
            let record = u32::try_from(at).map_err(|_| BtfError::Malformed("too large"))?;
            types.push(record);
            if info >> 24 & 0x1f == KIND_STRUCT && word(at) != Some(0) {
                structures.push(record);
            }
            at += 12 + extra(info).ok_or(BtfError::Malformed("unknown kind"))?;
        }
        Ok(Self { bytes, strings, strings_end, types, structures })
    }

    /// Byte offset of a member, through anonymous members; `None` when there is none, or it is a
    /// bit field.
    pub fn offset(&self, structure: &str, member: &str) -> Option<u64> {
        self.find(structure, member).map(|(offset, _)| offset)
    }

    /// The same, with the type of the member.
    fn find(&self, structure: &str, member: &str) -> Option<(u64, u32)> {
        let mut left = MEMBERS;
        self.structures.iter().find_map(|at| {
            // A name may be declared in more than one unit; the one that has the member is meant.
            self.is(self.word(*at as usize)?, structure)
                .then(|| self.member(*at, member, 0, &mut left))
                .flatten()
        })
    }

    /// Size of a structure, bytes, if this type is one of that name.
    fn size(&self, of: u32, structure: &str) -> Option<u64> {
        let at = *self.types.get(of as usize)?;
        let (name, kind, _) = self.head(at)?;
        let size = self.word(at as usize + 8)?;
        (kind == KIND_STRUCT && self.is(name, structure)).then_some(size.into())
    }

    /// The type of an array's elements.
    fn element(&self, of: u32) -> Option<u32> {
        let at = *self.types.get(of as usize)?;
        let (_, kind, _) = self.head(at)?;
        (kind == KIND_ARRAY).then(|| self.word(at as usize + 12)).flatten()
    }

    /// Where an address space's counters are: the first one's value, and from one to the next, bytes.
    /// Until 6.1 `struct mm_rss_stat` with an array of numbers, since then an array of
    /// `struct percpu_counter`: <https://github.com/torvalds/linux/commit/f1a7941243c1>.
    pub fn counters(&self) -> Option<(u64, u64)> {
        /// Of numbers.
        const STRIDE: u64 = 8;
        let (at, of) = self.find("mm_struct", "rss_stat")?;
        if self.size(of, "mm_rss_stat").is_some() {
            return Some((at + self.offset("mm_rss_stat", "count")?, STRIDE));
        }
        let stride = self.size(self.element(of)?, "percpu_counter")?;
        Some((at + self.offset("percpu_counter", "count")?, stride))
    }

    /// What is needed to see who holds memory; the name of what is not there.
    pub fn memory(&self) -> Result<Layout, &'static str> {
        /// `PIDTYPE_SID` of include/linux/pid.h, unchanged since 4.19, of pointers.
        const SESSION: u64 = 3 * 8;
        let (counters, stride) = self.counters().ok_or("mm_struct.rss_stat in a known form")?;
        let offset = |structure, member, name| self.offset(structure, member).ok_or(name);
        Ok(Layout {
            counters,
            stride,
            cred: offset("task_struct", "cred", "task_struct.cred")?,
            uid: offset("cred", "uid", "cred.uid")?,
            session: offset("signal_struct", "pids", "signal_struct.pids")? + SESSION,
            number: offset("pid", "numbers", "pid.numbers")? + offset("upid", "nr", "upid.nr")?,
            threads: offset("signal_struct", "thread_head", "signal_struct.thread_head")?,
            thread: offset("task_struct", "thread_node", "task_struct.thread_node")?,
            owner: self.offset("mm_struct", "owner").unwrap_or(ABSENT),
        })
    }

    /// Value of an enumerator.
    pub fn enumerator(&self, wanted: &str) -> Option<u32> {
        let mut records = self.types.iter().skip(1);
        records.find_map(|at| {
            let (_, kind, info) = self.head(*at)?;
            if kind != KIND_ENUM {
                return None;
            }
            (0..info & 0xffff).find_map(|index| {
                let record = *at as usize + 12 + index as usize * 8;
                self.is(self.word(record)?, wanted).then(|| self.word(record + 4)).flatten()
            })
        })
    }

    /// Whether a raw tracepoint hands over a pointer as its argument `index`, and no number; `None`: there is no
    /// such tracepoint or argument.
    pub fn is_pointer(&self, tracepoint: &str, index: u32) -> Option<bool> {
        let wanted = format!("btf_trace_{tracepoint}");
        let mut records = self.types.iter().skip(1);
        records.find_map(|at| {
            let (name, kind, _) = self.head(*at)?;
            if kind != KIND_TYPEDEF || !self.is(name, &wanted) {
                return None;
            }
            let (prototype, kind, info) = self.behind(self.word(*at as usize + 8)?)?;
            // The first parameter is the tracepoint's own.
            if kind != KIND_PROTOTYPE || index + 1 >= info & 0xffff {
                return None;
            }
            let of = self.word(prototype as usize + 12 + (index as usize + 1) * 8 + 4)?;
            match self.plain(of)? {
                KIND_POINTER => Some(true),
                KIND_INT | KIND_ENUM => Some(false),
                _ => None,
            }
        })
    }

    /// What a pointer points to: (where its record begins, kind, info).
    fn behind(&self, pointer: u32) -> Option<(u32, u32, u32)> {
        let at = *self.types.get(pointer as usize)?;
        let (_, kind, _) = self.head(at)?;
        let to = *self.types.get(self.word(at as usize + 8)? as usize)?;
        let (_, of, info) = self.head(to)?;
        (kind == KIND_POINTER).then_some((to, of, info))
    }

    /// The kind of a type without what only names or qualifies it.
    fn plain(&self, mut of: u32) -> Option<u32> {
        for _ in 0..NESTING {
            let at = *self.types.get(of as usize)?;
            let (_, kind, _) = self.head(at)?;
            if !matches!(kind, KIND_TYPEDEF | KIND_CONST) {
                return Some(kind);
            }
            of = self.word(at as usize + 8)?;
        }
        None
    }

    /// All offsets that the kernel side needs.
    pub fn offsets(&self) -> Result<Offsets, BtfError> {
        let mut offsets = [0; FIELDS];
        for (field, structure, members) in Field::NAMES {
            offsets[field as usize] = members
                .iter()
                .find_map(|member| self.offset(structure, member))
                .ok_or(BtfError::Missing { structure, member: members[0] })?;
        }
        Ok(offsets)
    }

    fn word(&self, at: usize) -> Option<u32> {
        self.bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_ne_bytes)
    }

    /// (name, kind, info) of the type whose record begins at `at`.
    fn head(&self, at: u32) -> Option<(u32, u32, u32)> {
        let info = self.word(at as usize + 4)?;
        Some((self.word(at as usize)?, info >> 24 & 0x1f, info))
    }

    fn is(&self, name: u32, wanted: &str) -> bool {
        let strings = &self.bytes[self.strings..self.strings_end];
        strings
            .get(name as usize..)
            .and_then(|rest| rest.get(..=wanted.len()))
            .is_some_and(|found| found.split_last() == Some((&0, wanted.as_bytes())))
    }

    fn member(&self, at: u32, wanted: &str, nesting: u32, left: &mut u32) -> Option<(u64, u32)> {
        let (_, kind, info) = self.head(at)?;
        if !matches!(kind, KIND_STRUCT | KIND_UNION) || nesting > NESTING {
            return None;
        }
        let bit_fields = info >> 31 == 1;
        (0..info & 0xffff).find_map(|index| {
            *left = left.checked_sub(1)?;
            let record = at as usize + 12 + index as usize * 12;
            let (name, of, place) =
                (self.word(record)?, self.word(record + 4)?, self.word(record + 8)?);
            let (bits, width) =
                if bit_fields { (place & 0x00ff_ffff, place >> 24) } else { (place, 0) };
            if name == 0 {
                let of = *self.types.get(of as usize)?;
                let (inner, of) = self.member(of, wanted, nesting + 1, left)?;
                return Some((u64::from(bits / 8) + inner, of));
            }
            let is_it = self.is(name, wanted) && width == 0 && bits % 8 == 0;
            is_it.then_some((u64::from(bits / 8), of))
        })
    }
}

/// Bytes of a type's record behind its first twelve.
fn extra(info: u32) -> Option<usize> {
    let count = (info & 0xffff) as usize;
    Some(match info >> 24 & 0x1f {
        // INT, VAR, DECL_TAG
        1 | 14 | 17 => 4,
        // PTR, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FLOAT, TYPE_TAG
        2 | 7..=12 | 16 | 18 => 0,
        KIND_ARRAY => 12,
        // STRUCT, UNION, DATASEC, ENUM64
        KIND_STRUCT | KIND_UNION | 15 | 19 => count * 12,
        // ENUM, FUNC_PROTO
        6 | 13 => count * 8,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    /// struct outer { int a; struct { int b; }; } with `a` at 0 and `b` at 4 + 8.
    fn sample() -> Vec<u8> {
        let strings = b"\0outer\0a\0b\0\0";
        let types = words(&[
            0,
            1 << 24,
            4,
            32, // 1: int
            0,
            KIND_STRUCT << 24 | 1,
            12,
            9,
            1,
            64, // 2: anonymous { b at 8 }
            1,
            KIND_STRUCT << 24 | 2,
            16,
            7,
            1,
            0,
            0,
            2,
            32, // 3: outer { a at 0, anonymous at 4 }
        ]);
        let mut bytes = Vec::new();
        bytes.extend(MAGIC.to_ne_bytes());
        bytes.extend([1, 0]);
        bytes.extend(words(&[24, 0, types.len() as u32, types.len() as u32, strings.len() as u32]));
        bytes.extend(types);
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn finds_members_through_anonymous_ones() {
        let btf = Btf::parse(sample()).unwrap();
        assert_eq!(btf.offset("outer", "a"), Some(0));
        assert_eq!(btf.offset("outer", "b"), Some(12));
        assert_eq!(btf.offset("outer", "c"), None);
        assert_eq!(btf.offset("oute", "a"), None);
    }

    #[test]
    fn a_structure_that_holds_itself_has_an_end() {
        let mut types = vec![1, KIND_STRUCT << 24 | 8, 16];
        for _ in 0..8 {
            types.extend([0, 1, 0]);
        }
        let (types, strings) = (words(&types), b"\0outer\0");
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        bytes.extend(words(&[24, 0, types.len() as u32, types.len() as u32, strings.len() as u32]));
        bytes.extend(types);
        bytes.extend(strings);
        // Without a bound, 8 to the power of 17 steps.
        assert_eq!(Btf::parse(bytes).unwrap().offset("outer", "a"), None);
    }

    proptest! {
        #[test]
        fn survives_damage(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
            let mut bytes = sample();
            let index = at.index(bytes.len());
            bytes[index] = byte;
            bytes.truncate(cut.index(bytes.len() + 1));
            if let Ok(btf) = Btf::parse(bytes) {
                let _ = (btf.offset("outer", "a"), btf.offset("outer", "b"));
            }
        }
    }
}
