//! The labelled workloads: a directory each below `tests/workloads`, with its definition in
//! `workload.toml`, a shell script `setup` that makes the project (it may be absent), and program
//! files, which are copied.
//!
//! In the definition `{word}` stands for one of its words, `{here}` for the fresh directory that a
//! run gets, `{kept}` for the one that is kept between runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use super::{Label, Split};
use crate::{cage::Limits, skip};

/// The file that makes a directory a workload.
pub const DEFINITION: &str = "workload.toml";

/// A workload and what is known about it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Labelled {
    /// Of its directory.
    #[serde(skip)]
    pub name: String,
    /// Where its files are.
    #[serde(skip)]
    pub source: PathBuf,
    /// What it is and where it comes from, in one line.
    pub about: String,
    pub label: Label,
    pub split: Split,
    /// One of those that a short evaluation runs.
    pub quick: bool,
    /// Programs without which it cannot be set up, looked for in `PATH`.
    #[serde(default)]
    pub needs: Vec<String>,
    /// Debian packages that bring them.
    #[serde(default)]
    pub packages: Vec<String>,
    /// Each is another random word in every run, and a variable of that name for the set-up.
    #[serde(default)]
    pub words: BTreeSet<String>,
    /// A first word with a slash is relative to the fresh directory.
    pub command: Vec<String>,
    /// Where the command runs, below the fresh directory; empty: the fresh directory itself.
    #[serde(default)]
    pub directory: String,
    /// For set-up and command, beside `PATH`, `HOME` and `LANG`.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    pub bounds: Bounds,
    pub work: Work,
    /// Of a malign one only.
    pub expect: Option<Expect>,
}

/// What a run may use.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bounds {
    /// Processes and threads at once.
    pub tasks: u32,
    pub memory_mib: u64,
    /// From the start of the command to its end, or to where it is ended.
    pub seconds: u64,
}

/// What it does at least when nobody stops it. A run that did less was something else.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Work {
    pub forks: u64,
    /// Processes alive at once.
    pub live: u64,
}

/// What has to be said about a malign workload.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    pub culprit: Culprit,
    /// Texts that a diagnosis cannot do without.
    pub facts: Vec<String>,
    /// Commands of one turn of the cycle, if they are always so many.
    pub steps: Option<usize>,
    /// False: it has to be found and explained, and may never be contained.
    #[serde(default = "contained")]
    pub contained: bool,
    /// Kinds of incident that may be told of as well, because they are true, too: of what takes all memory of
    /// its group also that memory is short there.
    #[serde(default)]
    pub beside: BTreeSet<String>,
}

/// Most runaways have to be.
fn contained() -> bool {
    true
}

/// Whom an incident has to blame.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "toml::Value")]
pub enum Culprit {
    /// The process that runs the command.
    Command,
    /// A process whose arguments end with these.
    Words(Vec<String>),
}

impl TryFrom<toml::Value> for Culprit {
    type Error = String;

    fn try_from(value: toml::Value) -> Result<Self, String> {
        let words = match value {
            toml::Value::String(word) if word == "command" => return Ok(Self::Command),
            toml::Value::Array(words) => words
                .iter()
                .map(|word| word.as_str().map(ToOwned::to_owned))
                .collect::<Option<Vec<String>>>(),
            _ => None,
        };
        match words {
            Some(words) if !words.is_empty() => Ok(Self::Words(words)),
            _ => Err("a culprit is \"command\" or a list of words".into()),
        }
    }
}

impl Labelled {
    /// Reads the definition in this directory.
    pub fn read(source: &Path) -> Result<Self> {
        let file = source.join(DEFINITION);
        let text =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let name = source.file_name().unwrap_or_default().to_string_lossy();
        Self::parse(&name, source, &text).with_context(|| file.display().to_string())
    }

    fn parse(name: &str, source: &Path, text: &str) -> Result<Self> {
        let read: Self = toml::from_str(text)?;
        let labelled = Self { name: name.to_owned(), source: source.to_owned(), ..read };
        labelled.check()?;
        Ok(labelled)
    }

    fn check(&self) -> Result<()> {
        let malign = self.label != Label::Honest;
        ensure!(!self.about.trim().is_empty(), "about: it is empty");
        ensure!(!self.command.is_empty(), "command: it is empty");
        ensure!(self.expect.is_some() || !malign, "expect: a malign workload needs it");
        ensure!(self.expect.is_none() || malign, "expect: an honest workload has nothing of it");
        ensure!(
            self.bounds.tasks > 0 && self.bounds.memory_mib > 0 && self.bounds.seconds > 0,
            "bounds: 0 leaves no room to run in"
        );
        ensure!(self.work.forks > 0 || self.work.live > 0, "work: 0 of everything proves nothing");
        ensure!(
            self.work.live <= u64::from(self.bounds.tasks),
            "work: {} alive do not fit into {} tasks",
            self.work.live,
            self.bounds.tasks
        );
        let plain = |word: &String| word.bytes().all(|byte| byte.is_ascii_lowercase());
        if let Some(word) =
            self.words.iter().find(|word| !plain(word) || ["here", "kept"].contains(&word.as_str()))
        {
            bail!("words: {word:?} cannot be one: lower-case letters, and neither here nor kept");
        }
        if let Some(expect) = &self.expect {
            ensure!(!expect.facts.is_empty(), "expect.facts: nothing to be said is no diagnosis");
            let own = |kind: &String| self.label == Label::Malign(kind.clone());
            ensure!(
                !expect.beside.iter().any(own),
                "expect.beside: the label's own kind is no other"
            );
        }
        Ok(())
    }

    /// Why it cannot be set up here; none: nothing is known to be missing.
    pub fn missing(&self) -> Option<String> {
        let programs: Vec<&str> = self.needs.iter().map(String::as_str).collect();
        let reason = skip::reason(&programs)?;
        Some(if self.packages.is_empty() {
            reason
        } else {
            format!("{reason} (on Debian: apt-get install {})", self.packages.join(" "))
        })
    }

    /// Whether it is to be contained: a runaway is, unless it is only to be told of.
    pub fn is_to_be_contained(&self) -> bool {
        self.expect.as_ref().is_some_and(|expect| expect.contained)
    }

    /// Whether an incident of this kind may stand beside the one that the label asks for.
    pub fn is_beside(&self, kind: &str) -> bool {
        self.expect.as_ref().is_some_and(|expect| expect.beside.contains(kind))
    }

    pub fn limits(&self) -> Limits {
        Limits { tasks: Some(self.bounds.tasks), memory_bytes: Some(self.bounds.memory_mib << 20) }
    }

    pub fn time_limit(&self) -> Duration {
        Duration::from_secs(self.bounds.seconds)
    }
}

/// All definitions, by name.
pub fn load() -> Result<Vec<Labelled>> {
    let directory = directory();
    let entries =
        fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let mut all = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            all.push(Labelled::read(&path)?);
        }
    }
    all.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(all)
}

/// The one of this name.
pub fn find(name: &str) -> Result<Labelled> {
    Labelled::read(&directory().join(name))
}

/// `SENSOR_WORKLOADS`, as in a guest, or the repository's.
fn directory() -> PathBuf {
    env::var_os("SENSOR_WORKLOADS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads"), PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HONEST: &str = r#"
        about = "it sleeps"
        label = "honest"
        split = "tune"
        quick = true
        command = ["sleep", "1"]
        bounds = { tasks = 10, memory_mib = 64, seconds = 5 }
        work = { forks = 1, live = 1 }
    "#;

    const EXPECT: &str = r#"
        expect = { culprit = "command", facts = ["sleep"] }
    "#;

    /// What is said about a definition, read from a file.
    fn refused(text: &str) -> String {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("sleeps");
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join(DEFINITION), text).unwrap();
        let said = format!("{:#}", Labelled::read(&directory).unwrap_err());
        assert!(said.contains("sleeps/workload.toml"), "no file in {said:?}");
        said
    }

    #[test]
    fn every_definition_of_the_tree_loads() {
        let all = load().unwrap();
        let names: BTreeSet<&str> = all.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names.len(), all.len(), "two of one name");
        let of = |wanted: &dyn Fn(&&Labelled) -> bool| all.iter().filter(wanted).count();
        let malign = of(&|one| one.label != Label::Honest);
        assert!(malign >= 8 && all.len() - malign >= 8, "{malign} malign of {names:?}");
        for split in [Split::Tune, Split::HeldOut] {
            assert!(of(&|one| one.split == split && one.label == Label::Honest) >= 3);
            assert!(of(&|one| one.split == split && one.label != Label::Honest) >= 3);
        }
    }

    #[test]
    fn honest_and_malign_definitions_are_read() {
        let honest = Labelled::parse("sleeps", Path::new("/x"), HONEST).unwrap();
        assert_eq!((honest.name.as_str(), &honest.label), ("sleeps", &Label::Honest));
        let malign = HONEST.replace("\"honest\"", "\"recursion\"") + EXPECT;
        let malign = Labelled::parse("sleeps", Path::new("/x"), &malign).unwrap();
        assert_eq!(malign.label, Label::Malign("recursion".into()));
        assert!(malign.is_to_be_contained() && !honest.is_to_be_contained());
        assert_eq!(malign.expect.unwrap().culprit, Culprit::Command);
        let told = EXPECT.replace("facts", "contained = false, facts");
        let told = HONEST.replace("\"honest\"", "\"crash_loop\"") + &told;
        let told = Labelled::parse("sleeps", Path::new("/x"), &told).unwrap();
        assert!(!told.is_to_be_contained() && !told.is_beside("recursion"));
    }

    #[test]
    fn what_may_stand_beside_is_of_another_kind() {
        let expect = EXPECT.replace("facts", "beside = ['memory_pressure'], facts");
        let killed = HONEST.replace("\"honest\"", "\"oom_kill\"") + &expect;
        let killed = Labelled::parse("sleeps", Path::new("/x"), &killed).unwrap();
        assert!(killed.is_beside("memory_pressure") && !killed.is_beside("oom_kill"));
        let own = HONEST.replace("\"honest\"", "\"memory_pressure\"") + &expect;
        assert!(refused(&own).contains("expect.beside"));
    }

    #[test]
    fn an_unknown_key_is_refused() {
        assert!(refused(&HONEST.replace("quick", "quik")).contains("quik"));
        assert!(refused(&HONEST.replace("memory_mib", "memory")).contains("memory"));
        assert!(refused(&HONEST.replace("\"tune\"", "\"train\"")).contains("train"));
    }

    #[test]
    fn what_a_label_asks_for_has_to_be_there() {
        assert!(refused(&HONEST.replace("\"honest\"", "\"recursion\"")).contains("expect"));
        assert!(refused(&format!("{HONEST}{EXPECT}")).contains("expect"));
        assert!(refused(&HONEST.replace("work =", "#")).contains("work"));
        assert!(
            refused(&HONEST.replace("forks = 1, live = 1", "forks = 0, live = 0")).contains("work")
        );
        assert!(refused(&HONEST.replace("live = 1", "live = 11")).contains("work"));
        assert!(refused(&HONEST.replace("[\"sleep\", \"1\"]", "[]")).contains("command"));
        let nobody = EXPECT.replace("\"command\"", "\"nobody\"");
        let malign = HONEST.replace("\"honest\"", "\"recursion\"") + &nobody;
        assert!(refused(&malign).contains("culprit"));
    }
}
