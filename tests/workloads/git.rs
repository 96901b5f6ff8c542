//! A repository whose hook commits.

use std::process::Command;

use anyhow::Result;

use super::Workload;
use crate::{names, run::run};

/// A post-commit hook that makes a commit, which runs the hook.
pub fn hook() -> Result<Workload> {
    let mut work = Workload::new()?;
    let message = names::word();
    work.cwd = work.path().join(names::word());
    for (name, value) in
        [("user.name", "Someone"), ("user.email", "someone@example.com"), ("gc.auto", "0")]
    {
        git(&work, &["config", "--global", name, value])?;
    }
    let repository = work.cwd.to_string_lossy().into_owned();
    git(&work, &["init", "--quiet", &repository])?;
    let commit = ["git", "commit", "--allow-empty", "--quiet", "-m", &message];
    let hook = work.cwd.join(".git/hooks/post-commit");
    let relative = hook.strip_prefix(work.path())?.to_string_lossy().into_owned();
    work.write_program(&relative, &format!("#!/bin/sh\n{}\n", commit.join(" ")))?;
    Ok(work.runs(commit).named([hook.to_string_lossy().into_owned(), "git commit".into()]))
}

fn git(work: &Workload, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("git");
    command.args(arguments).env_clear().envs(work.environment.iter().map(|(k, v)| (k, v)));
    run(&mut command, std::time::Duration::from_secs(20))?.success()?;
    Ok(())
}
