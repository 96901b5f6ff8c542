//! Whether an agent is needed. Pure.
//!
//! What the built-in diagnosis has seen with its own eyes an agent would be paid to repeat. It is asked where the
//! diagnosis infers, where there is none, where the cause came back, and where the kind is not understood.

use crate::{
    config::When,
    present::text::{count, number},
    proto::{self, Kind},
};

/// From here on a diagnosis needs nobody beside it. The rules of `diagnose` say 0.8 or more where they have read the
/// line that does it, or where what was counted accounts for what happened; where a piece is missing, 0.75 at most.
const SURE: f64 = 0.8;

/// Kinds that `diagnose` has rules for. Of the others it knows that they are there, not why.
const UNDERSTOOD: [Kind; 7] = [
    Kind::Recursion,
    Kind::ForkStorm,
    Kind::MemoryGrowth,
    Kind::MemoryPressure,
    Kind::OomKill,
    Kind::OomLoop,
    Kind::CrashLoop,
];

/// The answer, and why, as a sentence for the incident.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gate {
    Agent(String),
    /// The built-in diagnosis will do.
    Enough(String),
}

impl Gate {
    pub fn why(&self) -> &str {
        match self {
            Self::Agent(why) | Self::Enough(why) => why,
        }
    }
}

/// Whether an agent is asked about an incident as it stands after the first look. `returns`: how often its cause
/// had been found in incidents that were resolved a short while before.
pub fn gate(incident: &proto::Incident, returns: u32, when: When) -> Gate {
    if when == When::Always {
        let why = "an agent is asked about every incident: investigate.when is \"always\"";
        return Gate::Agent(why.into());
    }
    if !UNDERSTOOD.contains(&incident.kind()) {
        let kind = sensor_proto::json::kind::word(incident.kind);
        return Gate::Agent(format!(
            "an agent is asked: no rule explains incidents of kind {kind}"
        ));
    }
    let Some(diagnosis) = incident.diagnosis.as_ref().filter(|said| !said.cause.is_empty()) else {
        return Gate::Agent("an agent is asked: there is no built-in diagnosis".into());
    };
    if returns > 0 {
        return Gate::Agent(format!(
            "an agent is asked: the same cause is back, found {} before, so that what was done about it was not \
             enough",
            count(returns, "time", "times")
        ));
    }
    let (by, sure) = (&diagnosis.by, number(diagnosis.confidence));
    // What is no number is no confidence either.
    if diagnosis.confidence >= SURE {
        return Gate::Enough(format!(
            "no agent is needed: the built-in diagnosis ({by}) has a confidence of {sure}, and {SURE} is enough"
        ));
    }
    Gate::Agent(format!(
        "an agent is asked: the built-in diagnosis ({by}) has a confidence of {sure} only, below {SURE}"
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn incident(kind: Kind, confidence: f64) -> proto::Incident {
        let diagnosis = proto::Diagnosis {
            cause: "It runs itself.".into(),
            confidence,
            by: "npm".into(),
            ..Default::default()
        };
        proto::Incident { kind: kind.into(), diagnosis: Some(diagnosis), ..Default::default() }
    }

    fn doubt(incident: &proto::Incident, returns: u32) -> Gate {
        gate(incident, returns, When::Doubt)
    }

    #[test]
    fn what_is_known_for_sure_needs_nobody() {
        for (confidence, sure) in [(0.8, "0.8"), (0.95, "0.95"), (1.0, "1")] {
            let said = doubt(&incident(Kind::Recursion, confidence), 0);
            let why = format!(
                "no agent is needed: the built-in diagnosis (npm) has a confidence of {sure}, and 0.8 is enough"
            );
            assert_eq!(said, Gate::Enough(why));
        }
    }

    #[test]
    fn doubt_asks_for_an_agent_and_says_why() {
        let mut none = incident(Kind::Recursion, 0.95);
        none.diagnosis = None;
        let mut empty = incident(Kind::Recursion, 0.95);
        empty.diagnosis = Some(proto::Diagnosis { confidence: 1.0, ..Default::default() });
        for (incident, returns, why) in [
            (
                incident(Kind::Recursion, 0.75),
                0,
                "the built-in diagnosis (npm) has a confidence of 0.75 only, below 0.8",
            ),
            (
                incident(Kind::OomKill, 0.95),
                1,
                "the same cause is back, found 1 time before, so that what was done about it was not enough",
            ),
            (
                incident(Kind::OomKill, 0.95),
                3,
                "the same cause is back, found 3 times before, so that what was done about it was not enough",
            ),
            (incident(Kind::Manual, 0.95), 0, "no rule explains incidents of kind manual"),
            (
                incident(Kind::DiskPressure, 0.95),
                0,
                "no rule explains incidents of kind disk_pressure",
            ),
            (none, 0, "there is no built-in diagnosis"),
            (empty, 0, "there is no built-in diagnosis"),
        ] {
            assert_eq!(doubt(&incident, returns), Gate::Agent(format!("an agent is asked: {why}")));
        }
        assert!(matches!(doubt(&incident(Kind::Recursion, f64::NAN), 0), Gate::Agent(_)));
    }

    #[test]
    fn always_is_always() {
        let said = gate(&incident(Kind::Recursion, 1.0), 0, When::Always);
        assert_eq!(
            said.why(),
            "an agent is asked about every incident: investigate.when is \"always\""
        );
    }

    proptest! {
        #[test]
        fn any_incident_has_an_answer_with_a_reason(
            kind in any::<i32>(), confidence in any::<f64>(), by in "\\PC{0,9}", returns in any::<u32>(),
        ) {
            let mut it = incident(Kind::Recursion, confidence);
            it.kind = kind;
            if let Some(said) = &mut it.diagnosis {
                said.by = by;
            }
            prop_assert!(!doubt(&it, returns).why().is_empty());
            prop_assert!(matches!(gate(&it, returns, When::Always), Gate::Agent(_)));
        }
    }
}
