//! Who may read and who may act, tried by clients of other users in processes of their own.

use super::*;

const SOCKET: &str = "SENSOR_TEST_SOCKET";

/// Starts this test binary again with one of its helpers, as another user.
fn as_nobody(name: &str, gid: u32, socket: &Path) -> String {
    let output = Command::new("/proc/self/exe")
        .args(["--exact", &format!("feed::tests::roles::{name}"), "--ignored", "--nocapture"])
        .env(SOCKET, socket)
        .uid(NOBODY)
        .gid(gid)
        .stderr(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().find(|line| line.starts_with("answers:")).unwrap_or(&text).to_owned()
}

#[test]
#[ignore = "helper that other tests start as a process of its own"]
fn stranger() {
    let Some(socket) = env::var_os(SOCKET) else { return };
    assert!(!is_root());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut client = connect(Path::new(&socket)).await.unwrap();
        let status = client.get_status(proto::GetStatusRequest {}).await.map(drop);
        let list = client.list_incidents(proto::ListIncidentsRequest::default()).await.map(drop);
        let records = read(&mut client, proto::StreamRecordsRequest::default(), 1).await.map(drop);
        let trees = client.list_trees(proto::ListTreesRequest::default()).await.map(drop);
        let watch = client.watch_trees(proto::WatchTreesRequest::default()).await.map(drop);
        let act = proto::ActRequest {
            id: "abc".into(),
            verb: proto::Verb::Kill as i32,
            why: String::new(),
        };
        let act = client.act(act).await.map(drop);
        let word = |result: &Result<(), Status>| match result {
            Ok(()) => "ok".to_owned(),
            Err(status) => format!("{:?}", status.code()),
        };
        let words = [&status, &list, &records, &trees, &watch, &act].map(word).join(" ");
        let why = act.err().map_or(String::new(), |status| status.message().to_owned());
        println!("\nanswers: {words}; {why}");
    });
}

#[test]
fn roles_decide_who_reads_and_who_acts() {
    if !is_root() {
        println!("SKIP roles_decide_who_reads_and_who_acts: needs root to become another user");
        return;
    }
    let mut feed = Feed::start();
    feed.flush();
    drop(feed.answer());
    let why = "uid 65534 may not act through sensor: use sudo, or have root run \
               `usermod -aG sensor-operators USER`";
    let denied = "PermissionDenied";
    assert_eq!(
        as_nobody("stranger", NOBODY, &feed.socket()),
        format!("answers: {}; {why}", [denied; 6].join(" "))
    );
    assert_eq!(
        as_nobody("stranger", READERS, &feed.socket()),
        format!("answers: ok ok ok ok ok {denied}; {why}")
    );
    assert_eq!(as_nobody("stranger", OPERATORS, &feed.socket()), "answers: ok ok ok ok ok ok; ");
}
