//! Names of functions in executables and libraries.
//!
//! The file is mapped, not read: of a node of 100 MiB only the tables of symbols come into memory. If
//! somebody truncates it meanwhile, this process dies of it and core goes on without names.

use std::{collections::HashMap, fs::File, ptr};

use cpp_demangle::{DemangleOptions, ParseOptions};
use object::{
    ObjectSegment as _, ObjectSymbol as _, ObjectSymbolTable as _, SymbolKind,
    read::elf::{ElfFile32, ElfFile64},
};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use sensor_proto::internal::v1::{ParseAnswer, Place, Symbol, SymbolsWanted};

/// Largest file that is looked at: debug builds of browsers have a few GiB.
const FILE_LIMIT: u64 = 4 << 30;

/// Longest name. Mangled names of templates can have 100 KiB.
pub(super) const NAME_LIMIT: usize = 512;

/// Names that are asked for at once.
const NAMES: usize = 16;

/// A file in memory.
struct Mapped {
    at: *mut core::ffi::c_void,
    len: usize,
}

impl Mapped {
    fn new(file: &File) -> Result<Self, String> {
        let size = file.metadata().map_err(|error| error.to_string())?.len();
        if size == 0 || size > FILE_LIMIT {
            return Err(format!("a file of {size} bytes"));
        }
        let len = usize::try_from(size).map_err(|error| error.to_string())?;
        // SAFETY: a new mapping, at a place that the kernel chooses.
        let at = unsafe { mmap(ptr::null_mut(), len, ProtFlags::READ, MapFlags::PRIVATE, file, 0) }
            .map_err(|error| error.to_string())?;
        Ok(Self { at, len })
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: mapped as long as this lives. Whoever writes to the file meanwhile changes bytes under
        // us, which the decoder takes as it finds them: it checks every offset at each use.
        unsafe { std::slice::from_raw_parts(self.at.cast(), self.len) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: ours, and nothing refers to it any more. It cannot fail for what was mapped so.
        let _ = unsafe { munmap(self.at, self.len) };
    }
}

pub(super) fn symbols(file: &File, wanted: &SymbolsWanted) -> Result<ParseAnswer, String> {
    let mapped = Mapped::new(file)?;
    find(mapped.bytes(), wanted)
}

/// The same of bytes.
pub(crate) fn find(bytes: &[u8], wanted: &SymbolsWanted) -> Result<ParseAnswer, String> {
    match bytes.get(4) {
        Some(1) => ElfFile32::<object::Endianness>::parse(bytes).map(|elf| search(&elf, wanted)),
        _ => ElfFile64::<object::Endianness>::parse(bytes).map(|elf| search(&elf, wanted)),
    }
    .map_err(|error| error.to_string())
}

/// The best that was found for one address so far.
#[derive(Clone, Copy, Default)]
struct Best<'a> {
    start: u64,
    name: &'a [u8],
    /// The address lies within the symbol's size.
    inside: bool,
}

fn search<'a>(elf: &impl object::Object<'a>, wanted: &SymbolsWanted) -> ParseAnswer {
    let segments: Vec<(u64, u64, u64)> = elf
        .segments()
        .map(|segment| (segment.file_range().0, segment.file_range().1, segment.address()))
        .collect();
    let address = |offset: u64| {
        segments.iter().find_map(|(start, size, address)| {
            let within = offset.checked_sub(*start).filter(|within| within < size)?;
            address.checked_add(within)
        })
    };
    // Addresses in order, each with its place in the question.
    let mut asked: Vec<(u64, usize)> = wanted
        .offsets
        .iter()
        .enumerate()
        .filter_map(|(at, offset)| Some((address(*offset)?, at)))
        .collect();
    asked.sort_unstable();
    let mut best = vec![Best::default(); asked.len()];
    let mut named: HashMap<&[u8], u64> = HashMap::new();
    let names = || wanted.names.iter().take(NAMES);
    // What is stripped still has the symbols that others link against.
    for table in [elf.symbol_table(), elf.dynamic_symbol_table()].into_iter().flatten() {
        for symbol in table.symbols() {
            if !symbol.is_definition() {
                continue;
            }
            let (start, size) = (symbol.address(), symbol.size());
            let Ok(name) = symbol.name_bytes() else { continue };
            if let Some(name) = names().find(|wanted| wanted.as_bytes() == name) {
                named.entry(name.as_bytes()).or_insert(start);
            }
            if !matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Unknown) || name.is_empty() {
                continue;
            }
            let end = start.saturating_add(size.max(1));
            let first = asked.partition_point(|(address, _)| *address < start);
            for (at, (address, _)) in asked.iter().enumerate().skip(first) {
                if *address >= end {
                    break;
                }
                let known = &mut best[at];
                if !known.inside || start > known.start {
                    *known = Best { start, name, inside: true };
                }
            }
            // Written in assembler, without a size: the nearest before it has to do.
            if size == 0 {
                for (at, (address, _)) in asked.iter().enumerate().skip(first).take(1) {
                    let known = &mut best[at];
                    if !known.inside && start > known.start && address - start < 4096 {
                        *known = Best { start, name, inside: false };
                    }
                }
            }
        }
    }
    let mut symbols = vec![Symbol::default(); wanted.offsets.len()];
    for ((address, at), best) in asked.iter().zip(&best) {
        if !best.name.is_empty() {
            symbols[*at] = Symbol { name: readable(best.name), offset: address - best.start };
        }
    }
    // A mapping begins with the page that its segment begins in, which may hold the end of another.
    let page = rustix::param::page_size() as u64;
    let base = segments.iter().find_map(|(start, _, address)| {
        let before = start.checked_sub(wanted.base).filter(|before| *before < page)?;
        Some(address.wrapping_sub(before))
    });
    let place = |name: &String| Place {
        distance: base
            .zip(named.get(name.as_bytes()))
            .map(|(base, at)| at.wrapping_sub(base) as i64),
    };
    ParseAnswer { symbols, places: names().map(place).collect(), ..Default::default() }
}

/// As the programmer wrote it, where that is known, and not too long.
fn readable(name: &[u8]) -> Vec<u8> {
    let mut text = match std::str::from_utf8(name) {
        Ok(mangled) if mangled.len() <= 8 * NAME_LIMIT => {
            match rustc_demangle::try_demangle(mangled) {
                Ok(clear) => format!("{clear:#}").into_bytes(),
                Err(_) => of_cpp(mangled).unwrap_or_else(|| name.to_vec()),
            }
        }
        _ => name.to_vec(),
    };
    text.truncate(NAME_LIMIT);
    text
}

/// Without types of parameters, which take a line each. A short name can stand for one of gigabytes: what
/// does not fit is left as it is.
fn of_cpp(mangled: &str) -> Option<Vec<u8>> {
    /// More than any that a person wrote; a stack of 2 MiB has room for ten times that.
    const NESTED: u32 = 64;
    if !mangled.starts_with("_Z") {
        return None;
    }
    let options = ParseOptions::default().recursion_limit(NESTED);
    let symbol = cpp_demangle::Symbol::new_with_options(mangled, &options).ok()?;
    let options = DemangleOptions::new().no_params().no_return_type().recursion_limit(NESTED);
    let mut text = Bounded(String::new());
    symbol.structured_demangle(&mut text, &options).ok()?;
    (!text.0.is_empty()).then(|| text.0.into_bytes())
}

/// Takes a name, and no more.
struct Bounded(String);

impl std::fmt::Write for Bounded {
    fn write_str(&mut self, part: &str) -> std::fmt::Result {
        if self.0.len() + part.len() > NAME_LIMIT {
            return Err(std::fmt::Error);
        }
        self.0.push_str(part);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A function that this test's own executable has.
    #[inline(never)]
    #[unsafe(no_mangle)]
    extern "C" fn sensor_test_landmark(number: u64) -> u64 {
        std::hint::black_box(number) + 1
    }

    #[test]
    fn functions_of_this_program_have_names() {
        let file = File::open("/proc/self/exe").unwrap();
        let at = sensor_test_landmark as *const () as u64;
        let maps = std::fs::read("/proc/self/maps").unwrap();
        let maps = crate::evidence::stacks::maps::parse(&maps);
        let map = maps.iter().find(|map| map.holds(at)).unwrap();
        let offset = at - map.start + map.offset;
        let wanted = SymbolsWanted {
            offsets: vec![offset + 1, u64::MAX],
            names: vec!["sensor_test_landmark".into(), "nowhere".into()],
            base: map.offset,
        };
        let answer = symbols(&file, &wanted).unwrap();
        assert_eq!(
            (answer.symbols[0].name.as_slice(), answer.symbols[0].offset),
            (&b"sensor_test_landmark"[..], 1)
        );
        assert_eq!(answer.symbols[1], Symbol::default());
        assert_eq!(answer.places[0].distance, Some((at - map.start) as i64));
        assert_eq!(answer.places[1].distance, None);
        assert_eq!(sensor_test_landmark(1), 2);
    }

    #[test]
    fn a_file_that_is_none_is_refused() {
        let wanted = SymbolsWanted::default();
        assert!(symbols(&File::open("/dev/null").unwrap(), &wanted).is_err());
        assert!(symbols(&File::open("/etc/passwd").unwrap(), &wanted).is_err());
    }

    #[test]
    fn names_are_as_they_were_written() {
        for (mangled, clear) in [
            ("_ZN4node21SpinEventLoopInternalEPNS_11EnvironmentE", "node::SpinEventLoopInternal"),
            (
                "_ZNSt6vectorIiSaIiEE9push_backERKi",
                "std::vector<int, std::allocator<int> >::push_back",
            ),
            ("_ZN4core3fmt5Write9write_fmt17h0123456789abcdefE", "core::fmt::Write::write_fmt"),
            ("main", "main"),
            ("_Zodd", "_Zodd"),
        ] {
            assert_eq!(readable(mangled.as_bytes()), clear.as_bytes(), "{mangled}");
        }
    }

    #[test]
    fn a_name_that_grows_without_end_is_left_as_it_is() {
        // Each substitution is twice the one before.
        let mut bomb = "_Z1fI1AIiiE".to_owned();
        for at in 0..30 {
            let seq = if at == 0 { "S0_" } else { "S1_" };
            bomb += &["1AI", seq, seq, "E"].concat();
        }
        bomb.push_str("Evv");
        let name = readable(bomb.as_bytes());
        assert!(name.len() <= NAME_LIMIT);
        let deep = format!("_Z1f{}i", "P".repeat(4000));
        assert!(readable(deep.as_bytes()).len() <= NAME_LIMIT);
    }

    proptest! {
        #[test]
        fn any_name(name in "(_Z[A-Za-z0-9_]{0,60}|_R[A-Za-z0-9_]{0,60}|.{0,60})") {
            prop_assert!(readable(name.as_bytes()).len() <= NAME_LIMIT);
        }

        #[test]
        fn a_damaged_file_is_taken_as_it_is(
            damage in prop::collection::vec((0_usize..4096, any::<u8>()), 0..32), cut in 0_usize..65536
        ) {
            let mut bytes = std::fs::read("/bin/true").unwrap();
            for (at, byte) in damage {
                if let Some(there) = bytes.get_mut(at) {
                    *there = byte;
                }
            }
            bytes.truncate(cut.max(64));
            let wanted = SymbolsWanted { offsets: vec![0x1000, 0x2000], names: vec!["main".into()], base: 0 };
            if let Ok(answer) = find(&bytes, &wanted) {
                prop_assert!(answer.symbols.len() == 2);
            }
        }
    }
}
