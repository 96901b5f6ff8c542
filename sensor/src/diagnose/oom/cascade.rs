//! What followed a kill: others that depended on the victim.

use std::fmt::Write as _;

use super::{After, span};

/// A few more sentences; empty: nothing is known to have followed.
pub(super) fn told(after: &After) -> String {
    let mut text = String::new();
    if after.ended > 0 {
        let (processes, have) =
            if after.ended == 1 { ("process", "has") } else { ("processes", "have") };
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            " Within {} after it {} more {processes} beside it {have} ended, though the OOM killer did not take \
             them.",
            span(after.span_ns),
            after.ended,
        );
    }
    if after.restarted {
        text += " The same command runs again.";
    }
    text
}
