//! A receiver of webhooks on this machine, which can be made to behave badly.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
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
use serde_json::Value;

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

/// A request that was taken.
#[derive(Clone, Debug)]
pub struct Request {
    pub path: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

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
    listening: Option<(Arc<AtomicBool>, thread::JoinHandle<()>)>,
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
        receiver.listen(listener);
        Ok(receiver)
    }

    fn listen(&mut self, listener: TcpListener) {
        let (heard, tls) = (Arc::clone(&self.heard), self.tls.clone());
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        let accepting = thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                let (heard, tls) = (Arc::clone(&heard), tls.clone());
                // Who hangs up in the middle is as usual here.
                thread::spawn(move || match tls {
                    None => serve(stream, &heard),
                    Some(tls) => {
                        let connection = ServerConnection::new(tls)?;
                        serve(StreamOwned::new(connection, stream), &heard)
                    }
                });
            }
        });
        self.listening = Some((end, accepting));
    }

    /// Nobody listens any more.
    pub fn goes_down(&mut self) {
        if let Some((end, accepting)) = self.listening.take() {
            end.store(true, Ordering::Relaxed);
            // Wakes it; it may be gone already.
            let _ = TcpStream::connect(self.address);
            let _ = accepting.join();
        }
    }

    /// Listens at the same port again.
    pub fn comes_back(&mut self) -> Result<()> {
        let listener = TcpListener::bind(self.address).context("its port is taken")?;
        self.listen(listener);
        Ok(())
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

impl Drop for Receiver {
    fn drop(&mut self) {
        self.goes_down();
    }
}

fn serve(stream: impl Read + Write, heard: &Mutex<Heard>) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let request = read(&mut stream)?;
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
            say(stream, 204, "")?;
        }
        Mood::Slow(pause) => {
            take();
            thread::sleep(pause);
            say(stream, 204, "")?;
        }
        Mood::Dislikes(kind, status) if request.header("ce-type").contains(kind) => {
            say(stream, status, "")?;
        }
        Mood::Dislikes(..) => {
            take();
            say(stream, 202, "")?;
        }
        Mood::Says(status) => say(stream, status, "")?,
        Mood::Redirects(to) => say(stream, 307, &format!("location: {to}\r\n"))?,
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

fn say(stream: &mut impl Write, status: u16, headers: &str) -> std::io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 {status} So\r\nconnection: close\r\n{headers}content-length: 0\r\n\r\n"
    )
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

fn read(stream: &mut BufReader<impl Read>) -> Result<Request> {
    let mut first = String::new();
    stream.read_line(&mut first)?;
    let path = first.split(' ').nth(1).context("no request")?.to_owned();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Err(std::io::Error::from(ErrorKind::UnexpectedEof).into());
        }
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length").context("no length")?.parse()?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(Request { path, headers, body })
}
