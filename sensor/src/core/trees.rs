//! Trees of processes, for whoever looks on and for the flight recorder: counted once a second, for all of
//! them together; what a tree is called is read for the few that are shown.

use std::{
    collections::{HashMap, HashSet},
    mem,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sensor_proto::internal::v1::tell::What;
use tokio::sync::Semaphore;
use tonic::Code;

use super::{desk::Desk, memory::Outlook};
use crate::{
    cgroup::{self, Hierarchies},
    clock,
    evidence::gather::Gatherer,
    feed::link::Reply,
    kernel::{Lineage, Memory},
    lineage::{
        ProcessKey,
        trees::{Census, Place, Tree},
    },
    proto::{self, ListTreesRequest, LiveTree, State, TopTree, TreeList},
};

/// The flight recorder counts every second. Older than this, it does not run.
const RECENT_NS: u64 = 2_000_000_000;

/// A process may give itself another name; that is found out after this long.
const BELIEVED_NS: u64 = 10_000_000_000;

/// Trees of a list for which no number is given: a screen.
const LISTED: usize = 20;

/// Processes that are looked at one by one for a list, 0.03 ms each, and how long that may take in all.
const LOOKED_AT: usize = 512;
const PATIENCE: Duration = Duration::from_millis(20);

/// Lists that are made at once, and how long another one waits for its turn. A process can keep who reads its
/// arguments waiting for ever: that costs lists, and nothing else.
const AT_ONCE: usize = 4;
const TURN: Duration = Duration::from_secs(2);

/// Counts processes and names trees.
pub struct Trees {
    lineage: Arc<Lineage>,
    gatherer: Arc<Gatherer>,
    hierarchies: Hierarchies,
    memory: Arc<Memory>,
    last: Mutex<Arc<Census>>,
    /// How fast trees grow, for as long as that is known.
    outlook: Mutex<Outlook>,
    stood: Mutex<Stood>,
    turns: Arc<Semaphore>,
}

/// What stood out a second ago.
#[derive(Default)]
struct Stood {
    trees: Vec<Tree>,
    /// Among whom, and after which sample of memory.
    among: Option<(Arc<Census>, u64)>,
    names: HashMap<ProcessKey, Name>,
}

/// What a root was called.
struct Name {
    /// While it ran this.
    signature: u64,
    asked_ns: u64,
    comm: String,
}

/// An unresolved incident, and where it is.
struct Bearing {
    id: String,
    contained: bool,
    roots: Vec<ProcessKey>,
}

/// The same among the processes that were counted.
struct Placed<'a> {
    incident: &'a Bearing,
    places: Vec<Place>,
}

impl Trees {
    pub fn new(
        lineage: Arc<Lineage>,
        memory: Arc<Memory>,
        gatherer: Arc<Gatherer>,
        hierarchies: Hierarchies,
    ) -> Self {
        let last = Mutex::new(Arc::new(Census::new(lineage.counted(), clock::boot_ns(), None)));
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        Self {
            lineage,
            gatherer,
            hierarchies,
            memory,
            last,
            outlook: Mutex::default(),
            stood: Mutex::default(),
            turns,
        }
    }

    /// How fast trees grow.
    pub fn outlook(&self) -> MutexGuard<'_, Outlook> {
        // A sample that was taken in by half is replaced by the next one.
        self.outlook.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same processes with what they hold. Where /proc would have to do, as the last sample has it: nobody
    /// looks at all processes there because somebody looks on.
    fn weighed(&self, census: &Arc<Census>) -> Arc<Census> {
        if self.memory.refused().is_some() {
            return Arc::clone(census);
        }
        match self.memory.look(&self.lineage) {
            Ok(look) => Arc::new(census.weighed(|slot, key| look.of(slot, key))),
            Err(_) => Arc::clone(census),
        }
    }

    fn last(&self) -> MutexGuard<'_, Arc<Census>> {
        // What is under the lock is replaced as a whole.
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts all processes, and compares with the last time.
    fn count(&self) -> Arc<Census> {
        let mut last = self.last();
        let now = Census::new(self.lineage.counted(), clock::boot_ns(), Some(&last));
        *last = Arc::new(now);
        Arc::clone(&last)
    }

    /// As they were counted last, or are now where nobody does so.
    pub fn recent(&self) -> Arc<Census> {
        let last = Arc::clone(&self.last());
        if clock::boot_ns().saturating_sub(last.at_ns) < RECENT_NS { last } else { self.count() }
    }

    /// For the flight recorder, once a second: counts, and names those that stand out.
    pub fn outstanding(&self) -> Vec<TopTree> {
        let census = self.count();
        let outlook = self.outlook();
        let mut stood = self.stood.lock().unwrap_or_else(PoisonError::into_inner);
        let Stood { trees, among, names } = &mut *stood;
        let is_known = |(before, sampled_ns): &(Arc<Census>, u64)| {
            census.rests_since(before) && *sampled_ns == outlook.sampled_ns()
        };
        if !among.as_ref().is_some_and(is_known) {
            let held = |root: ProcessKey| {
                let growth = outlook.of(proto_key(root))?;
                Some((growth.bytes, growth.per_second.max(0.0) as u64))
            };
            *trees = census.outstanding(held);
            *among = Some((Arc::clone(&census), outlook.sampled_ns()));
        }
        let mut before = mem::take(names);
        let top = |tree: &Tree| {
            let growth = outlook.of(proto_key(tree.root)).unwrap_or_default();
            let signature = census.signature(tree);
            let known = before.remove(&tree.root).filter(|known| {
                known.signature == signature
                    && census.at_ns.saturating_sub(known.asked_ns) < BELIEVED_NS
            });
            let name = known.unwrap_or_else(|| Name {
                signature,
                asked_ns: census.at_ns,
                comm: self.gatherer.name(tree.root, || self.lineage.argv(tree.slot, tree.root)),
            });
            let comm = name.comm.clone();
            names.insert(tree.root, name);
            TopTree {
                pid: tree.root.tgid,
                start_ns: tree.root.start_ns,
                comm,
                processes: tree.live,
                forks: tree.forked,
                bytes: growth.bytes,
                bytes_per_second: growth.per_second,
                threads: growth.threads,
                stalled_ns: self.lineage.stalls().of(tree.slot, tree.root).tree_ns,
                exhausted_in_s: growth.exhausted_in_s,
            }
        };
        trees.iter().map(top).collect()
    }

    fn list(
        &self,
        request: &ListTreesRequest,
        incidents: &[Bearing],
    ) -> Result<TreeList, (Code, String)> {
        let mut census = self.weighed(&self.recent());
        if !request.cgroup.is_empty() {
            census = Arc::new(census.within(&self.groups(&request.cgroup)?));
        }
        let limit = if request.limit == 0 { LISTED } else { request.limit as usize };
        let (trees, omitted) = census.trees(request.order(), limit);
        let totals = self.totals(&census, &trees);
        let placed = |incident| Placed { incident, places: census.find(&incident.roots) };
        let incidents: Vec<Placed<'_>> = incidents.iter().map(placed).collect();
        let named = trees.iter().zip(totals).map(|(tree, totals)| {
            let (threads, anon_bytes) = totals.unzip();
            LiveTree { threads, anon_bytes, ..self.describe(&census, tree, &incidents) }
        });
        Ok(TreeList {
            trees: named.collect(),
            at: Some(clock::wall_of(census.at_ns)),
            boot_ns: census.at_ns,
            span_ns: census.span_ns,
            omitted: omitted as u32,
            processes: census.living(),
            forks: census.forked(),
        })
    }

    /// Threads and anonymous memory of each of the trees, as far down the list as there is time.
    fn totals(&self, census: &Census, trees: &[Tree]) -> Vec<Option<(u32, u64)>> {
        let (began, mut looked_at) = (Instant::now(), 0);
        let totals = trees.iter().map(|tree| {
            looked_at += tree.live as usize;
            let in_time = || looked_at <= LOOKED_AT && began.elapsed() < PATIENCE;
            self.gatherer.totals(census.living_of(tree), in_time)
        });
        totals.collect()
    }

    /// A cgroup and those below it.
    fn groups(&self, path: &str) -> Result<HashSet<u64>, (Code, String)> {
        let below = |path: &Path| cgroup::ids(&self.hierarchies.dir(path)?).ok();
        let absolute = Some(Path::new(path)).filter(|path| path.is_absolute());
        absolute
            .and_then(below)
            .ok_or_else(|| (Code::NotFound, format!("there is no cgroup {path} (v2)")))
    }

    fn describe(&self, census: &Census, tree: &Tree, incidents: &[Placed<'_>]) -> LiveTree {
        let root = self.gatherer.root(tree.root, || self.lineage.argv(tree.slot, tree.root));
        let span_s = census.span_ns as f64 / 1e9;
        let bears = |placed: &&Placed| placed.places.iter().any(|place| census.is_of(tree, *place));
        let incidents = incidents.iter().filter(bears).map(|placed| placed.incident);
        let key = proto_key(tree.root);
        let growth = self.outlook().of(key);
        // What stands still says more than what is only known.
        let incident = incidents.max_by_key(|incident| incident.contained);
        LiveTree {
            root: Some(key),
            alive: tree.alive,
            processes: tree.live,
            forks: tree.forks,
            forks_per_second: if span_s > 0.0 { f64::from(tree.forked) / span_s } else { 0.0 },
            growth: tree.grown,
            age_ns: census.at_ns.saturating_sub(tree.root.start_ns),
            incident: incident.map(|it| it.id.clone()).unwrap_or_default(),
            contained: incident.is_some_and(|it| it.contained),
            bytes: tree.bytes.or(growth.map(|growth| growth.bytes)),
            bytes_per_second: growth.map(|growth| growth.per_second),
            exhausted_in_s: growth.and_then(|growth| growth.exhausted_in_s),
            stalled_ns: self.lineage.stalls().of(tree.slot, tree.root).tree_ns,
            ..root
        }
    }
}

fn proto_key(key: ProcessKey) -> proto::ProcessKey {
    proto::ProcessKey { pid: key.tgid, start_ns: key.start_ns }
}

impl Desk {
    /// Answered beside the desk: names are read from /proc.
    pub fn trees_asked(&self, request: ListTreesRequest, reply: Reply) {
        let bearing = |incident: &proto::Incident| Bearing {
            id: incident.id.clone(),
            contained: incident.state() == State::Contained,
            roots: self.incidents.roots(&incident.id),
        };
        let incidents: Vec<Bearing> = self.incidents.iter().map(bearing).collect();
        let trees = Arc::clone(&self.trees);
        tokio::spawn(async move {
            let turn = Arc::clone(&trees.turns).acquire_owned();
            let Ok(Ok(turn)) = tokio::time::timeout(TURN, turn).await else {
                return reply.refuse(Code::ResourceExhausted, "too many ask for trees; try again");
            };
            tokio::task::spawn_blocking(move || {
                match trees.list(&request, &incidents) {
                    Ok(list) => reply.send(What::Trees(list)),
                    Err((code, why)) => reply.refuse(code, why),
                }
                drop(turn);
            });
        });
    }
}
