//! What a record says about its host.

use std::fs;

/// Name, boot and kernel of this host.
#[derive(Clone, Debug, Default)]
pub struct Host {
    pub name: String,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// As `uname -r`.
    pub kernel: String,
}

impl Host {
    /// Reads what stays the same until the next boot; what cannot be read is empty.
    pub fn read() -> Self {
        let uname = rustix::system::uname();
        Self {
            name: uname.nodename().to_string_lossy().into_owned(),
            boot_id: fs::read_to_string("/proc/sys/kernel/random/boot_id")
                .map(|id| id.trim().to_owned())
                .unwrap_or_default(),
            kernel: uname.release().to_string_lossy().into_owned(),
        }
    }
}

/// CPUs that are online, whatever part of them this process may use; 1 where nobody says.
pub fn cpus() -> u32 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let each = stat.lines().filter_map(|line| line.strip_prefix("cpu"));
    (each.filter(|rest| rest.starts_with(|first: char| first.is_ascii_digit())).count() as u32)
        .max(1)
}
