//! Recursion (R1, R1b, R1c): whose it is.
//!
//! The gates in the kernel say that a command was found among its own living ancestors; this says
//! what to stop: the topmost instance of the cycle.

use std::collections::HashSet;

use sensor_common::{
    gate::{Level, Rule},
    recursion::Limits,
};

use super::Finding;
use crate::{
    lineage::{FileId, Node, ProcessKey},
    proto,
};

/// A gate was crossed, with what is needed to judge it.
#[derive(Clone, Debug)]
pub struct Crossing {
    pub level: Level,
    pub rule: Rule,
    pub repetitions: u32,
    /// Time of the last three generations, ns; 0: fewer.
    pub span_ns: u64,
    /// Living processes in the tree of the repetition's top.
    pub live: u32,
    /// Boot clock, ns.
    pub crossed_ns: u64,
    /// The process that crossed, its parent, and so on, with what they executed.
    pub ancestry: Vec<Node>,
}

/// A finding, where the crossing is one: `Watch` only makes the tree suspect.
pub fn detect(crossing: &Crossing, limits: &Limits) -> Option<Finding> {
    if crossing.level < Level::Open {
        return None;
    }
    let leaf = crossing.ancestry.first()?;
    let measure = |name: &str, value: f64, threshold: f64, unit: &str| proto::Measure {
        name: name.into(),
        value,
        threshold: Some(threshold),
        unit: unit.into(),
    };
    let contain = crossing.level == Level::Contain;
    let repetitions = match (crossing.rule, contain) {
        (Rule::R1, true) => limits.contain,
        (Rule::R1, false) => limits.open,
        (Rule::R1b, true) => limits.loose_contain,
        (Rule::R1b, false) => limits.loose_open,
        (Rule::R1c | Rule::R2 | Rule::R3 | Rule::R6, _) => limits.growth_repetitions,
    };
    let seconds = |ns: u64| ns as f64 / 1e9;
    let mut measures = vec![
        measure("repetitions", crossing.repetitions.into(), repetitions.into(), "ancestors"),
        measure("processes", crossing.live.into(), limits.contain_live.into(), "processes"),
    ];
    if crossing.span_ns != 0 {
        let limit = seconds(limits.contain_span_ns);
        measures.push(measure("three_generations", seconds(crossing.span_ns), limit, "s"));
    }
    Some(Finding {
        kind: proto::Kind::Recursion,
        rule: crossing.rule.name(),
        culprit: Some(culprit(&crossing.ancestry, crossing.rule).unwrap_or(leaf.key)),
        group: None,
        leaf: Some(leaf.key),
        contain,
        // On the recorded corpus R1 was right every time at these thresholds; R1b and R1c rest on fewer cases.
        confidence: match (crossing.rule, contain) {
            (Rule::R1, true) => 0.95,
            (Rule::R1, false) => 0.8,
            (_, true) => 0.85,
            (_, false) => 0.7,
        },
        at_ns: crossing.crossed_ns,
        measures,
    })
}

/// The topmost instance of the cycle, extended upward while the parent belongs to the cycle.
///
/// A node belongs when its (executable, argv) is one of those in the last turn, or lies between
/// such; the working directory is ignored, because the first turn often begins elsewhere. Processes that only forked
/// (subshells) belong to their parent's command and are passed through.
fn culprit(ancestry: &[Node], rule: Rule) -> Option<ProcessKey> {
    let leaf = ancestry.first()?;
    match rule {
        Rule::R1 | Rule::R1b => {
            let like = signature(leaf)?;
            Some(first_of(ancestry, period(ancestry, |node| signature(node) == Some(like)))?.key)
        }
        Rule::R1c | Rule::R2 | Rule::R3 | Rule::R6 => {
            let grower = executable(leaf)?;
            let turn = period(ancestry, |node| executable(node) == Some(grower));
            let cycle: HashSet<FileId> = turn.iter().filter_map(executable).collect();
            // Going up, the same program has fewer arguments each time; what runs in between (a
            // shell, say) belongs when it is part of the period.
            let mut shortest = argv_bytes(leaf);
            topmost(ancestry, |node| {
                if executable(node) != Some(grower) {
                    return executable(node).is_some_and(|file| cycle.contains(&file));
                }
                let grew = same_program(node, leaf) && argv_bytes(node) < shortest;
                shortest = argv_bytes(node);
                grew
            })
        }
    }
}

/// The topmost process whose command is part of the cycle, of which `turn` is the last turn.
///
/// A cycle may have several branches, and the last turns may all have taken the same one: what lies
/// between two of its commands belongs to it as well. Who runs one of them more than two turns
/// further up had his own reason.
fn first_of<'a>(ancestry: &'a [Node], turn: &[Node]) -> Option<&'a Node> {
    let executed: Vec<&Node> = ancestry.iter().filter(|node| node.exec.is_some()).collect();
    let reach = 2 * turn.iter().filter(|node| node.exec.is_some()).count();
    let mut cycle: HashSet<u64> = turn.iter().filter_map(signature).collect();
    let mut first = 0;
    while let Some(further) = executed.iter().skip(first + 1).take(reach).position(|node| {
        signature(node).is_some_and(|loose| cycle.contains(&loose))
            || turn.iter().any(|step| spelled_alike(node, step))
    }) {
        let next = first + 1 + further;
        cycle.extend(executed[first..=next].iter().filter_map(|node| signature(node)));
        first = next;
    }
    executed.get(first).copied()
}

/// From the leaf up to, not including, the nearest ancestor that is like it.
fn period(ancestry: &[Node], like: impl Fn(&Node) -> bool) -> &[Node] {
    let end = ancestry.iter().skip(1).position(like).map_or(ancestry.len(), |index| index + 1);
    &ancestry[..end]
}

/// The last node up the chain that belongs, before the first that does not; asked bottom-up.
fn topmost(ancestry: &[Node], mut belongs: impl FnMut(&Node) -> bool) -> Option<ProcessKey> {
    let (leaf, above) = ancestry.split_first()?;
    let executed = above.iter().filter(|node| node.exec.is_some());
    Some(executed.take_while(|node| belongs(node)).last().unwrap_or(leaf).key)
}

fn signature(node: &Node) -> Option<u64> {
    node.exec.as_ref().map(|exec| exec.loose).filter(|loose| *loose != 0)
}

fn executable(node: &Node) -> Option<FileId> {
    node.exec.as_ref().map(|exec| exec.exe).filter(|exe| exe.ino != 0)
}

fn argv_bytes(node: &Node) -> u32 {
    node.exec.as_ref().map_or(0, |exec| exec.argv_bytes)
}

/// Whether two processes run the same command, written differently: who starts a recursion types
/// `node x.js`, and what it starts is `/usr/bin/node /home/me/x.js`.
fn spelled_alike(node: &Node, other: &Node) -> bool {
    let (Some(node), Some(other)) = (&node.exec, &other.exec) else { return false };
    node.exe == other.exe
        && node.exe.ino != 0
        && !node.argv.is_empty()
        && node.argv.len() == other.argv.len()
        && node.argv.iter().zip(&other.argv).all(|(one, other)| same_path(one, other))
}

/// Equal, or one is the end of the other, cut at a slash.
fn same_path(one: &[u8], other: &[u8]) -> bool {
    let plain = |path: &'_ [u8]| path.strip_prefix(b"./").unwrap_or(path).to_vec();
    let (one, other) = (plain(one), plain(other));
    let (short, long) = if one.len() < other.len() { (one, other) } else { (other, one) };
    match long.strip_suffix(short.as_slice()) {
        None => false,
        Some(front) => front.is_empty() || (front.ends_with(b"/") && !short.is_empty()),
    }
}

/// Whether two processes of one executable run the same program: for an interpreter, the same script.
fn same_program(node: &Node, leaf: &Node) -> bool {
    let (Some(node), Some(leaf)) = (&node.exec, &leaf.exec) else { return false };
    let script = |argv: &[Vec<u8>]| {
        argv.iter().skip(1).find(|argument| !argument.starts_with(b"-")).cloned()
    };
    !is_interpreter(leaf.argv.first()) || script(&node.argv) == script(&leaf.argv)
}

/// Programs that are what their first operand says. Versions hang on to the name (python3.11).
const INTERPRETERS: [&str; 12] =
    ["sh", "bash", "dash", "ash", "zsh", "ksh", "node", "python", "perl", "ruby", "php", "deno"];

fn is_interpreter(argv0: Option<&Vec<u8>>) -> bool {
    let Some(argv0) = argv0 else { return false };
    let name = argv0.rsplit(|byte| *byte == b'/').next().unwrap_or(argv0);
    // A login shell's name begins with a dash.
    let name = name.strip_prefix(b"-").unwrap_or(name);
    let end = name.iter().position(|byte| !byte.is_ascii_alphabetic()).unwrap_or(name.len());
    INTERPRETERS.iter().any(|known| known.as_bytes() == &name[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lineage::Exec;

    /// A chain from its top, as (command, cwd); `None`: forked only. The ancestry of its last.
    fn ancestry(chain: &[Option<&str>]) -> Vec<Node> {
        let mut nodes: Vec<Node> = Vec::new();
        for (index, command) in chain.iter().enumerate() {
            let key = ProcessKey::new(100 + index as u32, 1000 + index as u64);
            let exec = command.map(|command| {
                let argv: Vec<Vec<u8>> =
                    command.split(' ').map(|argument| argument.as_bytes().to_vec()).collect();
                let hash = |text: &[u8]| {
                    text.iter().fold(7u64, |hash, byte| hash.wrapping_mul(31) + u64::from(*byte))
                        | 1
                };
                Exec {
                    at_ns: key.start_ns,
                    exe: FileId { ino: hash(&argv[0]), dev: 1, zero: 0 },
                    argv_bytes: command.len() as u32 + 1,
                    loose: hash(command.as_bytes()),
                    strict: hash(command.as_bytes()) ^ 2,
                    argv,
                    ..Exec::default()
                }
            });
            let parent = nodes.last().map(|node| node.key);
            nodes.push(Node { key, parent, alive: true, exec, ..Node::default() });
        }
        nodes.reverse();
        nodes
    }

    fn culprit_of(chain: &[Option<&str>], rule: Rule) -> usize {
        let ancestry = ancestry(chain);
        (culprit(&ancestry, rule).unwrap().tgid - 100) as usize
    }

    #[test]
    fn of_an_npm_cycle_it_is_the_first_npm_not_the_shell_above() {
        let turn = [Some("npm test"), Some("sh -c c"), None, Some("npm run x"), Some("sh -c cd y")];
        let mut chain = vec![Some("bash"), Some("make check")];
        for _ in 0..4 {
            chain.extend(turn);
        }
        // Whichever step of the turn crosses first.
        for end in chain.len() - turn.len()..chain.len() {
            if chain[end].is_some() {
                assert_eq!(culprit_of(&chain[..=end], Rule::R1), 2, "at {:?}", chain[end]);
            }
        }
    }

    #[test]
    fn of_a_cycle_with_branches_it_is_the_first_command_of_all() {
        let turn = |branch: &'static [&'static str; 2]| {
            ["npm test", "sh -c both", branch[0], branch[1]].map(Some)
        };
        let (left, right) = (&["npm run left", "sh -c cd l"], &["npm run right", "sh -c cd r"]);
        let mut chain = vec![Some("bash"), Some("make check")];
        for branch in [left, right, right, right] {
            chain.extend(turn(branch));
        }
        // Whichever step of the last turn crosses: none of its like has seen the left branch.
        for end in chain.len() - 4..chain.len() {
            assert_eq!(culprit_of(&chain[..=end], Rule::R1), 2, "at {:?}", chain[end]);
        }
    }

    #[test]
    fn the_same_command_far_above_is_another_matter() {
        let mut chain = vec![Some("make"), Some("a"), Some("b"), Some("c")];
        chain.extend([Some("make"); 5]);
        assert_eq!(culprit_of(&chain, Rule::R1), 4);
    }

    #[test]
    fn of_a_program_that_forks_itself_it_is_the_one_that_was_typed() {
        let mut chain = vec![Some("bash"), Some("node x.js a"), Some("/usr/bin/node /home/x.js a")];
        chain.extend([Some("/usr/bin/node /home/x.js a"); 4]);
        // Their executable is the same file, however it is called.
        let mut ancestry = ancestry(&chain);
        for node in &mut ancestry {
            let exec = node.exec.as_mut().unwrap();
            if exec.argv[0].ends_with(b"node") {
                exec.exe = FileId { ino: 7, dev: 1, zero: 0 };
            }
        }
        assert_eq!(culprit(&ancestry, Rule::R1).unwrap().tgid - 100, 1);
        // Another script, or other arguments, is another command.
        for other in ["node y.js a", "node x.js b", "node x.js"] {
            let above = ancestry.iter_mut().find(|node| node.key.tgid == 101).unwrap();
            above.exec.as_mut().unwrap().argv =
                other.split(' ').map(|argument| argument.as_bytes().to_vec()).collect();
            assert_eq!(culprit(&ancestry, Rule::R1).unwrap().tgid - 100, 2, "{other}");
        }
    }

    #[test]
    fn paths_are_the_same_up_to_where_they_begin() {
        let same = |one: &str, other: &str| same_path(one.as_bytes(), other.as_bytes());
        assert!(same("x", "x") && same("./x", "/a/x") && same("/a/b/x", "b/x"));
        assert!(!same("-bash", "bash") && !same("x", "ax") && !same("", "/a/"));
    }

    #[test]
    fn a_forked_only_process_at_the_top_is_not_taken_in() {
        let chain = [Some("bash"), None, Some("a"), Some("a"), Some("a"), Some("a")];
        assert_eq!(culprit_of(&chain, Rule::R1), 2);
    }

    #[test]
    fn of_a_growing_launcher_it_is_the_first_call_of_the_script() {
        let calls: Vec<String> =
            (0..20).map(|n| format!("bash run.sh{}", " again".repeat(n))).collect();
        let mut chain = vec![Some("bash"), Some("bash other.sh")];
        chain.extend(calls.iter().map(|call| Some(call.as_str())));
        assert_eq!(culprit_of(&chain, Rule::R1c), 2);
    }

    #[test]
    fn of_a_growing_program_it_is_the_first_call_even_without_arguments() {
        let calls: Vec<String> = (0..20).map(|n| format!("./grow{}", " x".repeat(n))).collect();
        let mut chain = vec![Some("bash")];
        chain.extend(calls.iter().map(|call| Some(call.as_str())));
        assert_eq!(culprit_of(&chain, Rule::R1c), 1);
    }

    #[test]
    fn interpreters_are_known_by_name_without_version() {
        for name in ["/usr/bin/python3.11", "-bash", "node", "/bin/sh"] {
            assert!(is_interpreter(Some(&name.into())), "{name}");
        }
        for name in ["make", "/usr/bin/shred", "", "bashful"] {
            assert!(!is_interpreter(Some(&name.into())), "{name}");
        }
    }

    #[test]
    fn watching_is_no_finding() {
        let crossing = Crossing {
            level: Level::Watch,
            rule: Rule::R1,
            repetitions: 2,
            span_ns: 0,
            live: 9,
            crossed_ns: 5,
            ancestry: ancestry(&[Some("a"), Some("a"), Some("a")]),
        };
        assert_eq!(detect(&crossing, &Limits::default()), None);
        let open =
            detect(&Crossing { level: Level::Open, ..crossing }, &Limits::default()).unwrap();
        assert!(!open.contain);
        assert_eq!(open.rule, "R1");
    }
}
