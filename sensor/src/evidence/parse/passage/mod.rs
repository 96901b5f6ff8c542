//! Files of a culprit's project: the passage that a rule of the diagnosis looks for.
//!
//! - `lines`: the line that starts a command
//! - `fork`: the line in which a program forks itself
//! - `make`: the command of a makefile's rule
//! - `npm`: the script of a package.json

mod fork;
pub(crate) mod lines;
mod make;
mod npm;

use sensor_proto::internal::v1::{ParseAnswer, Passage, PassageWanted, passage_wanted::Of};

/// What is looked for in these bytes; `None`: they have no such passage.
pub(crate) fn find(content: &[u8], wanted: &PassageWanted) -> Option<Passage> {
    match wanted.of.as_ref()? {
        Of::Call(call) => lines::calling(content, &call.words, &call.aliases).map(passage),
        Of::Fork(_) => fork::itself(content).map(passage),
        Of::Recipe(recipe) => make::recipe(content, recipe),
        Of::Script(script) => npm::script(content, script),
    }
}

pub(crate) fn answer(content: &[u8], wanted: &PassageWanted) -> ParseAnswer {
    ParseAnswer { passage: find(content, wanted), ..Default::default() }
}

/// The passage of an answer, if such a question about so many bytes can have it: whoever answers has
/// read foreign bytes, and may be theirs by now.
pub(crate) fn checked(
    answer: ParseAnswer,
    wanted: &PassageWanted,
    size: usize,
) -> Result<Option<Passage>, ()> {
    let Some(passage) = answer.passage else {
        return if answer.error.is_empty() { Ok(None) } else { Err(()) };
    };
    // Nothing in a file is longer than the file, and it has no more lines than bytes.
    let fits = passage.line <= size as u64 + 1
        && passage.text.len() <= size
        && passage.under.len() <= size;
    let asked = match &wanted.of {
        Some(Of::Script(script)) => {
            script.events.iter().any(|event| event.as_bytes() == passage.under)
        }
        Some(Of::Recipe(_)) => passage.line > 0 && !passage.under.is_empty(),
        Some(Of::Call(_) | Of::Fork(_)) => passage.line > 0 && passage.under.is_empty(),
        None => false,
    };
    if fits && asked { Ok(Some(passage)) } else { Err(()) }
}

fn passage(line: lines::Line<'_>) -> Passage {
    Passage { line: line.number as u64, text: line.text.to_vec(), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use sensor_proto::internal::v1::{CallWanted, ForkWanted, RecipeWanted, ScriptWanted};

    use super::*;

    fn wanted(of: Of) -> PassageWanted {
        PassageWanted { of: Some(of) }
    }

    #[test]
    fn an_answer_that_cannot_be_is_none() {
        let script = wanted(Of::Script(ScriptWanted {
            events: vec!["prea".into(), "a".into()],
            ..Default::default()
        }));
        let recipe = wanted(Of::Recipe(RecipeWanted::default()));
        let call = wanted(Of::Call(CallWanted::default()));
        let fork = wanted(Of::Fork(ForkWanted {}));
        let told = |line, text: &str, under: &str| Passage {
            line,
            text: text.into(),
            under: under.into(),
            sure: true,
        };
        for (question, passage, fits) in [
            (&script, told(0, "x", "a"), true),
            (&script, told(3, "x", "prea"), true),
            (&script, told(3, "x", "b"), false),
            (&recipe, told(1, "x", "all"), true),
            (&recipe, told(0, "x", "all"), false),
            (&recipe, told(1, "x", ""), false),
            (&call, told(11, "0123456789", ""), true),
            (&call, told(12, "x", ""), false),
            (&call, told(1, "0123456789a", ""), false),
            (&call, told(1, "x", "all"), false),
            (&fork, told(1, "x", ""), true),
            (&fork, told(0, "x", ""), false),
            (&PassageWanted::default(), told(1, "x", ""), false),
        ] {
            let answer = ParseAnswer { passage: Some(passage.clone()), ..Default::default() };
            let found = checked(answer, question, 10);
            assert_eq!(found, if fits { Ok(Some(passage)) } else { Err(()) }, "{question:?}");
        }
        assert_eq!(checked(ParseAnswer::default(), &fork, 10), Ok(None));
        let failed = ParseAnswer { error: "nothing was asked".into(), ..Default::default() };
        assert_eq!(checked(failed, &fork, 10), Err(()));
    }
}
