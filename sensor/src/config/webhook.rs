//! `[[webhooks]]`: who gets records over HTTP, which, and how.

use std::{collections::HashSet, net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};
use ureq::http::{Uri, uri::Scheme};

use super::check::{Checked, Problem, absolute, few, problem, range};
use crate::{
    proto,
    record::{Filter, KINDS},
};

/// A receiver of records.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Webhook {
    /// Lower-case letters, digits and dashes; its cursor has this name.
    pub name: String,
    pub url: String,
    pub format: Format,
    /// Where one that is new begins.
    pub from: From,
    /// Words of records' kinds; empty: all.
    pub kinds: Vec<String>,
    pub severity: Severity,
    pub lane: Lane,
    /// Keys of the signature; empty: not signed.
    pub secret_file: PathBuf,
    /// PEM; empty: the authorities that the host trusts.
    pub ca: PathBuf,
    /// Allows http to other hosts.
    pub plain_http: bool,
    pub timeout_s: u32,
    pub max_pause_s: u32,
    pub give_up_s: u32,
    pub heartbeat: Heartbeat,
}

/// What a request looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// A record as JSON, under the headers of `CloudEvents`.
    #[serde(rename = "cloudevents")]
    CloudEvents,
    /// The lines of investigations, as messages of a coding agent.
    AgentMessages,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum From {
    /// With what this run of the daemon records.
    Now,
    Oldest,
}

/// Records of incidents that are so severe or worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// And records of no incident.
    Any,
    Info,
    Warning,
    Critical,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Lane {
    Both,
    Incident,
    Bulk,
}

/// A sign of life, at a URL of its own.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Heartbeat {
    /// Empty: none.
    pub url: String,
    pub every_s: u32,
    /// What the receiver knows this host by; empty: its host name.
    pub name: String,
}

impl Default for Webhook {
    fn default() -> Self {
        Self {
            name: String::new(),
            url: String::new(),
            format: Format::CloudEvents,
            from: From::Now,
            kinds: Vec::new(),
            severity: Severity::Any,
            lane: Lane::Both,
            secret_file: PathBuf::new(),
            ca: PathBuf::new(),
            plain_http: false,
            timeout_s: 10,
            max_pause_s: 60,
            give_up_s: 60,
            heartbeat: Heartbeat::default(),
        }
    }
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self { url: String::new(), every_s: 60, name: String::new() }
    }
}

impl Severity {
    /// None: not asked for.
    pub fn least(self) -> Option<proto::Severity> {
        match self {
            Self::Any => None,
            Self::Info => Some(proto::Severity::Info),
            Self::Warning => Some(proto::Severity::Warning),
            Self::Critical => Some(proto::Severity::Critical),
        }
    }
}

impl Lane {
    /// None: not asked for.
    pub fn only(self) -> Option<proto::Priority> {
        match self {
            Self::Both => None,
            Self::Incident => Some(proto::Priority::Incident),
            Self::Bulk => Some(proto::Priority::Bulk),
        }
    }
}

/// Each has a thread or two and a connection.
const MAX: usize = 16;

/// As a file's name, and in a sentence.
const NAME_MAX: usize = 32;

pub(super) fn check(webhooks: &[Webhook]) -> Checked {
    if webhooks.len() > MAX {
        return problem("webhooks", format!("{} are more than {MAX}", webhooks.len()));
    }
    let mut names = HashSet::new();
    for (index, webhook) in webhooks.iter().enumerate() {
        let key = |key: &str| format!("webhooks[{index}].{key}");
        name(&key("name"), &webhook.name)?;
        if !names.insert(&webhook.name) {
            return problem(&key("name"), format!("another is called {:?}, too", webhook.name));
        }
        url(&key("url"), &webhook.url, webhook.plain_http)?;
        few(&key("kinds"), webhook.kinds.len())?;
        if Filter::new("", &webhook.kinds).is_err() {
            return problem(&key("kinds"), format!("kinds are {}", KINDS.join(", ")));
        }
        if webhook.format == Format::AgentMessages && !webhook.kinds.is_empty() {
            let what = "\"agent-messages\" are made of investigation and transcript: leave it out";
            return problem(&key("kinds"), what.into());
        }
        for (name, path) in [("secret_file", &webhook.secret_file), ("ca", &webhook.ca)] {
            if !path.as_os_str().is_empty() {
                absolute(&key(name), path)?;
            }
        }
        range(&key("timeout_s"), webhook.timeout_s, 1..=300)?;
        range(&key("max_pause_s"), webhook.max_pause_s, 1..=3_600)?;
        range(&key("give_up_s"), webhook.give_up_s, 1..=86_400)?;
        let heartbeat = &webhook.heartbeat;
        if !heartbeat.url.is_empty() {
            url(&key("heartbeat.url"), &heartbeat.url, webhook.plain_http)?;
        }
        range(&key("heartbeat.every_s"), heartbeat.every_s, 1..=86_400)?;
    }
    Ok(())
}

fn name(key: &str, name: &str) -> Checked {
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(legal) {
        return Ok(());
    }
    let what =
        format!("{name:?} is no name: up to {NAME_MAX} lower-case letters, digits and dashes");
    problem(key, what)
}

fn url(key: &str, text: &str, plain_http: bool) -> Checked {
    if is_private(key, text)? || plain_http {
        return Ok(());
    }
    let what =
        "http shows everybody on the way what runs here: use https, or say plain_http = true";
    problem(key, what.into())
}

/// Whether nobody on the way can read what goes to a URL. The text of a URL is in no message: receivers put
/// their keys into it.
pub(super) fn is_private(key: &str, text: &str) -> Result<bool, Problem> {
    let refused = |what: &str| Err(Problem { key: key.into(), what: what.into() });
    let parsed = text.parse::<Uri>().ok();
    let Some((uri, host)) = parsed.as_ref().and_then(|uri| Some((uri, uri.host()?))) else {
        return refused("is no URL as in \"https://receiver.example/path\"");
    };
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return refused("user and password in a URL are not sent: leave them out");
    }
    match uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTPS => Ok(true),
        Some(scheme) if *scheme == Scheme::HTTP => Ok(is_loopback(host)),
        _ => refused("begins with neither https:// nor http://"),
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}
