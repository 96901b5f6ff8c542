//! Evidence by its kind or its id: `stacks`, `logs`, `cgroup`, `oom_record`, `evidence`; and `text`, by
//! which a long text goes on.

use sensor_proto::v1::{Evidence, evidence::Content, record::Body};

use super::{Daemon, Failed, page::Page, tools::Arguments};
use crate::{
    investigate::claims,
    render::{Fact, Facts, Kind, Wanted, gathered},
};

/// Which pieces a tool is about.
#[derive(Clone, Copy)]
pub(super) struct Interest {
    /// Names of evidence; empty: all.
    names: &'static [&'static str],
    /// What is said where there is none.
    none: &'static str,
}

pub(super) const STACKS: Interest =
    Interest { names: &["stacks"], none: "There is no record of stacks in this incident." };

pub(super) const LOGS: Interest = Interest {
    names: &["logs", "kernel_log"],
    none: "There is no record of logs in this incident.",
};

pub(super) const CGROUP: Interest = Interest {
    names: &["setting", "cgroup", "pressure", "meminfo"],
    none: "There is no record of limits and pressure in this incident.",
};

pub(super) const ALL: Interest =
    Interest { names: &[], none: "There is no evidence in this incident yet." };

/// Of several pieces only a little of each is shown.
const BEGINNINGS: &str =
    "Of each piece its beginning is shown. Ask again with its id as `evidence` for all of it.";

const OOM: &str = "oom";

const NO_OOM: &str = "There is no record of an OOM kill in this incident.";

impl Interest {
    fn wants(self, piece: &Evidence) -> bool {
        self.names.is_empty() || self.names.contains(&piece.name.as_str())
    }
}

pub(super) async fn show(
    daemon: &mut Daemon,
    page: &mut Page<'_>,
    arguments: &Arguments,
    interest: Interest,
) -> Result<(), Failed> {
    if let Some(id) = &arguments.evidence {
        let piece = daemon.piece(id).await?;
        if !interest.wants(&piece) {
            return Err(format!("{id} is evidence of another kind: `evidence` shows it"));
        }
        one(page, &piece, arguments.skip()?);
        return Ok(());
    }
    let pieces = daemon.evidence().await?;
    list(page, pieces.iter().filter(|piece| interest.wants(piece)), arguments.skip()?);
    if !page.is_empty() {
        page.note = Some(BEGINNINGS);
    } else if arguments.cursor()? == 0 {
        page.note = Some(interest.none);
    }
    Ok(())
}

/// OOM kills are what the incident is about, evidence, or observations in its course.
pub(super) async fn oom(
    daemon: &mut Daemon,
    page: &mut Page<'_>,
    arguments: &Arguments,
) -> Result<(), Failed> {
    if let Some(id) = &arguments.evidence {
        let piece = daemon.piece(id).await?;
        one(page, &piece, arguments.skip()?);
        return Ok(());
    }
    let mut pieces = daemon.evidence().await?;
    pieces.retain(|piece| piece.name.starts_with(OOM));
    let incident = daemon.incident().await?;
    // Of an incident about them, what was made of all that was seen.
    if let Ok(serde_json::Value::Object(facts)) = serde_json::to_value(&incident)
        && let Some(oom) = facts.get(OOM).filter(|oom| !oom.is_null())
    {
        pieces.push(Evidence {
            id: claims::INCIDENT.to_owned(),
            name: OOM.to_owned(),
            source: "the kernel".to_owned(),
            at: incident.opened_at,
            content: Some(Content::Text(pretty(oom))),
            ..Evidence::default()
        });
    }
    daemon
        .records(&["observation"], 0, |record| {
            if let Some(Body::Observation(observation)) = &record.body
                && let Ok(serde_json::Value::Object(fact)) = serde_json::to_value(observation)
                && let Some((name, fact)) = fact.iter().find(|(name, _)| name.starts_with(OOM))
            {
                pieces.push(Evidence {
                    id: format!("r{}", record.seq),
                    name: name.clone(),
                    source: "the kernel".to_owned(),
                    at: record.at,
                    content: Some(Content::Text(pretty(fact))),
                    ..Evidence::default()
                });
            }
            pieces.len() < 10_000
        })
        .await?;
    list(page, &pieces, arguments.skip()?);
    if pieces.is_empty() {
        page.note = Some(NO_OOM);
    }
    Ok(())
}

/// The text that an earlier answer names, from the cursor on.
pub(super) fn text(page: &mut Page<'_>, arguments: &Arguments) -> Result<(), Failed> {
    let wanted: Wanted = arguments.text.as_deref().unwrap_or_default().parse()?;
    let reference = page.find(wanted).ok_or("no answer of this session has named such a text")?;
    page.facts = Facts::new().with("text", Fact::Text(reference));
    page.go_on(reference, arguments.skip()?);
    Ok(())
}

fn list<'e>(page: &mut Page<'_>, pieces: impl IntoIterator<Item = &'e Evidence>, cursor: usize) {
    page.list(cursor, pieces, |page, piece| {
        let (kind, content) = content(piece);
        head(page, piece).with("content", page.text(kind, &content))
    });
}

/// One piece, with as much of its content as fits.
fn one(page: &mut Page<'_>, piece: &Evidence, from: usize) {
    let (kind, content) = content(piece);
    page.facts = head(page, piece).with("content", page.long(kind, &content, from));
}

fn head(page: &mut Page<'_>, piece: &Evidence) -> Facts {
    let facts = Facts::new()
        .with("id", Fact::word(&piece.id))
        .with("name", Fact::word(&piece.name))
        .with("truncated", Fact::Is(piece.truncated))
        .with("redactions", Fact::Count(piece.redactions.into()))
        .with("source", page.text(Kind::Path, piece.source.as_bytes()));
    match piece.at {
        Some(at) => facts.with("at", Fact::At(at)),
        None => facts,
    }
}

/// What it says, as a text of lines: as it was read, laid out, or as JSON.
pub(super) fn content(piece: &Evidence) -> (Kind, Vec<u8>) {
    match &piece.content {
        None => (Kind::Output, Vec::new()),
        Some(Content::Text(text)) if piece.name.ends_with("log") => (Kind::Log, text.clone()),
        Some(Content::Text(text)) => (Kind::Output, text.clone()),
        Some(Content::File(file)) if !file.content.is_empty() => (Kind::File, file.content.clone()),
        Some(content) => {
            if let Some((kind, page)) = gathered::page(content) {
                return (kind, page.into_bytes());
            }
            let json = serde_json::to_value(content).unwrap_or_default();
            // Without the name of its kind around it.
            let inner = json.as_object().and_then(|object| object.values().next()).cloned();
            (Kind::Output, pretty(&inner.unwrap_or(json)))
        }
    }
}

fn pretty(value: &serde_json::Value) -> Vec<u8> {
    serde_json::to_vec_pretty(value).unwrap_or_default()
}
