//! Clients on other hosts: who is let in, who may do what, and that rude ones disturb nobody.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    time::SystemTime,
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use sensor_proto::internal::v1::Tls;

use super::*;

const DAY: Duration = Duration::from_hours(24);

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// (certificate, key) for a name, valid around now or expired.
fn issued(
    by: &Authority,
    names: &[&str],
    purpose: ExtendedKeyUsagePurpose,
    expired: bool,
) -> (String, String) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.extended_key_usages = vec![purpose];
    let now = SystemTime::now();
    params.not_before = (now - 2 * DAY).into();
    params.not_after = (if expired { now - DAY } else { now + DAY }).into();
    let key = KeyPair::generate().unwrap();
    (params.signed_by(&key, by).unwrap().pem(), key.serialize_pem())
}

fn server_of(authority: &Authority) -> Tls {
    let (certificate, key) =
        issued(authority, &["localhost"], ExtendedKeyUsagePurpose::ServerAuth, false);
    let Named { readers, operators } = named();
    Tls {
        certificate: certificate.into(),
        key: key.into(),
        client_ca: authority.pem().into(),
        readers,
        operators,
    }
}

/// A client's folder.
fn folder(trusts: &Authority, (certificate, key): &(String, String)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("ca.pem"), trusts.pem()).unwrap();
    fs::write(folder.path().join("client.pem"), certificate).unwrap();
    fs::write(folder.path().join("client.key"), key).unwrap();
    folder
}

fn client_of(authority: &Authority, names: &[&str]) -> (String, String) {
    issued(authority, names, ExtendedKeyUsagePurpose::ClientAuth, false)
}

impl Feed {
    /// The status, as a client with this folder gets it; an error's code is none where it was not let
    /// in at all.
    fn status_of(&self, folder: &tempfile::TempDir) -> Result<String, Option<Code>> {
        self.runtime.block_on(async {
            let mut client = self.remote_client(folder).await.map_err(|_| None)?;
            let status = client.get_status(proto::GetStatusRequest {}).await;
            // In TLS 1.3 a client learns with its first answer that it was refused.
            status.map(|status| status.into_inner().version).map_err(|status| match status.code() {
                // What is said of a connection that broke.
                Code::Unavailable | Code::Unknown | Code::Cancelled => None,
                code => Some(code),
            })
        })
    }

    async fn remote_client(
        &self,
        folder: &tempfile::TempDir,
    ) -> Result<SensorServiceClient<Channel>, ConnectError> {
        let uri = format!("https://localhost:{}", self.remote.port());
        client::connect(&Address::Remote { uri, tls: folder.path().to_owned() }).await
    }

    fn speaks_tls(&self, tls: Tls) {
        self.news.tls.send_replace(Some(tls));
    }
}

#[test]
fn names_decide_who_may_do_what_and_core_learns_them() {
    let mut feed = Feed::start();
    let askers = feed.answer();
    let authority = authority();
    let ada = folder(&authority, &client_of(&authority, &["laptop.example", "ada.example"]));
    assert_eq!(feed.status_of(&ada), Err(None), "nobody is let in before there is a certificate");
    feed.speaks_tls(server_of(&authority));
    feed.wait_until("TLS", |feed| feed.status_of(&ada).is_ok());

    let board = folder(&authority, &client_of(&authority, &["board.example"]));
    let stranger = folder(&authority, &client_of(&authority, &["eve.example"]));
    let nameless = folder(&authority, &client_of(&authority, &[]));
    assert_eq!(feed.status_of(&board), Ok("1".into()));
    assert_eq!(feed.status_of(&stranger), Err(Some(Code::PermissionDenied)));
    assert_eq!(feed.status_of(&nameless), Err(None));

    let pause = |folder| {
        feed.runtime.block_on(async {
            let mut client = feed.remote_client(folder).await.unwrap();
            let request = proto::SetPausedRequest { paused: true, why: String::new() };
            client.set_paused(request).await.map_err(|status| status.code())
        })
    };
    assert!(pause(&ada).is_ok());
    assert_eq!(pause(&board).unwrap_err(), Code::PermissionDenied);

    // Records are read from the log, at the same right.
    feed.append(1..=2_000);
    feed.flush();
    let records = |folder| {
        feed.runtime.block_on(async {
            let mut client = feed.remote_client(folder).await.unwrap();
            read(&mut client, proto::StreamRecordsRequest::default(), usize::MAX).await
        })
    };
    assert_eq!(records(&board).unwrap().len(), 2_001);
    assert_eq!(records(&stranger).unwrap_err().code(), Code::PermissionDenied);

    feed.talk.abort();
    let askers = feed.runtime.block_on(askers).unwrap();
    assert!(askers.iter().all(|ask| ask.uid == u32::MAX && ask.gids.is_empty()), "{askers:?}");
    assert!(askers.iter().any(|ask| ask.names == ["laptop.example", "ada.example"]), "{askers:?}");
    let acted = askers.iter().filter(|ask| matches!(ask.what, Some(ask::What::SetPaused(_))));
    assert_eq!(acted.count(), 1, "core was not even asked by who may not");
}

#[test]
fn certificates_that_say_nothing_are_not_let_in() {
    let mut feed = Feed::start();
    let _askers = feed.answer();
    let (authority, foreign) = (authority(), authority());
    feed.speaks_tls(server_of(&authority));
    let ada = client_of(&authority, &["ada.example"]);
    let good = folder(&authority, &ada);
    feed.wait_until("TLS", |feed| feed.status_of(&good).is_ok());

    let names = ["ada.example"];
    let purpose = ExtendedKeyUsagePurpose::ClientAuth;
    let cases = [
        ("of another authority", folder(&authority, &client_of(&foreign, &names))),
        ("expired", folder(&authority, &issued(&authority, &names, purpose, true))),
        (
            "for servers",
            folder(
                &authority,
                &issued(&authority, &names, ExtendedKeyUsagePurpose::ServerAuth, false),
            ),
        ),
        ("whose client does not trust the server", folder(&foreign, &ada)),
    ];
    for (what, folder) in &cases {
        assert_eq!(feed.status_of(folder), Err(None), "{what}");
    }
    // None at all.
    let uri = format!("https://localhost:{}", feed.remote.port());
    let shown = feed.runtime.block_on(async {
        let trust = tonic::transport::Certificate::from_pem(authority.pem());
        let tls = tonic::transport::ClientTlsConfig::new().ca_certificate(trust);
        let channel =
            tonic::transport::Endpoint::from_shared(uri).unwrap().tls_config(tls).unwrap();
        let channel = channel.connect().await.map_err(|error| error.to_string())?;
        let mut client = SensorServiceClient::new(channel);
        client.get_status(proto::GetStatusRequest {}).await.map_err(|status| status.to_string())
    });
    assert!(shown.is_err(), "{shown:?}");
    assert_eq!(feed.status_of(&good), Ok("1".into()), "the others are not disturbed");
}

#[test]
fn a_new_certificate_is_taken_while_clients_are_connected() {
    let mut feed = Feed::start();
    let _askers = feed.answer();
    let (old, new) = (authority(), authority());
    feed.speaks_tls(server_of(&old));
    let ada = folder(&old, &client_of(&old, &["ada.example"]));
    feed.wait_until("TLS", |feed| feed.status_of(&ada).is_ok());
    let mut connected = feed.runtime.block_on(feed.remote_client(&ada)).unwrap();
    let mut status = || feed.runtime.block_on(connected.get_status(proto::GetStatusRequest {}));
    status().unwrap();

    feed.speaks_tls(server_of(&new));
    let renewed = folder(&new, &client_of(&new, &["ada.example"]));
    feed.wait_until("the new certificate", |feed| feed.status_of(&renewed).is_ok());
    assert_eq!(feed.status_of(&ada), Err(None), "the old authority is gone");
    status().expect("who was let in stays");
}

#[test]
fn rude_ones_are_closed_and_disturb_nobody() {
    let mut feed = Feed::start();
    let _askers = feed.answer();
    let authority = authority();
    feed.speaks_tls(server_of(&authority));
    let ada = folder(&authority, &client_of(&authority, &["ada.example"]));
    feed.wait_until("TLS", |feed| feed.status_of(&ada).is_ok());
    let connect = || {
        let stream = TcpStream::connect(feed.remote).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    };
    let is_closed = |mut stream: TcpStream| {
        let mut rest = Vec::new();
        // Closed in order or not: what counts is that it does not stay.
        let _ = stream.read_to_end(&mut rest);
    };
    for words in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &[0x16, 3, 1, 0xff, 0xff, 1],
        &vec![0; 70_000],
    ] {
        let mut stream = connect();
        // It may be closed before it has said all.
        let _ = stream.write_all(words);
        let _ = stream.shutdown(Shutdown::Write);
        is_closed(stream);
    }
    // More than may be under way from one address say nothing at all: they go within 5 s, and users of
    // this host notice nothing.
    let silent: Vec<TcpStream> = (0..200).map(|_| connect()).collect();
    let mut local = feed.client();
    feed.runtime.block_on(local.get_status(proto::GetStatusRequest {})).unwrap();
    silent.into_iter().for_each(is_closed);
    assert_eq!(feed.status_of(&ada), Ok("1".into()));
}
