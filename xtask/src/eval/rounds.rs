//! Runs the workloads: all of them alone, then all of them under the sensor, and again. In turns, so
//! that a machine that is busy for a while is so for all of them.

use std::{
    io::{Write as _, stderr},
    path::Path,
};

use ::tests::judge::{self, Alone, Label, Outcome, suite::Labelled};

use super::{check::one_line, judged::Judged, table::three_digits};

/// Each once alone and `runs` times under `sensor`, with a line a run on stderr.
pub fn run(workloads: &[Labelled], runs: u32, sensor: &Path) -> Vec<Judged> {
    let mut progress = Progress { at: 0, of: workloads.len() * (1 + runs as usize) };
    let mut judged: Vec<Judged> = workloads
        .iter()
        .map(|workload| {
            progress.begin(&format!("{}, alone", workload.name));
            let alone = judge::alone(workload, sensor);
            eprintln!("{}", told_alone(&alone));
            Judged {
                name: workload.name.clone(),
                about: workload.about.clone(),
                label: workload.label.clone(),
                split: workload.split,
                contained: workload.is_to_be_contained(),
                alone,
                trials: Vec::new(),
            }
        })
        .collect();
    for number in 1..=runs {
        for (workload, judged) in workloads.iter().zip(&mut judged) {
            progress.begin(&format!("{}, run {number} of {runs}", workload.name));
            let trial = judge::watched(workload, sensor, "");
            eprintln!("{}", told(&workload.label, &trial.outcome));
            judged.trials.push(trial.outcome);
        }
    }
    judged
}

/// The beginning of `[12/80] npm-missing-manifest, run 2 of 4 … contained after 1.31 s, 27 alive`.
struct Progress {
    at: usize,
    of: usize,
}

impl Progress {
    fn begin(&mut self, what: &str) {
        self.at += 1;
        eprint!("[{}/{}] {what} … ", self.at, self.of);
        // Progress is a courtesy: a closed terminal must not stop the work.
        let _ = stderr().flush();
    }
}

fn told_alone(alone: &Result<Alone, String>) -> String {
    match alone {
        Err(why) => format!("unresolved: {}", one_line(why)),
        Ok(Alone { capped_after: Some(after), capped_processes, .. }) => {
            format!(
                "capped after {} s, {capped_processes} alive",
                three_digits(after.as_secs_f64())
            )
        }
        Ok(Alone { oom_after: Some(after), peak, .. }) => {
            let after = three_digits(after.as_secs_f64());
            format!("the OOM killer acted after {after} s, {peak} alive at most")
        }
        Ok(Alone { took, peak, .. }) => {
            format!("ended after {} s, {peak} alive at most", three_digits(took.as_secs_f64()))
        }
    }
}

fn told(label: &Label, outcome: &Outcome) -> String {
    let seen = match outcome {
        Outcome::Unresolved(why) => return format!("unresolved: {}", one_line(why)),
        Outcome::Seen(seen) => seen,
    };
    let contained = seen.incidents.iter().find_map(|it| Some((it.contained_after?, it)));
    match (contained, seen.incidents.first(), label) {
        (Some((after, incident)), ..) => format!(
            "contained after {} s, {} alive",
            three_digits(after.as_secs_f64()),
            incident.processes_contained.unwrap_or(incident.processes)
        ),
        (None, Some(incident), _) => format!(
            "{} after {} s, {} alive, not contained",
            incident.kind,
            three_digits(incident.opened_after.as_secs_f64()),
            incident.processes
        ),
        (None, None, Label::Malign(_)) => "missed".into(),
        (None, None, Label::Honest) => {
            format!("left alone for {} s", three_digits(seen.took.as_secs_f64()))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::eval::fixture;

    #[test]
    fn a_run_is_told_in_a_few_words() {
        let malign = Label::Malign("recursion".into());
        let run = |incidents| Outcome::Seen(fixture::seen(incidents));
        assert_eq!(
            told(&malign, &run(vec![fixture::incident(1.25)])),
            "contained after 1.30 s, 21 alive"
        );
        let mut shy = fixture::incident(1.25);
        shy.contained_after = None;
        assert_eq!(
            told(&malign, &run(vec![shy])),
            "recursion after 1.25 s, 20 alive, not contained"
        );
        assert_eq!(told(&malign, &run(Vec::new())), "missed");
        assert_eq!(told(&Label::Honest, &run(Vec::new())), "left alone for 6.00 s");
        assert_eq!(told(&malign, &Outcome::Unresolved("no npm".into())), "unresolved: no npm");
        assert_eq!(
            told_alone(&Ok(Alone {
                capped_after: Some(Duration::from_secs(9)),
                capped_processes: 380,
                ..fixture::alone()
            })),
            "capped after 9.00 s, 380 alive"
        );
        let ended = Alone { capped_after: None, ..fixture::alone() };
        assert_eq!(
            told_alone(&Ok(Alone { oom_after: Some(Duration::from_secs(38)), ..ended })),
            "the OOM killer acted after 38.0 s, 380 alive at most"
        );
    }
}
