//! An incident in a few words: its summary, its culprit, its group.

use super::group::recorded;
use crate::{
    detect::{Finding, memory, usage},
    proto,
};

/// A group in a few words: ``7 × `node` of user 1000``.
pub fn describe_group(group: &proto::Group) -> String {
    let count = group.members.len();
    let what = &group.what;
    let of_user = group.uid.map(|uid| format!(" of user {uid}")).unwrap_or_default();
    match group.by() {
        proto::GroupBy::Executable => {
            let name = what.rsplit('/').next().filter(|name| !name.is_empty());
            format!("{count} × `{}`{of_user}", name.unwrap_or("?"))
        }
        proto::GroupBy::Session => format!("{count} trees of session {what}{of_user}"),
        proto::GroupBy::Cgroup => format!("{count} trees in {what}{of_user}"),
        _ => format!("{count} trees of user {what}"),
    }
}

/// One line, before there is a diagnosis.
pub(super) fn summary(finding: &Finding, culprit: Option<&proto::Culprit>) -> String {
    if let Some(group) = &finding.group {
        let who = describe_group(&recorded(group, culprit));
        return match finding.kind {
            proto::Kind::MemoryGrowth => memory::summary(&who, true, finding),
            _ => format!("{who} start processes without end, side by side"),
        };
    }
    let who = culprit.map_or_else(|| "the host".to_owned(), describe);
    match finding.kind {
        proto::Kind::Recursion => format!("{who} runs itself again and again"),
        proto::Kind::ForkStorm => format!("{who} starts processes without end"),
        proto::Kind::MemoryGrowth => memory::summary(&who, false, finding),
        proto::Kind::CrashLoop => format!("{who} restarts a command that fails at once"),
        _ if finding.rule == usage::RULE => usage::sentence(finding),
        proto::Kind::MemoryPressure => "memory is short".to_owned(),
        _ => format!("{who} was reported by hand"),
    }
}

/// A culprit in a few words: its command line, escaped and cut, and its pid.
pub fn describe(culprit: &proto::Culprit) -> String {
    /// Enough to recognise a command in a table.
    const SHOWN: usize = 60;
    let command = if culprit.argv.is_empty() {
        sensor_proto::json::escape(culprit.comm.as_bytes())
    } else {
        sensor_proto::json::escape(&culprit.argv.join(&b' '))
    };
    let mut short: String = command.chars().take(SHOWN).collect();
    if short.len() < command.len() {
        short.push('…');
    }
    format!("`{short}` ({})", culprit.pid)
}

/// The first sentence of a cause, as the one line of a summary.
pub fn headline(cause: &str) -> Option<String> {
    let line = cause.lines().next()?.trim();
    let end = line.find(". ").unwrap_or(line.len());
    let sentence = line[..end].trim_end_matches('.');
    (!sentence.is_empty()).then(|| sentence.to_owned())
}
