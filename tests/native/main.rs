//! End-to-end tests on the machine at hand: `cargo test -p tests --test native -- --test-threads=1`.
//! They need root and a built `sensor` (`SENSOR_BIN`, or the newest in `target`).

#[cfg(test)]
mod workloads;
