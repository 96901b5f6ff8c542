//! Where all parts meet, as one process of three or four.
//!
//! This one (root: programs, brake, evidence, the only writer of the log), its guardian, which outlives it, and
//! `serve`, which is not root; where there are webhooks also `deliver`, which is not root either. In this one:
//! the thread that reads the ring and reacts ([`reactor`]), the desk ([`desk`]), the thread that writes the log,
//! and whatever may block beside them. [`daemon`] brings them up and takes them down.

mod absorb;
mod announce;
mod configured;
mod containments;
mod daemon;
mod deadman;
mod desk;
mod findings;
mod growth;
mod investigated;
mod investigations;
mod matter;
pub mod memory;
mod oom;
mod pressure;
mod privileges;
mod reactor;
mod reins;
mod requests;
mod respawn;
mod resume;
mod seconds;
mod storm;
mod study;
mod succession;
pub mod survival;
mod term;
mod trees;
mod vigil;

use std::{io, panic, path::PathBuf};

use self::daemon::Daemon;
pub use self::{
    configured::load_options,
    growth::{UNSEEN, UNSEEN_NS},
};
use crate::{
    cgroup::CgroupError,
    config::Config,
    feed::{link::LinkError, webhooks::link::WebhooksError},
    kernel::LoadError,
    record::LogError,
    respond::guardian::GuardianError,
};

#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    #[error("the sensor must run as root: it watches and stops processes of all users")]
    NotRoot,
    #[error("cannot use {path} as the runtime directory: {source}", path = .path.display())]
    RuntimeDir { path: PathBuf, source: io::Error },
    #[error(
        "the feed runs as uid {uid}, which may not pass {barrier} on the way to its log: let others pass (chmod o+x), \
         or choose another state_dir",
        barrier = .barrier.display()
    )]
    Barrier { barrier: PathBuf, uid: u32 },
    #[error("scope.cgroup {0:?} is not below the cgroup v2 mount")]
    Scope(String),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error("{0}; `sensor doctor` says what this kernel can do")]
    Kernel(#[from] LoadError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Feed(#[from] LinkError),
    #[error(transparent)]
    Webhooks(#[from] WebhooksError),
    #[error(transparent)]
    Guardian(#[from] GuardianError),
    #[error("cannot start the daemon's threads: {0}")]
    Threads(#[source] io::Error),
}

/// Runs the daemon until it is told to end (SIGTERM, SIGINT).
pub fn run(config: &Config) -> Result<(), CoreError> {
    if !rustix::process::geteuid().is_root() {
        return Err(CoreError::NotRoot);
    }
    // Before there are threads.
    if let Err(error) = privileges::keep_what_is_needed() {
        tracing::warn!("all of root's capabilities are kept: {error}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("desk")
        .enable_all()
        .build()
        .map_err(CoreError::Threads)?;
    runtime.block_on(async {
        let daemon = Daemon::start(config)?;
        // On a thread of the runtime's own: from here each tick would wake that one and this one.
        match tokio::spawn(daemon.work()).await {
            Ok(worked) => worked,
            Err(error) => panic::resume_unwind(error.into_panic()),
        }
    })
}

/// What `sensor doctor` would load, too.
pub fn doctor(config: &Config) -> Vec<crate::kernel::Capability> {
    let mut found = crate::kernel::doctor(&load_options(config));
    found.push(configured::doctor(&config.feed.user));
    found.push(investigations::readiness::doctor(&config.investigate));
    found
}
