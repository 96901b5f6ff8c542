//! The kernel side as seen from user space: loads the programs, asks what this kernel can do,
//! resolves offsets from BTF, reads the ring and the maps.

mod baseline;
mod btf;
mod doctor;
mod lineage;
mod load;
mod reader;
pub mod selftest;
pub mod table;

use aya::maps::{MapData, RingBuf};

pub use self::{
    doctor::{Capability, Working, doctor},
    lineage::{Detail, Lineage, split},
    load::{LoadError, LoadOptions, Programs},
    reader::{Event, Reader},
};

/// The kernel side, attached, with everybody who was there before in its table, and tested.
pub struct Kernel {
    pub programs: Programs,
    pub lineage: Lineage,
    pub ring: RingBuf<MapData>,
    /// Processes known after the baseline.
    pub baseline_processes: u32,
}

impl Kernel {
    /// Loads, attaches, takes the baseline and runs the self-test.
    pub fn start(options: &LoadOptions) -> Result<Self, LoadError> {
        let (mut programs, lineage, ring) = load::load(options)?;
        let baseline_processes = match programs.no_baseline {
            None => baseline::run(&mut programs, &lineage)?,
            Some(_) => lineage.living_count(),
        };
        selftest::run(&lineage)?;
        Ok(Self { programs, lineage, ring, baseline_processes })
    }
}
