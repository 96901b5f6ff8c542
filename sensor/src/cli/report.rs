//! What an agent has submitted about an incident, part by part, with what each rests on.

use std::fmt::Write as _;

use sensor_proto::v1::{Findings, Verdict};

use super::{
    describe::paragraph,
    style::{Style, Tone},
    text,
};

/// Appends the findings; nothing of them that was dropped.
pub fn show(page: &mut String, report: &Findings, style: &Style) {
    let verdict = match report.verdict() {
        Verdict::Confirms => "confirms the built-in diagnosis",
        Verdict::Extends | Verdict::Unspecified => "extends the built-in diagnosis",
        Verdict::Refutes => "refutes the built-in diagnosis; its cause stands above",
        Verdict::Abstains => "does not know, and says so",
        Verdict::Unsupported => {
            "says that the built-in diagnosis is wrong, which the evidence does not show: it stands"
        }
    };
    let confidence = text::number(report.confidence);
    // Writing to a String cannot fail, here and below.
    let _ = writeln!(
        page,
        "  {}",
        style.paint(Tone::Faint, &format!("{verdict}; confidence {confidence}"))
    );
    let mut part = |name: &str, said: &str, evidence: &[String]| {
        let cited = evidence.iter().map(|id| text::safe(id)).collect::<Vec<_>>().join(" ");
        let aside = style.paint(Tone::Faint, &format!("evidence {cited}"));
        let _ = writeln!(page, "  {name}  {aside}");
        paragraph(page, said, 4, style);
    };
    for (name, claim) in [
        ("refutation", &report.refutation),
        ("cause", &report.cause),
        ("mechanism", &report.mechanism),
        ("remedy", &report.remedy),
        ("prevention", &report.prevention),
    ] {
        if let Some(claim) = claim {
            part(name, &claim.text, &claim.evidence);
        }
    }
    if let Some(culprit) = &report.culprit {
        let said = format!("process {}\n{}", culprit.pid, culprit.text);
        part("culprit", &said, &culprit.evidence);
    }
    if let Some(place) = &report.fix_location {
        let line = if place.line > 0 { format!(", line {}", place.line) } else { String::new() };
        part("where", &format!("{}{line}", place.path), &place.evidence);
    }
    if report.dropped > 0 {
        let count = text::count(u64::from(report.dropped), "claim", "claims");
        paragraph(page, &format!("{count} dropped: {}", report.dropped_why.join("; ")), 2, style);
    }
}

#[cfg(test)]
mod tests {
    use sensor_proto::v1::{AccusedProcess, Claim, FixLocation};

    use super::*;

    fn shown(report: &Findings) -> String {
        let mut page = String::new();
        show(&mut page, report, &Style::PLAIN);
        page
    }

    #[test]
    fn each_part_stands_with_its_evidence() {
        let claim = |text: &str| {
            Some(Claim { text: text.into(), evidence: vec!["e1".into(), "s2".into()] })
        };
        let report = Findings {
            verdict: Verdict::Refutes.into(),
            confidence: 0.8,
            cause: claim("it leaks"),
            remedy: claim("restart it"),
            refutation: claim("nothing repeats"),
            culprit: Some(AccusedProcess {
                pid: 7,
                text: "it grew".into(),
                evidence: vec!["e1".into()],
            }),
            fix_location: Some(FixLocation {
                path: "src/a.js".into(),
                line: 3,
                evidence: vec!["s2".into()],
            }),
            dropped: 1,
            dropped_why: vec!["mechanism: it cites no evidence".into()],
            ..Default::default()
        };
        assert_eq!(
            shown(&report),
            "  refutes the built-in diagnosis; its cause stands above; confidence 0.8\n\
             \x20 refutation  evidence e1 s2\n    nothing repeats\n\
             \x20 cause  evidence e1 s2\n    it leaks\n\
             \x20 remedy  evidence e1 s2\n    restart it\n\
             \x20 culprit  evidence e1\n    process 7\n    it grew\n\
             \x20 where  evidence s2\n    src/a.js, line 3\n\
             \x20 1 claim dropped: mechanism: it cites no evidence\n"
        );
        let abstains = Findings { verdict: Verdict::Abstains.into(), ..Default::default() };
        assert_eq!(shown(&abstains), "  does not know, and says so; confidence 0\n");
    }
}
