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
