//! A daemon that clients on other hosts reach: certificates made by `sensor certs`, roles by name, renewal
//! under way.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tests::{Cage, Limits, Sensor, needs, run::until, target, workloads::script};

use crate::support::{id, stands_still};

/// Certificates are looked at every 5 s.
const RENEWED: Duration = Duration::from_secs(20);

fn certs(dir: &Path, more: &[&str]) {
    let mut command = Command::new(target::sensor().unwrap());
    command.arg("certs").arg(dir).args(more);
    let made = command.output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

struct Remote {
    sensor: Sensor,
    port: u16,
    tls: tempfile::TempDir,
}

impl Remote {
    fn start(cage: &Cage) -> Self {
        let tls = tempfile::tempdir().unwrap();
        let (dir, port) = (tls.path().join("tls"), free_port());
        issue(&dir);
        let config = format!(
            "[feed.tcp]\nlisten = \"127.0.0.1:{port}\"\ncertificate = \"{0}/server.pem\"\n\
             key = \"{0}/server.key\"\nclient_ca = \"{0}/ca.pem\"\n\
             readers = [\"board.example\"]\noperators = [\"ada.example\"]\n",
            dir.display()
        );
        Self { sensor: Sensor::start(cage, &config).unwrap(), port, tls }
    }

    /// `sensor` as somebody else on another host would call it.
    fn call(&self, client: &str, arguments: &[&str]) -> Output {
        self.call_from(&self.tls.path().join("tls"), client, arguments)
    }

    fn call_from(&self, dir: &Path, client: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(self.sensor.binary());
        command.env_remove("SENSOR_SOCKET");
        command.args(["--socket", &format!("https://localhost:{}", self.port), "--tls"]);
        command.arg(dir.join("clients").join(client)).args(arguments);
        command.output().unwrap()
    }
}

fn issue(dir: &Path) {
    let clients =
        ["--client", "ada.example", "--client", "board.example", "--client", "eve.example"];
    certs(dir, &["--server", "localhost"]);
    certs(dir, &clients);
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn clients_on_other_hosts_do_what_their_names_allow() {
    needs!();
    let cage = Cage::new(Limits::default()).unwrap();
    let remote = Remote::start(&cage);
    let status = remote.call("board.example", &["status"]);
    assert!(status.status.success(), "{}", said(&status));

    let (work, _) = script::ticker().unwrap();
    let running = work.start(&cage).unwrap();
    let pid = running.pid().to_string();
    let opened =
        remote.call("ada.example", &["trigger", "--pid", &pid, "--why", "far away", "--json"]);
    assert!(opened.status.success(), "{}", said(&opened));
    let incident: serde_json::Value = serde_json::from_slice(&opened.stdout).unwrap();
    let frozen = remote.call("ada.example", &["freeze", id(&incident), "--yes"]);
    assert!(frozen.status.success(), "{}", said(&frozen));
    stands_still(&cage);
    let shown = remote.sensor.show(id(&incident)).unwrap();
    let by = shown["actions"].as_array().unwrap().iter().find(|one| one["kind"] == "freeze");
    assert_eq!(by.unwrap()["by"], "ada.example (by its certificate)", "{shown:#}");

    let thawed = remote.call("board.example", &["thaw", id(&incident)]);
    assert_eq!(thawed.status.code(), Some(1));
    assert!(said(&thawed).contains("board.example may not act"), "{}", said(&thawed));
    stands_still(&cage);
    let top = remote.call("board.example", &["top", "--once"]);
    assert!(String::from_utf8_lossy(&top.stdout).contains("COMMAND"), "{}", said(&top));

    let refused = remote.call("eve.example", &["incidents"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("eve.example may not read"), "{}", said(&refused));
    assert!(remote.call("ada.example", &["thaw", id(&incident)]).status.success());
}

#[test]
fn certificates_are_renewed_under_way_and_serve_may_die() {
    needs!();
    let cage = Cage::new(Limits::default()).unwrap();
    let remote = Remote::start(&cage);
    let works = |dir: &Path| remote.call_from(dir, "board.example", &["status"]).status.success();
    let (dir, old) = (remote.tls.path().join("tls"), remote.tls.path().join("old"));
    assert!(works(&dir));

    // A new authority, and with it new certificates for all.
    fs::rename(&dir, &old).unwrap();
    issue(&dir);
    assert!(until(RENEWED, || works(&dir)), "{}", remote.sensor.log_tail());
    assert!(!works(&old), "the old authority counts no more");

    // What is of no use is not taken.
    fs::write(dir.join("server.pem"), "nothing").unwrap();
    assert!(until(RENEWED, || remote.sensor.log_tail().contains("TLS stays as it was")));
    assert!(works(&dir));

    for serve in remote.sensor.processes_of("serve") {
        kill(Pid::from_raw(serve.try_into().unwrap()), Signal::SIGKILL).unwrap();
    }
    assert!(until(RENEWED, || works(&dir)), "{}", remote.sensor.log_tail());
}
