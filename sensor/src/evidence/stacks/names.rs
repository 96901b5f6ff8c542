//! Names for addresses: all files that hold them are asked about at once, of [`parse`], and what is learnt
//! is by file and offset, or by process and address.

use std::{collections::HashMap, os::fd::OwnedFd, time::Duration};

use sensor_proto::internal::v1::{
    ParseAnswer, PerfMapWanted, Symbol, SymbolsWanted, parse_job::What,
};

use super::{
    look::Seen,
    maps::{self, Map},
    python,
};
use crate::evidence::{
    parse::{self, Parser},
    proc::Proc,
};

/// For names of functions; a node takes 0.1 s.
const NAMES: Duration = Duration::from_secs(2);

/// Name of a function, and a distance from its beginning.
pub(super) type Named = (Vec<u8>, u64);

/// What was found out about addresses.
#[derive(Default)]
pub(super) struct Names {
    /// By the mapped file (inode and path) and the offset in it.
    pub files: HashMap<(u64, Vec<u8>, u64), Named>,
    /// By process and address.
    pub compiled: HashMap<(u32, u64), Named>,
}

impl Names {
    /// Asks about all files at once, and reads the interpreters whose place is known then.
    pub fn ask(proc: &Proc, parser: &Parser, seen: &mut [Seen], notes: &mut Vec<String>) -> Self {
        let mut asked: Vec<(OwnedFd, What)> = Vec::new();
        let mut about: Vec<About> = Vec::new();
        let mut jobs: HashMap<(u64, Vec<u8>), usize> = HashMap::new();
        for (at, one) in seen.iter_mut().enumerate() {
            for (map, file) in std::mem::take(&mut one.files) {
                let map = &one.maps[map];
                let id = (map.inode, map.path.clone());
                let (map_offset, addresses) = (map.offset, one.addresses());
                let offsets = addresses.filter_map(|address| {
                    let map = maps::find(&one.maps, address)?;
                    (map.inode == id.0 && map.path == id.1)
                        .then(|| address - map.start + map.offset)
                });
                let offsets: Vec<u64> = offsets.collect();
                let job = *jobs.entry(id.clone()).or_insert(asked.len());
                if job == asked.len() {
                    let names = python::minor(&id.1).map(|_| "_PyRuntime".to_owned());
                    let names = names.into_iter().collect();
                    let wanted = SymbolsWanted { offsets: Vec::new(), names, base: map_offset };
                    asked.push((file, What::Symbols(wanted)));
                    about.push(About::File(id));
                }
                if let Some((_, What::Symbols(wanted))) = asked.get_mut(job) {
                    wanted.offsets.extend(offsets);
                    wanted.offsets.sort_unstable();
                    wanted.offsets.dedup();
                }
            }
            if let Some(file) = one.perf_map.take() {
                let mut addresses: Vec<u64> = one.addresses().collect();
                addresses.sort_unstable();
                addresses.dedup();
                asked.push((file, What::PerfMap(PerfMapWanted { addresses })));
                about.push(About::PerfMap(at));
            }
        }
        if asked.len() > parse::FILES {
            notes.push(format!("{} libraries were not looked into", asked.len() - parse::FILES));
            asked.truncate(parse::FILES);
        }
        let questions: Vec<What> = asked.iter().map(|(_, what)| what.clone()).collect();
        let mut names = Self::default();
        if asked.is_empty() {
            return names;
        }
        match parser.ask(asked, NAMES) {
            Err(error) => notes.push(format!("functions have no names here: {error}")),
            Ok(answers) => {
                for ((what, about), answer) in questions.into_iter().zip(about).zip(answers) {
                    names.learn(proc, what, about, answer, seen);
                }
            }
        }
        names
    }

    fn learn(
        &mut self,
        proc: &Proc,
        what: What,
        about: About,
        answer: ParseAnswer,
        seen: &mut [Seen],
    ) {
        let named = |(asked, symbol): (u64, Symbol)| {
            (!symbol.name.is_empty()).then_some((asked, (symbol.name, symbol.offset)))
        };
        match (what, about) {
            (What::Symbols(wanted), About::File(id)) => {
                let found = wanted.offsets.into_iter().zip(answer.symbols).filter_map(named);
                self.files.extend(found.map(|(offset, name)| ((id.0, id.1.clone(), offset), name)));
                let Some(distance) = answer.places.first().and_then(|place| place.distance) else {
                    return;
                };
                for one in seen {
                    let Some((_, minor)) = one.python else { continue };
                    let same = |map: &&Map| {
                        map.inode == id.0 && map.path == id.1 && map.offset == wanted.base
                    };
                    if let Some(map) = one.maps.iter().find(same) {
                        let runtime = map.start.wrapping_add_signed(distance);
                        one.read_interpreter(proc, minor, runtime);
                    }
                }
            }
            (What::PerfMap(wanted), About::PerfMap(at)) => {
                let pid = seen[at].key.tgid;
                let found = wanted.addresses.into_iter().zip(answer.symbols).filter_map(named);
                self.compiled.extend(found.map(|(address, name)| ((pid, address), name)));
            }
            _ => {}
        }
    }
}

/// Which file was asked about.
enum About {
    File((u64, Vec<u8>)),
    PerfMap(usize),
}
