//! A result: a number with its interval, against its budget.

use std::fmt;

use serde::Serialize;

use super::stats::Interval;

/// Whether a result is within its budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    True,
    False,
    /// The interval holds the budget.
    Unresolved,
}

/// One line of the bench.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub name: String,
    pub value: f64,
    pub unit: &'static str,
    /// The interval that holds the truth with 95 %; the same as `value` where it was counted.
    pub low: f64,
    pub high: f64,
    /// Most that the budget allows; none: the number only informs.
    pub target: Option<f64>,
    pub ok: Verdict,
    /// How often it was measured.
    pub samples: usize,
}

impl Row {
    pub fn new(name: &str, interval: Interval, unit: &'static str, target: Option<f64>) -> Self {
        let ok = match target {
            None => Verdict::True,
            Some(target) if interval.high <= target => Verdict::True,
            Some(target) if interval.low > target => Verdict::False,
            Some(_) => Verdict::Unresolved,
        };
        let Interval { value, low, high, samples } = interval;
        Self { name: name.to_owned(), value, unit, low, high, target, ok, samples }
    }

    /// A number that was counted, not estimated.
    pub fn counted(name: &str, value: f64, unit: &'static str, target: Option<f64>) -> Self {
        Self::new(name, Interval { value, low: value, high: value, samples: 1 }, unit, target)
    }
}

impl fmt::Display for Row {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = self.target.map_or_else(String::new, |target| format!("≤ {target}"));
        let ok = match (self.target, self.ok) {
            (None, _) => "",
            (_, Verdict::True) => "true",
            (_, Verdict::False) => "FALSE",
            (_, Verdict::Unresolved) => "unresolved",
        };
        let interval = if (self.high - self.low).abs() < f64::EPSILON {
            String::new()
        } else {
            format!("{:.3} to {:.3}", self.low, self.high)
        };
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
    fn a_row_is_one_object() {
        let row =
            serde_json::to_value(Row::counted("alive", 43.0, "processes", Some(50.0))).unwrap();
        for field in ["name", "value", "unit", "low", "high", "target", "ok"] {
            assert!(!row[field].is_null(), "{field}");
        }
        assert_eq!(row["ok"], "true");
    }
}
