//! Bombs: what becomes of each on each kernel, and on this machine, as the tests that set them off saw
//! it.

use std::{fs, process::Command, time::Duration};

use ::tests::{Bomb, bomb::FILE};
use anyhow::{Context as _, Result, bail};

use super::page;
use crate::{cargo, place, step};

/// The tests that set one off.
pub const TESTS: [&str; 2] = ["storm::storm_", "kernels_a_bomb_meets_the_brake_in_each_gear"];

/// A bomb takes seconds, and five minutes beside others that take the machine.
const LIMIT: Duration = Duration::from_mins(5);

/// Those of one machine, a line each. What cannot be read is no bomb.
pub fn parse(lines: &str) -> Vec<Bomb> {
    lines.lines().filter_map(|line| serde_json::from_str(line.trim()).ok()).collect()
}

/// The same on this machine, without a guest.
pub fn here() -> Result<page::Seen> {
    let sensor = cargo::sensor(false)?;
    let kept = place::target().join("vm/bombs");
    fs::create_dir_all(place::target().join("vm"))?;
    fs::write(&kept, "").with_context(|| format!("cannot write {}", kept.display()))?;
    for program in super::tests()? {
        let mut command = Command::new(&program);
        command
            .current_dir(place::workspace().join("tests"))
            .env("SENSOR_BIN", &sensor)
            .env(FILE, &kept)
            .arg("--test-threads=1")
            .args(TESTS);
        let output = step::run("bombs on this machine", &mut command, LIMIT)?;
        if !output.success() {
            bail!("a bomb was not contained on this machine:\n{}", output.tail());
        }
    }
    Ok(page::Seen {
        place: "this machine".to_owned(),
        capabilities: Vec::new(),
        bombs: parse(&fs::read_to_string(&kept)?),
    })
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
