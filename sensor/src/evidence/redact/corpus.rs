//! Two corpora, neither of which knows a rule: secrets of documented formats in the places where they
//! are met, and lines that ordinary work prints.
//!
//! Formats are from the services' documentation and from the cases by which gitleaks tests itself
//! (<https://github.com/gitleaks/gitleaks>, MIT); secrets are made here, at random. The ordinary lines were
//! collected on Debian machines: see [`ORDINARY`].

use super::Redactor;

/// A line each, what it is from on lines that begin with `# `: a build of python, logs of dpkg, apt, npm
/// and a kernel, command lines, settings.
pub const ORDINARY: &str = include_str!("corpus/ordinary.txt");

const LOWER: &str = "abcdefghijklmnopqrstuvwxyz0123456789";
const ALNUM: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const URL_SAFE: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const HEX: &str = "0123456789abcdef";
const UPPER: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const HARD: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#%*+,./^_~-";

/// Prefix, alphabet, length behind the prefix: known wherever they stand.
const TOKENS: [(&str, &str, usize); 62] = [
    ("AKIA", UPPER, 16),
    ("ASIA", UPPER, 16),
    ("ghp_", ALNUM, 36),
    ("gho_", ALNUM, 36),
    ("ghs_", ALNUM, 36),
    ("github_pat_", ALNUM, 82),
    ("glpat-", URL_SAFE, 20),
    ("glrt-", URL_SAFE, 20),
    ("gldt-", URL_SAFE, 20),
    ("glptt-", HEX, 40),
    ("npm_", ALNUM, 36),
    ("xoxb-", "0123456789", 12),
    ("xoxp-1234567890-1234567890-1234567890-", ALNUM, 32),
    ("xapp-1-A0B1C2D3E4F-1234567890123-", LOWER, 64),
    ("https://hooks.slack.com/services/T0A1B2C3D/B0A1B2C3D/", ALNUM, 24),
    ("sk_live_", ALNUM, 24),
    ("rk_live_", ALNUM, 24),
    ("whsec_", ALNUM, 32),
    ("sk-ant-api03-", URL_SAFE, 95),
    ("sk-proj-", URL_SAFE, 64),
    ("sk-", ALNUM, 48),
    ("AIza", URL_SAFE, 35),
    ("GOCSPX-", URL_SAFE, 28),
    ("ya29.", URL_SAFE, 60),
    ("hf_", "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", 34),
    ("pypi-AgEIcHlwaS5vcmc", URL_SAFE, 80),
    ("rubygems_", HEX, 48),
    ("CLOJARS_", LOWER, 60),
    ("dckr_pat_", URL_SAFE, 27),
    ("dop_v1_", HEX, 64),
    ("SG.", URL_SAFE, 66),
    ("xkeysib-", HEX, 64),
    ("SK", HEX, 32),
    ("hvs.", URL_SAFE, 92),
    ("hvb.", URL_SAFE, 140),
    ("shpat_", HEX, 32),
    ("shpss_", HEX, 32),
    ("dapi", HEX, 32),
    ("lin_api_", ALNUM, 40),
    ("glsa_", ALNUM, 32),
    ("glc_", ALNUM, 40),
    ("ATATT3", URL_SAFE, 180),
    ("dp.pt.", ALNUM, 43),
    ("AGE-SECRET-KEY-1", "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L", 58),
    ("LTAI", ALNUM, 20),
    ("AKCp", ALNUM, 69),
    ("duffel_live_", LOWER, 43),
    ("dt0c01.", UPPER, 88),
    ("EZAK", ALNUM, 54),
    ("EAAC", ALNUM, 120),
    ("sq0atp-", URL_SAFE, 22),
    ("fo1_", URL_SAFE, 43),
    ("HRKU-AA", URL_SAFE, 58),
    ("ntn_", ALNUM, 46),
    ("pplx-", ALNUM, 48),
    ("pscale_tkn_", URL_SAFE, 43),
    ("PMAK-", HEX, 58),
    ("pul-", HEX, 40),
    ("sntryu_", HEX, 64),
    ("shippo_live_", HEX, 40),
    ("sha256~", URL_SAFE, 43),
    ("tskey-auth-", ALNUM, 32),
];

/// Where a token stands: `{}` is it.
const PLACES: [&str; 9] = [
    "{}",
    "curl -fsSL https://example.org/x -d {}",
    "2026-03-01T10:22:31Z INFO  request failed, used {} (401)",
    "    export SOMETHING={}",
    "{\"value\":\"{}\",\"port\":8080}",
    "deploy --to web-3 --using {} --verbose",
    "fetch https://example.org/api?k={}&page=3",
    "remote: invalid credentials: '{}'",
    "env X={} make all",
];

/// Secrets without a form of their own: what stands around them tells. `{}` is the secret.
const FORMS: [&str; 54] = [
    "tool --password {} --host db",
    "tool --password={} --host db",
    "tool -password {}",
    "tool --api-key {}",
    "tool --client-secret '{}' --dry-run",
    "java -Ddb.password={} -jar app.jar",
    "java -Djavax.net.ssl.keyStorePassword={} -jar app.jar",
    "DB_PASSWORD={} ./run",
    "PGPASSWORD={} psql -h db -U app",
    "AWS_SECRET_ACCESS_KEY={} aws s3 ls",
    "docker run -e MYSQL_ROOT_PASSWORD={} mysql:8",
    "mysql -u root -p{} shop",
    "mysqldump --user=root -p{} shop",
    "sshpass -p {} ssh deploy@host",
    "redis-cli -h cache -a {} ping",
    "curl -u admin:{} https://example.org/",
    "curl --user 'admin:{}' https://example.org/",
    "curl -H 'X-Api-Key: {}' https://example.org/",
    "curl -H \"Authorization: Bearer {}\" https://example.org/",
    "curl -H 'Authorization: Token {}' https://example.org/",
    "curl -d 'user=app&password={}' https://example.org/login",
    "curl -d '{\"user\":\"app\",\"password\":\"{}\"}' https://example.org/login",
    "ldapsearch -D cn=admin -w {} -b dc=example",
    "openssl pkcs12 -in a.p12 -passin pass:{}",
    "mongosh --username app -p {} mongodb",
    "smbclient //host/share -U app%{}",
    "sqlcmd -S db -U sa -P {}",
    "mosquitto_pub -u app -P {} -t a -m b",
    "7z x -p{} a.7z",
    "git clone https://app:{}@example.org/x.git",
    "connecting to postgres://app:{}@db:5432/shop",
    "amqp://app:{}@mq:5672/",
    "redis://:{}@cache:6379/0",
    "GET /callback?access_token={}&state=1 HTTP/1.1",
    "GET /login?user=app&passwd={} HTTP/1.1",
    "Cookie: sid={}; theme=dark",
    "Set-Cookie: auth={}; HttpOnly",
    "\"dbPassword\": \"{}\",",
    "\"token\":\"{}\"",
    "password = \"{}\"",
    "secret_key = '{}'",
    "  apiKey: \"{}\"",
    "  api_token: '{}'",
    "authToken := \"{}\"",
    "\"clientSecret\" => \"{}\"",
    "System.setProperty(\"APP_TOKEN\", \"{}\")",
    "<password>{}</password>",
    "<add key=\"Password\" value=\"{}\" />",
    "{\\\"password\\\": \\\"{}\\\"}",
    "machine example.org login app password {}",
    "CREATE USER app WITH PASSWORD '{}';",
    "ALTER USER app IDENTIFIED BY '{}'",
    "//npm.example.org/:_authToken={}",
    "AccountName=shop;AccountKey={};EndpointSuffix=core",
];

/// Forms in which a bare word is no secret unless it looks like one.
const BARE: [&str; 4] = ["  password: {}", "api_key: {}", "X-Auth-Token: {}", "secret: {}"];

/// Always the same ones, so that a result can be looked into: `SplitMix64`.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

fn make(random: &mut Random, alphabet: &str, length: usize) -> String {
    let letters = alphabet.as_bytes();
    (0..length).map(|_| char::from(letters[random.next() as usize % letters.len()])).collect()
}

/// Every secret with its line.
fn secrets() -> Vec<(String, String)> {
    let random = &mut Random(1);
    let mut lines = Vec::new();
    let mut put = |place: &str, token: &str, secret: &str| {
        lines.push((place.replace("{}", token), secret.to_owned()));
    };
    for (prefix, alphabet, length) in TOKENS {
        for place in PLACES {
            let body = make(random, alphabet, length);
            put(place, &format!("{prefix}{body}"), &body);
        }
        // The kernel cuts arguments: two thirds of it are a secret still.
        let body = make(random, alphabet, length * 2 / 3);
        put("tool {}", &format!("{prefix}{body}"), &body);
    }
    for form in FORMS {
        for (alphabet, length) in [(ALNUM, 12), (ALNUM, 32), (HEX, 40), (URL_SAFE, 24), (LOWER, 9)]
        {
            let secret = make(random, alphabet, length);
            put(form, &secret, &secret);
        }
        // What people choose.
        for secret in ["hunter2", "correcthorse", "Tr0ub4dor&3", "s3cr3t!", "Passw0rd2026"] {
            if !(secret.contains('&') && form.contains('?')) {
                put(form, secret, secret);
            }
        }
    }
    for form in BARE {
        for (alphabet, length) in [(ALNUM, 16), (ALNUM, 32), (HEX, 40), (HARD, 20)] {
            let secret = make(random, alphabet, length);
            put(form, &secret, &secret);
        }
    }
    for _ in 0..20 {
        let parts = [make(random, URL_SAFE, 40), make(random, URL_SAFE, 43)];
        let token = format!("eyJhbGciOiJIUzI1NiJ9.eyJ{}.{}", parts[0], parts[1]);
        put("GET /x HTTP/1.1 auth {}", &token, &parts[1]);
        let lines = make(random, ALNUM, 64);
        let key =
            format!("-----BEGIN RSA PRIVATE KEY-----\\n{lines}\\n-----END RSA PRIVATE KEY-----");
        put("key is {}", &key, &lines);
    }
    lines
}

fn ordinary() -> impl Iterator<Item = &'static str> {
    ORDINARY.lines().filter(|line| !line.starts_with("# ") && !line.is_empty())
}

/// As an argv: words between blanks, what is in quotes together.
fn words(line: &str) -> Vec<Vec<u8>> {
    let mut words = vec![Vec::new()];
    let mut quote = None;
    for byte in line.bytes() {
        match (quote, byte) {
            (None, b' ') => words.push(Vec::new()),
            (None, b'\'' | b'"') => quote = Some(byte),
            (Some(open), _) if open == byte => quote = None,
            _ => words.last_mut().into_iter().for_each(|word| word.push(byte)),
        }
    }
    words
}

#[test]
fn of_a_hundred_secrets_ninety_eight_are_replaced_at_least() {
    let redactor = Redactor::new(*b"0123456789abcdef");
    let secrets = secrets();
    assert!(secrets.len() > 1000, "{}", secrets.len());
    let mut missed = Vec::new();
    for (line, secret) in &secrets {
        let (output, count) = redactor.text(line.as_bytes());
        let output = String::from_utf8_lossy(&output);
        if count == 0 || output.contains(secret) {
            missed.push(format!("{line}\n  became {output}"));
        }
    }
    let recall = 1.0 - missed.len() as f64 / secrets.len() as f64;
    println!("recall {recall:.4} of {} secrets", secrets.len());
    assert!(recall >= 0.98, "{recall:.4} of {}:\n{}", secrets.len(), missed.join("\n"));
}

#[test]
fn as_arguments_likewise() {
    let redactor = Redactor::new(*b"0123456789abcdef");
    let is_command = |line: &&(String, String)| {
        let program = line.0.split(' ').next().unwrap_or_default();
        [
            "tool",
            "java",
            "mysql",
            "mysqldump",
            "sshpass",
            "redis-cli",
            "curl",
            "ldapsearch",
            "openssl",
            "mongosh",
        ]
        .contains(&program)
    };
    let secrets = secrets();
    let (mut all, mut missed) = (0, Vec::new());
    for (line, secret) in secrets.iter().filter(is_command) {
        all += 1;
        let output = redactor.argv(&words(line)).0.join(&b' ');
        if String::from_utf8_lossy(&output).contains(secret) {
            missed.push(line);
        }
    }
    assert!(all > 200 && missed.len() * 50 <= all, "{} of {all}: {missed:#?}", missed.len());
}

#[test]
fn of_a_hundred_ordinary_lines_one_is_touched_at_most() {
    let redactor = Redactor::new(*b"0123456789abcdef");
    let mut touched = Vec::new();
    let mut all = 0;
    for line in ordinary() {
        all += 1;
        let argv = words(line);
        if redactor.text(line.as_bytes()).1 > 0 || redactor.argv(&argv).1 > 0 {
            touched.push(line);
        }
    }
    println!("{} of {all} ordinary lines touched", touched.len());
    assert!(all > 2000 && touched.len() * 100 <= all, "{} of {all}: {touched:#?}", touched.len());
}
