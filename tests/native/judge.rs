//! The judge itself: it sees what is there, and what was nothing never passes.

use std::{collections::BTreeSet, env, fs, path::Path, time::Duration};

use tests::{
    judge::{
        Label, Outcome, Seen, alone, corpus,
        suite::{self, Culprit, DEFINITION, Labelled},
        watched,
    },
    needs,
    run::until,
    skip, takes_its_time, target,
};

/// Rules without an action or an incident: thresholds that nothing reaches.
const NEVER: &str = "
    [detect.recursion]
    enabled = false
    [detect.recursion_argv]
    enabled = false
    [detect.recursion_growth]
    enabled = false
";

/// A workload with this definition's head, and this set-up.
fn defined(place: &Path, head: &str, setup: &str) -> Labelled {
    let directory = place.join("defined");
    fs::create_dir(&directory).unwrap();
    let rest = "
        about = 'defined by a test'
        split = 'tune'
        quick = false
        bounds = { tasks = 50, memory_mib = 64, seconds = 2 }
        work = { forks = 40, live = 30 }
    ";
    fs::write(directory.join(DEFINITION), format!("{head}\n{rest}")).unwrap();
    fs::write(directory.join("setup"), setup).unwrap();
    Labelled::read(&directory).unwrap()
}

const NOTHING: &str = "label = 'honest'\ncommand = ['true']";

const NOTHING_MALIGN: &str = "label = 'recursion'\ncommand = ['true']\n\
                              expect = { culprit = 'command', facts = ['true'] }";

fn seen(outcome: Outcome) -> Seen {
    match outcome {
        Outcome::Seen(seen) => seen,
        Outcome::Unresolved(why) => panic!("unresolved: {why}"),
    }
}

fn unresolved(outcome: Outcome) -> String {
    match outcome {
        Outcome::Unresolved(why) => why,
        Outcome::Seen(seen) => panic!("it has seen {seen:?}"),
    }
}

/// What runs make and have to take away again: cgroups and directories.
fn traces() -> BTreeSet<String> {
    let own = |name: &str| {
        ["work-", "sensor-test-", "trace-"].iter().any(|prefix| name.starts_with(prefix))
    };
    let names = |directory: &Path| {
        let entries = fs::read_dir(directory).unwrap().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
    };
    let place = tests::Cage::new(tests::Limits::NONE).unwrap();
    let groups = place.directory().parent().unwrap().to_path_buf();
    drop(place);
    names(&groups).chain(names(&env::temp_dir())).filter(|name| own(name)).collect()
}

/// Nothing is there that was not before. Another run on this machine may be taking its own away.
fn nothing_is_left(before: &BTreeSet<String>) {
    let gone = until(Duration::from_secs(10), || traces().is_subset(before));
    assert!(gone, "left: {:?}", traces().difference(before));
}

#[test]
fn work_that_does_nothing_is_no_workload() {
    needs!();
    takes_its_time!();
    let sensor = target::sensor().unwrap();
    for head in [NOTHING, NOTHING_MALIGN] {
        let place = tempfile::tempdir().unwrap();
        let labelled = defined(place.path(), head, "");
        let why = alone(&labelled, &sensor).unwrap_err();
        assert!(why.contains("forks, at least 40 expected"), "{why}");
    }
    // There was nothing to be missed.
    let place = tempfile::tempdir().unwrap();
    let labelled = defined(place.path(), NOTHING_MALIGN, "");
    let why = unresolved(watched(&labelled, &sensor, "").outcome);
    assert!(why.contains("alive at once, at least 30 expected"), "{why}");
}

#[test]
fn honest_work_that_fails_or_stays_is_unresolved() {
    needs!();
    takes_its_time!();
    let sensor = target::sensor().unwrap();
    for (command, reason) in [("['false']", "it ended with"), ("['sleep', '60']", "did not end")] {
        let place = tempfile::tempdir().unwrap();
        let head = format!("label = 'honest'\ncommand = {command}");
        let labelled = defined(place.path(), &head, "");
        let why = unresolved(watched(&labelled, &sensor, "").outcome);
        assert!(why.contains(reason), "{why}");
    }
}

#[test]
fn a_set_up_that_fails_leaves_nothing() {
    needs!();
    let sensor = target::sensor().unwrap();
    let before = traces();
    let place = tempfile::tempdir().unwrap();
    let pids = place.path().join("pids");
    let setup = format!(
        "sleep 600 &\necho $! >{pids}\nsetsid sleep 600 &\necho $! >>{pids}\n\
         echo there is no mill >&2\nexit 3\n",
        pids = pids.display()
    );
    let labelled = defined(place.path(), NOTHING, &setup);
    for why in [
        unresolved(watched(&labelled, &sensor, "").outcome),
        alone(&labelled, &sensor).unwrap_err(),
    ] {
        assert!(why.contains("cannot be set up") && why.contains("there is no mill"), "{why}");
        for pid in fs::read_to_string(&pids).unwrap().lines() {
            let pid = pid.parse().unwrap();
            assert!(tests::process::argv(pid).is_empty(), "{pid} of the set-up still runs");
        }
        nothing_is_left(&before);
    }

    let absent = Labelled { needs: vec!["no-such-program".into()], ..labelled };
    let why = unresolved(watched(&absent, &sensor, "").outcome);
    assert!(why.contains("no-such-program"), "{why}");
}

#[test]
fn a_recursion_is_caught_blamed_and_explained() {
    needs!();
    takes_its_time!();
    let sensor = target::sensor().unwrap();
    let before = traces();
    let labelled = suite::find("script-twice").unwrap();
    let seen = seen(watched(&labelled, &sensor, "").outcome);
    assert_eq!(seen.incidents.len(), 1, "{seen:#?}");
    let incident = &seen.incidents[0];
    assert!(incident.kind_right && incident.culprit_right, "{seen:#?}");
    assert!(incident.facts_missing.is_empty(), "{seen:#?}");
    assert!(incident.window_missing.is_empty(), "{seen:#?}");
    assert_eq!((seen.running_after, seen.refused_forks), (Some(0), 0), "{seen:#?}");
    let contained = incident.contained_after.unwrap();
    assert!(incident.opened_after <= contained && contained <= seen.took, "{seen:#?}");
    assert!(incident.processes > 0 && incident.processes <= incident.processes_contained.unwrap());
    nothing_is_left(&before);
}

#[test]
fn a_recursion_that_no_rule_looks_for_is_missed() {
    needs!();
    takes_its_time!();
    let sensor = target::sensor().unwrap();
    let mut labelled = suite::find("script-twice").unwrap();
    // An emulated machine makes 90 in this time.
    (labelled.bounds.seconds, labelled.bounds.tasks) = (5, 50);
    let seen = seen(watched(&labelled, &sensor, NEVER).outcome);
    assert!(seen.incidents.is_empty() && seen.running_after.is_none(), "{seen:#?}");
    assert!(seen.refused_forks > 0, "it has met its cage instead: {seen:#?}");
}

#[test]
fn another_culprit_or_another_fact_than_expected_is_wrong() {
    needs!();
    takes_its_time!();
    let sensor = target::sensor().unwrap();
    let mut labelled = suite::find("script-twice").unwrap();
    let expect = labelled.expect.as_mut().unwrap();
    expect.culprit = Culprit::Words(vec!["{script}".into(), "more".into()]);
    expect.facts.push("a moon of cheese".into());
    labelled.label = Label::Malign("fork_storm".into());
    let seen = seen(watched(&labelled, &sensor, "").outcome);
    let incident = &seen.incidents[0];
    assert!(!incident.culprit_right && !incident.kind_right, "{seen:#?}");
    assert_eq!(incident.facts_missing, ["a moon of cheese"]);
}

/// A workload of the suite is what it says, and the kernel's gates and their replay agree about it.
fn replays_alike(name: &str) {
    takes_its_time!();
    let labelled = suite::find(name).unwrap();
    if let Some(reason) = labelled.missing() {
        skip::note(tests::test_name!(), &reason);
        return;
    }
    let seen = alone(&labelled, &target::sensor().unwrap()).unwrap();
    let trace = &seen.trace;
    assert_eq!((trace.gates_differ, trace.storms_differ), (0, 0), "{trace:?}");
    assert!(trace.gates_agree + trace.storms_agree > 0, "{trace:?}");
    match labelled.label {
        Label::Honest => {
            assert!(seen.ended_well, "{seen:?}");
            assert_eq!(trace.containments, 0, "{trace:?}");
        }
        // Whether what would be watched is contained no trace can tell.
        Label::Malign(_) => {
            assert!(trace.containments + trace.watched > 0, "{trace:?}");
        }
    }
}

macro_rules! agreement {
    ($module:ident: $($test:ident $name:literal),* $(,)?) => {
        mod $module {
            pub const ALL: &[&str] = &[$($name),*];

            $(#[test]
            fn $test() {
                super::replays_alike($name);
            })*
        }
    };
}

agreement! {
    agreement:
    builds "builds",
    database_buffer "database-buffer",
    failing_jobs "failing-jobs",
    git_hook "git-hook",
    growing_launcher "growing-launcher",
    make_itself "make-itself",
    nested_shells "nested-shells",
    new_directories "new-directories",
    node_forks_itself "node-forks-itself",
    package_installs "package-installs",
    perl_fork_loop "perl-fork-loop",
    pool_one_task_each "pool-one-task-each",
    pre_forking_24 "pre-forking-24",
    pre_forking_server "pre-forking-server",
    probe_bursts "probe-bursts",
    python_fork_loop "python-fork-loop",
    python_starts_itself "python-starts-itself",
    recursive_make "recursive-make",
    runner_shells "runner-shells",
    script_twice "script-twice",
    shell_bomb "shell-bomb",
    shell_loops "shell-loops",
    star_agent "star-agent",
    star_distinct "star-distinct",
    star_orphans "star-orphans",
    star_sleeps "star-sleeps",
    test_runners "test-runners",
    xargs_64 "xargs-64",
}

// Slow, or over after some seconds: on a busy machine they are not what they say.
agreement! {
    agreement_in_time:
    npm_linear "npm-linear",
    npm_missing_manifest "npm-missing-manifest",
    npm_prepare_link "npm-prepare-link",
    npm_two_missing "npm-two-missing",
    npm_two_scripts "npm-two-scripts",
    stress_clone "stress-clone",
    stress_exec "stress-exec",
    stress_fork "stress-fork",
    stress_vfork "stress-vfork",
}

#[test]
fn every_workload_is_listed() {
    let all = suite::load().unwrap();
    // What is only told of takes minutes until then; `respawn` replays one that is quicker.
    let quick = |one: &&Labelled| matches!(one.label, Label::Honest) || one.is_to_be_contained();
    // Who never forks crosses no gate.
    let forks = |one: &&Labelled| one.work.forks > 0;
    let named = all.iter().filter(quick).filter(forks).map(|one| one.name.as_str());
    let names: BTreeSet<&str> = named.collect();
    let listed = [agreement::ALL, agreement_in_time::ALL].concat();
    assert_eq!(names, listed.into_iter().collect(), "a test for each of them, by name");
}

/// At least so much of it, or its silence says nothing.
const CORPUS_HOURS: f64 = 1.0;

#[test]
fn recorded_honest_work_is_left_alone() {
    let files = corpus::traces().unwrap();
    let sensor = target::sensor().unwrap();
    let mut hours = 0.0;
    for file in files {
        let replay = corpus::replay(&sensor, &file).unwrap();
        // An incident may be told of: three hundred processes at once are worth a word. Nobody may
        // be stopped for them.
        assert_eq!(replay.containments, 0, "{}", file.display());
        hours += replay.seconds / 3600.0;
    }
    assert!(hours >= CORPUS_HOURS, "{hours:.2} h are recorded");
}
