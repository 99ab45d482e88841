//! Two HTTP servers to stand behind the gateway.
//!
//! | path | answer |
//! |---|---|
//! | `/headers` | the request's header fields as JSON |
//! | `/echo` | the request's body, as it comes in |
//! | `/bytes/{n}` | n bytes |
//! | `/slow/{ms}` | the greeting, after so many milliseconds |
//! | `/status/{code}` | this status code |
//! | any other | a greeting that says which origin it is from |

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;
use std::{io, thread};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use futures_util::stream;

/// Enough to watch a download; it is made as it is sent, so it takes no memory.
const BYTES_MAX: usize = 1 << 30;

/// Longer than any timeout of the demo's routes.
const SLOW_MAX: Duration = Duration::from_secs(10);

/// Where the origins listen.
#[derive(Debug)]
pub(super) struct Origins {
    pub blue: SocketAddr,
    pub green: SocketAddr,
}

/// Starts both, on a thread that lives as long as the process. How many connections there are is up to their only
/// client, the gateway's clusters.
pub(super) fn start() -> io::Result<Origins> {
    let [blue, green] = [bind()?, bind()?];
    let origins = Origins { blue: blue.local_addr()?, green: green.local_addr()? };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("demo-origins".to_owned()).spawn(move || {
        let served = runtime.block_on(async { tokio::try_join!(serve("blue", blue), serve("green", green)) });
        if let Err(error) = served {
            log::error!("demo: the origins have ended: {error}");
        }
    })?;
    Ok(origins)
}

fn bind() -> io::Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

async fn serve(name: &'static str, listener: TcpListener) -> io::Result<()> {
    axum::serve(tokio::net::TcpListener::from_std(listener)?, router(name)).await
}

fn router(name: &'static str) -> Router {
    Router::new()
        .route("/headers", get(headers))
        .route("/echo", post(async |body: Body| body))
        .route("/bytes/{count}", get(bytes))
        .route("/slow/{ms}", get(slow))
        .route("/status/{code}", any(status))
        .fallback(greeting)
        .with_state(name)
}

async fn greeting(State(name): State<&'static str>, method: Method, uri: Uri) -> String {
    format!("Hello from {name}: {method} {}\n", uri.path())
}

async fn headers(fields: HeaderMap) -> String {
    let mut by_name: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for (name, value) in &fields {
        by_name.entry(name.as_str()).or_default().push(String::from_utf8_lossy(value.as_bytes()));
    }
    let joined: BTreeMap<_, _> = by_name.into_iter().map(|(name, values)| (name, values.join(", "))).collect();
    format!("{:#}\n", serde_json::json!(joined))
}

async fn bytes(Path(count): Path<usize>) -> Response {
    static PIECE: [u8; 16 * 1024] = [b'.'; 16 * 1024];
    if count > BYTES_MAX {
        return (StatusCode::BAD_REQUEST, format!("at most {BYTES_MAX}\n")).into_response();
    }
    let starts = (0..count).step_by(PIECE.len());
    let piece = move |start| Ok::<_, Infallible>(Bytes::from_static(&PIECE[..PIECE.len().min(count - start)]));
    Body::from_stream(stream::iter(starts.map(piece))).into_response()
}

async fn slow(State(name): State<&'static str>, Path(ms): Path<u64>) -> String {
    let delay = Duration::from_millis(ms).min(SLOW_MAX);
    tokio::time::sleep(delay).await;
    format!("Hello from {name}, after {delay:?}\n")
}

async fn status(Path(code): Path<u16>) -> Response {
    match StatusCode::from_u16(code).ok().filter(|_| (200..600).contains(&code)) {
        Some(status) => (status, format!("{status}\n")).into_response(),
        None => (StatusCode::BAD_REQUEST, "a code from 200 to 599\n").into_response(),
    }
}
