//! The `sensor.v1` schema as Rust types, with the JSON that every `--json` prints.
//!
//! The types are generated from `proto/sensor/v1/*.proto`; the `.proto` files are the
//! documentation. [`json`] holds the few rules by which a message becomes JSON.

pub mod json;

/// The public schema: records, incidents, evidence and the service.
pub mod v1 {
    #![allow(clippy::all, clippy::pedantic, clippy::unwrap_used, reason = "generated code")]
    tonic::include_proto!("sensor.v1");
}

/// What the daemon's own processes say to each other.
pub mod internal {
    pub mod v1 {
        #![allow(clippy::all, clippy::pedantic, clippy::unwrap_used, reason = "generated code")]
        tonic::include_proto!("sensor.internal.v1");
    }
}

/// Encoded descriptors of all files, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

impl v1::Record {
    /// The word for the record's body, as in JSON: `transition`, `evidence`, …
    pub fn kind(&self) -> &'static str {
        use v1::record::Body;
        match &self.body {
            None => "unknown",
            Some(Body::Started(_)) => "started",
            Some(Body::Stopped(_)) => "stopped",
            Some(Body::Observation(_)) => "observation",
            Some(Body::Transition(_)) => "transition",
            Some(Body::Evidence(_)) => "evidence",
            Some(Body::Diagnosis(_)) => "diagnosis",
            Some(Body::Action(_)) => "action",
            Some(Body::Investigation(_)) => "investigation",
            Some(Body::Transcript(_)) => "transcript",
            Some(Body::Lost(_)) => "lost",
            Some(Body::Degraded(_)) => "degraded",
        }
    }
}
