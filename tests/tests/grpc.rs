//! gRPC through the gateway, with two stacks that know nothing of it: tonic, and Python's over the C core.

use std::future::Future;
use std::pin::Pin;
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes};
use gateway_tests::h2::frame::code;
use gateway_tests::h2::{Client, Connection, Event, Options};
use gateway_tests::ports::{HeldPort, any_port};
use gateway_tests::prelude::*;
use gateway_tests::process::Process;
use http::uri::PathAndQuery;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::Service;
use tonic::server::{NamedService, StreamingService};
use tonic::transport::Channel;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response as Reply, Status, Streaming};

// === A service without generated code: messages are bytes ===

#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, room: &mut EncodeBuf<'_>) -> Result<(), Status> {
        room.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(source.copy_to_bytes(source.remaining())))
    }
}

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Messages = ReceiverStream<Result<Bytes, Status>>;

/// Every kind of call looks the same on the wire: messages in, messages out. The method says what happens to them.
#[derive(Clone)]
struct Echo {
    method: String,
    /// Told when a call of `Hang` begins, and when it is given up.
    gone: mpsc::Sender<&'static str>,
}

/// Says so when it is dropped.
struct Told(mpsc::Sender<&'static str>);

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.0.try_send("gone");
    }
}

impl NamedService for Echo {
    const NAME: &'static str = "test.Echo";
}

impl Service<http::Request<tonic::body::Body>> for Echo {
    type Response = http::Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let method = request.uri().path().trim_start_matches("/test.Echo/").to_owned();
        let echo = Echo { method, gone: self.gone.clone() };
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(Raw).max_decoding_message_size(64 << 20);
            Ok(grpc.streaming(echo, request).await)
        })
    }
}

impl StreamingService<Bytes> for Echo {
    type Response = Bytes;
    type ResponseStream = Messages;
    type Future = BoxFuture<Result<Reply<Messages>, Status>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let echo = self.clone();
        Box::pin(async move {
            let seen = request.metadata().get("x-in").cloned();
            if echo.method == "Hang" {
                // Dropped with the call.
                let _told = Told(echo.gone.clone());
                let _ = echo.gone.send("begun").await;
                return std::future::pending().await;
            }
            if echo.method == "Fail" {
                let mut status = Status::failed_precondition("not today: 100%");
                status.metadata_mut().insert("x-why", "because".parse().expect("a value"));
                return Err(status);
            }
            let (out, messages) = mpsc::channel(4);
            tokio::spawn(echo.run(request.into_inner(), out));
            let mut reply = Reply::new(ReceiverStream::new(messages));
            if let Some(seen) = seen {
                reply.metadata_mut().insert("x-out", seen);
            }
            Ok(reply)
        })
    }
}

impl Echo {
    async fn run(self, mut messages: Streaming<Bytes>, out: mpsc::Sender<Result<Bytes, Status>>) {
        match self.method.as_str() {
            "Count" => {
                let first = messages.message().await.ok().flatten().unwrap_or_default();
                let count: u32 = std::str::from_utf8(&first).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
                for n in 0..count {
                    let _ = out.send(Ok(n.to_string().into())).await;
                }
                if count == 13 {
                    let _ = out.send(Err(Status::aborted("an unlucky number"))).await;
                }
            }
            "Join" => {
                let mut all = Vec::new();
                while let Ok(Some(message)) = messages.message().await {
                    all.extend_from_slice(&message);
                }
                let _ = out.send(Ok(all.into())).await;
            }
            _ => {
                while let Ok(Some(message)) = messages.message().await {
                    let _ = out.send(Ok(message)).await;
                }
            }
        }
    }
}

/// A tonic server, the gateway in front of it, and a runtime for both ends.
struct Lab {
    gateway: Gateway,
    runtime: Runtime,
    gone: mpsc::Receiver<&'static str>,
}

impl Lab {
    fn start(route: &str) -> Lab {
        Lab::with(|addr| {
            Config::new()
                .listener("web", "")
                .cluster("origin", &[addr], "protocol = 'h2'")
                .route("all", &format!("cluster = 'origin'\n{route}"))
        })
    }

    fn with(config: impl FnOnce(std::net::SocketAddr) -> Config) -> Lab {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let (gone, is_gone) = mpsc::channel(16);
        let _inside = runtime.enter();
        let incoming = TcpIncoming::bind(any_port()).expect("bind a server").with_nodelay(Some(true));
        let addr = incoming.local_addr().expect("an address");
        let service = Echo { method: String::new(), gone };
        runtime.spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
        let gateway = Gateway::start(&config(addr));
        drop(_inside);
        Lab { gateway, runtime, gone: is_gone }
    }

    /// Waits until a call of `Hang` has begun.
    fn wait_begun(&mut self) {
        assert_eq!(self.told(), "begun");
    }

    /// Waits until it is given up.
    fn wait_given_up(&mut self) {
        while self.told() != "gone" {}
    }

    fn told(&mut self) -> &'static str {
        let told = async { tokio::time::timeout(wait::DEADLINE, self.gone.recv()).await };
        self.runtime.block_on(told).expect("the server hears of it in time").expect("a server")
    }

    fn client(&self) -> tonic::client::Grpc<Channel> {
        let uri = format!("http://{}", self.gateway.addr("web"));
        let endpoint = Channel::from_shared(uri).expect("a URI");
        let channel = self.runtime.block_on(endpoint.connect()).expect("a connection");
        tonic::client::Grpc::new(channel).max_decoding_message_size(64 << 20)
    }

    fn unary(&self, method: &str, request: Request<Bytes>) -> Result<Reply<Bytes>, Status> {
        let mut client = self.client();
        self.runtime.block_on(async {
            client.ready().await.expect("a connection");
            client.unary(request, path(method), Raw).await
        })
    }

    fn stream(&self, method: &str, messages: Vec<Bytes>) -> Result<Vec<Bytes>, Status> {
        let mut client = self.client();
        self.runtime.block_on(async {
            client.ready().await.expect("a connection");
            let sent = Request::new(tokio_stream::iter(messages));
            let mut answers = client.streaming(sent, path(method), Raw).await?.into_inner();
            let mut all = Vec::new();
            while let Some(answer) = answers.next().await {
                all.push(answer?);
            }
            Ok(all)
        })
    }
}

fn path(method: &str) -> PathAndQuery {
    let path = if method.starts_with('/') { method.to_owned() } else { format!("/test.Echo/{method}") };
    path.parse().expect("a path")
}

// === tonic on both sides ===

#[test]
fn every_kind_of_call_passes() {
    let lab = Lab::start("");
    for _ in 0..3 {
        let reply = lab.unary("Unary", Request::new("hello".into())).expect("a reply");
        assert_eq!(reply.into_inner(), "hello");
    }
    let joined = lab.stream("Join", vec!["a".into(), "b".into(), "c".into()]).expect("a reply");
    assert_eq!(joined, ["abc"]);
    let counted = lab.stream("Count", vec!["100".into()]).expect("replies");
    assert_eq!((counted.len(), &counted[99][..]), (100, &b"99"[..]));
    let empty = lab.stream("Echo", vec![]).expect("no replies");
    assert!(empty.is_empty());
}

#[test]
fn a_dialogue_goes_back_and_forth() {
    let lab = Lab::start("");
    let mut client = lab.client();
    lab.runtime.block_on(async {
        client.ready().await.expect("a connection");
        let (say, said) = mpsc::channel::<Bytes>(1);
        let sent = Request::new(ReceiverStream::new(said));
        let mut answers = client.streaming(sent, path("Echo"), Raw).await.expect("a call").into_inner();
        for n in 0..100 {
            let word = Bytes::from(n.to_string());
            say.send(word.clone()).await.expect("an open call");
            // Nothing may wait for more: each message is through before the next is sent.
            assert_eq!(answers.message().await.expect("an open call"), Some(word));
        }
        drop(say);
        assert_eq!(answers.message().await.expect("a good end"), None);
    });
}

#[test]
fn metadata_passes_both_ways() {
    let lab = Lab::start("");
    let mut request = Request::new(Bytes::from_static(b"x"));
    request.metadata_mut().insert("x-in", "value".parse().expect("a value"));
    let reply = lab.unary("Unary", request).expect("a reply");
    assert_eq!(reply.metadata().get("x-out").map(|value| value.as_bytes()), Some(&b"value"[..]));
}

#[test]
fn errors_pass_with_their_message_and_metadata() {
    let lab = Lab::start("");
    let status = lab.unary("Fail", Request::new(Bytes::new())).expect_err("a failure");
    assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "not today: 100%"));
    assert_eq!(status.metadata().get("x-why").map(|value| value.as_bytes()), Some(&b"because"[..]));
    let status = lab.stream("Count", vec!["13".into()]).expect_err("a failure behind 13 messages");
    assert_eq!((status.code(), status.message()), (Code::Aborted, "an unlucky number"));
}

#[test]
fn large_messages_pass() {
    let lab = Lab::start("");
    let large = Bytes::from(gateway_tests::pattern::bytes(20 << 20));
    let reply = lab.unary("Unary", Request::new(large.clone())).expect("a reply");
    assert!(reply.into_inner() == large, "the message differs");
}

#[test]
fn the_gateway_keeps_the_deadline() {
    let mut lab = Lab::start("timeout = '0s'");
    // Said by hand, so that only the gateway keeps time.
    let client = Client::connect(lab.gateway.addr("web"));
    let start = Instant::now();
    let headers = [("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", "300m")];
    let stream = client.start("POST", "/test.Echo/Hang", &headers, false);
    let (status, _) = grpc_end(&stream);
    let took = start.elapsed();
    assert_eq!(status, "4", "DEADLINE_EXCEEDED");
    assert!(took >= Duration::from_millis(250) && took < Duration::from_secs(9), "took {took:?}");
    lab.wait_given_up();
}

#[test]
fn a_deadline_that_passes_in_the_answer_cancels_the_stream() {
    let origin = Script::start(|conn| {
        let connection = Connection::server(conn.into_stream(), Options::default());
        let (stream, _) = connection.accept().expect("a call");
        stream.send_fields(&[(":status", "200"), ("content-type", "application/grpc")], false);
        stream.send_data(b"\0\0\0\0\0", false);
        connection.wait_end();
    });
    let gateway = Gateway::start(
        &Config::new()
            .listener("web", "")
            .cluster("origin", &[origin.addr()], "protocol = 'h2'\nidle_timeout = '300ms'")
            .route("all", "cluster = 'origin'\ntimeout = '0s'"),
    );
    let client = Client::connect(gateway.addr("web"));
    let headers = [("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", "300m")];
    let stream = client.start("POST", "/test.Echo/Hang", &headers, true);
    let end = std::iter::from_fn(|| stream.next().ok()).find(|event| matches!(event, Event::End | Event::Reset(_)));
    assert_eq!(end, Some(Event::Reset(code::CANCEL)));
}

/// Reads a call to its end: `grpc-status` and `grpc-message`, wherever they are.
fn grpc_end(stream: &gateway_tests::h2::Stream) -> (String, String) {
    let mut last = Vec::new();
    loop {
        match stream.next().expect("an answer") {
            Event::Fields(fields) => last = fields,
            Event::Data(_) => {}
            Event::End => break,
            Event::Reset(code) if last.iter().any(|(name, _)| name == "grpc-status") => {
                assert_eq!(code, 0, "NO_ERROR behind a whole answer");
                break;
            }
            Event::Reset(code) => panic!("reset {code} without a status; {last:?}"),
        }
    }
    let field = |name: &str| last.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
    (
        field("grpc-status").unwrap_or_else(|| panic!("no grpc-status in {last:?}")),
        field("grpc-message").unwrap_or_default(),
    )
}

#[test]
fn a_call_that_is_given_up_ends_at_the_server() {
    let mut lab = Lab::start("timeout = '0s'");
    let mut client = lab.client();
    let call = lab.runtime.spawn(async move {
        client.ready().await.expect("a connection");
        client.unary(Request::new(Bytes::new()), path("Hang"), Raw).await
    });
    lab.wait_begun();
    call.abort();
    lab.wait_given_up();
}

#[test]
fn calls_are_routed_by_service_and_method() {
    let lab = Lab::with(|addr| {
        Config::new()
            .listener("web", "")
            .cluster("origin", &[addr], "protocol = 'h2'")
            .cluster("nobody", &[HeldPort::new().addr()], "protocol = 'h2'")
            .route("echo", "match = { grpc = { service = 'test.Echo' } }\ncluster = 'origin'")
            .route("fail", "match = { grpc = { service = 'test.Echo', method = 'Fail' } }\ncluster = 'nobody'")
    });
    assert_eq!(lab.unary("Unary", Request::new("x".into())).expect("a reply").into_inner(), "x");
    let code = |method: &str| lab.unary(method, Request::new(Bytes::new())).expect_err("no such call").code();
    assert_eq!(code("Fail"), Code::Unavailable, "a route of its own");
    assert_eq!(code("/test.Other/Unary"), Code::Unimplemented, "no route");
}

#[test]
fn the_gateways_own_answers_are_grpc() {
    let nobody = HeldPort::new();
    let config = Config::new()
        .listener("web", "")
        .cluster("nobody", &[nobody.addr()], "protocol = 'h2'")
        .cluster("empty", &[], "protocol = 'h2'")
        .route("refused", "match = { path_prefix = '/test.Refused' }\ncluster = 'nobody'")
        .route("empty", "match = { path_prefix = '/test.Empty' }\ncluster = 'empty'")
        .route("busy", "match = { path_prefix = '/test.Busy' }\nrespond = { status = 429, body = 'later' }")
        .route("denied", "match = { path_prefix = '/test.Denied' }\nrespond = { status = 403 }")
        .route("moved", "match = { path_prefix = '/test.Moved' }\nredirect = { host = 'new.example', status = 308 }");
    let gateway = Gateway::start(&config);
    let client = Client::connect(gateway.addr("web"));
    for (path, status) in [
        ("/test.Nowhere/Call", "12"),
        ("/test.Refused/Call", "14"),
        ("/test.Empty/Call", "14"),
        ("/test.Busy/Call", "14"),
        ("/test.Denied/Call", "7"),
        // No client of gRPC follows a redirect.
        ("/test.Moved/Call", "2"),
    ] {
        let headers = [("content-type", "application/grpc+proto"), ("te", "trailers")];
        let stream = client.start("POST", path, &headers, false);
        stream.send_data(&[0, 0, 0, 0, 0], true);
        let Ok(Event::Fields(fields)) = stream.next() else { panic!("no answer for {path}") };
        let field = |name: &str| fields.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
        assert_eq!((field(":status"), field("content-type")), (Some("200"), Some("application/grpc")), "{fields:?}");
        assert_eq!(field("grpc-status"), Some(status), "{path}: {fields:?}");
        assert!(status != "14" || field("grpc-message").is_some(), "{path}: {fields:?}");
        assert_eq!(stream.next(), Ok(Event::End), "nothing but trailers");
    }
    // Who does not speak gRPC is answered in HTTP.
    assert_eq!(client.get("/test.Nowhere/Call").status, 404);
}

#[test]
fn a_reload_does_not_cut_a_stream() {
    let config = |addr| Config::new().listener("web", "").cluster("origin", &[addr], "protocol = 'h2'");
    let mut origin = None;
    let mut lab = Lab::with(|addr| {
        origin = Some(addr);
        config(addr).route("all", "cluster = 'origin'\ntimeout = '0s'")
    });
    let mut client = lab.client();
    let Lab { gateway, runtime, .. } = &mut lab;
    runtime.block_on(async {
        client.ready().await.expect("a connection");
        let (say, said) = mpsc::channel::<Bytes>(1);
        let sent = Request::new(ReceiverStream::new(said));
        let mut answers = client.streaming(sent, path("Echo"), Raw).await.expect("a call").into_inner();
        for n in 0..6 {
            let word = Bytes::from(n.to_string());
            say.send(word.clone()).await.expect("an open call");
            assert_eq!(answers.message().await.expect("an open call"), Some(word));
            if n % 2 == 0 {
                let more = config(origin.expect("an address")).route("all", "cluster = 'origin'");
                gateway
                    .reload(&more.route("more", &format!("match = {{ path = '/{n}' }}\nrespond = {{ status = 204 }}")));
            }
        }
    });
}

// === The C core, through Python ===

const SERVER: &str = r#"
import grpc, sys, threading
from concurrent import futures

def join(messages, context):
    return b"".join(messages)

def count(message, context):
    for n in range(int(message)):
        yield b"%d" % n

def echo(messages, context):
    for message in messages:
        yield message

def fail(message, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today: 100%")

def hang(message, context):
    over = threading.Event()
    context.add_callback(over.set)
    over.wait(60)

handlers = {
    "Unary": grpc.unary_unary_rpc_method_handler(lambda message, context: message),
    "Join": grpc.stream_unary_rpc_method_handler(join),
    "Count": grpc.unary_stream_rpc_method_handler(count),
    "Echo": grpc.stream_stream_rpc_method_handler(echo),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "Hang": grpc.unary_unary_rpc_method_handler(hang),
}
server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", 64 << 20)])
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
print("PORT", server.add_insecure_port(sys.argv[1]), flush=True)
server.start()
server.wait_for_termination()
"#;

const CLIENT: &str = r#"
import grpc, sys

options = [("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", 64 << 20)]
channel = grpc.insecure_channel(sys.argv[1], options=options)
unary = channel.unary_unary("/test.Echo/Unary")
assert unary(b"hello", timeout=15) == b"hello"
large = bytes(range(256)) * 40000
assert unary(large, timeout=15) == large
assert channel.stream_unary("/test.Echo/Join")(iter([b"a", b"b", b"c"]), timeout=15) == b"abc"
assert list(channel.unary_stream("/test.Echo/Count")(b"100", timeout=15)) == [b"%d" % n for n in range(100)]
words = [b"%d" % n for n in range(100)]
assert list(channel.stream_stream("/test.Echo/Echo")(iter(words), timeout=15)) == words

def failure(method, message, timeout):
    try:
        channel.unary_unary(method)(message, timeout=timeout)
    except grpc.RpcError as error:
        return error.code(), error.details()
    raise AssertionError("no failure")

assert failure("/test.Echo/Fail", b"", 15) == (grpc.StatusCode.FAILED_PRECONDITION, "not today: 100%")
assert failure("/test.Echo/Hang", b"", 0.3)[0] == grpc.StatusCode.DEADLINE_EXCEEDED
assert failure("/test.Other/Unary", b"", 15)[0] == grpc.StatusCode.UNIMPLEMENTED
call = channel.unary_unary("/test.Echo/Hang").future(b"")
call.cancel()
assert call.cancelled()
assert unary(b"still here", timeout=15) == b"still here"
print("PASSED")
"#;

fn python(script: &str, argument: &str) -> Process {
    // Debian's own: the package python3-grpcio is for it.
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", script, argument]);
    Process::start(command)
}

fn run_python_client(gateway: &Gateway) {
    let mut client = python(CLIENT, &gateway.addr("web").to_string());
    let status = client.wait_exit(wait::DEADLINE * 3);
    assert!(status.success() && client.stdout.text().contains("PASSED"), "{status}: {}", client.stderr.text());
}

/// Only this service: what it does not have is the gateway's to refuse.
fn echo_config(addr: std::net::SocketAddr) -> Config {
    Config::new()
        .listener("web", "")
        .cluster("origin", &[addr], "protocol = 'h2'")
        .route("echo", "match = { path_prefix = '/test.Echo' }\ncluster = 'origin'")
}

#[test]
fn the_c_cores_client_talks_to_tonic() {
    let lab = Lab::with(echo_config);
    run_python_client(&lab.gateway);
}

#[test]
fn the_c_core_talks_to_itself() {
    let mut server = python(SERVER, &any_port().to_string());
    let line = server.stdout.find("the server's port", |line| line.starts_with("PORT "));
    let line = line.unwrap_or_else(|| panic!("no server: {}", server.stderr.text()));
    let port = line["PORT ".len()..].parse().expect("a port");
    let addr = std::net::SocketAddr::new(gateway_tests::ports::loopback(), port);
    let gateway = Gateway::start(&echo_config(addr));
    run_python_client(&gateway);
    server.signal(libc::SIGKILL);
    server.wait_exit(wait::DEADLINE);
}
