//! A sign of life: who, when, and for how long already, in the words of nori-premortem. A late one would be
//! a lie, so that none is tried again.

use std::{sync::Arc, thread, time::Duration};

use sensor_proto::internal::v1::{Account, Beat, Heartbeat, Webhook, WebhookFormat, account::What};
use serde_json::json;
use tokio::sync::mpsc;
use ureq::http::Uri;
use uuid::Uuid;

use super::{
    message::{Message, event},
    sender::{Outcome, Sender},
    tail::Tail,
};
use crate::{clock, host::Host};

/// core speaks each second; one that does not for so long has stopped to work.
const SILENT: Duration = Duration::from_secs(10);

/// What a webhook's heartbeat needs.
pub struct Heart {
    pub webhook: Webhook,
    pub heartbeat: Heartbeat,
    pub url: Uri,
    pub sender: Arc<Sender>,
    pub host: Host,
    /// Boot clock when the daemon came up, ns.
    pub started_ns: u64,
    pub tail: Arc<Tail>,
    pub accounts: mpsc::Sender<Account>,
}

impl Heart {
    /// Goes on for ever.
    pub fn run(self) {
        let mut last = String::new();
        loop {
            let why = self.beat();
            if why != last {
                last.clone_from(&why);
                let webhook = self.webhook.name.clone();
                let what = Some(What::Beat(Beat { why }));
                // Without core this process ends.
                let _ = self.accounts.blocking_send(Account { webhook, what });
            }
            thread::sleep(Duration::from_secs(self.heartbeat.every_s.into()));
        }
    }

    /// Why it did not arrive; empty: it did.
    fn beat(&self) -> String {
        if self.tail.silence() > SILENT {
            return "the daemon itself gives no sign of life".into();
        }
        match self.sender.post(&self.url, &self.message()) {
            Outcome::Accepted => String::new(),
            Outcome::Refused(why) | Outcome::Failed { why, .. } => why,
        }
    }

    fn message(&self) -> Message {
        let id = format!("heartbeat-{}", Uuid::new_v4());
        let name = &self.heartbeat.name;
        let body = json!({
            "processName": if name.is_empty() { &self.host.name } else { name },
            "timestamp": clock::wall().to_string(),
            "uptime": clock::boot_ns().saturating_sub(self.started_ns) as f64 / 1e9,
        });
        let headers = match self.webhook.format() {
            WebhookFormat::AgentMessages => Vec::new(),
            _ => event(&self.host.name, "heartbeat", &id),
        };
        Message { id, headers, body: body.to_string().into_bytes() }
    }
}
