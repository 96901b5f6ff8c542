//! What the bench and the eval share: a number with its interval against its target, and the
//! machine that it belongs to.

pub mod bounds;
pub mod machine;
pub mod row;
pub mod stats;
