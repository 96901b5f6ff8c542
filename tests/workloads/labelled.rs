//! Workloads by their definitions: see [`crate::judge::suite`].

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::Workload;
use crate::{
    cage::{Cage, Limits},
    judge::suite::{self, Culprit, Labelled},
    names,
    target::kept,
};

/// A set-up may ask a registry, which may be slow.
const SETUP_LIMIT: Duration = Duration::from_mins(5);

/// For npm, cargo and their like.
const SETUP_ROOM: Limits = Limits { tasks: Some(1000), memory_bytes: Some(4 << 30) };

/// What the user has set for tools that keep it in the home, which a workload has of its own: the
/// variable that leads there, and where it is by default.
const SETTINGS: [(&str, &str); 3] =
    [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup"), ("npm_config_userconfig", ".npmrc")];

impl Workload {
    /// The labelled workload of this name, with fresh words in a fresh directory.
    pub fn labelled(name: &str) -> Result<Self> {
        Self::of(&suite::find(name)?)
    }

    /// The same of a definition that was read before.
    pub fn of(labelled: &Labelled) -> Result<Self> {
        if let Some(reason) = labelled.missing() {
            bail!("{} {reason}", labelled.name);
        }
        let mut work = Self::new()?;
        let words: BTreeMap<&str, String> =
            labelled.words.iter().map(|word| (word.as_str(), names::word())).collect();
        let kept = kept("kept")?;
        let fill = |text: &String| {
            let here = [("here", work.path().display()), ("kept", kept.display())];
            let places = here.iter().map(|(name, path)| (*name, path.to_string()));
            let words = words.iter().map(|(name, word)| (*name, word.clone()));
            places.chain(words).fold(text.clone(), |text, (name, with)| {
                text.replace(&format!("{{{name}}}"), &with)
            })
        };
        let environment: Vec<(OsString, OsString)> = settings()
            .chain(
                labelled
                    .environment
                    .iter()
                    .map(|(name, value)| (name.into(), OsString::from(fill(value)))),
            )
            .collect();
        let mut argv: Vec<String> = labelled.command.iter().map(fill).collect();
        if let Some(program) = argv.first_mut().filter(|program| program.contains('/')) {
            let below = Path::new(program.strip_prefix("./").unwrap_or(program));
            *program = work.path().join(below).to_string_lossy().into_owned();
        }
        let cwd = work.path().join(fill(&labelled.directory));
        let (mut facts, mut culprit) = (Vec::new(), Vec::new());
        if let Some(expect) = &labelled.expect {
            facts = expect.facts.iter().map(fill).collect();
            if let Culprit::Words(words) = &expect.culprit {
                culprit = words.iter().map(fill).collect();
            }
            work.steps = expect.steps;
        }
        work.environment.extend(environment);
        work.culprit = culprit;

        copy(&labelled.source, work.path())?;
        let variables = words.iter().map(|(name, word)| ((*name).into(), word.into()));
        work.set_up(labelled, &kept, variables.collect())
            .with_context(|| format!("{} cannot be set up", labelled.name))?;
        work.cwd = cwd;
        Ok(work.runs(argv).named(facts))
    }

    /// Runs the set-up in a cage, so that nothing of it stays, however it ends.
    fn set_up(
        &mut self,
        labelled: &Labelled,
        kept: &Path,
        words: Vec<(OsString, OsString)>,
    ) -> Result<()> {
        let script = labelled.source.join("setup");
        if !script.exists() {
            return Ok(());
        }
        let suite = labelled.source.parent().unwrap_or(&labelled.source);
        // A registry is reached as the user reaches it; settings that our own build was given are
        // not passed on.
        let mut environment: Vec<(OsString, OsString)> = env::vars_os()
            .filter(|(name, _)| !name.to_string_lossy().starts_with("CARGO"))
            .collect();
        environment.extend(self.environment.iter().cloned());
        environment.extend(words);
        environment.extend([("KEPT".into(), kept.into()), ("SUITE".into(), suite.into())]);

        let cage = Cage::new(SETUP_ROOM)?;
        self.argv = vec!["sh".into(), script.into()];
        let mut command = self.command(&cage)?;
        command.envs(environment);
        let mut running = super::Running { child: command.spawn().context("cannot start sh")? };
        let status = running
            .wait(SETUP_LIMIT)
            .with_context(|| format!("it said {:?}", self.last_words()))?;
        if !status.success() {
            bail!("{status}: {}", self.last_words());
        }
        // From here on the log is the command's.
        fs::write(self.log(), "")?;
        Ok(())
    }
}

/// Where the user's own settings are.
fn settings() -> impl Iterator<Item = (OsString, OsString)> {
    let home = env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from);
    SETTINGS.into_iter().map(move |(name, place)| {
        let path = env::var_os(name).unwrap_or_else(|| home.join(place).into());
        (name.into(), path)
    })
}

/// The program files of a definition.
fn copy(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type()?.is_file() && name != "setup" && name != suite::DEFINITION {
            let to = to.join(&name);
            fs::copy(entry.path(), &to)
                .with_context(|| format!("cannot copy {}", entry.path().display()))?;
        }
    }
    Ok(())
}
