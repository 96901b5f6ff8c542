//! Tokens that are known by how they begin.
//!
//! Facts about formats (prefix, alphabet, least length), taken from the gitleaks rules
//! (<https://github.com/gitleaks/gitleaks>, MIT; see `NOTICE`) and from what the services document. Least
//! lengths are lax, about half of a whole token: the kernel cuts arguments at 512 bytes, and half a token is
//! still a secret. Rules whose only sign is entropy are left out, because they hit hashes and paths.

use super::{Span, entropy};

/// Bytes that a token is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Alphabet {
    /// Letters and digits.
    Alnum,
    /// And `_`.
    Word,
    /// And `_-`.
    Dash,
    /// And `_-.=`.
    Dotted,
    /// And `+/=_`.
    Base64,
    /// And `+/_-`: the path of a hook.
    Path,
    /// And `-`.
    Hex,
    /// Capitals and 2 to 7.
    Base32,
}

impl Alphabet {
    fn has(self, byte: u8) -> bool {
        match self {
            Self::Alnum => byte.is_ascii_alphanumeric(),
            Self::Word => byte.is_ascii_alphanumeric() || byte == b'_',
            Self::Dash => byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'),
            Self::Dotted => {
                byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'=')
            }
            Self::Base64 => {
                byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b'_')
            }
            Self::Path => byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'_' | b'-'),
            Self::Hex => byte.is_ascii_hexdigit() || byte == b'-',
            Self::Base32 => byte.is_ascii_uppercase() || (b'2'..=b'7').contains(&byte),
        }
    }
}

/// One family of tokens.
#[derive(Debug)]
pub(super) struct Token {
    pub name: &'static str,
    /// As they are written; any of them begins a token.
    pub prefixes: &'static [&'static str],
    alphabet: Alphabet,
    /// Bytes behind the prefix, at least.
    least: usize,
    /// Bits a byte (Shannon), times ten, at least, of what stands behind the prefix; 0: it does not matter.
    entropy: u32,
    /// Only the bytes behind the prefix are the secret: a hook's address stays readable.
    keeps_prefix: bool,
}

impl Token {
    /// The secret that begins at `start` with `prefix`, if one does.
    pub(super) fn at(&self, text: &[u8], start: usize, prefix: &str) -> Option<Span> {
        // The search knows no case, prefixes do.
        let rest = text[start..].strip_prefix(prefix.as_bytes())?;
        let before = start.checked_sub(1).map(|at| text[at]);
        if before.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && prefix.as_bytes()[0].is_ascii_alphanumeric()
            // `\n` in a string of JSON stands before what it ends the line of.
            && !(start > 1 && text[start - 2] == b'\\' && b"nrt".contains(&text[start - 1]))
        {
            return None;
        }
        let length = rest.iter().position(|byte| !self.alphabet.has(*byte)).unwrap_or(rest.len());
        let body = &rest[..length];
        if length < self.least || entropy(body) < self.entropy {
            return None;
        }
        let from = if self.keeps_prefix { start + prefix.len() } else { start };
        Some(Span { at: from..start + prefix.len() + length, rule: self.name })
    }
}

const fn token(
    name: &'static str,
    prefixes: &'static [&'static str],
    alphabet: Alphabet,
    least: usize,
    entropy: u32,
) -> Token {
    Token { name, prefixes, alphabet, least, entropy, keeps_prefix: false }
}

const fn hook(prefixes: &'static [&'static str]) -> Token {
    Token {
        name: "webhook",
        prefixes,
        alphabet: Alphabet::Path,
        least: 8,
        entropy: 0,
        keeps_prefix: true,
    }
}

use Alphabet::{Alnum, Base32, Base64, Dash, Dotted, Hex, Word};

/// Longer prefixes first where one begins another.
pub(super) const TOKENS: &[Token] = &[
    token("aws-key-id", &["AKIA", "ASIA", "ABIA", "ACCA", "A3T"], Base32, 8, 25),
    token("aws-bedrock-key", &["ABSK", "bedrock-api-key-"], Base64, 40, 35),
    token("github-token", &["ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"], Word, 8, 0),
    token(
        "gitlab-token",
        &[
            "glpat-",
            "glptt-",
            "gldt-",
            "glrt-",
            "glcbt-",
            "glft-",
            "glagent-",
            "gloas-",
            "glsoat-",
            "glffct-",
            "glimt-",
            "GR1348941",
        ],
        Dotted,
        8,
        0,
    ),
    token("npm-token", &["npm_"], Alnum, 20, 30),
    token(
        "slack-token",
        &[
            "xoxb-",
            "xoxp-",
            "xoxa-",
            "xoxe-",
            "xoxo-",
            "xoxr-",
            "xoxs-",
            "xoxd-",
            "xapp-",
            "xoxe.xoxb-",
            "xoxe.xoxp-",
        ],
        Dash,
        8,
        0,
    ),
    token(
        "stripe-key",
        &["sk_live_", "rk_live_", "sk_test_", "rk_test_", "sk_prod_", "rk_prod_", "whsec_"],
        Alnum,
        8,
        0,
    ),
    token("anthropic-key", &["sk-ant-"], Dash, 8, 0),
    token("openai-key", &["sk-proj-", "sk-svcacct-", "sk-admin-", "sk-None-"], Dash, 8, 30),
    token("openai-key", &["sk-"], Alnum, 20, 35),
    token("openrouter-key", &["sk-or-v1-"], Hex, 16, 0),
    token("model-key", &["gsk_", "xai-", "r8_", "nvapi-", "pplx-"], Dash, 20, 35),
    token("google-key", &["AIza", "GOCSPX-"], Dash, 10, 30),
    token("google-key", &["ya29."], Dotted, 10, 30),
    token("huggingface-token", &["hf_", "api_org_"], Alnum, 20, 30),
    token("pypi-token", &["pypi-Ag"], Dash, 16, 0),
    token("rubygems-token", &["rubygems_"], Hex, 20, 0),
    token("clojars-token", &["CLOJARS_"], Alnum, 20, 0),
    token("docker-token", &["dckr_pat_", "dckr_oat_"], Dash, 8, 0),
    token("digitalocean-token", &["dop_v1_", "doo_v1_", "dor_v1_"], Hex, 16, 0),
    token("sendgrid-token", &["SG."], Dotted, 20, 30),
    token("sendinblue-token", &["xkeysib-", "xsmtpsib-"], Dash, 24, 0),
    token("twilio-key", &["SK"], Hex, 32, 30),
    token("vault-token", &["hvs.", "hvb.", "hvr."], Dash, 12, 30),
    token("shopify-token", &["shpat_", "shpca_", "shppa_", "shpss_"], Hex, 16, 0),
    token("databricks-token", &["dapi"], Hex, 16, 0),
    token("linear-token", &["lin_api_", "lin_oauth_"], Alnum, 16, 0),
    token("grafana-token", &["glsa_", "glc_"], Base64, 16, 0),
    token("atlassian-token", &["ATATT3", "ATCTT3", "ATBB"], Dotted, 16, 30),
    token(
        "doppler-token",
        &["dp.pt.", "dp.st.", "dp.sa.", "dp.ct.", "dp.scim.", "dp.audit."],
        Dotted,
        16,
        0,
    ),
    token("age-key", &["AGE-SECRET-KEY-1"], Alnum, 16, 0),
    token("onepassword-token", &["ops_eyJ"], Base64, 40, 0),
    token("onepassword-key", &["A3-"], Dash, 24, 25),
    token("adobe-secret", &["p8e-"], Alnum, 16, 0),
    token("alibaba-key-id", &["LTAI"], Alnum, 12, 30),
    token("artifactory-token", &["AKCp", "cmVmd"], Alnum, 30, 35),
    token("cloudflare-key", &["v1.0-"], Hex, 60, 0),
    token("duffel-token", &["duffel_test_", "duffel_live_"], Dotted, 16, 0),
    token("dynatrace-token", &["dt0c01.", "dt0s01.", "dt0s16."], Dotted, 24, 0),
    token("easypost-token", &["EZAK", "EZTK"], Alnum, 24, 30),
    token("facebook-token", &["EAAM", "EAAC"], Alnum, 50, 30),
    token("square-token", &["EAAA", "sq0atp-", "sq0csp-", "sq0idp-"], Dash, 16, 30),
    token("flutterwave-key", &["FLWSECK_TEST-", "FLWSECK-"], Alnum, 8, 0),
    token("fly-token", &["fo1_"], Dash, 20, 0),
    token("fly-token", &["fm1r_", "fm1a_", "fm2_"], Base64, 40, 0),
    token("frameio-token", &["fio-u-"], Dotted, 24, 0),
    token("heroku-key", &["HRKU-AA"], Dash, 24, 0),
    token("infracost-token", &["ico-"], Alnum, 20, 30),
    token("notion-token", &["ntn_", "secret_"], Alnum, 24, 35),
    token("planetscale-token", &["pscale_tkn_", "pscale_oauth_", "pscale_pw_"], Dotted, 16, 0),
    token("postman-token", &["PMAK-"], Hex, 24, 0),
    token("prefect-token", &["pnu_", "pnb_"], Alnum, 20, 0),
    token("pulumi-token", &["pul-"], Hex, 20, 0),
    token("readme-token", &["rdme_"], Alnum, 30, 0),
    token("scalingo-token", &["tk-us-"], Dash, 24, 0),
    token("sentry-token", &["sntrys_", "sntryu_"], Base64, 24, 0),
    token("settlemint-token", &["sm_aat_", "sm_pat_", "sm_sat_"], Alnum, 10, 0),
    token("shippo-token", &["shippo_live_", "shippo_test_"], Hex, 20, 0),
    token("sourcegraph-token", &["sgp_", "slk_"], Word, 24, 30),
    token("openshift-token", &["sha256~"], Dash, 20, 35),
    token("intra-secret", &["s-s4t2ud-", "s-s4t2af-"], Hex, 24, 0),
    token("octopus-key", &["API-"], Alnum, 20, 30),
    token("figma-token", &["figd_"], Dash, 20, 0),
    token("tailscale-key", &["tskey-"], Dash, 12, 0),
    token("newrelic-key", &["NRAK-", "NRII-"], Alnum, 16, 0),
    token("contentful-token", &["CFPAT-"], Dash, 20, 0),
    token("supabase-token", &["sbp_"], Hex, 20, 0),
    token("encoded-jwt", &["ZXlK"], Base64, 40, 40),
    token("gitlab-session", &["_gitlab_session="], Hex, 16, 0),
    hook(&["hooks.slack.com/services/", "hooks.slack.com/workflows/", "hooks.slack.com/triggers/"]),
    hook(&["discord.com/api/webhooks/", "discordapp.com/api/webhooks/"]),
    hook(&["webhook.office.com/webhookb2/", "api.telegram.org/bot"]),
];
