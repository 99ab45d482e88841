//! `forwarder LISTEN ORIGIN`: copies bytes between each client and a connection of its own to the origin, on the gateway's
//! runtime with the gateway's settings of the ring. A proxy on that runtime cannot cost less, except where the gateway
//! splices.

use std::env;
use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::{Context, Result};
use tokio_uring::net::{TcpListener, TcpStream};

/// The gateway's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Large enough for large bodies, and what an idle connection holds twice.
const BUFFER: usize = 64 * 1024;

fn main() -> Result<()> {
    let mut args = env::args().skip(1).map(|arg| arg.parse::<SocketAddr>());
    let listen = args.next().context("usage: forwarder LISTEN ORIGIN")??;
    let origin = args.next().context("usage: forwarder LISTEN ORIGIN")??;
    let mut ring = tokio_uring::uring_builder();
    ring.setup_coop_taskrun().setup_single_issuer().setup_cqsize(8192).setup_clamp();
    tokio_uring::builder().entries(1024).uring_builder(&ring).start(serve(listen, origin))
}

async fn serve(listen: SocketAddr, origin: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(listen)?;
    loop {
        let (client, _) = listener.accept().await?;
        tokio_uring::spawn(async move {
            let Ok(server) = TcpStream::connect(origin).await else { return };
            let (client, server) = (Rc::new(client), Rc::new(server));
            for socket in [&client, &server] {
                let _as_it_is = socket.set_nodelay(true);
            }
            tokio_uring::spawn(copy(client.clone(), server.clone()));
            copy(server, client).await;
        });
    }
}

/// Until one side ends; then the other one does.
async fn copy(from: Rc<TcpStream>, to: Rc<TcpStream>) {
    let mut buffer = Vec::with_capacity(BUFFER);
    loop {
        let (read, filled) = from.read(buffer).await;
        if !matches!(read, Ok(count) if count > 0) {
            break;
        }
        let (written, emptied) = to.write_all(filled).await;
        if written.is_err() {
            break;
        }
        buffer = emptied;
        buffer.clear();
    }
    for socket in [from, to] {
        let _closed_already = socket.shutdown(std::net::Shutdown::Both);
    }
}
