//! What encloses free text: nobody who writes it can know it.

use std::fmt;

/// 64 random bits, as 16 hexadecimal digits. Guessing it takes 2^63 texts, of which an incident shows
/// some hundreds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marker(String);

impl Marker {
    /// A new one, from the kernel's random numbers.
    pub fn random() -> Self {
        let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
        // Of a version 4 UUID the ends are random; its version and variant stand in the middle.
        Self(format!("{:08x}{:08x}", (high >> 32) as u32, low as u32))
    }

    /// The one that was given to another process of ours for the same run: 16 to 64 hexadecimal
    /// digits in lower case.
    pub fn known(digits: &str) -> Option<Self> {
        let hexadecimal = digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        ((16..=64).contains(&digits.len()) && hexadecimal).then(|| Self(digits.to_owned()))
    }

    pub(super) fn begin(&self) -> String {
        format!("<<<text {}>>>", self.0)
    }

    pub(super) fn end(&self) -> String {
        format!("<<<end {}>>>", self.0)
    }

    /// A text in which the marker does not occur: who has seen it in an earlier report may try to use
    /// it in the next.
    pub(super) fn broken_in(&self, text: &str) -> String {
        text.replace(&self.0, "[marker]")
    }
}

impl fmt::Display for Marker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}
