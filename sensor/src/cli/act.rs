//! `sensor freeze|thaw|kill|resolve ID` and `sensor pause|resume`: a person decides.

use std::io::{self, IsTerminal as _, Write as _};

use clap::Args;
use sensor_proto::{
    json,
    v1::{ActRequest, Action, ActionKind, Incident, SetPausedRequest, Verb},
};

use super::{client, describe, error::CliError, out, text};

const EXAMPLES: &str = "\
Examples (4k2m begins the incident's id):
  sensor freeze 4k2m              asks first
  sensor thaw 4k2m
  sensor kill 4k2m --yes          does not ask
  sensor resolve 4k2m --why 'fixed in the deploy'";

const SWITCH_EXAMPLES: &str = "\
Examples:
  sensor pause --why 'load test until noon'
  sensor resume";

/// What is recorded where nobody says why.
const NO_REASON: &str = "asked for on the command line";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ActArgs {
    /// The incident's id, or enough of its beginning to be unique.
    id: String,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// Recorded with the action.
    #[arg(long, value_name = "TEXT", default_value = NO_REASON)]
    why: String,
}

#[derive(Debug, Args)]
#[command(after_help = SWITCH_EXAMPLES)]
pub struct SwitchArgs {
    /// Recorded with the switch.
    #[arg(long, value_name = "TEXT", default_value = NO_REASON)]
    why: String,
}

pub async fn run(daemon: &client::Address, verb: Verb, args: ActArgs) -> Result<(), CliError> {
    let name = json::verb::word(verb.into());
    let asks = matches!(verb, Verb::Freeze | Verb::Kill) && !args.yes;
    if asks && !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Err(CliError::Usage(format!(
            "{name} asks before it acts, and there is no terminal to ask on: say --yes"
        )));
    }
    let mut client = client::connect(daemon).await?;
    let incident = client::unresolved(&mut client, &args.id, &name).await?;
    if asks && !agreed(&question(&name, &incident))? {
        return Err(CliError::Declined);
    }
    // The whole id: what the person agreed to, whatever else has opened meanwhile.
    let request = ActRequest { id: incident.id, verb: verb.into(), why: args.why };
    let answer = client.act(request).await?.into_inner();
    let action = answer.action.ok_or_else(|| CliError::Answer("the action is missing".into()))?;
    let line = outcome(&action, answer.incident.as_ref());
    if action.ok { out::print(&format!("{line}\n")) } else { Err(CliError::Refused(line)) }
}

pub async fn switch(
    daemon: &client::Address,
    paused: bool,
    args: SwitchArgs,
) -> Result<(), CliError> {
    let mut client = client::connect(daemon).await?;
    let request = SetPausedRequest { paused, why: args.why };
    let paused = client.set_paused(request).await?.into_inner().paused;
    out::print(if paused {
        "automatic action is off: incidents are recorded, nothing is stopped until `sensor resume`\n"
    } else {
        "automatic action is on\n"
    })
}

fn question(verb: &str, incident: &Incident) -> String {
    let whose = if incident.group.is_some() { "all of their trees," } else { "its tree of" };
    let tree = incident.tree.as_ref().map_or(String::new(), |tree| {
        format!(" and {whose} {}", text::count(tree.processes, "process", "processes"))
    });
    format!("{verb} {}{tree}? [y/N] ", describe::subject(incident))
}

/// Asks on the terminal; anything but yes is no.
fn agreed(question: &str) -> Result<bool, CliError> {
    let mut stderr = io::stderr();
    stderr.write_all(question.as_bytes())?;
    stderr.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// `kill: 43 processes ended; 4k2m… is resolved`.
fn outcome(action: &Action, incident: Option<&Incident>) -> String {
    if let (ActionKind::Resolve, Some(incident)) = (action.kind(), incident) {
        return format!("incident {} is resolved", text::safe(&incident.id));
    }
    let result = text::safe(&action.result);
    let mut line = match action.kind() {
        // Its result begins with that word.
        ActionKind::Refuse => result,
        _ => format!("{}: {result}", json::action_kind::word(action.kind)),
    };
    if let Some(incident) = incident {
        let state = json::state::word(incident.state);
        line = format!("{line}; incident {} is {state}", text::safe(&incident.id));
    }
    line
}

#[cfg(test)]
mod tests {
    use sensor_proto::v1::{Culprit, State, Tree};

    use super::*;

    #[test]
    fn the_question_names_what_is_at_stake() {
        let incident = Incident {
            culprit: Some(Culprit {
                pid: 7,
                argv: vec![b"npm".to_vec(), b"t\x07".to_vec()],
                ..Default::default()
            }),
            tree: Some(Tree { processes: 43, ..Default::default() }),
            ..Default::default()
        };
        assert_eq!(
            question("kill", &incident),
            "kill npm t\\x07 (pid 7) and its tree of 43 processes? [y/N] ",
        );
    }

    #[test]
    fn the_outcome_is_one_line() {
        let action = Action {
            kind: ActionKind::Kill.into(),
            result: "43 processes ended\n".into(),
            ..Default::default()
        };
        let incident =
            Incident { id: "4k2m".into(), state: State::Resolved.into(), ..Default::default() };
        assert_eq!(
            outcome(&action, Some(&incident)),
            "kill: 43 processes ended\\x0a; incident 4k2m is resolved",
        );
    }

    #[test]
    fn a_refusal_is_said_once() {
        let action = Action {
            kind: ActionKind::Refuse.into(),
            result: "refused: no process of its tree lives any more".into(),
            ..Default::default()
        };
        let incident =
            Incident { id: "4k2m".into(), state: State::Open.into(), ..Default::default() };
        assert_eq!(
            outcome(&action, Some(&incident)),
            "refused: no process of its tree lives any more; incident 4k2m is open",
        );
    }
}
