use std::{
    collections::BTreeSet,
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt as _, symlink},
    process::{Child, Command},
};

use nix::unistd::Uid;

use sensor_proto::internal::v1::{CallWanted, ForkWanted};

use super::{FileState::*, *};
use crate::evidence::proc::Proc;

/// A directory with everything that a file can be, and a process to read it as.
struct Scene {
    folder: tempfile::TempDir,
    process: Child,
    key: ProcessKey,
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn scene(uid: u32) -> Scene {
    use std::os::unix::process::CommandExt as _;
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(folder.path().join("sub")).unwrap();
    let mut command = Command::new("sleep");
    command.arg("60");
    if Uid::effective().is_root() {
        command.uid(uid).gid(uid);
    }
    let process = command.spawn().unwrap();
    let pid = process.id();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let ticks = stat.rsplit(')').next().unwrap().split_whitespace().nth(19).unwrap();
    let key = ProcessKey::new(pid, ticks.parse::<u64>().unwrap() * 10_000_000);
    Scene { folder, process, key }
}

impl Scene {
    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn with<T>(
        &self,
        parser: Option<&Parser>,
        look: impl FnOnce(&mut SourceFiles<'_>) -> T,
    ) -> (T, Vec<proto::Evidence>) {
        let redactor = Redactor::new([1; 16]);
        let mut log = EvidenceLog::default();
        let cwd = self.path("sub");
        let projects = Projects::new([cwd.as_os_str().as_encoded_bytes()], &BTreeSet::new());
        let reader = Reader::start(&Proc::default(), &[self.key]);
        let mut files = SourceFiles::new(reader, projects, parser, &redactor, &mut log);
        let looked = look(&mut files);
        (looked, log.take())
    }

    fn read(&self, names: &[&str]) -> (Vec<(String, FileState)>, Vec<proto::Evidence>) {
        self.with(None, |files| names.iter().map(|name| files.stands(&self.path(name))).collect())
    }

    fn state(&self, name: &str) -> FileState {
        self.read(&[name]).0.remove(0).1
    }
}

fn refused(why: &str) -> FileState {
    Refused(why.to_owned())
}

#[test]
fn a_file_becomes_evidence_once_and_without_its_secrets() {
    let scene = scene(12345);
    fs::write(scene.path("a"), "x\nTOKEN=hunter2\n").unwrap();
    let (answers, evidence) = scene.read(&["a", "b", "a"]);
    assert_eq!(answers[0].1, Present(b"x\nTOKEN=hunter2\n".to_vec()));
    assert_eq!(answers[1].1, Absent);
    assert_eq!((answers[0].0.as_str(), answers[1].0.as_str()), ("e1", "e2"));
    assert_eq!(answers[2], answers[0]);
    assert_eq!(evidence.len(), 2);
    let Some(Content::File(fact)) = &evidence[0].content else { panic!("no file") };
    assert!(fact.content.starts_with(b"x\nTOKEN=[redacted:value:"));
    assert_eq!(
        (fact.state(), fact.size, evidence[0].redactions),
        (file_fact::State::Present, 16, 1)
    );
}

#[test]
fn what_is_no_plain_file_is_refused_at_once() {
    let scene = scene(12345);
    nix::unistd::mkfifo(&scene.path("pipe"), nix::sys::stat::Mode::from_bits_truncate(0o666))
        .unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(scene.path("socket")).unwrap();
    symlink("/etc/passwd", scene.path("out")).unwrap();
    symlink("../../../../etc/passwd", scene.path("sub/up")).unwrap();
    symlink("loop", scene.path("loop")).unwrap();
    symlink("sub", scene.path("in")).unwrap();
    fs::write(scene.path("sub/f"), "f").unwrap();
    assert_eq!(scene.state("pipe"), refused("not a regular file"));
    assert_eq!(scene.state("socket"), refused("not a regular file"));
    assert_eq!(scene.state("sub"), refused("a directory"));
    for link in ["out", "sub/up", "loop"] {
        assert_eq!(scene.state(link), refused("a link that leads out of the project"), "{link}");
    }
    assert_eq!(scene.state("in/f"), Present(b"f".to_vec()));
    assert_eq!(scene.state("sub/f/g"), Absent);
    assert_eq!(scene.state("../x"), refused("not a plain absolute path"));
}

#[test]
fn a_huge_file_is_read_in_part() {
    let scene = scene(12345);
    let file = fs::File::create(scene.path("huge")).unwrap();
    file.set_len(1 << 40).unwrap();
    let (answers, evidence) = scene.read(&["huge"]);
    assert_eq!(answers[0].1, Present(vec![0; FILE_LIMIT]));
    let Some(Content::File(fact)) = &evidence[0].content else { panic!("no file") };
    assert!(evidence[0].truncated);
    assert_eq!(fact.size, 1 << 40);
}

#[test]
fn only_what_the_user_may_read() {
    if !Uid::effective().is_root() {
        println!("skipped: needs root to be another user");
        return;
    }
    let scene = scene(12345);
    fs::write(scene.path("own"), "own").unwrap();
    fs::write(scene.path("secret"), "secret").unwrap();
    fs::set_permissions(scene.path("secret"), Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(scene.path("sub"), Permissions::from_mode(0o700)).unwrap();
    fs::write(scene.path("sub/x"), "x").unwrap();
    assert_eq!(scene.state("own"), Present(b"own".to_vec()));
    assert_eq!(scene.state("secret"), refused("its user may not read it"));
    assert_eq!(scene.state("sub/x"), refused("its user may not read it"));
    // The rest of this process keeps its rights.
    assert_eq!(fs::read(scene.path("secret")).unwrap(), b"secret");
}

#[test]
fn no_process_no_files_and_not_without_end() {
    let mut scene = scene(12345);
    let names: Vec<String> = (0..70).map(|number| format!("f{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (answers, evidence) = scene.read(&names);
    assert_eq!(evidence.len(), FILES);
    assert_eq!(answers[FILES - 1].1, Absent);
    assert!(matches!(&answers[FILES].1, Refused(why) if why.starts_with("64 files")));

    scene.key.start_ns += 20_000_000;
    assert!(matches!(scene.state("a"), Refused(why) if why.starts_with("none of its processes")));
}

/// Stands for `sensor parse`, and does what it never should.
fn impostor(scene: &Scene, does: &str) -> Parser {
    let program = scene.path("impostor");
    // Written by somebody else: whatever this process forks meanwhile would hold it open for writing, and
    // it could not be run.
    let write = "printf '#!/bin/sh\\n%s\\n' \"$1\" > \"$2\" && chmod 755 \"$2\"";
    let mut shell = Command::new("sh");
    shell.args(["-c", write, "sh", does]).arg(&program);
    assert!(shell.status().unwrap().success());
    Parser::new(program, None)
}

fn fork() -> Of {
    Of::Fork(ForkWanted {})
}

#[test]
fn what_is_in_files_is_asked_for_and_cited() {
    let scene = scene(12345);
    fs::write(scene.path("a"), "x\nfork()\n").unwrap();
    let wanted = || Of::Call(CallWanted { words: vec![b"x".to_vec()], aliases: Vec::new() });
    let ((answers, parsed), evidence) = scene.with(Some(&Parser::here()), |files| {
        let nobody_asked = files.parsed().is_none();
        let answers = [("a", fork()), ("a", wanted()), ("b", fork()), ("sub", fork())]
            .map(|(name, wanted)| files.find(&scene.path(name), wanted));
        (answers, nobody_asked && matches!(files.parsed(), Some(Ok(()))))
    });
    assert!(parsed);
    let line = |answer: &Answer| match &answer.found {
        Found::File(Some(passage)) => (answer.evidence.clone(), passage.line),
        other => panic!("{other:?}"),
    };
    assert_eq!((line(&answers[0]), line(&answers[1])), (("e1".into(), 2), ("e1".into(), 1)));
    assert_eq!((&answers[2].found, &answers[3].found), (&Found::Absent, &Found::Refused));
    assert_eq!(evidence.len(), 3, "a file is read once, however often it is asked about");
}

#[test]
fn a_reader_that_fails_costs_what_is_in_files_and_nothing_else() {
    let scene = scene(12345);
    fs::write(scene.path("a"), "fork()\n").unwrap();
    let failed = "`sensor parse` failed on what it was given to read";
    let nonsense = "`sensor parse` answered what cannot be";
    for (does, why) in [
        ("exit 0", failed),
        ("kill -SEGV $$", failed),
        // Half a length, half a message.
        ("printf '\\0\\0' >&0", failed),
        ("printf '\\0\\0\\0\\11x' >&0", failed),
        // More than anybody asked for; no protobuf; an error; a passage beyond the end of the file. It
        // stays until it has been heard.
        ("printf '\\377\\377\\377\\377x' >&0; cat", nonsense),
        ("printf '\\0\\0\\0\\1\\377' >&0; cat", nonsense),
        ("printf '\\0\\0\\0\\3\\32\\1x' >&0; cat", nonsense),
        ("printf '\\0\\0\\0\\4\\132\\2\\10\\77' >&0; cat", nonsense),
    ] {
        let parser = impostor(&scene, does);
        let ((answers, said), evidence) = scene.with(Some(&parser), |files| {
            let answers = [0, 1].map(|_| files.find(&scene.path("a"), fork()));
            (answers, files.parsed().unwrap().unwrap_err().to_string())
        });
        assert_eq!(said, why, "{does}");
        for answer in answers {
            assert_eq!(
                (answer.evidence.as_str(), answer.found),
                ("e1", Found::File(None)),
                "{does}"
            );
        }
        let Some(Content::File(fact)) = &evidence[0].content else { panic!("no file") };
        assert_eq!(fact.content, b"fork()\n", "{does}: what stands there is known all the same");
    }
    let ((), _) = scene.with(Some(&Parser::new(scene.path("none"), None)), |files| {
        files.find(&scene.path("a"), fork());
        let why = files.parsed().unwrap().unwrap_err().to_string();
        assert!(why.starts_with("`sensor parse` cannot be started: "), "{why}");
    });
}
