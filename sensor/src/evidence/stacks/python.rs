//! Frames of a python interpreter, read from its memory: thread states, each with a list of frames, each
//! with a code object that has names. Nothing in the process is touched or asked.
//!
//! A process that runs changes its frames while they are read. What comes out is then a stack that is
//! partly of a moment later, and ends early where a pointer led nowhere.

use super::remote::Remote;

/// Where the fields are in one release: what the compiler makes of its own headers (`pycore_runtime.h`,
/// `pycore_interp.h`, `pystate.h`, `pycore_frame.h`, `code.h`), measured with 3.9.18, 3.10.13, 3.11.7,
/// 3.12.1 and 3.13.0 on 64-bit machines. They stay within a minor release.
struct Layout {
    minor: u32,
    /// `_PyRuntime.interpreters.head`
    interpreters: u64,
    /// `PyInterpreterState.threads.head`
    threads: u64,
    /// `PyThreadState.next`
    next: u64,
    /// `PyThreadState.native_thread_id`
    tid: Option<u64>,
    /// `PyThreadState.cframe`, behind which the current frame is found.
    cframe: Option<u64>,
    /// The current frame, there or in the thread state.
    current: u64,
    /// In a frame.
    code: u64,
    previous: u64,
    /// In a code object: file, first line, name with its class.
    file: u64,
    line: u64,
    name: u64,
    /// Characters of a string that is ASCII, and of another one.
    ascii: u64,
    other: u64,
}

#[rustfmt::skip]
const LAYOUTS: [Layout; 5] = [
    Layout { minor: 9, interpreters: 32, threads: 8, next: 8, tid: None, cframe: None, current: 24, code: 32, previous: 24, file: 104, line: 40, name: 112, ascii: 48, other: 72 },
    Layout { minor: 10, interpreters: 32, threads: 8, next: 8, tid: None, cframe: None, current: 24, code: 32, previous: 24, file: 104, line: 40, name: 112, ascii: 48, other: 72 },
    Layout { minor: 11, interpreters: 40, threads: 16, next: 8, tid: Some(160), cframe: Some(56), current: 8, code: 32, previous: 48, file: 112, line: 72, name: 128, ascii: 48, other: 72 },
    Layout { minor: 12, interpreters: 40, threads: 72, next: 8, tid: Some(144), cframe: Some(56), current: 0, code: 0, previous: 8, file: 112, line: 68, name: 128, ascii: 40, other: 56 },
    Layout { minor: 13, interpreters: 632, threads: 7344, next: 8, tid: Some(160), cframe: None, current: 72, code: 0, previous: 8, file: 112, line: 68, name: 128, ascii: 40, other: 56 },
];

/// `PyASCIIObject.length` and `.state`.
const LENGTH: u64 = 16;
const STATE: u64 = 32;
/// In the state: bytes of a character, and whether they follow the object.
const KIND_SHIFT: u32 = 2;
const COMPACT: u32 = 1 << 5;
const ASCII: u32 = 1 << 6;

const THREADS: usize = 16;
const FRAMES: usize = 64;
/// Entries of a list that may be no frames of python.
const LINKS: usize = 2 * FRAMES;
/// Characters of a name.
const NAME: usize = 256;

/// One thread's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Thread {
    /// 0: this release does not say.
    pub tid: u32,
    /// Innermost first.
    pub frames: Vec<Frame>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Frame {
    pub function: String,
    pub file: String,
    /// Where the function begins.
    pub line: u32,
}

/// The minor release of python 3 that a file is named after: `python3.11`, `libpython3.11.so.1.0`.
pub(super) fn minor(path: &[u8]) -> Option<u32> {
    let name = path.rsplit(|byte| *byte == b'/').next()?;
    let name = std::str::from_utf8(name).ok()?;
    let rest = name.strip_prefix("libpython3.").or_else(|| name.strip_prefix("python3."))?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// Whether frames of this release can be read.
pub(super) fn known(minor: u32) -> bool {
    LAYOUTS.iter().any(|layout| layout.minor == minor)
}

/// All threads of the first interpreter. `runtime`: address of `_PyRuntime`.
pub(super) fn threads(remote: Remote, minor: u32, runtime: u64) -> Vec<Thread> {
    let Some(layout) = LAYOUTS.iter().find(|layout| layout.minor == minor) else {
        return Vec::new();
    };
    let at = |base: u64, offset: u64| {
        let pointer = remote.word(base.checked_add(offset)?)?;
        (pointer != 0).then_some(pointer)
    };
    let mut state = at(runtime, layout.interpreters).and_then(|it| at(it, layout.threads));
    let mut found = Vec::new();
    for _ in 0..THREADS {
        let Some(thread) = state else { break };
        let base = layout.cframe.map_or(Some(thread), |offset| at(thread, offset));
        let mut frame = base.and_then(|base| at(base, layout.current));
        let mut frames = Vec::new();
        for _ in 0..LINKS {
            let Some(there) = frame.filter(|_| frames.len() < FRAMES) else { break };
            // Frames of the interpreter itself have none.
            frames.extend(at(there, layout.code).and_then(|code| of(remote, layout, code)));
            frame = at(there, layout.previous);
        }
        let tid = layout.tid.and_then(|offset| at(thread, offset)).unwrap_or(0);
        if !frames.is_empty() {
            found.push(Thread { tid: u32::try_from(tid).unwrap_or(0), frames });
        }
        state = at(thread, layout.next);
    }
    found
}

fn of(remote: Remote, layout: &Layout, code: u64) -> Option<Frame> {
    let word = |offset: u64| remote.word(code.checked_add(offset)?);
    Some(Frame {
        function: text(remote, layout, word(layout.name)?)?,
        file: text(remote, layout, word(layout.file)?)?,
        line: remote.half(code.checked_add(layout.line)?)?.min(1 << 24),
    })
}

/// A string of python, cut to its first characters.
fn text(remote: Remote, layout: &Layout, object: u64) -> Option<String> {
    let length = remote.word(object.checked_add(LENGTH)?)?;
    let state = remote.half(object.checked_add(STATE)?)?;
    let kind = (state >> KIND_SHIFT & 7) as usize;
    if state & COMPACT == 0 || !matches!(kind, 1 | 2 | 4) || length == 0 || length > 1 << 20 {
        return None;
    }
    let start = if state & ASCII == 0 { layout.other } else { layout.ascii };
    let count = (length as usize).min(NAME);
    let bytes = remote.bytes(object.checked_add(start)?, count * kind);
    if bytes.len() != count * kind {
        return None;
    }
    let character = |bytes: &[u8]| {
        let number = bytes.iter().rev().fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
        char::from_u32(number).unwrap_or(char::REPLACEMENT_CHARACTER)
    };
    // Of this machine's byte order, which is little-endian wherever there is BPF for this program.
    Some(bytes.chunks(kind).map(character).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_by_name() {
        assert_eq!(minor(b"/usr/bin/python3.11"), Some(11));
        assert_eq!(minor(b"/usr/lib/x86_64-linux-gnu/libpython3.9.so.1.0"), Some(9));
        assert_eq!(
            (minor(b"/usr/bin/python3"), minor(b"python2.7"), minor(b"")),
            (None, None, None)
        );
        assert!(known(13) && !known(8));
    }

    #[test]
    fn memory_that_holds_anything_ends_the_walk() {
        // A ring of pointers, and a page of noise: neither leads far.
        let noise: Vec<u64> =
            (0..4096_u64).map(|at| at.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
        let mut ring = vec![0_u64; 1024];
        let base = ring.as_ptr() as u64;
        ring.fill(base);
        let own = Remote(std::process::id());
        for layout in &LAYOUTS {
            assert!(threads(own, layout.minor, noise.as_ptr() as u64).is_empty());
            assert!(threads(own, layout.minor, base).is_empty());
            assert!(threads(own, layout.minor, 8).is_empty());
        }
        assert!(threads(own, 99, base).is_empty());
    }
}
