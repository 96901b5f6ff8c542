//! Bombs: what becomes of each on each kernel, and on this machine, as the tests that set them off saw
//! it.

use std::{fs, process::Command, time::Duration};

use ::tests::{Bomb, bomb::FILE};
use anyhow::{Context as _, Result};

use super::page;
use crate::{
    place, step,
    test::{
        self, Built,
        results::Suite,
        skips::{Place, SkipList},
    },
};

/// The tests that set one off, by the beginning of their names.
pub const TESTS: &str = "storm::storm_";

/// A bomb takes seconds, and five minutes beside others that take the machine.
const LIMIT: Duration = Duration::from_mins(5);

/// Those of one machine, a line each. What cannot be read is no bomb.
pub fn parse(lines: &str) -> Vec<Bomb> {
    lines.lines().filter_map(|line| serde_json::from_str(line.trim()).ok()).collect()
}

/// The same on this machine, without a guest.
pub fn here(built: &Built, skips: &SkipList) -> Result<(Suite, page::Seen)> {
    let place = "this machine".to_owned();
    let kept = place::target().join("vm/bombs");
    fs::create_dir_all(place::target().join("vm"))?;
    fs::write(&kept, "").with_context(|| format!("cannot write {}", kept.display()))?;
    let mut command = Command::new(&built.end_to_end.path);
    command
        .current_dir(&built.end_to_end.crate_dir)
        .env("CARGO_MANIFEST_DIR", &built.end_to_end.crate_dir)
        .env("SENSOR_BIN", &built.sensor)
        .env(FILE, &kept)
        .args(["--test-threads=1", TESTS]);
    let output = step::run("bombs on this machine", &mut command, LIMIT)?;
    if !output.success() {
        println!("{place}: the tests said:\n{}", output.tail());
    }
    let cases = test::judged(&output.stdout, "", &Place::Native, skips);
    let suite = Suite { name: place.clone(), cases, took: output.took };
    let bombs = parse(&fs::read_to_string(&kept)?);
    Ok((suite, page::Seen { place, capabilities: Vec::new(), bombs }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_tests_kept_is_read_again() {
        let line = r#"{"name":"star","brake":"b","rule":"R3","alive":300,"refused":0,"paused":1,"passed":2,"lost":3}"#;
        let [bomb] = &parse(&format!("\n{line}\nbroken\n"))[..] else { panic!("one was kept") };
        assert_eq!((bomb.name.as_str(), bomb.alive, bomb.passed), ("star", 300, 2));
    }
}
