//! How long a freeze lasts: from the times of the configuration to what the guardian and the book have of it.

use super::containments::Containment;
use crate::{
    clock,
    lineage::ProcessKey,
    respond::{Contained, Held, guardian::Guardian},
};

/// Times of the response, ns.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// How long a freeze lasts.
    pub freeze_ns: u64,
    /// How much longer the brake holds.
    pub brake_extra_ns: u64,
}

impl Times {
    /// The term of a freeze that begins now and lasts for so long.
    pub fn term(&self, freeze_ns: u64) -> Term {
        let thaw_ns = clock::boot_ns() + freeze_ns;
        Term { freeze_ns, thaw_ns, release_ns: thaw_ns + self.brake_extra_ns }
    }
}

/// The term of one freeze.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_field_names, reason = "the unit")]
pub struct Term {
    /// How long it lasts, ns; the next one lasts twice as long.
    pub freeze_ns: u64,
    /// When the guardian thaws and when it releases, boot clock, ns.
    pub thaw_ns: u64,
    pub release_ns: u64,
}

impl Term {
    /// The guardian has the timers. Where none runs just now, the next one gets it.
    pub fn arm(self, guardian: &Guardian, held: &Held) {
        guardian.arm(held.arm(self.thaw_ns, self.release_ns));
    }

    /// For the book, what a containment of an incident came to; `None`: it was refused. Of what was held and let
    /// go the guardian has nothing left to undo.
    pub fn entry(
        self,
        contained: &Contained,
        incident: &str,
        leaf: Option<ProcessKey>,
        guardian: &Guardian,
    ) -> Option<Containment> {
        if contained.is_let_go() {
            guardian.disarm(incident);
        }
        let held = contained.held.clone()?;
        Some(Containment { held, leaf, frozen: true, term: self })
    }
}
