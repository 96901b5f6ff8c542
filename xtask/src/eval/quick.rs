//! The short evaluation, as a part of `cargo xtask test`: each quick workload is a test, and so are the observations
//! of memory, which take a moment.

use std::path::Path;

use ::tests::judge::{
    corpus,
    suite::{self, Labelled},
};
use anyhow::Result;

use super::{check, provide, rounds, traces};

/// A quick workload or replayed observations, and what went wrong with it.
pub struct Judgement {
    pub name: String,
    /// Sentences; none: all is well.
    pub faults: Vec<String>,
}

/// Their names, run or not.
pub fn names() -> Result<Vec<String>> {
    let observed = corpus::observed()?.into_iter().map(|it| it.name);
    Ok(quick()?.into_iter().map(|it| it.name).chain(observed).collect())
}

/// Runs each of them once alone and once under `sensor`. Shares and rates of so few runs prove
/// nothing, so only the runs themselves are judged.
pub fn run(sensor: &Path) -> Result<Vec<Judgement>> {
    let selected = quick()?;
    provide(&selected)?;
    let observed = traces::judge_observed(sensor)?;
    let judged = rounds::run(&selected, 1, sensor);
    let observed = observed.iter().map(|one| Judgement {
        name: one.name.clone(),
        faults: check::of_observed(one)
            .iter()
            .map(|what| format!("{}, {what}", one.name))
            .collect(),
    });
    Ok(judged
        .iter()
        .map(|workload| Judgement {
            name: workload.name.clone(),
            faults: check::of_workload(workload).iter().map(ToString::to_string).collect(),
        })
        .chain(observed)
        .collect())
}

fn quick() -> Result<Vec<Labelled>> {
    Ok(suite::load()?.into_iter().filter(|it| it.quick).collect())
}
