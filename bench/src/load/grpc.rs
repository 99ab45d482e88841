//! Streaming gRPC calls: on each stream a message goes there and comes back, then the next one.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Request};
use tokio::net::TcpStream;
use tokio::runtime;
use tokio::task::{LocalSet, spawn_local};

use super::Outcome;
use super::h2load::Streams;
use crate::certs;

/// Messages of a call.
const MESSAGES: u32 = 100;
/// How long the calls may take to end when the time is up.
const END_LIMIT: Duration = Duration::from_secs(5);

type Shared = Rc<RefCell<Outcome>>;

/// Runs for `time`; `what.message` is the length of each message.
pub fn run(what: Streams, target: SocketAddr, time: Duration) -> Result<Outcome> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = Shared::default();
    let started = Instant::now();
    LocalSet::new().block_on(&runtime, async {
        let end = started + time;
        let mut calls = Vec::new();
        for _ in 0..what.connections {
            let client = connect(target).await?;
            for _ in 0..what.streams {
                let (client, outcome) = (client.clone(), outcome.clone());
                let length = what.message.unwrap_or(0);
                calls.push(spawn_local(async move {
                    while Instant::now() < end {
                        if let Err(error) = call(client.clone(), length, end, &outcome).await {
                            let mut outcome = outcome.borrow_mut();
                            outcome.failed += 1;
                            outcome.why = Some(format!("{error:#}"));
                            return;
                        }
                    }
                }));
            }
        }
        for call in calls {
            let limit = END_LIMIT.saturating_sub(end.elapsed());
            let ended = tokio::time::timeout(limit + end.saturating_duration_since(Instant::now()), call).await;
            ensure!(ended.is_ok(), "a call has not ended {END_LIMIT:?} after the last message was sent");
        }
        Ok(())
    })?;
    let mut outcome = std::mem::take(&mut *outcome.borrow_mut());
    outcome.took = started.elapsed();
    Ok(outcome)
}

/// One call, to its status.
async fn call(client: SendRequest<Bytes>, length: u32, end: Instant, outcome: &Shared) -> Result<()> {
    let message = message(length);
    let (response, mut outgoing) = client.ready().await?.send_request(request("Chat", Some(length))?, false)?;
    let mut sent = Instant::now();
    outgoing.send_data(message.clone(), false)?;
    let response = response.await?;
    ensure!(response.status() == 200, "answered with {}", response.status());
    let mut body = response.into_body();
    for number in 1..=MESSAGES {
        let mut left = message.len();
        while left > 0 {
            let data = body.data().await.context("the answer ended early")??;
            body.flow_control().release_capacity(data.len())?;
            left = left.checked_sub(data.len()).context("more than was sent")?;
        }
        {
            let mut outcome = outcome.borrow_mut();
            outcome.done += 1;
            outcome.latency.saturating_record(sent.elapsed().as_nanos() as u64);
        }
        if number == MESSAGES || Instant::now() > end {
            break;
        }
        sent = Instant::now();
        outgoing.send_data(message.clone(), false)?;
    }
    outgoing.send_data(Bytes::new(), true)?;
    ensure!(body.data().await.is_none(), "more than was sent");
    check_status(body.trailers().await?)
}

/// A new connection of HTTP/2 without TLS, which lives as long as the current [`LocalSet`].
pub(super) async fn connect(target: SocketAddr) -> Result<SendRequest<Bytes>> {
    let socket = TcpStream::connect(target).await?;
    socket.set_nodelay(true)?;
    let (client, connection) = h2::client::handshake(socket).await?;
    spawn_local(connection);
    Ok(client)
}

/// The head of a call of this method where there is a `message`, and else of a plain GET.
pub(super) fn request(method: &str, message: Option<u32>) -> Result<Request<()>> {
    let host = certs::HOST;
    let request = match message {
        None => Request::get(format!("http://{host}/")),
        Some(_) => Request::post(format!("http://{host}/bench.Echo/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers"),
    };
    Ok(request.body(())?)
}

/// A message as it is sent: not compressed, its length, its bytes.
pub(super) fn message(length: u32) -> Bytes {
    Bytes::from([&[0u8][..], &length.to_be_bytes(), &vec![b'm'; length as usize]].concat())
}

/// Whether the call has ended well.
pub(super) fn check_status(trailers: Option<HeaderMap>) -> Result<()> {
    let status = trailers.context("no trailers")?.get("grpc-status").cloned();
    ensure!(status.as_ref().is_some_and(|status| status == "0"), "grpc-status {status:?}");
    Ok(())
}
