//! npm, yarn, pnpm and bun that run themselves.
//!
//! Three ways lead there. A script calls its tool in a directory without package.json: the tool walks
//! up to the nearest one (npm: `loadLocalPrefix` in @npmcli/config; the others alike) and runs that
//! one's script again. A script calls itself, perhaps through others, or through the `pre` and `post`
//! scripts around it. A lifecycle script (`prepare`, `postinstall`, …) runs the command that runs it.

use std::path::{Path, PathBuf};

use sensor_proto::internal::v1::{Passage, ScriptWanted, passage_wanted::Of};

use super::{
    Claim, Files, Found, Link,
    command::{resolve, shell_text, tool},
    cycle::Cycle,
    words::{Words, list},
};
use crate::evidence::parse::passage::lines::contains_word;

/// Directories up to a package.json: npm has no bound, readers of files have.
const LEVELS: usize = 16;

/// Scripts of one cycle that are told.
const TOLD: usize = 6;

pub(crate) const TOOLS: [&[u8]; 6] = [b"npm", b"npx", b"yarn", b"pnpm", b"pnpx", b"bun"];

/// Verbs that run lifecycle scripts of the package itself (npm's `lib/utils/cmd-list.js`).
const LIFECYCLE_VERBS: [&[u8]; 31] = [
    b"install",
    b"i",
    b"in",
    b"ins",
    b"inst",
    b"insta",
    b"instal",
    b"isnt",
    b"isntall",
    b"add",
    b"ci",
    b"clean-install",
    b"ic",
    b"install-clean",
    b"install-test",
    b"it",
    b"cit",
    b"link",
    b"ln",
    b"pack",
    b"publish",
    b"rebuild",
    b"rb",
    b"update",
    b"up",
    b"upgrade",
    b"uninstall",
    b"remove",
    b"rm",
    b"version",
    b"dedupe",
];

/// Lifecycle scripts, in the order in which npm runs them (its manual, `scripts`).
const LIFECYCLE: [&str; 20] = [
    "preinstall",
    "install",
    "postinstall",
    "prepublish",
    "preprepare",
    "prepare",
    "postprepare",
    "prepublishOnly",
    "prepack",
    "postpack",
    "publish",
    "postpublish",
    "preversion",
    "version",
    "postversion",
    "preuninstall",
    "uninstall",
    "postuninstall",
    "dependencies",
    "prerebuild",
];

/// Options whose value is the next argument.
const VALUED: [&[u8]; 13] = [
    b"--workspace",
    b"-w",
    b"--filter",
    b"-F",
    b"--registry",
    b"--loglevel",
    b"--cache",
    b"--userconfig",
    b"--globalconfig",
    b"--script-shell",
    b"--tag",
    b"--omit",
    b"--include",
];

/// What a command asks of its tool.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verb {
    Script(String),
    /// Something that runs lifecycle scripts.
    Lifecycle,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Call {
    tool: String,
    verb: Verb,
    /// `--prefix` and the like.
    folder: Option<Vec<u8>>,
}

/// Whether a program of this name is one of the family.
pub(super) fn is_tool(name: &[u8]) -> bool {
    TOOLS.contains(&plain_name(name))
}

/// `npm` for `npm-cli`, `yarn` for `yarn-4.1.0`.
pub(super) fn plain_name(name: &[u8]) -> &[u8] {
    let name = name.strip_suffix(b"-cli").unwrap_or(name);
    if name == b"yarnpkg"
        || name
            .strip_prefix(b"yarn-")
            .is_some_and(|rest| rest.first().is_some_and(u8::is_ascii_digit))
    {
        return b"yarn";
    }
    name
}

fn call(argv: &[Vec<u8>]) -> Option<Call> {
    let (mut name, mut arguments) = tool(argv)?;
    if name == b"corepack" {
        (name, arguments) = (arguments.first()?, &arguments[1..]);
    }
    if !is_tool(name) {
        return None;
    }
    let tool = String::from_utf8_lossy(plain_name(name)).into_owned();
    let (mut folder, mut words) = (None, Vec::new());
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let inline =
            |name: &[u8]| argument.strip_prefix(name)?.strip_prefix(b"=").map(<[u8]>::to_vec);
        match argument.as_slice() {
            // What follows is for the script.
            b"--" => break,
            b"--prefix" | b"-C" | b"--dir" | b"--cwd" => folder = rest.next().cloned(),
            option if VALUED.contains(&option) => {
                rest.next();
            }
            option if option.starts_with(b"-") => {
                folder = [&b"--prefix"[..], b"--dir", b"--cwd"]
                    .iter()
                    .find_map(|name| inline(name))
                    .or(folder);
            }
            word => words.push(word),
        }
    }
    let text = |word: &[u8]| String::from_utf8_lossy(word).into_owned();
    let verb = match (tool.as_str(), words.as_slice()) {
        ("npx" | "pnpx", _) => return None,
        (_, [b"run" | b"run-script" | b"rum" | b"urn", script, ..]) => Verb::Script(text(script)),
        ("npm" | "pnpm", [b"test" | b"t" | b"tst", ..]) => Verb::Script("test".to_owned()),
        ("npm" | "pnpm", [verb @ (b"start" | b"stop" | b"restart"), ..]) => {
            Verb::Script(text(verb))
        }
        ("yarn", []) => Verb::Lifecycle,
        (_, [verb, ..]) if LIFECYCLE_VERBS.contains(verb) => Verb::Lifecycle,
        // These take any other word for a script.
        ("yarn" | "pnpm", [script, ..]) => Verb::Script(text(script)),
        _ => return None,
    };
    Some(Call { tool, verb, folder })
}

/// A call and the script that it ran.
struct Ran<'a> {
    /// Place in the cycle's runs.
    at: usize,
    link: &'a Link,
    call: Call,
    /// The directory it was called in and those above that have no package.json, with the evidence.
    missing: Vec<(PathBuf, String)>,
    manifest: PathBuf,
    evidence: String,
    /// The script's name: what was asked for, or what runs before or after it.
    event: String,
    text: Vec<u8>,
    /// In the manifest; 0: not found.
    line: u64,
    /// What was seen to run is this script.
    seen: bool,
}

pub(super) fn explain(
    cycle: &Cycle<'_>,
    files: &mut dyn Files,
    words: &Words<'_>,
) -> Option<Claim> {
    // The second turn as well: only there it shows where the first one led.
    let end = cycle.runs.len().min(cycle.start + 2 * cycle.period + 1);
    let ran: Vec<Ran> = (cycle.start..end).filter_map(|at| ran(cycle, at, files)).collect();
    let turn: Vec<&Ran> = ran.iter().filter(|ran| ran.at < cycle.start + cycle.period).collect();
    if turn.is_empty() {
        return None;
    }
    // A cycle through another tool has its cause as likely there.
    let foreign = cycle.steps().iter().any(|step| {
        tool(&step.argv).is_some_and(|(name, _)| matches!(name, b"make" | b"gmake" | b"git"))
    });
    let mut claim = walked_up(cycle, &ran, words).unwrap_or_else(|| called_itself(&turn, words));
    if foreign {
        claim.confidence = claim.confidence.min(0.6);
    }
    Some(claim)
}

fn walked_up(cycle: &Cycle<'_>, ran: &[Ran<'_>], words: &Words<'_>) -> Option<Claim> {
    // Where the first call was made says nothing: whoever typed it may have stood anywhere.
    let walk = ran.iter().find(|ran| ran.at > cycle.start && !ran.missing.is_empty())?;
    let folder = &walk.missing.first()?.0;
    let name = folder.file_name()?.as_encoded_bytes();
    let origin =
        ran.iter().rev().find(|other| other.at < walk.at && contains_word(&other.text, name));
    let (title, tool) = (words.command(&walk.link.argv), &walk.call.tool);
    let (folder, manifest) = (words.path(folder), words.path(&walk.manifest));
    let event = words.line(walk.event.as_bytes());
    let mut cause = format!(
        "{title} runs itself: {folder} has no package.json, so {tool} walked up to {manifest} and ran its {event} \
         script again{}, which is {}.",
        line(walk),
        words.line(&walk.text),
    );
    let mut remedy = format!("Give {folder} a package.json of its own with the script {event}");
    if let Some(origin) = origin {
        let (script, text) = (words.line(origin.event.as_bytes()), words.line(&origin.text));
        let at = line(origin);
        cause = format!("{cause} {folder} was reached through the script {script}{at}: {text}.");
        let file = words.path(&origin.manifest);
        remedy = format!("{remedy}, or take {text} out of the script {script} in {file}");
    }
    let evidence = walk.missing.iter().map(|(_, evidence)| evidence.clone());
    let manifests = origin.map(|origin| origin.evidence.clone());
    Some(Claim {
        by: "npm",
        cause,
        remedy: remedy + ".",
        // Seen: the directory, the missing file, and the very text that ran next.
        confidence: if walk.seen { 0.95 } else { 0.85 },
        evidence: evidence.chain([walk.evidence.clone()]).chain(manifests).collect(),
    })
}

fn called_itself(turn: &[&Ran<'_>], words: &Words<'_>) -> Claim {
    let first = turn[0];
    let title = words.command(&first.link.argv);
    let same = turn.iter().all(|ran| ran.manifest == first.manifest);
    let items: Vec<String> = turn
        .iter()
        .take(TOLD)
        .map(|ran| {
            let event = words.line(ran.event.as_bytes());
            let of =
                if same { String::new() } else { format!(" of {}", words.path(&ran.manifest)) };
            let (tool, command) = (&ran.call.tool, words.command(&ran.link.argv));
            let why = match &ran.call.verb {
                Verb::Script(name) if *name == ran.event => String::new(),
                Verb::Script(name) => {
                    let when = if ran.event.starts_with("pre") { "before" } else { "after" };
                    format!(", which {tool} runs {when} {},", words.line(name.as_bytes()))
                }
                Verb::Lifecycle => format!(", which {tool} runs on {command},"),
            };
            format!("{event}{of}{}{why} is {}", line(ran), words.line(&ran.text))
        })
        .collect();
    let place = if same { format!("in {} ", words.path(&first.manifest)) } else { String::new() };
    let last = turn[turn.len() - 1];
    let (event, manifest) = (words.line(last.event.as_bytes()), words.path(&last.manifest));
    let remedy = if turn.iter().any(|ran| ran.call.verb == Verb::Lifecycle) {
        format!(
            "Take the call out of {event} in {manifest}: installing, linking and packing run that script."
        )
    } else {
        format!("Change {event} in {manifest} so that it does not lead back to {title}.")
    };
    Claim {
        by: "npm",
        cause: format!("{title} runs itself: {place}{}.", list(&items)),
        remedy,
        confidence: if turn.iter().all(|ran| ran.seen) { 0.95 } else { 0.8 },
        evidence: turn.iter().map(|ran| ran.evidence.clone()).collect(),
    }
}

fn line(ran: &Ran<'_>) -> String {
    if ran.line == 0 { String::new() } else { format!(" (line {})", ran.line) }
}

/// What the call at this place ran.
fn ran<'a>(cycle: &Cycle<'a>, at: usize, files: &mut dyn Files) -> Option<Ran<'a>> {
    let link = cycle.runs[at];
    let call = call(&link.argv)?;
    let next = cycle.runs.get(at + 1);
    // The shell that a tool starts for a script stands in the script's package.
    let shell = next.and_then(|next| Some((shell_text(&next.argv)?, next.cwd.as_slice())));
    let ran_in = shell.and_then(|(_, cwd)| resolve(cwd, b"."));
    let cwd =
        if link.cwd.is_empty() { cycle.cwd((at - cycle.start) % cycle.period) } else { &link.cwd };
    let folder = resolve(cwd, call.folder.as_deref().unwrap_or(b"."));

    let wanted = wanted(&call.verb, shell.map(|(text, _)| text));
    let mut missing = Vec::new();
    let mut found =
        folder.as_deref().and_then(|folder| walk_up(folder, &wanted, files, &mut missing));
    if let Some(package) = &ran_in
        && found.as_ref().is_none_or(|found| found.folder != *package)
    {
        // A workspace, or a directory that is not known: the shell knows better.
        missing.clear();
        found = match manifest(package, &wanted, files) {
            (Found::File(script), evidence) => {
                Some(Manifest { folder: package.clone(), evidence, script })
            }
            _ => None,
        };
    }
    let Manifest { folder, evidence, script } = found?;
    let script = script?;
    Some(Ran {
        at,
        link,
        call,
        missing,
        line: script.line,
        manifest: folder.join("package.json"),
        evidence,
        event: String::from_utf8_lossy(&script.under).into_owned(),
        text: script.text,
        seen: script.sure,
    })
}

struct Manifest {
    folder: PathBuf,
    evidence: String,
    /// `None`: it has none that this call could have run.
    script: Option<Passage>,
}

/// The script that a call ran: what was asked for, or what runs before or after it.
fn wanted(verb: &Verb, shell: Option<&[u8]>) -> ScriptWanted {
    let (events, named) = match verb {
        Verb::Script(name) => {
            (vec![format!("pre{name}"), name.clone(), format!("post{name}")], name.clone())
        }
        Verb::Lifecycle => {
            (LIFECYCLE.iter().map(|event| (*event).to_owned()).collect(), String::new())
        }
    };
    ScriptWanted { events, named, shell: shell.map(<[u8]>::to_vec) }
}

/// The nearest package.json. (npm also stops at a `node_modules`, but finds no script there, so
/// none that ran again.)
fn walk_up(
    folder: &Path,
    wanted: &ScriptWanted,
    files: &mut dyn Files,
    missing: &mut Vec<(PathBuf, String)>,
) -> Option<Manifest> {
    for folder in folder.ancestors().take(LEVELS) {
        match manifest(folder, wanted, files) {
            (Found::File(script), evidence) => {
                return Some(Manifest { folder: folder.to_owned(), evidence, script });
            }
            (Found::Absent, evidence) => missing.push((folder.to_owned(), evidence)),
            (Found::Refused, _) => return None,
        }
    }
    None
}

fn manifest(folder: &Path, wanted: &ScriptWanted, files: &mut dyn Files) -> (Found, String) {
    let answer = files.find(&folder.join("package.json"), Of::Script(wanted.clone()));
    (answer.found, answer.evidence)
}

#[cfg(test)]
mod tests;
