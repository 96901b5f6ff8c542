//! The socket and whoever serves it: what a client is told where nobody does, what is replaced, who is started
//! again.

use tokio::sync::{broadcast, watch};

use super::*;

#[test]
fn serve_ends_with_its_link() {
    let mut feed = Feed::start();
    feed.client();
    feed.streams = None;
    feed.talk.abort();
    let server = feed.server.take().unwrap();
    let ended =
        feed.runtime.block_on(async { tokio::time::timeout(Duration::from_secs(5), server).await });
    assert!(ended.unwrap().unwrap().is_ok());
}

#[test]
fn errors_of_connecting_say_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let absent = directory.path().join("absent");
    let error = runtime.block_on(connect(&absent)).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "sensor is not running (no socket at {}): start it with `sensor run`; one with another \
             runtime_dir has its socket there: name it with --socket or SENSOR_SOCKET",
            absent.display()
        )
    );
    let stale = directory.path().join("stale");
    drop(UnixListener::bind(&stale).unwrap());
    let error = runtime.block_on(connect(&stale)).unwrap_err();
    assert!(matches!(error, ConnectError::Refused(_)), "{error}");
}

#[test]
fn only_a_socket_that_nobody_answers_at_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("new/sensor.sock");
    let listener = link::listen(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
    assert!(matches!(link::listen(&path), Err(LinkError::Taken(_))));
    drop(listener);
    assert!(fs::metadata(&path).unwrap().file_type().is_socket(), "left over");
    drop(link::listen(&path).unwrap());
    let file = directory.path().join("file");
    fs::write(&file, "precious").unwrap();
    assert!(matches!(link::listen(&file), Err(LinkError::NoSocket(_))));
    assert_eq!(fs::read(&file).unwrap(), b"precious");
}

#[test]
fn a_child_that_dies_is_started_again_and_the_end_is_quick() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("sensor.sock");
    let marks = directory.path().join("marks");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let _inside = runtime.enter();
    let file = marks.clone();
    let (tail, unwritten) = (watch::channel(0).1, broadcast::channel(1).0);
    let news = News::new(tail, unwritten);
    let (link, _questions) = Link::start_with(&socket, Arc::default(), news, move || {
        // Dies twice, then lives until its link is closed.
        let mut command = Command::new("sh");
        command.args(["-c", "echo x >>$0; [ $(wc -l <$0) -ge 3 ] || exit 7; exec cat >/dev/null"]);
        command.arg(&file);
        Ok(command)
    })
    .unwrap();
    let mut state = link.state();
    let until = Instant::now() + Duration::from_secs(10);
    let mut seen_down = false;
    while fs::read(&marks).map_or(0, |marks| marks.len()) < 6 {
        assert!(Instant::now() < until, "it was not started three times");
        seen_down |= state.borrow_and_update().detail.contains("exit status: 7");
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(seen_down, "the state says why it is down");
    while !link.state().borrow().ok {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(2));
    }
    let start = Instant::now();
    drop(link);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert!(!socket.exists());
}
