//! The kernel side as seen from user space: loads the programs, asks what this kernel can do,
//! resolves offsets from BTF, reads the ring and the maps.

mod baseline;
pub mod brake;
pub(crate) mod btf;
mod doctor;
#[cfg(test)]
mod idle;
mod lineage;
mod load;
mod memory;
#[cfg(test)]
mod missed;
pub mod oom;
pub(crate) mod reader;
#[cfg(test)]
mod recycled;
pub mod selftest;
mod stalls;
pub mod table;
mod understudy;
mod visit;
mod witness;

use aya::maps::{MapData, RingBuf};

use self::table::Table;
pub use self::{
    brake::{Brake, Gear},
    doctor::{Capability, Working, doctor},
    lineage::{Detail, Lineage, split},
    load::{LoadError, LoadOptions, Programs, SKIPPED},
    memory::Memory,
    reader::{Event, HELPER_PRIORITY, Reader, become_realtime},
    stalls::Stalls,
    visit::Visitor,
    witness::{Told, Watched, Witness},
};
use crate::core::survival;

/// Who carries a mark, for the guardian: from the descriptors that it inherited, in the order of
/// [`Programs::guardian_maps`].
pub fn marked_by(
    inherited: &[std::os::fd::RawFd],
) -> std::io::Result<impl Fn(u32) -> Vec<sensor_common::ProcessKey> + use<>> {
    let &[nodes, marks, until, ..] = inherited else {
        return Err(std::io::Error::other("the kernel's tables were not inherited"));
    };
    // SAFETY: plain numbers; one that is no open descriptor makes the mapping fail, nothing else.
    let [nodes, marks, until] =
        [nodes, marks, until].map(|fd| unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) });
    let table = Table::new(nodes, marks, until)?;
    Ok(move |number| table.marked(number))
}

/// The kernel side, attached, with everybody who was there before in its table, and tested.
pub struct Kernel {
    pub programs: Programs,
    pub lineage: Lineage,
    pub ring: RingBuf<MapData>,
    pub brake: Brake,
    /// Processes known after the baseline.
    pub baseline_processes: u32,
}

impl Kernel {
    /// Loads, attaches, takes the baseline, runs the self-test and tries the brake.
    pub fn start(options: &LoadOptions) -> Result<Self, LoadError> {
        let (mut programs, lineage, ring) = load::load(options)?;
        let baseline_processes = match programs.visitor() {
            Some(visitor) => baseline::run(&visitor, &lineage)?,
            None => lineage.living_count(),
        };
        programs.everybody_known();
        // Parsers and loaders, which run no more. What follows is what a reaction is made of.
        if let Err(error) = survival::forget_text() {
            tracing::debug!("the code of the start stays in memory: {error}");
        }
        selftest::run(&lineage)?;
        let brake = programs.choose_brake(&lineage)?;
        Ok(Self { programs, lineage, ring, brake, baseline_processes })
    }
}
