//! `sensor incidents`: all incidents, newest first.

use std::fmt::Write as _;

use clap::Args;
use jiff::tz::TimeZone;
use sensor_proto::{
    json,
    v1::{Kind, ListIncidentsRequest, ListIncidentsResponse, State},
};

use super::{
    client, describe,
    error::CliError,
    out::{self, View},
    table::{Cell, Table},
    text, time,
};
use crate::clock;

const EXAMPLES: &str = "\
Examples:
  sensor incidents
  sensor incidents --state contained
  sensor incidents --kind recursion --since 2h
  sensor incidents --since 2026-11-21 --json | jq '.[].culprit.argv'";

/// Of a command line, in a table.
const CULPRIT_WIDTH: usize = 32;

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct IncidentsArgs {
    /// A JSON array (docs/schema/incidents.json).
    #[arg(long)]
    json: bool,
    /// Only this kind: recursion, manual, …
    #[arg(long, value_parser = describe::parse_kind)]
    kind: Option<Kind>,
    /// Only this state: open, contained or resolved.
    #[arg(long, value_parser = describe::parse_state)]
    state: Option<State>,
    /// Only those opened since: 2h, 2026-11-21, "2026-11-21 14:30", 2026-11-21T14:30:00Z.
    #[arg(long, value_name = "T")]
    since: Option<String>,
}

pub async fn run(daemon: &client::Address, args: IncidentsArgs) -> Result<(), CliError> {
    let since = args
        .since
        .map(|text| time::since(&text, clock::wall(), &TimeZone::system()))
        .transpose()
        .map_err(|problem| CliError::Usage(format!("--since: {problem}")))?;
    let request = ListIncidentsRequest {
        kind: args.kind.unwrap_or_default().into(),
        state: args.state.unwrap_or_default().into(),
        since,
    };
    let mut client = client::connect(daemon).await?;
    let answer = client.list_incidents(request).await?.into_inner();
    if args.json {
        return out::json(&answer.incidents);
    }
    out::print(&list(&answer, &View::current()))
}

fn list(answer: &ListIncidentsResponse, view: &View) -> String {
    if answer.incidents.is_empty() {
        return "no such incidents\n".to_owned();
    }
    let mut table = Table::new(["ID", "OPENED", "KIND", "SEVERITY", "STATE", "CULPRIT", "SUMMARY"]);
    for incident in &answer.incidents {
        let culprit = match (&incident.group, &incident.culprit) {
            (Some(group), _) => describe::group_name(group),
            (None, Some(culprit)) => {
                format!("{} {}", culprit.pid, describe::culprit_command(culprit))
            }
            (None, None) => "the host".to_owned(),
        };
        table.push([
            text::safe(&incident.id).into(),
            time::ago(incident.opened_at, view.now).into(),
            describe::kind(incident).into(),
            Cell::toned(json::severity::word(incident.severity), describe::severity_tone(incident)),
            Cell::toned(json::state::word(incident.state), describe::state_tone(incident.state())),
            text::fit(&culprit, CULPRIT_WIDTH).into(),
            text::safe(&incident.summary).into(),
        ]);
    }
    let mut page = table.render(0, &view.style);
    if answer.omitted > 0 {
        // Writing to a String cannot fail.
        let _ = writeln!(
            page,
            "and {} older ones; ask for less with --kind, --state, --since",
            answer.omitted
        );
    }
    page
}
