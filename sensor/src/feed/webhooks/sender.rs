//! One request to a receiver, and what its answer means. The receiver may be anything: how long it may
//! take and how much of it is read is bounded, and it can send nobody elsewhere.

use std::{
    io::Read as _,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ring::hmac;
use rustls::{
    crypto::ring::default_provider,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use sensor_proto::{internal::v1::Webhook, json::escape};
use ureq::{
    Agent, Error,
    http::{StatusCode, Uri, header::RETRY_AFTER, response::Response},
    tls::{Certificate, RootCerts, TlsConfig},
};

use super::{message::Message, pause, signature};

/// Of an answer's headers; more is none.
const HEADERS_MAX: usize = 16 << 10;

/// Of an answer's body, so that the connection can be used again. It says nothing that is needed.
const BODY_MAX: u64 = 16 << 10;

/// Of a reason that somebody else gives, characters.
const WHY_MAX: usize = 160;

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It arrived.
    Accepted,
    /// This one is not wanted, and will not be: why.
    Refused(String),
    /// It may arrive later.
    Failed {
        why: String,
        /// What the receiver asks for.
        pause: Option<Duration>,
    },
}

/// Makes requests for one webhook.
#[derive(Debug)]
pub struct Sender {
    agent: Agent,
    keys: Vec<hmac::Key>,
    timeout: Duration,
}

impl Sender {
    /// Its authorities are read here: later it may not.
    pub fn new(webhook: &Webhook) -> Self {
        let timeout = Duration::from_secs(webhook.timeout_s.into());
        let tls = TlsConfig::builder()
            .unversioned_rustls_crypto_provider(Arc::new(default_provider()))
            .root_certs(authorities(webhook))
            .build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .timeout_global(Some(timeout))
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .max_response_header_size(HEADERS_MAX)
            .user_agent(concat!("sensor/", env!("CARGO_PKG_VERSION")))
            .build();
        let keys = webhook.keys.iter().map(|key| hmac::Key::new(hmac::HMAC_SHA256, key)).collect();
        Self { agent: config.new_agent(), keys, timeout }
    }

    /// Posts it, signed.
    pub fn post(&self, url: &Uri, message: &Message) -> Outcome {
        let now = SystemTime::now();
        let timestamp = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut request = self
            .agent
            .post(url)
            .header("content-type", "application/json")
            .header("webhook-id", &message.id)
            .header("webhook-timestamp", timestamp.to_string());
        if !self.keys.is_empty() {
            let signature = signature::sign(&self.keys, &message.id, timestamp, &message.body);
            request = request.header("webhook-signature", signature);
        }
        for (name, value) in &message.headers {
            request = request.header(*name, value);
        }
        match request.send(&message.body) {
            Ok(answer) => {
                let outcome = judge(&answer, now);
                let mut rest = Vec::new();
                // It has been judged by its head; what cannot be read ends the connection.
                let _ = answer.into_body().into_reader().take(BODY_MAX).read_to_end(&mut rest);
                outcome
            }
            // Something in it can be no header: that does not change.
            Err(Error::Http(error)) => Outcome::Refused(short(&error)),
            Err(error) => Outcome::Failed { why: self.reason(&error), pause: None },
        }
    }

    /// One sentence, without the URL.
    fn reason(&self, error: &Error) -> String {
        match error {
            Error::Timeout(_) => format!("no answer within {} s", self.timeout.as_secs()),
            Error::HostNotFound => "nobody knows its host's address".into(),
            Error::Io(error) => short(error),
            Error::Rustls(error) => short(error),
            error => format!("it does not speak HTTP as it should ({})", short(error)),
        }
    }
}

fn short(error: &impl ToString) -> String {
    escape(error.to_string().as_bytes()).chars().take(WHY_MAX).collect()
}

fn judge<T>(answer: &Response<T>, now: SystemTime) -> Outcome {
    let status = answer.status();
    let said = match status.canonical_reason() {
        Some(reason) => format!("it answers {} {reason}", status.as_u16()),
        None => format!("it answers {}", status.as_u16()),
    };
    let asked = || {
        let header = answer.headers().get(RETRY_AFTER)?.to_str().ok()?;
        pause::asked(header, now)
    };
    if status.is_success() {
        Outcome::Accepted
    } else if status.is_redirection() {
        Outcome::Failed { why: format!("{said}, and is not followed elsewhere"), pause: None }
    } else if is_about_the_record(status) {
        Outcome::Refused(said)
    } else {
        Outcome::Failed { why: said, pause: asked() }
    }
}

/// Whether another record may fare better than this one. Who may not be known, or allowed, or there, is
/// mended by a person, and then everything comes through.
fn is_about_the_record(status: StatusCode) -> bool {
    status.is_client_error()
        && !matches!(status.as_u16(), 401 | 403 | 404 | 405 | 407 | 408 | 410 | 421 | 425 | 429)
}

/// Who may have issued the receiver's certificate.
fn authorities(webhook: &Webhook) -> RootCerts {
    let der = |certificates: Vec<CertificateDer<'_>>| {
        certificates.iter().map(|one| Certificate::from_der(one).to_owned()).collect::<Vec<_>>()
    };
    let found = if webhook.ca.is_empty() {
        let found = rustls_native_certs::load_native_certs();
        if found.certs.is_empty() {
            let why: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
            tracing::warn!(
                "{}: this host trusts no authority ({}): set webhooks.ca",
                webhook.name,
                why.join("; ")
            );
        }
        der(found.certs)
    } else {
        // core has looked at it.
        der(CertificateDer::pem_slice_iter(&webhook.ca).flatten().collect())
    };
    RootCerts::new_with_certs(&found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, headers: &[(&str, &str)]) -> Outcome {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        judge(&response.body(()).unwrap(), SystemTime::now())
    }

    #[test]
    fn what_an_answer_means() {
        for status in [200, 201, 202, 204] {
            assert_eq!(answer(status, &[]), Outcome::Accepted);
        }
        for status in [400, 406, 409, 413, 415, 422, 451] {
            assert!(matches!(answer(status, &[]), Outcome::Refused(_)), "{status}");
        }
        for status in [301, 307, 401, 403, 404, 408, 410, 425, 429, 500, 502, 503, 599, 999] {
            assert!(matches!(answer(status, &[]), Outcome::Failed { .. }), "{status}");
        }
        assert_eq!(
            answer(503, &[("retry-after", "7")]),
            Outcome::Failed {
                why: "it answers 503 Service Unavailable".into(),
                pause: Some(Duration::from_secs(7)),
            },
        );
        assert_eq!(
            answer(429, &[("retry-after", "\u{fc}")]),
            Outcome::Failed { why: "it answers 429 Too Many Requests".into(), pause: None },
        );
    }
}
