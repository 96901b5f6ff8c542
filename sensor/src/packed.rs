//! Messages one behind another in a zstd stream, each with its length in bytes before it as a varint:
//! what traces and exported incidents are made of. Whatever a file holds, reading it takes bounded
//! memory.

use std::io::{self, BufReader, Read, Write};

use prost::Message;

/// zstd's own default: 4 times smaller than without at 500 MB/s; the next levels save a tenth.
const COMPRESSION: i32 = 3;

/// 8 MiB: what zstd's own tools accept without being asked, and four times what level 3 writes.
const WINDOW_LOG: u32 = 23;

/// Where a file stops making sense: behind so many of its messages, which are called `what`. `why`: what is wrong
/// there; none where it just ends.
pub fn damage(what: &str, read: u64, why: Option<&io::Error>) -> String {
    let place = match read {
        0 => format!("before its first {what}"),
        _ => format!("behind {what} {read}"),
    };
    match why {
        // zstd says so where a frame stops in its middle.
        Some(why) if why.kind() != io::ErrorKind::UnexpectedEof => {
            format!("damaged {place}: {why}")
        }
        _ => format!("cut off {place}"),
    }
}

/// Writes the messages.
pub struct Packer<W: Write> {
    stream: zstd::Encoder<'static, W>,
    buffer: Vec<u8>,
}

impl<W: Write> Packer<W> {
    pub fn new(to: W) -> io::Result<Self> {
        let mut stream = zstd::Encoder::new(to, COMPRESSION)?;
        stream.include_checksum(true)?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    pub fn write(&mut self, message: &impl Message) -> io::Result<()> {
        self.buffer.clear();
        message.encode_length_delimited(&mut self.buffer).map_err(io::Error::other)?;
        self.stream.write_all(&self.buffer)
    }

    /// Everything up to here can be read even if the writer dies now.
    pub fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }

    /// Where it goes.
    pub fn get_ref(&self) -> &W {
        self.stream.get_ref()
    }

    /// Ends the stream, with a checksum over all of it.
    pub fn finish(self) -> io::Result<W> {
        self.stream.finish()
    }
}

/// Reads the messages.
pub struct Unpacker<R: Read> {
    stream: BufReader<zstd::Decoder<'static, BufReader<R>>>,
    buffer: Vec<u8>,
    /// Longest message, bytes: a longer length is no length.
    longest: u64,
    /// What was unpacked, bytes, and what may be.
    unpacked: u64,
    most: u64,
}

impl<R: Read> Unpacker<R> {
    /// `longest`: bytes of a message; `most`: of all of them together.
    pub fn new(from: R, longest: u64, most: u64) -> io::Result<Self> {
        let mut decoder = zstd::Decoder::new(from)?;
        decoder.window_log_max(WINDOW_LOG)?;
        let stream = BufReader::new(decoder);
        Ok(Self { stream, buffer: Vec::new(), longest, unpacked: 0, most })
    }

    /// The next message; none at the end. `UnexpectedEof` where the stream stops in its middle.
    pub fn message<M: Message + Default>(&mut self) -> io::Result<Option<M>> {
        let Some(length) = self.length()? else { return Ok(None) };
        if length > self.longest {
            return Err(io::Error::other(format!("an entry of {length} bytes")));
        }
        self.unpacked += length + 1;
        if self.unpacked > self.most {
            let why = format!("it unpacks to more than {} bytes, which it cannot hold", self.most);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
        }
        // Grows with what is really there: a length alone takes no memory.
        self.buffer.clear();
        let read = (&mut self.stream).take(length).read_to_end(&mut self.buffer)?;
        if (read as u64) < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        M::decode(self.buffer.as_slice()).map(Some).map_err(io::Error::other)
    }

    /// A varint: <https://protobuf.dev/programming-guides/encoding/#varints>. None at the end.
    fn length(&mut self) -> io::Result<Option<u64>> {
        let mut length = 0_u64;
        for shift in (0..35).step_by(7) {
            let mut byte = [0];
            if self.stream.read(&mut byte)? == 0 {
                if shift == 0 {
                    return Ok(None);
                }
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            length |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] & 0x80 == 0 {
                return Ok(Some(length));
            }
        }
        Err(io::Error::other("a length without end"))
    }
}
