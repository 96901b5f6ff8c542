//! `sensor watch --json` as a child: records while they happen.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::process::boot_ns;

/// A record, and when its line arrived here.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// As printed.
    pub record: Value,
    /// Boot clock, ns.
    pub read_ns: u64,
}

/// A running client.
#[derive(Debug)]
pub struct Watch {
    child: Child,
    arrivals: Receiver<Arrival>,
    seen: Vec<Arrival>,
}

impl Watch {
    /// Starts the command, which has to print one JSON object a line.
    pub fn start(mut command: Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .context("cannot start a watch")?;
        let stdout = child.stdout.take().context("the watch has no standard output")?;
        let (sender, arrivals) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let read_ns = boot_ns();
                let record = serde_json::from_str(&line)
                    .unwrap_or_else(|error| panic!("no JSON from watch: {error}: {line}"));
                if sender.send(Arrival { record, read_ns }).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, arrivals, seen: Vec::new() })
    }

    /// The next record, waiting for it; none: nothing came in time, or the watch has ended.
    pub fn next(&mut self, limit: Duration) -> Option<Arrival> {
        match self.arrivals.recv_timeout(limit) {
            Ok(arrival) => {
                self.seen.push(arrival.clone());
                Some(arrival)
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => None,
        }
    }

    /// The next record that is looked for; those before it are kept in [`Self::seen`].
    pub fn find(&mut self, limit: Duration, wanted: impl Fn(&Value) -> bool) -> Result<Arrival> {
        let end = Instant::now() + limit;
        while let Some(arrival) = self.next(end.saturating_duration_since(Instant::now())) {
            if wanted(&arrival.record) {
                return Ok(arrival);
            }
        }
        let kinds: Vec<&str> =
            self.seen.iter().filter_map(|arrival| arrival.record["kind"].as_str()).collect();
        bail!("not among the {} records of {limit:?}: {kinds:?}", kinds.len())
    }

    /// All records that were read until now.
    pub fn seen(&self) -> &[Arrival] {
        &self.seen
    }

    /// Kills the client without a word, and gives what it had printed until then.
    pub fn kill(mut self) -> Vec<Arrival> {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // The pipe's end ends the reader, and with it the channel.
        while let Ok(arrival) = self.arrivals.recv_timeout(Duration::from_secs(5)) {
            self.seen.push(arrival);
        }
        std::mem::take(&mut self.seen)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Identity of a record anywhere.
pub fn identity(record: &Value) -> Result<(String, u64)> {
    let log = record["log_id"].as_str().with_context(|| format!("no log_id: {record}"))?;
    Ok((log.to_owned(), number(&record["seq"])?))
}

/// A 64-bit number, which JSON carries as a string.
pub fn number(value: &Value) -> Result<u64> {
    match value {
        Value::String(text) => text.parse().with_context(|| format!("no number: {text}")),
        Value::Number(number) => number.as_u64().with_context(|| format!("no count: {number}")),
        other => bail!("no number: {other}"),
    }
}
