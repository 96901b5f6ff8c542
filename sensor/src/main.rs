//! The `sensor` binary: the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    sensor::cli::main()
}
