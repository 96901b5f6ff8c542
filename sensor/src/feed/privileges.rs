//! What `serve` and `deliver` give up before they read a single foreign byte.

use std::{
    fs::OpenOptions,
    io,
    path::{Path, PathBuf},
};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, NetPort, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
    path_beneath_rules,
};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::{
    process::{Signal, set_parent_process_death_signal},
    stdio::{dup2_stdin, dup2_stdout},
    thread::set_no_new_privs,
};

/// Arguments of the hidden verbs.
#[derive(Clone, Debug, clap::Args)]
pub struct ChildArgs {
    /// Directory of the log.
    #[arg(long)]
    pub state_dir: PathBuf,
    /// User to become.
    #[arg(long, requires = "gid")]
    pub uid: Option<u32>,
    /// Its only group; may read the log.
    #[arg(long, requires = "uid")]
    pub gid: Option<u32>,
}

#[derive(Debug, thiserror::Error)]
pub enum PrivilegesError {
    #[error("cannot become uid {uid}, gid {gid}: {source}")]
    User { uid: u32, gid: u32, source: io::Error },
    #[error("cannot give up what core has left: {0}")]
    Left(#[source] io::Error),
}

impl ChildArgs {
    /// Becomes its user, and ends with core. What core has put into its standard input and output was
    /// taken over.
    pub(super) fn settle(&self) -> Result<(), PrivilegesError> {
        settle(self.uid.zip(self.gid))
    }
}

/// The same of a process that does not read the log.
pub(crate) fn settle(user: Option<(u32, u32)>) -> Result<(), PrivilegesError> {
    detach_stdio().map_err(PrivilegesError::Left)?;
    if let Some((uid, gid)) = user {
        let failed = |source| PrivilegesError::User { uid, gid, source };
        become_user(uid, gid).map_err(failed)?;
    }
    end_with_parent().map_err(PrivilegesError::Left)
}

/// Becomes the user for good: no other group, no capability, no way back by any set-user-id program.
fn become_user(uid: u32, gid: u32) -> io::Result<()> {
    if uid == 0 {
        return Err(io::Error::other("it must not be root"));
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

/// What a confined process may do for all that.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Leave<'a> {
    /// Directory whose files it may make, write and replace.
    pub write: Option<&'a Path>,
    /// TCP ports that it may connect to, on any host.
    pub ports: &'a [u16],
}

/// Sees nothing of the file system but the log and what tells names, writes nothing, executes nothing,
/// connects to nobody and signals nobody outside, but for what it has leave for. As much of it as this
/// kernel knows (Landlock: Linux 5.13 and later, all of it since 6.12); an error says that it knows none.
pub(super) fn confine(state_dir: &Path, leave: Leave<'_>) -> Result<(), String> {
    let allowed = NAMES.iter().map(Path::new).chain([state_dir]).filter(|path| path.exists());
    restrict(allowed, leave)
}

/// The same for who needs nothing but what it has open.
pub(crate) fn confine_wholly() -> Result<(), String> {
    restrict([].into_iter(), Leave::default())
}

fn restrict<'a>(allowed: impl Iterator<Item = &'a Path>, leave: Leave<'_>) -> Result<(), String> {
    let abi = ABI::V6;
    let write = AccessFs::ReadDir
        | AccessFs::ReadFile
        | AccessFs::WriteFile
        | AccessFs::MakeReg
        | AccessFs::RemoveFile
        | AccessFs::Truncate;
    let port = |port: &u16| Ok::<_, RulesetError>(NetPort::new(*port, AccessNet::ConnectTcp));
    let restrict = || {
        Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(abi))?
            .handle_access(AccessNet::from_all(abi))?
            .scope(Scope::from_all(abi))?
            .create()?
            .add_rules(path_beneath_rules(allowed, AccessFs::ReadFile | AccessFs::ReadDir))?
            .add_rules(path_beneath_rules(leave.write, write))?
            .add_rules(leave.ports.iter().map(port))?
            .restrict_self()
    };
    match restrict().map_err(|error: RulesetError| error.to_string())?.ruleset {
        RulesetStatus::NotEnforced => Err("this kernel has no Landlock (lsm=)".into()),
        _ => Ok(()),
    }
}

/// Dies when the thread that started us does. After [`become_user`], which would undo it.
fn end_with_parent() -> io::Result<()> {
    // If that happened already, the link is closed and we end by that.
    Ok(set_parent_process_death_signal(Some(Signal::KILL))?)
}

/// Link and listener were taken over; nothing may read or print into them by accident.
fn detach_stdio() -> io::Result<()> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        env::var_os as env,
        fs,
        net::{TcpListener, TcpStream},
        process::Command,
    };

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
            .args(["--exact", "feed::privileges::tests::becoming", "--ignored"])
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
    const PORT: &str = "SENSOR_TEST_PORT";

    #[test]
    #[ignore = "helper that another test starts as a process of its own"]
    fn confined() {
        let Some(dir) = env(CONFINED) else { return };
        let dir = Path::new(&dir);
        let own = dir.join("state/own");
        let port = env(PORT).and_then(|port| port.into_string().ok()?.parse().ok()).unwrap();
        // It counts for this thread.
        let result = confine(&dir.join("state"), Leave { write: Some(&own), ports: &[port] });
        let names = nix::unistd::Group::from_gid(Gid::from_raw(0)).unwrap().is_some();
        let log = fs::read(dir.join("state/log")).is_ok();
        let outside = fs::read(dir.join("secret")).is_ok();
        let write = fs::write(dir.join("state/new"), "").is_ok();
        let execute = Command::new("/bin/true").status().is_ok();
        let replace = fs::write(own.join("new"), "").and_then(|()| {
            fs::rename(own.join("new"), own.join("old"))?;
            fs::File::open(&own)?.sync_all()
        });
        let connect = TcpStream::connect(("127.0.0.1", port)).is_ok();
        println!(
            "\n{result:?} names={names} log={log} replace={} connect={connect} outside={outside} \
             write={write} execute={execute}",
            replace.is_ok()
        );
    }

    #[test]
    fn who_is_confined_does_what_it_has_leave_for_only() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("state/own")).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        for file in ["state/log", "secret"] {
            fs::write(dir.path().join(file), "x").unwrap();
        }
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["privileges::tests::confined", "--ignored", "--nocapture"])
            .env(CONFINED, dir.path())
            .env(PORT, listener.local_addr().unwrap().port().to_string())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let allowed = "names=true log=true replace=true connect=true";
        if said.contains("no Landlock") {
            assert!(said.contains(allowed), "{said}");
            return eprintln!("this kernel has none of it");
        }
        let kept = format!("Ok(()) {allowed} outside=false write=false execute=false");
        assert!(said.contains(&kept), "{said}");
    }

    #[test]
    fn root_is_refused() {
        assert!(become_user(0, 0).is_err());
    }
}
