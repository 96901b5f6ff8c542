//! A guest as QEMU is told of it.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

use super::{guest, kernel, lead, systemd};
use crate::{place, test::Built};

/// MiB: the archive twice while it is unpacked, a daemon, and workloads.
const MEMORY_MIB: u32 = 1024;

/// What a test's clock makes of an instruction, as a power of two, ns: 250 million to the second, which is about what an
/// idle host does.
const OF_TESTS: u8 = 2;

/// Whose init a guest has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init {
    Own,
    Systemd,
}

/// A guest that is to be.
pub struct Plan<'a> {
    pub kernel: &'a str,
    pub sensor: &'a Path,
    /// The program of the end-to-end tests, if it is to run them.
    pub tests: Option<&'a Path>,
    /// Programs in the guest's PATH.
    pub others: Vec<PathBuf>,
    /// With one, the clock counts instructions: a busy host makes no guest seem slow, and a guest that has nothing to do
    /// waits no time. With two, QEMU 7.2 does not get past their start that way: they run in real time, in turns.
    pub processors: u8,
    /// Time of an instruction where they are counted, as a power of two, ns.
    pub shift: u8,
    pub memory_mib: u32,
    pub init: Init,
}

impl<'a> Plan<'a> {
    /// A guest for the tests, with one processor.
    pub fn of(kernel: &'a str, built: &'a Built) -> Self {
        Self {
            kernel,
            sensor: &built.sensor,
            tests: Some(&built.end_to_end.path),
            others: Some(lead::peer()).filter(|peer| peer.exists()).into_iter().collect(),
            processors: 1,
            shift: OF_TESTS,
            memory_mib: MEMORY_MIB,
            init: Init::Own,
        }
    }

    /// QEMU with the kernel and the guest, all but its serial lines. `more`: for the kernel's command line.
    pub fn machine(&self, more: &str) -> Result<Command> {
        if env::consts::ARCH != "x86_64" {
            bail!(
                "the guests are x86_64 and run this host's own programs, which are {}",
                env::consts::ARCH
            );
        }
        let kernel = kernel::get(self.kernel)?;
        eprintln!("kernel {}", kernel.version);
        let initramfs = place::target().join("vm/initramfs");
        guest::write(&initramfs, self)?;
        // A panic ends the machine (`-no-reboot`) instead of waiting for the time limit. On a busy host a timer may be
        // late just when the kernel looks whether it has one, and it gives up: it need not look.
        let mut append = format!(
            "console=ttyS0 panic=-1 no_timer_check random.trust_cpu=on {} {more}",
            kernel.command_line
        );
        let mut machine = Command::new("qemu-system-x86_64");
        machine
            // Emulation: works where there is no KVM, and alike everywhere. One thread for all processors:
            // with several, one of them can go on executing the breakpoint that the kernel had put into
            // its code while it patched a tracepoint in, and locks up (seen with 6.1 in do_exit). Without
            // cmpxchg16b, which kernels can do without: now and then QEMU 7.2 leaves wrong flags behind it
            // (seen with 6.12 in kmalloc: a double fault).
            .args(["-accel", "tcg,thread=single", "-cpu", "max,-cx16", "-m"])
            .arg(self.memory_mib.to_string())
            .args(["-smp", &self.processors.to_string()])
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .arg("-kernel")
            .arg(kernel.image)
            .arg("-initrd")
            .arg(initramfs)
            .arg("-append");
        if self.init == Init::Systemd {
            append = format!("{append} {}", systemd::command_line());
        }
        machine.arg(append);
        if self.processors == 1 {
            machine.args(["-icount", &format!("shift={},sleep=off", self.shift)]);
        }
        Ok(machine)
    }
}
