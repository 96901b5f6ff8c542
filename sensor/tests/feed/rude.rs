//! Clients that keep no rule of HTTP/2 but its framing: no library would do what they do.

use std::{
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

/// RFC 9113, section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames (section 6).
const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RESET: u8 = 3;
const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GO_AWAY: u8 = 7;

/// Flags.
const END_HEADERS: u8 = 4;

/// Long enough for any answer.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Rude(UnixStream);

impl Rude {
    /// Connected, and nothing said.
    pub fn silent(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    pub fn greeted(socket: &Path) -> Self {
        let mut client = Self::silent(socket);
        client.say(PREFACE).unwrap();
        client.frame(SETTINGS, 0, 0, &[]).unwrap();
        client
    }

    pub fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.say(&frame)
    }

    pub fn ping(&mut self) -> io::Result<()> {
        self.frame(PING, 0, 0, &[7; 8])
    }

    pub fn reset(&mut self, stream: u32) -> io::Result<()> {
        self.frame(RESET, 0, stream, &[0, 0, 0, 8])
    }

    /// Begins a call of this method. Streams of a client have odd numbers that grow.
    pub fn call(&mut self, stream: u32, method: &str) -> io::Result<()> {
        let path = format!("/sensor.v1.SensorService/{method}");
        // HPACK (RFC 7541): POST and http are in its table; the others are literals by the names' numbers
        // there: 4 :path, 1 :authority, 31 content-type.
        let mut block = vec![0x83, 0x86];
        for (name, value) in
            [(&[0x04][..], path.as_str()), (&[0x01], "x"), (&[0x0f, 0x10], "application/grpc")]
        {
            block.extend(name);
            block.push(value.len() as u8);
            block.extend(value.as_bytes());
        }
        self.frame(HEADERS, END_HEADERS, stream, &block)
    }

    /// Bytes of the call's message, without an end.
    pub fn data(&mut self, stream: u32, bytes: &[u8]) -> io::Result<()> {
        self.frame(DATA, 0, stream, bytes)
    }

    /// Reads until a frame of one of these kinds on this stream, or the end (none).
    pub fn hears(&mut self, kinds: &[u8], stream: u32) -> Option<u8> {
        loop {
            let mut head = [0; 9];
            match self.0.read_exact(&mut head) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    panic!("it says nothing for {PATIENCE:?}")
                }
                Err(_) => return None,
                Ok(()) => {}
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let of = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            self.0.read_exact(&mut vec![0; length as usize]).ok()?;
            if kinds.contains(&head[3]) && of == stream {
                return Some(head[3]);
            }
        }
    }

    /// Reads whatever comes until the other side closes.
    pub fn sees_the_end(mut self) {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("it stays open"),
            _ => {}
        }
    }
}
