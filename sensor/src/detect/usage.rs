//! Usage: memory, disk or CPUs are fuller than an operator wants to have them, in percent.
//!
//! For those who are used to such thresholds. They know nothing of why, and a busy host is no broken one:
//! none is set unless somebody sets it. Pure.

use super::Finding;
use crate::proto::{self, Kind, Usage};

/// The thresholds, percent; `None`: not watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Thresholds {
    pub memory: Option<u32>,
    pub disk: Option<u32>,
    pub cpu: Option<u32>,
}

impl Thresholds {
    pub fn any(&self) -> bool {
        [self.memory, self.disk, self.cpu].iter().any(Option::is_some)
    }
}

/// What is watched, in the order of importance.
const ALL: [(Kind, &str); 3] =
    [(Kind::MemoryPressure, "memory"), (Kind::DiskPressure, "disk"), (Kind::CpuPressure, "cpu")];

/// It is over after so many looks in a row at which it was not above: a CPU has a rest now and then.
const CALM_LOOKS: u32 = 3;

pub const RULE: &str = "threshold";

/// A number was measured; whether it does any harm is not known.
const CONFIDENCE: f64 = 0.5;

/// What a look changes.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    Above(Box<Finding>),
    /// Not any more.
    Below(Kind),
}

/// Which of them are above.
#[derive(Clone, Debug)]
pub struct Detector {
    thresholds: Thresholds,
    /// Looks that are left until it is over; 0: it is not above.
    left: [u32; 3],
}

impl Detector {
    pub fn new(thresholds: Thresholds) -> Self {
        Self { thresholds, left: [0; 3] }
    }

    /// Whether a look is worth a record: something is above, or was until a moment ago.
    pub fn tells(&self, usage: &Usage) -> bool {
        self.pairs(usage).into_iter().zip(self.left).any(|(pair, left)| left > 0 || is_above(pair))
    }

    pub fn observe(&mut self, usage: &Usage) -> Vec<Said> {
        let mut said = Vec::new();
        for (at, pair) in self.pairs(usage).into_iter().enumerate() {
            let (kind, name) = ALL[at];
            let before = self.left[at];
            if is_above(pair) {
                self.left[at] = CALM_LOOKS;
                if before == 0 {
                    said.push(Said::Above(Box::new(finding(kind, name, pair, usage))));
                }
            } else if before > 0 {
                self.left[at] -= 1;
                if before == 1 {
                    said.push(Said::Below(kind));
                }
            }
        }
        said
    }

    /// (what was measured, threshold) of each.
    fn pairs(&self, usage: &Usage) -> [(Option<u32>, Option<u32>); 3] {
        let Thresholds { memory, disk, cpu } = self.thresholds;
        [(usage.memory_percent, memory), (usage.disk_percent, disk), (usage.cpu_percent, cpu)]
    }
}

/// More than the threshold, as nori-premortem has it: with 100 nothing ever is.
fn is_above((value, threshold): (Option<u32>, Option<u32>)) -> bool {
    value.zip(threshold).is_some_and(|(value, threshold)| value > threshold)
}

fn finding(
    kind: Kind,
    name: &str,
    (value, threshold): (Option<u32>, Option<u32>),
    usage: &Usage,
) -> Finding {
    let measure = |name: &str, value: Option<u32>, threshold: Option<u32>| {
        Some(proto::Measure {
            name: name.into(),
            value: f64::from(value?),
            threshold: threshold.map(f64::from),
            unit: "%".into(),
        })
    };
    // The others as well: they are what somebody looks at next.
    let others = [
        ("memory", usage.memory_percent),
        ("disk", usage.disk_percent),
        ("cpu", usage.cpu_percent),
    ];
    let others = others.into_iter().filter(|(other, _)| *other != name);
    let measures = std::iter::once(measure(name, value, threshold))
        .chain(others.map(|(name, value)| measure(name, value, None)));
    Finding {
        kind,
        rule: RULE,
        culprit: None,
        group: None,
        leaf: None,
        contain: false,
        confidence: CONFIDENCE,
        at_ns: usage.at_ns,
        measures: measures.flatten().collect(),
    }
}

/// What was crossed, in words.
pub fn sentence(finding: &Finding) -> String {
    finding.measures.first().map_or_else(|| finding.rule.to_owned(), crossed)
}

/// The same of the measure that has the threshold, which is the first.
pub fn crossed(measure: &proto::Measure) -> String {
    let proto::Measure { name, value, threshold, unit } = measure;
    let (what, are) = match name.as_str() {
        "cpu" => ("the CPUs", "are"),
        "disk" => ("the disk", "is"),
        _ => ("the memory", "is"),
    };
    let limit = threshold.unwrap_or_default();
    format!("{what} {are} used to {value} {unit}, above the threshold of {limit} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(memory: u32, disk: u32, cpu: u32) -> Usage {
        Usage {
            at_ns: 7,
            memory_percent: Some(memory),
            disk_percent: Some(disk),
            cpu_percent: Some(cpu),
        }
    }

    #[test]
    fn above_is_said_once_and_below_after_three_looks() {
        let thresholds = Thresholds { memory: Some(90), cpu: Some(80), disk: None };
        let mut detector = Detector::new(thresholds);
        assert!(thresholds.any() && !Thresholds::default().any());
        let quiet = usage(90, 100, 80);
        assert!(!detector.tells(&quiet), "as much as the threshold is not above it");
        assert_eq!(detector.observe(&quiet), []);
        let both = usage(91, 100, 81);
        assert!(detector.tells(&both));
        let said = detector.observe(&both);
        let kinds: Vec<Kind> = said
            .iter()
            .map(|said| match said {
                Said::Above(finding) => finding.kind,
                Said::Below(_) => Kind::Unspecified,
            })
            .collect();
        assert_eq!(kinds, [Kind::MemoryPressure, Kind::CpuPressure]);
        let Said::Above(finding) = &said[1] else { panic!() };
        let told: Vec<(&str, f64, Option<f64>)> =
            finding.measures.iter().map(|it| (it.name.as_str(), it.value, it.threshold)).collect();
        assert_eq!(
            told,
            [("cpu", 81.0, Some(80.0)), ("memory", 91.0, None), ("disk", 100.0, None)]
        );
        assert_eq!(sentence(finding), "the CPUs are used to 81 %, above the threshold of 80 %");
        assert_eq!(detector.observe(&both), []);
        for _ in 0..2 {
            assert!(detector.tells(&quiet));
            assert_eq!(detector.observe(&quiet), []);
        }
        // The CPU is busy once more.
        assert_eq!(detector.observe(&usage(10, 0, 99)), [Said::Below(Kind::MemoryPressure)]);
        for _ in 0..2 {
            assert_eq!(detector.observe(&quiet), []);
        }
        assert_eq!(detector.observe(&quiet), [Said::Below(Kind::CpuPressure)]);
        assert!(!detector.tells(&quiet));
    }
}
