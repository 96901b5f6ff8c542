//! A shell as the culprit's user: of a person's, and of nobody else's.

use std::{fs, path::Path, process::Child};

use nix::sched::CloneFlags;
use serde_json::Value;
use tests::{
    Cage, Limits, Sensor,
    daemon::open_to_all,
    model::{Model, Step},
    names, needs,
    run::write_program,
    skip, test_name,
};

use crate::support::{CATCH, NOBODY, comes, id, idler, idler_with, opened};

/// Speaks as Claude Code does: says who it is, and with what it was started.
const AGENT: &str = r#"#!/bin/sh
cat >/dev/null
tell() { printf '%s\n' "$1"; }
tell '{"type":"system","subtype":"init","session_id":"s","tools":[],"mcp_servers":[]}'
shell=no
for word in "$@"; do case $word in *Bash*) shell=yes;; esac; done
tell '{"type":"assistant","message":{"id":"1","content":[{"type":"text","text":"uid '$(id -u)', groups '$(id -G)', shell '$shell'"}],"usage":{"input_tokens":1}}}'
tell '{"type":"result","subtype":"success","is_error":false,"num_turns":1,"result":"fine","total_cost_usd":0.0}'
"#;

/// A person of this host: uid and group.
fn person() -> Option<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let mut ids = users.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
    });
    ids.find(|(uid, gid)| (1000..60_000).contains(uid) && *gid != 0)
}

/// What the agent said of itself, and what the sensor did.
fn said(sensor: &Sensor, mut culprit: Child) -> (String, Vec<String>) {
    let incident = opened(sensor, culprit.id());
    let incident = id(&incident);
    sensor.output(&["investigate", incident, "--agent", "claude"]).unwrap();
    let over = || !sensor.show(incident).unwrap()["investigations"][0]["ended_at"].is_null();
    comes("the end of the run", CATCH, over);
    let mut watch = sensor.watch(0).unwrap();
    let end = |record: &Value| {
        record["incident"] == incident && !record["investigation"]["ended_at"].is_null()
    };
    watch.find(CATCH, end).unwrap();
    let (mut own, mut notes) = (String::new(), Vec::new());
    for arrival in watch.kill().into_iter().filter(|it| it.record["incident"] == incident) {
        let line = &arrival.record["transcript"];
        let text = line["text"].as_str().unwrap_or_default();
        if line["stream"] == "sensor" {
            notes.push(text.to_owned());
        } else if let Ok(event) = serde_json::from_str::<Value>(text)
            && let Some(text) = event["message"]["content"][0]["text"].as_str()
        {
            text.clone_into(&mut own);
        }
    }
    let _ = culprit.kill();
    culprit.wait().unwrap();
    (own, notes)
}

#[test]
fn a_shell_is_a_persons_and_never_roots_or_a_services() {
    needs!();
    let Some((uid, gid)) = person() else {
        skip::note(test_name!(), "no person has an account here");
        return;
    };
    let place = tempfile::tempdir().unwrap();
    open_to_all(place.path()).unwrap();
    let program = place.path().join(names::word());
    write_program(&program, AGENT).unwrap();
    let model = Model::start("", vec![Step::Hang]).unwrap();
    let config = format!(
        "[investigate]\nagent = \"none\"\n\n\
         [investigate.run]\nmemory_min_bytes = 0\naccess = \"shell\"\n\n\
         [investigate.claude]\nprogram = {program:?}\nendpoint = \"{url}\"\n",
        url = model.url(),
    );
    let cage = Cage::new(Limits::default()).unwrap();
    let sensor = Sensor::start(&cage, &config).unwrap();

    let root = Path::new("/");
    let (own, notes) = said(&sensor, idler(&cage, root, uid, gid));
    assert_eq!(own, format!("uid {uid}, groups {gid}, shell yes"), "{notes:#?}");
    let contained = idler_with(CloneFlags::CLONE_NEWNS, &cage, root, uid, gid);
    let (own, notes) = said(&sensor, contained);
    assert!(own.starts_with(&format!("uid {NOBODY}, ")) && own.ends_with("shell no"), "{own}");
    let why = "the culprit is in a container: its file systems are not the host's: ";
    assert!(notes.iter().any(|note| note.starts_with(why)), "{notes:#?}");
    for (uid, gid, why) in [
        (0, 0, "the culprit is root's: the agent has no shell, only its eye, and runs as nobody"),
        (1, 1, "the culprit is a service's, of user "),
        (NOBODY, NOBODY, "the culprit is a service's, of user nobody (uid 65534): "),
        (59_999, 59_999, "the culprit is uid 59999's, whom this host does not know: "),
    ] {
        let (own, notes) = said(&sensor, idler(&cage, root, uid, gid));
        assert!(own.starts_with(&format!("uid {NOBODY}, ")) && own.ends_with("shell no"), "{own}");
        assert!(notes.iter().any(|note| note.starts_with(why)), "{why}: {notes:#?}");
    }
}
