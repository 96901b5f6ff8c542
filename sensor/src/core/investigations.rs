//! Placeholder until the drivers are in.
