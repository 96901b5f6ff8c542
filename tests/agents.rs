//! The agents' real programs, as set-up installs them, each with a model of its own to ask.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Result;
use serde_json::json;
use tempfile::TempDir;

use crate::{
    daemon::open_to_all,
    model::{Model, Step},
    names, target,
};

/// Where set-up installs them.
pub fn directory() -> PathBuf {
    target::directory().join("tools/agents")
}

/// Where a program is, if set-up has installed it.
pub fn find(name: &str) -> Option<PathBuf> {
    let command = directory().join("bin").join(name);
    command.exists().then_some(command)
}

/// One of the agents, its model, and what it has to work with.
#[derive(Debug)]
pub struct Agent {
    pub name: &'static str,
    pub key: String,
    pub model: Model,
    program: PathBuf,
    /// The key's file is in it.
    place: TempDir,
}

impl Agent {
    pub fn new(name: &'static str, program: &Path, script: Vec<Step>) -> Result<Self> {
        let place = tempfile::tempdir()?;
        open_to_all(place.path())?;
        let key = format!("sk-{}-{}", names::word(), names::word());
        let model = Model::start(&key, script)?;
        let agent = Self { name, key, model, program: program.to_owned(), place };
        fs::write(agent.key_file(), format!("{}\n", agent.key))?;
        fs::set_permissions(agent.key_file(), fs::Permissions::from_mode(0o600))?;
        Ok(agent)
    }

    fn key_file(&self) -> PathBuf {
        self.place.path().join("key")
    }

    /// A daemon's, that sends this agent, or `none`, into each incident; `run`: more of the run's table.
    pub fn config(&self, agent: &str, run: &str) -> String {
        let (program, key) = (self.program.display(), self.key_file());
        let (model, key) = (model_of(self.name), key.display());
        format!(
            "[investigate]\nagent = \"{agent}\"\nwhen = \"always\"\ncooldown_s = 0\n\n\
             [investigate.run]\n{run}\n\n\
             [investigate.{name}]\nprogram = \"{program}\"\nmodel = \"{model}\"\n\
             endpoint = \"{url}\"\nkey_file = \"{key}\"\n\n\
             [[investigate.prices]]\nmodel = \"{model}\"\n\
             input_usd = 2.0\noutput_usd = 10.0\ncached_usd = 0.2\n",
            name = self.name,
            url = self.model.url(),
        )
    }
}

fn model_of(agent: &str) -> &'static str {
    match agent {
        "codex" => "gpt-5.1-codex",
        "gemini" => "gemini-2.5-flash",
        "opencode" => "anthropic/claude-sonnet-5",
        _ => "claude-sonnet-5",
    }
}

/// Looks, says that the built-in diagnosis is right, and has done.
pub fn good() -> Vec<Step> {
    let findings = json!({
        "verdict": "confirms",
        "confidence": 0.75,
        "cause": {"text": "it starts itself", "evidence": ["incident"]},
    });
    vec![
        Step::Call("incident_get", json!({})),
        Step::Call("submit_findings", findings),
        Step::Text("It starts itself.".to_owned()),
    ]
}

/// The program, or a return from the test with a note: `let program = agent!("claude")`.
#[macro_export]
macro_rules! agent {
    ($name:expr) => {
        match $crate::agents::find($name) {
            Some(program) => program,
            None => {
                let reason = format!("no {} in target/tools: cargo xtask setup", $name);
                $crate::skip::note($crate::test_name!(), &reason);
                return;
            }
        }
    };
}
