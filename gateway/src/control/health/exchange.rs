//! One request over HTTP/2, on a connection of its own.

use std::pin::pin;

use bytes::Bytes;
use futures_util::FutureExt;
use h2::RecvStream;
use h2::client::{Builder, SendRequest};
use http::{Request, Response, Uri};

use super::probe::Io;
use crate::proto::limits::RESPONSE_HEAD_BYTES;

/// Why a request is not sent after a TLS handshake that settled something else.
pub const NOT_H2: &str = "it does not speak HTTP/2 (ALPN)";

/// Where a request goes.
pub fn uri(is_tls: bool, host: &str, path: &str) -> Result<Uri, String> {
    let scheme = if is_tls { "https" } else { "http" };
    let uri = Uri::builder().scheme(scheme).authority(host).path_and_query(path).build();
    uri.map_err(|error| format!("host \"{host}\", path \"{path}\": {error}"))
}

/// Sends a request with its body, which may be empty, and has the answer read.
pub async fn exchange<T>(
    io: Box<dyn Io>,
    request: Request<()>,
    body: Bytes,
    read: impl AsyncFnOnce(Response<RecvStream>) -> Result<T, String>,
) -> Result<T, String> {
    let mut builder = Builder::new();
    builder.max_header_list_size(RESPONSE_HEAD_BYTES as u32).enable_push(false);
    let (sender, connection) = builder.handshake(io).await.map_err(text)?;
    let mut connection = pin!(connection);
    let mut asked = pin!(ask(sender, request, body, read));
    let result = tokio::select! {
        biased;
        result = &mut asked => result,
        // What came before the end may be all there is to the answer. If it is not, nobody tells the request so: h2 does
        // not when it fails to write.
        ended = &mut connection => return asked.now_or_never().unwrap_or_else(|| Err(end(ended))),
    };
    // Nothing refers to it any more, so it says GOAWAY; whether the endpoint hears that does not matter.
    let _ = connection.now_or_never();
    result
}

async fn ask<T>(
    sender: SendRequest<Bytes>,
    request: Request<()>,
    body: Bytes,
    read: impl AsyncFnOnce(Response<RecvStream>) -> Result<T, String>,
) -> Result<T, String> {
    let mut sender = sender.ready().await.map_err(text)?;
    let (answer, mut stream) = sender.send_request(request, body.is_empty()).map_err(text)?;
    // Else the connection would wait for a next request.
    drop(sender);
    if !body.is_empty() {
        // Small enough for the window that every stream begins with.
        stream.send_data(body, true).map_err(text)?;
    }
    read(answer.await.map_err(text)?).await
}

fn end(ended: Result<(), h2::Error>) -> String {
    ended.err().map_or_else(|| "it ends the connection without an answer".into(), text)
}

/// An error in words.
pub fn text(error: h2::Error) -> String {
    error.to_string()
}
