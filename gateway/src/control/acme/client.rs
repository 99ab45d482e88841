//! HTTP with a certificate authority: a connection for each request, which authorities get few of.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{HOST, HeaderMap, RETRY_AFTER};
use http::{HeaderValue, Request, Uri, response};
use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

/// How long a request may take, from the lookup of the name to the last byte of the answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Longest answer: a hundred times a chain of certificates.
const BYTES_MAX: usize = 1 << 20;

/// Speaks HTTP/1.1 over TLS.
pub struct CaClient {
    tls: TlsConnector,
    asked: Pause,
}

/// How long the authority wants to be left in peace, as it said with its last refusal.
#[derive(Clone, Debug, Default)]
pub struct Pause(Arc<Mutex<Option<Duration>>>);

impl Pause {
    /// Forgets it.
    pub fn take(&self) -> Option<Duration> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn set(&self, pause: Option<Duration>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = pause;
    }
}

impl CaClient {
    /// Tells `asked` what the authority asks for.
    pub fn new(tls: Arc<ClientConfig>, asked: Pause) -> CaClient {
        CaClient { tls: tls.into(), asked }
    }
}

impl HttpClient for CaClient {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let (tls, asked) = (self.tls.clone(), self.asked.clone());
        Box::pin(async move {
            let uri = request.uri().clone();
            let exchange = tokio::time::timeout(TIMEOUT, exchange(tls, request)).await;
            let result = exchange.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)));
            let (parts, body) =
                result.map_err(|error| Error::Other(io::Error::new(error.kind(), format!("{uri}: {error}")).into()))?;
            let refused = parts.status.is_client_error() || parts.status.is_server_error();
            asked.set(refused.then(|| retry_after(&parts.headers, SystemTime::now())).flatten());
            Ok(BytesResponse { parts, body: Box::new(body) })
        })
    }
}

async fn exchange(tls: TlsConnector, mut request: Request<BodyWrapper<Bytes>>) -> io::Result<(response::Parts, Bytes)> {
    let authority = request.uri().authority().ok_or_else(|| io::Error::other("no host"))?.clone();
    if request.uri().scheme_str() != Some("https") {
        // RFC 8555 section 6.1.
        return Err(io::Error::other("not https"));
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
    let tcp = TcpStream::connect((host, authority.port_u16().unwrap_or(443))).await?;
    let stream = tls.connect(name, tcp).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // Ends with this function.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = path.map_or_else(|| Uri::from_static("/"), Uri::from);
    request.headers_mut().insert(HOST, HeaderValue::from_str(authority.as_str()).map_err(io::Error::other)?);
    let (parts, body) = sender.send_request(request).await.map_err(io::Error::other)?.into_parts();
    let body = Limited::new(body, BYTES_MAX).collect().await.map_err(io::Error::other)?;
    Ok((parts, body.to_bytes()))
}

/// RFC 9110 section 10.2.3: seconds, or a date.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_seconds_or_a_date() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        for (text, expected) in [
            ("120", Some(120)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:48:37 GMT", None),
            ("-1", None),
            ("soon", None),
            ("", None),
        ] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(text))]);
            assert_eq!(retry_after(&headers, now), expected.map(Duration::from_secs), "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
