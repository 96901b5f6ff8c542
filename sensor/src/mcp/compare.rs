//! `compare`: which numbers of two pieces of evidence differ.

use std::collections::BTreeMap;

use sensor_proto::v1::{Evidence, VitalsSample, evidence::Content};
use serde_json::Value;

use super::{Daemon, Failed, page::Page, tools::Arguments};
use crate::render::{Fact, Facts, Kind};

/// Numbers by what they are called.
type Numbers = BTreeMap<String, f64>;

/// Which of two an evidence is.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    Before,
    After,
}

pub(super) async fn show(
    daemon: &mut Daemon,
    page: &mut Page<'_>,
    arguments: &Arguments,
) -> Result<(), Failed> {
    let pair = match (&arguments.before, &arguments.after) {
        (Some(before), Some(after)) => {
            Some((daemon.piece(before).await?, daemon.piece(after).await?))
        }
        (None, None) => pair(&daemon.evidence().await?),
        _ => return Err("name both pieces, or neither".to_owned()),
    };
    let Some((before, after)) = pair else {
        page.note =
            Some("There are no two pieces of one kind in this incident, and no flight record.");
        return Ok(());
    };
    if before.name != after.name {
        return Err("they are of different kinds: compare what has the same name".to_owned());
    }
    let (was, is) = (numbers(&before, Side::Before), numbers(&after, Side::After));
    let mut differ: Vec<(&String, Option<f64>, Option<f64>)> = was
        .keys()
        .chain(is.keys().filter(|name| !was.contains_key(*name)))
        .map(|name| (name, was.get(name).copied(), is.get(name).copied()))
        .filter(|(_, was, is)| was != is)
        .collect();
    let equal = was.iter().filter(|(name, value)| is.get(*name) == Some(value)).count();
    let change = |was: Option<f64>, is: Option<f64>| {
        let (was, is) = (was.unwrap_or(0.0), is.unwrap_or(0.0));
        (is - was).abs() / was.abs().max(is.abs()).max(f64::MIN_POSITIVE)
    };
    differ.sort_by(|a, b| change(b.1, b.2).total_cmp(&change(a.1, a.2)));
    page.facts = Facts::new()
        .with("before", Fact::word(&before.id))
        .with("after", Fact::word(&after.id))
        .with("name", Fact::word(&before.name))
        .with("equal", Fact::Count(equal as u64));
    page.list(arguments.skip()?, differ, |page, (name, was, is)| {
        let mut facts = Facts::new().with("name", page.text(Kind::Output, name.as_bytes()));
        if let Some(was) = was {
            facts.add("before", Fact::Number(was));
        }
        if let Some(is) = is {
            facts.add("after", Fact::Number(is));
        }
        facts.with("difference", Fact::Number(is.unwrap_or(0.0) - was.unwrap_or(0.0)))
    });
    Ok(())
}

/// The first and the last tree; else the flight record, with itself.
fn pair(evidence: &[Evidence]) -> Option<(Evidence, Evidence)> {
    let mut trees = evidence.iter().filter(|piece| matches!(piece.content, Some(Content::Tree(_))));
    if let (Some(first), Some(last)) = (trees.next(), trees.next_back()) {
        return Some((first.clone(), last.clone()));
    }
    let is = |piece: &&Evidence| matches!(piece.content, Some(Content::Vitals(_)));
    let (first, last) = (evidence.iter().find(is)?, evidence.iter().rfind(is)?);
    Some((first.clone(), last.clone()))
}

fn numbers(piece: &Evidence, side: Side) -> Numbers {
    let mut found = Numbers::new();
    match &piece.content {
        Some(Content::Tree(tree)) => {
            found.insert("processes".into(), tree.processes.len() as f64 + f64::from(tree.omitted));
            for process in &tree.processes {
                let pid = process.pid;
                found.insert(format!("{pid} anon_bytes"), process.anon_bytes as f64);
                found.insert(format!("{pid} rss_bytes"), process.rss_bytes as f64);
                found.insert(format!("{pid} threads"), f64::from(process.threads));
                found.insert(format!("{pid} open_files"), f64::from(process.fds));
            }
        }
        Some(Content::Vitals(record)) => {
            let second = |sample: &&VitalsSample| sample.seconds == 1;
            let sample = match side {
                Side::Before => record.samples.iter().find(second),
                Side::After => record.samples.iter().rfind(second),
            };
            let average = sample.and_then(|sample| sample.average.as_ref());
            if let Ok(value) = serde_json::to_value(average) {
                walk(&mut found, "", &value);
            }
        }
        Some(Content::Text(text)) => lines(&mut found, &String::from_utf8_lossy(text)),
        Some(content) => {
            if let Ok(value) = serde_json::to_value(content) {
                walk(&mut found, "", &value);
            }
        }
        None => {}
    }
    found
}

fn walk(found: &mut Numbers, name: &str, value: &Value) {
    let below =
        |part: &str| if name.is_empty() { part.to_owned() } else { format!("{name}.{part}") };
    match value {
        Value::Number(number) => {
            found.insert(name.to_owned(), number.as_f64().unwrap_or_default());
        }
        Value::Object(fields) => {
            for (field, value) in fields {
                walk(found, &below(field), value);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                walk(found, &below(&index.to_string()), value);
            }
        }
        _ => {}
    }
}

/// `MemFree: 5 kB` and `some avg10=0.5 total=7`: the numbers of the kernel's tables.
fn lines(found: &mut Numbers, text: &str) {
    for line in text.lines() {
        let mut name = String::new();
        for word in line.split_whitespace() {
            let (key, value) = word.split_once('=').unwrap_or(("", word));
            match value.parse::<f64>() {
                Ok(value) if value.is_finite() => {
                    found.insert(format!("{name} {key}").trim().to_owned(), value);
                }
                _ => name = format!("{name} {}", word.trim_end_matches(':')),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_tables_have_names() {
        let mut found = Numbers::new();
        lines(&mut found, "MemFree:   5 kB\ncpu some avg10=0.50 total=7\nnan NaN inf=inf\n");
        let found: Vec<(&str, f64)> = found.iter().map(|(name, it)| (name.as_str(), *it)).collect();
        assert_eq!(found, [("MemFree", 5.0), ("cpu some avg10", 0.5), ("cpu some total", 7.0)]);
    }
}
