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
};
use crate::{clock, host::Host};

/// Goes on for ever.
pub fn run(
    webhook: &Webhook,
    heartbeat: &Heartbeat,
    url: &Uri,
    sender: &Arc<Sender>,
    (host, started_ns): (&Host, u64),
    accounts: &mpsc::Sender<Account>,
) {
    let name = if heartbeat.name.is_empty() { &host.name } else { &heartbeat.name };
    let mut last = String::new();
    loop {
        let id = format!("heartbeat-{}", Uuid::new_v4());
        let body = json!({
            "processName": name,
            "timestamp": clock::wall().to_string(),
            "uptime": clock::boot_ns().saturating_sub(started_ns) as f64 / 1e9,
        });
        let headers = match webhook.format() {
            WebhookFormat::AgentMessages => Vec::new(),
            _ => event(&host.name, "heartbeat", &id),
        };
        let message = Message { id, headers, body: body.to_string().into_bytes() };
        let why = match sender.post(url, &message) {
            Outcome::Accepted => String::new(),
            Outcome::Refused(why) | Outcome::Failed { why, .. } => why,
        };
        if why != last {
            last.clone_from(&why);
            // Without core this process ends.
            let what = Some(What::Beat(Beat { why }));
            let _ = accounts.blocking_send(Account { webhook: webhook.name.clone(), what });
        }
        thread::sleep(Duration::from_secs(heartbeat.every_s.into()));
    }
}
