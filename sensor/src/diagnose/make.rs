//! A make that runs itself: the Makefile and the recipe line.

use std::path::PathBuf;

use super::{
    Claim, FileState, Files, Link,
    command::{self, resolve, tool},
    cycle::Cycle,
    lines::likeness,
    words::{Words, list},
};

/// As make looks for them (its manual, "What Name to Give Your Makefile").
const NAMES: [&[u8]; 3] = [b"GNUmakefile", b"makefile", b"Makefile"];

/// How a recipe calls make.
const MAKE: [&[u8]; 3] = [b"$(MAKE)", b"${MAKE}", b"make"];

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
    number: usize,
    text: Vec<u8>,
    rule: String,
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
            let (file, rule) = (words.path(&site.file), words.line(site.rule.as_bytes()));
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
        words.line(last.rule.as_bytes()),
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
        let answer = files.read(&file);
        if let FileState::Present(content) = answer.state {
            let recipes = recipes(&content);
            let (recipe, sure) = choose(&recipes, &call.targets, next)?;
            return Some(Site {
                file,
                number: recipe.number,
                text: recipe.text.clone(),
                rule: String::from_utf8_lossy(&recipe.targets[0]).into_owned(),
                evidence: answer.evidence,
                sure,
            });
        }
    }
    None
}

/// One command of a rule, with its continuation lines.
#[derive(Debug, PartialEq, Eq)]
struct Recipe {
    targets: Vec<Vec<u8>>,
    /// Of its first line, from 1.
    number: usize,
    text: Vec<u8>,
}

fn recipes(content: &[u8]) -> Vec<Recipe> {
    let mut recipes: Vec<Recipe> = Vec::new();
    let mut targets: Vec<Vec<u8>> = Vec::new();
    let mut goes_on = false;
    for (at, line) in content.split(|byte| *byte == b'\n').enumerate() {
        let continued = goes_on;
        goes_on = line.ends_with(b"\\");
        let mut add = |text: &[u8], targets: &[Vec<u8>]| {
            if !targets.is_empty() && !text.trim_ascii().is_empty() {
                let text = text.trim_ascii().to_vec();
                recipes.push(Recipe { targets: targets.to_vec(), number: at + 1, text });
            }
        };
        if let Some(command) = line.strip_prefix(b"\t") {
            if !continued {
                add(command, &targets);
            } else if let Some(recipe) = recipes.last_mut() {
                recipe.text.pop();
                recipe.text.extend_from_slice(command.trim_ascii());
            }
        } else if !continued && let Some((names, after)) = rule(line) {
            targets = names;
            if let Some(semicolon) = after.iter().position(|byte| *byte == b';') {
                add(&after[semicolon + 1..], &targets);
            }
        }
    }
    recipes
}

/// Targets of `a b: c`, and what follows the colon. Not a variable, a comment or a directive.
fn rule(line: &[u8]) -> Option<(Vec<Vec<u8>>, &[u8])> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (names, after) = (&line[..colon], &line[colon + 1..]);
    let assigns = after.starts_with(b"=") || after.starts_with(b":=") || names.contains(&b'=');
    if line.first().is_none_or(u8::is_ascii_whitespace) || names.contains(&b'#') || assigns {
        return None;
    }
    let names = names.split(u8::is_ascii_whitespace).filter(|name| !name.is_empty());
    let names: Vec<Vec<u8>> = names.map(<[u8]>::to_vec).collect();
    (!names.is_empty()).then_some((names, after))
}

/// The recipe that is most like what was started, those of the asked-for targets first.
fn choose<'a>(
    recipes: &'a [Recipe],
    targets: &[Vec<u8>],
    next: &Link,
) -> Option<(&'a Recipe, bool)> {
    // Without a target, the first one that does not begin with a dot.
    let default =
        recipes.iter().flat_map(|recipe| &recipe.targets).find(|target| !target.starts_with(b"."));
    let wanted = |recipe: &Recipe| {
        recipe.targets.iter().any(|target| {
            if targets.is_empty() { Some(target) == default } else { targets.contains(target) }
        })
    };
    let calls_make =
        command::words(next).iter().any(|word| command::basename(word).ends_with(b"make"));
    let aliases: &[&[u8]] = if calls_make { &MAKE } else { &[] };
    let mut best: Option<((usize, bool), &Recipe)> = None;
    for recipe in recipes {
        let score = (likeness(&recipe.text, next, aliases), wanted(recipe));
        if score.0 > 0 && best.is_none_or(|(most, _)| score > most) {
            best = Some((score, recipe));
        }
    }
    best.map(|(score, recipe)| (recipe, score.1 || score.0 > 1))
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

    #[test]
    fn recipes_of_a_makefile() {
        let content = b"V := x\n.PHONY: all\nall: dep ; echo one\n\techo two \\\n\t  three\n\n# c: d\nother:\n\t@$(MAKE) all\n";
        let told: Vec<(usize, String)> = recipes(content)
            .into_iter()
            .map(|recipe| (recipe.number, String::from_utf8(recipe.text).unwrap()))
            .collect();
        assert_eq!(
            told,
            [(3, "echo one".into()), (4, "echo two three".into()), (9, "@$(MAKE) all".into())]
        );
    }

    #[test]
    fn the_recipe_that_ran() {
        let content = b"all:\n\tmake x\nx:\n\t@echo\n\t$(MAKE) -C .. y\n";
        let recipes = recipes(content);
        let chosen = |targets: &[&str], next: &str| {
            let targets: Vec<Vec<u8>> =
                targets.iter().map(|target| target.as_bytes().to_vec()).collect();
            choose(&recipes, &targets, &link(next)).map(|(recipe, sure)| (recipe.number, sure))
        };
        assert_eq!(chosen(&[], "make|x"), Some((2, true)));
        assert_eq!(chosen(&["x"], "make|-C|..|y"), Some((5, true)));
        assert_eq!(chosen(&["x"], "/bin/sh|-c|cd y && z"), None);
        // Called otherwise than the file says: a guess.
        assert_eq!(chosen(&["q"], "make"), Some((2, false)));
    }

    proptest::proptest! {
        #[test]
        fn any_makefile(content in proptest::collection::vec(proptest::sample::select(b"a:=\t\n\\;# $".to_vec()), 0..200)) {
            let recipes = recipes(&content);
            let _ = choose(&recipes, &[], &link("make|a"));
        }
    }
}
