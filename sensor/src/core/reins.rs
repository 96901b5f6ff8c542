//! The brake, as the response sees it: marks in the kernel's own tables.

use std::{io, sync::Arc};

use sensor_common::brake::Tally;

use crate::{
    kernel::{Brake, Detail, Lineage, Visitor},
    lineage::{Forest, ProcessKey},
    respond::Marks,
};

/// The brake through the kernel's own tables.
pub struct Reins {
    pub lineage: Arc<Lineage>,
    pub brake: Brake,
    pub visitor: Option<Arc<Visitor>>,
}

impl Marks for Reins {
    fn forest(&self) -> Forest {
        self.lineage.forest(Detail::Links)
    }

    fn lives(&self, key: ProcessKey) -> bool {
        self.lineage.is_alive(key)
    }

    fn complete(&self) {
        if let Some(visitor) = &self.visitor
            && let Err(error) = visitor.complete(&self.lineage)
        {
            tracing::warn!("the lineage cannot be completed: {error}");
        }
    }

    fn engage(&self, roots: &[ProcessKey], number: u32, until_ns: u64) -> io::Result<()> {
        let engaged = self.brake.engage(number);
        let mark = |root: &ProcessKey| self.lineage.mark_root(*root, number, until_ns);
        roots.iter().map(mark).fold(Ok(()), io::Result::and).and(engaged)
    }

    fn rehearse(&self, roots: &[ProcessKey], number: u32, until_ns: u64) -> io::Result<()> {
        let engaged = self.brake.engage(number);
        let mark = |root: &ProcessKey| self.lineage.mark_dry(*root, number, until_ns);
        roots.iter().map(mark).fold(Ok(()), io::Result::and).and(engaged)
    }

    fn mark(&self, key: ProcessKey, number: u32, until_ns: u64) -> io::Result<()> {
        self.lineage.mark(key, number, until_ns)
    }

    fn spare(&self, key: ProcessKey, number: u32, until_ns: u64) -> io::Result<()> {
        self.lineage.exempt(key, number, until_ns)
    }

    fn unmark(&self, key: ProcessKey) -> io::Result<()> {
        self.lineage.unmark(key)
    }

    fn tally(&self, number: u32) -> Tally {
        self.brake.tally(number)
    }

    fn disengage(&self) {
        self.brake.disengage();
    }
}
