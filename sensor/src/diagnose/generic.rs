//! What can be said when no rule knows the tools: the cycle as it is, or the numbers of the finding.

use super::{Claim, cycle::Cycle, words::Words};
use crate::{detect::Finding, present::measure};

/// Steps that are told; the whole cycle stands beside the text.
const TOLD: usize = 6;

/// The chain shows what happens, and nothing shows why.
pub(super) fn cycle(cycle: &Cycle<'_>, words: &Words<'_>) -> Claim {
    let steps = cycle.steps();
    let first = words.command(&steps[0].argv);
    let mut way: Vec<String> =
        steps.iter().take(TOLD).map(|step| words.command(&step.argv)).collect();
    if steps.len() > TOLD {
        way.push(format!("… ({} more)", steps.len() - TOLD));
    }
    way.push(first.clone());
    Claim {
        by: "cycle",
        cause: format!("{first} runs itself: {}.", way.join(" → ")),
        remedy: "Find the step that should have ended instead of starting the next one; the chain shows them all.".to_owned(),
        confidence: 0.5,
        evidence: Vec::new(),
    }
}

/// No chain that comes back: only what was measured.
pub(super) fn numbers(finding: &Finding) -> Claim {
    let measures: Vec<String> = finding
        .measures
        .iter()
        .map(|measure| {
            let limit = measure.threshold.map_or_else(String::new, |limit| {
                format!(" (threshold {})", measure::threshold(limit, &measure.unit))
            });
            let value = measure::value(measure.value, &measure.unit);
            format!("{} {value}{limit}", measure::name(&measure.name))
        })
        .collect();
    let numbers = if measures.is_empty() { "no numbers".to_owned() } else { measures.join(", ") };
    Claim {
        by: "numbers",
        cause: format!("{} crossed: {numbers}. No rule knows why.", finding.rule),
        remedy: "Look at the tree and the chain of this incident.".to_owned(),
        // What was measured is true; it explains little.
        confidence: finding.confidence.clamp(0.0, 0.3),
        evidence: Vec::new(),
    }
}
