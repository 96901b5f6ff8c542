//! As whom an agent has a shell: as the culprit's user, where that is a person of this host. Root's and services' users
//! own more than what is to be looked at, and in a container a uid is somebody else's, so their incidents are looked into
//! by the eye alone.

use std::{
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use nix::unistd::{Uid, User};

use crate::{evidence::proc::Proc, lineage::ProcessKey, proto::Culprit};

/// Where distributions say which uids are people's.
const LOGIN_DEFS: &str = "/etc/login.defs";

/// The first of them where it does not say.
const FIRST: u32 = 1000;

/// Those that systemd gives to services for as long as they run: <https://systemd.io/UIDS-GIDS>.
const DYNAMIC: std::ops::RangeInclusive<u32> = 61_184..=65_519;

/// Nobody, and the number that is none in 16 bits.
const NOBODY: std::ops::RangeInclusive<u32> = 65_534..=65_535;

/// By which a container is told: of a process in one, the second is never the host's.
const NAMESPACES: [(&str, &str); 2] = [("user", "users"), ("mnt", "file systems")];

/// The uid that an agent's shell may have, of this culprit; else why it has none.
pub fn whose(culprit: Option<&Culprit>) -> Result<u32, String> {
    let Some(culprit) = culprit else {
        return Err("the incident has no culprit".to_owned());
    };
    let uid = culprit.uid;
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    let known = user.map(|user| (user.name, user.gid.as_raw()));
    judge(
        uid,
        known.as_ref().map(|(name, gid)| (name.as_str(), *gid)),
        first(Path::new(LOGIN_DEFS)),
    )?;
    is_the_hosts(ProcessKey::new(culprit.pid, culprit.start_ns))?;
    Ok(uid)
}

/// Whether a process sees the users and file systems that we see, or the host's first one.
fn is_the_hosts(key: ProcessKey) -> Result<(), String> {
    let Some(culprit) = Proc::default().open(key) else {
        return Err(
            "the culprit has ended, and nobody knows whether it was in a container".to_owned()
        );
    };
    for (name, what) in NAMESPACES {
        // Ours, where the names of users are looked up; of a service with walls around it they are not the host's.
        let ours = ["/proc/self/ns", "/proc/1/ns"].map(|place| Path::new(place).join(name));
        // A kernel without them.
        if !ours[0].is_symlink() {
            continue;
        }
        let its = culprit.namespace(name);
        let is = |own: &PathBuf| {
            let own = fs::read_link(own).ok();
            own.is_some_and(|own| its.as_deref() == Some(own.as_os_str().as_bytes()))
        };
        if !ours.iter().any(is) {
            return Err(format!("the culprit is in a container: its {what} are not the host's"));
        }
    }
    Ok(())
}

/// `known`: its name and its group, on this host.
fn judge(uid: u32, known: Option<(&str, u32)>, first: u32) -> Result<(), String> {
    if uid == 0 {
        return Err("the culprit is root's".to_owned());
    }
    let Some((name, gid)) = known else {
        return Err(format!("the culprit is uid {uid}'s, whom this host does not know"));
    };
    if uid < first || DYNAMIC.contains(&uid) || NOBODY.contains(&uid) {
        return Err(format!("the culprit is a service's, of user {name} (uid {uid})"));
    }
    if gid == 0 {
        return Err(format!("the culprit is {name}'s, whose group is root's"));
    }
    Ok(())
}

/// The first uid of a person.
fn first(login_defs: &Path) -> u32 {
    let text = fs::read_to_string(login_defs).unwrap_or_default();
    let mut lines = text.lines().filter_map(|line| line.trim().strip_prefix("UID_MIN"));
    // Nobody's choice makes a user below 100 a person.
    let said = lines.find_map(|rest| rest.trim().parse::<u32>().ok());
    said.filter(|first| *first >= 100).unwrap_or(FIRST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::respond::process::key_of;

    #[test]
    fn a_person_has_a_shell_and_nobody_else() {
        assert_eq!(judge(1000, Some(("ada", 1000)), 1000), Ok(()));
        assert_eq!(judge(60_001, Some(("homed", 60_001)), 1000), Ok(()));
        assert_eq!(judge(500, Some(("old", 500)), 500), Ok(()));
        let refused = |uid, known| judge(uid, known, 1000).unwrap_err();
        assert_eq!(refused(0, Some(("root", 0))), "the culprit is root's");
        assert_eq!(
            refused(112, Some(("postgres", 118))),
            "the culprit is a service's, of user postgres (uid 112)"
        );
        assert!(refused(65_534, Some(("nobody", 65_534))).contains("a service's"));
        assert!(refused(61_200, Some(("run-u7", 61_200))).contains("a service's"));
        assert!(refused(100_033, None).contains("does not know"));
        assert!(refused(1001, Some(("toor", 0))).contains("group is root's"));
        assert_eq!(whose(None).unwrap_err(), "the incident has no culprit");
        assert_eq!(whose(Some(&Culprit::default())).unwrap_err(), "the culprit is root's");
    }

    #[test]
    fn who_is_gone_may_have_been_anybodys() {
        let gone = ProcessKey::new(1, u64::MAX);
        assert!(is_the_hosts(gone).unwrap_err().starts_with("the culprit has ended"));
        let us = key_of(std::process::id()).unwrap();
        assert_eq!(is_the_hosts(us), Ok(()));
    }

    #[test]
    fn where_people_begin_the_host_says() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("login.defs");
        assert_eq!(first(&file), FIRST);
        for (text, uid) in [
            ("# UID_MIN 7\nUID_MIN\t\t\t  500\nUID_MAX 60000\n", 500),
            ("UID_MIN x\n", FIRST),
            ("UID_MIN 0\n", FIRST),
        ] {
            fs::write(&file, text).unwrap();
            assert_eq!(first(&file), uid, "{text}");
        }
    }
}
