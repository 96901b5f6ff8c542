//! `sensor`: smoke detector, black box and first responder for a Linux host.
//!
//! One pipeline, left to right: [`kernel`] makes observations, [`detect`] makes findings of them,
//! [`incident`] makes incidents of findings, [`record`] keeps everything, [`feed`] serves it.
//! [`respond`], [`evidence`], [`diagnose`] and [`investigate`] hang off an incident. [`core`] holds
//! the pipeline together and is the only place where all of them meet. [`trace`] feeds the detectors
//! from a file instead of a kernel, [`vitals`] is the flight recorder, [`render`] shows evidence to whoever
//! can be fooled by it, [`mcp`] is how an agent asks for it, [`ask`] how a model without one is asked, `present` words numbers and times for all of them.

pub mod ask;
pub mod cgroup;
pub mod cli;
pub mod clock;
pub mod config;
pub mod core;
pub mod detect;
pub mod diagnose;
pub mod evidence;
pub mod feed;
#[cfg(any(fuzzing, test))]
pub mod fuzz;
pub mod host;
pub mod incident;
pub mod investigate;
pub mod kernel;
pub mod lineage;
pub mod mcp;
mod packed;
mod present;
pub mod record;
pub mod render;
pub mod respond;
/// How tests say that they cannot run here: as the end-to-end tests do.
#[cfg(test)]
#[path = "../../tests/skip.rs"]
mod skip;
pub mod trace;
pub mod vitals;

/// The schema of everything that is recorded.
pub use sensor_proto::v1 as proto;
