//! Harness of the end-to-end tests, the demo and the benches: a bounded place to run workloads in
//! ([`cage`]), a daemon under test ([`daemon`]), its records as they happen ([`watch`]), and the
//! workloads themselves ([`workloads`]).
//!
//! Nothing here outlives its owner, however that ends: every cage has a keeper process that kills
//! what is inside when the owner is gone.

pub mod agents;
pub mod bomb;
pub mod cage;
pub mod daemon;
pub mod http;
pub mod hung;
pub mod judge;
pub mod model;
pub mod names;
pub mod process;
pub mod receiver;
pub mod run;
pub mod skip;
pub mod target;
pub mod watch;
pub mod workloads;

pub use bomb::Bomb;
pub use cage::{Cage, Limits};
pub use daemon::Sensor;
pub use hung::Hung;
pub use watch::Watch;
pub use workloads::Workload;
