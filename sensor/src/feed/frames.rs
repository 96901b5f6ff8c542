//! The bytes between `core` and `serve` or `deliver`: protobuf messages, each behind its length (4 bytes,
//! big endian), none larger than [`FRAME_MAX`].

use std::{io, marker::PhantomData};

use bytes::{Bytes, BytesMut};
use prost::Message;
use tokio::{
    io::AsyncWriteExt as _,
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
};
use tokio_stream::StreamExt as _;
use tokio_util::codec::{Encoder as _, FramedRead, LengthDelimitedCodec};

/// Largest message, bytes: an incident in full, as in an answer to a client, and its envelope.
pub(super) const FRAME_MAX: usize = (4 << 20) + (64 << 10);

fn codec() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().max_frame_length(FRAME_MAX).new_codec()
}

/// Both directions of a stream.
pub(crate) fn split<In, Out>(stream: UnixStream) -> (Incoming<In>, Outgoing<Out>)
where
    In: Message + Default,
    Out: Message,
{
    let (read, write) = stream.into_split();
    (
        Incoming { frames: FramedRead::new(read, codec()), message: PhantomData },
        Outgoing { write, codec: codec(), buffer: BytesMut::new(), message: PhantomData },
    )
}

pub(crate) struct Incoming<M> {
    frames: FramedRead<OwnedReadHalf, LengthDelimitedCodec>,
    message: PhantomData<M>,
}

impl<M: Message + Default> Incoming<M> {
    /// The next message; none when the other side has closed.
    pub async fn next(&mut self) -> io::Result<Option<M>> {
        match self.frames.next().await {
            None => Ok(None),
            Some(frame) => M::decode(frame?).map(Some).map_err(io::Error::other),
        }
    }
}

pub(crate) struct Outgoing<M> {
    write: OwnedWriteHalf,
    codec: LengthDelimitedCodec,
    buffer: BytesMut,
    message: PhantomData<M>,
}

impl<M: Message> Outgoing<M> {
    pub async fn send(&mut self, message: &M) -> io::Result<()> {
        self.codec.encode(Bytes::from(message.encode_to_vec()), &mut self.buffer)?;
        self.write.write_all_buf(&mut self.buffer).await
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sensor_proto::internal::v1::{Ask, Tell};
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[test]
    fn messages_arrive_whole_and_the_end_is_seen() {
        runtime().block_on(async {
            let (near, far) = UnixStream::pair().unwrap();
            let (_, mut out) = split::<Tell, Ask>(near);
            let (mut incoming, _) = split::<Ask, Tell>(far);
            for id in [1, u64::MAX] {
                out.send(&Ask { id, gids: vec![1, 2], ..Ask::default() }).await.unwrap();
            }
            drop(out);
            assert_eq!(incoming.next().await.unwrap().unwrap().id, 1);
            assert_eq!(incoming.next().await.unwrap().unwrap().id, u64::MAX);
            assert!(incoming.next().await.unwrap().is_none());
        });
    }

    #[test]
    fn a_frame_that_is_too_large_is_an_error_before_it_is_read() {
        runtime().block_on(async {
            let (mut near, far) = UnixStream::pair().unwrap();
            let (mut incoming, _) = split::<Ask, Tell>(far);
            near.write_all(&(FRAME_MAX as u32 + 1).to_be_bytes()).await.unwrap();
            assert!(incoming.next().await.is_err());
        });
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            runtime().block_on(async {
                let (mut near, far) = UnixStream::pair().unwrap();
                let (mut incoming, _) = split::<Ask, Tell>(far);
                near.write_all(&bytes).await.unwrap();
                drop(near);
                while let Ok(Some(_)) = incoming.next().await {}
            });
        }
    }
}
