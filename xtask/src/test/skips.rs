//! The checked-in list of tests that may skip, where, and why (`tests/skips.toml`). A skip that is
//! not on it is a failure: otherwise a test that never runs looks like one that passes.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::results::{Case, Outcome, is_named};

/// Where tests run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The crates' own tests, on this host.
    Unit,
    /// End to end, on this host, as root.
    Native,
    /// End to end, on this host, where we are not root: none can run.
    Unprivileged,
    /// End to end, in a virtual machine with this kernel.
    Vm(String),
}

impl Place {
    /// Whether an entry's `where` means this place: `vm` is every kernel, `vm:6.1` one.
    fn is_meant_by(&self, word: &str) -> bool {
        match self {
            Self::Unit => word == "unit",
            Self::Native => word == "native",
            Self::Unprivileged => word == "unprivileged",
            Self::Vm(kernel) => word == "vm" || word.strip_prefix("vm:") == Some(kernel),
        }
    }
}

/// The list.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SkipList {
    #[serde(default)]
    skip: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// A test's name, its modules may be left out; `*` stands for any part of it.
    test: String,
    #[serde(rename = "where")]
    places: Vec<String>,
    /// What a skip has to give as its reason: one of these, wherever in it; none: any.
    #[serde(default)]
    says: Vec<String>,
    why: String,
}

impl SkipList {
    pub fn load(file: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        Self::parse(&text).with_context(|| file.display().to_string())
    }

    fn parse(text: &str) -> Result<Self> {
        let list: Self = toml::from_str(text)?;
        for entry in &list.skip {
            ensure!(
                !entry.why.trim().is_empty(),
                "{} may skip, but no reason is given",
                entry.test
            );
            for place in &entry.places {
                ensure!(
                    matches!(place.as_str(), "unit" | "native" | "unprivileged" | "vm")
                        || place.starts_with("vm:"),
                    "{}: {place:?} is no place: unit, native, unprivileged, vm or vm:KERNEL",
                    entry.test
                );
            }
        }
        Ok(list)
    }

    /// Whether `test` may skip at `place` for this reason.
    fn allows(&self, test: &str, place: &Place, reason: &str) -> bool {
        self.skip.iter().any(|entry| {
            (is_named(test, &entry.test) || fits(test, &entry.test))
                && entry.places.iter().any(|word| place.is_meant_by(word))
                && (entry.says.is_empty() || entry.says.iter().any(|says| reason.contains(says)))
        })
    }

    /// Turns the skips that are not on the list into failures.
    pub fn judge(&self, cases: &mut [Case], place: &Place) {
        for case in cases {
            if let Outcome::Skipped(reason) = &case.outcome
                && !self.allows(&case.name, place, reason)
            {
                case.name = format!(
                    "{} (skipped: {reason}; tests/skips.toml does not allow that here)",
                    case.name
                );
                case.outcome = Outcome::Failed;
            }
        }
    }
}

/// Whether `name` is `pattern`, in which each `*` stands for any text.
fn fits(name: &str, pattern: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else {
        return name == pattern;
    };
    let Some(name) = name.strip_prefix(start) else {
        return false;
    };
    // The shortest text for this star that lets the rest fit.
    (0..=name.len()).filter_map(|at| name.get(at..)).any(|left| fits(left, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"
        [[skip]]
        test = "npm::*"
        where = ["vm"]
        why = "no node in the guest"
        [[skip]]
        test = "brake_pauses"
        where = ["native", "vm:5.10"]
        why = "no LSM"
    "#;

    fn skipped(name: &str) -> Case {
        Case { name: name.into(), outcome: Outcome::Skipped("why".into()) }
    }

    #[test]
    fn a_skip_counts_only_where_the_list_allows_it() {
        let list = SkipList::parse(LIST).unwrap();
        let vm = |kernel: &str| Place::Vm(kernel.into());
        for (test, place, allowed) in [
            ("npm::flagship", vm("6.1"), true),
            ("npm::flagship", Place::Native, false),
            ("npm", vm("6.1"), false),
            ("respond::brake_pauses", Place::Native, true),
            ("respond::brake_pauses", vm("5.10"), true),
            ("respond::brake_pauses", vm("6.1"), false),
            ("other", Place::Unit, false),
        ] {
            let mut cases = [skipped(test)];
            list.judge(&mut cases, &place);
            assert_eq!(cases[0].outcome != Outcome::Failed, allowed, "{test} at {place:?}");
        }
    }

    #[test]
    fn a_reason_counts_that_the_entry_names() {
        let list = SkipList::parse(
            "[[skip]]\ntest = \"spins\"\nwhere = [\"unit\"]\nsays = [\"needs cc,\", \"root\"]\nwhy = \"x\"\n",
        )
        .unwrap();
        for (reason, allowed) in [
            ("needs cc, which is not installed", true),
            ("needs root", true),
            ("it does not compile", false),
        ] {
            assert_eq!(list.allows("spins", &Place::Unit, reason), allowed, "{reason}");
        }
    }

    #[test]
    fn a_star_stands_for_any_text() {
        for (name, pattern, expected) in [
            ("npm::flagship", "npm::*", true),
            ("runaway::npm_cycle", "*npm*", true),
            ("npm", "*npm*", true),
            ("nxpm", "*npm*", false),
            ("a::b_c", "a::*_c", true),
            ("a::b_cd", "a::*_c", false),
            ("ä", "*", true),
            ("", "*", true),
        ] {
            assert_eq!(fits(name, pattern), expected, "{name} against {pattern}");
        }
    }

    #[test]
    fn what_passed_or_failed_is_left_alone() {
        let mut cases = [Case { name: "a".into(), outcome: Outcome::Passed }, Case::failed("b")];
        let before = cases.clone();
        SkipList::default().judge(&mut cases, &Place::Unit);
        assert_eq!(cases, before);
    }

    #[test]
    fn a_list_that_means_nothing_is_refused() {
        for wrong in [
            "[[skip]]\ntest = \"a\"\nwhere = [\"nativ\"]\nwhy = \"x\"",
            "[[skip]]\ntest = \"a\"\nwhere = [\"native\"]\nwhy = \" \"",
            "[[skip]]\ntest = \"a\"\nwhy = \"x\"",
            "[[skip]]\ntest = \"a\"\nwhere = []\nwhy = \"x\"\nunknown = 1",
        ] {
            assert!(SkipList::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_list_of_this_workspace_can_be_read() {
        let list = SkipList::load(&crate::place::workspace().join("tests/skips.toml")).unwrap();
        assert!(
            list.allows("anything", &Place::Unprivileged, "needs root"),
            "native tests need root"
        );
    }
}
