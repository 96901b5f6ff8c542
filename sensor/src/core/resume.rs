//! Investigations that were cut off, by a kill, a restart or a reboot: they pick up where they left off.
//!
//! What an earlier life had come to is read from the log, and from the file of its output what core had
//! not read of it yet. All evidence is given anew: no program's own memory can be relied upon.

use std::path::{Path, PathBuf};

use super::{
    desk::{Desk, Done},
    investigations::Asked,
};
use crate::{
    clock,
    config::Agent,
    incident::goes_on,
    investigate::{By, Ear, Past, agent, stages},
    proto::{self, record::Body},
    record::{Draft, Filter, ReadError, Reader},
};

/// Records that one look into the log takes.
const PAGE: u32 = 1024;

/// One that was running when the daemon went away.
#[derive(Clone, Debug)]
pub struct CutOff {
    pub incident: String,
    pub investigation: proto::Investigation,
}

/// The same, with what the log has of it.
#[derive(Debug)]
pub struct Recalled {
    cut_off: CutOff,
    evidence: Vec<proto::Evidence>,
    past: Past,
    /// Lines that it had written and nobody had read.
    unread: Vec<Vec<u8>>,
}

impl Desk {
    /// Finds what was cut off.
    pub(super) fn find_cut_off(&mut self) {
        let runs = self.incidents.looked_into().flat_map(|incident| {
            let id = &incident.id;
            let cut_off = incident.investigations.iter().filter(|run| goes_on(run)).cloned();
            cut_off.map(|investigation| CutOff { incident: id.clone(), investigation })
        });
        self.cut_off = runs.collect();
    }

    /// Takes up what was cut off, beside the desk's other work; what was cut off too often is over.
    pub fn resume(&mut self, state_dir: &Path) {
        let limit = self.investigations.resumes;
        let may_go_on = |CutOff { investigation, .. }: &CutOff| {
            investigation.agent != "builtin"
                && investigation.lives <= limit
                && !stages::are_over(investigation)
        };
        let (cut_off, over): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.cut_off).into_iter().partition(may_go_on);
        for one in over {
            self.give_up(&one, "the daemon went away meanwhile");
        }
        let kept: Vec<String> = cut_off.iter().map(|one| one.investigation.id.clone()).collect();
        self.investigations.tidy(&kept);
        for one in cut_off {
            let (state_dir, done) = (PathBuf::from(state_dir), self.done.clone());
            let scratch = self.investigations.scratch();
            let redactor = self.gatherer.redactor().clone();
            tokio::task::spawn_blocking(move || {
                let redact = |text: &[u8]| redactor.text(text).0;
                let recalled =
                    recall(&state_dir, &one).map(|(evidence, mut past, mut ear, seen)| {
                        let unread =
                            crate::investigate::unread(&scratch, &one.investigation.id, seen);
                        for line in &unread {
                            past.hear(&mut ear, &line.bytes);
                        }
                        let unread = unread.iter().map(|line| line.shown(&redact)).collect();
                        Recalled { cut_off: one.clone(), evidence, past, unread }
                    });
                let recalled = recalled.map_err(|error| (one, error.to_string()));
                // The desk is gone only when the daemon ends.
                let _ = done.send(Done::Recalled(Box::new(recalled)));
            });
        }
    }

    pub(super) fn recalled(&mut self, recalled: Result<Recalled, (CutOff, String)>) {
        let recalled = match recalled {
            Ok(recalled) => recalled,
            Err((one, why)) => {
                return self.give_up(&one, &format!("its past cannot be read: {why}"));
            }
        };
        let Recalled { cut_off, evidence, mut past, unread } = recalled;
        let (id, run) = (&cut_off.incident, &cut_off.investigation);
        for text in unread {
            past.lines += 1;
            let (investigation, line) = (run.id.clone(), past.lines);
            let transcript = proto::Transcript {
                investigation,
                line,
                stream: "stdout".into(),
                text,
                witnessed: None,
            };
            self.log.append(Draft::of(id.clone(), Body::Transcript(transcript)));
        }
        if self.incidents.get(id).is_some() {
            self.recall_sources(id, &evidence);
        }
        match self.investigations.named(&run.agent) {
            Ok(driver) => {
                let past = Some((run.clone(), past));
                let asked = Asked { driver, why: run.why.clone(), by: By::Resumed, past };
                self.investigate(id, asked, evidence);
            }
            Err(why) => self.give_up(&cut_off, &format!("it is not taken up again: {why}")),
        }
    }

    fn give_up(&mut self, one: &CutOff, why: &str) {
        let mut over = one.investigation.clone();
        stages::interrupt(&mut over, why, clock::wall());
        let incident = one.incident.clone();
        let over = super::investigations::Progress::State { incident, investigation: over.into() };
        drop(self.investigated(over));
    }
}

/// Evidence, past, who has listened to it, and how many lines of its output were read.
fn recall(
    state_dir: &Path,
    one: &CutOff,
) -> Result<(Vec<proto::Evidence>, Past, Ear, usize), ReadError> {
    let run = &one.investigation;
    let reader = Reader::open(state_dir)?;
    let filter = Filter::new(&one.incident, &["evidence", "transcript", "investigation"])?;
    let mut ear = Agent::of(&run.agent).and_then(agent::of);
    let mut past = Past::of(run);
    let (mut evidence, mut seen, mut from) = (Vec::new(), 0, 0);
    loop {
        let page = reader.records(from, &filter, PAGE)?;
        for record in page.records {
            match record.body {
                Some(Body::Evidence(item)) => evidence.push(item),
                // The incident has what was known at its last transition; this came since.
                Some(Body::Investigation(later)) if later.id == run.id => past.learn(&later),
                Some(Body::Transcript(line)) if line.investigation == run.id => {
                    past.lines = past.lines.max(line.line);
                    if line.stream == "stdout" {
                        seen += 1;
                        past.hear(&mut ear, &line.text);
                    }
                }
                _ => {}
            }
        }
        if page.end {
            return Ok((evidence, past, ear, seen));
        }
        from = page.next_seq;
    }
}
