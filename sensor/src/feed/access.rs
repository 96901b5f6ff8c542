//! Who may do what, and what a request may look like: pure, so that `serve` and `core` judge alike.

use std::sync::Arc;

use prost::Message;
use sensor_proto::internal::v1::{Ask, ask};

use crate::proto;

/// Group whose members may read.
pub const READERS: &str = "sensor";
/// Group whose members may read and act.
pub const OPERATORS: &str = "sensor-operators";

/// Longest reason that a person may give, bytes: it is kept and shown with the incident.
const WHY_MAX: usize = 1_024;
/// Longer than any incident id.
const ID_MAX: usize = 32;
/// Trees in a list: with 4 KiB for the arguments and for the cgroup of each it stays below 4 MiB.
const TREES_MAX: u32 = 100;
/// Longest path, bytes.
const PATH_MAX: usize = 4_096;
/// Bytes of all that an agent submits at once: some pages of text.
const FINDINGS_MAX: usize = 32 << 10;

/// What a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    Read,
    Act,
}

/// The two groups on this host, by gid; none where there is no such group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Groups {
    pub readers: Option<u32>,
    pub operators: Option<u32>,
    /// User that core runs as, beside root.
    pub owner: u32,
}

/// Who may do what: users of this host by their groups, clients on other hosts by the names in their
/// certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    pub groups: Groups,
    pub named: Arc<Named>,
}

/// Names that may read, and names that may read and act.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    pub readers: Vec<String>,
    pub operators: Vec<String>,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who<'a> {
    User {
        uid: u32,
        gids: &'a [u32],
    },
    Certified {
        names: &'a [String],
    },
    /// The agent of a run, by the run's own socket: core looked at who connected.
    Run {
        incident: &'a str,
    },
}

impl<'a> Who<'a> {
    pub fn of(ask: &'a Ask) -> Self {
        if let Some(run) = &ask.run {
            Self::Run { incident: &run.incident }
        } else if ask.names.is_empty() {
            Self::User { uid: ask.uid, gids: &ask.gids }
        } else {
            Self::Certified { names: &ask.names }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error(
        "uid {uid} may not {} sensor: use sudo, or have root run `{}usermod -aG {} USER`",
        if *need == Need::Read { "read from" } else { "act through" },
        if *exists { String::new() } else { format!("groupadd -r {} && ", group(*need)) },
        group(*need)
    )]
    Role { uid: u32, need: Need, exists: bool },
    #[error(
        "{name} may not {} sensor: its administrator can add this name of your certificate to \
         feed.tcp.{}",
        if *need == Need::Read { "read from" } else { "act through" },
        if *need == Need::Read { "readers" } else { "operators" }
    )]
    Name { name: String, need: Need },
    #[error("an investigation sees its own incident alone, and acts on nothing")]
    Run,
    #[error("{0}")]
    Request(&'static str),
}

fn group(need: Need) -> &'static str {
    match need {
        Need::Read => READERS,
        Need::Act => OPERATORS,
    }
}

/// Whether it may do it.
pub fn allow(who: Who<'_>, roles: &Roles, need: Need) -> Result<(), Refused> {
    match who {
        Who::User { uid, gids } => allow_user(uid, gids, &roles.groups, need),
        Who::Certified { names } => {
            let among = |list: &[String]| names.iter().any(|name| list.contains(name));
            let operator = among(&roles.named.operators);
            if operator || need == Need::Read && among(&roles.named.readers) {
                return Ok(());
            }
            Err(Refused::Name { name: names.join(", "), need })
        }
        Who::Run { .. } => Err(Refused::Run),
    }
}

/// Whether it may do what is about this incident alone; `id` is all of its id where the agent of a run asks.
pub fn allow_about(who: Who<'_>, roles: &Roles, need: Need, id: &str) -> Result<(), Refused> {
    match who {
        Who::Run { incident } if incident == id => Ok(()),
        _ => allow(who, roles, need),
    }
}

fn allow_user(uid: u32, gids: &[u32], groups: &Groups, need: Need) -> Result<(), Refused> {
    let member = |group: Option<u32>| group.is_some_and(|group| gids.contains(&group));
    let operator = uid == 0 || uid == groups.owner || member(groups.operators);
    match need {
        Need::Act if operator => Ok(()),
        Need::Read if operator || member(groups.readers) => Ok(()),
        _ => {
            let exists = match need {
                Need::Read => groups.readers.is_some(),
                Need::Act => groups.operators.is_some(),
            };
            Err(Refused::Role { uid, need, exists })
        }
    }
}

/// Whether core may be asked this by who asks it.
pub fn admit(ask: &Ask, roles: &Roles) -> Result<(), Refused> {
    let need = match &ask.what {
        Some(ask::What::Status(_) | ask::What::Incidents(_) | ask::What::Trees(_)) => Need::Read,
        Some(
            ask::What::Act(_)
            | ask::What::Trigger(_)
            | ask::What::SetPaused(_)
            | ask::What::Investigate(_)
            // What the culprit's user may read is not for all who may read records.
            | ask::What::ReadSource(_)
            | ask::What::Findings(_),
        ) => Need::Act,
        // Nobody's request: core looks for itself.
        Some(ask::What::Damage(_)) => return Ok(()),
        None => return Err(Refused::Request("the request is empty")),
    };
    match &ask.what {
        Some(ask::What::ReadSource(read)) => {
            allow_about(Who::of(ask), roles, need, &read.incident)?;
        }
        Some(ask::What::Findings(found)) => {
            allow_about(Who::of(ask), roles, need, &found.incident)?;
        }
        // Of those serve passes on one.
        Some(ask::What::Incidents(_)) if ask.run.is_some() => {}
        _ => allow(Who::of(ask), roles, need)?,
    }
    match &ask.what {
        Some(ask::What::Act(act)) => {
            check_id(&act.id).and_then(|()| check_why(&act.why)).and_then(|()| {
                match proto::Verb::try_from(act.verb) {
                    Ok(proto::Verb::Unspecified) | Err(_) => {
                        Err(Refused::Request("the verb must be freeze, thaw, kill or resolve"))
                    }
                    Ok(_) => Ok(()),
                }
            })
        }
        Some(ask::What::Trigger(trigger)) => check_why(&trigger.why),
        Some(ask::What::SetPaused(paused)) => check_why(&paused.why),
        Some(ask::What::Investigate(investigate)) => {
            check_id(&investigate.id).and_then(|()| check_agent(&investigate.agent))
        }
        Some(ask::What::Trees(trees)) => check_trees(trees),
        Some(ask::What::ReadSource(read)) => {
            check_id(&read.incident).and_then(|()| check_path(&read.path))
        }
        Some(ask::What::Findings(found)) => check_id(&found.incident).and_then(|()| {
            let size = found.findings.as_ref().map_or(0, Message::encoded_len);
            if size == 0 {
                Err(Refused::Request("there are no findings in it"))
            } else if size > FINDINGS_MAX {
                Err(Refused::Request("findings have at most 32 KiB"))
            } else {
                Ok(())
            }
        }),
        Some(ask::What::Status(_) | ask::What::Incidents(_) | ask::What::Damage(_)) | None => {
            Ok(())
        }
    }
}

/// An id, or the beginning of one.
fn check_id(id: &str) -> Result<(), Refused> {
    let plausible = (1..=ID_MAX).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if plausible {
        Ok(())
    } else {
        Err(Refused::Request("an incident's id is lower-case letters and digits"))
    }
}

fn check_agent(agent: &str) -> Result<(), Refused> {
    let plausible = agent.len() <= ID_MAX && agent.bytes().all(|byte| byte.is_ascii_lowercase());
    if plausible { Ok(()) } else { Err(Refused::Request("an agent's name is lower-case letters")) }
}

fn check_trees(trees: &proto::ListTreesRequest) -> Result<(), Refused> {
    if trees.limit > TREES_MAX {
        Err(Refused::Request("at most 100 trees are listed"))
    } else if proto::TreeOrder::try_from(trees.order).is_err() {
        Err(Refused::Request("trees are ordered by processes, forks, growth or memory"))
    } else if trees.cgroup.len() > PATH_MAX {
        Err(Refused::Request("a cgroup's path has at most 4,096 bytes"))
    } else {
        Ok(())
    }
}

fn check_path(path: &[u8]) -> Result<(), Refused> {
    if path.is_empty() || path.len() > PATH_MAX || path.contains(&0) {
        Err(Refused::Request("a path has 1 to 4,096 bytes, none of them 0"))
    } else {
        Ok(())
    }
}

fn check_why(why: &str) -> Result<(), Refused> {
    if why.len() > WHY_MAX {
        Err(Refused::Request("the reason is longer than 1,024 bytes"))
    } else if why.chars().any(char::is_control) {
        Err(Refused::Request("the reason must be one line of plain text"))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sensor_proto::internal::v1::Run;

    use super::*;

    const GROUPS: Groups = Groups { readers: Some(7), operators: Some(8), owner: 0 };

    fn roles() -> Roles {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let named = Named { readers: list(&["board.example"]), operators: list(&["ada.example"]) };
        Roles { groups: GROUPS, named: named.into() }
    }

    #[test]
    fn names_in_a_certificate_have_roles() {
        let allow = |names: &[&str], need| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            super::allow(Who::Certified { names: &names }, &roles(), need)
        };
        assert_eq!(allow(&["ada.example"], Need::Act), Ok(()));
        assert_eq!(allow(&["ada.example"], Need::Read), Ok(()));
        assert_eq!(allow(&["other", "board.example"], Need::Read), Ok(()));
        assert!(allow(&["ADA.example"], Need::Read).is_err());
        assert!(allow(&["a.ada.example"], Need::Read).is_err());
        assert!(allow(&[], Need::Read).is_err());
        assert_eq!(
            allow(&["board.example"], Need::Act).unwrap_err().to_string(),
            "board.example may not act through sensor: its administrator can add this name of your \
             certificate to feed.tcp.operators"
        );
    }

    #[test]
    fn groups_have_roles() {
        let cases = [
            (0, &[][..], true, true),
            (1_000, &[8], true, true),
            (1_000, &[7], true, false),
            (1_000, &[0], false, false),
            (1_000, &[], false, false),
            (u32::MAX, &[9], false, false),
        ];
        for (uid, gids, read, act) in cases {
            let allow = |need| allow_user(uid, gids, &GROUPS, need).is_ok();
            assert_eq!(allow(Need::Read), read, "{uid} {gids:?}");
            assert_eq!(allow(Need::Act), act, "{uid} {gids:?}");
        }
        let owned = Groups { owner: 1_000, ..Groups::default() };
        assert_eq!(allow_user(1_000, &[], &owned, Need::Act), Ok(()));
    }

    #[test]
    fn a_group_that_does_not_exist_admits_nobody() {
        let none = Groups::default();
        let refused = allow_user(1_000, &[0, 7, 8], &none, Need::Act).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "uid 1000 may not act through sensor: use sudo, or have root run \
             `groupadd -r sensor-operators && usermod -aG sensor-operators USER`"
        );
        let refused = allow_user(1_000, &[], &GROUPS, Need::Read).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "uid 1000 may not read from sensor: use sudo, or have root run `usermod -aG sensor USER`"
        );
    }

    fn act(uid: u32, id: &str, verb: i32, why: &str) -> Ask {
        let act = proto::ActRequest { id: id.into(), verb, why: why.into() };
        Ask { uid, what: Some(ask::What::Act(act)), ..Ask::default() }
    }

    #[test]
    fn only_requests_that_make_sense_reach_core() {
        assert_eq!(admit(&act(0, "abc123", 1, "because"), &roles()), Ok(()));
        assert!(admit(&act(0, "", 1, ""), &roles()).is_err());
        assert!(admit(&act(0, "ABC", 1, ""), &roles()).is_err());
        assert!(admit(&act(0, "abc", 0, ""), &roles()).is_err());
        assert!(admit(&act(0, "abc", 99, ""), &roles()).is_err());
        assert!(admit(&act(0, "abc", 1, "a\nb"), &roles()).is_err());
        assert!(admit(&act(0, "abc", 1, &"x".repeat(WHY_MAX + 1)), &roles()).is_err());
        assert!(admit(&Ask::default(), &roles()).is_err());
        let trees = |limit, order| {
            let trees = proto::ListTreesRequest { limit, order, ..Default::default() };
            Ask { gids: vec![7], uid: 1_000, what: Some(ask::What::Trees(trees)), ..Ask::default() }
        };
        assert_eq!(admit(&trees(100, 3), &roles()), Ok(()), "who may read");
        assert!(admit(&trees(101, 0), &roles()).is_err());
        assert!(admit(&trees(1, 5), &roles()).is_err());
        let stranger = Ask { gids: vec![9], ..trees(1, 0) };
        assert!(admit(&stranger, &roles()).is_err());
    }

    fn in_run(what: ask::What) -> Ask {
        let run = Some(Run { investigation: "abc1-1".into(), incident: "abc1".into() });
        Ask { uid: 0, run, what: Some(what), ..Ask::default() }
    }

    #[test]
    fn the_agent_of_a_run_asks_about_its_incident_alone() {
        let read = |incident: &str| {
            let path = b"src/main.c".to_vec();
            in_run(ask::What::ReadSource(proto::ReadSourceRequest {
                incident: incident.into(),
                path,
            }))
        };
        let found = |incident: &str, text: String| {
            let cause = Some(proto::Claim { text, evidence: Vec::new() });
            in_run(ask::What::Findings(proto::SubmitFindingsRequest {
                incident: incident.into(),
                findings: Some(proto::Findings { cause, ..Default::default() }),
            }))
        };
        assert_eq!(admit(&read("abc1"), &roles()), Ok(()));
        assert_eq!(admit(&found("abc1", "x".into()), &roles()), Ok(()));
        // Not even the beginning of its own, which may be another's as well.
        for other in ["abc", "abc2", ""] {
            assert_eq!(admit(&read(other), &roles()), Err(Refused::Run), "{other}");
            assert_eq!(admit(&found(other, "x".into()), &roles()), Err(Refused::Run));
        }
        assert!(admit(&found("abc1", "x".repeat(FINDINGS_MAX)), &roles()).is_err());
        // That its connection belongs to root changes nothing.
        for what in [
            ask::What::Status(proto::GetStatusRequest {}),
            ask::What::Trees(proto::ListTreesRequest::default()),
            ask::What::SetPaused(proto::SetPausedRequest::default()),
            ask::What::Trigger(proto::TriggerRequest::default()),
        ] {
            assert_eq!(admit(&in_run(what), &roles()), Err(Refused::Run));
        }
    }

    #[test]
    fn who_only_reads_records_reads_no_files() {
        let path = b"main.c".to_vec();
        let read = proto::ReadSourceRequest { incident: "abc".into(), path };
        let ask =
            |gid, what| Ask { uid: 1_000, gids: vec![gid], what: Some(what), ..Ask::default() };
        let of = |read: &proto::ReadSourceRequest| ask::What::ReadSource(read.clone());
        assert!(admit(&ask(7, of(&read)), &roles()).is_err());
        assert_eq!(admit(&ask(8, of(&read)), &roles()), Ok(()));
        for path in [Vec::new(), vec![b'x'; PATH_MAX + 1], b"a\0b".to_vec()] {
            let read = proto::ReadSourceRequest { path, ..read.clone() };
            assert!(admit(&ask(8, of(&read)), &roles()).is_err());
        }
    }

    proptest! {
        #[test]
        fn a_stranger_never_acts(uid in 1_u32.., gids in prop::collection::vec(any::<u32>(), 0..20),
                                 id in ".{0,40}", verb: i32, why in ".{0,40}") {
            prop_assume!(!gids.contains(&8));
            let ask = Ask { gids, ..act(uid, &id, verb, &why) };
            prop_assert!(admit(&ask, &roles()).is_err());
        }

        #[test]
        fn a_named_stranger_never_acts_whatever_uid_it_says(
            uid: u32, gids in prop::collection::vec(any::<u32>(), 0..20),
            names in prop::collection::vec(".{0,12}", 1..4),
        ) {
            let ask = Ask { gids, names, ..act(uid, "abc", 1, "") };
            prop_assert!(admit(&ask, &roles()).is_err());
        }
    }
}
