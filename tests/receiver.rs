//! A receiver of webhooks on this machine, which can be made to behave badly.

use std::{
    io::{BufReader, Read, Write},
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::hmac;
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

pub use crate::http::Request;
use crate::http::{Listening, say};

/// Between two pieces of an answer that has no end: below any time in which nothing comes.
const DRIP: Duration = Duration::from_millis(50);

/// What the receiver does with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Takes it.
    Kind,
    /// Takes it, and says so only after this long.
    Slow(Duration),
    /// Answers with this status.
    Says(u16),
    /// Answers so to requests with this in their `ce-type`, and takes all others.
    Dislikes(&'static str, u16),
    /// Sends the client elsewhere.
    Redirects(String),
    /// Takes it, in an answer that has no end.
    Endless,
    /// Answers with a head that comes for ever.
    Drips,
    /// Answers with what is no HTTP.
    Babbles,
    /// Closes the connection unheard.
    HangsUp,
}

impl Request {
    /// Number of the record.
    pub fn seq(&self) -> Option<u64> {
        self.header("webhook-id").split_once('/')?.1.parse().ok()
    }

    /// Whether one of its signatures is of this key and of this minute, by the specification alone.
    pub fn is_signed_with(&self, key: &[u8]) -> bool {
        let (id, at) = (self.header("webhook-id"), self.header("webhook-timestamp"));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let age = now.unwrap_or_default().as_secs().abs_diff(at.parse().unwrap_or(0));
        let mut signed = format!("{id}.{at}.").into_bytes();
        signed.extend_from_slice(&self.body);
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        let fits = |one: &str| {
            let tag = one.strip_prefix("v1,").and_then(|tag| STANDARD.decode(tag).ok());
            tag.is_some_and(|tag| hmac::verify(&key, &signed, &tag).is_ok())
        };
        age <= 60 && self.header("webhook-signature").split(' ').any(fits)
    }
}

/// What it has heard.
#[derive(Debug)]
struct Heard {
    mood: Mood,
    /// Requests of any kind.
    requests: u64,
    taken: Vec<Request>,
}

#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    heard: Arc<Mutex<Heard>>,
    tls: Option<Arc<ServerConfig>>,
    listening: Option<Listening>,
}

impl Receiver {
    pub fn start() -> Result<Self> {
        Self::start_with(None)
    }

    /// One that speaks TLS, with what `sensor certs DIR --server localhost` made.
    pub fn start_tls(dir: &Path) -> Result<Self> {
        let chain = CertificateDer::pem_file_iter(dir.join("server.pem"))?
            .collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_file(dir.join("server.key"))?;
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        Self::start_with(Some(Arc::new(config)))
    }

    fn start_with(tls: Option<Arc<ServerConfig>>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let heard = Heard { mood: Mood::Kind, requests: 0, taken: Vec::new() };
        let mut receiver =
            Self { address, heard: Arc::new(Mutex::new(heard)), tls, listening: None };
        receiver.listen(listener)?;
        Ok(receiver)
    }

    fn listen(&mut self, listener: TcpListener) -> Result<()> {
        let (heard, tls) = (Arc::clone(&self.heard), self.tls.clone());
        self.listening = Some(Listening::new(listener, move |stream| match &tls {
            None => serve(stream, &heard),
            Some(tls) => {
                let connection = ServerConnection::new(Arc::clone(tls))?;
                serve(StreamOwned::new(connection, stream), &heard)
            }
        })?);
        Ok(())
    }

    /// Nobody listens any more.
    pub fn goes_down(&mut self) {
        self.listening = None;
    }

    /// Listens at the same port again.
    pub fn comes_back(&mut self) -> Result<()> {
        let listener = TcpListener::bind(self.address).context("its port is taken")?;
        self.listen(listener)
    }

    pub fn is_now(&self, mood: Mood) {
        self.lock().mood = mood;
    }

    pub fn url(&self, path: &str) -> String {
        let (scheme, port) =
            (if self.tls.is_some() { "https" } else { "http" }, self.address.port());
        format!("{scheme}://localhost:{port}{path}")
    }

    /// Requests of any kind until now.
    pub fn requests(&self) -> u64 {
        self.lock().requests
    }

    /// What was taken, in its order.
    pub fn taken(&self) -> Vec<Request> {
        self.lock().taken.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn serve(stream: impl Read + Write, heard: &Mutex<Heard>) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let request = Request::read(&mut stream)?;
    let mood = {
        let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.requests += 1;
        heard.mood.clone()
    };
    let stream = stream.get_mut();
    let take = || heard.lock().unwrap_or_else(PoisonError::into_inner).taken.push(request.clone());
    match mood {
        Mood::Kind => {
            take();
            say(stream, 204, "", b"")?;
        }
        Mood::Slow(pause) => {
            take();
            thread::sleep(pause);
            say(stream, 204, "", b"")?;
        }
        Mood::Dislikes(kind, status) if request.header("ce-type").contains(kind) => {
            say(stream, status, "", b"")?;
        }
        Mood::Dislikes(..) => {
            take();
            say(stream, 202, "", b"")?;
        }
        Mood::Says(status) => say(stream, status, "", b"")?,
        Mood::Redirects(to) => say(stream, 307, &format!("location: {to}\r\n"), b"")?,
        Mood::Endless => {
            take();
            stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
            drip(stream, &[b"1000\r\n", [b'x'; 4096].as_slice(), b"\r\n"].concat())?;
        }
        Mood::Drips => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n")?;
            drip(stream, b"x-more: and more\r\n")?;
        }
        Mood::Babbles => stream.write_all(&[0x1b; 8192])?,
        Mood::HangsUp => {}
    }
    Ok(stream.flush()?)
}

/// The same again, until nobody listens or a minute is over.
fn drip(stream: &mut impl Write, piece: &[u8]) -> std::io::Result<()> {
    let end = Instant::now() + Duration::from_mins(1);
    while Instant::now() < end {
        stream.write_all(piece)?;
        stream.flush()?;
        thread::sleep(DRIP);
    }
    Ok(())
}
