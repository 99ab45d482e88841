//! The admin endpoint.
//!
//! | request | answer |
//! |---|---|
//! | `GET /` | this list |
//! | `GET /ready` | 200 `LIVE`, or 503 `INITIALIZING` or `DRAINING` (Envoy's words) |
//! | `GET /healthz` | 200 `OK` while the control thread runs |
//! | `GET /metrics` | Prometheus text |
//! | `GET /config` | the running configuration as JSON, without keys and secrets |
//! | `GET /endpoints` | every endpoint: whether it gets requests, and why its checks fail |
//! | `GET /certificates` | every certificate: what it says, where it is used, until when it is good |
//! | `POST /certificates/renew` | renews certificates by ACME now; the body is `{"name": "…"}` or `{"all": true}` |
//! | `GET /overload` | memory, delays, and what is refused for them |
//! | `GET /lists`, `GET /lists/ADDRESS` | the access rules with their packets; the entry that decides about an address |
//! | `GET /bans`, `GET /bans/ADDRESS` | who is banned, and why |
//! | `POST /bans/ADDRESS` | bans a source; the body is `{"ttl": "10m", "reason": "…"}` |
//! | `DELETE /bans/ADDRESS` | ends a ban |
//! | `POST /reload` | 200 with generation and warnings, or 400 with every error of the configuration |
//!
//! It has no password; it listens on loopback unless somebody says otherwise. What remains is a browser on the same
//! machine: a page may not read it by pointing its own name at 127.0.0.1 (DNS rebinding; the `Host` check) nor make it
//! reload (the `Origin` check).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::{self, HeaderValue};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::sync::{mpsc, oneshot, watch};

use super::renew::Renew;
use crate::metrics::render::CONTENT_TYPE;

mod bounded;
mod renewals;
mod sources;

pub use sources::Sources;

/// No request here has a body; tools send small ones by mistake.
const BODY_BYTES: usize = 16 * 1024;

/// A reload reads files and binds sockets. If it hangs, the client should hear so before the connection's own limit.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(30);

/// What the endpoint shows and whom it asks.
#[derive(Clone)]
pub struct AdminState {
    /// Whether the gateway takes traffic.
    pub readiness: watch::Receiver<Readiness>,
    /// Renders the metrics.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// Renders the running configuration; see [`config_view`](super::config_view).
    pub config: Arc<dyn Fn() -> String + Send + Sync>,
    /// Renders every endpoint as it is now.
    pub endpoints: Arc<dyn Fn() -> String + Send + Sync>,
    /// Renders the certificates, as JSON.
    pub certificates: Arc<dyn Fn() -> String + Send + Sync>,
    /// Has certificates renewed, and says which, as JSON.
    pub renew: Arc<Renew>,
    /// Renders what weighs on the process, as JSON.
    pub overload: Arc<dyn Fn() -> String + Send + Sync>,
    /// The control thread's mailbox.
    pub reload: mpsc::Sender<ReloadRequest>,
    /// Lists and bans.
    pub sources: Arc<dyn Sources>,
}

/// Whether the gateway takes traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Not every listener accepts yet.
    Initializing,
    /// Every listener accepts.
    Live,
    /// Shutting down.
    Draining,
}

/// A request to reload the configuration.
#[derive(Debug)]
pub struct ReloadRequest {
    /// Where the result goes: what was done, or the report of what is wrong with the configuration.
    pub reply: oneshot::Sender<Result<ReloadDone, String>>,
}

/// A reload that was put into force, or found nothing to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReloadDone {
    /// The generation now running.
    pub generation: u64,
    /// Whether anything changed.
    pub changed: bool,
    /// What the operator should look at.
    pub warnings: Vec<String>,
}

/// Answers requests until the future is dropped.
pub async fn serve(listener: tokio::net::TcpListener, state: AdminState) -> std::io::Result<()> {
    let loopback = listener.local_addr()?.ip().is_loopback();
    axum::serve(bounded::Listener::new(listener), router(state, loopback)).await
}

fn router(state: AdminState, loopback: bool) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/ready", get(ready))
        .route("/healthz", get(async || "OK\n"))
        .route("/metrics", get(metrics))
        .route("/config", get(config))
        .route("/endpoints", get(endpoints))
        .route("/certificates", get(certificates))
        .route("/certificates/renew", post(renewals::renew))
        .route("/overload", get(overload))
        .route("/lists", get(sources::lists))
        .route("/lists/{address}", get(sources::list_entry))
        .route("/bans", get(sources::bans))
        .route("/bans/{address}", get(sources::why).post(sources::ban).delete(sources::undo))
        .route("/reload", post(reload))
        .fallback(async || (StatusCode::NOT_FOUND, "no such path; GET / lists them\n"))
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .layer(middleware::from_fn_with_state(Guard { loopback }, guard))
        .with_state(state)
}

async fn index() -> &'static str {
    "GET  /ready         200 when the gateway takes traffic, else 503\n\
     GET  /healthz       200 while the process answers\n\
     GET  /metrics       metrics in Prometheus text form\n\
     GET  /config        the running configuration as JSON, without keys\n\
     GET  /endpoints     every endpoint: whether it gets requests, and why its checks fail\n\
     GET  /certificates  every certificate: what it says, where it is used, until when it is good\n\
     POST /certificates/renew  renews certificates by ACME now\n\
     GET  /overload      memory, delays, and what is refused for them\n\
     GET  /lists         the access rules with their packets; /lists/ADDRESS: the entry that decides about it\n\
     GET  /bans          who is banned; /bans/ADDRESS: why (POST bans, DELETE ends the ban)\n\
     POST /reload        reads the configuration again\n"
}

async fn ready(State(state): State<AdminState>) -> (StatusCode, &'static str) {
    match *state.readiness.borrow() {
        Readiness::Live => (StatusCode::OK, "LIVE\n"),
        Readiness::Initializing => (StatusCode::SERVICE_UNAVAILABLE, "INITIALIZING\n"),
        Readiness::Draining => (StatusCode::SERVICE_UNAVAILABLE, "DRAINING\n"),
    }
}

async fn metrics(State(state): State<AdminState>) -> Response {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], (state.metrics)()).into_response()
}

async fn config(State(state): State<AdminState>) -> Response {
    json(StatusCode::OK, (state.config)())
}

async fn endpoints(State(state): State<AdminState>) -> Response {
    json(StatusCode::OK, (state.endpoints)())
}

async fn certificates(State(state): State<AdminState>) -> Response {
    json(StatusCode::OK, (state.certificates)())
}

async fn overload(State(state): State<AdminState>) -> Response {
    json(StatusCode::OK, (state.overload)())
}

/// The body is read, and ignored, so that closing the connection does not reset it under the answer.
async fn reload(State(state): State<AdminState>, _: Bytes) -> Response {
    let (reply, result) = oneshot::channel();
    if let Err(error) = state.reload.try_send(ReloadRequest { reply }) {
        let text = match error {
            mpsc::error::TrySendError::Full(_) => "other reloads are waiting; try again\n",
            mpsc::error::TrySendError::Closed(_) => "the gateway is shutting down\n",
        };
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    }
    match tokio::time::timeout(RELOAD_TIMEOUT, result).await {
        Ok(Ok(Ok(done))) => json(StatusCode::OK, done.to_json()),
        Ok(Ok(Err(report))) => (StatusCode::BAD_REQUEST, report).into_response(),
        Ok(Err(_)) => (StatusCode::SERVICE_UNAVAILABLE, "the gateway is shutting down\n").into_response(),
        Err(_) => (StatusCode::GATEWAY_TIMEOUT, "the reload takes long; look at the log for its end\n").into_response(),
    }
}

impl ReloadDone {
    fn to_json(&self) -> String {
        let ReloadDone { generation, changed, warnings } = self;
        serde_json::json!({ "generation": generation, "changed": changed, "warnings": warnings }).to_string() + "\n"
    }
}

fn json(status: StatusCode, text: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], text).into_response()
}

#[derive(Clone, Copy)]
struct Guard {
    loopback: bool,
}

/// Every answer ends its connection: a request is rare and small, and a connection that is never reused needs one
/// deadline (`bounded`) and no idle time.
async fn guard(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let mut response = match guard.refusal(request.headers()) {
        Some(text) => (StatusCode::FORBIDDEN, text).into_response(),
        // The layer above counts the bytes as they come; a length that is too long is known before.
        None if content_length(request.headers()) > BODY_BYTES => StatusCode::PAYLOAD_TOO_LARGE.into_response(),
        None => next.run(request).await,
    };
    for (name, value) in [
        (header::CONNECTION, "close"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn content_length(headers: &HeaderMap) -> usize {
    headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok()).unwrap_or_default()
}

impl Guard {
    fn refusal(self, headers: &HeaderMap) -> Option<&'static str> {
        let host = headers.get(header::HOST).map(|host| host.to_str().unwrap_or_default());
        if self.loopback && host.is_some_and(|host| !is_own_name(host)) {
            return Some("this Host is not a name of this endpoint; use its IP address or localhost\n");
        }
        let origin = headers.get(header::ORIGIN)?.to_str().unwrap_or_default();
        let same = origin.split_once("://").is_some_and(|(_, origin)| host == Some(origin));
        (!same).then_some("requests of another origin's page are refused\n")
    }
}

/// An IP address or a name that always means this machine (RFC 6761 §6.3), with or without a port.
fn is_own_name(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let name = name.to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost") || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests;
