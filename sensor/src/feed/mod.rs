//! The feed: the gRPC service on a unix socket, and webhooks, each in a process of its own.
//!
//! `core` (root) makes the socket and starts `sensor serve` as an unprivileged user; what parses
//! foreign bytes is never root. `serve` reads the log itself and passes requests that need `core`
//! over a socket pair; `core` checks them again. When `serve` dies, `core` starts it again; when
//! `core` dies, `serve` goes with it.
//!
//! - [`access`]: who may do what, as a pure function that both sides call
//! - [`link`]: core's end: socket, child, questions and answers
//! - [`runs`]: where the agents of investigations come in
//! - [`serve`]: the process
//! - [`client`]: how the command line connects
//! - [`tls`]: how clients on other hosts show who they are
//! - [`webhooks`]: records as HTTP requests, to whoever was configured to get them
//! - `supervisor`: how such a process is kept running
//! - `privileges`: what it gives up
//! - `frames`: the bytes between it and core

pub mod access;
pub mod client;
pub(crate) mod frames;
pub mod link;
pub(crate) mod privileges;
pub mod runs;
pub mod serve;
pub(crate) mod supervisor;
pub mod tls;
pub mod webhooks;

#[cfg(test)]
mod tests;
