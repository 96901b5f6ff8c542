//! Landlock around a foreign program: it may read and run what its user may, and write in its home alone.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
};

use landlock::{
    ABI, Access as _, AccessFs, CompatLevel, Compatible as _, PathBeneath, PathFd, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, Scope, path_beneath_rules,
};

/// What programs write to beside their files: standard devices, and terminals that they make.
const DEVICES: [&str; 7] =
    ["/dev/null", "/dev/zero", "/dev/full", "/dev/tty", "/dev/random", "/dev/urandom", "/dev/ptmx"];

/// The walls, not closed yet. An error says why there are none.
pub(super) fn around(home: &Path) -> Result<OwnedFd, String> {
    // Without control of devices, which came with the fifth: terminals need it.
    let write = AccessFs::from_write(ABI::V4);
    let make = || {
        let home = PathFd::new(home).map_err(|error| error.to_string())?;
        let made = || -> Result<_, RulesetError> {
            Ruleset::default()
                .set_compatibility(CompatLevel::BestEffort)
                .handle_access(write)?
                // Nobody outside is signalled, and no abstract socket outside is spoken to.
                .scope(Scope::from_all(ABI::V6))?
                .create()?
                .add_rule(PathBeneath::new(home, write))?
                .add_rules(path_beneath_rules(DEVICES, AccessFs::WriteFile | AccessFs::Truncate))
        };
        made().map_err(|error| error.to_string())
    };
    let walls: Option<OwnedFd> = make()?.into();
    walls.ok_or_else(|| "this kernel has no Landlock (lsm=)".to_owned())
}

/// Closes them around this thread, for good; between fork and exec.
pub(super) fn close(walls: &OwnedFd) -> io::Result<()> {
    // SAFETY: the descriptor is open, and no memory is passed.
    let done = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, walls.as_raw_fd(), 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
