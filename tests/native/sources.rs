//! `read_source`: whatever stands in a culprit's directory, an investigator sees files of its project, with the
//! culprit's rights, in part, or a reason.

use std::{
    fs::{self, Permissions},
    os::unix::{
        fs::{PermissionsExt as _, symlink},
        net::UnixListener,
    },
    path::Path,
};

use nix::{
    sys::stat::{Mode, SFlag, makedev, mknod},
    unistd::mkfifo,
};
use serde_json::{Value, json};
use tests::{Cage, Limits, Sensor, daemon::open_to_all, needs};

use crate::support::{NOBODY, asked, id, idler, opened};

/// Where a sparse file ends that takes no room.
const HUGE: u64 = 10 << 30;

/// What is said of each of these: facts, and the texts that they name.
fn read(sensor: &Sensor, incident: &Value, paths: &[&str]) -> Vec<(Value, String)> {
    let arguments: Vec<Value> = paths.iter().map(|path| json!({"path": path})).collect();
    let answers = asked(sensor, id(incident), "read_source", &arguments);
    let said = |answer: &Value| {
        let said = &answer["structuredContent"];
        (said["facts"].clone(), said["texts"].as_str().unwrap_or_default().to_owned())
    };
    answers.iter().map(said).collect()
}

#[test]
fn only_plain_files_of_the_project_with_the_culprits_rights() {
    needs!();
    let place = tempfile::tempdir().unwrap();
    open_to_all(place.path()).unwrap();
    let app = place.path().join("app");
    fs::create_dir_all(app.join("sub")).unwrap();
    let at = |name: &str| app.join(name);
    fs::write(place.path().join("beside"), "beside").unwrap();
    fs::write(at("plain"), "plain text").unwrap();
    fs::write(at("sub/theirs"), "root alone reads this").unwrap();
    fs::set_permissions(at("sub/theirs"), Permissions::from_mode(0o600)).unwrap();
    fs::write(at(".env"), "TOKEN=x").unwrap();
    symlink("/etc/passwd", at("absolute")).unwrap();
    symlink("../beside", at("upward")).unwrap();
    symlink("..", at("sub/around")).unwrap();
    symlink("/proc/self/environ", at("kernel")).unwrap();
    symlink("/proc/1/root/etc/passwd", at("magic")).unwrap();
    symlink("/dev/zero", at("zeros")).unwrap();
    symlink("loop", at("loop")).unwrap();
    mkfifo(&at("pipe"), Mode::from_bits_truncate(0o666)).unwrap();
    let zero = makedev(1, 5);
    mknod(&at("device"), SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), zero).unwrap();
    let _socket = UnixListener::bind(at("socket")).unwrap();
    fs::File::create(at("huge")).unwrap().set_len(HUGE).unwrap();

    let cage = Cage::new(Limits::default()).unwrap();
    let sensor = Sensor::start(&cage, "").unwrap();
    let mut culprit = idler(&cage, &app, NOBODY, NOBODY);
    let incident = opened(&sensor, culprit.id());
    let beside = place.path().join("beside");
    let refused = [
        ("absolute", "a link that leads out of the project"),
        ("upward", "a link that leads out of the project"),
        ("sub/around/../beside", "not a plain absolute path"),
        ("kernel", "a link that leads out of the project"),
        ("magic", "a link that leads out of the project"),
        ("zeros", "a link that leads out of the project"),
        ("loop", "a link that leads out of the project"),
        ("pipe", "not a regular file"),
        ("device", "not a regular file"),
        ("socket", "not a regular file"),
        ("sub", "a directory"),
        ("sub/theirs", "its user may not read it"),
        (".env", "a file of this name holds secrets"),
        ("../beside", "not a plain absolute path"),
        ("/etc/passwd", "outside of the culprit's working directory"),
        ("/proc/1/environ", "outside of the culprit's working directory"),
        (beside.to_str().unwrap(), "outside of the culprit's working directory"),
    ];
    let paths: Vec<&str> = refused.iter().map(|(path, _)| *path).collect();
    for ((path, why), (facts, texts)) in refused.iter().zip(read(&sensor, &incident, &paths)) {
        assert_eq!(facts["state"], "refused", "{path}: {facts:#}");
        assert!(texts.contains(why), "{path}: {texts}");
        assert_eq!(facts["content"], Value::Null, "{path}");
    }
    let [plain, around, huge, absent] =
        &read(&sensor, &incident, &["plain", "sub/around/plain", "huge", "absent"])[..]
    else {
        panic!("four answers")
    };
    for (facts, texts) in [plain, around] {
        assert_eq!((&facts["state"], &facts["truncated"]), (&json!("present"), &json!(false)));
        assert!(texts.contains("plain text"), "{texts}");
    }
    assert_eq!((&huge.0["state"], &huge.0["truncated"]), (&json!("present"), &json!(true)));
    assert_eq!(huge.0["size_bytes"], HUGE);
    assert!(huge.1.len() < 1 << 20, "{} bytes", huge.1.len());
    assert_eq!(absent.0["state"], "absent");

    let mut elsewhere = idler(&cage, Path::new("/etc"), NOBODY, NOBODY);
    let incident = opened(&sensor, elsewhere.id());
    for (facts, texts) in read(&sensor, &incident, &["passwd", "/etc/passwd", "hostname"]) {
        assert_eq!(facts["state"], "refused", "{facts:#}");
        assert!(texts.contains("and not in a project"), "{texts}");
    }
    cage.clear().unwrap();
    for child in [&mut culprit, &mut elsewhere] {
        child.wait().unwrap();
    }
}
