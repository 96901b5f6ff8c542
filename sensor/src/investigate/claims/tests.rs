use proptest::prelude::*;

use super::*;
use crate::proto::{FileFact, Finding, Measure, Process, ProcessTree};

fn evidence() -> Vec<Evidence> {
    let process = |pid, anon_bytes| Process { pid, anon_bytes, ..Default::default() };
    let piece = |id: &str, content| Evidence {
        id: id.into(),
        content: Some(content),
        ..Default::default()
    };
    vec![
        piece(
            "e1",
            Content::Tree(ProcessTree {
                processes: vec![process(4_711, 146_800_640), process(4_712, 1 << 20)],
                omitted: 0,
            }),
        ),
        piece(
            "e2",
            Content::File(FileFact {
                path: b"/srv/app/package.json".to_vec(),
                content: b"{\n\"test\": \"cd plugin && npm test\"\n}\n".to_vec(),
                ..Default::default()
            }),
        ),
        piece("e3", Content::Text(b"MemAvailable:   51200 kB\nsome avg10=71.50\n".to_vec())),
    ]
}

fn incident() -> Incident {
    let measure = Measure { name: "span".into(), value: 1.134, ..Default::default() };
    Incident {
        finding: Some(Finding { measures: vec![measure], ..Default::default() }),
        diagnosis: Some(crate::proto::Diagnosis { cause: "777".into(), ..Default::default() }),
        ..Default::default()
    }
}

fn claim(text: &str, evidence: &[&str]) -> Option<Claim> {
    let evidence = evidence.iter().map(ToString::to_string).collect();
    Claim { text: text.into(), evidence }.into()
}

fn checked(findings: Findings) -> Findings {
    let (incident, evidence) = (incident(), evidence());
    let ids = cited(&findings);
    let cited: Vec<Evidence> =
        evidence.into_iter().filter(|piece| ids.contains(&piece.id)).collect();
    check(findings, &incident, &cited)
}

/// Why a cause is dropped; empty: it is not.
fn cause(text: &str, evidence: &[&str]) -> String {
    let left = checked(Findings { cause: claim(text, evidence), ..Default::default() });
    assert_eq!(left.cause.is_none(), left.dropped == 1);
    left.dropped_why.join("")
}

#[test]
fn a_claim_without_evidence_is_dropped_and_counted() {
    assert_eq!(cause("it leaks", &["e1"]), "");
    assert_eq!(cause("it leaks", &[]), "cause: it cites no evidence");
    assert_eq!(cause("it leaks", &["e1", "e9"]), "cause: there is no evidence e9");
    assert_eq!(cause("it leaks", &["\u{202e}e1"]), "cause: there is no evidence \\xe2\\x80\\xaee1");
    assert_eq!(cause(" \n ", &["e1"]), "cause: it says nothing");
    assert_eq!(cause(&"x".repeat(2_001), &["e1"]), "cause: it is longer than 2000 characters");
    assert_eq!(cause("x", &["e1"; 17]), "cause: it cites more than 16 pieces of evidence");
}

#[test]
fn numbers_are_those_of_the_evidence() {
    for (text, id) in [
        ("process 4711 holds 140 MiB", "e1"),
        ("process 4,711 holds 146800640 bytes", "e1"),
        ("2 processes", "e1"),
        ("50 MiB were left, with a stall of 71.5 %", "e3"),
        ("50MB were left", "e3"),
        ("three turns within 1.13 s", "incident"),
        ("three turns within 1.1 s, which is 1134 ms", "incident"),
        ("line 2 runs npm, as R1 and e4 say, for the 3rd time", "e2"),
    ] {
        assert_eq!(cause(text, &[id]), "", "{text}");
    }
    for (text, id, number) in [
        ("process 4713 holds 140 MiB", "e1", "4713"),
        ("process 4711 holds 141 MiB", "e1", "141"),
        ("4711 holds it", "e2", "4711"),
        ("51 MiB were left", "e3", "51"),
        ("three turns within 1.2 s", "incident", "1.2"),
        ("line 200 runs npm", "e2", "200"),
        // What a diagnosis or an agent has said is no evidence.
        ("777 of them", "incident", "777"),
        ("3000 times more", "e1", "3000"),
    ] {
        let why = format!("cause: {number} is not in what it cites");
        assert_eq!(cause(text, &[id]), why, "{text}");
    }
}

#[test]
fn what_is_proposed_may_say_any_number() {
    let remedy = claim("set --max-old-space-size=512", &["e1"]);
    assert!(checked(Findings { remedy, ..Default::default() }).remedy.is_some());
}

#[test]
fn the_diagnosis_stands_unless_evidence_refutes_it() {
    let refute = |cause, refutation| {
        let findings = Findings { cause, refutation, ..Default::default() };
        let mut asked = findings;
        asked.set_verdict(Verdict::Refutes);
        checked(asked).verdict()
    };
    let good = || claim("4711 grows", &["e1"]);
    assert_eq!(refute(good(), claim("nothing repeats", &["e1"])), Verdict::Refutes);
    for (cause, refutation) in [
        (good(), None),
        (good(), claim("nothing repeats", &[])),
        (None, claim("nothing repeats", &["e1"])),
        (claim("9999 grows", &["e1"]), claim("nothing repeats", &["e1"])),
    ] {
        assert_eq!(refute(cause, refutation), Verdict::Unsupported);
    }
    let mut abstains = Findings { confidence: f64::NAN, ..Default::default() };
    abstains.set_verdict(Verdict::Abstains);
    let left = checked(abstains);
    assert_eq!((left.verdict(), left.dropped, left.confidence), (Verdict::Abstains, 0, 0.0));
    assert_eq!(checked(Findings::default()).verdict(), Verdict::Extends);
}

#[test]
fn culprit_and_place_are_in_the_evidence() {
    let culprit = |pid| {
        let culprit = AccusedProcess { pid, text: String::new(), evidence: vec!["e1".into()] };
        checked(Findings { culprit: Some(culprit), ..Default::default() }).culprit.is_some()
    };
    assert!(culprit(4_712));
    assert!(!culprit(4_713) && !culprit(0));
    let place = |path: &str, line, id: &str| {
        let place = FixLocation { path: path.into(), line, evidence: vec![id.into()] };
        checked(Findings { fix_location: Some(place), ..Default::default() }).fix_location.is_some()
    };
    assert!(place("/srv/app/package.json", 2, "e2") && place("package.json", 0, "e2"));
    assert!(!place("/etc/passwd", 1, "e2"));
    assert!(!place("/srv/app/package.json", 5, "e2"), "it has 4 lines");
    assert!(!place("", 0, "e2") && !place("/srv/app/package.json", 2, "e1"));
}

proptest! {
    #[test]
    fn any_text_is_judged(text in ".{0,200}", id in "e[1-4]") {
        let left = checked(Findings { cause: claim(&text, &[&id]), ..Default::default() });
        prop_assert_eq!(left.dropped as usize, left.dropped_why.len());
    }

    #[test]
    fn a_number_that_is_there_is_found(value in 0_u64..1 << 50) {
        let text = format!("x={value}\n");
        let piece = Evidence {
            id: "e1".into(),
            content: Some(Content::Text(text.into_bytes())),
            ..Default::default()
        };
        let findings = Findings { cause: claim(&format!("{value} of it"), &["e1"]), ..Default::default() };
        prop_assert!(check(findings, &Incident::default(), &[piece]).cause.is_some());
    }
}
