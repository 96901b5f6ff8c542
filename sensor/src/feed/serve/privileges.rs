//! What `serve` gives up before it reads a single foreign byte.

use std::{fs::OpenOptions, io, path::Path};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetStatus, Scope, path_beneath_rules,
};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::{
    process::{Signal, set_parent_process_death_signal},
    stdio::{dup2_stdin, dup2_stdout},
    thread::set_no_new_privs,
};

/// Becomes the user for good: no other group, no capability, no way back by any set-user-id program.
pub(super) fn become_user(uid: u32, gid: u32) -> io::Result<()> {
    if uid == 0 {
        return Err(io::Error::other("serve must not be root"));
    }
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    setgroups(&[])?;
    setresgid(gid, gid, gid)?;
    // Away from root, the kernel drops all capabilities as well.
    setresuid(uid, uid, uid)?;
    set_no_new_privs(true)?;
    Ok(())
}

/// Where names of users and groups come from, and the libraries that look them up.
const NAMES: [&str; 7] =
    ["/etc", "/usr", "/lib", "/lib64", "/var/lib/sss", "/run/systemd", "/proc/self"];

/// Sees nothing of the file system but the log and what tells names, writes nothing, executes nothing,
/// connects to nobody and signals nobody outside. As much of it as this kernel knows (Landlock: Linux
/// 5.13 and later, all of it since 6.12); an error says that it knows none.
pub(super) fn confine(state_dir: &Path) -> Result<(), String> {
    let abi = ABI::V6;
    let allowed = NAMES.iter().map(Path::new).chain([state_dir]).filter(|path| path.exists());
    let restrict = || {
        Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(abi))?
            .handle_access(AccessNet::from_all(abi))?
            .scope(Scope::from_all(abi))?
            .create()?
            .add_rules(path_beneath_rules(allowed, AccessFs::ReadFile | AccessFs::ReadDir))?
            .restrict_self()
    };
    match restrict().map_err(|error: landlock::RulesetError| error.to_string())?.ruleset {
        RulesetStatus::NotEnforced => Err("this kernel has no Landlock (lsm=)".into()),
        _ => Ok(()),
    }
}

/// Dies when the thread that started us does. After [`become_user`], which would undo it.
pub(super) fn end_with_parent() -> io::Result<()> {
    // If that happened already, the link is closed and we end by that.
    Ok(set_parent_process_death_signal(Some(Signal::KILL))?)
}

/// Link and listener were taken over; nothing may read or print into them by accident.
pub(super) fn detach_stdio() -> io::Result<()> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use super::*;

    const NOBODY: u32 = 65_534;
    const HELPER: &str = "SENSOR_TEST_BECOME";

    #[test]
    #[ignore = "helper that another test starts as a process of its own"]
    fn becoming() {
        if std::env::var_os(HELPER).is_none() {
            return;
        }
        // The test harness has threads: all of them follow but for no_new_privs, which is this one's.
        become_user(NOBODY, NOBODY).unwrap();
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        println!("\n{status}");
        println!(
            "back: {}",
            setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).is_ok()
        );
    }

    #[test]
    fn nothing_of_root_is_left() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIP nothing_of_root_is_left: needs root to become another user");
            return;
        }
        let output = Command::new("/proc/self/exe")
            .args(["--exact", "feed::serve::privileges::tests::becoming", "--ignored"])
            .arg("--nocapture")
            .env(HELPER, "1")
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let line = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(line("Uid:"), "65534 65534 65534 65534", "{text}");
        assert_eq!(line("Gid:"), "65534 65534 65534 65534");
        assert_eq!(line("Groups:"), "");
        for set in ["CapPrm:", "CapEff:", "CapAmb:"] {
            assert_eq!(line(set), "0000000000000000", "{set}");
        }
        assert_eq!(line("NoNewPrivs:"), "1");
        assert_eq!(line("back:"), "false");
    }

    const CONFINED: &str = "SENSOR_TEST_CONFINED";

    #[test]
    #[ignore = "helper that another test starts as a process of its own"]
    fn confined() {
        let Some(dir) = std::env::var_os(CONFINED) else { return };
        let dir = Path::new(&dir);
        // It counts for this thread.
        let result = confine(&dir.join("state"));
        let names = nix::unistd::Group::from_gid(Gid::from_raw(0)).unwrap().is_some();
        let log = fs::read(dir.join("state/log")).is_ok();
        let outside = fs::read(dir.join("secret")).is_ok();
        let write = fs::write(dir.join("state/new"), "").is_ok();
        let execute = Command::new("/bin/true").status().is_ok();
        println!(
            "\n{result:?} names={names} log={log} outside={outside} write={write} execute={execute}"
        );
    }

    #[test]
    fn who_is_confined_sees_the_log_and_names_only() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("state")).unwrap();
        for file in ["state/log", "secret"] {
            fs::write(dir.path().join(file), "x").unwrap();
        }
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["privileges::tests::confined", "--ignored", "--nocapture"])
            .env(CONFINED, dir.path())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let allowed = "names=true log=true";
        if said.contains("no Landlock") {
            assert!(said.contains(allowed), "{said}");
            return eprintln!("this kernel has none of it");
        }
        let kept = "Ok(()) names=true log=true outside=false write=false execute=false";
        assert!(said.contains(kept), "{said}");
    }

    #[test]
    fn root_is_refused() {
        assert!(become_user(0, 0).is_err());
    }
}
