//! As much of HTTP/1.1 as the servers of the tests need: one request a connection.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// More than any client of the tests sends at once.
const LARGEST_BODY: usize = 64 << 20;

/// What a client asked.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn read(stream: &mut BufReader<impl Read>) -> Result<Self> {
        let first = line(stream)?;
        let mut words = first.split(' ').map(str::to_owned);
        let (method, path) = words.next().zip(words.next()).context("no request")?;
        let mut headers = BTreeMap::new();
        while let Some((name, value)) = line(stream)?.split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let mut request = Self { method, path, headers, body: Vec::new() };
        request.body = if request.header("transfer-encoding") == "chunked" {
            chunks(stream)?
        } else {
            let length = request.headers.get("content-length").map_or(Ok(0), |it| it.parse())?;
            exactly(stream, length)?
        };
        Ok(request)
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// A whole answer; `headers` are lines of their own.
pub fn say(
    stream: &mut impl Write,
    status: u16,
    headers: &str,
    body: &[u8],
) -> std::io::Result<()> {
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status} So\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n"
    )?;
    stream.write_all(body)
}

/// Listens, and serves each connection in a thread of its own.
#[derive(Debug)]
pub struct Listening {
    address: SocketAddr,
    end: Arc<AtomicBool>,
    accepting: Option<thread::JoinHandle<()>>,
}

impl Listening {
    pub fn new<T: Send + 'static>(
        listener: TcpListener,
        serve: impl Fn(TcpStream) -> T + Clone + Send + 'static,
    ) -> Result<Self> {
        let address = listener.local_addr()?;
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        let accepting = thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                let serve = serve.clone();
                // Who hangs up in the middle is as usual here.
                thread::spawn(move || drop(serve(stream)));
            }
        });
        Ok(Self { address, end, accepting: Some(accepting) })
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        // Wakes it; it may be gone already.
        let _ = TcpStream::connect(self.address);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

/// Without its end; an empty one ends the head.
fn line(stream: &mut BufReader<impl Read>) -> Result<String> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Err(std::io::Error::from(ErrorKind::UnexpectedEof).into());
    }
    line.truncate(line.trim_end().len());
    Ok(line)
}

fn chunks(stream: &mut BufReader<impl Read>) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let length = usize::from_str_radix(line(stream)?.trim(), 16).context("no chunk")?;
        body.extend(exactly(stream, length)?);
        line(stream)?;
        if length == 0 {
            return Ok(body);
        }
        if body.len() > LARGEST_BODY {
            bail!("a body of more than {LARGEST_BODY} bytes");
        }
    }
}

fn exactly(stream: &mut BufReader<impl Read>, length: usize) -> Result<Vec<u8>> {
    if length > LARGEST_BODY {
        bail!("a body of {length} bytes");
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}
