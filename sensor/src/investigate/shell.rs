//! As whom an agent has a shell: as the culprit's user, where that is a person. Root's and services' users own more than
//! what is to be looked at, so their incidents are looked into by the eye alone.

use std::{fs, path::Path};

use nix::unistd::{Uid, User};

/// Where distributions say which uids are people's.
const LOGIN_DEFS: &str = "/etc/login.defs";

/// The first of them where it does not say.
const FIRST: u32 = 1000;

/// Those that systemd gives to services for as long as they run: <https://systemd.io/UIDS-GIDS>.
const DYNAMIC: std::ops::RangeInclusive<u32> = 61_184..=65_519;

/// Nobody, and the number that is none in 16 bits.
const NOBODY: std::ops::RangeInclusive<u32> = 65_534..=65_535;

/// The uid that an agent's shell may have, of this culprit; else why it has none.
pub fn whose(culprit: Option<u32>) -> Result<u32, String> {
    let Some(uid) = culprit else {
        return Err("the incident has no culprit".to_owned());
    };
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    let known = user.map(|user| (user.name, user.gid.as_raw()));
    judge(
        uid,
        known.as_ref().map(|(name, gid)| (name.as_str(), *gid)),
        first(Path::new(LOGIN_DEFS)),
    )?;
    Ok(uid)
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
        assert_eq!(whose(Some(0)).unwrap_err(), "the culprit is root's");
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
