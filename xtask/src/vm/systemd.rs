//! A guest whose init is this host's own systemd, with one service: the tests of what the sensor does beside it.

use std::path::Path;

use anyhow::{Result, bail};

use super::{guest::program, initramfs::Tree};
use crate::place;

/// The tests that concern it, by parts of their names: what runs in a unit, what is kept for it, and who makes way.
pub const TESTS: [&str; 3] = ["kept::", "room::", "units::"];

const INIT: &str = "/usr/lib/systemd/systemd";

/// What the tests and the sensor call.
const TOOLS: [&str; 3] = ["systemctl", "systemd-cgls", "systemd-run"];

const SERVICE: &str = "sensor-tests.service";

/// For the kernel's command line.
pub fn command_line() -> String {
    format!("rdinit={INIT} systemd.unit={SERVICE} systemd.show_status=no")
}

/// Adds it to a guest.
pub fn add(tree: &mut Tree) -> Result<()> {
    if !Path::new(INIT).exists() {
        bail!("systemd goes into the guest, and is not installed here: `apt-get install systemd`");
    }
    program(tree, INIT, Path::new(INIT))?;
    for name in TOOLS {
        let path = Path::new("/usr/bin").join(name);
        program(tree, &path, &path)?;
    }
    // Otherwise it is the first boot, at which systemd sets up the whole host.
    tree.bytes("/etc/machine-id", 0o444, b"0123456789abcdef0123456789abcdef\n")?;
    let service = place::workspace().join("tests/vm").join(SERVICE);
    tree.copy(Path::new("/etc/systemd/system").join(SERVICE), 0o644, service)
}
