//! HTTP with a certificate authority: a connection for each request, which authorities get few of.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{HOST, HeaderMap, RETRY_AFTER};
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};

use crate::control::http_client::{Connection, Limits, Peer, Trust};

/// What an authority may take: its answers have a hundredth of that.
const LIMITS: Limits =
    Limits { connect: Duration::from_secs(10), answer: Duration::from_secs(30), body: Some(1 << 20) };

/// Speaks HTTP/1.1 over TLS.
pub struct CaClient {
    ca_pem: Option<Arc<[u8]>>,
    asked: Pause,
}

/// Whether, and how long, the authority wants to be left in peace.
#[derive(Clone, Debug, Default)]
pub struct Pause(Arc<Mutex<Asked>>);

/// What an authority has asked for by its answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// How long it wants to be left in peace, as it said with its last refusal.
    pub pause: Option<Duration>,
    /// It is asked too often, or overworked: that and `pause` count whatever it answers after that.
    pub is_too_often: bool,
}

impl Pause {
    /// Forgets it.
    pub fn take(&self) -> Asked {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, status: StatusCode, pause: Option<Duration>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).note(status, pause);
    }
}

impl Asked {
    fn note(&mut self, status: StatusCode, pause: Option<Duration>) {
        let is_refusal = status.is_client_error() || status.is_server_error();
        let is_overworked = status == StatusCode::SERVICE_UNAVAILABLE && pause.is_some();
        if status == StatusCode::TOO_MANY_REQUESTS || is_overworked {
            let before = self.pause.filter(|_| self.is_too_often);
            *self = Asked { pause: pause.max(before), is_too_often: true };
        } else if !self.is_too_often {
            self.pause = pause.filter(|_| is_refusal);
        }
    }
}

impl CaClient {
    /// Trusts these authorities, or the system's, and tells `asked` what the authority asks for.
    pub fn new(ca_pem: Option<Arc<[u8]>>, asked: Pause) -> CaClient {
        CaClient { ca_pem, asked }
    }
}

impl HttpClient for CaClient {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let (ca_pem, asked) = (self.ca_pem.clone(), self.asked.clone());
        Box::pin(async move {
            let uri = request.uri().clone();
            let failed = |why: String| Error::Other(io::Error::other(format!("{uri}: {why}")).into());
            let (parts, body) = exchange(ca_pem.as_deref(), request).await.map_err(failed)?.into_parts();
            asked.note(parts.status, retry_after(&parts.headers, SystemTime::now()));
            Ok(BytesResponse { parts, body: Box::new(body) })
        })
    }
}

async fn exchange(ca_pem: Option<&[u8]>, request: Request<BodyWrapper<Bytes>>) -> Result<Response<Bytes>, String> {
    let (mut head, body) = request.into_parts();
    let authority = head.uri.authority().ok_or("no host")?.clone();
    if head.uri.scheme_str() != Some("https") {
        // RFC 8555 section 6.1.
        return Err("not https".into());
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let peer = Peer { is_tls: true, host, port: authority.port_u16().unwrap_or(443) };
    let mut connection = Connection::open(peer, Trust { ca_pem, client: None }, LIMITS).await?;
    head.uri = head.uri.path_and_query().cloned().map_or_else(|| Uri::from_static("/"), Uri::from);
    let name = HeaderValue::from_str(authority.as_str()).map_err(|error| error.to_string())?;
    head.headers.insert(HOST, name);
    let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
    connection.exchange(Request::from_parts(head, Full::new(body))).await.map_err(|failure| failure.to_string())
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
    fn that_it_is_asked_too_often_counts_whatever_comes_after() {
        for (answers, pause, is_too_often) in [
            (&[(200, Some(60))][..], None, false),
            (&[(403, Some(60))], Some(60), false),
            (&[(403, Some(60)), (200, None)], None, false),
            (&[(503, None)], None, false),
            (&[(503, Some(60)), (200, None)], Some(60), true),
            (&[(429, None), (200, Some(60))], None, true),
            (&[(429, Some(60)), (403, Some(5)), (200, None)], Some(60), true),
            (&[(403, Some(600)), (429, Some(60)), (429, Some(30))], Some(60), true),
        ] {
            let mut asked = Asked::default();
            for (status, seconds) in answers {
                asked.note(StatusCode::from_u16(*status).unwrap(), seconds.map(Duration::from_secs));
            }
            assert_eq!(asked, Asked { pause: pause.map(Duration::from_secs), is_too_often }, "{answers:?}");
        }
    }

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
