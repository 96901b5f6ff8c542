//! A run of an agent's program on one incident: briefed, started, listened to, held to its bounds, and
//! judged by what happened, not by what it says of itself.

use std::{path::PathBuf, time::Duration};

use rustix::process::Signal;
use serde_json::Value;
use uuid::Uuid;

use super::{
    Dossier, End, Event, Past, Redact, Stop,
    agent::{self, Agent, Said, Session, Task, Usage},
    brief::{self, Terms},
    key::{self, Key},
    lines::Line,
    meter::Meter,
    prices::Prices,
    sandbox::{Program, Sandbox, Whom},
    shell,
    supervise::{self, Cause, Ended, Heard, Listener, Order},
    watch::{Bark, Patience},
};
use crate::{
    config::{self, Access, Bounds, Cli, Stage},
    evidence::Redactor,
    feed::runs::SOCKET,
    proto::{self, InvestigationState},
};

/// Which agent, and within which bounds.
#[derive(Clone, Debug)]
pub struct Agency {
    pub agent: config::Agent,
    pub cli: Cli,
    pub bounds: Bounds,
    pub stop_after: Stage,
    pub prices: Prices,
    pub sandbox: Sandbox,
    pub redactor: Redactor,
}

/// What a line may be: a tool's answer stands on one.
const OUTPUT_BYTES: u64 = 32 << 20;

/// An interrupt is what a person would give it; then it is asked as a service is.
const FAREWELL: [(Signal, Duration); 2] =
    [(Signal::INT, Duration::from_secs(1)), (Signal::TERM, Duration::from_secs(2))];

/// Bytes of the last answer that stand beside what was submitted.
const LAST_WORDS: usize = 8 << 10;

impl Agency {
    pub fn name(&self) -> &'static str {
        agent::of(self.agent).map_or("none", |agent| agent.name())
    }
}

pub fn run(
    agency: &Agency,
    id: &str,
    dossier: &Dossier,
    past: Option<&Past>,
    redact: Redact<'_>,
    stop: &Stop,
    sink: &mut dyn FnMut(Event),
) -> End {
    let key = match key_of(&agency.cli) {
        Ok(key) => key,
        Err(why) => {
            let spent = past.map(|past| past.spent).unwrap_or_default();
            return Lived::failed(why, &spent).end;
        }
    };
    let hide = |text: &[u8]| {
        let text = redact(text);
        key.as_ref().map_or(text.clone(), |key| without(&text, key.expose()))
    };
    let run = Run {
        agency: &shelled(agency, dossier, sink),
        id,
        dossier,
        key: key.as_ref(),
        redact: &hide,
        stop,
    };
    run.lives(past.cloned().unwrap_or_default(), sink)
}

/// With a shell it runs as the culprit's user; who may not have that one's has none.
fn shelled(agency: &Agency, dossier: &Dossier, sink: &mut dyn FnMut(Event)) -> Agency {
    let mut agency = agency.clone();
    if agency.bounds.access == Access::Eye || agency.agent == config::Agent::Api {
        return agency;
    }
    match shell::whose(dossier.incident.culprit.as_ref()) {
        Ok(uid) => agency.sandbox.user = Whom::Uid(uid),
        Err(why) => {
            let user = &agency.sandbox.user;
            let text = format!("{why}: the agent has no shell, only its eye, and runs as {user}");
            sink(Event::Line { stream: "sensor", text: text.into_bytes() });
            agency.bounds.access = Access::Eye;
        }
    }
    agency
}

/// What all lives of a run have in common.
struct Run<'a> {
    agency: &'a Agency,
    id: &'a str,
    dossier: &'a Dossier,
    key: Option<&'a Key>,
    redact: Redact<'a>,
    stop: &'a Stop,
}

/// What one life has come to.
struct Lived {
    end: End,
    /// The model had said something.
    heard: bool,
    /// Neither it nor we had ended it.
    killed: bool,
    session: String,
}

impl Lived {
    fn failed(error: String, spent: &proto::Cost) -> Self {
        let end = End { cost: *spent, ..End::failed(error) };
        Self { end, heard: false, killed: false, session: String::new() }
    }
}

impl Run<'_> {
    /// One life after the other: who is killed by somebody else is taken up again.
    fn lives(&self, mut past: Past, sink: &mut dyn FnMut(Event)) -> End {
        let Self { agency, id, .. } = self;
        loop {
            let begins = past.session.is_empty() || !agency.sandbox.home_of(id).is_dir();
            let new = Uuid::new_v4().to_string();
            let session = if begins { Session::New(&new) } else { Session::Resume(&past.session) };
            let lived = self.live(session, &past, sink);
            let mut note = |text: String| {
                sink(Event::Line { stream: "sensor", text: text.into_bytes() });
            };
            past.spent = lived.end.cost;
            if !begins && !lived.heard && lived.end.state == InvestigationState::Failed {
                note(format!(
                    "its conversation could not be taken up ({}): a new one begins",
                    lived.end.error
                ));
                past.session.clear();
                continue;
            }
            if !lived.killed || past.lives + 1 > agency.bounds.resumes {
                return lived.end;
            }
            past.lives += 1;
            past.is_new_stage = false;
            past.session = lived.session;
            note(format!("{}: it is taken up again", lived.end.error));
            sink(Event::Life(past.lives + 1));
            past.words.extend_from_slice(lived.end.findings.as_bytes());
        }
    }

    fn live(&self, session: Session<'_>, past: &Past, sink: &mut dyn FnMut(Event)) -> Lived {
        let Self { agency, id, dossier, key, redact, stop } = self;
        let Some(agent) = agent::of(agency.agent) else {
            return Lived::failed("it is no agent".to_owned(), &past.spent);
        };
        let home = agency.sandbox.home_of(id);
        let server = server(&home, &dossier.incident.id);
        let window = dossier.window.as_ref().map(super::Window::markdown).unwrap_or_default();
        let terms = Terms {
            tools: agency.agent != config::Agent::Api,
            access: agency.bounds.access,
            stage: dossier.stage,
        };
        let before = (past.lives > 0 && !past.is_new_stage).then_some(past);
        let known = &dossier.incident.investigations;
        let found = known.iter().find(|it| it.id == *id).and_then(|it| it.report.as_ref());
        let found = found.filter(|_| dossier.stage == Stage::Locate);
        let incident = &dossier.incident.id;
        let prompt = brief::brief(incident, &window, terms, found, before, &agency.redactor);
        let before = match session {
            Session::Resume(_) if agent.counts_conversations() => past.spent,
            _ => proto::Cost::default(),
        };
        let launch = agent.launch(&Task {
            prompt: &prompt,
            program: &agency.cli.program,
            model: &agency.cli.model,
            endpoint: &agency.cli.endpoint,
            key: key.map(Key::expose),
            home: &home,
            server: &server,
            session,
            access: agency.bounds.access,
            turns: agency.bounds.turns,
            micro_usd: agency.bounds.usd.0,
        });
        let order = Order {
            id,
            incident: &dossier.incident.id,
            sandbox: &agency.sandbox,
            program: Program { argv: &launch.argv, env: &launch.env, files: &launch.files },
            input: launch.stdin,
            patience: patience(&agency.bounds),
            needs: agency.sandbox.kept_bytes,
            output_bytes: OUTPUT_BYTES,
            keeps_home: true,
            farewell: &FAREWELL,
        };
        let (bounds, prices) = (&agency.bounds, &agency.prices);
        let meter = Meter::new(bounds, prices, &agency.cli.model, &past.spent);
        let session = past.session.clone();
        let words = String::new();
        let mut ear = Ear { agent, meter, before, told: None, words, heard: false, session };
        let ended = match supervise::run(order, &mut ear, *redact, stop, sink) {
            Ok(ended) => ended,
            Err(error) => return Lived::failed(error.to_string(), &past.spent),
        };
        let (state, error) = judge(&ended, ear.told.as_ref());
        let words = redact(ear.words.as_bytes());
        let from = words.len().saturating_sub(LAST_WORDS);
        let findings = String::from_utf8_lossy(&words[from..]).trim().to_owned();
        let killed = ended.cause.is_none() && ear.told.is_none() && ended.was_killed();
        let no_room = matches!(ended.cause, Some(Cause::NoRoom(_)));
        let cost = ear.meter.cost(0);
        let end = End { state, findings, error, cost, no_room, ..End::default() };
        Lived { end, heard: ear.heard, killed, session: ear.session }
    }
}

/// Listens to one life.
struct Ear {
    agent: Box<dyn Agent>,
    meter: Meter,
    /// What its program had told of the conversation before, and tells again.
    before: proto::Cost,
    /// Its terminal event.
    told: Option<Result<(), String>>,
    /// The last that the model said.
    words: String,
    /// The model has said something.
    heard: bool,
    session: String,
}

impl Listener for Ear {
    fn hear(&mut self, line: &Line, _: &[u8], sink: &mut dyn FnMut(Event)) -> Heard {
        let mut heard = Heard::default();
        // A line that was cut, and what no JSON object is, says nothing that could be relied upon.
        let Ok(event @ Value::Object(_)) = serde_json::from_slice::<Value>(&line.bytes) else {
            return heard;
        };
        heard.event = true;
        for said in self.agent.read(&event) {
            let said = since(said, &self.before);
            if let Some(exceeded) = self.meter.take(&said) {
                heard.enough.get_or_insert(exceeded.to_string());
            }
            match said {
                Said::Session(name) => {
                    self.session.clone_from(&name);
                    sink(Event::Session(name));
                }
                Said::Turn => {
                    self.heard = true;
                    sink(Event::Cost(self.meter.cost(0)));
                }
                Said::Tool(_) | Said::Trouble(_) | Said::Spent(_) | Said::Total(_) => {}
                Said::Text(text) => {
                    self.heard = true;
                    self.words = text;
                }
                Said::End(end) => {
                    heard.last = true;
                    self.told = Some(end);
                }
            }
        }
        if let Some(warning) = self.meter.warning() {
            sink(Event::Line { stream: "sensor", text: warning.into_bytes() });
        }
        heard
    }
}

/// What is told in total, without what was told of the same conversation before.
fn since(said: Said, before: &proto::Cost) -> Said {
    let Said::Total(usage) = said else { return said };
    Said::Total(Usage {
        input: usage.input.saturating_sub(before.input_tokens),
        cached: usage.cached.saturating_sub(before.cached_tokens),
        output: usage.output.saturating_sub(before.output_tokens),
        ..usage
    })
}

/// Done is what told a good end before anybody ended it; programs say `success` of a run that was killed
/// in the middle, and exit with 0 without a result.
fn judge(ended: &Ended, told: Option<&Result<(), String>>) -> (InvestigationState, String) {
    let (state, mut error) = match (&ended.cause, told) {
        // What it had to say was said.
        (None | Some(Cause::Bark(Bark::Lingers(_))), Some(Ok(()))) => {
            return (InvestigationState::Done, String::new());
        }
        (None | Some(Cause::Bark(Bark::Lingers(_))), Some(Err(why))) => {
            (InvestigationState::Failed, why.clone())
        }
        (Some(cause), _) => supervise::tell(cause, OUTPUT_BYTES),
        (None, None) => {
            let how = ended.well().err().unwrap_or_else(|| "it ended".to_owned());
            (InvestigationState::Failed, format!("{how} without a result"))
        }
    };
    for remark in &ended.remarks {
        error = format!("{error}; {remark}");
    }
    (state, error)
}

fn patience(bounds: &Bounds) -> Patience {
    let seconds = |seconds: u32| Duration::from_secs(seconds.into());
    Patience {
        deadline: seconds(bounds.deadline_s),
        first_event: Some(seconds(bounds.first_event_s)),
        silence: Some(seconds(bounds.silence_s)),
        linger: Some(seconds(bounds.linger_s)),
    }
}

/// Our MCP server as an agent starts it: programs pass no environment to servers.
fn server(home: &std::path::Path, incident: &str) -> Vec<String> {
    let sensor = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("sensor"));
    let socket = home.join(SOCKET);
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let words = [text(sensor), "--socket".into(), text(socket), "mcp".into()];
    words.into_iter().chain(["--incident".into(), incident.to_owned()]).collect()
}

fn key_of(cli: &Cli) -> Result<Option<Key>, String> {
    if cli.key_file.as_os_str().is_empty() {
        return Ok(None);
    }
    key::read_key(&cli.key_file).map(Some).map_err(|error| error.to_string())
}

/// A text without the key: an agent with a shell can print it.
fn without(text: &[u8], key: &str) -> Vec<u8> {
    let (mut rest, mut shown) = (text, Vec::with_capacity(text.len()));
    while let Some(at) = rest.windows(key.len()).position(|part| part == key.as_bytes()) {
        shown.extend_from_slice(&rest[..at]);
        shown.extend_from_slice(b"[key]");
        rest = &rest[at + key.len()..];
    }
    shown.extend_from_slice(rest);
    shown
}
