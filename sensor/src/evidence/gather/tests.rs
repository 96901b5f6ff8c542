use std::{path::Path, process};

use super::*;
use crate::lineage::Exec;

fn gatherer() -> Gatherer {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/evidence/fixtures/proc");
    Gatherer::new(Redactor::new([1; 16]), Limits::default()).with_proc(Proc::at(fixture))
}

const NODE: ProcessKey = ProcessKey::new(4242, 1_234_560_000_000);
const SHELL: ProcessKey = ProcessKey::new(4300, 1_234_700_000_000);

fn list(argv: &[&str]) -> Vec<Vec<u8>> {
    argv.iter().map(|argument| argument.as_bytes().to_vec()).collect()
}

fn node(key: ProcessKey, parent: Option<ProcessKey>, argv: Option<&[&str]>) -> Node {
    let exec = argv.map(|argv| Exec {
        at_ns: key.start_ns + 1,
        argv: list(argv),
        argv_bytes: 9,
        strict: 5,
        loose: 7,
        ..Exec::default()
    });
    Node { key, parent, alive: true, exec, ..Node::default() }
}

fn forest() -> Forest {
    let gone = ProcessKey::new(5000, 1_234_800_000_000);
    let dead = ProcessKey::new(5001, 1_234_800_000_000);
    Forest::new([
        node(NODE, None, Some(&["node", "/usr/bin/npm", "run", "quux"])),
        node(SHELL, Some(NODE), Some(&["sh", "-c", "TOKEN=hunter2 x"])),
        node(gone, Some(SHELL), None),
        Node { alive: false, ..node(dead, Some(SHELL), None) },
    ])
}

#[test]
fn a_tree_joins_kernel_and_proc() {
    let (evidence, totals) = gatherer().tree(&forest(), &[NODE]);
    let Some(Content::Tree(tree)) = &evidence.content else { panic!("no tree") };
    let [node, shell, gone] = &tree.processes[..] else { panic!("three are alive") };
    // The title that the program gave itself does not count.
    assert_eq!(node.argv, list(&["node", "/usr/bin/npm", "run", "quux"]));
    assert_eq!((node.comm.as_str(), node.state.as_str()), ("od) S 1 (d\\x0ax", "S"));
    assert_eq!((node.ppid, node.uid, node.fds, node.open_files.len()), (4000, 1000, 3, 3));
    assert_eq!(node.cgroup, "/user.slice/run-1.scope");
    assert!(shell.argv[2].starts_with(b"TOKEN=[redacted:value:"));
    assert_eq!((shell.depth, shell.parent), (1, Some(key(NODE))));
    // Alive for the kernel, gone from /proc by now.
    assert_eq!((gone.pid, gone.threads, gone.state.as_str()), (5000, 1, ""));
    assert_eq!((evidence.redactions, evidence.truncated, tree.omitted), (1, false, 0));
    let anon = (50_000 + 100) << 10;
    assert_eq!(totals, proto::Tree { processes: 3, threads: 13, anon_bytes: anon, depth: 2 });
}

#[test]
fn a_tree_without_end_is_cheap_and_counted() {
    let top = ProcessKey::new(1_000_000, 1);
    let children = (1..20_000).map(|at| {
        let parent = ProcessKey::new(1_000_000 + (at - 1) / 2, 1);
        node(ProcessKey::new(1_000_000 + at, 1), Some(parent), Some(&["x"]))
    });
    let forest = Forest::new([node(top, None, Some(&["x"]))].into_iter().chain(children));
    let began = Instant::now();
    let (evidence, totals) = gatherer().tree(&forest, &[top]);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let Some(Content::Tree(tree)) = &evidence.content else { panic!("no tree") };
    assert_eq!((tree.processes.len(), tree.omitted), (512, 19_488));
    assert_eq!((totals.processes, totals.threads), (20_000, 20_000));
    assert!(evidence.truncated);
}

#[test]
fn a_chain_ends_at_the_leaf_or_the_deepest_that_lives() {
    let gatherer = gatherer();
    let forest = forest();
    let keys = |leaf| -> Vec<u32> {
        let chain = gatherer.chain(&forest, NODE, leaf);
        chain.links.iter().map(|link| link.key.tgid).collect()
    };
    assert_eq!(keys(Some(SHELL)), [4242, 4300]);
    assert_eq!(keys(Some(ProcessKey::new(1, 1))), [4242, 4300, 5000]);
    assert_eq!(keys(None), [4242, 4300, 5000]);
    assert!(gatherer.chain(&Forest::default(), NODE, None).links.is_empty());

    let chain = gatherer.chain(&forest, NODE, Some(SHELL));
    // For the rules as it was, for the record without the secret.
    assert_eq!(chain.links[1].argv, list(&["sh", "-c", "TOKEN=hunter2 x"]));
    assert_eq!((chain.links[1].loose, chain.links[1].exec_ns), (7, SHELL.start_ns + 1));
    let evidence = gatherer.chain_evidence(&chain);
    let Some(Content::Chain(told)) = &evidence.content else { panic!("no chain") };
    assert!(told.links[1].argv[2].starts_with(b"TOKEN=[redacted:value:"));
    assert_eq!(evidence.redactions, 1);
}

#[test]
fn a_chain_is_cut_at_its_deep_end() {
    let limits = Limits { links: 1, ..Limits::default() };
    let gatherer = Gatherer { limits, ..gatherer() };
    let chain = gatherer.chain(&forest(), NODE, Some(SHELL));
    assert_eq!((chain.links.len(), chain.omitted), (1, 1));
    assert!(gatherer.chain_evidence(&chain).truncated);
}

#[test]
fn what_was_fixed_at_exec_decides_about_paths() {
    // This process and its parent, on the real /proc.
    let own = Proc::default();
    let pid = process::id();
    let ticks = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields = stat.rsplit(')').next().unwrap().to_owned();
        fields.split_whitespace().nth(19).unwrap().parse::<u64>().unwrap()
    };
    let this = ProcessKey::new(pid, ticks(pid) * 10_000_000);
    let here = std::env::current_dir().unwrap().into_os_string().into_encoded_bytes();
    let id = |path: &str| {
        let found = rustix::fs::statx(
            rustix::fs::CWD,
            path,
            rustix::fs::AtFlags::empty(),
            rustix::fs::StatxFlags::INO,
        );
        let found = found.unwrap();
        FileId { ino: found.stx_ino, dev: found.stx_dev_major << 20 | found.stx_dev_minor, zero: 0 }
    };
    let gatherer = Gatherer::new(Redactor::new([1; 16]), Limits::default()).with_proc(own);
    let cwd = |cwd: FileId| {
        let mut there = node(this, None, Some(&["x"]));
        there.exec.as_mut().unwrap().cwd = cwd;
        // Dead, in the same directory.
        let gone = ProcessKey::new(4_194_000, 1);
        let mut child = Node { alive: false, ..node(gone, Some(this), Some(&["y"])) };
        child.exec.as_mut().unwrap().cwd = id(".");
        let chain = gatherer.chain(&Forest::new([there, child]), this, Some(gone));
        chain.links.into_iter().map(|link| link.cwd).collect::<Vec<_>>()
    };
    // Still there: both have the path.
    assert_eq!(cwd(id(".")), [here.clone(), here.clone()]);
    // Was elsewhere at exec: nobody knows where, and nobody knows the dead one's either.
    assert_eq!(cwd(id("/proc")), [Vec::<u8>::new(), Vec::new()]);
    // Not known where it was at exec: where it is now.
    assert_eq!(cwd(FileId::default()), [here, Vec::new()]);
}

#[test]
fn a_culprit_has_its_exec_and_its_user() {
    let culprit = gatherer().culprit(&forest(), NODE);
    assert_eq!(culprit.argv, list(&["node", "/usr/bin/npm", "run", "quux"]));
    assert_eq!((culprit.pid, culprit.uid, culprit.cwd), (4242, 1000, b"/srv/quux".to_vec()));
    assert_eq!(culprit.cgroup, "/user.slice/run-1.scope");
    // Gone, with all that only /proc knew.
    let gone = gatherer().culprit(&forest(), ProcessKey::new(9, 9));
    assert_eq!((gone.pid, gone.comm.as_str()), (9, ""));
}

#[test]
fn the_host_in_its_own_words() {
    let gatherer = Gatherer::new(Redactor::new([1; 16]), Limits::default());
    let Some(Content::Text(meminfo)) = gatherer.meminfo().unwrap().content else { panic!("text") };
    assert!(meminfo.starts_with(b"MemTotal:"));
    match gatherer.pressure() {
        None => println!("skipped: no PSI here"),
        Some(evidence) => {
            let Some(Content::Text(text)) = evidence.content else { panic!("text") };
            let text = String::from_utf8(text).unwrap();
            assert!(text.contains("memory some avg10=") && text.contains("io full "), "{text}");
        }
    }
}

#[test]
fn on_a_host_without_memory_nobody_looks_at_processes() {
    let root = tempfile::tempdir().unwrap();
    let meminfo = "MemTotal: 8388608 kB\nMemFree: 1000 kB\nMemAvailable: 131071 kB\n";
    std::fs::write(root.path().join("meminfo"), meminfo).unwrap();
    let gatherer = Gatherer::new(Redactor::new([1; 16]), Limits::default())
        .with_proc(Proc::at(root.path()))
        .with_parser(Parser::here());
    let (mut evidence, totals) = gatherer.tree(&forest(), &[NODE]);
    gatherer.proportional(&mut evidence);
    let Some(Content::Tree(tree)) = &evidence.content else { panic!("no tree") };
    // What the kernel side has recorded is there all the same.
    assert_eq!(tree.processes[0].argv, list(&["node", "/usr/bin/npm", "run", "quux"]));
    assert_eq!((totals.processes, totals.anon_bytes, evidence.truncated), (3, 0, true));
    let mut log = EvidenceLog::default();
    gatherer.rest(&forest(), &[NODE], &mut log);
    let left_out = log.take();
    let [left_out] = &left_out[..] else { panic!("{left_out:?}") };
    let Some(Content::Text(text)) = &left_out.content else { panic!("{left_out:?}") };
    assert_eq!(
        std::str::from_utf8(text).unwrap(),
        "stacks: the host is out of memory\nopen_files: the host is out of memory\n\
         setting: the host is out of memory\nlogs: the host is out of memory\n\
         changes: the host is out of memory\n"
    );
    assert_eq!((left_out.name.as_str(), left_out.truncated), ("not_gathered", true));
}
