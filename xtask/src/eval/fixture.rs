//! An evaluation as it should be: two runaways and one honest workload, four runs each.

use std::time::Duration;

use ::tests::judge::{Alone, Label, Outcome, Seen, SeenIncident, Split, Trace};

use super::judged::{Evaluation, Judged};

pub fn evaluation() -> Evaluation {
    let malign = |name: &str, split| Judged {
        name: name.into(),
        about: format!("{name} starts itself"),
        label: Label::Malign("recursion".into()),
        split,
        contained: true,
        alone: Ok(alone()),
        trials: (0..4).map(|_| Outcome::Seen(seen(vec![incident(1.25)]))).collect(),
    };
    let honest = Judged {
        name: "builds".into(),
        about: "somebody builds something".into(),
        label: Label::Honest,
        split: Split::Tune,
        contained: false,
        alone: Ok(Alone {
            capped_after: None,
            ended_well: true,
            trace: Trace { incidents: 0, containments: 0, ..alone().trace },
            ..alone()
        }),
        trials: (0..4).map(|_| Outcome::Seen(seen(Vec::new()))).collect(),
    };
    Evaluation {
        workloads: vec![
            malign("npm-missing-manifest", Split::Tune),
            malign("script-twice", Split::HeldOut),
            honest,
        ],
        traces: Vec::new(),
        observed: Vec::new(),
        series: None,
    }
}

/// With `n` runs of the first workload.
pub fn with_runs(n: usize) -> Evaluation {
    let mut evaluation = evaluation();
    evaluation.workloads.truncate(1);
    evaluation.workloads[0].trials =
        (0..n).map(|_| Outcome::Seen(seen(vec![incident(1.25)]))).collect();
    evaluation
}

pub fn alone() -> Alone {
    Alone {
        took: Duration::from_secs(10),
        peak: 380,
        capped_after: Some(Duration::from_secs(9)),
        capped_processes: 380,
        capped_bytes: 900 << 20,
        running_after: 378,
        oom_after: None,
        ended_well: false,
        trace: Trace {
            seconds: 36.0,
            forks: 400,
            execs: 300,
            exits: 20,
            peak_live: 380,
            lost: 0,
            gates_agree: 300,
            gates_differ: 0,
            storms_agree: 0,
            storms_differ: 0,
            differences: Vec::new(),
            incidents: 1,
            containments: 1,
            watched: 0,
        },
    }
}

/// A run: where there are incidents, one that left nothing running.
pub fn seen(incidents: Vec<SeenIncident>) -> Seen {
    Seen {
        took: Duration::from_secs(6),
        running_after: (!incidents.is_empty()).then_some(0),
        ended_well: incidents.is_empty(),
        refused_forks: 0,
        incidents,
    }
}

/// All right, and contained 50 ms after it was opened.
pub fn incident(after: f64) -> SeenIncident {
    SeenIncident {
        kind: "recursion".into(),
        rule: "R1".into(),
        summary: "`npm run a` runs itself".into(),
        kind_right: true,
        beside: false,
        culprit_right: true,
        facts_missing: Vec::new(),
        window_missing: Vec::new(),
        opened_after: Duration::from_secs_f64(after),
        contained_after: Some(Duration::from_secs_f64(after + 0.05)),
        processes: 20,
        bytes: 140 << 20,
        processes_contained: Some(21),
    }
}
