//! The origin for gRPC: HTTP/2 without TLS, every message of a call comes back at once, and the status is 0.

use std::net::SocketAddr;
use std::thread;

use anyhow::Result;
use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;
use tokio::task::{LocalSet, spawn_local};

use crate::core;

/// Streams a connection may have: more than any load opens.
const STREAMS: u32 = 1_000;

/// Starts it on the load's core; it ends with the program.
pub fn start() -> Result<SocketAddr> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let addr = listener.local_addr()?;
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("grpc-origin".into()).spawn(move || {
        let pinned = core::pin(core::LOAD);
        let served = pinned.and_then(|()| LocalSet::new().block_on(&runtime, serve(listener)));
        panic!("the origin ended: {served:?}");
    })?;
    Ok(addr)
}

async fn serve(listener: std::net::TcpListener) -> std::io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        spawn_local(async move {
            // The peer may end the connection in any way it likes.
            let _ended = connection(socket).await;
        });
    }
}

async fn connection(socket: TcpStream) -> Result<(), h2::Error> {
    let mut connection = h2::server::Builder::new().max_concurrent_streams(STREAMS).handshake(socket).await?;
    while let Some(call) = connection.accept().await {
        let (request, respond) = call?;
        spawn_local(async move {
            let _ended = echo(request, respond).await;
        });
    }
    Ok(())
}

async fn echo(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
    let mut response = Response::new(());
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    let mut answer = respond.send_response(response, false)?;
    let mut body = request.into_body();
    while let Some(message) = body.data().await {
        let message = message?;
        body.flow_control().release_capacity(message.len())?;
        // The frame that ends a call may be empty. Such frames without end count as an attack on their receiver.
        if !message.is_empty() {
            answer.send_data(message, false)?;
        }
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    answer.send_trailers(trailers)
}
