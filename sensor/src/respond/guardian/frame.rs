//! Messages on a stream: each is preceded by its length, as protobuf does it.

use std::io::{self, Write};

use prost::Message;

/// An order lists up to 8,192 processes at 15 bytes each; an estate is made of a few dozen orders.
const LARGEST: usize = 8 << 20;

#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of {0} bytes is larger than any that is sent")]
    TooLarge(usize),
    #[error("not a message: {0}")]
    Malformed(#[from] prost::DecodeError),
}

/// Writes one message in one piece.
pub fn send(mut stream: impl Write, message: &impl Message) -> io::Result<()> {
    stream.write_all(&message.encode_length_delimited_to_vec())
}

/// Collects what a stream delivers in pieces.
#[derive(Debug, Default)]
pub struct Inbox {
    bytes: Vec<u8>,
}

impl Inbox {
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole message, if it is there. After an error the stream is of no use any more.
    pub fn next<M: Message + Default>(&mut self) -> Result<Option<M>, FrameError> {
        let mut rest = self.bytes.as_slice();
        let length = match prost::decode_length_delimiter(&mut rest) {
            Ok(length) => length,
            // A varint of 64 bits has ten bytes: with fewer, more may come.
            Err(_) if self.bytes.len() < 10 => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if length > LARGEST {
            return Err(FrameError::TooLarge(length));
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let message = M::decode(body)?;
        let used = self.bytes.len() - rest.len() + length;
        self.bytes.drain(..used);
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sensor_proto::internal::v1::{Arm, Order, Report, order::What};

    use super::*;

    #[test]
    fn a_stream_in_pieces_gives_whole_messages() {
        let orders: Vec<Order> = (0..40_u32)
            .map(|mark| {
                let incident = "i".repeat(mark as usize * 9);
                let arm = Arm { incident, mark, ..Arm::default() };
                Order { what: Some(What::Arm(arm)) }
            })
            .collect();
        let mut stream = Vec::new();
        for order in &orders {
            send(&mut stream, order).unwrap();
        }
        for piece in [1, 2, 7, 4096] {
            let mut inbox = Inbox::default();
            let mut found: Vec<Order> = Vec::new();
            for bytes in stream.chunks(piece) {
                inbox.push(bytes);
                while let Some(order) = inbox.next().unwrap() {
                    found.push(order);
                }
            }
            assert_eq!(found, orders, "in pieces of {piece}");
        }
    }

    #[test]
    fn refuses_what_nobody_sends() {
        let mut inbox = Inbox::default();
        inbox.push(&[0xff, 0xff, 0xff, 0x7f]);
        assert!(matches!(inbox.next::<Report>(), Err(FrameError::TooLarge(268_435_455))));
        let mut inbox = Inbox::default();
        inbox.push(&[0xff; 11]);
        assert!(matches!(inbox.next::<Report>(), Err(FrameError::Malformed(_))));
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut inbox = Inbox::default();
            inbox.push(&bytes);
            while let Ok(Some(_)) = inbox.next::<Order>() {}
        }
    }
}
