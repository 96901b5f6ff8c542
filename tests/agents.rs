//! The agents' real programs, as set-up installs them.

use std::path::PathBuf;

use crate::target;

/// Where a program is, if set-up has installed it.
pub fn find(name: &str) -> Option<PathBuf> {
    let command = target::directory().join("tools/agents/bin").join(name);
    command.exists().then_some(command)
}

/// The program, or a return from the test with a note: `let program = agent!("claude")`.
#[macro_export]
macro_rules! agent {
    ($name:expr) => {
        match $crate::agents::find($name) {
            Some(program) => program,
            None => {
                let reason = format!("no {} in target/tools: cargo xtask setup", $name);
                $crate::skip::note($crate::test_name!(), &reason);
                return;
            }
        }
    };
}
