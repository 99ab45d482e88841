//! One connection to etcd, and calls over it one after the other.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::super::MAX_BYTES;
use super::api::{Answer, Failure};
use crate::config::model::{EtcdEndpoint, EtcdStore, EtcdTls};
use crate::control::http_client::{self, Connection, Limits, Peer, Trust};

/// What a member may take. An election among the members takes about a second; the longest answer is a page of values in
/// base64, or one of the longest.
const LIMITS: Limits =
    Limits { connect: Duration::from_secs(1), answer: Duration::from_secs(5), body: Some(4 * MAX_BYTES as usize) };

/// Bytes of an error of etcd in the log.
const ERROR_MAX: usize = 200;

/// gRPC's status for a token that is not, or no longer, known.
const UNAUTHENTICATED: u32 = 16;

/// gRPC's status for one who cannot answer now.
const UNAVAILABLE: u32 = 14;

/// What is said to a login that is good no longer: its time is over, or users and roles have changed since (tokens that are
/// JWTs).
const LOGIN_AGAIN: [&str; 3] = ["invalid auth token", "revision of auth store is old", "user name is empty"];

/// Calls to one of the members.
pub struct Link {
    endpoints: Vec<EtcdEndpoint>,
    tls: EtcdTls,
    login: Option<Value>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The member that is asked, by its place among the endpoints.
    member: usize,
    connection: Option<Connection>,
    token: Option<String>,
}

enum CallError {
    /// It was not asked: another member may be.
    Unreached(String),
    /// It may have done what it was asked, or not.
    NoAnswer(String),
    /// It wants another login.
    Login(String),
    /// It says no.
    Refused(String),
}

impl Link {
    /// Nothing is connected yet.
    pub fn new(wanted: &EtcdStore) -> Link {
        let login = wanted.login.as_ref().map(|login| json!({ "name": login.username, "password": login.password }));
        Link { endpoints: wanted.endpoints.clone(), tls: wanted.tls.clone(), login, state: Mutex::default() }
    }

    /// Posts `request` to `/v3/PATH`. The error says of which member.
    ///
    /// When the future is dropped in the middle, the connection goes with it.
    pub async fn call(&self, path: &str, request: &Value) -> Result<Answer, String> {
        let mut state = self.state.lock().await;
        // One more: an idle connection may be found closed.
        let mut tries = self.endpoints.len() + 1;
        let mut may_log_in = self.login.is_some();
        loop {
            let member = &self.endpoints[state.member];
            let said = |why: String| format!("etcd at {member}: {}", shortened(&why));
            match self.try_once(&mut state, path, request).await {
                Ok(answer) => return Ok(answer),
                Err(CallError::Refused(why)) => return Err(said(why)),
                Err(CallError::Login(_)) if may_log_in => {
                    may_log_in = false;
                    state.token = None;
                }
                Err(CallError::Login(why)) => return Err(said(why)),
                Err(CallError::NoAnswer(why)) => {
                    self.leave(&mut state);
                    return Err(said(why));
                }
                Err(CallError::Unreached(why)) => {
                    tries -= 1;
                    self.leave(&mut state);
                    if tries == 0 {
                        return Err(said(why));
                    }
                }
            }
        }
    }

    /// Asks the next member from now on.
    fn leave(&self, state: &mut State) {
        state.connection = None;
        state.member = (state.member + 1) % self.endpoints.len();
    }

    async fn try_once(&self, state: &mut State, path: &str, request: &Value) -> Result<Answer, CallError> {
        let member = &self.endpoints[state.member];
        let mut connection = match state.connection.take() {
            Some(connection) if !connection.is_closed() => connection,
            _ => self.connect(member).await.map_err(CallError::Unreached)?,
        };
        let answer = self.exchange(&mut connection, &mut state.token, &member.to_string(), path, request).await;
        if !matches!(answer, Err(CallError::NoAnswer(_))) {
            state.connection = Some(connection);
        }
        answer
    }

    async fn exchange(
        &self,
        connection: &mut Connection,
        token: &mut Option<String>,
        host: &str,
        path: &str,
        request: &Value,
    ) -> Result<Answer, CallError> {
        if let (Some(login), None) = (&self.login, &token) {
            *token = exchange(connection, host, "auth/authenticate", login, None).await?.token;
        }
        exchange(connection, host, path, request, token.as_deref()).await
    }

    async fn connect(&self, member: &EtcdEndpoint) -> Result<Connection, String> {
        let EtcdTls { ca_pem, client } = &self.tls;
        let client = client.as_ref().map(|pair| (&pair.chain_pem[..], &pair.key_pem[..]));
        let peer = Peer { is_tls: member.is_tls, host: &member.host, port: member.port };
        Connection::open(peer, Trust { ca_pem: ca_pem.as_deref(), client }, LIMITS).await
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}

async fn exchange(
    connection: &mut Connection,
    host: &str,
    path: &str,
    body: &Value,
    token: Option<&str>,
) -> Result<Answer, CallError> {
    let mut request = Request::post(format!("/v3/{path}"))
        .header(header::HOST, host)
        .header(header::CONTENT_TYPE, "application/json");
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, token);
    }
    let body: Bytes = body.to_string().into();
    let request = request.body(Full::new(body)).map_err(|error| CallError::Refused(error.to_string()))?;
    let answer = connection.exchange(request).await.map_err(|failure| match failure {
        http_client::Failure::Unsent(why) => CallError::Unreached(why),
        http_client::Failure::NoAnswer(why) => CallError::NoAnswer(why),
    })?;
    read(answer.status(), answer.body())
}

fn read(status: StatusCode, body: &[u8]) -> Result<Answer, CallError> {
    if status.is_success() {
        let is_no_answer = |why: &str| CallError::Refused(format!("it answers something else than etcd's API: {why}"));
        let answer: Answer = serde_json::from_slice(body).map_err(|error| is_no_answer(&error.to_string()))?;
        if answer.header.is_none() && answer.result.is_none() {
            return Err(is_no_answer("it has no header"));
        }
        return match answer.result.as_ref().is_some_and(|kept| kept.ttl.0 == 0) {
            true => Err(CallError::Refused("the lease is over".into())),
            false => Ok(answer),
        };
    }
    let failure: Failure = serde_json::from_slice(body).unwrap_or_default();
    let message = match &failure.error {
        Value::String(error) if failure.message.is_empty() => error.clone(),
        _ if failure.message.is_empty() => format!("it answers {status}"),
        _ => failure.message,
    };
    match failure.code {
        UNAUTHENTICATED => Err(CallError::Login(message)),
        _ if LOGIN_AGAIN.iter().any(|why| message.contains(why)) => Err(CallError::Login(message)),
        // This member cannot, and another one may: it learns, stops, or has no leader.
        UNAVAILABLE => Err(CallError::NoAnswer(message)),
        _ if status.is_server_error() && failure.code == 0 => Err(CallError::NoAnswer(message)),
        _ => Err(CallError::Refused(message)),
    }
}

fn shortened(text: &str) -> &str {
    text.get(..text.floor_char_boundary(ERROR_MAX)).unwrap_or(text)
}
