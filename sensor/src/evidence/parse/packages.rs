//! Logs of package managers: dpkg, dnf, zypper, pacman. Only what changed the host.

use std::fs::File;

use sensor_proto::internal::v1::{PackageChange, PackagesWanted, ParseAnswer};

use super::{lines::tail, moment};

/// What is read of the end of a log, bytes: an upgrade of a whole system has 1 MiB.
const TAIL: u64 = 2 << 20;

/// Changes that are told, the latest.
const CHANGES: usize = 200;

/// Longest line, bytes.
const LINE: usize = 512;

/// What package managers say was done, and how we call it.
const VERBS: [(&str, &str); 15] = [
    ("install", "install"),
    ("installed", "install"),
    ("upgrade", "upgrade"),
    ("upgraded", "upgrade"),
    ("update", "upgrade"),
    ("updated", "upgrade"),
    ("remove", "remove"),
    ("removed", "remove"),
    ("erase", "remove"),
    ("erased", "remove"),
    ("purge", "remove"),
    ("downgrade", "downgrade"),
    ("downgraded", "downgrade"),
    ("reinstall", "reinstall"),
    ("reinstalled", "reinstall"),
];

pub(super) fn changes(file: &File, wanted: &PackagesWanted) -> Result<ParseAnswer, String> {
    let (text, _) = tail(file, TAIL)?;
    Ok(find(&text, wanted))
}

/// The same of bytes.
pub(crate) fn find(text: &[u8], wanted: &PackagesWanted) -> ParseAnswer {
    let here = moment::Here { offset_s: wanted.offset_s, now: wanted.now };
    let mut packages: Vec<PackageChange> = text
        .split(|byte| *byte == b'\n')
        .filter_map(|line| change(&line[..line.len().min(LINE)], here))
        .filter(|change| change.at >= wanted.since)
        .collect();
    let omitted = packages.len().saturating_sub(CHANGES);
    packages.drain(..omitted);
    ParseAnswer { packages, omitted: omitted as u64, ..Default::default() }
}

/// dpkg: `2026-11-27 22:45:05 upgrade nodejs:amd64 18.1 20.2`;
/// dnf: `2026-11-27T22:45:05+0000 SUBDEBUG Upgrade: nodejs-20.2-1.x86_64`;
/// zypper: `2026-11-27 22:45:05|install|nodejs|20.2|x86_64|…`;
/// pacman: `[2026-11-27T22:45:05+0000] [ALPM] upgraded nodejs (18.1-1 -> 20.2-1)`.
fn change(line: &[u8], here: moment::Here) -> Option<PackageChange> {
    let (at, rest) = moment::of(line, here)?;
    let text = String::from_utf8_lossy(rest);
    let text = text.trim_start_matches('|').replace('|', " ");
    let mut words = text.split_ascii_whitespace();
    let mut word = words.next()?;
    if matches!(word, "SUBDEBUG" | "INFO" | "DEBUG" | "[ALPM]") {
        word = words.next()?;
    }
    let verb = word.trim_end_matches(':').to_ascii_lowercase();
    let (_, how) = VERBS.iter().find(|(said, _)| *said == verb)?;
    let what = words.take(4).collect::<Vec<_>>().join(" ");
    (!what.is_empty()).then(|| PackageChange {
        at,
        how: (*how).to_owned(),
        what: what.into_bytes(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WANTED: PackagesWanted =
        PackagesWanted { since: 1_795_819_505, now: 1_795_900_000, offset_s: 0 };

    #[test]
    fn every_package_manager_tells() {
        let text = "2026-11-27 22:45:04 upgrade too:old 1 2\n\
                    2026-11-27 22:45:05 upgrade nodejs:amd64 18.1 20.2\n\
                    2026-11-27 22:45:05 status installed nodejs:amd64 20.2\n\
                    2026-11-27T22:45:06+0000 SUBDEBUG Installed: nodejs-20.2-1.x86_64\n\
                    2026-11-27 22:45:07|remove |nodejs|20.2|x86_64|root@host|\n\
                    [2026-11-27T22:45:08+0000] [ALPM] upgraded nodejs (18.1-1 -> 20.2-1)\n\
                    [2026-11-27T22:45:08+0000] [ALPM] running hooks\nodd\n";
        let found = find(text.as_bytes(), &WANTED);
        let told: Vec<String> = found
            .packages
            .iter()
            .map(|it| {
                format!("{} {} {}", it.at - WANTED.since, it.how, String::from_utf8_lossy(&it.what))
            })
            .collect();
        let expected = [
            "0 upgrade nodejs:amd64 18.1 20.2",
            "1 install nodejs-20.2-1.x86_64",
            "2 remove nodejs 20.2 x86_64 root@host",
            "3 upgrade nodejs (18.1-1 -> 20.2-1)",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn the_latest_stay() {
        let text = "2026-11-27 22:45:05 install a 1\n".repeat(CHANGES + 5);
        let found = find(text.as_bytes(), &WANTED);
        assert_eq!((found.packages.len(), found.omitted), (CHANGES, 5));
    }

    proptest! {
        #[test]
        fn any_text(text in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = find(&text, &WANTED);
        }
    }
}
