//! A piece of evidence in parts.

use super::*;
use crate::proto::{
    Evidence, FileFact, GetEvidenceRequest, GetEvidenceResponse, evidence::Content,
};

const INCIDENT: &str = "aaaaaaaaaa";

fn transition() -> Draft {
    let incident = proto::Incident { id: INCIDENT.into(), ..Default::default() };
    let body = proto::Transition { incident: Some(incident), ..Default::default() };
    Draft::of(INCIDENT, Body::Transition(body))
}

fn piece(id: &str, content: Content) -> Evidence {
    Evidence { id: id.into(), name: "one".into(), content: Some(content), ..Default::default() }
}

impl Feed {
    fn parts(&self, id: &str, offset: u64) -> Result<(GetEvidenceResponse, Vec<Vec<u8>>), Status> {
        let request = GetEvidenceRequest { incident: "aa".into(), evidence: id.into(), offset };
        let mut client = self.client();
        self.runtime.block_on(async {
            let mut answers = client.get_evidence(request).await?.into_inner();
            let head = answers.message().await?.unwrap();
            let mut parts = Vec::new();
            while let Some(part) = answers.message().await? {
                assert_eq!((&part.evidence, part.size_bytes), (&None, 0));
                parts.push(part.chunk);
            }
            Ok((head, parts))
        })
    }
}

#[test]
fn evidence_comes_in_parts_and_from_any_byte_on() {
    let feed = Feed::start();
    // As large as a record may be.
    let text: Vec<u8> = (0..3_400_000_u32).map(|n| (n / 7) as u8).collect();
    let file = FileFact { path: b"/x".to_vec(), content: b"abc".to_vec(), ..Default::default() };
    let tree = Content::Tree(proto::ProcessTree { omitted: 7, ..Default::default() });
    feed.log.append(transition());
    for one in [
        piece("e1", Content::Text(b"older".to_vec())),
        piece("e1", Content::Text(text.clone())),
        piece("e2", Content::File(file)),
        piece("e3", tree.clone()),
    ] {
        feed.log.append(Draft::of(INCIDENT, Body::Evidence(one)));
    }
    feed.flush();

    let (head, parts) = feed.parts("e1", 0).unwrap();
    assert_eq!(head.size_bytes, text.len() as u64);
    assert_eq!(head.evidence.unwrap().content, Some(Content::Text(Vec::new())));
    assert!(parts.iter().all(|part| part.len() <= 64 << 10));
    assert!(parts.concat() == text);
    for offset in [1, 65_536, 3_399_999, 3_400_000] {
        let (head, parts) = feed.parts("e1", offset).unwrap();
        assert_eq!(head.size_bytes, text.len() as u64);
        assert!(parts.concat() == text[offset as usize..]);
    }
    let (head, parts) = feed.parts("e2", 0).unwrap();
    assert_eq!((head.size_bytes, parts.concat()), (3, b"abc".to_vec()));
    let Some(Content::File(file)) = head.evidence.unwrap().content else { panic!("not a file") };
    assert_eq!((file.path, file.content), (b"/x".to_vec(), Vec::new()));
    let (head, parts) = feed.parts("e3", 0).unwrap();
    assert_eq!((head.evidence.unwrap().content, parts.len()), (Some(tree), 0));

    let code = |id, offset| feed.parts(id, offset).unwrap_err().code();
    assert_eq!(code("e1", 3_400_001), Code::OutOfRange);
    assert_eq!(code("e1", u64::MAX), Code::OutOfRange);
    assert_eq!(code("e4", 0), Code::NotFound);
}
