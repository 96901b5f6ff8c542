//! Groups: growth that no single tree carries, but many trees beside each other that have something in
//! common: one executable, one session, one user.
//!
//! Asked where the lowest process whose tree carries the growth is nobody to stop for it: init, a
//! protected process, one outside of the scope, one with protected processes below it, or one under
//! which older work runs. Then what to stop are the young trees below it that make the growth.

use std::collections::{HashMap, HashSet};

use super::storm::{CARRIES, Growth};
use crate::lineage::{Forest, Node, ProcessKey};

/// A tree that has grown by less than this part of what the middle one of its group has takes no part
/// in the growth: a shell in which somebody lists a directory, beside forty that each start a server.
const PART_OF_MIDDLE: u64 = 4;

/// Trees that a group consists of at most; larger ones are nobody's to stop tree by tree. It is what an
/// order to the guardian lists, too.
pub const MOST_MEMBERS: usize = 4096;

/// What the trees of a group share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum By {
    /// The executable of their roots.
    Executable,
    Session,
    User,
    /// cgroup v2 id; only of memory.
    Cgroup,
}

impl By {
    /// What says most first.
    const MULTIPLYING: [Self; 3] = [Self::Executable, Self::Session, Self::User];
}

/// What is known of a process that it may share with others; `None`: nothing is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traits {
    /// Hash of the executable.
    pub executable: Option<u64>,
    pub session: Option<u32>,
    pub user: Option<u32>,
}

impl Traits {
    fn of(self, by: By) -> Option<u64> {
        match by {
            By::Executable => self.executable,
            By::Session => self.session.map(u64::from),
            By::User => self.user.map(u64::from),
            // Processes that multiply are looked for wherever they run.
            By::Cgroup => None,
        }
    }
}

/// Trees that are a culprit together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub by: By,
    /// The trait itself: a hash, a session or a user.
    pub shared: u64,
    /// The user of all of them, where there is only one.
    pub user: Option<u32>,
    /// All of them run the same executable with the same arguments.
    pub alike: bool,
    /// The lowest process above all of them whose tree carries the growth. It is not part of it.
    pub ancestor: ProcessKey,
    /// When the growth began, boot clock, ns.
    pub since_ns: u64,
    /// Roots of the trees, eldest first; none is below another.
    pub members: Vec<ProcessKey>,
    /// The nearest living processes above them: who joins the group is started by one of these.
    pub starters: Vec<ProcessKey>,
}

/// Where a group is looked for.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub ancestor: ProcessKey,
    /// When the growth began, boot clock, ns.
    pub since_ns: u64,
    /// Who was born before this is older work, boot clock, ns: no member, though those below it may be.
    pub oldest_ns: u64,
    /// Living processes that nobody may stop; neither they nor anybody above them is a member.
    pub barred: &'a HashSet<ProcessKey>,
}

/// One of the trees beside each other.
#[derive(Clone, Copy, Debug)]
struct Tree {
    root: ProcessKey,
    /// The nearest living process above it.
    starter: ProcessKey,
    /// Of its living processes, those that were born since the growth began.
    born: u64,
}

/// The group that carries the growth below a process; `None`: the trees there have too little in
/// common, or there is only one.
pub fn find(
    forest: &Forest,
    place: &Place<'_>,
    mut traits: impl FnMut(ProcessKey) -> Traits,
) -> Option<Group> {
    let growth = Growth::of(forest, place.ancestor, place.since_ns);
    let whole = growth.below(place.ancestor);
    let seen: Vec<(Tree, Traits)> =
        trees(forest, place, &growth).into_iter().map(|tree| (tree, traits(tree.root))).collect();
    By::MULTIPLYING.into_iter().find_map(|by| {
        let (shared, members) = largest(&seen, by)?;
        let born: u64 = members.iter().map(|(tree, _)| tree.born).sum();
        if whole == 0 || born * 10 < whole * CARRIES || !(2..=MOST_MEMBERS).contains(&members.len())
        {
            return None;
        }
        let first = members.first()?;
        let user = first.1.user.filter(|_| members.iter().all(|one| one.1.user == first.1.user));
        let command = |key| forest.get(key).and_then(|node| node.exec.as_ref()).map(|it| it.loose);
        let alike = command(first.0.root).is_some_and(|loose| {
            loose != 0 && members.iter().all(|(tree, _)| command(tree.root) == Some(loose))
        });
        let mut starters: Vec<ProcessKey> = members.iter().map(|(tree, _)| tree.starter).collect();
        starters.sort_unstable();
        starters.dedup();
        let members = members.into_iter().map(|(tree, _)| tree.root).collect();
        let Place { ancestor, since_ns, .. } = *place;
        Some(Group { by, shared, user, alike, ancestor, since_ns, members, starters })
    })
}

impl Group {
    /// Its members as they are now: who has joined it is one of them, and who is gone is none.
    pub fn again(
        &self,
        forest: &Forest,
        oldest_ns: u64,
        barred: &HashSet<ProcessKey>,
        mut traits: impl FnMut(ProcessKey) -> Traits,
    ) -> Vec<ProcessKey> {
        let Self { ancestor, since_ns, .. } = *self;
        let place = Place { ancestor, since_ns, oldest_ns, barred };
        let growth = Growth::of(forest, ancestor, since_ns);
        let mut same = trees(forest, &place, &growth);
        same.retain(|tree| traits(tree.root).of(self.by) == Some(self.shared));
        let mut members = taking_part(same, |tree| *tree);
        members.retain(|tree| self.is_kin(tree));
        members.truncate(MOST_MEMBERS);
        members.into_iter().map(|tree| tree.root).collect()
    }

    /// Trees of its kind that were started since, eldest first. Who was there then is none of them,
    /// however much it grows.
    pub fn joined(
        &self,
        forest: &Forest,
        since_ns: u64,
        barred: &HashSet<ProcessKey>,
        mut traits: impl FnMut(ProcessKey) -> Traits,
    ) -> Vec<ProcessKey> {
        let place = Place { ancestor: self.ancestor, since_ns, oldest_ns: since_ns, barred };
        let growth = Growth::of(forest, self.ancestor, since_ns);
        let mut same = trees(forest, &place, &growth);
        same.retain(|tree| self.is_kin(tree) && traits(tree.root).of(self.by) == Some(self.shared));
        same.into_iter().map(|tree| tree.root).collect()
    }

    /// Whether a tree was started by who started the others. What a neighbour or a member forks is no
    /// tree of the group, though it runs the same program for a moment.
    fn is_kin(&self, tree: &Tree) -> bool {
        self.starters.contains(&tree.starter)
    }

    /// Whether its members make the growth themselves. Otherwise the ancestor makes it, by starting one
    /// after the other.
    pub fn grows_within(&self, forest: &Forest) -> bool {
        let roots: HashSet<ProcessKey> = self.members.iter().copied().collect();
        let new = |node: &Node| node.alive && node.key.start_ns >= self.since_ns;
        let all: usize = self
            .members
            .iter()
            .map(|root| forest.tree(*root).into_iter().filter(|(node, _)| new(node)).count())
            .sum();
        let started = roots.iter().filter(|key| key.start_ns >= self.since_ns).count();
        (all - started) * 2 >= all
    }
}

/// All processes of the trees right below a process that have grown.
pub fn grown(forest: &Forest, ancestor: ProcessKey, since_ns: u64) -> Vec<&Node> {
    let growth = Growth::of(forest, ancestor, since_ns);
    let mut within: HashSet<ProcessKey> = HashSet::new();
    let mut found = Vec::new();
    for (node, level) in forest.tree(ancestor).into_iter().skip(1) {
        let inside = match level {
            1 => growth.below(node.key) > 0,
            _ => node.parent.is_some_and(|parent| within.contains(&parent)),
        };
        if inside {
            within.insert(node.key);
            found.push(node);
        }
    }
    found
}

/// The trees below a process that have grown: each as large as it can be without being older, or
/// having somebody in it whom nobody may stop. Eldest first. Who is dead has no tree of its own here:
/// those below it stand beside each other.
fn trees(forest: &Forest, place: &Place<'_>, growth: &Growth) -> Vec<Tree> {
    let mut above_barred: HashSet<ProcessKey> = HashSet::new();
    for key in place.barred {
        for node in forest.ancestry(*key) {
            if !above_barred.insert(node.key) {
                break;
            }
        }
    }
    let mut within: HashSet<ProcessKey> = HashSet::new();
    let mut found = Vec::new();
    // Parents before children.
    for (node, _) in forest.tree(place.ancestor).into_iter().skip(1) {
        if node.parent.is_some_and(|parent| within.contains(&parent)) {
            within.insert(node.key);
            continue;
        }
        let born = growth.below(node.key);
        let whole =
            node.alive && node.key.start_ns >= place.oldest_ns && !above_barred.contains(&node.key);
        if born > 0 && whole {
            within.insert(node.key);
            let mut above = forest.ancestry(node.key).into_iter().skip(1);
            let starter = above.find(|above| above.alive || above.key == place.ancestor);
            let starter = starter.map_or(place.ancestor, |starter| starter.key);
            found.push(Tree { root: node.key, starter, born });
        }
    }
    found.sort_unstable_by_key(|tree| (tree.root.start_ns, tree.root.tgid));
    found
}

/// Of the trees that share a trait those that take part in the growth, for the value of the trait whose
/// trees carry most of it.
fn largest(seen: &[(Tree, Traits)], by: By) -> Option<(u64, Vec<(Tree, Traits)>)> {
    let mut shares: HashMap<u64, Vec<(Tree, Traits)>> = HashMap::new();
    for (tree, traits) in seen {
        if let Some(value) = traits.of(by) {
            shares.entry(value).or_default().push((*tree, *traits));
        }
    }
    let carried = |trees: &[(Tree, Traits)]| trees.iter().map(|(tree, _)| tree.born).sum::<u64>();
    shares
        .into_iter()
        .max_by_key(|(value, trees)| (carried(trees), *value))
        .map(|(value, trees)| (value, taking_part(trees, |(tree, _)| *tree)))
}

/// One process alone takes part only together with others from the same hand: a shell that has just
/// forked runs its own program for a moment.
fn taking_part<T>(mut trees: Vec<T>, tree: impl Fn(&T) -> Tree) -> Vec<T> {
    let mut sizes: Vec<u64> = trees.iter().map(|one| tree(one).born).collect();
    sizes.sort_unstable();
    let middle = sizes.get(sizes.len() / 2).copied().unwrap_or_default();
    let mut hands: HashMap<ProcessKey, usize> = HashMap::new();
    for one in &trees {
        *hands.entry(tree(one).starter).or_default() += 1;
    }
    trees.retain(|one| {
        let Tree { starter, born, .. } = tree(one);
        born * PART_OF_MIDDLE >= middle && (born > 1 || hands.get(&starter) > Some(&1))
    });
    trees
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::lineage::Exec;

    const SECOND: u64 = 1_000_000_000;
    /// When the growth began.
    const BEGIN: u64 = 1000 * SECOND;
    /// Who is older is older work.
    const OLDEST: u64 = 400 * SECOND;

    #[derive(Debug, Default)]
    struct Host {
        nodes: Vec<Node>,
        traits: HashMap<ProcessKey, Traits>,
        barred: HashSet<ProcessKey>,
    }

    impl Host {
        /// A process that was born at this second.
        fn born(&mut self, parent: Option<ProcessKey>, at_s: u64, program: u64) -> ProcessKey {
            let tgid = self.nodes.len() as u32 + 1;
            let key = ProcessKey::new(tgid, at_s * SECOND + u64::from(tgid));
            self.nodes.push(Node {
                key,
                parent,
                alive: true,
                exec: Some(Exec { loose: program, ..Exec::default() }),
                program,
                ..Node::default()
            });
            let traits =
                Traits { executable: Some(program), session: Some(tgid), user: Some(1000) };
            self.traits.insert(key, traits);
            key
        }

        /// The same with so many below it that were born in the storm.
        fn tree(&mut self, parent: ProcessKey, at_s: u64, program: u64, born: u64) -> ProcessKey {
            let root = self.born(Some(parent), at_s, program);
            for _ in 0..born {
                self.born(Some(root), 1001, 99);
            }
            root
        }

        fn forest(&self) -> Forest {
            Forest::new(self.nodes.iter().cloned())
        }

        fn find(&self, ancestor: ProcessKey) -> Option<Group> {
            let place =
                Place { ancestor, since_ns: BEGIN, oldest_ns: OLDEST, barred: &self.barred };
            find(&self.forest(), &place, |key| self.traits[&key])
        }
    }

    /// A protected manager with forty young trees of one program, five processes each.
    fn manager() -> (Host, ProcessKey, Vec<ProcessKey>) {
        let mut host = Host::default();
        let manager = host.born(None, 1, 1);
        host.barred.insert(manager);
        let members = (0..40).map(|at| host.tree(manager, 900 + at, 7, 5)).collect();
        (host, manager, members)
    }

    #[test]
    fn trees_of_one_executable() {
        let (host, manager, members) = manager();
        let group = host.find(manager).unwrap();
        let wanted = Group {
            by: By::Executable,
            shared: 7,
            user: Some(1000),
            alike: true,
            ancestor: manager,
            since_ns: BEGIN,
            members,
            starters: vec![manager],
        };
        assert_eq!(group, wanted);
        assert!(group.grows_within(&host.forest()));
    }

    #[test]
    fn who_takes_no_part_is_none_of_it() {
        let (mut host, manager, members) = manager();
        // The same program, with one new process: somebody looks at something.
        host.tree(manager, 950, 7, 1);
        host.tree(manager, 950, 7, 0);
        host.tree(manager, 950, 8, 3);
        assert_eq!(host.find(manager).unwrap().members, members);
    }

    #[test]
    fn what_a_neighbour_forks_is_none_of_it() {
        let mut host = Host::default();
        let manager = host.born(None, 1, 1);
        host.barred.insert(manager);
        let neighbour = host.born(Some(manager), 300, 7);
        let dead = host.born(Some(manager), 999, 2);
        host.nodes.last_mut().unwrap().alive = false;
        // A star of one program, some of it through somebody who is gone.
        let mut members: Vec<ProcessKey> =
            (0..100).map(|_| host.tree(manager, 1001, 7, 0)).collect();
        members.push(host.tree(dead, 1001, 7, 0));
        host.tree(neighbour, 1001, 7, 0);
        let group = host.find(manager).unwrap();
        assert_eq!((&group.members, &group.starters), (&members, &vec![manager]));
        for at in 1002..1012 {
            host.tree(neighbour, at, 7, 3);
            host.tree(members[0], at, 7, 3);
        }
        let (forest, traits) = (host.forest(), |key: ProcessKey| host.traits[&key]);
        assert_eq!(group.again(&forest, OLDEST, &host.barred, traits), members);
        assert_eq!(group.joined(&forest, 1002 * SECOND, &host.barred, traits), []);
    }

    #[test]
    fn whoever_holds_somebody_protected_is_taken_apart() {
        let (mut host, manager, mut members) = manager();
        // A shell with a protected process in it, and beside that two more trees of the program.
        let shell = host.born(Some(manager), 500, 3);
        let protected = host.born(Some(shell), 600, 4);
        host.barred.insert(protected);
        members.splice(0..0, [host.tree(shell, 700, 7, 5), host.tree(shell, 701, 7, 5)]);
        // One that was started by somebody protected stands by itself, too.
        members.splice(2..2, [host.tree(protected, 702, 7, 5)]);
        assert_eq!(host.find(manager).unwrap().members, members);
    }

    #[test]
    fn older_work_is_none_of_it_but_what_it_started_may_be() {
        let (mut host, manager, mut members) = manager();
        let old = host.born(Some(manager), 300, 7);
        members.splice(0..0, [host.tree(old, 500, 7, 5)]);
        assert_eq!(host.find(manager).unwrap().members, members);
    }

    #[test]
    fn else_by_session_else_by_user_else_none() {
        let mut host = Host::default();
        let manager = host.born(None, 1, 1);
        host.barred.insert(manager);
        let roots: Vec<ProcessKey> =
            (0..20).map(|at| host.tree(manager, 900 + at, 100 + at, 5)).collect();
        let set = |host: &mut Host, session: Option<u32>, one: Option<u32>, other: Option<u32>| {
            for (at, root) in roots.iter().enumerate() {
                let user = if at % 2 == 0 { one } else { other };
                let executable = Some(100 + at as u64);
                host.traits.insert(*root, Traits { executable, session, user });
            }
        };
        set(&mut host, Some(5), Some(1000), Some(1001));
        let group = host.find(manager).unwrap();
        assert_eq!(
            (group.by, group.shared, group.user, group.alike),
            (By::Session, 5, None, false)
        );
        set(&mut host, None, Some(1000), Some(1000));
        let group = host.find(manager).unwrap();
        assert_eq!((group.by, group.shared, group.user), (By::User, 1000, Some(1000)));
        set(&mut host, None, Some(1000), Some(1001));
        assert_eq!(host.find(manager), None, "half of it each");
    }

    #[test]
    fn one_tree_is_no_group() {
        let mut host = Host::default();
        let manager = host.born(None, 1, 1);
        host.tree(manager, 900, 7, 50);
        assert_eq!(host.find(manager), None);
    }

    #[test]
    fn a_star_is_made_by_whoever_starts_it() {
        let mut host = Host::default();
        let shell = host.born(None, 1, 1);
        for _ in 0..300 {
            host.tree(shell, 1001, 7, 0);
        }
        let group = host.find(shell).unwrap();
        assert_eq!(group.members.len(), 300);
        assert!(!group.grows_within(&host.forest()));
    }

    #[test]
    fn who_joins_and_who_leaves() {
        let (mut host, manager, mut members) = manager();
        let group = host.find(manager).unwrap();
        for node in &mut host.nodes {
            node.alive &= node.key != members[0] && node.parent != Some(members[0]);
        }
        members.remove(0);
        let new: Vec<ProcessKey> = (0..8).map(|_| host.tree(manager, 1003, 7, 5)).collect();
        host.tree(manager, 1003, 8, 5);
        let traits = |key: ProcessKey| host.traits[&key];
        let forest = host.forest();
        let again = group.again(&forest, OLDEST, &host.barred, traits);
        assert_eq!(again, members.iter().chain(&new).copied().collect::<Vec<_>>());
        assert_eq!(group.joined(&forest, 1002 * SECOND, &host.barred, traits), new);
        let older = group.again(&forest, 1003 * SECOND, &host.barred, traits);
        assert_eq!(older, new, "time passes");
    }

    /// Any forest: each process has an earlier one as its parent, and is any or none of these.
    fn any_host() -> impl Strategy<Value = Host> {
        let process = (any::<prop::sample::Index>(), 0..5_u64, 1..4_u64, 0..12_u32, 0..10_u32);
        prop::collection::vec(process, 1..120).prop_map(|processes| {
            let mut host = Host::default();
            let mut keys = vec![host.born(None, 1, 1)];
            for (parent, age, program, barred, dead) in processes {
                let parent = keys[parent.index(keys.len())];
                // A child is no older than its parent.
                let at_s = (300 + age * 200).max(parent.start_ns / SECOND);
                let key = host.born(Some(parent), at_s, program);
                if barred == 0 {
                    host.barred.insert(key);
                }
                if dead == 0
                    && let Some(node) = host.nodes.last_mut()
                {
                    node.alive = false;
                }
                keys.push(key);
            }
            host
        })
    }

    proptest! {
        #[test]
        fn members_are_apart_and_free(host in any_host()) {
            let forest = host.forest();
            let ancestor = host.nodes[0].key;
            let Some(group) = host.find(ancestor) else { return Ok(()) };
            let mut born = 0;
            let mut seen: HashSet<ProcessKey> = HashSet::new();
            for member in &group.members {
                prop_assert!(*member != ancestor && member.start_ns >= OLDEST);
                prop_assert!(forest.get(*member).unwrap().alive);
                prop_assert_eq!(host.traits[member].of(group.by), Some(group.shared));
                for (node, _) in forest.tree(*member) {
                    prop_assert!(!host.barred.contains(&node.key), "protected, in a member");
                    prop_assert!(seen.insert(node.key), "in two members");
                    born += u64::from(node.alive && node.key.start_ns >= BEGIN);
                }
            }
            // Shares add up: nine tenths of what all of it has grown by is theirs, and no more than all.
            let new = |node: &&Node| node.alive && node.key.start_ns >= BEGIN;
            let whole = host.nodes.iter().filter(new).count() as u64;
            prop_assert!(whole > 0 && born * 10 >= whole * CARRIES && born <= whole);
            prop_assert!(group.members.len() >= 2);
            prop_assert!(group.members.is_sorted_by_key(|key| key.start_ns));
            let again = group.again(&forest, OLDEST, &host.barred, |key| host.traits[&key]);
            prop_assert_eq!(again, group.members, "nothing has changed");
        }
    }
}
