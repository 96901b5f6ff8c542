//! Core's end of the webhooks: reads what only root may, keeps `sensor deliver` running, and says in
//! records and in the status how it goes.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File},
    io::{self, Read as _},
    os::unix::{
        fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown, lchown},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    process::Command,
};

use prost::Message as _;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use sensor_proto::internal::v1::{
    self as internal, Account, Delivery, Errand, Tail, WebhookFormat, account, errand,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use super::{
    cursors,
    delivery::{PART, REFUSED},
    signature::{self, KeyError},
};
use crate::{
    config::webhook::{Format, From as Beginning, Webhook},
    feed::{
        frames,
        supervisor::{self, Supervisor},
    },
    present::text::count,
    proto,
};

/// Keys have some 100 bytes, a list of authorities some 200 KiB.
const FILE_MAX: u64 = 1 << 20;

/// Of what `deliver` is told first, bytes: it goes in one frame, with its envelope.
const ERRAND_MAX: usize = frames::FRAME_MAX - 64;

/// What is told about webhooks and waits for the desk.
const WORDS: usize = 16;

#[derive(Debug, thiserror::Error)]
pub enum WebhooksError {
    #[error("cannot read {path} (webhook {webhook}): {source}")]
    Read { webhook: String, path: PathBuf, source: io::Error },
    #[error("{path} (webhook {webhook}) is larger than 1 MiB: it is some other file")]
    Large { webhook: String, path: PathBuf },
    #[error("{path} (webhook {webhook}): {source}")]
    Key { webhook: String, path: PathBuf, source: KeyError },
    #[error(
        "everybody may read {path} (webhook {webhook}), and sign with it: make it root's alone \
         (chmod 0600)"
    )]
    Open { webhook: String, path: PathBuf },
    #[error("{path} (webhook {webhook}) has no certificate in PEM")]
    Authority { webhook: String, path: PathBuf },
    #[error("the authorities of all webhooks (ca) have more than 4 MiB together")]
    Authorities,
    #[error("cannot prepare {path}, where webhooks keep how far they got: {source}")]
    Cursors { path: PathBuf, source: io::Error },
    #[error("cannot start the thread that looks after `sensor deliver`: {0}")]
    Supervisor(io::Error),
}

#[derive(Clone, Debug)]
pub struct WebhooksOptions<'a> {
    /// The program that has the verb `deliver`.
    pub program: &'a Path,
    pub webhooks: &'a [Webhook],
    /// Directory of the log, which `deliver` reads.
    pub state_dir: &'a Path,
    /// (uid, gid) that `deliver` becomes; none: it stays what core is.
    pub user: Option<(u32, u32)>,
    /// Where a webhook that is new begins: the log, and the number in it.
    pub begin: (&'a str, u64),
    /// Boot clock when the daemon came up, ns.
    pub started_ns: u64,
}

/// What core is told.
#[derive(Debug, PartialEq)]
pub enum Told {
    Degraded(proto::Degraded),
    Lost(proto::Lost),
    /// The log was found damaged.
    Damage,
}

/// Handle of the webhooks; dropping it ends `deliver`.
pub struct Webhooks {
    tail: watch::Sender<u64>,
    part: watch::Receiver<proto::PartStatus>,
    /// Somebody waits for a sign of life.
    beats: bool,
    supervisor: Supervisor,
    talk: JoinHandle<()>,
}

impl Webhooks {
    /// Starts `deliver`; none: no webhook is configured. What it has to say comes out of the channel.
    /// To be called inside a tokio runtime.
    pub fn start(
        options: &WebhooksOptions<'_>,
    ) -> Result<(Option<Self>, mpsc::Receiver<Told>), WebhooksError> {
        let (words, told) = mpsc::channel(WORDS);
        if options.webhooks.is_empty() {
            return Ok((None, told));
        }
        let webhooks = internal::Webhooks {
            webhooks: options.webhooks.iter().map(known).collect::<Result<_, _>>()?,
            begin_log_id: options.begin.0.to_owned(),
            begin_seq: options.begin.1,
            started_ns: options.started_ns,
        };
        if webhooks.encoded_len() > ERRAND_MAX {
            return Err(WebhooksError::Authorities);
        }
        let (path, user) = (cursors(options.state_dir), options.user);
        let prepare = move || {
            let failed = |source| WebhooksError::Cursors { path: path.clone(), source };
            prepare(&path, user).map_err(failed)
        };
        prepare()?;
        let arguments = supervisor::arguments("deliver", options.state_dir, options.user);
        let program = options.program.to_owned();
        let program = move || {
            // The directory may be another one by now.
            prepare().map_err(io::Error::other)?;
            let mut command = Command::new(&program);
            command.args(&arguments);
            Ok(command)
        };
        let (supervisor, streams) =
            Supervisor::start("deliver", PART, program).map_err(WebhooksError::Supervisor)?;
        let tail = watch::Sender::default();
        let mut accounts = Accounts::default();
        let (shown, part) = watch::channel(accounts.part(&supervisor.state().borrow()));
        let (mut state, tail_now) = (supervisor.state(), tail.subscribe());
        let talk = tokio::spawn(async move {
            let (heard, mut news) = mpsc::channel(WORDS);
            let talk = talk(streams, webhooks, tail_now, heard);
            tokio::pin!(talk);
            loop {
                tokio::select! {
                    () = &mut talk => return,
                    Ok(()) = state.changed() => {}
                    Some(account) = news.recv() => {
                        for word in accounts.hear(account) {
                            // core is going down when it takes no more.
                            let _ = words.send(word).await;
                        }
                    }
                }
                shown.send_replace(accounts.part(&state.borrow()));
            }
        });
        let beats = options.webhooks.iter().any(|webhook| !webhook.heartbeat.url.is_empty());
        Ok((Some(Self { tail, part, beats, supervisor, talk }), told))
    }

    /// Records up to this number can be read.
    pub fn set_tail(&self, seq: u64) {
        self.tail.send_replace(seq);
    }

    /// core works; to be said each second.
    pub fn alive(&self) {
        if self.beats {
            self.tail.send_modify(|_| {});
        }
    }

    /// How it goes.
    pub fn part(&self) -> watch::Receiver<proto::PartStatus> {
        self.part.clone()
    }
}

impl Drop for Webhooks {
    fn drop(&mut self) {
        self.talk.abort();
        self.supervisor.end();
    }
}

/// Talks with one `deliver` after another.
async fn talk(
    mut streams: mpsc::Receiver<UnixStream>,
    webhooks: internal::Webhooks,
    mut tail: watch::Receiver<u64>,
    heard: mpsc::Sender<Account>,
) {
    while let Some(stream) = streams.recv().await {
        let stream =
            stream.set_nonblocking(true).and_then(|()| tokio::net::UnixStream::from_std(stream));
        let (mut incoming, mut outgoing) = match stream {
            Ok(stream) => frames::split::<Account, Errand>(stream),
            Err(error) => {
                tracing::error!("the link to deliver cannot be used: {error}");
                continue;
            }
        };
        let says = async {
            let what = Some(errand::What::Webhooks(webhooks.clone()));
            outgoing.send(&Errand { what }).await?;
            tail.mark_changed();
            while tail.changed().await.is_ok() {
                let seq = *tail.borrow_and_update();
                outgoing.send(&Errand { what: Some(errand::What::Tail(Tail { seq })) }).await?;
            }
            Ok::<_, io::Error>(())
        };
        let hears = async {
            while let Some(account) = incoming.next().await? {
                let _ = heard.send(account).await;
            }
            Ok(())
        };
        // Whichever ends first, the link is closed, `deliver` ends and a new one comes.
        let result = tokio::select! {
            result = says => result,
            result = hears => result,
        };
        if let Err(error) = result {
            tracing::warn!("the link to deliver broke: {error}");
        }
    }
}

/// What is known of each webhook.
#[derive(Default)]
struct Accounts(BTreeMap<String, State>);

#[derive(Default)]
struct State {
    delivery: Delivery,
    /// Why the last heartbeat did not arrive.
    heartbeat: String,
}

impl Accounts {
    /// What is to be recorded of it: an outage and its end once each, whoever delivered meanwhile.
    fn hear(&mut self, account: Account) -> Vec<Told> {
        let Account { webhook, what } = account;
        let state = self.0.entry(webhook.clone()).or_default();
        let mut now = match what {
            Some(account::What::Delivery(now)) => now,
            Some(account::What::Beat(beat)) => {
                state.heartbeat = beat.why;
                return Vec::new();
            }
            Some(account::What::Damage(_)) => return vec![Told::Damage],
            None => return Vec::new(),
        };
        let failed = state.delivery.failing;
        // One that was started anew has tried once or twice.
        now.failing |= failed && !now.why.is_empty();
        let degraded = |why: String, recovered| {
            tracing::warn!("{why}");
            Told::Degraded(proto::Degraded { part: PART.into(), why, recovered })
        };
        let mut records = Vec::new();
        if now.failing && !failed {
            records.push(degraded(format!("{webhook} gets nothing: {}", now.why), false));
        }
        if !now.failing && failed {
            let waiting = now.waiting;
            records.push(degraded(format!("{webhook} gets records again, {waiting} wait"), true));
        }
        if !now.failing && now.refused > 0 {
            let lost = proto::Lost { reason: REFUSED.into(), count: now.refused };
            records.push(Told::Lost(lost));
        }
        state.delivery = now;
        records
    }

    /// Of all together.
    fn part(&self, supervisor: &proto::PartStatus) -> proto::PartStatus {
        if !supervisor.ok {
            return supervisor.clone();
        }
        let mut details = Vec::new();
        for (webhook, State { delivery, heartbeat }) in &self.0 {
            let waiting = count(delivery.waiting, "record waits", "records wait");
            match (delivery.why.is_empty(), delivery.waiting) {
                (true, 0) => {}
                (true, _) => details.push(format!("{webhook}: {waiting}")),
                (false, _) => details.push(format!("{webhook}: {}, {waiting}", delivery.why)),
            }
            if !heartbeat.is_empty() {
                details.push(format!("{webhook}: no heartbeat: {heartbeat}"));
            }
        }
        let ok = self.0.values().all(|state| !state.delivery.failing && state.heartbeat.is_empty());
        proto::PartStatus { part: PART.into(), ok, detail: details.join("; ") }
    }
}

/// A webhook with the contents of its files.
fn known(webhook: &Webhook) -> Result<internal::Webhook, WebhooksError> {
    let name = || webhook.name.clone();
    let mut keys = Vec::new();
    if let Some(path) = set(&webhook.secret_file) {
        let (bytes, mode) = read(&webhook.name, path)?;
        if mode & 0o004 != 0 {
            return Err(WebhooksError::Open { webhook: name(), path: path.into() });
        }
        keys = signature::keys(&String::from_utf8_lossy(&bytes))
            .map_err(|source| WebhooksError::Key { webhook: name(), path: path.into(), source })?;
    }
    let mut ca = Vec::new();
    if let Some(path) = set(&webhook.ca) {
        (ca, _) = read(&webhook.name, path)?;
        let mut found = CertificateDer::pem_slice_iter(&ca).peekable();
        if found.peek().is_none() || found.any(|one| one.is_err()) {
            return Err(WebhooksError::Authority { webhook: name(), path: path.into() });
        }
    }
    let heartbeat = &webhook.heartbeat;
    Ok(internal::Webhook {
        name: name(),
        url: webhook.url.clone(),
        format: match webhook.format {
            Format::CloudEvents => WebhookFormat::Cloudevents,
            Format::AgentMessages => WebhookFormat::AgentMessages,
        }
        .into(),
        oldest: webhook.from == Beginning::Oldest,
        kinds: webhook.kinds.clone(),
        severity: webhook.severity.least().map_or(0, Into::into),
        lane: webhook.lane.only().map_or(0, Into::into),
        keys,
        ca,
        timeout_s: webhook.timeout_s,
        max_pause_s: webhook.max_pause_s,
        give_up_s: webhook.give_up_s,
        heartbeat: (!heartbeat.url.is_empty()).then(|| internal::Heartbeat {
            url: heartbeat.url.clone(),
            every_s: heartbeat.every_s,
            name: heartbeat.name.clone(),
        }),
    })
}

fn set(path: &Path) -> Option<&Path> {
    (!path.as_os_str().is_empty()).then_some(path)
}

/// Bytes and permissions of a file.
fn read(webhook: &str, path: &Path) -> Result<(Vec<u8>, u32), WebhooksError> {
    let failed =
        |source| WebhooksError::Read { webhook: webhook.into(), path: path.into(), source };
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode();
    let mut bytes = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(WebhooksError::Large { webhook: webhook.into(), path: path.into() });
    }
    Ok((bytes, mode))
}

/// Makes the directory of the cursors, for this user alone.
fn prepare(path: &Path, user: Option<(u32, u32)>) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let found = fs::symlink_metadata(path)?;
    if !found.is_dir() {
        return Err(io::Error::other("it is no directory"));
    }
    let Some((uid, gid)) = user else { return Ok(()) };
    if (found.uid(), found.gid()) == (uid, gid) {
        return Ok(());
    }
    // feed.user was another one before. What has a second name may be somebody else's file.
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let file = entry.metadata()?;
        if file.is_file() && file.nlink() == 1 {
            lchown(entry.path(), Some(uid), Some(gid))?;
        }
    }
    chown(path, Some(uid), Some(gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(delivery: Delivery) -> Account {
        Account { webhook: "board".into(), what: Some(account::What::Delivery(delivery)) }
    }

    fn failed(failing: bool) -> Delivery {
        Delivery { failing, why: "it answers 500".into(), waiting: 3, refused: 0 }
    }

    fn running() -> proto::PartStatus {
        proto::PartStatus { part: PART.into(), ok: true, detail: String::new() }
    }

    #[test]
    fn an_outage_is_recorded_once_whoever_delivers() {
        let mut accounts = Accounts::default();
        assert_eq!(accounts.hear(account(failed(false))), []);
        assert!(accounts.part(&running()).ok, "two tries are no outage");
        let [Told::Degraded(degraded)] = &accounts.hear(account(failed(true)))[..] else {
            panic!("one record")
        };
        assert_eq!(degraded.why, "board gets nothing: it answers 500");
        let part = accounts.part(&running());
        assert_eq!((part.ok, &*part.detail), (false, "board: it answers 500, 3 records wait"));
        // The next process has tried once.
        assert_eq!(accounts.hear(account(failed(false))), []);
        assert_eq!(accounts.hear(account(failed(true))), []);
        let back = Delivery { waiting: 2, refused: 1, ..Delivery::default() };
        let told = accounts.hear(account(back));
        let [Told::Degraded(degraded), Told::Lost(lost)] = &told[..] else { panic!("two records") };
        assert!(degraded.recovered);
        assert_eq!((&*lost.reason, lost.count), ("webhook_refused", 1));
        let part = accounts.part(&running());
        assert_eq!((part.ok, &*part.detail), (true, "board: 2 records wait"));
        assert_eq!(accounts.hear(account(Delivery::default())), []);
        assert_eq!(accounts.part(&running()), running());
    }

    #[test]
    fn a_heartbeat_that_does_not_arrive_is_seen() {
        let mut accounts = Accounts::default();
        for (why, ok) in [("it answers 404", false), ("", true)] {
            let beat = account::What::Beat(internal::Beat { why: why.into() });
            assert_eq!(accounts.hear(Account { webhook: "board".into(), what: Some(beat) }), []);
            assert_eq!(accounts.part(&running()).ok, ok);
        }
    }

    #[test]
    fn files_are_read_and_looked_at() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let refused = |text: &str, mode: u32, webhook: &Webhook| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            known(webhook).unwrap_err().to_string()
        };
        let signed = Webhook { secret_file: path.clone(), ..Webhook::default() };
        assert!(refused("secret", 0o600, &signed).contains("line 1 is no key"));
        assert!(refused("secret", 0o604, &signed).contains("chmod 0600"));
        assert!(refused(&"x".repeat(1 << 21), 0o600, &signed).contains("larger than 1 MiB"));
        let private = Webhook { ca: path.clone(), ..Webhook::default() };
        assert!(refused("-----BEGIN", 0o644, &private).contains("no certificate"));
        fs::remove_file(&path).unwrap();
        assert!(known(&private).unwrap_err().to_string().contains("No such file"));
    }

    #[test]
    fn cursors_follow_their_user() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIP cursors_follow_their_user: needs root to give files away");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("webhooks");
        prepare(&path, Some((65_534, 65_534))).unwrap();
        let owner = |path: &Path| fs::symlink_metadata(path).unwrap().uid();
        assert_eq!(owner(&path), 65_534);
        let (cursor, secret) = (path.join("board"), directory.path().join("secret"));
        fs::write(&cursor, "x").unwrap();
        fs::write(&secret, "x").unwrap();
        fs::hard_link(&secret, path.join("trap")).unwrap();
        std::os::unix::fs::symlink(&secret, path.join("link")).unwrap();
        prepare(&path, Some((65_533, 65_533))).unwrap();
        assert_eq!([&path, &cursor, &secret].map(|path| owner(path)), [65_533, 65_533, 0]);

        fs::remove_dir_all(&path).unwrap();
        std::os::unix::fs::symlink(directory.path(), &path).unwrap();
        assert!(prepare(&path, Some((65_534, 65_534))).is_err());
    }
}
