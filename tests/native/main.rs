//! End-to-end tests on the machine at hand: `cargo test -p tests --test native -- --test-threads=1`.
//! They need root and a built `sensor` (`SENSOR_BIN`, or the newest in `target`).

#[cfg(test)]
mod acting;
#[cfg(test)]
mod agents;
#[cfg(test)]
mod api;
#[cfg(test)]
mod bad_disk;
#[cfg(test)]
mod black_box;
#[cfg(test)]
mod clock;
#[cfg(test)]
mod confined;
#[cfg(test)]
mod costs;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod crowds;
#[cfg(test)]
mod gathering;
#[cfg(test)]
mod group;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod investigation;
#[cfg(test)]
mod judge;
#[cfg(test)]
mod kept;
#[cfg(test)]
mod killed;
#[cfg(test)]
mod lead;
#[cfg(test)]
mod left_alone;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod oom;
#[cfg(test)]
mod pause;
#[cfg(test)]
mod pressure;
#[cfg(test)]
mod privileges;
#[cfg(test)]
mod protected;
#[cfg(test)]
mod recursion;
#[cfg(test)]
mod remote;
#[cfg(test)]
mod respawn;
#[cfg(test)]
mod resume;
#[cfg(test)]
mod rogue;
#[cfg(test)]
mod room;
#[cfg(test)]
mod shell;
#[cfg(test)]
mod sources;
#[cfg(test)]
mod stages;
#[cfg(test)]
mod storm;
#[cfg(test)]
mod support;
#[cfg(test)]
mod survival;
#[cfg(test)]
mod threads;
#[cfg(test)]
mod trees;
#[cfg(test)]
mod units;
#[cfg(test)]
mod watching;
#[cfg(test)]
mod webhooks;
#[cfg(test)]
mod witness;
#[cfg(test)]
mod workloads;
