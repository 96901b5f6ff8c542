//! The `sensor` binary: the command line, and the parts that it starts.

use std::process::ExitCode;

use sensor::cli::{self, Parts};

fn main() -> ExitCode {
    cli::main(&Parts {
        run: |_config| Err("this build has no daemon".into()),
        doctor: |_config| Vec::new(),
    })
}
