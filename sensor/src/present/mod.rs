//! How numbers, times and words look to a person: in a terminal, in a report, in the reasons that an incident
//! gives.
//!
//! - `measure`: what a finding measured
//! - `text`: counts, sizes, and what comes from outside
//! - `time`: durations and moments
//! - `style`: colour and width

pub(crate) mod measure;
pub(crate) mod style;
pub(crate) mod text;
pub(crate) mod time;
