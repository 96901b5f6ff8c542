//! Random names, new each run, so that no rule can know the workloads.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
};

/// Letters only, and none that could spell a word that a tool knows.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwz";

/// Long enough that two of one run never meet: 19^10.
const LENGTH: usize = 10;

/// Ten random lower-case consonants.
pub fn word() -> String {
    // Each RandomState has new keys from the system's generator.
    let mut bits = RandomState::new().build_hasher().finish();
    (0..LENGTH)
        .map(|_| {
            let letter = LETTERS[(bits % LETTERS.len() as u64) as usize];
            bits /= LETTERS.len() as u64;
            char::from(letter)
        })
        .collect()
}
