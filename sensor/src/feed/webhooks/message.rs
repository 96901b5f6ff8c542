//! A record as a request.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sensor_proto::json::RecordLine;

use crate::proto;

/// What is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The same with each try, and of no other message.
    pub id: String,
    /// Beyond those that each request has.
    pub headers: Vec<(&'static str, String)>,
    /// JSON.
    pub body: Vec<u8>,
}

/// In a header or a URI: letters, digits and these stand for themselves.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A record as an event of `CloudEvents` 1.0, in binary mode: what it is stands in the headers, the body is
/// what `sensor watch --json` prints.
///
/// `id` is the record's identity; that of one which was made for this receiver says what it stands for.
pub fn cloud_event(record: &proto::Record, id: String) -> Message {
    // A record is made of words and numbers, of which all are JSON.
    let body = serde_json::to_vec(&RecordLine::from(record)).unwrap_or_default();
    let mut headers = event(&record.host, &format!("record.{}", record.kind()), &id);
    headers.push(("ce-time", record.at.unwrap_or_default().to_string()));
    if record.seq > 0 {
        // Of the extension `sequence`: in the order of texts, and so as wide as the largest.
        headers.push(("ce-sequence", format!("{:020}", record.seq)));
    }
    if !record.incident.is_empty() {
        headers.push(("ce-subject", utf8_percent_encode(&record.incident, PLAIN).to_string()));
    }
    Message { id, headers, body }
}

/// What each event says of itself.
pub fn event(host: &str, what: &str, id: &str) -> Vec<(&'static str, String)> {
    vec![
        ("ce-specversion", "1.0".into()),
        ("ce-id", id.to_owned()),
        ("ce-source", format!("sensor://{}", utf8_percent_encode(host, PLAIN))),
        ("ce-type", format!("dev.sensor.{what}")),
    ]
}

/// The identity of a record anywhere.
pub fn identity(record: &proto::Record) -> String {
    format!("{}/{}", record.log_id, record.seq)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::record::Body;

    #[test]
    fn a_record_is_an_event() {
        let lost = proto::Lost { reason: "map_full".into(), count: 3 };
        let mut record = proto::Record {
            log_id: "l".into(),
            seq: 4711,
            host: "build 7".into(),
            incident: "4k2m\r\nx: y".into(),
            body: Some(Body::Lost(lost)),
            ..Default::default()
        };
        let event = cloud_event(&record, identity(&record));
        assert_eq!(event.id, "l/4711");
        let header = |name: &str| {
            let found = event.headers.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.as_str())
        };
        for (name, value) in [
            ("ce-specversion", "1.0"),
            ("ce-id", "l/4711"),
            ("ce-source", "sensor://build%207"),
            ("ce-type", "dev.sensor.record.lost"),
            ("ce-time", "1970-01-01T00:00:00Z"),
            ("ce-sequence", "00000000000000004711"),
            ("ce-subject", "4k2m%0D%0Ax%3A%20y"),
        ] {
            assert_eq!(header(name), Some(value), "{name}");
        }
        let body: serde_json::Value = serde_json::from_slice(&event.body).unwrap();
        assert_eq!(body, serde_json::to_value(RecordLine::from(&record)).unwrap());

        // Made for one receiver.
        (record.seq, record.incident) = (0, String::new());
        let event = cloud_event(&record, "l/1-7".into());
        let names: Vec<_> = event.headers.iter().map(|(name, _)| *name).collect();
        assert!(!names.contains(&"ce-sequence") && !names.contains(&"ce-subject"), "{names:?}");
    }
}
