//! A group of trees, as an incident has it.

use std::collections::HashSet;

use crate::{
    detect::group::{By, Group},
    lineage::ProcessKey,
    proto,
};

/// A group as it is recorded, by its eldest member.
pub(super) fn recorded(group: &Group, eldest: Option<&proto::Culprit>) -> proto::Group {
    let (by, what) = match group.by {
        By::Executable => {
            let exe = eldest.map(|eldest| sensor_proto::json::escape(&eldest.exe));
            (proto::GroupBy::Executable, exe.unwrap_or_default())
        }
        By::Session => (proto::GroupBy::Session, group.shared.to_string()),
        By::User => (proto::GroupBy::User, group.shared.to_string()),
        By::Cgroup => {
            let cgroup = eldest.map(|eldest| eldest.cgroup.clone());
            (proto::GroupBy::Cgroup, cgroup.unwrap_or_default())
        }
    };
    let mut recorded = proto::Group {
        by: by.into(),
        what,
        uid: group.user,
        ancestor: Some(key(group.ancestor)),
        ..proto::Group::default()
    };
    join(&mut recorded, &group.members);
    recorded
}

/// Adds those that are not in it yet.
pub fn join(group: &mut proto::Group, members: &[ProcessKey]) {
    let known: HashSet<(u32, u64)> =
        group.members.iter().map(|key| (key.pid, key.start_ns)).collect();
    let new = members.iter().filter(|key| !known.contains(&(key.tgid, key.start_ns)));
    group.members.extend(new.map(|one| key(*one)));
}

fn key(key: ProcessKey) -> proto::ProcessKey {
    proto::ProcessKey { pid: key.tgid, start_ns: key.start_ns }
}
