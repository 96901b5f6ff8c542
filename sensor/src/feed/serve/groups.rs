//! Names of users and groups as this host knows them, remembered shortly: a change in /etc/group
//! counts within seconds, and a storm of requests does not read it each time.

use std::{
    collections::HashMap,
    ffi::CString,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

use crate::feed::access::{Groups, OPERATORS, READERS};

/// How long an answer counts.
const REMEMBER: Duration = Duration::from_secs(5);

/// Users that are remembered at once; a host with more of them asks again.
const USERS_MAX: usize = 256;

/// The two groups that matter.
pub(in crate::feed) struct GroupCache {
    owner: u32,
    known: Mutex<Option<(Instant, Groups)>>,
}

impl GroupCache {
    /// `owner`: user that core runs as.
    pub fn new(owner: u32) -> Self {
        Self { owner, known: Mutex::new(None) }
    }

    /// Groups that this host does not have.
    #[cfg(test)]
    pub fn fixed(groups: Groups) -> Self {
        let long = Instant::now() + Duration::from_hours(1);
        Self { owner: groups.owner, known: Mutex::new(Some((long, groups))) }
    }

    pub fn get(&self) -> Groups {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, groups)) = *known
            && at.elapsed() < REMEMBER
        {
            return groups;
        }
        // A group database that cannot be read names no group, and admits nobody by one.
        let gid = |name| Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw());
        let groups = Groups { readers: gid(READERS), operators: gid(OPERATORS), owner: self.owner };
        *known = Some((Instant::now(), groups));
        groups
    }
}

/// Which groups a user is in.
#[derive(Default)]
pub(super) struct Members {
    known: Mutex<HashMap<u32, (Instant, Vec<u32>)>>,
}

impl Members {
    /// All groups of a peer: the one that it came with, and those that the host lists for its user.
    /// May read files; not for an async task.
    pub fn groups_of(&self, uid: u32, gid: u32) -> Vec<u32> {
        let mut groups = self.listed(uid);
        if !groups.contains(&gid) {
            groups.push(gid);
        }
        groups
    }

    fn listed(&self, uid: u32) -> Vec<u32> {
        let remembered = self.lock().get(&uid).cloned();
        if let Some((at, groups)) = remembered
            && at.elapsed() < REMEMBER
        {
            return groups;
        }
        let groups = look_up(uid);
        let mut known = self.lock();
        if known.len() >= USERS_MAX {
            known.clear();
        }
        known.insert(uid, (Instant::now(), groups.clone()));
        groups
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u32, (Instant, Vec<u32>)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A user that the host does not know is in no group.
fn look_up(uid: u32) -> Vec<u32> {
    let Ok(Some(user)) = User::from_uid(Uid::from_raw(uid)) else { return Vec::new() };
    let Ok(name) = CString::new(user.name) else { return Vec::new() };
    getgrouplist(&name, user.gid)
        .map(|groups| groups.into_iter().map(Gid::as_raw).collect())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_in_its_group_and_a_stranger_only_in_what_it_came_with() {
        let members = Members::default();
        assert!(members.groups_of(0, 0).contains(&0));
        assert_eq!(members.groups_of(3_999_999_999, 42), [42]);
    }
}
