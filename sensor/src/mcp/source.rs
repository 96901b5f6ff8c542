//! `read_source`: a file of the culprit's project, which the daemon reads.

use sensor_proto::{json, v1::evidence::Content};

use super::{Daemon, Failed, page::Page, tools::Arguments};
use crate::render::{Fact, Facts, Kind};

pub(super) async fn read(
    daemon: &mut Daemon,
    page: &mut Page<'_>,
    arguments: &Arguments,
) -> Result<(), Failed> {
    let piece = daemon.read_source(arguments.path.as_deref().unwrap_or_default()).await?;
    let Some(Content::File(file)) = &piece.content else {
        return Err("the daemon sent no file".to_owned());
    };
    let mut facts = Facts::new()
        .with("evidence", Fact::word(&piece.id))
        .with("state", Fact::word(&json::file_state::word(file.state)))
        .with("size_bytes", Fact::Bytes(file.size))
        .with("truncated", Fact::Is(piece.truncated))
        .with("redactions", Fact::Count(piece.redactions.into()))
        .with("path", page.text(Kind::Path, &file.path));
    if !file.why.is_empty() {
        facts.add("why", page.text(Kind::Prose, file.why.as_bytes()));
    }
    if !file.content.is_empty() {
        facts.add("content", page.long(Kind::File, &file.content, 0));
    }
    page.facts = facts;
    Ok(())
}
