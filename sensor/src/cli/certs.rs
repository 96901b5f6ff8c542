//! `sensor certs`: a small authority, and certificates for a server and its clients, for those who have
//! none.

use std::{
    fmt::Write as _,
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use clap::Args;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, string::Ia5String,
};
use rustls::pki_types::{DnsName, ServerName};

use super::{error::CliError, out};

const EXAMPLES: &str = "\
Examples:
  sudo sensor certs /etc/sensor/tls --server build7.example --client ada.example
      an authority, server.pem for this host, and the folder clients/ada.example for Ada
  sudo sensor certs /etc/sensor/tls --client bob.example
      one more client of the same authority
  sensor --socket https://build7.example:7443 --tls ada.example status
      what Ada then does with her folder, on her own host

Nothing that exists is overwritten. ca.key stays where it is; a client's folder is handed over
whole.";

/// Somebody has to renew an authority by hand, everywhere.
const AUTHORITY_DAYS: u32 = 3_650;
/// Clocks differ, and what was just made is to work at once.
const BEFORE: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CertsArgs {
    /// Folder of the authority; made where it does not exist.
    dir: PathBuf,
    /// DNS name or IP address under which clients reach this host; makes server.pem and server.key.
    #[arg(long, value_name = "NAME", value_parser = server)]
    server: Vec<ServerName<'static>>,
    /// DNS name of a client, as in feed.tcp.readers and feed.tcp.operators; makes a folder for it.
    #[arg(long, value_name = "NAME", value_parser = client)]
    client: Vec<DnsName<'static>>,
    /// Days until the server's and clients' certificates expire.
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3_650))]
    days: u32,
}

pub fn run(args: &CertsArgs) -> Result<(), CliError> {
    let said = make(args)?;
    out::print(&said)?;
    Ok(())
}

/// What was made, for people.
fn make(args: &CertsArgs) -> Result<String, CliError> {
    directory(&args.dir)?;
    let mut said = String::new();
    let mut tell = |what: &str, path: &Path| {
        let _ = writeln!(said, "{what:<10} {}", path.display());
    };
    let (certificate, key) = (args.dir.join("ca.pem"), args.dir.join("ca.key"));
    if !key.exists() {
        let made = authority()?;
        write(&key, &made.key().serialize_pem(), 0o600)?;
        write(&certificate, &made.pem(), 0o644)?;
        tell("authority", &certificate);
    }
    let pair = KeyPair::from_pem(&read(&key)?)?;
    let authority = Issuer::from_ca_cert_pem(&read(&certificate)?, pair)?;
    if !args.server.is_empty() {
        let paths = (args.dir.join("server.pem"), args.dir.join("server.key"));
        let mut params = leaf(args.days, ExtendedKeyUsagePurpose::ServerAuth);
        params.subject_alt_names = args.server.iter().map(alternative).collect::<Result<_, _>>()?;
        issue(&authority, params, &paths)?;
        tell("server", &paths.0);
    }
    for name in &args.client {
        let folder = args.dir.join("clients").join(name.as_ref());
        directory(&folder)?;
        let paths = (folder.join("client.pem"), folder.join("client.key"));
        let mut params = leaf(args.days, ExtendedKeyUsagePurpose::ClientAuth);
        params.subject_alt_names = vec![alternative(&ServerName::DnsName(name.clone()))?];
        issue(&authority, params, &paths)?;
        write(&folder.join("ca.pem"), &read(&certificate)?, 0o644)?;
        tell("client", &folder);
    }
    Ok(said)
}

fn authority() -> Result<CertifiedIssuer<'static, KeyPair>, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "sensor's own authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    lasting(&mut params, AUTHORITY_DAYS);
    CertifiedIssuer::self_signed(params, KeyPair::generate()?)
}

fn leaf(days: u32, purpose: ExtendedKeyUsagePurpose) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "sensor");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![purpose];
    params.use_authority_key_identifier_extension = true;
    lasting(&mut params, days);
    params
}

fn lasting(params: &mut CertificateParams, days: u32) {
    let now = SystemTime::now();
    params.not_before = (now - BEFORE).into();
    params.not_after = (now + days * DAY).into();
}

/// The certificate last: where it is, its key is.
fn issue(
    authority: &Issuer<'_, KeyPair>,
    params: CertificateParams,
    (certificate, key): &(PathBuf, PathBuf),
) -> Result<(), CliError> {
    if certificate.exists() {
        return Err(CliError::Exists(certificate.clone()));
    }
    let pair = KeyPair::generate()?;
    let made = params.signed_by(&pair, authority)?;
    write(key, &pair.serialize_pem(), 0o600)?;
    write(certificate, &made.pem(), 0o644)
}

fn alternative(name: &ServerName<'_>) -> Result<SanType, rcgen::Error> {
    Ok(match name {
        ServerName::IpAddress(address) => SanType::IpAddress((*address).into()),
        name => SanType::DnsName(Ia5String::try_from(name.to_str().as_ref())?),
    })
}

fn server(text: &str) -> Result<ServerName<'static>, String> {
    let name = ServerName::try_from(text.to_owned()).ok().filter(|_| !text.ends_with('.'));
    name.ok_or_else(|| {
        "it must be a DNS name, as in build7.example, or an IP address, as in 192.0.2.7 or \
         2001:db8::7, without a port"
            .into()
    })
}

/// A client's name is a folder's as well.
fn client(text: &str) -> Result<DnsName<'static>, String> {
    let name = DnsName::try_from(text.to_owned()).ok().filter(|_| !text.ends_with('.'));
    name.ok_or_else(|| "it must be a DNS name, as in ada.example".into())
}

fn directory(path: &Path) -> Result<(), CliError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| CliError::Write { path: path.to_owned(), source })
}

fn read(path: &Path) -> Result<String, CliError> {
    fs::read_to_string(path).map_err(|source| CliError::Read { path: path.to_owned(), source })
}

/// A new file, never one that is there.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), CliError> {
    let mut options = OpenOptions::new();
    let written = options
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => CliError::Exists(path.to_owned()),
        _ => CliError::Write { path: path.to_owned(), source },
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use clap::Parser;

    use super::*;
    use crate::feed::tls::{self, Files};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: CertsArgs,
    }

    fn certs(dir: &Path, more: &[&str]) -> Result<String, CliError> {
        let line = ["certs", dir.to_str().unwrap()].into_iter().chain(more.iter().copied());
        make(&Line::parse_from(line).args)
    }

    #[test]
    fn what_is_made_fits_together_and_nothing_is_overwritten() {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("a/b");
        let said = certs(&dir, &["--server", "localhost", "--server", "127.0.0.1"]).unwrap();
        assert!(said.contains("ca.pem") && said.contains("server.pem"), "{said}");
        let authority = fs::read(dir.join("ca.pem")).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir), 0o700);
        assert_eq!([mode(&dir.join("ca.key")), mode(&dir.join("server.key"))], [0o600; 2]);
        let files = Files {
            certificate: dir.join("server.pem"),
            key: dir.join("server.key"),
            client_ca: dir.join("ca.pem"),
        };
        tls::server(&files.read().unwrap()).unwrap();

        // The authority is found again.
        certs(&dir, &["--client", "ada.example", "--client", "bob.example"]).unwrap();
        assert_eq!(fs::read(dir.join("ca.pem")).unwrap(), authority);
        let ada = dir.join("clients/ada.example");
        assert_eq!(fs::read(ada.join("ca.pem")).unwrap(), authority);
        let certificate = fs::read(ada.join("client.pem")).unwrap();
        let certificate = rustls::pki_types::pem::PemObject::from_pem_slice(&certificate).unwrap();
        assert_eq!(tls::names(&certificate), ["ada.example"]);

        let key = fs::read(ada.join("client.key")).unwrap();
        let error = certs(&dir, &["--client", "ada.example"]).unwrap_err().to_string();
        assert!(error.contains("client.pem exists already"), "{error}");
        assert_eq!(fs::read(ada.join("client.key")).unwrap(), key);

        // With another's key it is no identity, and with none no authority.
        let crossed = Files { key: ada.join("client.key"), ..files.clone() };
        let error = tls::server(&crossed.read().unwrap()).unwrap_err().to_string();
        assert!(error.contains("feed.tcp.key"), "{error}");
        let empty = Files { client_ca: dir.join("ca.key"), ..files };
        let error = tls::server(&empty.read().unwrap()).unwrap_err().to_string();
        assert!(error.contains("feed.tcp.client_ca has no certificate"), "{error}");
    }

    #[test]
    fn a_servers_name_is_a_dns_name_or_an_address() {
        for wrong in [
            "",
            "bad name",
            "a..b",
            "-a",
            "*.example",
            "\u{e4}.example",
            "300.1.1.1",
            "10.0.0.1/8",
            "[::1]",
            "https://x",
            "x:7443",
            "a.",
            "..",
            "a/b",
        ] {
            let error = server(wrong).unwrap_err();
            assert!(
                error.contains("DNS name") && error.contains("IP address"),
                "{wrong:?}: {error}"
            );
        }
        for right in ["build7.example", "localhost", "my_host", "192.0.2.7", "::1"] {
            let name = server(right).unwrap();
            let is_address = matches!(alternative(&name), Ok(SanType::IpAddress(_)));
            assert_eq!(
                (name.to_str().as_ref(), is_address),
                (right, right.contains("::") || right.starts_with("192"))
            );
        }
    }

    #[test]
    fn a_clients_name_is_a_dns_name_and_never_a_path() {
        let long = "x".repeat(64);
        for wrong in [
            "",
            ".",
            "..",
            "a/b",
            "../x",
            "a..b",
            "-a",
            "a b",
            "\u{e4}",
            "a.",
            "192.0.2.7",
            "::1",
            &long,
        ] {
            assert!(client(wrong).is_err(), "{wrong:?}");
        }
        for right in ["a", "ada.example", "build-7.example", "X1"] {
            assert_eq!(client(right).unwrap().as_ref(), right);
        }
    }
}
