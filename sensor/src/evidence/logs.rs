//! Lines from the minutes before: the journal, where there is one, and the files that the configuration
//! names. core opens them, `sensor parse` reads them; `journalctl` runs as nobody.

use std::{
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use prost_types::Timestamp;
use sensor_proto::{
    internal::v1::{LinesWanted, ParseAnswer, parse_job::What},
    json::escape,
};

use super::{Parser, Redactor, parse::clock_offset, plainly};
use crate::proto;

/// How many entries the journal is asked for, the latest: 5 MB/s come out of it.
const ENTRIES: &str = "--lines=5000";
const FIELDS: &str = "--output-fields=MESSAGE,PRIORITY,_SYSTEMD_UNIT,SYSLOG_IDENTIFIER,_COMM";

/// For all sources.
const PATIENCE: Duration = Duration::from_secs(3);

/// Of all lines that are told, bytes.
const BYTES: usize = 96 << 10;

/// Files that a configuration may name.
pub const FILES: usize = 16;

/// Whoever asks journalctl is in this group, or sees nothing of others.
const READERS: &str = "systemd-journal";

/// Where logs are.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    pub files: Vec<PathBuf>,
    /// The program that prints the journal; none: there is no journal.
    pub journalctl: Option<PathBuf>,
}

impl Sources {
    /// Of this host.
    pub fn here(files: Vec<PathBuf>) -> Self {
        let kept = ["/run/log/journal", "/var/log/journal"].iter().any(|it| Path::new(it).exists());
        let journalctl = ["/usr/bin/journalctl", "/bin/journalctl"].map(PathBuf::from);
        let journalctl = journalctl.into_iter().find(|program| kept && program.exists());
        Self { files, journalctl }
    }
}

/// `None`: there are no logs. And secrets that were replaced.
pub(super) fn of(
    parser: &Parser,
    sources: &Sources,
    window: Duration,
    redactor: &Redactor,
) -> Option<(proto::LogLines, u32)> {
    let (now, offset_s) = clock_offset();
    let wanted = |journal| {
        let since = now - window.as_secs() as i64;
        What::Lines(LinesWanted { since, now, offset_s, journal })
    };
    let mut logs = proto::LogLines { window_s: window.as_secs(), ..Default::default() };
    let mut asked: Vec<(OwnedFd, What)> = Vec::new();
    let mut names: Vec<String> = Vec::new();
    let mut journal = None;
    if let Some(program) = &sources.journalctl {
        match Journal::start(program, window) {
            Ok((running, pipe)) => {
                journal = Some(running);
                asked.push((pipe, wanted(true)));
                names.push("journal".to_owned());
            }
            Err(error) => logs.notes.push(format!("the journal cannot be asked: {error}")),
        }
    }
    for path in &sources.files {
        let name = escape(path.as_os_str().as_encoded_bytes());
        match plainly::open(path) {
            Ok(file) => {
                asked.push((file, wanted(false)));
                names.push(name);
            }
            Err(why) => logs.notes.push(format!("{name}: {why}")),
        }
    }
    let mut redactions = 0;
    if !asked.is_empty() {
        match parser.ask(asked, PATIENCE) {
            Ok(answers) => {
                for (name, answer) in names.iter().zip(answers) {
                    redactions += add(&mut logs, name, answer, redactor);
                }
            }
            Err(error) => logs.notes.push(format!("logs could not be read: {error}")),
        }
    }
    drop(journal);
    fit(&mut logs);
    let any = !logs.lines.is_empty() || !logs.notes.is_empty() || logs.omitted > 0;
    any.then_some((logs, redactions))
}

fn add(logs: &mut proto::LogLines, source: &str, answer: ParseAnswer, redactor: &Redactor) -> u32 {
    if !answer.error.is_empty() {
        logs.notes.push(format!("{source}: {}", escape(answer.error.as_bytes())));
    }
    if answer.cut {
        logs.notes.push(format!("{source}: only its end was read"));
    }
    let count = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    logs.omitted = logs.omitted.saturating_add(count(answer.omitted));
    logs.repeated_lines = logs.repeated_lines.saturating_add(count(answer.repeated));
    let mut redactions = 0;
    for line in answer.lines {
        let (text, more) = redactor.text(&line.text);
        let (writer, again) = redactor.text(&line.writer);
        redactions += more + again;
        let time = |at: Option<i64>| at.map(|seconds| Timestamp { seconds, nanos: 0 });
        logs.lines.push(proto::LogLine {
            at: time(line.at),
            until: time(line.until),
            repeats: line.repeats,
            source: source.to_owned(),
            writer: escape(&writer),
            severity: line.severity.map(|it| it.min(7)),
            text,
        });
    }
    redactions
}

/// In the order of their time, and within the bound: the least severe and oldest go.
fn fit(logs: &mut proto::LogLines) {
    let time = |line: &proto::LogLine| line.at.map_or(i64::MIN, |at| at.seconds);
    logs.lines.sort_by_key(time);
    let mut order: Vec<usize> = (0..logs.lines.len()).collect();
    order.sort_by_key(|at| (logs.lines[*at].severity.unwrap_or(5), std::cmp::Reverse(*at)));
    let mut room = BYTES;
    let mut kept = vec![false; logs.lines.len()];
    for at in order {
        let needed = logs.lines[at].text.len() + logs.lines[at].writer.len() + 32;
        if needed > room {
            logs.omitted = logs.omitted.saturating_add(logs.lines[at].repeats);
            let counted = logs.lines[at].repeats.saturating_sub(1);
            logs.repeated_lines = logs.repeated_lines.saturating_sub(counted);
            continue;
        }
        room -= needed;
        kept[at] = true;
    }
    let mut kept = kept.into_iter();
    logs.lines.retain(|_| kept.next() == Some(true));
}

/// `journalctl`, which does not outlive our interest in it.
struct Journal(Child);

impl Journal {
    fn start(program: &Path, window: Duration) -> std::io::Result<(Self, OwnedFd)> {
        let mut command = Command::new(program);
        command
            .args(["--output=json", "--no-pager", "--quiet", ENTRIES, FIELDS])
            .arg(format!("--since=-{}s", window.as_secs()))
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        if rustix::process::geteuid().is_root() {
            let nobody = nix::unistd::User::from_name("nobody").ok().flatten();
            let group = nix::unistd::Group::from_name(READERS).ok().flatten();
            let (uid, gid) =
                nobody.map_or((65_534, 65_534), |it| (it.uid.as_raw(), it.gid.as_raw()));
            command.uid(uid).gid(group.map_or(gid, |it| it.gid.as_raw()));
        }
        let mut running = Self(command.spawn()?);
        let pipe = running.0.stdout.take().ok_or(std::io::ErrorKind::BrokenPipe)?;
        Ok((running, pipe.into()))
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // It has ended, or nobody listens to it any more.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const MINUTES: Duration = Duration::from_mins(10);

    fn sources(directory: &Path, journal: &str, log: &str) -> Sources {
        // Whoever asks is nobody.
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).unwrap();
        let (stream, program, file) =
            (directory.join("stream"), directory.join("journalctl"), directory.join("app.log"));
        std::fs::write(&stream, journal).unwrap();
        std::fs::write(&program, format!("#!/bin/sh\nexec /bin/cat {}\n", stream.display()))
            .unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(&file, log).unwrap();
        let files = vec![file, directory.join("none.log")];
        Sources { files, journalctl: Some(program) }
    }

    #[test]
    fn a_recorded_journal_and_a_file_are_one_story() {
        let directory = tempfile::tempdir().unwrap();
        let now = crate::clock::wall().seconds;
        let entry = |at: i64, message: &str| {
            format!(
                "{{\"__REALTIME_TIMESTAMP\":\"{at}000000\",\"PRIORITY\":\"3\",\"_SYSTEMD_UNIT\":\"app.service\",\
                 \"MESSAGE\":\"{message}\"}}\n"
            )
        };
        let journal = [
            entry(now - 3000, "too old"),
            entry(now - 30, "PASSWORD=hunter2hunter2 refused 1"),
            entry(now - 20, "PASSWORD=hunter2hunter2 refused 2"),
        ];
        let log = format!("{} WARN out of handles\n{} INFO started\n", now - 25, now - 35);
        let sources = sources(directory.path(), &journal.concat(), &log);
        let redactor = Redactor::new([1; 16]);
        let (logs, redactions) = of(&Parser::here(), &sources, MINUTES, &redactor).unwrap();
        let told: Vec<(&str, u32, Option<u32>)> =
            logs.lines.iter().map(|it| (it.writer.as_str(), it.repeats, it.severity)).collect();
        assert_eq!(told, [("", 1, Some(6)), ("app.service", 2, Some(3)), ("", 1, Some(4))]);
        assert_eq!((redactions, logs.repeated_lines, logs.omitted), (1, 1, 0));
        assert!(!String::from_utf8_lossy(&logs.lines[1].text).contains("hunter2"));
        assert_eq!(logs.notes.len(), 1, "{:?}", logs.notes);
        assert!(logs.notes[0].ends_with("none.log: there is none"));
    }

    #[test]
    fn what_is_too_much_goes_by_severity() {
        let line = |severity: u32, seconds: i64| proto::LogLine {
            at: Some(Timestamp { seconds, nanos: 0 }),
            repeats: 2,
            severity: Some(severity),
            text: vec![b'x'; 1000],
            ..Default::default()
        };
        let mut logs = proto::LogLines { repeated_lines: 200, ..Default::default() };
        logs.lines = (0..200).map(|at| line(if at == 0 { 2 } else { 6 }, at)).collect();
        fit(&mut logs);
        let kept = BYTES / 1032;
        assert_eq!((logs.lines.len(), logs.omitted as usize), (kept, 2 * (200 - kept)));
        assert_eq!(logs.repeated_lines as usize, kept);
        assert_eq!(
            (logs.lines[0].severity, logs.lines[1].at.unwrap().seconds),
            (Some(2), 201 - kept as i64)
        );
    }
}
