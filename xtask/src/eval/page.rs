//! `docs/evaluation.md` from one run. Whoever wants another text changes it here.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use super::{
    RUNS,
    check::Fault,
    judged::{Evaluation, Judged, split_word},
    table,
};
use crate::measure::{
    machine::Machine,
    row::{Row, Verdict},
};

/// The page. Equal input makes an equal page.
pub fn markdown(
    evaluation: &Evaluation,
    rows: &[Row],
    faults: &[Fault],
    machine: &Machine,
    runs: u32,
) -> String {
    let mut page = String::new();
    // Writing to a String cannot fail.
    let _ = write!(
        page,
        "<!-- Written by `cargo xtask eval --page`. Changes by hand are lost: change \
         xtask/src/eval/page.rs, and run it again. -->\n\
         # Evaluation\n\n\
         How much of what runs away is found, how much of what is found is true, how soon, and what honest work \
         has to suffer. {}\n\n{}\n\
         ![Seconds from the start of each runaway to its incident, its containment, and the cap of pids.max, on a \
         logarithmic axis](evaluation.svg)\n\n",
        summary(evaluation, faults),
        what_ran(evaluation, machine, runs),
    );
    section(&mut page, "Each workload", &table::workloads(&evaluation.workloads).markdown());
    let _ = writeln!(page, "{}\n", table::LEGEND.replace('\n', " "));
    section(&mut page, "In all", &table::totals(rows).markdown());
    section(&mut page, "What is missed or not known", &shortcomings(rows, faults));
    section(&mut page, "How it is measured", METHOD);
    section(&mut page, "How to read the numbers", READING);
    section(&mut page, "The workloads", &workloads(&evaluation.workloads));
    format!("{}\n", page.trim_end())
}

fn section(page: &mut String, title: &str, text: &str) {
    let _ = write!(page, "## {title}\n\n{}\n\n", text.trim_end());
}

fn summary(evaluation: &Evaluation, faults: &[Fault]) -> String {
    let malign = || evaluation.workloads.iter().filter(|it| it.is_malign());
    let runs = malign().flat_map(Judged::seen).count();
    let found = malign().flat_map(Judged::hits).count();
    let honest = || evaluation.workloads.iter().filter(|it| !it.is_malign());
    let left_alone =
        honest().flat_map(Judged::seen).filter(|seen| seen.incidents.is_empty()).count();
    let of_honest = honest().flat_map(Judged::seen).count();
    let wrong = match faults.len() {
        0 => "Nothing went wrong.".to_owned(),
        1 => "One thing went wrong; it is listed below.".to_owned(),
        faults => format!("{faults} things went wrong; they are listed below."),
    };
    format!(
        "In this run {found} of {runs} runaways were found, and {left_alone} of {of_honest} runs of honest work \
         were left alone. {wrong}"
    )
}

fn what_ran(evaluation: &Evaluation, machine: &Machine, runs: u32) -> String {
    let Machine { processor, cores, memory_bytes, kernel, commit, modified, at_unix, load } =
        machine;
    let malign = evaluation.workloads.iter().filter(|it| it.is_malign()).count();
    let honest = evaluation.workloads.len() - malign;
    let modified = if *modified { " with local changes" } else { "" };
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(*at_unix);
    let day: String = humantime::format_rfc3339_seconds(at).to_string().chars().take(10).collect();
    let traces = match evaluation.traces.len() {
        0 => String::new(),
        1 => ", and one long trace replayed".into(),
        traces => format!(", and {traces} long traces replayed"),
    };
    format!(
        "| | |\n|---|---|\n\
         | run | {malign} malign and {honest} honest workloads, each once alone and {runs} times under the sensor{traces} |\n\
         | machine | {processor}, {cores} cores, {:.0} GiB, Linux {kernel}, load {load} before |\n\
         | commit | {commit}{modified} |\n\
         | date | {day} |\n",
        *memory_bytes as f64 / f64::from(1 << 30),
    )
}

fn shortcomings(rows: &[Row], faults: &[Fault]) -> String {
    let mut text = String::new();
    for fault in faults {
        let _ = writeln!(text, "- {fault}.");
    }
    for row in rows.iter().filter(|row| row.ok == Verdict::Unresolved) {
        let _ = writeln!(
            text,
            "- {}: the truth lies between {} and {} {}, which holds the target {}. Too few runs or hours to tell.",
            row.name,
            table::figure(row.low),
            table::figure(row.high),
            row.unit,
            row.target_text()
        );
    }
    if text.is_empty() {
        text.push_str("Nothing: no run was missed or unresolved, and every target is met.\n");
    }
    text
}

const METHOD: &str = "\
Each workload is a directory below [tests/workloads](../tests/workloads), whose `workload.toml` says what it is, which \
culprit and which facts an incident about it has to name, and within which bounds it runs. Labels are written without \
looking at rules; the tests refuse a commit that changes both, and the crate that runs the workloads depends on no \
crate of the sensor. Names of files, scripts and directories are random words in every run. Rules may be tuned on the set \
`tune`; `held-out` is looked at only to judge.

1. **Alone.** Each runs once without the sensor, in a cgroup with its own limits of tasks and memory, while `sensor record \
--lifecycle` keeps every fork, exec and exit. That gives the time at which `pids.max` stops a runaway by itself, or \
the OOM killer acts, and a trace, which `sensor replay` puts through the same gates and detectors once more: what it says of honest work is a \
false alarm as well, and each verdict has to be the kernel's own.
2. **Under the sensor.** Each runs again, in turns with all others, in a new cgroup under a new daemon with the default \
configuration. Malign: until an incident is contained and explained, or only explained \
where it is not to be contained; honest: to its end.
3. **Replayed.** Long recordings of honest work, and observations of memory over hours and days, with a label each \
([tests/traces](../tests/traces)), go through the same detectors.
4. **Made series.** 864 days of memory that are made with the shapes of published ones (full machines of a cluster, services \
that warm up, garbage collectors, day and night, new versions, jobs), each as one tree on a host of its own, go through the \
detectors of growth, once as they are and once with a leak from a third on. What recorded series make of them, which are \
no part of this project, stands in [growth.md](growth.md#how-often-it-is-wrong).

A run that could not be set up, or did less than its definition says, is unresolved: in no denominator, and a failure of \
`--check`.

- **Recall**: runs of malign workloads with an incident of the label's kind, of all such runs.
- **Precision**: those incidents, of all incidents in all runs. One cause is one incident: a second one about the same \
runaway counts as false, unless its kind is one that the definition says is true as well.
- **Culprit, facts right**: of the incidents that were found, those that blame the process that the label asks for, and \
those whose diagnosis states every fact that it asks for.
- **False incidents, false containments**: in honest work, live and replayed.

Bounds are exact and hold with 95 %. Shares: C. J. Clopper and E. S. Pearson, *The use of confidence or fiducial limits \
illustrated in the case of the binomial*, Biometrika 26 (1934) 404–413; rates: F. Garwood, *Fiducial limits for the \
Poisson distribution*, Biometrika 28 (1936) 437–442; both two-sided, 2.5 % on either side. Where all runs are right, or \
none, there is but one side, and it gets all 5 %: 30 of 30 prove no more than a share of 0.905 (0.05^(1/30)), and no \
event in h hours no less than 3.0/h (J. A. Hanley and A. Lippman-Hand, JAMA 249 (1983) 1743–1745). Medians: bootstrap, \
percentile method (B. Efron, Annals of Statistics 7 (1979) 1–26).
";

const READING: &str = "\
- A target is `true` if the whole interval meets it, `FALSE` if the whole interval misses it, `unresolved` if the \
interval holds it: then there were too few runs to tell. Shares are held against their lower bound.
- Runs of one workload resemble each other more than runaways in the world do. The bounds speak about these workloads on \
this machine; that the row `held-out` is as good as `all` says more about others.
- The hours of honest work are dense: builds, test runs and process pools, one after another. An hour of a calm machine \
has far less in it. They are still few, so the rate of false containments has a wide interval until long traces are added.
- `pids.max alone` is a cap per workload, chosen for these tests: it says when nothing can fork any more, not that the \
machine is well. What had been started by then goes on running, and nobody is told why.
- `most` is the worst of all runs, and has no interval: it is what was seen.
";

fn workloads(all: &[Judged]) -> String {
    let mut text = String::from("| workload | label | set | what it is |\n|---|---|---|---|\n");
    for workload in all {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} |",
            workload.name,
            workload.kind().unwrap_or("honest"),
            split_word(workload.split),
            workload.about.replace('|', "\\|")
        );
    }
    let _ = writeln!(
        text,
        "\nRepeat it with `cargo xtask eval` as root, {RUNS} runs each; `--quick`, `--only NAME` and `--split` take parts."
    );
    text
}

#[cfg(test)]
mod tests {
    use ::tests::judge::Outcome;

    use super::*;
    use crate::eval::{check, fixture, score};

    fn machine() -> Machine {
        Machine {
            processor: "a processor".into(),
            cores: 2,
            memory_bytes: 24 << 30,
            kernel: "6.18.0".into(),
            commit: "0123456789ab".into(),
            modified: false,
            at_unix: 1_795_262_400,
            load: 0.25,
        }
    }

    fn page(evaluation: &Evaluation) -> String {
        let rows = score::rows(evaluation);
        let faults = check::faults(evaluation, &rows);
        markdown(evaluation, &rows, &faults, &machine(), 4)
    }

    #[test]
    fn a_page_says_what_ran_and_what_came_of_it() {
        let page = page(&fixture::evaluation());
        for text in [
            "<!-- Written by `cargo xtask eval --page`.",
            "8 of 8 runaways were found, and 4 of 4 runs of honest work were left alone. Nothing went wrong.",
            "2 malign and 1 honest workloads, each once alone and 4 times under the sensor",
            "a processor, 2 cores, 24 GiB, Linux 6.18.0, load 0.25 before",
            "| commit | 0123456789ab |\n| date | 2026-11-21 |",
            "](evaluation.svg)",
            "| npm-missing-manifest | recursion | tune | 4/4 | 4/4 | 4/4 | 1.25 | 20 | 140 | 1.30 | 0 | 0 | 9.00 | 380 | 900 | 378 |",
            "| recall | 1 | share | 8 | 0.688 to 1 | ≥ 0.9 | unresolved |",
            "- recall: the truth lies between 0.688 and 1 share, which holds the target ≥ 0.9.",
            "| builds | honest | tune | somebody builds something |",
        ] {
            assert!(page.contains(text), "{text:?} is not in\n{page}");
        }
    }

    #[test]
    fn what_went_wrong_is_on_the_page() {
        let mut evaluation = fixture::evaluation();
        evaluation.workloads[1].trials[0] = Outcome::Unresolved("no sh".into());
        let page = page(&evaluation);
        assert!(page.contains("2 things went wrong; they are listed below."), "{page}");
        assert!(page.contains("- script-twice, run 1: unresolved: no sh."), "{page}");
    }

    #[test]
    fn the_same_run_makes_the_same_page() {
        assert_eq!(page(&fixture::evaluation()), page(&fixture::evaluation()));
    }
}
