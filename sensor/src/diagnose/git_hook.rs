//! A git hook that runs the git command that runs the hook.

use super::{
    Claim, Files, Found, call,
    command::{basename, resolve, script, tool},
    cycle::Cycle,
    words::Words,
};

/// githooks(5), those of a client and of a server, with when git runs them.
const HOOKS: [(&str, &str); 18] = [
    ("applypatch-msg", "before a patch is committed"),
    ("pre-applypatch", "before a patch is committed"),
    ("post-applypatch", "after a patch was committed"),
    ("pre-commit", "before every commit"),
    ("pre-merge-commit", "before every merge commit"),
    ("prepare-commit-msg", "before every commit"),
    ("commit-msg", "before every commit"),
    ("post-commit", "after every commit"),
    ("pre-rebase", "before every rebase"),
    ("post-checkout", "after every checkout"),
    ("post-merge", "after every merge"),
    ("pre-push", "before every push"),
    ("pre-receive", "before a push is received"),
    ("update", "for every branch that is pushed"),
    ("post-receive", "after a push was received"),
    ("post-update", "after a push was received"),
    ("post-rewrite", "after commits were rewritten"),
    ("reference-transaction", "on every change of a branch"),
];

/// Global options whose value is the next argument (git(1)).
const VALUED: [&[u8]; 5] = [b"-C", b"-c", b"--git-dir", b"--work-tree", b"--namespace"];

/// `commit` of `git -C x commit -m y`.
fn verb(argv: &[Vec<u8>]) -> Option<&[u8]> {
    let (name, arguments) = tool(argv)?;
    if name != b"git" {
        return name.strip_prefix(b"git-");
    }
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if VALUED.contains(&argument.as_slice()) {
            rest.next();
        } else if !argument.starts_with(b"-") {
            return Some(argument);
        }
    }
    None
}

pub(super) fn explain(
    cycle: &Cycle<'_>,
    files: &mut dyn Files,
    words: &Words<'_>,
) -> Option<Claim> {
    let git = cycle.steps().iter().find(|step| verb(&step.argv).is_some())?;
    let (step, hook, next) = cycle.calls().enumerate().find_map(|(step, (link, next))| {
        let name = basename(script(&link.argv)?.path);
        let hook = HOOKS.iter().find(|(hook, _)| hook.as_bytes() == name)?;
        // Whoever runs it must be git: above it in the chain, or at the end of the turn before.
        let at = cycle.start + step;
        let above = if at > 0 { at - 1 } else { cycle.period - 1 };
        verb(&cycle.runs[above].argv)?;
        Some((step, hook, next))
    })?;
    let link = cycle.steps()[step];
    let file = resolve(cycle.cwd(step), script(&link.argv)?.path)?;
    let answer = files.find(&file, call(next, &[]));
    let title = words.command(&git.argv);
    let (path, when) = (words.path(&file), hook.1);
    let mut claim = Claim {
        by: "git_hook",
        cause: format!(
            "{title} runs itself: git runs the hook {path} {when}, and the hook leads to {title} again."
        ),
        remedy: format!(
            "Take what runs {title} out of {path}, or let the hook return at once when it is called by itself."
        ),
        // The chain alone shows it.
        confidence: 0.75,
        evidence: vec![answer.evidence],
    };
    if let Found::File(Some(line)) = answer.found {
        claim.cause = format!(
            "{title} runs itself: git runs the hook {path} {when}, and its line {} is {}, which runs the hook again.",
            line.line,
            words.line(&line.text),
        );
        claim.remedy = format!(
            "Change line {} of {path} so that it does not lead to {title}, or let the hook return at once when it is called by itself.",
            line.line,
        );
        claim.confidence = 0.92;
    }
    Some(claim)
}
