//! Storms: who forks, what the new processes run, how fast, and the line that does it.

use std::{
    collections::{HashMap, HashSet},
    fmt::Write as _,
};

use sensor_proto::internal::v1::{ForkWanted, passage_wanted::Of};

use super::{Claim, Files, Link, call, command, site::Site, words::Words};
use crate::{
    detect::{
        Finding,
        group::{By, Group},
    },
    evidence::Redactor,
    lineage::{Forest, Node, ProcessKey},
    proto,
    respond::surge::Tasks,
};

/// A storm's tree, counted.
#[derive(Clone, Debug, Default)]
pub struct Crowd {
    /// The program that the culprit runs: its own, or what it was forked from. Of a group that of the
    /// process above its trees.
    pub program: Link,
    /// Living processes, the culprit included.
    pub living: usize,
    /// Of those, without the culprit (of a group the roots of its trees), how many run nothing of their own.
    pub only_forked: usize,
    /// Of those, how many were not forked by another such: they may be about to run something.
    pub about_to: usize,
    /// What the others execute, most frequent first.
    pub commands: Vec<(Vec<Vec<u8>>, usize)>,
    /// The limit that it would have met first, as it stands now.
    pub limit: Option<Tasks>,
    /// Of a group: the command of its eldest tree.
    pub member: Option<Vec<Vec<u8>>>,
}

impl Crowd {
    pub fn of(forest: &Forest, finding: &Finding, program: Link, limit: Option<Tasks>) -> Self {
        let roots: HashSet<ProcessKey> = finding.roots().into_iter().collect();
        let trees = roots.iter().flat_map(|root| forest.tree(*root));
        let living: Vec<&Node> = trees.map(|(node, _)| node).filter(|node| node.alive).collect();
        let mut crowd = Self { program, living: living.len(), limit, ..Self::default() };
        if finding.group.is_some() {
            let eldest = finding.culprit.and_then(|key| forest.get(key));
            let exec = eldest.and_then(|node| node.exec.as_ref());
            crowd.member = Some(exec.map(|exec| exec.argv.clone()).unwrap_or_default());
        }
        let only_forked = |key: ProcessKey| {
            !roots.contains(&key) && forest.get(key).is_some_and(|node| node.exec.is_none())
        };
        let mut counts: HashMap<&[Vec<u8>], usize> = HashMap::new();
        for node in living.iter().filter(|node| !roots.contains(&node.key)) {
            let Some(exec) = &node.exec else {
                crowd.only_forked += 1;
                crowd.about_to += usize::from(!node.parent.is_some_and(only_forked));
                continue;
            };
            *counts.entry(&exec.argv).or_default() += 1;
        }
        crowd.commands = counts.into_iter().map(|(argv, count)| (argv.to_vec(), count)).collect();
        crowd.commands.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        crowd
    }

    fn executing(&self) -> usize {
        self.commands.iter().map(|(_, count)| count).sum()
    }

    /// Whether what lives forks itself. A tree that was stopped in the middle of starting commands has many
    /// that run none yet; but those do not stem from each other.
    fn is_bomb(&self) -> bool {
        let executing = self.executing();
        self.only_forked >= executing && (executing == 0 || self.about_to * 2 <= self.only_forked)
    }
}

/// What an explanation may look at.
pub struct Case<'a> {
    pub finding: &'a Finding,
    pub crowd: &'a Crowd,
    /// Evidence ids of tree and chain, for citation.
    pub cited: &'a [String],
    pub files: &'a mut dyn Files,
    pub redactor: &'a Redactor,
}

/// What happens, why as far as the script tells, and what would have come.
pub fn diagnose(case: &mut Case<'_>) -> proto::Diagnosis {
    let words = Words { redactor: case.redactor };
    let crowd = case.crowd;
    let who = match crowd.program.argv.as_slice() {
        [] => "A process of which no command is known".to_owned(),
        argv => words.command(argv),
    };
    let bomb = case.finding.group.is_none() && crowd.is_bomb();
    let site = site(crowd, bomb, case.files);
    let value = |name: &str| {
        let measure = case.finding.measures.iter().find(|measure| measure.name == name);
        measure.map_or(0.0, |measure| measure.value)
    };
    let (grown, within) = (value("growth"), value("within"));
    let living = crowd.living;
    let group = case.finding.group.as_ref();
    let mut cause = if let Some(group) = group {
        let trees = trees(group, crowd, &words);
        let started = match crowd.executing() {
            0 => String::new(),
            _ => format!(", among them {}", started(crowd, &words)),
        };
        format!(
            "{trees}, below {who}, grow side by side: {grown} processes more in {within:.1} s; {living} live in these trees{started}."
        )
    } else if bomb {
        let run = if crowd.commands.is_empty() {
            "none of them runs a program"
        } else {
            "most of them run no program"
        };
        format!(
            "{who} forks itself without end: {grown} processes more in {within:.1} s, {run}; {living} live."
        )
    } else {
        let started = started(crowd, &words);
        format!(
            "{who} starts processes and waits for none of them: {grown} more in {within:.1} s; {living} live, among them {started}."
        )
    };
    if let Some(site) = &site {
        let file = words.path(&site.file);
        // Writing to a String cannot fail, here and below.
        let _ = write!(cause, " Line {} of {file} is {}.", site.number, words.line(&site.text));
    } else if let Some(text) = command::shell_text(&crowd.program.argv) {
        let _ = write!(cause, " Its text is {}.", words.line(text));
    }
    cause += &ahead(crowd, grown / within.max(0.001));

    let place = site.as_ref().map_or_else(|| format!("what {who} runs"), |site| site.place(&words));
    let remedy = if group.is_some() {
        format!(
            "Let {place} start fewer of these at once, or each of them wait for what it starts and come to an end."
        )
    } else if bomb {
        format!(
            "Give {place} an end: a function or process that starts itself again has to stop at some depth."
        )
    } else {
        format!(
            "Let {place} wait for what it starts, or bound how many run at once (as `xargs -P 8` does), and end its loop."
        )
    };
    let confidence = match (&site, bomb) {
        (Some(_), _) => 0.85,
        // That none runs a program is seen, not guessed.
        (None, true) => 0.75,
        (None, false) => 0.6,
    };
    let evidence = site.into_iter().map(|site| site.evidence).collect();
    let claim = Claim { by: "storm", cause, remedy, confidence, evidence };
    let first = case.cited.first().map_or("", String::as_str);
    let mut diagnosis = super::told(claim, first);
    for more in case.cited.iter().skip(1).filter(|id| !id.is_empty()) {
        diagnosis.evidence.push(more.clone());
    }
    diagnosis
}

/// The trees of a group: how many, and what they have in common.
fn trees(group: &Group, crowd: &Crowd, words: &Words<'_>) -> String {
    let count = group.members.len();
    let argv = crowd.member.as_deref().unwrap_or_default();
    let of_user = group.user.map(|uid| format!(" of user {uid}")).unwrap_or_default();
    match (group.by, argv.first()) {
        (By::Executable, Some(_)) if group.alike => {
            format!("{count} × {}{of_user}", words.command(argv))
        }
        (By::Executable, Some(program)) => format!(
            "{count} × {}{of_user} with different arguments, as in {}",
            words.command(std::slice::from_ref(program)),
            words.command(argv),
        ),
        (By::Executable, None) => format!("{count} trees of one executable{of_user}"),
        (By::Session, _) => format!("{count} trees of session {}{of_user}", group.shared),
        (By::User, _) => format!("{count} trees of user {}", group.shared),
        (By::Cgroup, _) => format!("{count} trees of one cgroup{of_user}"),
    }
}

/// So many times which command; of different ones the program that they share, or the most frequent.
fn started(crowd: &Crowd, words: &Words<'_>) -> String {
    let all = crowd.executing();
    let Some((argv, count)) = crowd.commands.first() else {
        return "none that runs a program".to_owned();
    };
    let most = words.command(argv);
    if count * 2 >= all {
        return format!("{count} × {most}");
    }
    let program = argv.first();
    let kin: usize = crowd
        .commands
        .iter()
        .filter(|(other, _)| other.first() == program)
        .map(|(_, count)| count)
        .sum();
    match program {
        Some(program) if kin * 2 >= all => {
            let program = words.command(std::slice::from_ref(program));
            format!("{kin} × {program} with different arguments, as in {most}")
        }
        _ => format!("{} different commands, {count} × {most}", crowd.commands.len()),
    }
}

/// Which limit would have been reached, and when.
fn ahead(crowd: &Crowd, pace: f64) -> String {
    let Some(limit) = &crowd.limit else { return String::new() };
    let seconds = limit.left as f64 / pace.max(0.001);
    let time = match seconds {
        s if s < 120.0 => format!("{s:.1} s"),
        s => format!("{:.0} minutes", s / 60.0),
    };
    format!(
        " At that pace, {pace:.0} a second, {} ({}) is used up {time} later.",
        limit.limit, limit.most
    )
}

/// The line that makes the processes, if it can be found.
fn site(crowd: &Crowd, bomb: bool, files: &mut dyn Files) -> Option<Site> {
    if bomb {
        return Site::of(&crowd.program, files, Of::Fork(ForkWanted {}));
    }
    let commands = crowd.member.iter().chain(crowd.commands.iter().map(|(argv, _)| argv));
    let argv = commands.into_iter().next().cloned().unwrap_or_default();
    let most = Link { argv, ..Link::default() };
    Site::of(&crowd.program, files, call(&most, &[]))
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{One, argv},
        *,
    };
    use crate::{lineage::Exec, proto::Measure};

    /// The culprit with so many children, each with a command or none.
    fn crowd(program: &str, children: &[(Option<&str>, usize)]) -> Crowd {
        let root = ProcessKey::new(10, 1);
        let node = |key, parent, command: Option<&str>| Node {
            key,
            parent,
            alive: true,
            exec: command.map(|line| Exec { argv: argv(line), ..Exec::default() }),
            ..Node::default()
        };
        let mut nodes = vec![node(root, None, Some(program))];
        for (command, count) in children {
            for _ in 0..*count {
                let key = ProcessKey::new(11 + nodes.len() as u32, 2);
                nodes.push(node(key, Some(root), *command));
            }
        }
        let program = Link { argv: argv(program), cwd: b"/w".to_vec(), ..Link::default() };
        let limit = Tasks { limit: "pids.max of a".into(), most: 400, left: 100 };
        Crowd::of(&Forest::new(nodes), &finding(Some(root)), program, Some(limit))
    }

    fn finding(culprit: Option<ProcessKey>) -> Finding {
        let measure =
            |name: &str, value| Measure { name: name.into(), value, ..Measure::default() };
        Finding {
            kind: proto::Kind::ForkStorm,
            rule: "R2",
            culprit,
            group: None,
            leaf: None,
            contain: true,
            confidence: 0.9,
            at_ns: 0,
            measures: vec![measure("growth", 256.0), measure("within", 0.5)],
        }
    }

    fn said(crowd: &Crowd, file: Option<&'static str>) -> proto::Diagnosis {
        told(&finding(None), crowd, file)
    }

    fn told(finding: &Finding, crowd: &Crowd, file: Option<&'static str>) -> proto::Diagnosis {
        diagnose(&mut Case {
            finding,
            crowd,
            cited: &["e1".into(), "e2".into()],
            files: &mut One(file),
            redactor: &Redactor::new([1; 16]),
        })
    }

    #[test]
    fn a_function_bomb() {
        let crowd = crowd("bash /w/run", &[(None, 280)]);
        let said = said(&crowd, Some("#!/bin/bash\nboom() {\n    boom | boom &\n}\nboom\n"));
        assert_eq!(
            said.cause,
            "`bash /w/run` forks itself without end: 256 processes more in 0.5 s, none of them runs a \
             program; 281 live. Line 3 of /w/run is `boom | boom &`. At that pace, 512 a second, \
             pids.max of a (400) is used up 0.2 s later."
        );
        assert!(said.remedy.starts_with("Give line 3 of /w/run an end:"), "{}", said.remedy);
        assert_eq!(said.evidence, ["e1", "f1", "e2"]);
    }

    #[test]
    fn a_star_that_was_stopped_while_most_had_not_come_to_run_it() {
        let crowd = crowd("sh run", &[(Some("sleep 9999"), 20), (None, 240)]);
        let said = said(&crowd, Some("while :; do\n  sleep 9999 &\ndone\n"));
        let begins = "`sh run` starts processes and waits for none of them: 256 more in 0.5 s; 261 live, among \
                      them 20 × `sleep 9999`. Line 2 of /w/run is `sleep 9999 &`.";
        assert!(said.cause.starts_with(begins), "{}", said.cause);
        // As many that stem from each other are a bomb, whatever runs beside them.
        let bomb = Crowd { about_to: 2, ..crowd };
        let said = self::said(&bomb, None);
        assert!(said.cause.contains("forks itself without end"), "{}", said.cause);
        assert!(said.cause.contains("most of them run no program"), "{}", said.cause);
    }

    #[test]
    fn a_star_of_one_command() {
        let crowd = crowd("sh run", &[(Some("sleep 9999"), 300), (None, 1)]);
        let said = said(&crowd, Some("while :; do\n  sleep 9999 &\ndone\n"));
        assert_eq!(
            said.cause,
            "`sh run` starts processes and waits for none of them: 256 more in 0.5 s; 302 live, among \
             them 300 × `sleep 9999`. Line 2 of /w/run is `sleep 9999 &`. At that pace, 512 a second, \
             pids.max of a (400) is used up 0.2 s later."
        );
        assert!((said.confidence - 0.85).abs() < 1e-9);
    }

    #[test]
    fn trees_beside_each_other() {
        let manager = ProcessKey::new(9, 1);
        let mut nodes = Vec::new();
        let mut members = Vec::new();
        for tree in 0..3 {
            let root = ProcessKey::new(10 + 10 * tree, 2);
            members.push(root);
            let node = |key, parent, line: &str| Node {
                key,
                parent: Some(parent),
                alive: true,
                exec: Some(Exec { argv: argv(line), loose: 7, ..Exec::default() }),
                ..Node::default()
            };
            nodes.push(node(root, manager, "sh worker"));
            for child in 1..=4 {
                nodes.push(node(ProcessKey::new(root.tgid + child, 3), root, "sleep 9"));
            }
        }
        let group = Group {
            by: By::Executable,
            shared: 1,
            user: Some(1000),
            alike: true,
            ancestor: manager,
            since_ns: 0,
            starters: vec![manager],
            members,
        };
        let culprit = group.members.first().copied();
        let mut of_group = Finding { rule: "R3", group: Some(group), ..finding(culprit) };
        let program = Link { argv: argv("sh /w/run"), cwd: b"/w".to_vec(), ..Link::default() };
        let crowd = Crowd::of(&Forest::new(nodes), &of_group, program, None);
        let said = told(&of_group, &crowd, Some("while :; do\n  true\n  sh worker &\ndone\n"));
        assert_eq!(
            said.cause,
            "3 × `sh worker` of user 1000, below `sh /w/run`, grow side by side: 256 processes more in \
             0.5 s; 15 live in these trees, among them 12 × `sleep 9`. Line 3 of /w/run is \
             `sh worker &`."
        );
        assert!(said.remedy.starts_with("Let line 3 of /w/run start fewer"), "{}", said.remedy);
        if let Some(group) = &mut of_group.group {
            group.by = By::User;
            group.shared = 33;
        }
        let said = told(&of_group, &crowd, None);
        assert!(
            said.cause.starts_with("3 trees of user 33, below `sh /w/run`, grow"),
            "{}",
            said.cause
        );
    }

    #[test]
    fn a_star_of_different_commands() {
        let commands: Vec<String> = (1..=9).map(|n| format!("sleep 9{n}")).collect();
        let children: Vec<(Option<&str>, usize)> =
            commands.iter().map(|line| (Some(line.as_str()), 1)).collect();
        let said = said(&crowd("node /w/run", &children), None);
        assert!(
            said.cause.contains("9 × `sleep` with different arguments, as in `sleep 91`"),
            "{}",
            said.cause
        );
        assert!((said.confidence - 0.6).abs() < 1e-9);
    }

    #[test]
    fn a_text_without_a_file_is_quoted_itself() {
        let mut crowd = crowd("bash -c x", &[(None, 70)]);
        crowd.program.argv = vec![b"bash".to_vec(), b"-c".to_vec(), b":(){ :|:& };:".to_vec()];
        let said = said(&crowd, None);
        assert!(said.cause.contains("Its text is `:(){ :|:& };:`."), "{}", said.cause);
    }
}
