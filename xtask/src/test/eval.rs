//! The short evaluation as a suite: each quick workload is a case, like any test.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{
    results::{Case, Outcome, Suite},
    skips::{Place, SkipList},
};
use crate::{eval::quick, place};

pub const NAME: &str = "eval quick";

/// Runs it where that is possible; elsewhere each workload is a skip, so that the counts tell.
pub fn suite(sensor: &Path, skips: &SkipList) -> Result<Suite> {
    if !place::is_root() {
        return Ok(unprivileged(quick::names()?, skips));
    }
    privileged(sensor)
}

fn privileged(sensor: &Path) -> Result<Suite> {
    let started = Instant::now();
    let cases = quick::run(sensor)?
        .into_iter()
        .map(|judgement| {
            if judgement.faults.is_empty() {
                return Case { name: judgement.name, outcome: Outcome::Passed };
            }
            for fault in &judgement.faults {
                println!("{NAME}: {fault}");
            }
            Case::failed(judgement.faults.join("; "))
        })
        .collect();
    Ok(Suite { name: NAME.into(), cases, took: started.elapsed() })
}

fn unprivileged(names: Vec<String>, skips: &SkipList) -> Suite {
    let mut cases: Vec<Case> = names
        .into_iter()
        .map(|name| Case { name, outcome: Outcome::Skipped("needs root".into()) })
        .collect();
    skips.judge(&mut cases, &Place::Unprivileged);
    Suite { name: NAME.into(), cases, took: Duration::ZERO }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_root_each_workload_is_a_listed_skip() {
        let list = SkipList::load(&place::workspace().join("tests/skips.toml")).unwrap();
        let suite = unprivileged(vec!["builds".into(), "npm-linear".into()], &list);
        assert_eq!((suite.counts().skipped, suite.counts().failed), (2, 0));
    }
}
