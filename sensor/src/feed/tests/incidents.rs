//! Incidents as they change, to whoever watches them.

use proto::{Severity, State};

use super::*;

fn transition(id: &str, state: State, severity: Severity, at_s: i64) -> Draft {
    let incident = proto::Incident {
        id: id.into(),
        kind: proto::Kind::Recursion as i32,
        state: state as i32,
        severity: severity as i32,
        opened_at: Some(prost_types::Timestamp { seconds: at_s, nanos: 0 }),
        ..Default::default()
    };
    let transition =
        proto::Transition { to: state as i32, incident: Some(incident), ..Default::default() };
    Draft::of(id, Body::Transition(transition))
}

/// The next that is told: id and state.
async fn next(
    stream: &mut tonic::Streaming<proto::WatchIncidentsResponse>,
) -> (String, State, u64) {
    let told = stream.message().await.unwrap().unwrap();
    let incident = told.incident.unwrap();
    (incident.id.clone(), incident.state(), told.next_seq)
}

#[test]
fn who_watches_is_told_of_all_then_of_changes_and_may_go_on_later() {
    let feed = Feed::start();
    let append = |draft| feed.log.append_durable(draft).wait().unwrap();
    append(transition("older", State::Resolved, Severity::Warning, 1));
    append(transition("newer", State::Open, Severity::Critical, 2));
    let mut client = feed.client();
    feed.runtime.block_on(async {
        let all = proto::WatchIncidentsRequest::default();
        let mut stream = client.watch_incidents(all).await.unwrap().into_inner();
        assert_eq!(next(&mut stream).await, ("older".into(), State::Resolved, 3));
        let (id, state, seq) = next(&mut stream).await;
        assert_eq!((id.as_str(), state), ("newer", State::Open));

        feed.log.append(transition("newer", State::Contained, Severity::Critical, 2));
        assert_eq!(next(&mut stream).await.1, State::Contained);
        drop(stream);

        // What happened meanwhile, and nothing else.
        feed.log.append(transition("third", State::Open, Severity::Info, 3));
        let later = proto::WatchIncidentsRequest { from_seq: seq, ..Default::default() };
        let mut stream = client.watch_incidents(later).await.unwrap().into_inner();
        let told = [next(&mut stream).await.0, next(&mut stream).await.0];
        assert_eq!(told, ["newer", "third"]);
    });
}

#[test]
fn one_that_no_longer_fits_is_told_once_more() {
    let feed = Feed::start();
    let append = |draft| feed.log.append_durable(draft).wait().unwrap();
    append(transition("mild", State::Open, Severity::Info, 1));
    append(transition("bad", State::Open, Severity::Critical, 2));
    let mut client = feed.client();
    feed.runtime.block_on(async {
        let open = proto::WatchIncidentsRequest {
            state: State::Open as i32,
            severity: Severity::Warning as i32,
            ..Default::default()
        };
        let mut stream = client.watch_incidents(open).await.unwrap().into_inner();
        assert_eq!(next(&mut stream).await.0, "bad");
        feed.log.append(transition("bad", State::Resolved, Severity::Critical, 2));
        let (id, state, _) = next(&mut stream).await;
        assert_eq!((id.as_str(), state), ("bad", State::Resolved));
        feed.log.append(transition("bad", State::Resolved, Severity::Critical, 2));
        feed.log.append(transition("mild", State::Contained, Severity::Info, 1));
        feed.log.append(transition("last", State::Open, Severity::Warning, 3));
        assert_eq!(next(&mut stream).await.0, "last");

        let unknown = proto::WatchIncidentsRequest { kind: 99, ..Default::default() };
        let refused = client.watch_incidents(unknown).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
    });
}

/// Somebody holds the log's write lock against the contract: to the log, a disk that fails.
fn obstruct(feed: &Feed) -> rusqlite::Connection {
    let other = rusqlite::Connection::open(feed.directory.path().join("state/log.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    other
}

#[test]
fn what_cannot_be_written_is_told_all_the_same() {
    let mut feed = Feed::start();
    let _askers = feed.answer();
    let append = |draft| feed.log.append_durable(draft).wait();
    append(transition("written", State::Open, Severity::Warning, 1)).unwrap();
    let mut client = feed.client();
    feed.runtime.block_on(async {
        let all = proto::WatchIncidentsRequest::default();
        let mut incidents = client.watch_incidents(all).await.unwrap().into_inner();
        assert_eq!(next(&mut incidents).await.0, "written");
        let mut records = client.stream_records(following(2)).await.unwrap().into_inner();

        let other = obstruct(&feed);
        feed.log.append(transition("waiting", State::Open, Severity::Warning, 2));
        let (id, _, go_on) = next(&mut incidents).await;
        assert_eq!((id.as_str(), go_on), ("waiting", 2), "it is not in the log yet");
        let record = records.message().await.unwrap().unwrap().record.unwrap();
        assert_eq!((record.seq, record.incident.as_str()), (0, "waiting"));
        assert!(!record.log_id.is_empty() && !record.boot_id.is_empty());
        assert!(!feed.log.health().borrow().ok);

        // Core knows more than the log, and is asked.
        let failing = proto::PartStatus { part: "record".into(), ..Default::default() };
        feed.news.parts.send_replace(vec![failing]);
        let list = proto::ListIncidentsRequest::default;
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let answer = client.list_incidents(list()).await.unwrap().into_inner();
            let ids: Vec<_> = answer.incidents.iter().map(|it| it.id.as_str()).collect();
            if ids == ["written", "held"] {
                break;
            }
            assert!(Instant::now() < until, "{ids:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let request = proto::GetIncidentRequest { id: "hel".into() };
        let held = client.get_incident(request).await.unwrap().into_inner().incident.unwrap();
        assert_eq!(held.id, "held");

        other.execute_batch("ROLLBACK").unwrap();
        loop {
            let record = records.message().await.unwrap().unwrap().record.unwrap();
            if record.seq != 0 && record.incident == "waiting" {
                break;
            }
        }
        assert_eq!(next(&mut incidents).await.0, "waiting", "now as the log has it");
    });
}
