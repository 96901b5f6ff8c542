//! Lists of trees: core is asked once for all who want the same at the same time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use sensor_proto::internal::v1::{Ask, ask, tell};
use tokio::{
    sync::{Mutex as Turn, mpsc},
    time::MissedTickBehavior,
};
use tonic::Status;

use super::{
    connections::Ticket,
    core::Core,
    service::unexpected,
    stream::{self, Answers, Batch},
};
use crate::proto::{ListTreesRequest, TreeList, WatchTreesRequest, WatchTreesResponse};

/// Core counts once a second: nobody gets a list that is older by more than half of that.
const FRESH: Duration = Duration::from_millis(500);

/// From list to list, ms.
const INTERVAL_LEAST: u32 = 1_000;
const INTERVAL_MOST: u32 = 60_000;

pub(super) type TreeStream = Answers<WatchTreesResponse>;

/// Limit, order and cgroup.
type Wish = (u32, i32, String);

/// The newest list for a wish; whoever has its turn asks for the others, too.
type Newest = Arc<Turn<Option<(Instant, TreeList)>>>;

#[derive(Clone)]
pub(super) struct Lists {
    core: Core,
    known: Arc<Mutex<HashMap<Wish, Newest>>>,
}

impl Lists {
    pub fn new(core: Core) -> Self {
        Self { core, known: Arc::default() }
    }

    /// What core has listed a moment ago, or lists now. `ask`: who wants it, with the wish.
    async fn get(&self, ask: &Ask, wish: &ListTreesRequest) -> Result<TreeList, Status> {
        let newest = self.newest(wish);
        let mut newest = newest.lock().await;
        if let Some((at, list)) = &*newest
            && at.elapsed() < FRESH
        {
            return Ok(list.clone());
        }
        match self.core.ask(ask.clone()).await? {
            tell::What::Trees(list) => {
                *newest = Some((Instant::now(), list.clone()));
                Ok(list)
            }
            _ => Err(unexpected()),
        }
    }

    fn newest(&self, wish: &ListTreesRequest) -> Newest {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // What nobody is waiting for just now and nobody would take any more.
        known.retain(|_, newest| match newest.try_lock() {
            Ok(newest) => newest.as_ref().is_some_and(|(at, _)| at.elapsed() < FRESH),
            Err(_) => true,
        });
        let wish = (wish.limit, wish.order, wish.cgroup.clone());
        Arc::clone(known.entry(wish).or_default())
    }

    pub async fn list(&self, ask: Ask) -> Result<TreeList, Status> {
        match &ask.what {
            Some(ask::What::Trees(wish)) => self.get(&ask, wish).await,
            _ => Err(unexpected()),
        }
    }

    /// List after list, for as long as the client is there.
    pub fn watch(&self, ask: Ask, every: Duration, ticket: Ticket) -> TreeStream {
        let lists = self.clone();
        stream::answer(ticket, move |sender| lists.pump(ask, every, sender))
    }

    async fn pump(
        self,
        ask: Ask,
        every: Duration,
        sender: mpsc::Sender<Batch<WatchTreesResponse>>,
    ) -> Result<(), Status> {
        let mut tick = tokio::time::interval(every);
        // Who was slow gets the next list when it is due, and not those that it missed.
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                () = sender.closed() => return Ok(()),
                _ = tick.tick() => {}
            }
            // Room first: what is asked for then is sent at once.
            let Ok(room) = sender.reserve().await else { return Ok(()) };
            let list = self.list(ask.clone()).await?;
            room.send(Ok(vec![WatchTreesResponse { list: Some(list) }]));
        }
    }
}

/// What is wanted, and how often.
pub(super) fn wish(request: WatchTreesRequest) -> Result<(ListTreesRequest, Duration), Status> {
    let every = match request.interval_ms {
        0 => INTERVAL_LEAST,
        every @ INTERVAL_LEAST..=INTERVAL_MOST => every,
        _ => {
            return Err(Status::invalid_argument(
                "lists come every second to once a minute (interval_ms 1,000 to 60,000)",
            ));
        }
    };
    Ok((request.list.unwrap_or_default(), Duration::from_millis(every.into())))
}
