//! Comparisons without branches, as 0 and 1: each branch in a loop, or many in a row, multiply the
//! states that the verifier goes through, and kernels up to 6.1 give up at some thousand of them.

use core::hint::black_box;

/// 1 where `value` is 0, else 0. Kept without a branch: LLVM would turn the arithmetic back into one if
/// it saw that two values are related.
#[inline(always)]
pub fn is_zero(value: u64) -> u64 {
    not_zero(value) ^ 1
}

/// 1 where `value` is not 0.
#[inline(always)]
pub fn not_zero(value: u64) -> u64 {
    let value = black_box(value);
    (value | value.wrapping_neg()) >> 63
}

/// 1 where `less` is less than `more`; both below 2^63.
#[inline(always)]
pub fn is_less(less: u64, more: u64) -> u64 {
    black_box(less).wrapping_sub(more) >> 63
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags() {
        for value in [0, 1, 2, 1 << 63, u64::MAX] {
            assert_eq!(is_zero(value), u64::from(value == 0));
            assert_eq!(not_zero(value), u64::from(value != 0));
        }
        for (less, more) in [(0, 0), (0, 1), (1, 0), (7, 8), (8, 8), (1, (1 << 63) - 1)] {
            assert_eq!(is_less(less, more), u64::from(less < more));
        }
    }
}
