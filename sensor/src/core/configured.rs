//! What the configuration means to the parts: values that they are started with.

use std::{
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use nix::unistd::{Gid, Group, Uid, User};
use sensor_common::{gate::Rule, respawn::Limits};

use super::CoreError;
use crate::{
    cgroup::Hierarchies,
    config::{self, Config},
    detect::memory,
    evidence::{Redactor, Sources, gather},
    feed::{access::Named, link::Tcp, tls::Files},
    host::cpus,
    kernel::{Capability, LoadOptions, Working},
    respond::policy::{Mode, Policy},
};

/// Where clients on other hosts connect; none where that is not wanted.
pub fn tcp(config: &config::Tcp) -> Option<Tcp> {
    Some(Tcp {
        // Checked with the configuration; empty: not wanted.
        listen: config.listen.parse().ok()?,
        files: Files {
            certificate: config.certificate.clone(),
            key: config.key.clone(),
            client_ca: config.client_ca.clone(),
        },
        named: Named { readers: config.readers.clone(), operators: config.operators.clone() },
    })
}

/// Runs what is not root where its own user does not exist.
const NOBODY: &str = "nobody";

/// Ids that distributions and systemd give to nobody, neither for good nor for a while.
const UNUSED: RangeInclusive<u32> = 65_520..=65_533;

/// Whom the feed runs as, and by which group it reads the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feeder {
    /// (uid, gid); `None`: it stays what core is.
    pub ids: Option<(u32, u32)>,
    /// Who that is; an error says what is wrong with it.
    pub told: Result<String, String>,
}

impl Feeder {
    /// By the configured name.
    pub fn find(name: &str) -> Self {
        let known = |name: &str| {
            let user = User::from_name(name).ok()??;
            Some((user.uid.as_raw(), user.gid.as_raw()))
        };
        let is_free = |id: &u32| {
            matches!(Group::from_gid(Gid::from_raw(*id)), Ok(None))
                && matches!(User::from_uid(Uid::from_raw(*id)), Ok(None))
        };
        Self::of(name, known(name), known(NOBODY), UNUSED.clone().find(is_free))
    }

    /// The same by what is known: ids of both users, and a group that nobody is in. In that of `nobody` are others as
    /// well, each of which would read the log.
    fn of(
        name: &str,
        own: Option<(u32, u32)>,
        nobody: Option<(u32, u32)>,
        free: Option<u32>,
    ) -> Self {
        let Some((uid, gid)) = own.or(nobody) else {
            let told = format!("the feed runs as root: there is no user `{name}`, and no `nobody`");
            return Self { ids: None, told: Err(told) };
        };
        let who = match own {
            Some(_) => format!("user `{name}`"),
            None => format!("user `nobody`, for there is no user `{name}`"),
        };
        let is_shared = nobody.is_some_and(|(_, shared)| shared == gid);
        let (gid, told) = match free {
            _ if !is_shared => (gid, Ok(who)),
            Some(free) => (free, Ok(format!("{who}, and group {free}, which nobody else is in"))),
            None => {
                let what = "whatever is in the group of `nobody` can read the log";
                (gid, Err(format!("{what}: the feed runs as {who}")))
            }
        };
        Self { ids: Some((uid, gid)), told }
    }
}

/// Whom the feed runs as, for `sensor doctor`.
pub fn doctor(name: &str) -> Capability {
    let (state, why, remedy) = match Feeder::find(name).told {
        Ok(who) => (Working::Ok, who, ""),
        Err(why) => (Working::Degraded, why, "create a user for it: useradd --system sensor"),
    };
    Capability {
        name: "user of the feed",
        state,
        used_for: "answering clients without being root, and keeping the log from everybody else",
        why,
        remedy,
    }
}

/// Scope as v2 paths; a directory below the mount stands for its path.
pub fn scope(configured: &[String], hierarchies: &Hierarchies) -> Result<Vec<PathBuf>, CoreError> {
    configured
        .iter()
        .map(|entry| {
            let path = Path::new(entry);
            match hierarchies.unified() {
                Some(mount) if path.starts_with(mount) => hierarchies.path(path),
                Some(_) if path.is_absolute() => Some(path.to_owned()),
                _ => None,
            }
            .ok_or_else(|| CoreError::Scope(entry.clone()))
        })
        .collect()
}

/// Groups of the scope that are not there, a sentence each: they may come later.
pub fn absent(scope: &[PathBuf], hierarchies: &Hierarchies) -> Vec<String> {
    let is_there = |path: &PathBuf| hierarchies.dir(path).is_some_and(|dir| dir.is_dir());
    let absent = scope.iter().filter(|path| !is_there(path)).map(|path| path.display());
    absent
        .map(|path| {
            format!("scope.cgroup {path} does not exist: nothing is watched there until it does")
        })
        .collect()
}

/// The kernel side of a daemon with this configuration.
pub fn load_options(config: &Config) -> LoadOptions {
    LoadOptions {
        max_processes: config.kernel.max_processes,
        ring_bytes: config.kernel.ring_bytes,
        limits: config.detect.limits(),
        storms: config.detect.storms(cpus()),
        respawns: config.detect.respawns(),
        lifecycle: false,
        brake: config.kernel.brake,
    }
}

/// A loop that goes on is told of with each window, and after a window that was not bad enough when as
/// many bad ones as it takes have come again.
pub fn quiet_ns(limits: &Limits) -> u64 {
    u64::from(limits.window_ms) * 1_000_000 * (u64::from(limits.windows) + 3)
}

/// What is done about each rule's findings.
pub fn policy(config: &Config) -> Policy {
    let rules = &config.respond.rules;
    let of_memory = memory::Rule::ALL.map(memory::Rule::name);
    let all = Rule::ALL.map(Rule::name).into_iter().chain(of_memory);
    Policy::with(all.map(|rule| {
        let mode = match rules.mode(rule) {
            config::Mode::Observe => Mode::Observe,
            config::Mode::Suggest => Mode::Suggest,
            config::Mode::Approve => Mode::Approve,
            config::Mode::Auto => Mode::Auto,
        };
        (rule.to_owned(), mode)
    }))
    .dry(config.respond.dry_run)
}

/// Who gathers evidence: how much, and from where.
pub fn gatherer(config: &Config) -> gather::Gatherer {
    let limits = gather::Limits {
        listed: config.evidence.max_processes as usize,
        ..gather::Limits::default()
    };
    let evidence = &config.evidence;
    gather::Gatherer::new(Redactor::with_random_key(), limits)
        .with_logs(Sources::here(evidence.files.clone()), evidence.deploy_markers.clone())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn who_runs_as_nobody_reads_the_log_by_a_group_of_its_own() {
        let nobody = Some((65_534, 65_534));
        let ids = |name, own, free| {
            let found = Feeder::of(name, own, nobody, free);
            (found.ids, found.told.is_ok())
        };
        let (free, of_its_own) = (Some(65_520), Some((65_534, 65_520)));
        assert_eq!(ids("sensor", Some((990, 991)), free), (Some((990, 991)), true));
        assert_eq!(ids("sensor", None, free), (of_its_own, true));
        assert_eq!(ids("nobody", nobody, free), (of_its_own, true));
        // As `adduser --system` of Debian makes it.
        assert_eq!(ids("sensor", Some((990, 65_534)), free), (Some((990, 65_520)), true));
        assert_eq!(ids("sensor", None, None), (nobody, false));
        assert_eq!(Feeder::of("sensor", None, None, free).ids, None);
        assert_eq!(
            Feeder::of("sensor", None, nobody, free).told.unwrap(),
            "user `nobody`, for there is no user `sensor`, and group 65520, which nobody else is in"
        );
        assert_eq!(
            Feeder::of("sensor", None, nobody, None).told.unwrap_err(),
            "whatever is in the group of `nobody` can read the log: the feed runs as user `nobody`, for there is no \
             user `sensor`"
        );
    }

    #[test]
    fn a_group_of_the_scope_that_is_not_there_is_named() {
        let root = tempfile::tempdir().unwrap();
        // As a container sees it: what is mounted is a part of the tree.
        let line = format!("41 31 0:38 /box {} rw - cgroup2 none rw\n", root.path().display());
        let hierarchies = Hierarchies::parse(line.as_bytes(), Path::new("/nowhere"));
        fs::create_dir(root.path().join("build")).unwrap();
        let told = absent(&["/box/build".into(), "/box/nope".into()], &hierarchies);
        let expected =
            "scope.cgroup /box/nope does not exist: nothing is watched there until it does";
        assert_eq!(told, [expected]);
    }
}
