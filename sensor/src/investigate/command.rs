//! The `command` driver: any program, the dossier as JSON on its standard input, its lines as they
//! come. Whatever the program does, it ends with a clear state, and nothing of it survives.

use std::{path::PathBuf, time::Duration};

use rustix::process::Signal;

use super::{
    Dossier, End, Event, Redact, Stop,
    findings::Findings,
    lines::Line,
    sandbox::{Program, Sandbox, Whom},
    supervise::{self, Cause, Ended, Heard, Listener, Order},
    watch::Patience,
};
use crate::{cgroup::Hierarchies, config::Stage, proto::InvestigationState};

/// What is run, and its bounds.
#[derive(Clone, Debug)]
pub struct Command {
    pub argv: Vec<String>,
    pub sandbox: Sandbox,
    /// Then it is asked to end, and 2 s later killed.
    pub deadline: Duration,
    /// Standard output and error together; more than that ends it.
    pub output_bytes: u64,
    pub stop_after: Stage,
}

/// Between asking it to end and killing it: a script has time for its traps.
const FAREWELL: [(Signal, Duration); 1] = [(Signal::TERM, Duration::from_secs(2))];

/// Defaults of a command's bounds.
impl Command {
    /// `argv[0]` is a path, or is looked up in a fixed PATH.
    pub fn new(
        argv: Vec<String>,
        hierarchies: Hierarchies,
        home: PathBuf,
        scratch: PathBuf,
    ) -> Self {
        Self {
            argv,
            sandbox: Sandbox {
                user: Whom::Named("nobody".to_owned()),
                // A coding agent with its runtime needs 300 to 700 MiB.
                memory_bytes: 1 << 30,
                kept_bytes: 0,
                pids: 128,
                hierarchies,
                home,
                manager: None,
                scratch,
                log_gid: None,
                doors: None,
                witness: None,
            },
            // A person waits for it; what an agent has not found by then it rarely finds.
            deadline: Duration::from_mins(5),
            // Some ten thousand lines: more than anybody reads of one incident.
            output_bytes: 4 << 20,
            stop_after: Stage::Diagnose,
        }
    }
}

pub fn run(
    command: &Command,
    id: &str,
    dossier: &Dossier,
    redact: Redact<'_>,
    stop: &Stop,
    sink: &mut dyn FnMut(Event),
) -> End {
    let input = match serde_json::to_vec(dossier) {
        Ok(input) => input,
        Err(error) => return End::failed(format!("the dossier cannot be written: {error}")),
    };
    let order = Order {
        id,
        incident: &dossier.incident.id,
        sandbox: &command.sandbox,
        program: Program { argv: &command.argv, env: &[], files: &[] },
        input,
        patience: Patience::of(command.deadline),
        needs: command.sandbox.kept_bytes,
        output_bytes: command.output_bytes,
        // What it has written of it was read by its lines.
        keeps_home: dossier.stage != command.stop_after,
        farewell: &FAREWELL,
    };
    let mut findings = Findings::default();
    match supervise::run(order, &mut findings, redact, stop, sink) {
        Ok(ended) => {
            let (state, error) = judge(&ended, command.output_bytes);
            let findings = findings.conclude(redact);
            let no_room = matches!(ended.cause, Some(Cause::NoRoom(_)));
            End { state, findings, error, no_room, ..End::default() }
        }
        Err(error) => End::failed(error.to_string()),
    }
}

impl Listener for Findings {
    fn hear(&mut self, line: &Line, shown: &[u8], _: &mut dyn FnMut(Event)) -> Heard {
        self.see(line, shown);
        Heard { event: true, ..Heard::default() }
    }
}

fn judge(ended: &Ended, output_bytes: u64) -> (InvestigationState, String) {
    let (state, mut error) = match (&ended.cause, ended.well()) {
        (Some(cause), _) => supervise::tell(cause, output_bytes),
        (None, Ok(())) => return (InvestigationState::Done, String::new()),
        (None, Err(how)) => (InvestigationState::Failed, how),
    };
    for remark in &ended.remarks {
        error = format!("{error}; {remark}");
    }
    (state, error)
}
