//! What test programs said, as cases and counts. Pure.

use std::time::Duration;

/// How one test ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    Failed,
    Skipped(String),
}

/// One test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    pub name: String,
    pub outcome: Outcome,
}

impl Case {
    pub fn failed(name: impl Into<String>) -> Self {
        Self { name: name.into(), outcome: Outcome::Failed }
    }
}

/// The tests of one program, or the checks of one kind.
#[derive(Debug, Clone)]
pub struct Suite {
    pub name: String,
    pub cases: Vec<Case>,
    pub took: Duration,
}

/// Passed, failed, skipped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub passed: usize,
    pub failed: usize,
    pub skipped: usize,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl Suite {
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for case in &self.cases {
            match case.outcome {
                Outcome::Passed => counts.passed += 1,
                Outcome::Failed => counts.failed += 1,
                Outcome::Skipped(_) => counts.skipped += 1,
            }
        }
        counts
    }
}

/// Reads what a test program printed: `test NAME ... ok`. What a test's children print may stand
/// between the name and the verdict, or before either; so the program's own summary is the judge, and
/// where the two disagree the cases get a failed one that says so.
pub fn parse(output: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut open: Option<String> = None;
    let mut summary: Option<Counts> = None;
    for line in output.lines() {
        if let Some(counts) = line.strip_prefix("test result: ").and_then(parse_summary) {
            *summary.get_or_insert_default() += counts;
            continue;
        }
        let verdict_of = match line.strip_prefix("test ").and_then(|it| it.split_once(" ... ")) {
            Some((name, rest)) => {
                if let Some(name) = open.take() {
                    cases.push(Case::failed(name));
                }
                open = Some(name.trim_end_matches(" - should panic").to_owned());
                rest
            }
            None => line,
        };
        if let Some(outcome) = open.as_ref().and_then(|_| parse_verdict(verdict_of)) {
            cases.extend(open.take().map(|name| Case { name, outcome }));
        }
    }
    // The program ended within this test.
    cases.extend(open.map(Case::failed));
    let mut read = Counts::default();
    for case in &cases {
        match case.outcome {
            Outcome::Passed => read.passed += 1,
            Outcome::Failed => read.failed += 1,
            Outcome::Skipped(_) => read.skipped += 1,
        }
    }
    match summary {
        None => cases.push(Case::failed("(the test program did not reach its end)")),
        Some(told) if told != read => cases.push(Case::failed(format!(
            "(the test program counted {} passed, {} failed, {} ignored; its lines say {}, {}, {})",
            told.passed, told.failed, told.skipped, read.passed, read.failed, read.skipped
        ))),
        Some(_) => {}
    }
    cases
}

fn parse_verdict(text: &str) -> Option<Outcome> {
    let text = text.trim_end();
    if let Some((_, reason)) = text.split_once("ignored, ") {
        return Some(Outcome::Skipped(reason.to_owned()));
    }
    if text.ends_with("ignored") {
        return Some(Outcome::Skipped("marked #[ignore]".to_owned()));
    }
    if text.ends_with("FAILED") {
        return Some(Outcome::Failed);
    }
    text.ends_with("ok").then_some(Outcome::Passed)
}

/// `ok. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s`
fn parse_summary(text: &str) -> Option<Counts> {
    let number = |word: &str| {
        text.split([';', '.'])
            .find_map(|part| part.trim().strip_suffix(word)?.trim().parse::<usize>().ok())
    };
    Some(Counts {
        passed: number("passed")?,
        failed: number("failed")?,
        skipped: number("ignored")?,
    })
}

/// What the failed tests said, without the list of those that passed.
pub fn failures(output: &str) -> Option<&str> {
    output.find("\nfailures:\n").map(|at| output[at..].trim())
}

/// Longer than this the message of a failed test is cut, in characters.
const MESSAGE: usize = 300;

/// Adds to the names of the failed cases what each said as it failed, in a line: where only the end of
/// the output is kept, it is all that is left of it.
pub fn explain(cases: &mut [Case], output: &str) {
    let Some(failures) = failures(output) else { return };
    for case in cases.iter_mut().filter(|case| case.outcome == Outcome::Failed) {
        if let Some(message) = message(failures, &case.name) {
            case.name = format!("{}: {message}", case.name);
        }
    }
}

/// `---- NAME stdout ----`, what the test printed, `thread 'NAME' panicked at FILE:LINE:COLUMN:`, the
/// message, a hint about backtraces.
fn message(failures: &str, name: &str) -> Option<String> {
    let (_, said) = failures.split_once(&format!("---- {name} stdout ----\n"))?;
    let said = said.split("\n---- ").next().unwrap_or(said);
    let (_, panic) = said.split_once(" panicked at ")?;
    let panic = panic.split("\nnote: run with ").next().unwrap_or(panic);
    let line = panic.split_whitespace().collect::<Vec<_>>().join(" ");
    Some(match line.char_indices().nth(MESSAGE) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    })
}

/// What tests wrote to the file named by `SENSOR_SKIP_FILE`: `SKIP NAME: REASON`, a line each. A test
/// says so and returns, so its program counts it as passed; here it becomes skipped.
pub fn apply_skips(cases: &mut Vec<Case>, lines: &str) {
    for line in lines.lines().filter(|line| !line.trim().is_empty()) {
        let Some((name, reason)) =
            line.trim().strip_prefix("SKIP ").and_then(|rest| rest.split_once(": "))
        else {
            cases.push(Case::failed(format!("(a skip that cannot be read: {line:?})")));
            continue;
        };
        match cases.iter_mut().find(|case| is_named(&case.name, name)) {
            // A test that failed after it said that it skips has failed.
            Some(case) if case.outcome == Outcome::Failed => {}
            Some(case) => case.outcome = Outcome::Skipped(reason.to_owned()),
            None => {
                cases.push(Case::failed(format!("({name} says that it skips, but did not run)")));
            }
        }
    }
}

/// Whether `name`, perhaps without its modules, means the test `full`.
pub fn is_named(full: &str, name: &str) -> bool {
    full == name || full.strip_suffix(name).is_some_and(|modules| modules.ends_with("::"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn outcomes(cases: &[Case]) -> Vec<(&str, &Outcome)> {
        cases.iter().map(|case| (case.name.as_str(), &case.outcome)).collect()
    }

    #[test]
    fn verdicts_are_read_even_if_children_print_between() {
        let output = "\nrunning 5 tests\n\
            test a::one ... ok\n\
            test a::two ... \x1b[1mWARN a child says something\n\
            and more\n\
            ok\n\
            test b::three ... FAILED\n\
            test b::four - should panic ... ok\n\
            test b::five ... ignored, takes hours\n\
            \nfailures:\n\n---- b::three stdout ----\nthis is not ok\n\n\
            test result: FAILED. 3 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s\n";
        assert!(failures(output).unwrap().starts_with("failures:\n\n---- b::three stdout"));
        assert_eq!(
            outcomes(&parse(output)),
            [
                ("a::one", &Outcome::Passed),
                ("a::two", &Outcome::Passed),
                ("b::three", &Outcome::Failed),
                ("b::four", &Outcome::Passed),
                ("b::five", &Outcome::Skipped("takes hours".into())),
            ]
        );
    }

    #[test]
    fn a_failed_test_says_why_in_a_line() {
        let mut cases =
            ["a::one", "a::one_more", "died"].map(|name| Case::failed(name.to_owned())).to_vec();
        cases.push(Case { name: "well".into(), outcome: Outcome::Passed });
        let long = "x".repeat(400);
        let output = format!(
            "test a::one ... FAILED\n\nfailures:\n\n---- a::one_more stdout ----\nit says something\n\n\
            thread 'a::one_more' (12) panicked at tests/a.rs:1:2:\nassertion failed\n  left: 1\n\
            note: run with `RUST_BACKTRACE=1`\n\n---- a::one stdout ----\n\n\
            thread 'a::one' panicked at tests/a.rs:3:4:\n{long}\n\n\nfailures:\n    a::one\n"
        );
        explain(&mut cases, &output);
        assert!(cases[0].name.starts_with("a::one: tests/a.rs:3:4: xxx"), "{}", cases[0].name);
        assert!(cases[0].name.ends_with("x…"), "{}", cases[0].name);
        assert_eq!(cases[1].name, "a::one_more: tests/a.rs:1:2: assertion failed left: 1");
        assert_eq!((cases[2].name.as_str(), cases[3].name.as_str()), ("died", "well"));
    }

    #[test]
    fn a_program_that_dies_has_failed_in_the_test_that_ran() {
        let cases = parse("running 2 tests\ntest one ... ok\ntest two ... ");
        assert_eq!(cases[1], Case::failed("two"));
        assert_eq!(cases.len(), 3, "and the missing end is a failure of its own: {cases:?}");
        assert_eq!(cases[2].outcome, Outcome::Failed);
    }

    #[test]
    fn a_count_that_disagrees_is_a_failure() {
        let cases = parse(
            "test one ... ok\ntest result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n",
        );
        assert_eq!(cases.len(), 2);
        assert!(cases[1].name.contains("counted 2 passed"), "{}", cases[1].name);
    }

    #[test]
    fn no_tests_is_no_failure() {
        assert_eq!(
            parse(
                "running 0 tests\n\ntest result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n"
            ),
            []
        );
    }

    #[test]
    fn a_test_that_says_it_skips_is_skipped_and_not_passed() {
        let case = |name: &str, outcome| Case { name: name.into(), outcome };
        let mut cases = vec![
            case("npm::cycle", Outcome::Passed),
            case("npm::other", Outcome::Failed),
            case("make", Outcome::Passed),
        ];
        apply_skips(
            &mut cases,
            "SKIP cycle: no node here: really\nSKIP npm::other: x\n\nSKIP gone: y\nnonsense\n",
        );
        assert_eq!(cases[0].outcome, Outcome::Skipped("no node here: really".into()));
        assert_eq!(cases[1].outcome, Outcome::Failed);
        assert_eq!(cases[2].outcome, Outcome::Passed);
        assert_eq!(cases.len(), 5, "{cases:?}");
        assert!(cases[3..].iter().all(|case| case.outcome == Outcome::Failed));
    }

    #[test]
    fn a_name_without_modules_ends_at_a_module() {
        assert!(is_named("a::b", "b") && is_named("a::b", "a::b") && is_named("b", "b"));
        assert!(!is_named("a::bb", "b") && !is_named("a::b", "a"));
    }

    proptest! {
        #[test]
        fn any_output_gives_cases_and_no_panic(output in ".{0,400}", skips in ".{0,100}") {
            let mut cases = parse(&output);
            apply_skips(&mut cases, &skips);
            explain(&mut cases, &output);
            // Whatever is not a test program's output has no summary, and so a failure.
            prop_assert!(!cases.is_empty() || output.contains("test result: "));
        }
    }
}
