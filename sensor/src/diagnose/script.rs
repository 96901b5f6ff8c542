//! Scripts that run themselves, or each other in a circle, and launchers whose arguments grow.

use super::{
    Claim, Files, Found, call,
    command::{resolve, script},
    cycle::Cycle,
    site::Site,
    words::{Words, list},
};

/// Scripts of one cycle that are told.
const TOLD: usize = 6;

/// How a script names itself: shells, Python, Node, Ruby and Perl, PHP.
const ITSELF: [&[u8]; 9] = [
    b"$0",
    b"${0",
    b"BASH_SOURCE",
    b"sys.argv[0]",
    b"__file__",
    b"__filename",
    b"process.argv[1]",
    b"$PROGRAM_NAME",
    b"PHP_SELF",
];

pub(super) fn explain(
    cycle: &Cycle<'_>,
    files: &mut dyn Files,
    words: &Words<'_>,
) -> Option<Claim> {
    let mut sites = Vec::new();
    let mut scripts = 0;
    for (step, (link, next)) in cycle.calls().enumerate() {
        let file = |argv, step| resolve(cycle.cwd(step), script(argv)?.path);
        let Some(path) = file(&link.argv, step) else {
            continue;
        };
        scripts += 1;
        let itself = file(&next.argv, (step + 1) % cycle.period).is_some_and(|next| next == path);
        let aliases: &[&[u8]] = if itself { &ITSELF } else { &[] };
        let answer = files.find(&path, call(next, aliases));
        if let Found::File(Some(line)) = answer.found {
            let (number, text) = (line.line, line.text);
            sites.push(Site { file: path, number, text, evidence: answer.evidence });
        }
    }
    let grows = !cycle.added.is_empty();
    if sites.is_empty() && !grows {
        return None;
    }
    let title = match sites.first() {
        Some(site) => words.path(&site.file),
        None => words.command(&cycle.steps()[0].argv),
    };
    let place = |site: &Site| site.place(words);
    let mut reasons: Vec<String> = sites
        .iter()
        .take(TOLD)
        .map(|site| format!("{} is {}", place(site), words.line(&site.text)))
        .collect();
    if grows {
        reasons.push(format!("every turn adds {} to the arguments", words.command(&cycle.added)));
    }
    let remedy = match sites.last() {
        Some(site) if grows => {
            format!(
                "Let {} start the program itself, not this launcher with its own arguments.",
                place(site)
            )
        }
        Some(site) => format!(
            "Change {} so that it does not lead back to {title}, or let it end at some depth.",
            place(site)
        ),
        None => format!(
            "Find where {title} passes its own arguments on, and let it start the program itself."
        ),
    };
    Some(Claim {
        by: "script",
        cause: format!("{title} runs itself: {}.", list(&reasons)),
        remedy,
        confidence: match (sites.len() == scripts, sites.is_empty()) {
            // Every script of the cycle has a line that calls the next.
            (true, false) => 0.88,
            (false, false) => 0.7,
            // The arguments show that it calls itself, not where.
            (_, true) => 0.65,
        },
        evidence: sites.into_iter().map(|site| site.evidence).collect(),
    })
}
