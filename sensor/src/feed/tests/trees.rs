//! Lists of trees, to whoever asks and to whoever watches.

use std::pin::pin;

use tokio_stream::StreamExt as _;

use super::*;

fn wish(limit: u32, cgroup: &str) -> proto::ListTreesRequest {
    proto::ListTreesRequest { limit, cgroup: cgroup.into(), ..Default::default() }
}

fn watch(limit: u32, interval_ms: u32) -> proto::WatchTreesRequest {
    proto::WatchTreesRequest { list: Some(wish(limit, "")), interval_ms }
}

#[test]
fn core_is_asked_once_for_all_who_want_the_same() {
    let mut feed = Feed::start();
    let _answers = feed.answer();
    let client = feed.client();
    feed.runtime.block_on(async {
        let list = |limit| {
            let mut client = client.clone();
            async move { client.list_trees(wish(limit, "")).await.unwrap().into_inner().list.unwrap() }
        };
        let all = [list(5), list(5), list(5)].map(|list| tokio::spawn(list));
        for one in all {
            assert_eq!(one.await.unwrap().processes, 1, "all of them the first answer");
        }
        assert_eq!((list(6).await.omitted, list(6).await.processes), (6, 2));
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert_eq!(list(5).await.processes, 3, "what is older is asked for again");

        let mut client = client.clone();
        let refused = client.list_trees(wish(1, "/none")).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound);
        let refused = client.list_trees(wish(101, "")).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
    });
}

#[test]
fn lists_come_as_often_as_wanted_and_a_slow_reader_gets_fewer() {
    let mut feed = Feed::start();
    let _answers = feed.answer();
    let mut client = feed.client();
    feed.runtime.block_on(async {
        for wrong in [999, 60_001] {
            let refused = client.watch_trees(watch(1, wrong)).await.unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument);
        }
        let began = Instant::now();
        let stream = client.watch_trees(watch(1, 1_000)).await.unwrap().into_inner();
        let lists: Vec<_> = pin!(stream.take(3)).collect().await;
        let seen = lists.into_iter().map(|answer| answer.unwrap().list.unwrap().processes);
        assert_eq!(seen.collect::<Vec<_>>(), [1, 2, 3]);
        assert!(began.elapsed() >= Duration::from_millis(1_900), "{:?}", began.elapsed());
    });
}
