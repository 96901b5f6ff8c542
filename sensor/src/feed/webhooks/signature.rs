//! The signature of a request, as the specification "Standard Webhooks" has it: HMAC-SHA256 over
//! `id.timestamp.body`, in base64, behind `v1,`. Its libraries check it in most languages.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::hmac;

/// In front of a key in a file.
const PREFIX: &str = "whsec_";

/// What the specification asks of a key, bytes.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// The old and the new one while receivers change; more is some other file.
const KEYS_MAX: usize = 4;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("line {0} is no key: whsec_ and base64 of 24 to 64 random bytes")]
    Line(usize),
    #[error("it has no key: make one with `echo whsec_$(head -c 32 /dev/urandom | base64)`")]
    None,
    #[error("it has more than {KEYS_MAX} keys")]
    Many,
}

/// The keys of a file, one a line.
pub fn keys(text: &str) -> Result<Vec<Vec<u8>>, KeyError> {
    let mut keys = Vec::new();
    for (index, line) in text.lines().map(str::trim).enumerate().filter(|(_, it)| !it.is_empty()) {
        let key = line.strip_prefix(PREFIX).and_then(|key| STANDARD.decode(key).ok());
        let key = key.filter(|key| KEY_BYTES.contains(&key.len()));
        keys.push(key.ok_or(KeyError::Line(index + 1))?);
    }
    match keys.len() {
        0 => Err(KeyError::None),
        1..=KEYS_MAX => Ok(keys),
        _ => Err(KeyError::Many),
    }
}

/// The value of `webhook-signature`, with a signature of each key; `timestamp` in s since 1970.
pub fn sign(keys: &[hmac::Key], id: &str, timestamp: u64, body: &[u8]) -> String {
    let signature = |key: &hmac::Key| {
        let mut context = hmac::Context::with_key(key);
        context.update(format!("{id}.{timestamp}.").as_bytes());
        context.update(body);
        format!("v1,{}", STANDARD.encode(context.sign()))
    };
    keys.iter().map(signature).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_specification_s_example() {
        let keys = keys("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
        let keys: Vec<_> = keys.iter().map(|key| hmac::Key::new(hmac::HMAC_SHA256, key)).collect();
        let signed =
            sign(&keys, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_file_has_a_key_or_a_few() {
        let key = format!("whsec_{}", STANDARD.encode([7; 32]));
        assert_eq!(keys(&format!("\n{key}\r\n\n{key}")).unwrap(), [[7; 32], [7; 32]]);
        assert_eq!(keys("\n \n"), Err(KeyError::None));
        assert_eq!(keys(&format!("{key}\n").repeat(5)), Err(KeyError::Many));
        for wrong in ["secret", "whsec_", "whsec_AAAA", "whsec_!", &key[6..]] {
            assert_eq!(keys(&format!("{key}\n{wrong}")), Err(KeyError::Line(2)), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_text_has_keys_or_not(text in "\\PC{0,80}") {
            let _ = keys(&text);
        }
    }
}
