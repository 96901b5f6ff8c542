//! Signatures: what makes two processes "the same command".
//!
//! FNV-1a over 64-bit words. It need not resist an attacker: a collision only costs one wrong
//! repetition, and who wants to hide may as well vary argv.

use crate::{FileId, lineage::ARGV_SIGNED};

const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// Words of the argument area that are hashed.
pub const ARGV_WORDS: usize = ARGV_SIGNED / 8;

#[inline(always)]
const fn step(hash: u64, word: u64) -> u64 {
    // The rotation carries high bits down; FNV alone never does.
    (hash ^ word).wrapping_mul(PRIME).rotate_left(29)
}

/// Never 0, which stands for "no signature".
#[inline(always)]
const fn finish(hash: u64) -> u64 {
    hash | 1
}

/// Of an executable.
#[inline(always)]
pub const fn exe(file: FileId) -> u64 {
    finish(step(step(OFFSET, file.ino), file.dev as u64))
}

/// Of an argument area: its first 256 bytes, zero-padded, as words, and its whole length.
#[inline(always)]
pub fn argv(words: &[u64; ARGV_WORDS], argv_bytes: u32) -> u64 {
    let mut hash = step(OFFSET, u64::from(argv_bytes));
    let mut index = 0;
    while index < ARGV_WORDS {
        hash = step(hash, words[index]);
        index += 1;
    }
    hash
}

/// Of an executable and its arguments.
#[inline(always)]
pub const fn loose(exe: u64, argv: u64) -> u64 {
    finish(step(exe, argv))
}

/// Of an executable, its arguments and its working directory.
#[inline(always)]
pub const fn strict(loose: u64, cwd: FileId) -> u64 {
    finish(step(step(loose, cwd.ino), cwd.dev as u64))
}

/// [`argv`] for bytes that were read elsewhere, such as /proc/PID/cmdline.
pub fn argv_of_bytes(bytes: &[u8], argv_bytes: u32) -> u64 {
    let mut words = [0u64; ARGV_WORDS];
    for (word, chunk) in words.iter_mut().zip(bytes.chunks(8)) {
        let mut buffer = [0u8; 8];
        buffer[..chunk.len()].copy_from_slice(chunk);
        *word = u64::from_le_bytes(buffer);
    }
    argv(&words, argv_bytes)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn differ_where_the_commands_differ(
            bytes in prop::collection::vec(any::<u8>(), 1..ARGV_SIGNED), at in any::<prop::sample::Index>(), bit in 0..8u32,
        ) {
            let mut other = bytes.clone();
            other[at.index(bytes.len())] ^= 1 << bit;
            let length = bytes.len() as u32;
            prop_assert_ne!(argv_of_bytes(&bytes, length), argv_of_bytes(&other, length));
            prop_assert_ne!(argv_of_bytes(&bytes, length), argv_of_bytes(&bytes, length + 1));
        }

        #[test]
        fn are_never_nothing(ino in any::<u64>(), dev in any::<u32>(), argv in any::<u64>()) {
            let file = FileId { ino, dev, zero: 0 };
            let loose = loose(exe(file), argv);
            prop_assert!(exe(file) != 0 && loose != 0 && strict(loose, file) != 0);
        }
    }
}
