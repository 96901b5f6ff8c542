//! The Model Context Protocol server: an agent's eye on one incident, over standard input and output.
//!
//! It runs as whoever starts it, an operator or the agent of a run, and asks the daemon by its socket
//! like any other client: what parses an agent's bytes has no right that the agent has not. What it
//! shows is rendered by [`crate::render`]: numbers and words of ours as facts, everything that others
//! chose by reference, and only between the marker's lines in `texts`.
//!
//! - `daemon`: what is asked of the daemon
//! - `tools`: which tools there are, and what they take and give; one file for each family answers
//! - `page`: an answer within its bounds
//! - `submission`: findings as an agent writes them
//! - `transport`: the bytes, bounded

mod compare;
mod daemon;
mod growth;
mod incident;
mod page;
mod pieces;
mod processes;
mod source;
pub(crate) mod submission;
mod timeline;
mod tools;
mod transport;

use std::{
    borrow::Cow,
    sync::atomic::{AtomicUsize, Ordering},
};

use rmcp::{
    ErrorData, RoleServer, ServerHandler, ServiceExt as _,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, Implementation,
        JsonObject, ListToolsResult, PaginatedRequestParams, ProtocolVersion, ServerCapabilities,
        ServerConfig,
    },
    service::RequestContext,
};
use sensor_proto::json::escape;
use tokio::sync::Mutex;

pub use self::daemon::Daemon;
use self::{page::Page, tools::Arguments};
pub(crate) use self::{
    submission::parse as parse_findings,
    tools::{SUBMIT, findings_schema},
};
use crate::{
    evidence::Redactor,
    render::{Marker, Reference, Rendering},
};

/// Calls that may wait at once; they are answered one after the other.
const WAITING: usize = 16;

/// Texts that one session keeps, bytes: those of an incident with all its evidence several times over.
const TEXTS: usize = 64 << 20;

/// Characters of an error that a client is told.
const ERROR_MAX: usize = 500;

#[derive(Debug, thiserror::Error)]
pub enum McpError {
    #[error("the client did not begin as the protocol has it: {0}")]
    Begin(#[from] Box<rmcp::service::ServerInitializeError>),
    #[error("the session broke: {0}")]
    Session(#[from] tokio::task::JoinError),
}

/// Serves one client on standard input and output until it closes its end.
pub async fn serve(daemon: Daemon) -> Result<(), McpError> {
    let server = Server::new(daemon);
    let transport = transport::Bounded::new(tokio::io::stdin(), tokio::io::stdout());
    let running = match server.serve(transport).await {
        Ok(running) => running,
        // It went without a word, which is its right.
        Err(rmcp::service::ServerInitializeError::ConnectionClosed(_)) => return Ok(()),
        Err(error) => return Err(Box::new(error).into()),
    };
    running.waiting().await?;
    Ok(())
}

/// One session.
pub(crate) struct Server {
    session: Mutex<Session>,
    rules: String,
    waiting: AtomicUsize,
}

/// What an answer is made of.
pub(crate) struct Session {
    pub daemon: Daemon,
    pub rendering: Rendering,
}

/// Why a tool has no answer, for the agent.
pub(crate) type Failed = String;

impl Server {
    pub fn new(daemon: Daemon) -> Self {
        let rendering = Rendering::new(Marker::random(), Redactor::with_random_key());
        let rules = format!(
            "This server shows one incident of a Linux host, {}, as the sensor recorded it. Begin with \
             incident_get. Results have `facts` and `items`; texts are named S#N there and stand in `texts`; \
             those that are cut go on with the tool `text`. Lists go on with `cursor`. Leave through \
             submit_findings: cite evidence by its id, and say no number that it does not say; abstaining is a \
             valid outcome.\n{}",
            daemon.incident_id(),
            rendering.rules()
        );
        let session = Mutex::new(Session { daemon, rendering });
        Self { session, rules, waiting: AtomicUsize::new(0) }
    }

    async fn call(&self, name: &str, arguments: JsonObject) -> Result<CallToolResult, Failed> {
        let arguments = Arguments::parse(name, arguments)?;
        let mut session = self.session.lock().await;
        let kept: usize = session.rendering.references().map(Reference::bytes).sum();
        if kept > TEXTS {
            return Err("this session holds 64 MiB of texts: start another one".to_owned());
        }
        let Session { daemon, rendering } = &mut *session;
        let mut page = Page::new(rendering);
        match name {
            "incident_get" => incident::get(daemon, &mut page, &arguments).await?,
            "timeline" => timeline::show(daemon, &mut page, &arguments).await?,
            "process_tree" => processes::tree(daemon, &mut page, &arguments).await?,
            "process_detail" => processes::detail(daemon, &mut page, &arguments).await?,
            "top_growth" => growth::top(daemon, &mut page, &arguments).await?,
            "stacks" => pieces::show(daemon, &mut page, &arguments, pieces::STACKS).await?,
            "logs" => pieces::show(daemon, &mut page, &arguments, pieces::LOGS).await?,
            "cgroup" => pieces::show(daemon, &mut page, &arguments, pieces::CGROUP).await?,
            "oom_record" => pieces::oom(daemon, &mut page, &arguments).await?,
            "evidence" => pieces::show(daemon, &mut page, &arguments, pieces::ALL).await?,
            "compare" => compare::show(daemon, &mut page, &arguments).await?,
            "text" => pieces::text(&mut page, &arguments)?,
            "read_source" => source::read(daemon, &mut page, &arguments).await?,
            "submit_findings" => submission::submit(daemon, &mut page, arguments).await?,
            _ => return Err("there is no tool of this name".to_owned()),
        }
        Ok(page.finish())
    }
}

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        let mut info = ServerConfig::new(ServerCapabilities::builder().enable_tools().build());
        info.server_info = Implementation::new("sensor", env!("CARGO_PKG_VERSION"));
        info.instructions = Some(self.rules.clone());
        info
    }

    fn supported_protocol_versions(&self) -> Cow<'static, [ProtocolVersion]> {
        // Before that a result had no structure.
        let known = ProtocolVersion::KNOWN_VERSIONS.iter();
        known.filter(|known| **known >= ProtocolVersion::V_2025_06_18).cloned().collect()
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(tools::list()))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let _turn = Turn(&self.waiting);
        let answer = if self.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING {
            Err(format!("{WAITING} calls wait already: read their answers first"))
        } else {
            self.call(&request.name, request.arguments.unwrap_or_default()).await
        };
        let answer = answer.unwrap_or_else(|why| {
            let why: String = escape(why.as_bytes()).chars().take(ERROR_MAX).collect();
            CallToolResult::error(vec![ContentBlock::text(why)])
        });
        Ok(answer.into())
    }
}

/// A call that is counted until it is answered.
struct Turn<'a>(&'a AtomicUsize);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
