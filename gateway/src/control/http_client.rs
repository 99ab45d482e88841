//! HTTP/1.1 as a client, for what the control thread asks of others: certificate authorities, etcd, webhooks. How a peer is
//! connected to and trusted, how long it may take and how much it may say is here; what is said is theirs.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::resolve;

/// How long the system's authorities are used before they are read again, which takes some ten milliseconds.
const AUTHORITIES_FOR: Duration = Duration::from_secs(60 * 60);

/// Whom to connect to.
#[derive(Clone, Copy, Debug)]
pub struct Peer<'a> {
    /// Whether it speaks TLS.
    pub is_tls: bool,
    /// A name or an address; one of IPv6 without brackets.
    pub host: &'a str,
    /// Its port.
    pub port: u16,
}

/// How a peer that speaks TLS is trusted, and what it is shown.
#[derive(Clone, Copy, Default)]
pub struct Trust<'a> {
    /// Authorities, in PEM; `None` is the system's.
    pub ca_pem: Option<&'a [u8]>,
    /// A certificate of ours with its chain, and its key, in PEM.
    pub client: Option<(&'a [u8], &'a [u8])>,
}

/// What a peer may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Until it is connected: the lookup of its name and TLS included.
    pub connect: Duration,
    /// Until it has answered, to the last byte.
    pub answer: Duration,
    /// Longest body of an answer; `None`: it is not read.
    pub body: Option<usize>,
}

/// Why there is no answer, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The request was not sent.
    Unsent(String),
    /// It may have been, and done.
    NoAnswer(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Unsent(why) | Failure::NoAnswer(why) => f.write_str(why),
        }
    }
}

/// An open connection, for one request after the other. It ends when it is dropped.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    limits: Limits,
    _driver: JoinSet<()>,
}

impl Connection {
    /// Connects. The error says in words what went wrong.
    pub async fn open(to: Peer<'_>, trust: Trust<'_>, limits: Limits) -> Result<Connection, String> {
        let connected = timeout(limits.connect, connect(to, trust, limits.connect)).await;
        let (sender, driver) = connected.unwrap_or_else(|_| Err(TOO_LATE.into()))?;
        Ok(Connection { sender, limits, _driver: driver })
    }

    /// Whether another request would find it closed.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Sends a request, which has its `host`, and waits for the answer.
    pub async fn exchange(&mut self, mut request: Request<Full<Bytes>>) -> Result<Response<Bytes>, Failure> {
        let agent = HeaderValue::from_static(concat!("gateway/", env!("CARGO_PKG_VERSION")));
        request.headers_mut().entry(header::USER_AGENT).or_insert(agent);
        let exchanged = timeout(self.limits.answer, self.try_exchange(request)).await;
        exchanged.unwrap_or_else(|_| Err(Failure::NoAnswer("no answer in time".into())))
    }

    async fn try_exchange(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, Failure> {
        self.sender.ready().await.map_err(|error| Failure::Unsent(text(error)))?;
        let answer = self.sender.send_request(request).await.map_err(|error| match error.is_canceled() {
            // It was closed before the request was sent.
            true => Failure::Unsent(text(error)),
            false => Failure::NoAnswer(text(error)),
        })?;
        let (head, body) = answer.into_parts();
        let body = match self.limits.body {
            Some(most) => {
                Limited::new(body, most).collect().await.map_err(|error| Failure::NoAnswer(text(error)))?.to_bytes()
            }
            None => Bytes::new(),
        };
        Ok(Response::from_parts(head, body))
    }
}

/// Why there is no connection, where nobody said.
const TOO_LATE: &str = "cannot be reached in time";

type Open = (SendRequest<Full<Bytes>>, JoinSet<()>);

async fn connect(to: Peer<'_>, trust: Trust<'_>, within: Duration) -> Result<Open, String> {
    let cannot = |error: io::Error| match error.kind() {
        io::ErrorKind::TimedOut => TOO_LATE.to_owned(),
        _ => format!("cannot connect: {error}"),
    };
    let end = Instant::now() + within;
    let addresses = resolve::ask(to.host.to_owned()).await.map_err(|error| format!("no address: {error}"))?;
    let addresses: Vec<_> = addresses.into_iter().map(|ip| SocketAddr::new(ip, to.port)).collect();
    let stream = first_open(&addresses, end).await.map_err(cannot)?;
    stream.set_nodelay(true).map_err(cannot)?;
    if !to.is_tls {
        return begin(stream).await;
    }
    let name = ServerName::try_from(to.host.to_owned()).map_err(|_| "its host is no server name".to_owned())?;
    let connector = TlsConnector::from(Arc::new(tls(trust).await?));
    begin(connector.connect(name, stream).await.map_err(|error| format!("no TLS: {error}"))?).await
}

/// Connects to the first of these addresses that answers, in their order. Each has an even share of the time that is left, so that
/// one that is dead does not take that of the others; the last has all of it.
async fn first_open(addresses: &[SocketAddr], end: Instant) -> io::Result<TcpStream> {
    let mut failed = io::Error::from(io::ErrorKind::NotFound);
    for (index, address) in addresses.iter().enumerate() {
        let left = end.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => failed = error,
            Err(_) => failed = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(failed)
}

/// Begins HTTP; a task moves the bytes.
async fn begin(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Result<Open, String> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
    let mut driver = JoinSet::new();
    driver.spawn(async { drop(connection.await) });
    Ok((sender, driver))
}

async fn tls(trust: Trust<'_>) -> Result<ClientConfig, String> {
    let authorities = match trust.ca_pem {
        Some(pem) => Arc::new(authorities(CertificateDer::pem_slice_iter(pem).flatten())),
        None => system_authorities().await?,
    };
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(text)?
        .with_root_certificates(authorities);
    let mut config = match trust.client {
        None => config.with_no_client_auth(),
        Some((chain_pem, key_pem)) => {
            let chain = CertificateDer::pem_slice_iter(chain_pem).collect::<Result<_, _>>().map_err(text)?;
            config.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key_pem).map_err(text)?).map_err(text)?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Read by another thread, and once for all that connect within the hour. None at all is no reading that lasts.
async fn system_authorities() -> Result<Arc<RootCertStore>, String> {
    static SYSTEM: Mutex<Option<(Instant, Arc<RootCertStore>)>> = Mutex::const_new(None);
    let mut known = SYSTEM.lock().await;
    if let Some((_, read)) = known.as_ref().filter(|(at, _)| at.elapsed() < AUTHORITIES_FOR) {
        return Ok(read.clone());
    }
    let read = spawn_blocking(|| authorities(rustls_native_certs::load_native_certs().certs)).await.map_err(text)?;
    let read = Arc::new(read);
    // What cannot be read now may be read the next time.
    *known = (!read.is_empty()).then(|| (Instant::now(), read.clone()));
    Ok(read)
}

/// A bundle may have some in it that nobody understands.
fn authorities(certificates: impl IntoIterator<Item = CertificateDer<'static>>) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates);
    roots
}

fn text(error: impl fmt::Display) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const LIMITS: Limits = Limits { connect: Duration::from_secs(20), answer: Duration::from_secs(20), body: Some(8) };

    /// Answers each connection with these bytes and closes it; without any it says nothing.
    async fn server(answer: &'static str) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 4096]).await;
                match answer {
                    "" => open.push(stream),
                    answer => stream.write_all(answer.as_bytes()).await.unwrap(),
                }
            }
        });
        port
    }

    fn request() -> Request<Full<Bytes>> {
        Request::get("/").header(header::HOST, "a.test").body(Full::default()).unwrap()
    }

    async fn ask(answer: &'static str, limits: Limits) -> Result<Response<Bytes>, Failure> {
        let peer = Peer { is_tls: false, host: "127.0.0.1", port: server(answer).await };
        Connection::open(peer, Trust::default(), limits).await.unwrap().exchange(request()).await
    }

    #[tokio::test]
    async fn an_answer_has_its_limits() {
        let short = Limits { answer: Duration::from_millis(50), ..LIMITS };
        let good = ask("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n12345678", LIMITS).await.unwrap();
        assert_eq!((good.status().as_u16(), &good.body()[..]), (200, &b"12345678"[..]));
        let long = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n123456789";
        assert!(matches!(ask(long, LIMITS).await, Err(Failure::NoAnswer(_))));
        assert_eq!(ask(long, Limits { body: None, ..LIMITS }).await.unwrap().body().len(), 0);
        assert_eq!(ask("", short).await.unwrap_err(), Failure::NoAnswer("no answer in time".into()));
        assert!(matches!(ask("no HTTP\r\n\r\n", LIMITS).await, Err(Failure::NoAnswer(_))));
    }

    #[tokio::test]
    async fn what_went_wrong_is_said() {
        let port = server("").await;
        let peer = Peer { is_tls: true, host: "127.0.0.1", port };
        let limits = Limits { connect: Duration::from_millis(300), ..LIMITS };
        let open = |peer, limits| Connection::open(peer, Trust { ca_pem: Some(b""), client: None }, limits);
        assert_eq!(open(peer, limits).await.err().unwrap(), "cannot be reached in time");
        // The port of a socket that does not listen.
        let closed = tokio::net::TcpSocket::new_v4().unwrap();
        closed.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let nobody = Peer { port: closed.local_addr().unwrap().port(), ..peer };
        assert!(open(nobody, LIMITS).await.err().unwrap().starts_with("cannot connect: "));
        let plain = Peer { port: server("HTTP/1.1 200 OK\r\n\r\n").await, ..peer };
        assert!(open(plain, LIMITS).await.err().unwrap().starts_with("no TLS: "));
    }

    #[tokio::test]
    async fn an_address_that_is_dead_leaves_time_to_the_next() {
        let good = SocketAddr::from(([127, 0, 0, 1], server("").await));
        // The port of a socket that does not listen.
        let closed = tokio::net::TcpSocket::new_v4().unwrap();
        closed.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let nobody = closed.local_addr().unwrap();
        let end = Instant::now() + Duration::from_secs(20);
        assert_eq!(first_open(&[nobody, good], end).await.unwrap().peer_addr().unwrap(), good);
        assert_eq!(first_open(&[nobody], end).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert!(first_open(&[], end).await.is_err());
        // One whose queue of connections is full does not answer at all.
        let full = tokio::net::TcpSocket::new_v4().unwrap();
        full.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let full = full.listen(1).unwrap();
        let dead = full.local_addr().unwrap();
        let mut waiting = Vec::new();
        while let Ok(Ok(stream)) = timeout(Duration::from_millis(200), TcpStream::connect(dead)).await {
            waiting.push(stream);
        }
        let end = Instant::now() + Duration::from_secs(2);
        assert_eq!(first_open(&[dead, good], end).await.unwrap().peer_addr().unwrap(), good);
    }

    #[tokio::test]
    async fn the_systems_authorities_are_read_once() {
        let (one, other) = (system_authorities().await.unwrap(), system_authorities().await.unwrap());
        assert_eq!(Arc::ptr_eq(&one, &other), !one.is_empty(), "none at all are read again");
    }
}
