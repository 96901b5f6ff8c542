//! The sensor's fuzz targets under libFuzzer, as `cargo xtask fuzz` builds and starts them. The
//! environment says what to do, because arguments are libFuzzer's:
//! `FUZZ_TARGET` chooses the target (none: lists them), `FUZZ_SEEDS` has its seeds written there instead.

#![no_main]

use std::{env, fs, io, path::Path, process::exit, sync::OnceLock};

use libfuzzer_sys::fuzz_target;
use sensor::fuzz::{TARGETS, Target};

static CHOSEN: OnceLock<&Target> = OnceLock::new();

fuzz_target!(
    init: choose(),
    |bytes: &[u8]| {
        if let Some(target) = CHOSEN.get() {
            (target.run)(bytes);
        }
    }
);

fn choose() {
    let Ok(name) = env::var("FUZZ_TARGET") else {
        for target in TARGETS {
            println!("{}\t{}\t{}", target.name, target.max_len, target.about);
        }
        exit(0);
    };
    let Some(target) = TARGETS.iter().find(|target| target.name == name) else {
        eprintln!("there is no target {name:?}");
        exit(2);
    };
    if let Some(directory) = env::var_os("FUZZ_SEEDS") {
        let written = write_seeds(target, Path::new(&directory));
        exit(written.map_or_else(|error| fail(&error), |()| 0));
    }
    CHOSEN.get_or_init(|| target);
}

fn fail(error: &io::Error) -> i32 {
    eprintln!("cannot write the seeds: {error}");
    1
}

fn write_seeds(target: &Target, directory: &Path) -> io::Result<()> {
    for (number, seed) in (target.seeds)().iter().enumerate() {
        fs::write(directory.join(format!("seed-{number:02}")), seed)?;
    }
    Ok(())
}
