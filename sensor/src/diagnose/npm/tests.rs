use proptest::prelude::*;

use super::*;

fn asked(line: &str) -> Option<(String, Verb, Option<String>)> {
    let argv: Vec<Vec<u8>> = line.split(' ').map(|part| part.as_bytes().to_vec()).collect();
    let folder = |folder: Vec<u8>| String::from_utf8(folder).unwrap();
    call(&argv).map(|call| (call.tool, call.verb, call.folder.map(folder)))
}

fn script_call(tool: &str, name: &str, folder: Option<&str>) -> (String, Verb, Option<String>) {
    (tool.to_owned(), Verb::Script(name.to_owned()), folder.map(str::to_owned))
}

#[test]
fn what_a_command_asks_for() {
    assert_eq!(asked("npm test"), Some(script_call("npm", "test", None)));
    assert_eq!(asked("npm t -- run x"), Some(script_call("npm", "test", None)));
    assert_eq!(
        asked("node /usr/bin/npm --prefix web run-script a"),
        Some(script_call("npm", "a", Some("web")))
    );
    assert_eq!(asked("npm run --prefix=web a"), Some(script_call("npm", "a", Some("web"))));
    assert_eq!(asked("npm -w pkg --loglevel silly start"), Some(script_call("npm", "start", None)));
    assert_eq!(asked("pnpm -C web build"), Some(script_call("pnpm", "build", Some("web"))));
    assert_eq!(asked("node .yarn/releases/yarn-4.1.0.cjs a"), Some(script_call("yarn", "a", None)));
    assert_eq!(
        asked("node /usr/lib/node_modules/corepack/dist/yarn.js run a"),
        Some(script_call("yarn", "a", None))
    );
    assert_eq!(asked("yarn"), Some(("yarn".to_owned(), Verb::Lifecycle, None)));
    assert_eq!(asked("npm ci"), Some(("npm".to_owned(), Verb::Lifecycle, None)));
    // bun's own test runner and bundler; npx runs no scripts; npm view does nothing; not the tool at all.
    for line in [
        "bun test",
        "bun build",
        "npx x",
        "npm view x",
        "npm",
        "npm run",
        "npmx test",
        "yarn-error.log x",
    ] {
        assert_eq!(asked(line), None, "{line}");
    }
}

#[test]
fn the_script_that_ran_is_known_by_its_text() {
    let json = serde_json::json!({"prea": "x", "a": "y", "posta": "y -z", "prepare": "npm link", "install": 3});
    let scripts = json.as_object().unwrap();
    let run = Verb::Script("a".to_owned());
    let ran = |verb: &Verb, shell: Option<&str>| {
        script(verb, scripts, shell.map(str::as_bytes)).map(|(event, _, seen)| (event, seen))
    };
    assert_eq!(ran(&run, Some("x")), Some(("prea".to_owned(), true)));
    assert_eq!(ran(&run, Some("y --more")), Some(("a".to_owned(), true)));
    assert_eq!(ran(&run, Some("yy")), Some(("a".to_owned(), false)));
    assert_eq!(ran(&run, None), Some(("a".to_owned(), false)));
    assert_eq!(ran(&Verb::Lifecycle, None), Some(("prepare".to_owned(), false)));
    assert_eq!(ran(&Verb::Script("b".to_owned()), None), None);
}

#[test]
fn the_line_of_a_script() {
    let content = b"{\n  \"a\": 1,\n  \"x\": \"\\\"b\\\"\",\n  \"b\" : \"c\"\n}";
    assert_eq!((line_of(content, "a"), line_of(content, "b"), line_of(content, "c")), (2, 4, 0));
}

proptest! {
    #[test]
    fn any_manifest(content in prop::collection::vec(any::<u8>(), 0..200), event in "\\PC{0,10}") {
        let _ = line_of(&content, &event);
        let _ = parse(Path::new("/"), String::new(), content);
    }
}
