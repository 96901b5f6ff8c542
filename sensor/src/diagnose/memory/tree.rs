//! A tree that grows in several of its processes.

use super::{Claim, Told};
use crate::{
    detect::memory::measures::{HOLDS, PROCESSES},
    present::text,
};

pub(super) fn explain(told: &Told<'_>) -> Claim {
    let who = told.who();
    let most = told.held.below.iter().max_by_key(|one| one.bytes).filter(|one| one.bytes > 0);
    let most = most.map_or(String::new(), |one| {
        let command = told.words.command(&one.argv);
        format!(" Most of it is in {} × {command}: {}.", one.count, text::bytes(one.bytes))
    });
    let several = told.value(PROCESSES).filter(|count| *count > 1.0);
    let several =
        several.map_or(String::new(), |count| format!(" in several of its {count:.0} processes"));
    let cause = format!(
        "The tree of {who} grows{several}: {}; it holds {} now.{most}{}",
        told.pace(),
        told.bytes(HOLDS),
        told.forecast()
    );
    let remedy = format!(
        "Look at the tree of this incident: which of its processes has more than it needs. \
         {}",
        told.restart()
    );
    Claim { by: "tree_growth", cause, remedy, confidence: 0.5, evidence: Vec::new() }
}
