//! Who stands above whom at a kill.

use std::{collections::HashMap, iter::successors};

use super::key;
use crate::{
    lineage::ProcessKey,
    proto::{MemorySample, OomKill},
};

/// Parents by their child, as the last sample and the victims of a kill tell them.
#[derive(Debug, Default)]
pub(super) struct Descent(HashMap<ProcessKey, ProcessKey>);

impl Descent {
    pub fn of(before: &[&MemorySample], victims: &[OomKill]) -> Self {
        let trees = before.last().into_iter().flat_map(|last| &last.trees);
        let trees = trees.map(|tree| (tree.root, tree.parent));
        let victims = victims.iter().filter_map(|kill| kill.victim.as_ref());
        let victims = victims.map(|victim| (victim.process, victim.parent));
        let known = |(child, parent): (Option<_>, Option<_>)| Some((key(child?), key(parent?)));
        Self(trees.chain(victims).filter_map(known).collect())
    }

    pub fn is_above(&self, above: ProcessKey, below: ProcessKey) -> bool {
        let parent = |key: &ProcessKey| self.0.get(key).copied();
        // A record may say anything, also that somebody is above itself.
        successors(parent(&below), parent).take(self.0.len()).any(|key| key == above)
    }
}
