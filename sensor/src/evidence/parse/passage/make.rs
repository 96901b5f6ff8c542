//! The command of a makefile's rule that is most like what make started.

use sensor_proto::internal::v1::{Passage, RecipeWanted};

use super::lines::likeness;

/// How a recipe calls make.
const MAKE: [&[u8]; 3] = [b"$(MAKE)", b"${MAKE}", b"make"];

pub(super) fn recipe(content: &[u8], wanted: &RecipeWanted) -> Option<Passage> {
    let makefile = Makefile::parse(content);
    let (recipe, sure) = makefile.choose(&wanted.targets, &wanted.words)?;
    Some(Passage {
        line: recipe.number as u64,
        text: recipe.text.clone(),
        under: makefile.rules.get(recipe.rule)?.first()?.to_vec(),
        sure,
    })
}

/// One command of a rule, with its continuation lines.
#[derive(Debug, PartialEq, Eq)]
struct Recipe {
    /// Place of its rule.
    rule: usize,
    /// Of its first line, from 1.
    number: usize,
    text: Vec<u8>,
}

#[derive(Debug, Default)]
struct Makefile<'a> {
    /// Targets of each rule, at least one. A rule may have thousands, and as many recipes.
    rules: Vec<Vec<&'a [u8]>>,
    recipes: Vec<Recipe>,
}

impl<'a> Makefile<'a> {
    fn parse(content: &'a [u8]) -> Self {
        let mut makefile = Self::default();
        let mut goes_on = false;
        for (at, line) in content.split(|byte| *byte == b'\n').enumerate() {
            let continued = goes_on;
            goes_on = line.ends_with(b"\\");
            if let Some(command) = line.strip_prefix(b"\t") {
                if !continued {
                    makefile.add(command, at + 1);
                } else if let Some(recipe) = makefile.recipes.last_mut() {
                    recipe.text.pop();
                    recipe.text.extend_from_slice(command.trim_ascii());
                }
            } else if !continued && let Some((names, after)) = rule(line) {
                makefile.rules.push(names);
                if let Some(semicolon) = after.iter().position(|byte| *byte == b';') {
                    makefile.add(&after[semicolon + 1..], at + 1);
                }
            }
        }
        makefile
    }

    fn add(&mut self, text: &[u8], number: usize) {
        if let Some(rule) = self.rules.len().checked_sub(1)
            && !text.trim_ascii().is_empty()
        {
            self.recipes.push(Recipe { rule, number, text: text.trim_ascii().to_vec() });
        }
    }

    /// The recipe that is most like what was started, those of the asked-for targets first.
    fn choose(&self, targets: &[Vec<u8>], words: &[Vec<u8>]) -> Option<(&Recipe, bool)> {
        // Without a target, the first one that has a recipe and does not begin with a dot.
        let mut with_recipe =
            self.recipes.iter().filter_map(|it| self.rules.get(it.rule)).flatten();
        let default = with_recipe.find(|target| !target.starts_with(b"."));
        let is_wanted = |target: &&[u8]| {
            if targets.is_empty() {
                Some(target) == default
            } else {
                targets.iter().any(|wanted| wanted == target)
            }
        };
        let wanted: Vec<bool> =
            self.rules.iter().map(|targets| targets.iter().any(is_wanted)).collect();
        let calls_make = words.iter().any(|word| {
            word.rsplit(|byte| *byte == b'/').next().is_some_and(|name| name.ends_with(b"make"))
        });
        let aliases: &[&[u8]] = if calls_make { &MAKE } else { &[] };
        let mut best: Option<((usize, bool), &Recipe)> = None;
        for recipe in &self.recipes {
            let wanted = wanted.get(recipe.rule) == Some(&true);
            let score = (likeness(&recipe.text, words, aliases), wanted);
            if score.0 > 0 && best.is_none_or(|(most, _)| score > most) {
                best = Some((score, recipe));
            }
        }
        best.map(|(score, recipe)| (recipe, score.1 || score.0 > 1))
    }
}

/// Targets of `a b: c`, and what follows the colon. Not a variable, a comment or a directive.
fn rule(line: &[u8]) -> Option<(Vec<&[u8]>, &[u8])> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (names, after) = (&line[..colon], &line[colon + 1..]);
    let assigns = after.starts_with(b"=") || after.starts_with(b":=") || names.contains(&b'=');
    if line.first().is_none_or(u8::is_ascii_whitespace) || names.contains(&b'#') || assigns {
        return None;
    }
    let names: Vec<&[u8]> =
        names.split(u8::is_ascii_whitespace).filter(|name| !name.is_empty()).collect();
    (!names.is_empty()).then_some((names, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipes_of_a_makefile() {
        let content = b"V := x\n.PHONY: all\nall: dep ; echo one\n\techo two \\\n\t  three\n\n# c: d\nother:\n\t@$(MAKE) all\n";
        let told: Vec<(usize, String)> = Makefile::parse(content)
            .recipes
            .into_iter()
            .map(|recipe| (recipe.number, String::from_utf8(recipe.text).unwrap()))
            .collect();
        assert_eq!(
            told,
            [(3, "echo one".into()), (4, "echo two three".into()), (9, "@$(MAKE) all".into())]
        );
    }

    #[test]
    fn the_recipe_that_ran() {
        let content = b"all:\n\tmake x\nx:\n\t@echo\n\t$(MAKE) -C .. y\n";
        let list = |words: &[&str]| words.iter().map(|word| word.as_bytes().to_vec()).collect();
        let chosen = |targets: &[&str], next: &str| {
            let words = list(&next.split(' ').collect::<Vec<_>>());
            let found = recipe(content, &RecipeWanted { targets: list(targets), words })?;
            Some((found.line, String::from_utf8(found.under).unwrap(), found.sure))
        };
        assert_eq!(chosen(&[], "make x"), Some((2, "all".into(), true)));
        assert_eq!(chosen(&["x"], "/usr/bin/make -C .. y"), Some((5, "x".into(), true)));
        assert_eq!(chosen(&["x"], "cd y && z"), None);
        // Called otherwise than the file says: a guess.
        assert_eq!(chosen(&["q"], "make"), Some((2, "all".into(), false)));
    }

    #[test]
    fn many_targets_with_many_recipes_take_little() {
        // 16,000 targets × 10,000 recipes would be some gigabytes, if each had its own.
        let content = [b"a ".repeat(16_000), b":\n".to_vec(), b"\tx\n".repeat(10_000)].concat();
        let makefile = Makefile::parse(&content);
        assert_eq!((makefile.rules.len(), makefile.recipes.len()), (1, 10_000));
        assert!(makefile.choose(&[], &[b"x".to_vec()]).is_some_and(|(_, sure)| sure));
    }

    proptest::proptest! {
        #[test]
        fn any_makefile(content in proptest::collection::vec(proptest::sample::select(b"a:=\t\n\\;# $".to_vec()), 0..200)) {
            let words = vec![b"make".to_vec(), b"a".to_vec()];
            let _ = recipe(&content, &RecipeWanted { targets: Vec::new(), words });
        }
    }
}
