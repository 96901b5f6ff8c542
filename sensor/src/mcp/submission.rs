//! `submit_findings`: findings as an agent writes them, by `docs/schema/findings.json`.

use sensor_proto::{
    json,
    v1::{self, AccusedProcess, Claim, FixLocation},
};
use serde::Deserialize;
use serde_json::Value;

use super::{Daemon, Failed, page::Page, tools::Arguments};
use crate::render::{Fact, Facts, Kind};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Submitted {
    verdict: String,
    confidence: f64,
    cause: Option<Said>,
    mechanism: Option<Said>,
    culprit: Option<Accused>,
    remedy: Option<Said>,
    prevention: Option<Said>,
    fix_location: Option<Place>,
    refutation: Option<Said>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    text: String,
    evidence: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Accused {
    pid: u32,
    #[serde(default)]
    text: String,
    evidence: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    path: String,
    #[serde(default)]
    line: u32,
    evidence: Vec<String>,
}

/// Findings as the daemon takes them; an error says what is not as the schema has it.
pub(crate) fn parse(given: Value) -> Result<v1::Findings, Failed> {
    let given: Submitted = serde_json::from_value(given)
        .map_err(|error| format!("the findings are not as the schema has them: {error}"))?;
    let verdict = json::verdict::parse(&given.verdict)
        .filter(|verdict| *verdict != v1::Verdict::Unsupported)
        .ok_or("the verdict is confirms, extends, refutes or abstains")?;
    if !(0.0..=1.0).contains(&given.confidence) {
        return Err("the confidence is a number from 0 to 1".to_owned());
    }
    let claim = |said: Option<Said>| said.map(|Said { text, evidence }| Claim { text, evidence });
    Ok(v1::Findings {
        verdict: verdict.into(),
        confidence: given.confidence,
        cause: claim(given.cause),
        mechanism: claim(given.mechanism),
        culprit: given.culprit.map(|Accused { pid, text, evidence }| AccusedProcess {
            pid,
            text,
            evidence,
        }),
        remedy: claim(given.remedy),
        prevention: claim(given.prevention),
        fix_location: given.fix_location.map(|Place { path, line, evidence }| FixLocation {
            path,
            line,
            evidence,
        }),
        refutation: claim(given.refutation),
        ..Default::default()
    })
}

pub(super) async fn submit(
    daemon: &mut Daemon,
    page: &mut Page<'_>,
    arguments: Arguments,
) -> Result<(), Failed> {
    let recorded = daemon.submit(parse(Value::Object(arguments.findings))?).await?;
    let report = recorded.report.unwrap_or_default();
    page.facts = Facts::new()
        .with("investigation", Fact::word(&recorded.id))
        .with("verdict", Fact::word(&json::verdict::word(report.verdict)))
        .with("confidence", Fact::Number(report.confidence))
        .with("dropped", Fact::Count(report.dropped.into()));
    page.list(0, &report.dropped_why, |page, why| {
        Facts::new().with("dropped", page.text(Kind::Agent, why.as_bytes()))
    });
    Ok(())
}
