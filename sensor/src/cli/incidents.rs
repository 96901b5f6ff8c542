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
  sensor incidents --since 2026-11-21 --json | jq '.[].culprit.argv'

On a terminal what does not fit is cut, and a summary goes below its row; into a pipe or a file
goes all of it.";

/// Of a command line, on a terminal.
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
    let mut table =
        Table::new(["ID", "OPENED", "KIND", "SEVERITY", "STATE", "CULPRIT", "SUMMARY"]).below();
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
            match view.style.width {
                Some(_) => text::fit(&culprit, CULPRIT_WIDTH),
                None => culprit,
            }
            .into(),
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

#[cfg(test)]
mod tests {
    use sensor_proto::v1::{Culprit, Incident, Severity};

    use super::*;

    fn view(width: Option<usize>) -> View {
        let now = prost_types::Timestamp { seconds: 2_000_000_000, nanos: 0 };
        View { now, ..View::plain(width) }
    }

    fn incident(id: &str, argv: &str, summary: &str) -> Incident {
        Incident {
            id: id.into(),
            opened_at: Some(prost_types::Timestamp { seconds: 1_999_999_280, nanos: 0 }),
            kind: Kind::UncleanShutdown.into(),
            severity: Severity::Critical.into(),
            state: State::Contained.into(),
            culprit: Some(Culprit {
                pid: 4_194_304,
                argv: vec![argv.into()],
                ..Culprit::default()
            }),
            summary: summary.into(),
            ..Incident::default()
        }
    }

    #[test]
    fn the_list_fits_the_terminal_and_an_id_is_never_cut() {
        let wide = "\u{5b89}\u{5168}".repeat(40);
        let incidents = vec![
            incident("4k2mz9qw0a", "node", "it runs itself again and again"),
            incident("5k2mz9qw0a", &wide, &wide),
            incident(
                "6k2mz9qw0a",
                "\x1b[2J\n\u{202e}x",
                "\x1b[2J\n\u{202e}\u{1f469}\u{200d}\u{1f467}x\u{0301}",
            ),
        ];
        let answer = ListIncidentsResponse { incidents, ..ListIncidentsResponse::default() };
        for columns in 30..250 {
            let page = list(&answer, &view(Some(columns)));
            assert!(page.lines().all(|line| text::width(line) <= columns), "{columns}\n{page}");
            for id in ["4k2mz9qw0a", "5k2mz9qw0a", "6k2mz9qw0a"] {
                assert!(page.lines().any(|line| line.starts_with(id)), "{columns}\n{page}");
            }
            assert!(!page.chars().any(|c| c.is_control() && c != '\n'), "{page:?}");
        }
        let page = list(&answer, &view(Some(80)));
        let first = "4k2mz9qw0a  12 min ago  unclean_shutdown  critical  contained  4194304 node\n    \
                     it runs itself again and again\n";
        assert!(page.contains(first), "{page}");
        let piped = list(&answer, &view(None));
        assert_eq!(piped.lines().count(), 4, "a line each");
        assert!(piped.contains(&format!("4194304 {wide}  {wide}\n")), "{piped}");
    }
}
