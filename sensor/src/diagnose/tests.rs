//! Chains as they were seen of npm 11, GNU make 4.3, git 2 and dash; all names are random.

use std::collections::BTreeMap;

use proptest::prelude::*;
use sensor_proto::internal::v1::PassageWanted;

use super::*;
use crate::evidence::parse::passage;

/// Files in memory, which remember what was read.
#[derive(Default)]
struct Tree {
    files: BTreeMap<String, String>,
    asked: Vec<String>,
}

impl Files for Tree {
    fn find(&mut self, path: &Path, wanted: Of) -> Answer {
        let path = path.display().to_string();
        let at = self.asked.iter().position(|asked| *asked == path).unwrap_or_else(|| {
            self.asked.push(path.clone());
            self.asked.len() - 1
        });
        let found = in_file(self.files.get(&path).map(String::as_bytes), wanted);
        Answer { evidence: format!("f{at}"), found }
    }
}

/// One program's script, or none.
pub(super) struct One(pub Option<&'static str>);

impl Files for One {
    fn find(&mut self, path: &Path, wanted: Of) -> Answer {
        assert_eq!(path, Path::new("/w/run"));
        let found = in_file(self.0.map(str::as_bytes), wanted);
        Answer { evidence: "f1".into(), found }
    }
}

/// The words of a command line.
pub(super) fn argv(line: &str) -> Vec<Vec<u8>> {
    line.split(' ').map(|part| part.as_bytes().to_vec()).collect()
}

/// What the process that reads files says of this one, or of none.
fn in_file(content: Option<&[u8]>, wanted: Of) -> Found {
    let wanted = PassageWanted { of: Some(wanted) };
    content.map_or(Found::Absent, |content| {
        let answer = passage::answer(content, &wanted);
        Found::File(passage::checked(answer, &wanted, content.len()).unwrap())
    })
}

/// A name that no rule can know.
fn name() -> String {
    let id = uuid::Uuid::new_v4().simple().to_string();
    format!("z{}", &id[..7])
}

/// `cwd: argument|argument`, each started 100 ms after the one before.
fn chain(lines: &[String]) -> Vec<Link> {
    let link = |(at, line): (usize, &String)| {
        let (cwd, argv) = line.split_once(": ").unwrap();
        let argv: Vec<Vec<u8>> = argv.split('|').map(|part| part.as_bytes().to_vec()).collect();
        let bytes = argv.iter().map(|part| part.len() as u32 + 1).sum();
        Link {
            key: ProcessKey::new(100 + at as u32, 7),
            alive: true,
            exec_ns: 1_000_000_000 + at as u64 * 100_000_000,
            exe: argv[0].clone(),
            argv,
            argv_bytes: bytes,
            cwd: cwd.as_bytes().to_vec(),
            ..Link::default()
        }
    };
    lines.iter().enumerate().map(link).collect()
}

/// Several turns of lines; `first` stands before them.
fn turns(first: &[String], turn: &[String], count: usize) -> Vec<Link> {
    let lines: Vec<String> =
        first.iter().chain(turn.iter().cycle().take(turn.len() * count)).cloned().collect();
    chain(&lines)
}

fn finding() -> Finding {
    Finding {
        kind: proto::Kind::Recursion,
        rule: "R1",
        culprit: None,
        group: None,
        leaf: None,
        contain: true,
        confidence: 0.99,
        at_ns: 1,
        measures: vec![proto::Measure {
            name: "repetitions".into(),
            value: 3.0,
            threshold: Some(3.0),
            unit: "ancestors".into(),
        }],
    }
}

fn explain(chain: &[Link], files: &[(String, String)]) -> (proto::Diagnosis, Tree) {
    let mut tree = Tree { files: files.iter().cloned().collect(), ..Tree::default() };
    let redactor = Redactor::new([1; 16]);
    let finding = finding();
    let mut case = Case {
        finding: &finding,
        chain,
        chain_evidence: "e2",
        files: &mut tree,
        redactor: &redactor,
    };
    let diagnosis = diagnose(&mut case);
    (diagnosis, tree)
}

/// Names of the files that a diagnosis cites.
fn cited(diagnosis: &proto::Diagnosis, tree: &Tree) -> Vec<String> {
    assert_eq!(diagnosis.evidence[0], "e2");
    let file = |id: &String| tree.asked[id[1..].parse::<usize>().unwrap()].clone();
    diagnosis.evidence[1..].iter().map(file).collect()
}

fn contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

#[test]
fn npm_walks_up_from_a_directory_without_package_json() {
    let (top, folder, runner) = (format!("/srv/{}", name()), name(), name());
    let script = format!("test:{}", name());
    let below = format!("{top}/{folder}");
    let npm = "node|/usr/bin/npm";
    let walk = |start: &str| {
        vec![
            format!("{start}: {npm}|test"),
            format!("{top}: sh|-c|{runner} npm:test:ui npm:{script}"),
            format!("{top}: node|{top}/node_modules/.bin/{runner}|npm:test:ui|npm:{script}"),
            format!("{top}: /bin/sh|-c|npm run {script}"),
            format!("{top}: {npm}|run|{script}"),
            format!("{top}: sh|-c|cd {folder} && npm test"),
        ]
    };
    let lines: Vec<String> =
        walk(&top).into_iter().chain(walk(&below)).chain(walk(&below)).collect();
    let chain = chain(&lines);
    let manifest = format!("{top}/package.json");
    let text = format!(
        "{{\n  \"scripts\": {{\n    \"test\": \"{runner} npm:test:ui npm:{script}\",\n    \"{script}\": \"cd {folder} && npm test\"\n  }}\n}}\n"
    );
    let (diagnosis, tree) = explain(&chain, &[(manifest.clone(), text)]);
    contains(
        &diagnosis.cause,
        &[
            &format!(
                "`npm test` runs itself: {below} has no package.json, so npm walked up to {manifest} and ran its `test` script again (line 3)"
            ),
            &format!("`{script}` (line 4): `cd {folder} && npm test`"),
            "A turn has 6 steps; 3 turns make 18 processes, 1.7 turns a second.",
        ],
    );
    contains(
        &diagnosis.remedy,
        &[&format!("Give {below} a package.json"), "`test`", &script, &manifest],
    );
    assert_eq!((diagnosis.by.as_str(), diagnosis.confidence), ("npm", 0.95));
    assert_eq!(cited(&diagnosis, &tree), [format!("{below}/package.json"), manifest]);
    let cycle = diagnosis.cycle.unwrap();
    assert_eq!((cycle.steps.len(), cycle.turns, cycle.depth, cycle.turns_back_at), (6, 3, 18, 5));
    assert_eq!(cycle.steps[0].cwd, top.as_bytes());
    assert_eq!(cycle.steps[5].argv[2], format!("cd {folder} && npm test").as_bytes());
}

#[test]
fn the_walk_is_known_from_a_shell_that_became_its_last_command() {
    // bash as sh: no shell stays between, and one directory of the chain is not known.
    let (top, folder) = (format!("/srv/{}", name()), name());
    let lines = [
        format!("{top}: npm|test"),
        format!("{top}/{folder}: npm|test"),
        format!("{top}/{folder}: npm|test"),
        format!("{top}/{folder}: npm|test"),
    ];
    let text = format!("{{\"scripts\": {{\"test\": \"cd {folder}; npm test\"}}}}");
    let (diagnosis, _) = explain(&chain(&lines), &[(format!("{top}/package.json"), text)]);
    contains(&diagnosis.cause, &[&format!("{top}/{folder} has no package.json")]);
    assert_eq!(diagnosis.confidence.to_string(), "0.85");
}

#[test]
fn an_npm_script_that_calls_itself() {
    let (top, script) = (format!("/srv/{}", name()), name());
    let turn = [
        format!("{top}: node|/usr/lib/node_modules/npm/bin/npm-cli.js|run|{script}"),
        format!("{top}: sh|-c|npm run {script}"),
    ];
    let manifest = format!("{top}/package.json");
    let text = format!("{{\"name\": \"x\",\n\"scripts\": {{\"{script}\": \"npm run {script}\"}}}}");
    let (diagnosis, tree) = explain(&turns(&[], &turn, 4), &[(manifest.clone(), text)]);
    contains(
        &diagnosis.cause,
        &[&format!(
            "`npm run {script}` runs itself: in {manifest} `{script}` (line 2) is `npm run {script}`."
        )],
    );
    assert_eq!(cited(&diagnosis, &tree), [manifest]);
    assert_eq!(diagnosis.confidence.to_string(), "0.95");
    assert_eq!(diagnosis.cycle.unwrap().turns, 4);
}

#[test]
fn npm_scripts_in_a_circle_through_a_pre_script() {
    let (top, one, two) = (format!("/srv/{}", name()), name(), name());
    let turn = [
        format!("{top}: node|/usr/bin/npm|run|{one}"),
        format!("{top}: sh|-c|npm run {two}"),
        format!("{top}: node|/usr/bin/npm|run|{two}"),
        format!("{top}: sh|-c|npm run {one}"),
    ];
    let text = format!(
        "{{\"scripts\": {{\"pre{one}\": \"npm run {two}\", \"{one}\": \"echo\", \"{two}\": \"npm run {one}\"}}}}"
    );
    let (diagnosis, _) = explain(&turns(&[], &turn, 3), &[(format!("{top}/package.json"), text)]);
    contains(
        &diagnosis.cause,
        &[&format!(
            "`pre{one}` (line 1), which npm runs before `{one}`, is `npm run {two}` and `{two}` (line 1) is `npm run {one}`."
        )],
    );
}

#[test]
fn a_lifecycle_script_that_installs() {
    for (first, command, event) in [
        ("install", "link", "prepare"),
        ("install", "install", "postinstall"),
        ("ci", "pack", "prepack"),
    ] {
        let top = format!("/srv/{}", name());
        let npm = format!("{top}: node|/usr/bin/npm");
        let turn = [format!("{top}: sh|-c|npm {command}"), format!("{npm}|{command}")];
        let text = format!("{{\"scripts\": {{\"x\": \"y\", \"{event}\": \"npm {command}\"}}}}");
        let chain = turns(&[format!("{npm}|{first}|--no-audit")], &turn, 4);
        let (diagnosis, tree) = explain(&chain, &[(format!("{top}/package.json"), text)]);
        contains(
            &diagnosis.cause,
            &[
                &format!("`npm {command}` runs itself: in {top}/package.json"),
                &format!(
                    "`{event}` (line 1), which npm runs on `npm {command}`, is `npm {command}`."
                ),
            ],
        );
        contains(&diagnosis.remedy, &[&format!("Take the call out of `{event}`")]);
        assert_eq!(cited(&diagnosis, &tree), [format!("{top}/package.json")]);
    }
}

#[test]
fn relatives_of_npm() {
    for (argv, tool) in [
        ("node|/usr/share/yarn-1.22.22/bin/yarn.js|{}", "yarn"),
        ("node|/usr/bin/pnpm|run|{}", "pnpm"),
        ("bun|run|{}", "bun"),
        ("node|/x/corepack.js|yarn|{}", "yarn"),
        ("npm|--silent|--workspace|w|run|{}", "npm"),
    ] {
        let (top, script) = (format!("/srv/{}", name()), name());
        let turn = [
            format!("{top}: {}", argv.replace("{}", &script)),
            format!("{top}: sh|-c|{tool} {script} --x"),
        ];
        let text = format!("{{\"scripts\": {{\"{script}\": \"{tool} {script}\"}}}}");
        let (diagnosis, _) =
            explain(&turns(&[], &turn, 3), &[(format!("{top}/package.json"), text)]);
        contains(&diagnosis.cause, &[&format!("`{script}` (line 1) is `{tool} {script}`")]);
        assert_eq!((diagnosis.by.as_str(), diagnosis.confidence), ("npm", 0.95), "{argv}");
    }
}

#[test]
fn a_make_that_makes_itself() {
    let (top, target) = (format!("/srv/{}", name()), name());
    let turn = [format!("{top}: make|--no-print-directory|{target}")];
    let text = format!(
        "all: {target}\n\t@echo hi\n\n{target}:\n\t@$(MAKE) --no-print-directory {target}\n"
    );
    let makefile = format!("{top}/Makefile");
    let (diagnosis, tree) =
        explain(&turns(&[format!("{top}: make")], &turn, 5), &[(makefile.clone(), text)]);
    contains(
        &diagnosis.cause,
        &[&format!(
            "line 5 of {makefile}, in the rule for `{target}`, is `@$(MAKE) --no-print-directory {target}`."
        )],
    );
    assert_eq!((diagnosis.by.as_str(), diagnosis.confidence), ("make", 0.9));
    assert_eq!(cited(&diagnosis, &tree), [makefile]);
}

#[test]
fn makes_in_two_directories() {
    let (top, sub) = (format!("/srv/{}", name()), name());
    let turn = [
        format!("{top}: /bin/sh|-c|cd {sub} && make"),
        format!("{top}/{sub}: make"),
        format!("{top}/{sub}: make|-C|.."),
    ];
    let files = [
        (format!("{top}/Makefile"), format!("all:\n\tcd {sub} && $(MAKE)\n")),
        (format!("{top}/{sub}/GNUmakefile"), "all:\n\t$(MAKE) -C ..\n".to_owned()),
    ];
    let (diagnosis, _) = explain(&turns(&[format!("{top}: make")], &turn, 3), &files);
    contains(
        &diagnosis.cause,
        &[
            &format!(
                "line 2 of {top}/{sub}/GNUmakefile, in the rule for `all`, is `$(MAKE) -C ..`"
            ),
            &format!("line 2 of {top}/Makefile, in the rule for `all`, is `cd {sub} && $(MAKE)`"),
        ],
    );
}

#[test]
fn a_hook_that_commits() {
    for hook in [".git/hooks/post-commit", ".husky/pre-commit"] {
        let top = format!("/srv/{}", name());
        let turn = [format!("{top}: /bin/sh|{hook}"), format!("{top}: git|commit|-q|-m|auto")];
        let text =
            "#!/bin/sh\n# git commit\necho\ngit commit --allow-empty -q -m auto\n".to_owned();
        let chain = turns(&[format!("{top}: git|commit|-m|first")], &turn, 4);
        let (diagnosis, tree) = explain(&chain, &[(format!("{top}/{hook}"), text)]);
        contains(
            &diagnosis.cause,
            &[
                &format!("git runs the hook {top}/{hook}"),
                "its line 4 is `git commit --allow-empty -q -m auto`",
            ],
        );
        assert_eq!((diagnosis.by.as_str(), diagnosis.confidence), ("git_hook", 0.92));
        assert_eq!(cited(&diagnosis, &tree), [format!("{top}/{hook}")]);
    }
}

#[test]
fn a_hook_that_commits_through_npm_is_the_hooks_fault() {
    let (top, script) = (format!("/srv/{}", name()), name());
    let turn = [
        format!("{top}: git|commit|-a"),
        format!("{top}: /bin/sh|.git/hooks/post-commit"),
        format!("{top}: node|/usr/bin/npm|run|{script}"),
        format!("{top}: sh|-c|git commit -a"),
    ];
    let files = [
        (format!("{top}/.git/hooks/post-commit"), format!("npm run {script}\n")),
        (
            format!("{top}/package.json"),
            format!("{{\"scripts\": {{\"{script}\": \"git commit -a\"}}}}"),
        ),
    ];
    let (diagnosis, _) = explain(&turns(&[], &turn, 3), &files);
    assert_eq!(diagnosis.by, "git_hook");
    contains(&diagnosis.cause, &[&format!("its line 1 is `npm run {script}`")]);
}

#[test]
fn scripts_that_run_themselves_and_each_other() {
    let (top, one, two) = (format!("/srv/{}", name()), name(), name());
    let turn = [format!("{top}: /bin/bash|./{one}|x")];
    let file = format!("{top}/{one}");
    let (diagnosis, tree) = explain(
        &turns(&[], &turn, 5),
        &[(file.clone(), "#!/bin/bash\necho a\n\"$0\" x\n".to_owned())],
    );
    contains(&diagnosis.cause, &[&format!("{file} runs itself: line 3 of {file} is `\"$0\" x`.")]);
    assert_eq!(cited(&diagnosis, &tree), std::slice::from_ref(&file));

    let turn = [format!("{top}: /bin/bash|./{two}"), format!("{top}: sh|{one}")];
    let files = [
        (file.clone(), format!("# w\n./{two}\n")),
        (format!("{top}/{two}"), format!("set -e\nsh {one} \"$@\"\n")),
    ];
    let (diagnosis, _) = explain(&turns(&[format!("{top}: /bin/sh|./{one}")], &turn, 4), &files);
    contains(
        &diagnosis.cause,
        &[
            &format!("line 2 of {top}/{two} is `sh {one} \"$@\"`"),
            &format!("line 2 of {file} is `./{two}`"),
        ],
    );
    assert_eq!((diagnosis.by.as_str(), diagnosis.confidence), ("script", 0.88));
}

#[test]
fn a_launcher_whose_arguments_grow() {
    let (top, launcher, option) = (format!("/srv/{}", name()), name(), name());
    let line = |count: usize| {
        format!(
            "{top}: /usr/bin/python3|{top}/{launcher}.py{}",
            format!("|--{option}").repeat(count)
        )
    };
    let lines: Vec<String> = std::iter::once(format!("{top}: /usr/bin/python3|{launcher}.py"))
        .chain((1..18).map(line))
        .collect();
    let mut chain = chain(&lines);
    for link in &mut chain {
        link.program = FileId { ino: 9, ..FileId::default() };
    }
    let text = format!(
        "import subprocess, sys\nsubprocess.run([sys.executable, __file__] + sys.argv[1:] + ['--{option}'])\n"
    );
    let (diagnosis, _) = explain(&chain, &[(format!("{top}/{launcher}.py"), text)]);
    contains(
        &diagnosis.cause,
        &[
            &format!("line 2 of {top}/{launcher}.py is"),
            &format!("every turn adds `--{option}` to the arguments."),
        ],
    );
    // Without the file: that it grows is still known.
    let (diagnosis, _) = explain(&chain, &[]);
    contains(&diagnosis.cause, &[&format!("every turn adds `--{option}`")]);
    assert_eq!((diagnosis.by.as_str(), diagnosis.confidence), ("script", 0.65));
}

#[test]
fn what_no_rule_knows_is_shown_as_it_is() {
    let (one, two) = (name(), name());
    let (diagnosis, _) =
        explain(&turns(&[], &[format!("/: {one}|a"), format!("/: {two}")], 3), &[]);
    contains(
        &diagnosis.cause,
        &[&format!("`{one} a` runs itself: `{one} a` → `{two}` → `{one} a`.")],
    );
    assert_eq!((diagnosis.by.as_str(), diagnosis.confidence), ("cycle", 0.5));

    let (diagnosis, _) = explain(&chain(&[format!("/: {one}")]), &[]);
    assert_eq!(
        diagnosis.cause,
        "R1 crossed: repetitions 3 ancestors (threshold 3). No rule knows why."
    );
    assert_eq!((diagnosis.by.as_str(), diagnosis.evidence.len()), ("numbers", 1));
    assert!(diagnosis.cycle.is_none());
}

#[test]
fn secrets_and_control_characters_are_not_repeated() {
    let turn = ["/srv/a: x|--token|hunter2|\x1b[31m\u{202e}".to_owned()];
    let (diagnosis, _) = explain(&turns(&[], &turn, 4), &[]);
    let all = format!("{diagnosis:?}");
    assert!(!all.contains("hunter2") && !diagnosis.cause.contains(['\x1b', '\u{202e}']), "{all}");
    assert!(diagnosis.cause.contains("[redacted:option:"));
}

proptest! {
    #[test]
    fn any_case_has_a_bounded_answer(
        steps in prop::collection::vec(
            (prop::sample::select(vec!["/srv/a", "/srv/a/b", "", "/", "x", "/srv/a/../.."]), prop::collection::vec(prop::sample::select(vec![
                "npm", "node", "/usr/bin/npm", "run", "test", "install", "sh", "-c", "make", "-C", "..", "git", "commit",
                ".git/hooks/post-commit", "x.sh", "python3", "--prefix", "-f", "\u{1b}", "$0", "",
            ]), 1..5)), 1..5),
        count in 1..12usize,
        content in prop_oneof![
            Just("{\"scripts\": {\"test\": \"npm test\", \"prepare\": 3}}".to_owned()),
            Just("a:\n\tmake\n".to_owned()),
            "\\PC{0,80}",
        ],
    ) {
        let lines: Vec<String> = steps.iter().map(|(cwd, argv)| format!("{cwd}: {}", argv.join("|"))).collect();
        let names = ["package.json", "Makefile", "x.sh", ".git/hooks/post-commit"];
        let files: Vec<(String, String)> = names.iter().map(|name| (format!("/srv/a/{name}"), content.clone())).collect();
        let (diagnosis, tree) = explain(&turns(&[], &lines, count), &files);
        prop_assert!(diagnosis.cause.chars().count() < 6000);
        prop_assert!((0.0..=1.0).contains(&diagnosis.confidence));
        prop_assert!(!diagnosis.cause.chars().any(char::is_control));
        // Cites nothing that was not read.
        for id in &diagnosis.evidence[1..] {
            prop_assert!(id[1..].parse::<usize>().unwrap() < tree.asked.len());
        }
    }
}
