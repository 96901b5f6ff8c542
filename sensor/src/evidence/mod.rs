//! Facts about an incident, gathered in order of perishability, within bounds, redacted at the entrance.

pub mod redact;

pub use redact::Redactor;
