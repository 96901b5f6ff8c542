//! The developer's commands: set-up, build and run, tests, measurements, virtual machines.

mod bench;
mod cargo;
mod demo;
mod ebpf_toolchain;
mod eval;
mod fuzz;
mod marked;
mod measure;
mod place;
mod run;
mod setup;
mod step;
mod test;
mod vm;

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Set up, build, run and test the sensor", version)]
enum Command {
    /// Install what building, running and testing needs and is missing here
    Setup,
    /// Build the sensor and start it on this host, in the foreground (needs root)
    Run(run::Args),
    /// Every check and test that can run here: lint, unit, native, virtual machines
    Test(test::Args),
    /// The recursive npm project, for real, in a bounded cgroup, under a running sensor
    Demo(demo::Args),
    /// The budgets, measured
    Bench(bench::Args),
    /// Labelled workloads, honest and malign: what the sensor finds, misses and wrongly stops
    Eval(eval::Args),
    /// Every decoder of foreign bytes under libFuzzer, ten minutes each
    Fuzz(fuzz::Args),
    /// The end-to-end tests inside QEMU on other kernels
    Vm(vm::Args),
}

fn main() -> ExitCode {
    let done = |()| ExitCode::SUCCESS;
    let result = match Command::parse() {
        Command::Setup => setup::ensure(setup::ALL).map(done),
        Command::Run(args) => run::run(&args).map(done),
        Command::Test(args) => Ok(test::run(&args)),
        Command::Demo(args) => demo::run(&args).map(done),
        Command::Bench(args) => bench::run(&args).map(done),
        Command::Eval(args) => eval::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Vm(args) => vm::run(&args),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
