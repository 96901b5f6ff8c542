//! One piece of evidence, in parts that a client takes one after the other.

use tonic::Status;

use super::{
    connections::Ticket,
    stream::{Answers, answer},
};
use crate::proto::{Evidence, FileFact, GetEvidenceResponse, evidence::Content};

/// Bytes of one part: far below what a message may have, enough that its envelope is nothing.
const PART: usize = 64 << 10;

pub(super) type EvidenceStream = Answers<GetEvidenceResponse>;

/// The piece without its bytes, then those behind `offset`.
pub(super) fn parts(mut piece: Evidence, offset: u64, ticket: Ticket) -> EvidenceStream {
    let bytes = bytes_of(&mut piece);
    answer(ticket, move |sender| async move {
        let size_bytes = bytes.len() as u64;
        if offset > size_bytes {
            let why = format!("offset {offset} is behind its end: it has {size_bytes} bytes");
            return Err(Status::out_of_range(why));
        }
        let head = GetEvidenceResponse { evidence: Some(piece), size_bytes, chunk: Vec::new() };
        let rest = bytes[offset as usize..].chunks(PART);
        let rest =
            rest.map(|part| GetEvidenceResponse { chunk: part.to_vec(), ..Default::default() });
        for part in std::iter::once(head).chain(rest) {
            if sender.send(Ok(vec![part])).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    })
}

/// Takes out what goes in parts.
fn bytes_of(piece: &mut Evidence) -> Vec<u8> {
    match &mut piece.content {
        Some(Content::Text(bytes) | Content::File(FileFact { content: bytes, .. })) => {
            std::mem::take(bytes)
        }
        _ => Vec::new(),
    }
}
