//! A result: a number with its interval, against its target.

use std::fmt;

use serde::Serialize;

use super::stats::Interval;

/// Whether a result meets its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    True,
    False,
    /// The interval holds the target: too few samples to tell.
    Unresolved,
}

/// On which side of its target a number has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    AtMost,
    AtLeast,
}

/// One line of the bench or the eval.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    pub name: String,
    pub value: f64,
    pub unit: &'static str,
    /// The interval that holds the truth with 95 %; the same as `value` where it was counted.
    pub low: f64,
    pub high: f64,
    /// None: the number only informs.
    pub target: Option<f64>,
    pub side: Side,
    pub ok: Verdict,
    /// How often it was measured.
    pub samples: usize,
}

impl Row {
    /// A number that may be this target at most, if there is one.
    pub fn new(name: &str, interval: Interval, unit: &'static str, target: Option<f64>) -> Self {
        Self::judged(name, interval, unit, target, Side::AtMost)
    }

    /// A number that has to be this target at least, if there is one.
    pub fn at_least(
        name: &str,
        interval: Interval,
        unit: &'static str,
        target: Option<f64>,
    ) -> Self {
        Self::judged(name, interval, unit, target, Side::AtLeast)
    }

    /// A number that was counted, not estimated.
    pub fn counted(name: &str, value: f64, unit: &'static str, target: Option<f64>) -> Self {
        Self::new(name, Interval::counted(value, 1), unit, target)
    }

    fn judged(
        name: &str,
        interval: Interval,
        unit: &'static str,
        target: Option<f64>,
        side: Side,
    ) -> Self {
        let Interval { value, low, high, samples } = interval;
        let ok = match (target, side) {
            (None, _) => Verdict::True,
            (Some(target), Side::AtMost) if high <= target => Verdict::True,
            (Some(target), Side::AtMost) if low > target => Verdict::False,
            (Some(target), Side::AtLeast) if low >= target => Verdict::True,
            (Some(target), Side::AtLeast) if high < target => Verdict::False,
            (Some(_), _) => Verdict::Unresolved,
        };
        Self { name: name.to_owned(), value, unit, low, high, target, side, ok, samples }
    }

    /// Estimated, so that `low` and `high` say something beyond `value`.
    pub fn has_interval(&self) -> bool {
        (self.high - self.low).abs() >= f64::EPSILON
    }

    /// `≤ 50`, or nothing.
    pub fn target_text(&self) -> String {
        let sign = match self.side {
            Side::AtMost => '≤',
            Side::AtLeast => '≥',
        };
        self.target.map_or_else(String::new, |target| format!("{sign} {target}"))
    }

    /// The verdict for people, loud where it is bad; nothing where there is no target.
    pub fn verdict_text(&self) -> &'static str {
        match (self.target, self.ok) {
            (None, _) => "",
            (_, Verdict::True) => "true",
            (_, Verdict::False) => "FALSE",
            (_, Verdict::Unresolved) => "unresolved",
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let interval = if self.has_interval() {
            format!("{:.3} to {:.3}", self.low, self.high)
        } else {
            String::new()
        };
        let (target, ok) = (self.target_text(), self.verdict_text());
        let Self { name, value, unit, .. } = self;
        write!(out, "{name:58} {value:10.3} {unit:9} {interval:22} {target:8} {ok}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(low: f64, high: f64, target: f64) -> Verdict {
        let interval = Interval { value: f64::midpoint(low, high), low, high, samples: 9 };
        Row::new("x", interval, "%", Some(target)).ok
    }

    #[test]
    fn a_budget_is_kept_missed_or_not_known() {
        assert_eq!(judged(0.2, 0.9, 1.0), Verdict::True);
        assert_eq!(judged(1.1, 1.9, 1.0), Verdict::False);
        assert_eq!(judged(0.2, 1.9, 1.0), Verdict::Unresolved);
    }

    #[test]
    fn a_share_reaches_its_target_misses_it_or_is_not_known() {
        let judged = |low: f64, high: f64| {
            let interval = Interval { value: high, low, high, samples: 9 };
            Row::at_least("x", interval, "share", Some(0.9)).ok
        };
        assert_eq!(judged(0.905, 1.0), Verdict::True);
        assert_eq!(judged(0.4, 0.8), Verdict::False);
        assert_eq!(judged(0.828, 0.999), Verdict::Unresolved);
    }

    #[test]
    fn a_row_is_one_object() {
        let row =
            serde_json::to_value(Row::counted("alive", 43.0, "processes", Some(50.0))).unwrap();
        for field in ["name", "value", "unit", "low", "high", "target", "side", "ok", "samples"] {
            assert!(!row[field].is_null(), "{field}");
        }
        assert_eq!((row["target"].as_f64(), row["side"].as_str()), (Some(50.0), Some("at_most")));
        assert_eq!(row["ok"], "true");
    }
}
