//! What the configuration means to the parts: values that they are started with.

use std::path::{Path, PathBuf};

use sensor_common::{gate::Rule, respawn::Limits};

use super::CoreError;
use crate::{
    cgroup::Hierarchies,
    config::{self, Config},
    detect::memory,
    evidence::{Redactor, Sources, gather},
    feed::{access::Named, link::Tcp, tls::Files},
    host::cpus,
    kernel::LoadOptions,
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

/// (uid, gid) of a user, `nobody` where there is no such user.
pub fn user(name: &str) -> Option<(u32, u32)> {
    [name, "nobody"].into_iter().find_map(|name| {
        let user = nix::unistd::User::from_name(name).ok()??;
        Some((user.uid.as_raw(), user.gid.as_raw()))
    })
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
