//! The stack of a thread that waits or was stopped, as it stands: the kernel's part as the kernel prints
//! it, the user's part from its memory. Nothing is stopped or traced for it.
//!
//! /proc tells stack pointer and program counter of a thread in the kernel, but not its frame pointer. So
//! the chain of frame records is looked for: the first word above the stack pointer that begins a
//! chain of them. Below it may be functions without a record, the last of which called the one that the
//! counter is in; they are found by return addresses that follow a call instruction.

/// Bytes of a stack that are looked at.
pub(super) const BYTES: usize = 32 << 10;
const FRAMES: usize = 64;
/// Records that make a chain: two words can look like one by chance.
const RECORDS: usize = 3;
/// Where there is no chain, or in front of it.
const GUESSES: usize = 8;

/// Of /proc/PID/task/TID/stack: `[<0>] do_wait+0x55/0xa0`, innermost first.
pub(crate) fn kernel(text: &[u8]) -> Vec<(String, u64)> {
    let text = String::from_utf8_lossy(text);
    let line = |line: &str| {
        let place = line.split_once("] ")?.1.split(['/', ' ']).next()?;
        let (name, offset) = place.split_once('+').unwrap_or((place, "0x0"));
        let offset = u64::from_str_radix(offset.trim_start_matches("0x"), 16).ok()?;
        Some((name.to_owned(), offset))
    };
    text.lines().filter_map(line).take(FRAMES).collect()
}

/// Stack pointer and program counter, of /proc/PID/task/TID/syscall: `61 0x… 0x… sp pc`, `-1 sp pc`.
/// `None`: it runs.
pub(crate) fn registers(text: &[u8]) -> Option<(u64, u64)> {
    let text = std::str::from_utf8(text).ok()?;
    let mut fields = text.split_ascii_whitespace().rev();
    let mut number = || u64::from_str_radix(fields.next()?.strip_prefix("0x")?, 16).ok();
    let (pc, sp) = (number()?, number()?);
    Some((sp, pc))
}

/// Return addresses, innermost first, and whether frames may be missing or wrong. `words` stand at
/// `sp` and above; `code` says whether an address is in code, `called` whether a call stands before it.
pub(crate) fn walk(
    words: &[u64],
    sp: u64,
    code: impl Fn(u64) -> bool,
    mut called: impl FnMut(u64) -> bool,
) -> (Vec<u64>, bool) {
    let at = |address: u64| {
        let distance = address.checked_sub(sp).filter(|distance| distance % 8 == 0)?;
        usize::try_from(distance / 8).ok().filter(|at| at + 1 < words.len())
    };
    let chain = |first: usize| {
        let mut frames = Vec::new();
        let mut record = first;
        while frames.len() < FRAMES && words.get(record + 1).is_some_and(|back| code(*back)) {
            frames.push(words[record + 1]);
            match at(words[record]) {
                // Frames lie above each other.
                Some(next) if next > record + 1 => record = next,
                _ => break,
            }
        }
        frames
    };
    let found = (0..words.len().saturating_sub(1))
        // A chain begins with a pointer up into the stack.
        .filter(|first| at(words[*first]).is_some_and(|next| next > first + 1))
        .map(|first| (first, chain(first)))
        .find(|(_, frames)| frames.len() >= RECORDS);
    let (before, frames) = found.unwrap_or((words.len(), Vec::new()));
    let mut guessed: Vec<u64> =
        words[..before].iter().copied().filter(|word| code(*word) && called(*word)).collect();
    if frames.is_empty() {
        guessed.truncate(GUESSES);
        return (guessed, true);
    }
    // What is nearest to the chain is the likeliest: the rest may be of earlier calls.
    let kept = guessed.len().saturating_sub(GUESSES / 4);
    let unsure = guessed.len() > 1;
    let mut all = guessed.split_off(kept);
    all.extend(frames);
    (all, unsure)
}

/// Whether these bytes, which stand before a return address, end with a call.
pub(crate) fn ends_with_call(bytes: &[u8]) -> bool {
    if cfg!(target_arch = "x86_64") {
        let back = |distance: usize| bytes.len().checked_sub(distance).map(|at| &bytes[at..]);
        // call rel32
        if back(5).is_some_and(|code| code[0] == 0xe8) {
            return true;
        }
        // call r/m64, with a displacement of none, one or four bytes, or a register with a prefix.
        return [2, 3, 4, 6, 7].into_iter().filter_map(back).any(|code| {
            let code = if code[0] & 0xf0 == 0x40 { &code[1..] } else { code };
            code.len() >= 2 && code[0] == 0xff && code[1] >> 3 & 7 == 2
        });
    }
    let Some(word) = bytes.last_chunk::<4>() else { return false };
    let word = u32::from_le_bytes(*word);
    // aarch64: bl, blr
    word >> 26 == 0b10_0101 || word & 0xffff_fc1f == 0xd63f_0000
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_the_kernel_prints() {
        let text = b"[<0>] do_wait+0x55/0xa0\n[<0>] kernel_wait4+0xa1/0x140\nodd\n[<0>] entry+0x7e/0x86 [mod]\n";
        let frames = [("do_wait", 0x55), ("kernel_wait4", 0xa1), ("entry", 0x7e)];
        assert_eq!(kernel(text), frames.map(|(name, offset)| (name.to_owned(), offset)));
        assert_eq!(
            registers(b"61 0x1 0x2 0x3 0x4 0x5 0x6 0x7ffc0010 0x5590\n"),
            Some((0x7ffc_0010, 0x5590))
        );
        assert_eq!(registers(b"-1 0x7ffc0010 0x5590\n"), Some((0x7ffc_0010, 0x5590)));
        assert_eq!(registers(b"running\n"), None);
    }

    const SP: u64 = 0x7000;

    fn code(address: u64) -> bool {
        (0x1000..0x2000).contains(&address)
    }

    #[test]
    fn records_are_followed_and_what_called_before_them_is_told() {
        let at = |index: u64| SP + 8 * index;
        // A stale return address, the caller of the function that the counter is in, three records.
        let words = [7, 0x1500, 3, 0x1100, at(7), 0x1200, 9, at(10), 0x1300, 0, 0, 0x1400, 0, 0];
        let calls = |address: u64| address == 0x1100;
        assert_eq!(walk(&words, SP, code, calls), (vec![0x1100, 0x1200, 0x1300, 0x1400], false));
        let (frames, unsure) = walk(&words, SP, code, |_| true);
        assert_eq!((frames, unsure), (vec![0x1500, 0x1100, 0x1200, 0x1300, 0x1400], true));
    }

    #[test]
    fn without_records_there_are_guesses() {
        let words = [1, 0x1500, 2, 0x3000, 0x1600];
        assert_eq!(walk(&words, SP, code, |it| it == 0x1600), (vec![0x1600], true));
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn calls() {
        assert!(ends_with_call(&[0x90, 0x90, 0xe8, 1, 2, 3, 4]));
        assert!(ends_with_call(&[0, 0, 0, 0, 0, 0xff, 0xd0]), "call rax");
        assert!(ends_with_call(&[0, 0, 0, 0, 0x41, 0xff, 0xd4]), "call r12");
        assert!(ends_with_call(&[0, 0xff, 0x15, 1, 2, 3, 4]), "call [rip + …]");
        assert!(!ends_with_call(&[0x90; 7]) && !ends_with_call(&[]));
    }

    proptest! {
        #[test]
        fn any_words(words in prop::collection::vec(prop_oneof![0x1000_u64..0x2000, 0x7000_u64..0x7400, any::<u64>()], 0..128)) {
            let (frames, _) = walk(&words, SP, code, |address| address % 3 == 0);
            prop_assert!(frames.len() <= FRAMES + GUESSES && frames.iter().all(|it| code(*it)));
        }

        #[test]
        fn any_text(text in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = (kernel(&text), registers(&text), ends_with_call(&text));
        }
    }
}
