//! Facts about an incident, gathered in order of perishability, within bounds, redacted at the entrance.
//!
//! [`gather`] looks at processes and the host, [`files`] at a culprit's sources; both write into an
//! [`EvidenceLog`]. What they read has been chosen by somebody else: see [`proc`] and [`redact`].

mod beside;
pub(crate) mod changes;
pub mod files;
pub mod gather;
pub(crate) mod git;
pub(crate) mod kmsg;
mod log;
pub(crate) mod logs;
mod memory;
pub mod oom_report;
pub(crate) mod open_files;
pub mod parse;
mod plainly;
pub mod proc;
mod proportional;
pub mod redact;
pub mod room;
pub(crate) mod setting;
pub mod sockets;
pub(crate) mod stacks;

pub use gather::{Chain, Gatherer, Limits};
pub use log::EvidenceLog;
pub use logs::Sources;
pub use parse::Parser;
pub use redact::Redactor;
