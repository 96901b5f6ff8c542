//! `process_tree` and `process_detail`: the processes of the culprit's tree as they were gathered.

use sensor_proto::v1::{Evidence, Link, Process, ProcessTree, evidence::Content};

use super::{Daemon, Failed, page::Page, tools::Arguments};
use crate::render::{Fact, Facts, Kind};

pub(super) async fn tree(
    daemon: &mut Daemon,
    page: &mut Page<'_>,
    arguments: &Arguments,
) -> Result<(), Failed> {
    let Some((piece, tree)) = last_tree(daemon, arguments).await? else {
        page.note = Some("There is no tree of processes in this incident.");
        return Ok(());
    };
    page.facts = head(&piece)
        .with("processes", Fact::Count(tree.processes.len() as u64))
        .with("omitted", Fact::Count(tree.omitted.into()));
    page.list(arguments.skip()?, &tree.processes, |page, process| {
        let command = if process.argv.is_empty() {
            ("comm", page.text(Kind::Comm, process.comm.as_bytes()))
        } else {
            ("argv", page.argv(&process.argv))
        };
        numbers(process).with(command.0, command.1)
    });
    Ok(())
}

pub(super) async fn detail(
    daemon: &mut Daemon,
    page: &mut Page<'_>,
    arguments: &Arguments,
) -> Result<(), Failed> {
    let pid = arguments.pid.unwrap_or_default();
    if let Some((piece, tree)) = last_tree(daemon, arguments).await?
        && let Some(process) = tree.processes.iter().find(|process| process.pid == pid)
    {
        page.facts = head(&piece);
        let numbers = numbers(process)
            .with("comm", page.text(Kind::Comm, process.comm.as_bytes()))
            .with("argv", page.argv(&process.argv))
            .with("cwd", page.text(Kind::Cwd, &process.cwd))
            .with("exe", page.text(Kind::Exe, &process.exe))
            .with("cgroup", page.text(Kind::Cgroup, process.cgroup.as_bytes()));
        page.push(&numbers);
        for file in &process.open_files {
            let file = Facts::new().with("file", page.text(Kind::Path, file));
            page.push(&file);
        }
    }
    // A chain knows what was executed, also by who has ended.
    for piece in daemon.evidence().await? {
        let Some(Content::Chain(chain)) = &piece.content else { continue };
        let is = |link: &&Link| link.process.as_ref().is_some_and(|key| key.pid == pid);
        if let Some(link) = chain.links.iter().find(is) {
            let facts = Facts::new()
                .with("evidence", Fact::word(&piece.id))
                .with("pid", Fact::Count(pid.into()))
                .with("alive", Fact::Is(link.alive))
                .with("exec_ns", Fact::Lasting(link.exec_ns))
                .with("argv_bytes", Fact::Count(link.argv_bytes.into()))
                .with("argv", page.argv(&link.argv))
                .with("cwd", page.text(Kind::Cwd, &link.cwd))
                .with("exe", page.text(Kind::Exe, &link.exe));
            page.push(&facts);
        }
    }
    if page.is_empty() {
        page.note = Some("This process is in none of the trees and chains of this incident.");
    }
    Ok(())
}

/// The tree that was asked for, or the newest.
async fn last_tree(
    daemon: &mut Daemon,
    arguments: &Arguments,
) -> Result<Option<(Evidence, ProcessTree)>, Failed> {
    let pieces = match &arguments.evidence {
        Some(id) => vec![daemon.piece(id).await?],
        None => daemon.evidence().await?,
    };
    Ok(pieces.into_iter().rev().find_map(|mut piece| match piece.content.take() {
        Some(Content::Tree(tree)) => Some((piece, tree)),
        _ => None,
    }))
}

fn head(piece: &Evidence) -> Facts {
    let facts = Facts::new().with("evidence", Fact::word(&piece.id));
    match piece.at {
        Some(at) => facts.with("at", Fact::At(at)),
        None => facts,
    }
}

fn numbers(process: &Process) -> Facts {
    let parent = process.parent.as_ref().map_or(0, |parent| parent.pid);
    Facts::new()
        .with("pid", Fact::Count(process.pid.into()))
        .with("start_ns", Fact::Lasting(process.start_ns))
        .with("parent_pid", Fact::Count(parent.into()))
        .with("ppid", Fact::Count(process.ppid.into()))
        .with("uid", Fact::Count(process.uid.into()))
        .with("state", Fact::word(&process.state))
        .with("depth", Fact::Count(process.depth.into()))
        .with("threads", Fact::Count(process.threads.into()))
        .with("rss_bytes", Fact::Bytes(process.rss_bytes))
        .with("anon_bytes", Fact::Bytes(process.anon_bytes))
        .with("open_files", Fact::Count(process.fds.into()))
}
