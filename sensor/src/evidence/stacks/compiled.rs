//! What a runtime calls the functions that it compiles, as it tells perf: node's
//! `JS:*serve /srv/app.js:7:19`, python's `py::Store.hoard:/srv/app.py`. Taken apart into function, file and
//! line. The program chose all of it.

/// Kinds that V8 puts in front of functions; of others (stubs, regular expressions) the name is all there is.
const KINDS: [&[u8]; 5] = [b"JS:", b"LazyCompile:", b"Function:", b"Eval:", b"Script:"];

/// With which compiler V8 made it: one of these in front of the name.
const TIERS: &[u8] = b"*~^+'";

/// How a file begins, behind the blank that ends a function's name.
const FILES: [&[u8]; 4] = [b" /", b" node:", b" file:", b" ["];

/// What a function without a name is called.
const NAMELESS: &[u8] = b"(anonymous)";

/// A name, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Told<'a> {
    pub function: &'a [u8],
    pub file: &'a [u8],
    /// Where the function begins; 0: it does not say.
    pub line: u32,
}

pub(crate) fn told(name: &[u8]) -> Told<'_> {
    let whole = Told { function: name, file: b"", line: 0 };
    if let Some(rest) = name.strip_prefix(b"py::") {
        // A function's name has no colon.
        return match rest.iter().position(|byte| *byte == b':') {
            Some(at) => Told { function: &rest[..at], file: &rest[at + 1..], line: 0 },
            None => Told { function: rest, ..whole },
        };
    }
    let Some(rest) = KINDS.iter().find_map(|kind| name.strip_prefix(*kind)) else { return whole };
    let rest = rest.split_first().filter(|(tier, _)| TIERS.contains(tier)).map_or(rest, |it| it.1);
    let begins = |start: &[u8]| rest.windows(start.len()).position(|part| part == start);
    let Some(blank) = FILES.iter().filter_map(|start| begins(start)).min() else {
        return Told { function: named(rest), ..whole };
    };
    let (function, place) = (named(&rest[..blank]), &rest[blank + 1..]);
    match number_behind(place).and_then(|(place, _)| number_behind(place)) {
        Some((file, line)) => Told { function, file, line },
        None => Told { function, file: place, line: 0 },
    }
}

fn named(function: &[u8]) -> &[u8] {
    if function.is_empty() { NAMELESS } else { function }
}

/// `text:7` as `text` and 7.
fn number_behind(text: &[u8]) -> Option<(&[u8], u32)> {
    let colon = text.iter().rposition(|byte| *byte == b':')?;
    let digits = std::str::from_utf8(&text[colon + 1..]).ok()?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((&text[..colon], digits.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_node_and_python() {
        for (name, function, file, line) in [
            ("JS:*hoard /srv/a b.js:7:19", "hoard", "/srv/a b.js", 7),
            (
                "JS:^Module._extensions..js node:internal/loader:1604:37",
                "Module._extensions..js",
                "node:internal/loader",
                1604,
            ),
            ("JS:~ /srv/index.js:1:1", "(anonymous)", "/srv/index.js", 1),
            ("LazyCompile:*get size file:///srv/m.mjs:3:4", "get size", "file:///srv/m.mjs", 3),
            ("JS:~evaluated [eval]:1:40", "evaluated", "[eval]", 1),
            ("JS:*bare", "bare", "", 0),
            ("JS:*odd /srv/x", "odd", "/srv/x", 0),
            ("py::Cache.remember_all:/srv/leak.py", "Cache.remember_all", "/srv/leak.py", 0),
            ("RegExp:a /b:1:2", "RegExp:a /b:1:2", "", 0),
            ("BytecodeHandler:Ldar", "BytecodeHandler:Ldar", "", 0),
        ] {
            let (function, file) = (function.as_bytes(), file.as_bytes());
            assert_eq!(told(name.as_bytes()), Told { function, file, line }, "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_name(kind in "(JS:|py::|Eval:)?", rest in prop::collection::vec(any::<u8>(), 0..80)) {
            let name = [kind.as_bytes(), &rest].concat();
            let told = told(&name);
            prop_assert!(told.file.len() <= name.len() && !(name.len() > 4 && told.function.is_empty() && told.file.is_empty()));
        }
    }
}
