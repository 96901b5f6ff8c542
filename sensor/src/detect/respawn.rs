//! Respawn loops (R6): whose it is, and how bad.
//!
//! The gate in the kernel says that a command below one parent has failed at once, again and again. The
//! culprit, which is what to stop, is the parent: the command ends by itself, and the parent starts
//! the next one.

use sensor_common::{
    event::Alarm,
    respawn::{Limits, Window, signal, status},
};

use super::Finding;
use crate::proto;

/// That it fails again and again is counted. Whether that is wrong is not known: a script that waits
/// until something answers looks the same.
const CONFIDENCE: f64 = 0.7;

/// The measure by which [`is_grave`] knows.
const BY_SIGNAL: &str = "by_signal";

/// What an alarm of R6 and the window that crossed claim.
pub fn detect(alarm: &Alarm, window: &Window, limits: &Limits) -> Finding {
    let measure = |name: &str, value: f64, threshold: Option<u32>, unit: &str| proto::Measure {
        name: name.into(),
        value,
        threshold: threshold.map(f64::from),
        unit: unit.into(),
    };
    let failed = f64::from(window.failed.max(1));
    let share = 100.0 * f64::from(window.failed) / f64::from(window.runs.max(1));
    let life_ms = window.ran_ns as f64 / failed / 1e6;
    let mut measures = vec![
        measure("runs", window.runs.into(), Some(limits.runs), "runs"),
        measure("within", alarm.span_ns as f64 / 1e9, None, "s"),
        measure("windows", window.row.into(), Some(limits.windows), "in a row"),
        measure("failed", share.floor(), Some(limits.failed_percent), "%"),
        measure("life", (life_ms * 10.0).round() / 10.0, Some(limits.life_ms), "ms"),
    ];
    let own = window.code & 0x7f;
    measures.push(match own {
        0 => measure("exit_code", status(window.code).into(), None, ""),
        signal => measure("signal", signal.into(), None, ""),
    });
    for (name, count) in [(BY_SIGNAL, window.by_signal), ("core_dumps", window.dumped)] {
        if count > 0 {
            measures.push(measure(name, count.into(), None, "runs"));
        }
    }
    Finding {
        kind: proto::Kind::CrashLoop,
        rule: sensor_common::gate::Rule::R6.name(),
        culprit: Some(alarm.top),
        group: None,
        leaf: Some(alarm.process),
        contain: false,
        confidence: CONFIDENCE,
        at_ns: alarm.crossed_ns,
        measures,
    }
}

/// Whether the runs crash, or somebody kills them: what only waits ends by itself.
pub fn is_grave(finding: &Finding) -> bool {
    finding.measures.iter().any(|measure| measure.name == BY_SIGNAL)
}

/// How a run ended, in words: `exit code 127`, `signal 11 (SIGSEGV)`.
pub fn ending(code: u32) -> String {
    let named = |number: u32| {
        let name = nix::sys::signal::Signal::try_from(number as i32);
        name.map_or_else(|_| format!("signal {number}"), |name| format!("signal {number} ({name})"))
    };
    match (code & 0x7f, signal(code)) {
        (0, 0) => format!("exit code {}", status(code)),
        (0, relayed) => {
            format!("exit code {}, which is how a shell tells of {}", status(code), named(relayed))
        }
        (own, _) => named(own),
    }
}

#[cfg(test)]
mod tests {
    use sensor_common::{
        ProcessKey,
        respawn::{CORE_DUMPED, alarm},
    };

    use super::*;

    fn finding(window: Window) -> Finding {
        let limits = Limits::default();
        let (process, parent) = (ProcessKey::new(9, 90), ProcessKey::new(7, 1));
        let alarm = alarm(&window, process, parent, 2, 100, 4, &limits);
        detect(&alarm, &window, &limits)
    }

    #[test]
    fn it_is_the_parent_and_never_worth_a_containment() {
        let window = Window {
            ran_ns: 57 * 12_340_000,
            runs: 60,
            failed: 57,
            code: 127 << 8,
            row: 2,
            ..Window::default()
        };
        let finding = finding(window);
        assert_eq!(finding.culprit.unwrap().tgid, 7);
        assert_eq!((finding.rule, finding.contain, is_grave(&finding)), ("R6", false, false));
        let told: Vec<(&str, f64)> =
            finding.measures.iter().map(|one| (one.name.as_str(), one.value)).collect();
        let wanted = [
            ("runs", 60.0),
            ("within", 60.0),
            ("windows", 2.0),
            ("failed", 95.0),
            ("life", 12.3),
            ("exit_code", 127.0),
        ];
        assert_eq!(told, wanted);
    }

    #[test]
    fn crashes_are_grave() {
        let code = 11 + CORE_DUMPED;
        let window = Window { runs: 20, failed: 20, by_signal: 1, code, ..Window::default() };
        let finding = finding(window);
        assert!(is_grave(&finding));
        let signal = finding.measures.iter().find(|one| one.name == "signal");
        assert_eq!(signal.map(|one| one.value), Some(11.0));
    }

    #[test]
    fn endings_in_words() {
        assert_eq!(ending(1 << 8), "exit code 1");
        assert_eq!(ending(11 + CORE_DUMPED), "signal 11 (SIGSEGV)");
        assert_eq!(ending(50), "signal 50");
        assert_eq!(
            ending(137 << 8),
            "exit code 137, which is how a shell tells of signal 9 (SIGKILL)"
        );
    }
}
