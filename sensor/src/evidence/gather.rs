//! Gathers the evidence of an incident: the tree first, for it changes from moment to moment, then
//! the chain, the host's pressure, the kernel log.
//!
//! The kernel's lineage says which processes there are and what they executed; /proc adds what it
//! still knows. Bounds in number and time hold for a tree of any size.

mod rest;
mod trees;

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    time::{Duration, Instant},
};

use sensor_common::respawn::Window;

use super::{
    EvidenceLog, Parser, Redactor, Sources,
    files::{self, Projects, SourceFiles, homes, reader::Reader},
    kmsg,
    memory::Memory,
    oom_report::{self, Report},
    proc::{Opened, Proc, Target, read_file},
    proportional, redact, room,
};
use crate::{
    cgroup::Hierarchies,
    detect::respawn::ending,
    diagnose,
    lineage::{FileId, Forest, Node, ProcessKey},
    proto::{self, evidence::Content},
    respond::surge::Tasks,
};

/// How much is gathered.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Processes of a tree that are listed; the others are counted.
    pub listed: usize,
    /// For a whole tree. One process takes about 0.1 ms, its totals alone 0.03 ms.
    pub patience: Duration,
    /// Open files that are named for each process.
    pub open_files: usize,
    /// Bytes of a command line that the kernel side did not record.
    pub argv: usize,
    /// Links of a chain, from the culprit down: a cycle shows within two turns.
    pub links: usize,
    /// Age of the oldest line of the kernel log.
    pub kernel_log: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Contained recursions have below 50; 512 take 400 KiB as a record.
            listed: 512,
            patience: Duration::from_millis(250),
            open_files: 16,
            argv: 4096,
            links: 512,
            // The minutes before an incident.
            kernel_log: Duration::from_mins(10),
        }
    }
}

/// From the culprit down to the crossing, not redacted: for the rules, never for a record.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    pub links: Vec<diagnose::Link>,
    /// Links below that were left out.
    pub omitted: usize,
}

/// A command that is restarted and fails at once, as it last ran, and how its runs ended.
#[derive(Clone, Debug, Default)]
pub struct Restarted {
    pub command: Node,
    pub window: Window,
    /// Length of the window, ns.
    pub span_ns: u64,
    /// Who sent the SIGKILL that ended the last run, in words, where that is how it ended.
    pub killer: Option<String>,
}

/// Looks at processes and host.
pub struct Gatherer {
    redactor: Redactor,
    limits: Limits,
    proc: Proc,
    homes: BTreeSet<PathBuf>,
    /// Without one there is nothing of which foreign files have to be read.
    parser: Option<Parser>,
    logs: Sources,
    /// Files by which deploys are known.
    markers: Vec<PathBuf>,
}

impl Gatherer {
    /// Of this host.
    pub fn new(redactor: Redactor, limits: Limits) -> Self {
        let passwd = read_file("/etc/passwd", 1 << 20).unwrap_or_default();
        Self {
            redactor,
            limits,
            proc: Proc::default(),
            homes: homes(&passwd),
            parser: None,
            logs: Sources::default(),
            markers: Vec::new(),
        }
    }

    /// The same with another /proc, for tests.
    #[must_use]
    pub fn with_proc(mut self, proc: Proc) -> Self {
        self.proc = proc;
        self
    }

    /// Logs that are read, and files by which deploys are known.
    #[must_use]
    pub fn with_logs(mut self, logs: Sources, markers: Vec<PathBuf>) -> Self {
        (self.logs, self.markers) = (logs, markers);
        self
    }

    /// Who decodes foreign files.
    #[must_use]
    pub fn with_parser(mut self, parser: Parser) -> Self {
        self.parser = Some(parser);
        self
    }

    pub fn parser(&self) -> Option<&Parser> {
        self.parser.as_ref()
    }

    pub fn redactor(&self) -> &Redactor {
        &self.redactor
    }

    /// What to stop, as people know it.
    pub fn culprit(&self, forest: &Forest, key: ProcessKey) -> proto::Culprit {
        let mut culprit =
            proto::Culprit { pid: key.tgid, start_ns: key.start_ns, ..Default::default() };
        if let Some(node) = forest.get(key) {
            let mut link = self.links(forest, &[node]).pop().unwrap_or_default();
            if link.argv.is_empty() {
                link.argv = self.program(forest, key).argv;
            }
            culprit.argv = self.redactor.argv(&link.argv).0;
            culprit.cwd = link.cwd;
            culprit.exe = link.exe;
        }
        if let Some(opened) = self.proc.open(key) {
            culprit.comm = self.redactor.name(&opened.stat.comm);
            culprit.cgroup = self.cgroup(&opened);
            culprit.uid = opened.status().uid;
            if culprit.cwd.is_empty() {
                culprit.cwd = opened.cwd().map(|cwd| cwd.path).unwrap_or_default();
            }
            if culprit.exe.is_empty() {
                culprit.exe = opened.exe().map(|exe| exe.path).unwrap_or_default();
            }
        }
        culprit.cwd = self.redactor.text(&culprit.cwd).0;
        culprit.exe = self.redactor.text(&culprit.exe).0;
        culprit
    }

    /// The group of a process as it may be told.
    fn cgroup(&self, opened: &Opened) -> String {
        self.redactor.line(&opened.cgroup())
    }

    /// The program that a process runs: what it executed, or what it was forked from; in its own
    /// directory.
    pub fn program(&self, forest: &Forest, key: ProcessKey) -> diagnose::Link {
        let line = forest.ancestry(key);
        let ran = line.iter().position(|node| node.exec.is_some() || node.adopted);
        let mut links = self.links(forest, &line[..ran.map_or(0, |at| at + 1)]);
        let own = links.first().map(|link| link.cwd.clone()).unwrap_or_default();
        let mut program = links.pop().unwrap_or_default();
        if !own.is_empty() {
            program.cwd = own;
        }
        program
    }

    /// The limit of tasks that a tree would meet first; of several the first one that lives.
    pub fn room(&self, forest: &Forest, roots: &[ProcessKey]) -> Option<Tasks> {
        let hierarchies = Hierarchies::at(self.proc.root()).ok()?;
        let mut trees = roots.iter().flat_map(|root| forest.tree(*root));
        let (living, _) = trees.find(|(node, _)| node.alive)?;
        room::tasks(self.proc.root(), &hierarchies, living.key.tgid)
    }

    /// The living processes of a tree, or of several beside each other, and their totals. Threads and bytes are those that could be
    /// read in time; a process that could not counts as one thread.
    pub fn tree(&self, forest: &Forest, roots: &[ProcessKey]) -> (proto::Evidence, proto::Tree) {
        let began = Instant::now();
        let mut totals = proto::Tree::default();
        let mut tree = proto::ProcessTree::default();
        let (mut redactions, mut truncated) = (0, false);
        let mut memory = Memory::new(&self.proc, self.limits.argv);
        // What the kernel side recorded has to do then: see `rest`.
        let exhausted = self.exhausted();
        let trees = roots.iter().flat_map(|root| forest.tree(*root));
        for (node, depth) in trees.filter(|(node, _)| node.alive) {
            totals.processes += 1;
            totals.depth = totals.depth.max(depth);
            let in_time = began.elapsed() < self.limits.patience && !exhausted;
            truncated |= !in_time;
            let listed = tree.processes.len() < self.limits.listed;
            let (threads, anon) = if (in_time || exhausted) && listed {
                let opened = in_time.then(|| self.proc.open(node.key)).flatten();
                let (process, more) = self.process(node, depth, opened.as_ref(), &mut memory);
                redactions += more;
                let sums = (process.threads, process.anon_bytes);
                tree.processes.push(process);
                sums
            } else {
                tree.omitted += 1;
                let opened = in_time.then(|| self.proc.open(node.key)).flatten();
                opened.map_or((0, 0), |opened| (opened.stat.threads, opened.status().anon))
            };
            totals.threads += threads.max(1);
            totals.anon_bytes += anon;
        }
        if !exhausted {
            proportional::fill(&mut tree.processes, &mut memory, proportional::CHEAP);
        }
        let evidence = proto::Evidence {
            name: "tree".to_owned(),
            source: "lineage, /proc/PID".to_owned(),
            truncated: truncated || tree.omitted > 0,
            redactions,
            content: Some(Content::Tree(tree)),
            ..Default::default()
        };
        (evidence, totals)
    }

    /// Of a tree that holds memory: reads the shares of its largest processes that were left out because they are
    /// large. Those that do not answer in time mark it; while memory is exhausted nobody is asked.
    pub fn proportional(&self, evidence: &mut proto::Evidence) {
        let Some(Content::Tree(tree)) = &mut evidence.content else { return };
        let all = !self.exhausted() && {
            let mut memory = Memory::thorough(&self.proc);
            proportional::fill(&mut tree.processes, &mut memory, u64::MAX)
        };
        evidence.truncated |= !all;
    }

    /// From the culprit down to `leaf`; without one, or when it is in another tree, to the deepest
    /// living process.
    pub fn chain(&self, forest: &Forest, culprit: ProcessKey, leaf: Option<ProcessKey>) -> Chain {
        let deepest = || {
            let tree = forest.tree(culprit);
            tree.iter().rev().find(|(node, _)| node.alive).map_or(culprit, |(node, _)| node.key)
        };
        let nodes = leaf
            .and_then(|leaf| forest.chain(culprit, leaf))
            .or_else(|| forest.chain(culprit, deepest()))
            .unwrap_or_default();
        let kept = nodes.len().min(self.limits.links);
        Chain { links: self.links(forest, &nodes[..kept]), omitted: nodes.len() - kept }
    }

    /// The chain as evidence.
    pub fn chain_evidence(&self, chain: &Chain) -> proto::Evidence {
        let mut redactions = 0;
        let links = chain.links.iter().map(|link| {
            let (argv, more) = self.redactor.argv(&link.argv);
            redactions += more;
            let mut clean = |path: &[u8]| {
                let (path, more) = self.redactor.text(path);
                redactions += more;
                path
            };
            proto::Link {
                process: Some(key(link.key)),
                alive: link.alive,
                exec_ns: link.exec_ns,
                argv,
                argv_bytes: link.argv_bytes,
                cwd: clean(&link.cwd),
                exe: clean(&link.exe),
            }
        });
        let links = links.collect();
        proto::Evidence {
            name: "chain".to_owned(),
            source: "lineage".to_owned(),
            truncated: chain.omitted > 0,
            redactions,
            content: Some(Content::Chain(proto::Chain { links })),
            ..Default::default()
        }
    }

    /// How the runs of a restarted command ended, as the kernel side counted them.
    pub fn ends_evidence(&self, restarted: &Restarted) -> proto::Evidence {
        let Restarted { window, span_ns, .. } = restarted;
        let text = format!(
            "window_s {}\nruns {}\nfailed_at_once {}\nran_together_ms {:.1}\nlast_end {}\n\
             otherwise_than_the_one_before {}\nby_signal {}\ncore_dumps {}\nbad_windows_in_a_row {}\n",
            span_ns / 1_000_000_000,
            window.runs,
            window.failed,
            window.ran_ns as f64 / 1e6,
            ending(window.code),
            window.otherwise,
            window.by_signal,
            window.dumped,
            window.row,
        );
        plain("ends", "sched_process_exit", text.into_bytes())
    }

    /// The files that rules may look at to explain this chain. Answers go into `log`.
    pub fn source_files<'a>(&'a self, chain: &Chain, log: &'a mut EvidenceLog) -> SourceFiles<'a> {
        let cwds = chain.links.iter().map(|link| link.cwd.as_slice());
        let projects = Projects::new(cwds, &self.homes);
        let living: Vec<ProcessKey> =
            chain.links.iter().filter(|link| link.alive).map(|link| link.key).collect();
        // With the rights of the first that is alive.
        let reader = Reader::start(&self.proc, &living);
        SourceFiles::new(reader, projects, self.parser.as_ref(), &self.redactor, log)
    }

    /// A file that an investigator asks for: see [`files::read_source`].
    pub fn read_source(
        &self,
        processes: &[ProcessKey],
        cwd: &[u8],
        path: &[u8],
    ) -> proto::Evidence {
        let cwd = self.real(processes, cwd);
        files::read_source(&self.proc, processes, &cwd, path, &self.homes, &self.redactor)
    }

    /// A directory whose recorded name lacks its secrets, by its own name: that of the first of these that is there.
    fn real(&self, processes: &[ProcessKey], cwd: &[u8]) -> Vec<u8> {
        let here = || processes.iter().filter_map(|key| Some(self.proc.open(*key)?.cwd()?.path));
        let is = |path: &Vec<u8>| self.redactor.text(path).0 == cwd;
        let named = (!redact::replaced(cwd).is_empty()).then(|| here().find(is)).flatten();
        named.unwrap_or_else(|| cwd.to_vec())
    }

    /// Stalls of the host (PSI); `None` where the kernel does not measure them.
    pub fn pressure(&self) -> Option<proto::Evidence> {
        let root = self.proc.root().join("pressure");
        let mut text = Vec::new();
        for resource in ["cpu", "memory", "io"] {
            let part = read_file(root.join(resource), 4096)?;
            for line in part.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                text.extend_from_slice(resource.as_bytes());
                text.push(b' ');
                text.extend_from_slice(line);
                text.push(b'\n');
            }
        }
        Some(plain("pressure", "/proc/pressure", text))
    }

    pub fn meminfo(&self) -> Option<proto::Evidence> {
        let text = read_file(self.proc.root().join("meminfo"), 16 << 10)?;
        Some(plain("meminfo", "/proc/meminfo", text))
    }

    /// The end of the kernel log; `None` where it cannot be read.
    pub fn kernel_log(&self) -> Option<proto::Evidence> {
        let (text, truncated) = kmsg::tail(self.limits.kernel_log)?;
        let (text, redactions) = self.redactor.text(&text);
        Some(proto::Evidence { truncated, redactions, ..plain("kernel_log", "/dev/kmsg", text) })
    }

    /// The kernel's newest report of the death of one of these; `None`: it is not in its log, or that cannot be
    /// read.
    pub fn oom_report(&self, pids: &[u32]) -> Option<Report> {
        let (text, _) = kmsg::tail(self.limits.kernel_log)?;
        let mut report = oom_report::reports(&text).into_iter().rev().find(|it| it.is_of(pids))?;
        let clean = |name: &mut String| *name = self.redactor.line(name);
        clean(&mut report.cgroup);
        report.candidates.iter_mut().for_each(|candidate| clean(&mut candidate.comm));
        report.victims.iter_mut().for_each(|victim| clean(&mut victim.comm));
        Some(report)
    }

    fn process(
        &self,
        node: &Node,
        depth: u32,
        opened: Option<&Opened>,
        memory: &mut Memory,
    ) -> (proto::Process, u32) {
        let mut process = proto::Process {
            pid: node.key.tgid,
            start_ns: node.key.start_ns,
            parent: node.parent.map(key),
            threads: 1,
            depth,
            ..Default::default()
        };
        // Programs rewrite their arguments; what they were at exec says more, and costs no lock.
        let mut argv = node.exec.as_ref().map(|exec| exec.argv.clone()).unwrap_or_default();
        let mut redactions = 0;
        if let Some(opened) = opened {
            let status = opened.status();
            process.ppid = opened.stat.ppid;
            let mut clean = |text: &[u8]| {
                let (text, more) = self.redactor.text(text);
                redactions += more;
                text
            };
            process.comm = sensor_proto::json::escape(&clean(&opened.stat.comm));
            process.state = opened.stat.state.to_string();
            process.threads = opened.stat.threads;
            process.rss_bytes = status.rss;
            process.anon_bytes = status.anon;
            process.swap_bytes = status.swap;
            process.cpu_ms = opened.stat.cpu_ms();
            process.fds_max = opened.most_files().unwrap_or(0);
            process.uid = status.uid;
            process.cgroup =
                String::from_utf8_lossy(&clean(opened.cgroup().as_bytes())).into_owned();
            process.cwd = opened.cwd().map(|cwd| clean(&cwd.path)).unwrap_or_default();
            process.exe = opened.exe().map(|exe| clean(&exe.path)).unwrap_or_default();
            let (fds, open_files) = opened.files(self.limits.open_files);
            process.fds = fds;
            process.open_files = open_files.iter().map(|file| clean(file)).collect();
            if argv.is_empty() {
                argv = memory.argv(node.key);
            }
        }
        let (argv, more) = self.redactor.argv(&argv);
        process.argv = argv;
        (process, redactions + more)
    }

    /// Paths come from processes that still are where they were at exec, by device and inode; one
    /// that has moved on or died had the path that another has for the same directory.
    fn links(&self, forest: &Forest, nodes: &[&Node]) -> Vec<diagnose::Link> {
        // Whoever started the culprit often stands where it began.
        let above = nodes.first().map(|node| forest.ancestry(node.key)).unwrap_or_default();
        let mut known = Paths::default();
        let mut memory = Memory::new(&self.proc, self.limits.argv);
        for node in above.into_iter().skip(1).take(4) {
            known.look(node, self.open(node).as_ref());
        }
        let seen: Vec<(Place, Place, Vec<Vec<u8>>)> = nodes
            .iter()
            .map(|node| {
                let opened = self.open(node);
                let (cwd, exe) = known.look(node, opened.as_ref());
                let argv = match (&node.exec, opened) {
                    (Some(exec), _) if !exec.argv.is_empty() => exec.argv.clone(),
                    // Was there before the sensor; a mere fork would only show its parent's.
                    (_, Some(_)) if node.adopted => memory.argv(node.key),
                    _ => Vec::new(),
                };
                (cwd, exe, argv)
            })
            .collect();
        let link = |(node, (cwd, exe, argv)): (&&Node, (Place, Place, Vec<Vec<u8>>))| {
            let bytes = argv.iter().map(|argument| argument.len() as u32 + 1).sum();
            let exec = node.exec.as_ref();
            diagnose::Link {
                key: node.key,
                alive: node.alive,
                exec_ns: exec.map_or(0, |exec| exec.at_ns),
                argv_bytes: exec.map_or(bytes, |exec| exec.argv_bytes),
                argv,
                cwd: known.path(cwd),
                exe: known.path(exe),
                program: exec.map(|exec| exec.exe).unwrap_or_default(),
                strict: exec.map_or(0, |exec| exec.strict),
                loose: exec.map_or(0, |exec| exec.loose),
            }
        };
        nodes.iter().zip(seen).map(link).collect()
    }

    fn open(&self, node: &Node) -> Option<Opened> {
        node.alive.then(|| self.proc.open(node.key)).flatten()
    }
}

/// A file that a process has or had, if anything is known.
enum Place {
    Path(Vec<u8>),
    Id(FileId),
}

/// Paths of files that processes are known to hold.
#[derive(Default)]
struct Paths(HashMap<FileId, Vec<u8>>);

impl Paths {
    /// Working directory and executable at exec.
    fn look(&mut self, node: &Node, opened: Option<&Opened>) -> (Place, Place) {
        let (cwd, exe) = node.exec.as_ref().map(|exec| (exec.cwd, exec.exe)).unwrap_or_default();
        let of = |target: fn(&Opened) -> Option<Target>| {
            opened.and_then(|opened| Some((opened, target(opened)?)))
        };
        (self.place(of(Opened::cwd), cwd), self.place(of(Opened::exe), exe))
    }

    fn place(&mut self, held: Option<(&Opened, Target)>, id: FileId) -> Place {
        let Some((opened, target)) = held else {
            return Place::Id(id);
        };
        let unknown = id == FileId::default();
        // A removed directory has no path any more.
        if target.deleted || !(unknown || opened.is(&target, id)) {
            return Place::Id(id);
        }
        if !unknown {
            self.0.entry(id).or_insert_with(|| target.path.clone());
        }
        Place::Path(target.path)
    }

    fn path(&self, place: Place) -> Vec<u8> {
        match place {
            Place::Path(path) => path,
            Place::Id(id) => self.0.get(&id).cloned().unwrap_or_default(),
        }
    }
}

fn key(key: ProcessKey) -> proto::ProcessKey {
    proto::ProcessKey { pid: key.tgid, start_ns: key.start_ns }
}

fn plain(name: &str, source: &str, text: Vec<u8>) -> proto::Evidence {
    proto::Evidence {
        name: name.to_owned(),
        source: source.to_owned(),
        content: Some(Content::Text(text)),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests;
