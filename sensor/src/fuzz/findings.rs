//! What an agent submits, and what is left of it when it is held against the evidence.

use crate::{
    investigate::claims,
    mcp::submission,
    proto::{Claim, Evidence, FileFact, Incident, Verdict, evidence::Content},
};

/// The evidence of the incident that it is about.
fn evidence() -> Vec<Evidence> {
    let piece = |id: &str, content| Evidence {
        id: id.into(),
        content: Some(content),
        ..Evidence::default()
    };
    let file = FileFact {
        path: b"/w/a.js".to_vec(),
        content: b"while (true)\n  leak(4096)\n".to_vec(),
        ..FileFact::default()
    };
    vec![
        piece("e1", Content::Text(b"MemAvailable: 51200 kB\n".to_vec())),
        piece("s1", Content::File(file)),
    ]
}

pub fn run(bytes: &[u8]) {
    let Ok(given) = serde_json::from_slice(bytes) else { return };
    let Ok(findings) = submission::parse(given) else { return };
    let asked = [
        findings.cause.is_some(),
        findings.mechanism.is_some(),
        findings.culprit.is_some(),
        findings.remedy.is_some(),
        findings.prevention.is_some(),
        findings.fix_location.is_some(),
        findings.refutation.is_some(),
    ];
    let known = evidence();
    let cited = claims::cited(&findings);
    let of: Vec<Evidence> =
        known.iter().filter(|piece| cited.contains(&piece.id)).cloned().collect();
    let left = claims::check(findings, &Incident::default(), &of);
    let rests = |evidence: &[String]| {
        let is = |id: &String| id == claims::INCIDENT || known.iter().any(|it| it.id == *id);
        assert!(!evidence.is_empty() && evidence.iter().all(is), "{evidence:?}");
    };
    let claims: Vec<&Claim> =
        [&left.cause, &left.mechanism, &left.remedy, &left.prevention, &left.refutation]
            .into_iter()
            .flatten()
            .collect();
    for claim in &claims {
        rests(&claim.evidence);
    }
    if let Some(culprit) = &left.culprit {
        rests(&culprit.evidence);
    }
    if let Some(place) = &left.fix_location {
        rests(&place.evidence);
    }
    let kept = claims.len()
        + usize::from(left.culprit.is_some())
        + usize::from(left.fix_location.is_some());
    let asked = asked.into_iter().filter(|asked| *asked).count();
    assert_eq!(kept + left.dropped as usize, asked, "each is kept or counted");
    if left.verdict() == Verdict::Refutes {
        assert!(left.cause.is_some() && left.refutation.is_some());
    }
    assert!((0.0..=1.0).contains(&left.confidence));
    // What is left withstands the same once more.
    assert_eq!(claims::check(left, &Incident::default(), &of).dropped, 0);
}

pub fn seeds() -> Vec<Vec<u8>> {
    [
        r#"{"verdict":"refutes","confidence":0.8,"cause":{"text":"it leaks 4096 in line 2","evidence":["s1"]},"refutation":{"text":"50 MiB are left","evidence":["e1"]}}"#,
        r#"{"verdict":"extends","confidence":1,"mechanism":{"text":"51,200 kB","evidence":["e1","e9"]},"remedy":{"text":"--max=7","evidence":["e1"]}}"#,
        r#"{"verdict":"confirms","confidence":0,"culprit":{"pid":4096,"evidence":["s1"]},"fix_location":{"path":"a.js","line":2,"evidence":["s1"]},"prevention":{"text":"x","evidence":[]}}"#,
        r#"{"verdict":"abstains","confidence":0.5}"#,
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
