//! Makefiles: one that calls itself, and two that only look so.

use std::fmt::Write as _;

use anyhow::Result;

use super::Workload;
use crate::names;

/// A target whose recipe makes the same target.
pub fn itself() -> Result<Workload> {
    let work = Workload::new()?;
    let target = names::word();
    let makefile =
        work.write("Makefile", &format!(".PHONY: {target}\n{target}:\n\t@$(MAKE) {target}\n"))?;
    Ok(work.runs(["make", &target]).named([target, makefile.to_string_lossy().into_owned()]))
}

/// Recursive make as projects do it: `make -C sub`, down to a bottom.
pub fn deep(levels: u32) -> Result<Workload> {
    let work = Workload::new()?;
    let sub = names::word();
    let mut directory = String::new();
    for level in 0..levels {
        let below =
            if level + 1 == levels { "sleep 0.5".into() } else { format!("$(MAKE) -C {sub}") };
        work.write(&format!("{directory}Makefile"), &format!("all:\n\t{below}\n"))?;
        let _ = write!(directory, "{sub}/");
    }
    Ok(work.runs(["make"]))
}

/// So many small C files, as many compilers at once.
pub fn wide(files: u32, jobs: u32) -> Result<Workload> {
    let work = Workload::new()?;
    let prefix = names::word();
    for number in 0..files {
        work.write(
            &format!("{prefix}{number}.c"),
            &format!("int {prefix}{number}(int x) {{ return x * {number}; }}\n"),
        )?;
    }
    work.write(
        "Makefile",
        "OBJECTS := $(patsubst %.c,%.o,$(wildcard *.c))\nall: $(OBJECTS)\n%.o: %.c\n\t$(CC) -c -o $@ $<\n",
    )?;
    Ok(work.runs(["make".to_owned(), format!("-j{jobs}")]))
}
