//! A make that runs itself: the Makefile and the recipe line.

use std::path::PathBuf;

use sensor_proto::internal::v1::{RecipeWanted, passage_wanted::Of};

use super::{
    Claim, Files, Found, Link,
    command::{self, resolve, tool},
    cycle::Cycle,
    words::{Words, list},
};

/// As make looks for them (its manual, "What Name to Give Your Makefile").
const NAMES: [&[u8]; 3] = [b"GNUmakefile", b"makefile", b"Makefile"];

/// Options whose value is the next argument, besides those that are read.
const VALUED: [&[u8]; 8] = [
    b"-I",
    b"-o",
    b"-W",
    b"--include-dir",
    b"--old-file",
    b"--new-file",
    b"--assume-new",
    b"--what-if",
];

#[derive(Debug, Default, PartialEq, Eq)]
struct Call {
    /// `-C`, one after the other.
    folders: Vec<Vec<u8>>,
    files: Vec<Vec<u8>>,
    targets: Vec<Vec<u8>>,
}

fn call(argv: &[Vec<u8>]) -> Option<Call> {
    let (name, arguments) = tool(argv)?;
    if !matches!(name, b"make" | b"gmake" | b"gnumake") {
        return None;
    }
    let mut call = Call::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let inline = |names: &[&[u8]]| {
            names
                .iter()
                .find_map(|name| argument.strip_prefix(*name))
                .filter(|value| !value.is_empty())
        };
        match argument.as_slice() {
            b"-C" | b"--directory" => call.folders.extend(rest.next().cloned()),
            b"-f" | b"--file" | b"--makefile" => call.files.extend(rest.next().cloned()),
            option if VALUED.contains(&option) => {
                rest.next();
            }
            option if option.starts_with(b"-") => {
                if let Some(folder) = inline(&[b"-C", b"--directory="]) {
                    call.folders.push(folder.to_vec());
                } else if let Some(file) = inline(&[b"-f", b"--file=", b"--makefile="]) {
                    call.files.push(file.to_vec());
                }
            }
            word if word.contains(&b'=') => {}
            word => call.targets.push(word.to_vec()),
        }
    }
    Some(call)
}

/// A recipe line that calls on.
struct Site {
    file: PathBuf,
    number: u64,
    text: Vec<u8>,
    rule: Vec<u8>,
    evidence: String,
    /// The line names make, or what it started.
    sure: bool,
}

pub(super) fn explain(
    cycle: &Cycle<'_>,
    files: &mut dyn Files,
    words: &Words<'_>,
) -> Option<Claim> {
    let mut sites = Vec::new();
    let mut makes = 0;
    let mut title = None;
    for (step, (link, next)) in cycle.calls().enumerate() {
        let Some(call) = call(&link.argv) else {
            continue;
        };
        makes += 1;
        title.get_or_insert_with(|| words.command(&link.argv));
        sites.extend(site(&call, cycle.cwd(step), next, files));
    }
    let title = title?;
    let last = sites.last()?;
    let items: Vec<String> = sites
        .iter()
        .map(|site| {
            let (file, rule) = (words.path(&site.file), words.line(&site.rule));
            format!(
                "line {} of {file}, in the rule for {rule}, is {}",
                site.number,
                words.line(&site.text)
            )
        })
        .collect();
    let remedy = format!(
        "Change line {} of {} so that it does not make {} again.",
        last.number,
        words.path(&last.file),
        words.line(&last.rule),
    );
    let all = sites.len() == makes && sites.iter().all(|site| site.sure);
    Some(Claim {
        by: "make",
        cause: format!("{title} runs itself: {}.", list(&items)),
        remedy,
        confidence: if all { 0.9 } else { 0.75 },
        evidence: sites.iter().map(|site| site.evidence.clone()).collect(),
    })
}

fn site(call: &Call, cwd: &[u8], next: &Link, files: &mut dyn Files) -> Option<Site> {
    let mut folder = resolve(cwd, b".")?;
    for step in &call.folders {
        folder = resolve(folder.as_os_str().as_encoded_bytes(), step)?;
    }
    let given: Vec<&[u8]> = call.files.iter().map(Vec::as_slice).collect();
    let names = if given.is_empty() { &NAMES[..] } else { &given[..] };
    for name in names {
        let file = resolve(folder.as_os_str().as_encoded_bytes(), name)?;
        let words = command::words(next).into_iter().map(<[u8]>::to_vec).collect();
        let wanted = RecipeWanted { targets: call.targets.clone(), words };
        let answer = files.find(&file, Of::Recipe(wanted));
        if let Found::File(recipe) = answer.found {
            let recipe = recipe?;
            return Some(Site {
                file,
                number: recipe.line,
                text: recipe.text,
                rule: recipe.under,
                evidence: answer.evidence,
                sure: recipe.sure,
            });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(line: &str) -> Link {
        let argv = line.split('|').map(|argument| argument.as_bytes().to_vec()).collect();
        Link { argv, ..Link::default() }
    }

    #[test]
    fn command_lines_of_make() {
        let asked = call(&link("make|-j|-C|a|-Cb|--file=x.mk|V=1|-I|inc|all").argv).unwrap();
        assert_eq!(asked.folders, [b"a".to_vec(), b"b".to_vec()]);
        assert_eq!((asked.files, asked.targets), (vec![b"x.mk".to_vec()], vec![b"all".to_vec()]));
        assert_eq!(call(&link("cmake|x").argv), None);
    }
}
