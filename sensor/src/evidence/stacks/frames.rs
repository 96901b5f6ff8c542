//! What was seen of a process becomes stacks that can be shown: named, redacted, bounded, and with a note on
//! what is missing.

use std::collections::HashMap;

use sensor_proto::json::escape;

use super::{
    compiled,
    look::{Seen, within},
    maps,
    names::Names,
    python::Thread,
};
use crate::{
    evidence::Redactor,
    proto::{self, frame::Kind},
};

/// Stacks of one process.
const STACKS: usize = 8;
/// Longest name that is shown, bytes.
const NAME: usize = 256;

/// Makes frames that can be shown.
pub(super) struct Frames<'a> {
    redactor: &'a Redactor,
    redactions: u32,
    kernel: HashMap<u64, (String, u64)>,
    names: Names,
}

impl<'a> Frames<'a> {
    pub fn new(redactor: &'a Redactor, kernel: HashMap<u64, (String, u64)>, names: Names) -> Self {
        Self { redactor, redactions: 0, kernel, names }
    }

    /// Secrets that were replaced until now.
    pub fn redactions(&self) -> u32 {
        self.redactions
    }

    pub fn process(&mut self, seen: &Seen) -> proto::ProcessStacks {
        let mut sampled: Vec<proto::Stack> = Vec::new();
        // Samples at other instructions of the same functions are the same stack.
        let mut same: HashMap<Vec<(i32, String, String, u32)>, usize> = HashMap::new();
        let mut lacks = Lacks::default();
        for (chain, count) in &seen.chains {
            let mut frames: Vec<proto::Frame> =
                chain.kernel.iter().map(|address| self.of_kernel(*address)).collect();
            frames.extend(within(&chain.user).map(|address| self.of_user(seen, address)));
            lacks.look(&frames);
            let id = frames
                .iter()
                .map(|it| (it.kind, it.function.clone(), it.file.clone(), it.line))
                .collect();
            let at = *same.entry(id).or_insert(sampled.len());
            if let Some(stack) = sampled.get_mut(at) {
                stack.samples += count;
                if stack.tid != chain.tid {
                    stack.tid = 0;
                }
            } else {
                let (tid, samples) = (chain.tid, *count);
                let stack = proto::Stack { samples, tid, frames, ..Default::default() };
                sampled.push(stack);
            }
        }
        sampled.sort_by(|a, b| b.samples.cmp(&a.samples).then_with(|| a.tid.cmp(&b.tid)));
        let mut stacks = self.interpreted(seen);
        for it in &seen.standing {
            let mut frames: Vec<proto::Frame> = it
                .kernel
                .iter()
                .map(|(function, offset)| {
                    self.frame(Kind::Kernel, function.as_bytes(), b"", *offset)
                })
                .collect();
            frames.extend(within(&it.user).map(|address| self.of_user(seen, address)));
            lacks.look(&frames);
            stacks.push(proto::Stack {
                samples: 0,
                tid: it.tid,
                thread: self.redactor.line(&it.name),
                frames,
                truncated: it.unsure,
            });
        }
        let mut notes = seen.notes.clone();
        notes.extend(lacks.notes(seen.perf_mapped).map(str::to_owned));
        let all = sampled.len() + stacks.len();
        // Of each sort some: what an interpreter ran says more than the same in machine code.
        stacks.truncate(STACKS / 2);
        sampled.truncate(STACKS - stacks.len());
        sampled.extend(stacks);
        let process = proto::ProcessKey { pid: seen.key.tgid, start_ns: seen.key.start_ns };
        proto::ProcessStacks {
            process: Some(process),
            comm: self.redactor.line(&seen.comm),
            omitted: (all - sampled.len()) as u32,
            stacks: sampled,
            notes,
        }
    }

    fn interpreted(&mut self, seen: &Seen) -> Vec<proto::Stack> {
        let mut threads: Vec<&(Thread, u32)> = seen.interpreted.iter().collect();
        threads.sort_by_key(|(thread, times)| (std::cmp::Reverse(*times), thread.tid));
        let stack = |(thread, _): &(Thread, u32)| proto::Stack {
            tid: thread.tid,
            frames: thread
                .frames
                .iter()
                .map(|it| proto::Frame {
                    line: it.line,
                    ..self.frame(Kind::Interpreted, it.function.as_bytes(), it.file.as_bytes(), 0)
                })
                .collect(),
            ..Default::default()
        };
        threads.into_iter().map(stack).collect()
    }

    fn of_kernel(&mut self, address: u64) -> proto::Frame {
        match self.kernel.get(&address).cloned() {
            Some((name, offset)) => self.frame(Kind::Kernel, name.as_bytes(), b"", offset),
            None => self.frame(Kind::Kernel, b"", b"", address),
        }
    }

    fn of_user(&mut self, seen: &Seen, address: u64) -> proto::Frame {
        let Some(map) = maps::find(&seen.maps, address) else {
            return self.frame(Kind::Native, b"", b"", address);
        };
        if map.inode == 0 {
            // The kernel's own page: [vdso].
            let kind = if map.path.is_empty() { Kind::Jit } else { Kind::Native };
            let known = self.names.compiled.get(&(seen.key.tgid, address)).cloned();
            let Some((name, offset)) = known else {
                return self.frame(kind, b"", &map.path, address);
            };
            let told = compiled::told(&name);
            let file = if told.file.is_empty() { &map.path } else { told.file };
            return proto::Frame {
                line: told.line,
                ..self.frame(kind, told.function, file, offset)
            };
        }
        let at = address - map.start + map.offset;
        let known = self.names.files.get(&(map.inode, map.path.clone(), at)).cloned();
        let (name, offset) = known.unwrap_or((Vec::new(), at));
        self.frame(Kind::Native, &name, &map.path, offset)
    }

    fn frame(&mut self, kind: Kind, function: &[u8], file: &[u8], offset: u64) -> proto::Frame {
        let mut clean = |text: &[u8]| {
            let (text, more) = self.redactor.text(&text[..text.len().min(NAME)]);
            self.redactions += more;
            escape(&text)
        };
        let (function, file) = (clean(function), clean(file));
        proto::Frame { kind: kind.into(), function, file, line: 0, offset }
    }
}

/// Which functions have no names, and so what would give them some.
#[derive(Clone, Copy, Default)]
struct Lacks {
    /// Those that a runtime compiled.
    compiled: bool,
    /// Those that node interprets.
    interpreted: bool,
}

impl Lacks {
    /// What stands on the stack for a function of a script that V8 interprets, whichever it is.
    const OF_V8: &str = "Builtins_InterpreterEntryTrampoline";

    fn look(&mut self, frames: &[proto::Frame]) {
        self.compiled |= frames.iter().any(|it| it.kind() == Kind::Jit && it.function.is_empty());
        self.interpreted |= frames.iter().any(|it| it.function == Self::OF_V8);
    }

    fn notes(self, mapped: bool) -> impl Iterator<Item = &'static str> {
        let compiled = (self.compiled && !mapped).then_some(
            "functions that a runtime compiled have no names here: there is no perf map (node \
             --perf-basic-prof and python -X perf write one)",
        );
        let interpreted = self.interpreted.then_some(
            "functions of JavaScript that node interprets have no names here: only the interpreter's own frames are \
             seen (NODE_OPTIONS='--perf-basic-prof --interpreted-frames-native-stack' names them)",
        );
        compiled.into_iter().chain(interpreted)
    }
}
