//! One connection to etcd, and calls over it one after the other.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::super::{MAX_BYTES, StoreError};
use super::api::{Answer, Failure};
use crate::config::model::{EtcdEndpoint, EtcdStore, EtcdTls};
use crate::control::resolve;

/// How long a member may take until it is connected, TLS included.
const CONNECT: Duration = Duration::from_secs(1);

/// How long it may take to answer: an election among the members takes about a second.
const ANSWER: Duration = Duration::from_secs(5);

/// Bytes of an answer that are read: a page of values in base64, or one of the longest.
const ANSWER_BYTES: usize = 4 * MAX_BYTES as usize;

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
    tls: Option<Arc<ClientConfig>>,
    login: Option<Value>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The member that is asked, by its place among the endpoints.
    member: usize,
    sender: Option<SendRequest<Full<Bytes>>>,
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
    pub fn new(wanted: &EtcdStore) -> Result<Link, StoreError> {
        let tls = wanted.endpoints.iter().any(|endpoint| endpoint.is_tls).then(|| tls(&wanted.tls)).transpose();
        let login = wanted.login.as_ref().map(|login| json!({ "name": login.username, "password": login.password }));
        Ok(Link {
            endpoints: wanted.endpoints.clone(),
            tls: tls.map_err(StoreError::Etcd)?.map(Arc::new),
            login,
            state: Mutex::default(),
        })
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
        state.sender = None;
        state.member = (state.member + 1) % self.endpoints.len();
    }

    async fn try_once(&self, state: &mut State, path: &str, request: &Value) -> Result<Answer, CallError> {
        let mut sender = match state.sender.take() {
            Some(sender) if !sender.is_closed() => sender,
            _ => {
                let connected = timeout(CONNECT, self.connect(&self.endpoints[state.member])).await;
                connected.unwrap_or_else(|_| Err("cannot be reached in time".into())).map_err(CallError::Unreached)?
            }
        };
        let host = self.endpoints[state.member].to_string();
        let answer = timeout(ANSWER, async {
            if let (Some(login), None) = (&self.login, &state.token) {
                let answer = exchange(&mut sender, &host, "auth/authenticate", login, None).await?;
                state.token = answer.token;
            }
            exchange(&mut sender, &host, path, request, state.token.as_deref()).await
        });
        let answer = answer.await.unwrap_or_else(|_| Err(CallError::NoAnswer("no answer in time".into())));
        if !matches!(answer, Err(CallError::NoAnswer(_))) {
            state.sender = Some(sender);
        }
        answer
    }

    async fn connect(&self, member: &EtcdEndpoint) -> Result<SendRequest<Full<Bytes>>, String> {
        let cannot = |error: std::io::Error| format!("cannot connect: {error}");
        let addresses = resolve::ask(member.host.clone()).await.map_err(|error| format!("no address: {error}"))?;
        let addresses: Vec<_> = addresses.into_iter().map(|ip| SocketAddr::new(ip, member.port)).collect();
        let stream = TcpStream::connect(&addresses[..]).await.map_err(cannot)?;
        stream.set_nodelay(true).map_err(cannot)?;
        let Some(tls) = self.tls.as_ref().filter(|_| member.is_tls) else { return open(stream).await };
        let name = ServerName::try_from(member.host.clone()).map_err(|_| "its host is no server name".to_owned())?;
        let connected = TlsConnector::from(tls.clone()).connect(name, stream).await;
        open(connected.map_err(|error| format!("no TLS: {error}"))?).await
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}

/// Begins HTTP; a task moves the bytes until the sender is dropped.
async fn open(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<SendRequest<Full<Bytes>>, String> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn exchange(
    sender: &mut SendRequest<Full<Bytes>>,
    host: &str,
    path: &str,
    body: &Value,
    token: Option<&str>,
) -> Result<Answer, CallError> {
    let mut request = Request::post(format!("/v3/{path}"))
        .header(header::HOST, host)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::USER_AGENT, concat!("gateway/", env!("CARGO_PKG_VERSION")));
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, token);
    }
    let request = request.body(Full::new(body.to_string().into())).map_err(|e| CallError::Refused(e.to_string()))?;
    sender.ready().await.map_err(|error| CallError::Unreached(error.to_string()))?;
    let answer = sender.send_request(request).await.map_err(|error| match error.is_canceled() {
        // It was closed before the request was sent.
        true => CallError::Unreached(error.to_string()),
        false => CallError::NoAnswer(error.to_string()),
    })?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES).collect().await;
    read(status, &body.map_err(|error| CallError::NoAnswer(text(error)))?.to_bytes())
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

fn tls(wanted: &EtcdTls) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    match &wanted.ca_pem {
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                roots.add(certificate.map_err(text)?).map_err(text)?;
            }
        }
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(text)?
        .with_root_certificates(roots);
    let mut config = match &wanted.client {
        None => config.with_no_client_auth(),
        Some(pair) => {
            let chain = CertificateDer::pem_slice_iter(&pair.chain_pem).collect::<Result<_, _>>().map_err(text)?;
            let key = PrivateKeyDer::from_pem_slice(&pair.key_pem).map_err(text)?;
            config.with_client_auth_cert(chain, key).map_err(text)?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn text(error: impl fmt::Display) -> String {
    error.to_string()
}

fn shortened(text: &str) -> &str {
    text.get(..text.floor_char_boundary(ERROR_MAX)).unwrap_or(text)
}
