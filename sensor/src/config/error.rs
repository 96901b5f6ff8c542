//! What is wrong with a configuration, and where: file, line, key.

use std::{
    fmt::Write as _,
    io,
    ops::Range,
    path::{Path, PathBuf},
};

use sensor_proto::json::escape;
use toml::de::{DeArray, DeTable, DeValue};

use super::check::Problem;

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {}: {source}", .file.display())]
    Unreadable { file: PathBuf, source: io::Error },
    /// One line: `FILE:LINE: KEY: what`.
    #[error("{}:{line}: {}{what}", .file.display(), .key.as_ref().map(|key| format!("{key}: ")).unwrap_or_default())]
    Invalid {
        file: PathBuf,
        /// From 1.
        line: usize,
        /// Dotted; absent where the file is no TOML.
        key: Option<String>,
        what: String,
    },
}

impl ConfigError {
    pub(super) fn invalid(file: &Path, line: usize, key: Option<String>, what: &str) -> Self {
        Self::Invalid { file: file.into(), line, key, what: what.into() }
    }
}

/// The parser's error, with the key that it is about.
pub(super) fn of_toml(error: &toml::de::Error, text: &str, file: &Path) -> ConfigError {
    let offset = error.span().map_or(0, |span| span.start);
    let key = DeTable::parse(text).ok().and_then(|table| {
        let mut path = Vec::new();
        key_at(table.get_ref(), offset, &mut path);
        (!path.is_empty()).then(|| dotted(&path))
    });
    ConfigError::invalid(
        file,
        line_of(text.as_bytes(), offset),
        key,
        &escape(error.message().as_bytes()),
    )
}

/// A value that cannot be, with the line where the file says so (or, for what follows from a
/// missing key, the line of its table).
pub(super) fn of_check(problem: &Problem, text: &str, file: &Path) -> ConfigError {
    let path: Vec<&str> =
        problem.key.split(['.', '[', ']']).filter(|part| !part.is_empty()).collect();
    let offset = DeTable::parse(text)
        .ok()
        .and_then(|table| span_of(table.get_ref(), &path))
        .map_or(0, |span| span.start);
    let (key, what) = (problem.key.clone(), escape(problem.what.as_bytes()));
    ConfigError::invalid(file, line_of(text.as_bytes(), offset), Some(key), &what)
}

/// 1 for the first line.
pub(super) fn line_of(text: &[u8], offset: usize) -> usize {
    text[..offset.min(text.len())].split(|byte| *byte == b'\n').count()
}

fn dotted(path: &[String]) -> String {
    let mut key = String::new();
    for (index, part) in path.iter().enumerate() {
        let dot = if index == 0 || part.starts_with('[') { "" } else { "." };
        // Writing to a String cannot fail.
        let _ = write!(key, "{dot}{}", escape(part.as_bytes()));
    }
    key
}

/// Collects the keys on the way to the one whose name or value contains `offset`.
fn key_at(table: &DeTable<'_>, offset: usize, path: &mut Vec<String>) -> bool {
    for (key, value) in table {
        path.push(key.get_ref().to_string());
        // A table's span is its header's, and its keys may stand far below it: so they come first.
        let below = match value.get_ref() {
            DeValue::Table(inner) => key_at(inner, offset, path),
            DeValue::Array(items) => item_at(items, offset, path),
            _ => false,
        };
        if below || within(&key.span(), offset) || within(&value.span(), offset) {
            return true;
        }
        path.pop();
    }
    false
}

/// The same in an array of tables.
fn item_at(items: &DeArray<'_>, offset: usize, path: &mut Vec<String>) -> bool {
    items.iter().enumerate().any(|(index, item)| {
        let DeValue::Table(table) = item.get_ref() else { return false };
        path.push(format!("[{index}]"));
        let found = key_at(table, offset, path) || within(&item.span(), offset);
        if !found {
            path.pop();
        }
        found
    })
}

fn within(span: &Range<usize>, offset: usize) -> bool {
    span.start <= offset && offset < span.end.max(span.start + 1)
}

/// Where the value at `path` stands, or the nearest table on the way to it.
fn span_of(table: &DeTable<'_>, path: &[&str]) -> Option<Range<usize>> {
    let (first, rest) = path.split_first()?;
    let (key, value) = table.iter().find(|(key, _)| key.get_ref() == first)?;
    match value.get_ref() {
        DeValue::Table(inner) => span_of(inner, rest).or_else(|| Some(key.span())),
        DeValue::Array(items) if !rest.is_empty() => {
            let item = items.get(rest[0].parse::<usize>().ok()?)?;
            let DeValue::Table(table) = item.get_ref() else { return Some(key.span()) };
            span_of(table, &rest[1..]).or_else(|| Some(item.span()))
        }
        _ => Some(key.span()),
    }
}
