//! Storms (R2, R3): whose it is.
//!
//! The gates in the kernel say that the tree of some ancestor has grown without completing anything;
//! all ancestors of a storm cross, one after the other. This says what to stop, and the same for all
//! of them: the lowest process whose tree carries the growth.

use std::collections::{HashMap, HashSet};

use sensor_common::{event::Alarm, gate::Rule, storm::Limits};

use super::Finding;
use crate::{
    lineage::{Forest, Node, ProcessKey},
    proto,
};

/// Of ten that were born meanwhile and live, so many make a subtree the storm itself.
pub(super) const CARRIES: u64 = 9;

/// Who was forked so shortly before the growth began is as much of it as what came then: the workers
/// of a server are older.
const YOUNG_NS: u64 = 10_000_000_000;

/// A look's clock counts ms; who was born within the first of them belongs to the growth.
const CLOCK_NS: u64 = 1_000_000;

/// A finding, where there is anybody left to blame.
pub fn detect(rule: Rule, alarm: &Alarm, forest: &Forest, limits: &Limits) -> Option<Finding> {
    // Whoever crossed may be gone with all of its tree; its newest process then stands for it.
    let crossed = forest.get(alarm.top).or_else(|| forest.get(alarm.process))?.key;
    let growth = Growth::of(forest, program(forest, crossed), since_ns(alarm));
    let culprit = growth.narrow(forest);
    let tree = forest.tree(culprit);
    let below = |key: &ProcessKey| tree.iter().any(|(node, _)| node.key == *key && node.alive);
    let leaf = Some(alarm.process)
        .filter(below)
        .or_else(|| tree.iter().rev().find(|(node, _)| node.alive).map(|(node, _)| node.key));
    let live = tree.iter().filter(|(node, _)| node.alive).count();
    let seconds = |ms: u32| f64::from(ms) / 1e3;
    let measure = |name: &str, value: f64, threshold: Option<f64>, unit: &str| proto::Measure {
        name: name.into(),
        value,
        threshold,
        unit: unit.into(),
    };
    let spent = alarm.span_ns as f64 / 1e9;
    let (grown, within) = match rule {
        Rule::R2 => (limits.chain_growth, limits.chain_ms),
        _ => (limits.growth, limits.growth_ms),
    };
    let mut measures = vec![
        measure("growth", alarm.grown.into(), Some(grown.into()), "processes"),
        measure("within", spent, Some(seconds(within)), "s"),
        measure("processes", live as f64, None, "processes"),
    ];
    let contain = if rule == Rule::R2 {
        let chain = limits.chain.into();
        measures.push(measure("fork_chain", alarm.repetitions.into(), Some(chain), "forks"));
        // Of honest work that happens to grow around a deep subshell most have a program.
        growth.only_forked(forest, culprit) * 2 >= growth.below(culprit)
    } else {
        let completed = 100.0 * f64::from(alarm.exits) / f64::from(alarm.forks.max(1));
        let limit = limits.completed_percent.into();
        measures.push(measure("completed", completed.round(), Some(limit), "%"));
        // That takes more than lineage: see `respond::surge`.
        false
    };
    Some(Finding {
        kind: proto::Kind::ForkStorm,
        rule: rule.name(),
        culprit: Some(culprit),
        group: None,
        leaf,
        contain,
        // R2 was right on every bomb of the corpus and silent on all honest work; R3 also sees what
        // somebody asked for, as `xargs -P300`.
        confidence: match (rule, contain) {
            (Rule::R2, true) => 0.9,
            _ => 0.6,
        },
        at_ns: alarm.crossed_ns,
        measures,
    })
}

/// The finding about an explosion that was watched until `now_ns`, and then had `live` processes: when
/// it crossed can still be read from it.
pub fn watched(mut finding: Finding, now_ns: u64, live: u32) -> Finding {
    let watched = now_ns.saturating_sub(finding.at_ns) as f64 / 1e9;
    for measure in &mut finding.measures {
        if measure.name == "processes" {
            measure.value = live.into();
        }
    }
    finding.measures.push(proto::Measure {
        name: "watched".into(),
        value: watched,
        threshold: None,
        unit: "s".into(),
    });
    Finding { at_ns: now_ns, ..finding }
}

/// When the growth began that crossed, boot clock, ns.
pub fn since_ns(alarm: &Alarm) -> u64 {
    alarm.crossed_ns.saturating_sub(alarm.span_ns + CLOCK_NS)
}

/// How fast it grew when it crossed, processes a second.
pub fn per_second(alarm: &Alarm) -> f64 {
    f64::from(alarm.grown) * 1e9 / alarm.span_ns.max(CLOCK_NS) as f64
}

/// Up through processes that only forked, to the one that executed the program they all run.
fn program(forest: &Forest, from: ProcessKey) -> ProcessKey {
    let line = forest.ancestry(from);
    line.iter().find(|node| !only_forked(node)).map_or(from, |node| node.key)
}

/// Of those that were there before the sensor nobody knows.
fn only_forked(node: &Node) -> bool {
    node.exec.is_none() && !node.adopted
}

/// Who of a tree was born since the growth began, and lives.
pub(super) struct Growth {
    root: ProcessKey,
    since_ns: u64,
    /// In the tree of each, itself included.
    born: HashMap<ProcessKey, u64>,
    /// Who lives, or has somebody alive below: a half of a bomb goes on when its first process has ended.
    living: HashSet<ProcessKey>,
    children: HashMap<ProcessKey, Vec<ProcessKey>>,
}

impl Growth {
    pub fn of(forest: &Forest, root: ProcessKey, since_ns: u64) -> Self {
        let tree = forest.tree(root);
        let (born, living, children) = (HashMap::new(), HashSet::new(), HashMap::new());
        let mut growth = Self { root, since_ns, born, living, children };
        // Children come after their parents.
        for (node, _) in tree.into_iter().rev() {
            *growth.born.entry(node.key).or_default() +=
                u64::from(node.alive && node.key.start_ns >= since_ns);
            if node.alive {
                growth.living.insert(node.key);
            }
            if node.key != root
                && let Some(parent) = node.parent
            {
                if growth.living.contains(&node.key) {
                    growth.living.insert(parent);
                }
                let below = growth.below(node.key);
                *growth.born.entry(parent).or_default() += below;
                growth.children.entry(parent).or_default().push(node.key);
            }
        }
        growth
    }

    pub fn below(&self, key: ProcessKey) -> u64 {
        self.born.get(&key).copied().unwrap_or_default()
    }

    /// Down to the lowest process whose tree carries the growth; but of those on the way that only
    /// forked and are part of the growth the first, for further down there is only ever less of it. A
    /// program that was itself started just now is the storm as a whole: its first fork is only the
    /// half of it that had its turn first. A shell that somebody works in is older.
    fn narrow(&self, forest: &Forest) -> ProcessKey {
        let storming = |key: &ProcessKey| {
            key.start_ns >= self.since_ns && forest.get(*key).is_some_and(only_forked)
        };
        let mut way = vec![self.root];
        let mut at = self.root;
        while let Some(child) = self.carrier(forest, at) {
            way.push(child);
            at = child;
        }
        let program = way.iter().rposition(|key| !storming(key)).unwrap_or_default();
        if way[program].start_ns + YOUNG_NS >= self.since_ns {
            return way[program];
        }
        way.get(program + 1).copied().unwrap_or(way[program])
    }

    /// The child that carries the growth. One that only forked must be the only such: a sibling runs the
    /// same program and may be the other half of the bomb, which has just not had its turn.
    fn carrier(&self, forest: &Forest, key: ProcessKey) -> Option<ProcessKey> {
        let whole = self.below(self.root);
        let children = self.children.get(&key)?;
        let forked = |child: &ProcessKey| {
            let young = child.start_ns + YOUNG_NS >= self.since_ns;
            forest.get(*child).is_some_and(only_forked)
                && (self.below(*child) > 0 || young && self.living.contains(child))
        };
        let halves = children.iter().filter(|child| forked(child)).count();
        let carries = |child: &&ProcessKey| {
            whole > 0
                && self.below(**child) * 10 >= whole * CARRIES
                && (halves <= 1 || !forked(child))
        };
        children.iter().find(carries).copied()
    }

    /// Of those below, how many run nothing of their own.
    fn only_forked(&self, forest: &Forest, key: ProcessKey) -> u64 {
        let new = |node: &&Node| node.alive && node.key.start_ns >= self.since_ns;
        let tree = forest.tree(key);
        tree.iter().map(|(node, _)| *node).filter(new).filter(|node| node.exec.is_none()).count()
            as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lineage::Exec;

    const SECOND: u64 = 1_000_000_000;
    /// When the growth began.
    const BEGIN: u64 = 1000 * SECOND;

    #[derive(Default)]
    struct Host {
        nodes: Vec<Node>,
    }

    impl Host {
        /// A process that was there before, or was born in the storm; `true`: it runs a program.
        fn born(&mut self, parent: u32, before: bool, executed: bool) -> u32 {
            let tgid = self.nodes.len() as u32 + 1;
            let start_ns = if before { u64::from(tgid) } else { BEGIN + u64::from(tgid) };
            self.nodes.push(Node {
                key: ProcessKey::new(tgid, start_ns),
                parent: (parent != 0).then(|| self.key(parent)),
                alive: true,
                exec: executed.then(Exec::default),
                ..Node::default()
            });
            tgid
        }

        fn key(&self, tgid: u32) -> ProcessKey {
            self.nodes[tgid as usize - 1].key
        }

        fn dies(&mut self, tgid: u32) {
            self.nodes[tgid as usize - 1].alive = false;
        }

        fn finding(&self, rule: Rule, top: u32) -> Finding {
            let newest = self.nodes.last().unwrap().key;
            let alarm = Alarm {
                tag: 1,
                level: 3,
                rule: rule as u16,
                process: newest,
                top: self.key(top),
                crossed_ns: BEGIN + SECOND / 2,
                span_ns: SECOND / 2,
                cgroup: 0,
                repetitions: 7,
                live: 0,
                grown: 256,
                forks: 260,
                exits: 4,
                zero: 0,
            };
            let forest = Forest::new(self.nodes.iter().cloned());
            detect(rule, &alarm, &forest, &Limits::default()).unwrap()
        }

        fn culprit(&self, rule: Rule, top: u32) -> u32 {
            self.finding(rule, top).culprit.unwrap().tgid
        }
    }

    /// init, a session and its shell with 50 old jobs, and a script below that was just started.
    fn script(host: &mut Host) -> [u32; 4] {
        let init = host.born(0, true, true);
        let shell = host.born(init, true, true);
        for _ in 0..50 {
            host.born(shell, true, true);
        }
        let wrapper = host.born(shell, false, true);
        [init, shell, wrapper, host.born(wrapper, false, true)]
    }

    #[test]
    fn of_a_star_it_is_the_script_whichever_ancestor_crosses() {
        let mut host = Host::default();
        let [init, shell, wrapper, script] = script(&mut host);
        for _ in 0..256 {
            host.born(script, false, true);
        }
        for top in [init, shell, wrapper, script] {
            let finding = host.finding(Rule::R3, top);
            assert_eq!(finding.culprit.unwrap().tgid, script, "{top} crossed");
            assert!(!finding.contain, "that is decided elsewhere");
            let measures: Vec<(&str, f64)> =
                finding.measures.iter().map(|one| (one.name.as_str(), one.value)).collect();
            let wanted =
                [("growth", 256.0), ("within", 0.5), ("processes", 257.0), ("completed", 2.0)];
            assert_eq!(measures, wanted);
        }
    }

    #[test]
    fn what_was_watched_is_found_when_that_is_over() {
        let mut host = Host::default();
        let [.., script] = script(&mut host);
        for _ in 0..256 {
            host.born(script, false, true);
        }
        let crossed = host.finding(Rule::R3, script);
        let crossed_ns = crossed.at_ns;
        let found = watched(crossed, crossed_ns + 3 * SECOND, 1000);
        assert_eq!(found.at_ns, crossed_ns + 3 * SECOND);
        let value = |name: &str| found.measures.iter().find(|one| one.name == name).unwrap().value;
        assert_eq!((value("watched"), value("processes"), value("growth")), (3.0, 1000.0, 256.0));
    }

    #[test]
    fn of_a_binary_bomb_it_is_the_program_that_all_of_it_runs() {
        let mut host = Host::default();
        let [init, .., python] = script(&mut host);
        let mut bomb = vec![python];
        for _ in 0..6 {
            for parent in bomb.clone() {
                bomb.push(host.born(parent, false, false));
            }
        }
        for top in [init, python, bomb[1], bomb[9]] {
            assert_eq!(host.culprit(Rule::R2, top), python, "{top} crossed");
        }
        assert!(host.finding(Rule::R2, python).contain);
    }

    #[test]
    fn a_shell_that_lives_on_is_not_part_of_the_bomb_in_its_subshell() {
        let mut host = Host::default();
        let [_, shell, ..] = script(&mut host);
        let bomb = host.born(shell, false, false);
        let mut last = bomb;
        for _ in 0..100 {
            host.born(last, false, false);
            last = host.born(last, false, false);
        }
        assert_eq!(host.culprit(Rule::R2, shell), bomb);
        assert_eq!(host.culprit(Rule::R2, bomb), bomb, "up to the shell, and down again");
        assert_eq!(host.culprit(Rule::R2, last), bomb);
    }

    #[test]
    fn of_a_program_that_was_just_started_the_first_half_is_not_all() {
        let mut host = Host::default();
        let [.., bash] = script(&mut host);
        // Its sibling is not even born.
        let first = host.born(bash, false, false);
        for _ in 0..100 {
            host.born(first, false, false);
        }
        assert_eq!(host.culprit(Rule::R2, first), bash);
    }

    #[test]
    fn both_halves_of_a_pipe_are_the_bomb() {
        let mut host = Host::default();
        let [.., bash] = script(&mut host);
        let [first, _second] = [host.born(bash, false, false), host.born(bash, false, false)];
        // Only one of them has had its turn.
        for _ in 0..100 {
            host.born(first, false, false);
        }
        assert_eq!(host.culprit(Rule::R2, first), bash);
    }

    #[test]
    fn a_half_whose_first_process_has_ended_is_a_half_all_the_same() {
        let mut host = Host::default();
        let [_, shell, ..] = script(&mut host);
        let young = |host: &mut Host, parent: u32| {
            let tgid = host.born(parent, false, false);
            // Three seconds before the growth began.
            host.nodes[tgid as usize - 1].key.start_ns = BEGIN - 3 * SECOND + u64::from(tgid);
            tgid
        };
        let first = young(&mut host, shell);
        let rest = young(&mut host, first);
        host.dies(first);
        let second = host.born(shell, false, false);
        for _ in 0..100 {
            host.born(second, false, false);
        }
        assert_eq!(host.culprit(Rule::R2, second), shell, "what they have in common");
        host.dies(rest);
        assert_eq!(host.culprit(Rule::R2, second), second, "nothing is left of the first");
    }

    #[test]
    fn subshells_on_the_way_to_a_script_are_not_its_storm() {
        let mut host = Host::default();
        let [_, shell, ..] = script(&mut host);
        let outer = host.born(shell, false, false);
        let inner = host.born(outer, false, false);
        let star = host.born(inner, false, true);
        for _ in 0..256 {
            host.born(star, false, true);
        }
        for top in [shell, outer, inner, star] {
            assert_eq!(host.culprit(Rule::R3, top), star, "{top} crossed");
        }
    }

    #[test]
    fn a_dead_root_is_a_culprit_like_any_other() {
        let mut host = Host::default();
        let [init, .., script] = script(&mut host);
        for _ in 0..256 {
            host.born(script, false, true);
        }
        host.dies(script);
        assert_eq!(host.culprit(Rule::R3, init), script);
    }

    #[test]
    fn growth_around_a_deep_subshell_is_no_bomb() {
        let mut host = Host::default();
        let [.., script] = script(&mut host);
        for _ in 0..64 {
            host.born(script, false, true);
        }
        let mut deep = script;
        for _ in 0..7 {
            deep = host.born(deep, false, false);
        }
        assert!(!host.finding(Rule::R2, script).contain);
    }

    #[test]
    fn two_storms_at_once_are_blamed_on_nobody_below_their_parent() {
        let mut host = Host::default();
        let [_, shell, ..] = script(&mut host);
        for _ in 0..2 {
            let star = host.born(shell, false, true);
            for _ in 0..200 {
                host.born(star, false, true);
            }
        }
        assert_eq!(host.culprit(Rule::R3, shell), shell);
    }

    #[test]
    fn nobody_left_is_no_finding() {
        let mut host = Host::default();
        let only = host.born(0, true, true);
        let mut finding = host.finding(Rule::R3, only);
        assert_eq!(finding.culprit.take().unwrap().tgid, only);
        let alarm = Alarm {
            tag: 1,
            level: 2,
            rule: 4,
            process: ProcessKey::new(90, 9),
            top: ProcessKey::new(91, 9),
            crossed_ns: 0,
            span_ns: 0,
            cgroup: 0,
            repetitions: 0,
            live: 0,
            grown: 0,
            forks: 0,
            exits: 0,
            zero: 0,
        };
        let forest = Forest::new(host.nodes);
        assert_eq!(detect(Rule::R3, &alarm, &forest, &Limits::default()), None);
    }
}
