//! How the schema's messages read: the words and short sentences that several verbs share.

use sensor_proto::json;

use super::{
    style::{Style, Tone},
    text,
};
use crate::{
    incident,
    proto::{Actor, Culprit, Group, Incident, Kind, Severity, State},
};

/// A culprit's command line, or its name where that is not known.
pub fn culprit_command(culprit: &Culprit) -> String {
    if culprit.argv.is_empty() {
        json::escape(culprit.comm.as_bytes())
    } else {
        text::command(&culprit.argv)
    }
}

/// What an incident is about, in a few words.
pub fn subject(incident: &Incident) -> String {
    match (&incident.group, &incident.culprit) {
        (Some(group), _) => group_name(group),
        (None, Some(culprit)) => format!("{} (pid {})", culprit_command(culprit), culprit.pid),
        (None, None) => "the host".to_owned(),
    }
}

/// A process that may be gone, in a few words.
pub fn actor(actor: &Actor) -> String {
    let pid = actor.process.unwrap_or_default().pid;
    match actor.argv.as_slice() {
        [] => format!("`{}` ({pid})", text::safe(&actor.comm)),
        argv => format!("`{}` ({pid})", text::command(argv)),
    }
}

/// A group as the summary names it.
pub fn group_name(group: &Group) -> String {
    text::safe(&incident::describe_group(group))
}

pub fn kind(incident: &Incident) -> String {
    json::kind::word(incident.kind)
}

pub fn severity(incident: &Incident, style: &Style) -> String {
    style.paint(severity_tone(incident), &json::severity::word(incident.severity))
}

pub fn severity_tone(incident: &Incident) -> Tone {
    match incident.severity() {
        Severity::Critical => Tone::Bad,
        Severity::Warning => Tone::Warning,
        Severity::Info | Severity::Unspecified => Tone::Plain,
    }
}

pub fn state_tone(state: State) -> Tone {
    match state {
        State::Open => Tone::Bad,
        State::Contained => Tone::Warning,
        State::Resolved => Tone::Good,
        State::Unspecified => Tone::Plain,
    }
}

/// Value of a clap argument: the word of a kind.
pub fn parse_kind(word: &str) -> Result<Kind, String> {
    json::kind::parse(word).ok_or_else(|| one_of((1..).map_while(known(json::kind::word))))
}

/// Value of a clap argument: the word of a state.
pub fn parse_state(word: &str) -> Result<State, String> {
    json::state::parse(word).ok_or_else(|| one_of((1..).map_while(known(json::state::word))))
}

/// Value of a clap argument: the word of a severity.
pub fn parse_severity(word: &str) -> Result<Severity, String> {
    let words = (1..).map_while(known(json::severity::word));
    json::severity::parse(word).ok_or_else(|| one_of(words))
}

/// The word of a value that the schema knows; others have only their number.
fn known(word: fn(i32) -> String) -> impl Fn(i32) -> Option<String> {
    move |value| Some(word(value)).filter(|word| word.parse::<i32>().is_err())
}

fn one_of(words: impl Iterator<Item = String>) -> String {
    format!("one of {}", words.collect::<Vec<_>>().join(", "))
}

/// Appends text as wrapped, indented lines, each safe to print.
pub fn paragraph(page: &mut String, text: &str, indent: usize, style: &Style) {
    for line in text.lines() {
        for part in text::wrap(&text::safe(line), style.text_width().saturating_sub(indent)) {
            page.push_str(&" ".repeat(indent));
            page.push_str(&part);
            page.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_checked() {
        assert_eq!(parse_kind("fork_storm"), Ok(Kind::ForkStorm));
        assert_eq!(parse_state("open"), Ok(State::Open));
        assert_eq!(parse_state("shut"), Err("one of open, contained, resolved".into()));
        assert_eq!(parse_severity("warning"), Ok(Severity::Warning));
        assert_eq!(parse_severity("bad"), Err("one of info, warning, critical".into()));
        assert!(parse_kind("x").unwrap_err().ends_with("unclean_shutdown, manual"));
    }
}
