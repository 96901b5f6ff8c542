//! How often each client may ask: a bucket of requests that fills again with time.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use super::connections::Client;

/// Requests a second, root excepted. Reading incidents and records without end needs one stream; a script
/// that asks in a loop of shell commands makes some 30.
const PER_SECOND: f64 = 50.0;

/// At once, after a pause.
const BURST: f64 = 100.0;

/// Clients that are remembered before those are forgotten who have paused for long enough.
const REMEMBERED: usize = 1_024;

#[derive(Debug, Default)]
pub(super) struct Pace(Mutex<HashMap<Client, Bucket>>);

#[derive(Clone, Copy, Debug)]
struct Bucket {
    requests: f64,
    at: Instant,
}

impl Bucket {
    fn now(self, now: Instant) -> Self {
        let filled = now.saturating_duration_since(self.at).as_secs_f64() * PER_SECOND;
        Self { requests: (self.requests + filled).min(BURST), at: now }
    }
}

impl Pace {
    /// Whether this client may ask once more now.
    pub fn admits(&self, client: &Client, now: Instant) -> bool {
        if *client == Client::ROOT {
            return true;
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.retain(|_, bucket| bucket.now(now).requests < BURST);
        }
        let full = Bucket { requests: BURST, at: now };
        let mut bucket = known.get(client).copied().unwrap_or(full).now(now);
        let admitted = bucket.requests >= 1.0;
        if admitted {
            bucket.requests -= 1.0;
        }
        known.insert(client.clone(), bucket);
        admitted
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_asks_without_end_is_slowed_down_alone() {
        let (pace, start) = (Pace::default(), Instant::now());
        let admitted = |uid, after, count: u32| {
            let now = start + Duration::from_millis(after);
            (0..count).filter(|_| pace.admits(&Client::User(uid), now)).count()
        };
        assert_eq!(admitted(7, 0, 1_000), 100);
        assert_eq!(admitted(7, 1_000, 1_000), 50);
        assert_eq!(admitted(7, 1_010, 1_000), 0);
        assert_eq!(admitted(8, 1_010, 1_000), 100);
        assert_eq!(admitted(0, 1_010, 1_000), 1_000);
        assert_eq!(admitted(7, 3_600_000, 1_000), 100);
    }

    #[test]
    fn who_pauses_is_forgotten() {
        let (pace, start) = (Pace::default(), Instant::now());
        for uid in 1..=5_000 {
            assert!(pace.admits(&Client::User(uid), start + Duration::from_millis(u64::from(uid))));
        }
        assert!(pace.0.lock().unwrap().len() <= REMEMBERED);
    }
}
