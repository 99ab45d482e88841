//! What endpoints are asked in TLS, HTTP/2 and gRPC, from the configuration to the verdict.

use std::sync::Mutex;

use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use rustls::{HandshakeKind, ServerConfig};
use tokio::io::AsyncRead;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::*;

/// Whom the clusters of these tests trust, and a server of whom it has vouched for `api.test`.
struct Authority {
    pem: String,
    server: Arc<ServerConfig>,
}

impl Authority {
    fn new(alpn: &[&str]) -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // One that is not known, and not one whose signature is wrong.
        params.distinguished_name.push(DnType::CommonName, format!("{alpn:?}"));
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(["api.test".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
        let mut server = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
            .unwrap();
        server.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Authority { pem: authority.pem(), server: Arc::new(server) }
    }
}

/// Runs `serve` on each connection, within TLS where `tls` says so.
async fn listen<F: Future<Output = ()> + Send + 'static>(
    tls: Option<Arc<ServerConfig>>,
    serve: impl Fn(Box<dyn Served>) -> F + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            match &tls {
                None => _ = tokio::spawn(serve(Box::new(stream))),
                Some(config) => {
                    if let Ok(stream) = TlsAcceptor::from(config.clone()).accept(stream).await {
                        tokio::spawn(serve(Box::new(stream)));
                    }
                }
            }
        }
    });
    address
}

trait Served: AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}

impl Served for TcpStream {}

impl Served for tokio_rustls::server::TlsStream<TcpStream> {}

/// Serves HTTP/2 by `answer`, and keeps the heads of the requests.
async fn listen_h2(
    tls: Option<Arc<ServerConfig>>,
    answer: fn(SendResponse<Bytes>),
) -> (SocketAddr, Arc<Mutex<Vec<Request<()>>>>) {
    let heads: Arc<Mutex<Vec<Request<()>>>> = Arc::default();
    let kept = heads.clone();
    let address = listen(tls, move |io| {
        let kept = kept.clone();
        async move {
            let Ok(mut connection) = h2::server::handshake(io).await else { return };
            while let Some(Ok((request, respond))) = connection.accept().await {
                let (head, _) = request.into_parts();
                kept.lock().unwrap().push(Request::from_parts(head, ()));
                answer(respond);
            }
        }
    });
    (address.await, heads)
}

fn answer(status: u16) -> Response<()> {
    Response::builder().status(status).body(()).unwrap()
}

fn grpc_head() -> Response<()> {
    Response::builder().header("content-type", "application/grpc").body(()).unwrap()
}

/// Answers the health check with a body and trailers of one field.
fn grpc(mut respond: SendResponse<Bytes>, body: &'static [u8], trailer: Option<(&'static str, &'static str)>) {
    let mut stream = respond.send_response(grpc_head(), false).unwrap();
    stream.send_data(Bytes::from_static(body), trailer.is_none()).unwrap();
    if let Some((name, value)) = trailer {
        stream.send_trailers(HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())])).unwrap();
    }
}

/// A cluster with these lines. `CA` in them is the authority's file.
fn cluster(
    builder: &mut Builder,
    address: SocketAddr,
    authority: &str,
    lines: &str,
    before: Option<&Snapshot>,
) -> Snapshot {
    let directory = tempfile::tempdir().unwrap();
    let (path, ca) = (directory.path().join("gateway.toml"), directory.path().join("ca.pem"));
    std::fs::write(&ca, authority).unwrap();
    let lines = lines.replace("CA", ca.to_str().unwrap());
    std::fs::write(&path, format!("[[cluster]]\nname = 'a'\nendpoints = ['{address}']\n{lines}\n")).unwrap();
    let config = crate::config::load(&path, &DiskFiles, SystemTime::now()).unwrap_or_else(|report| panic!("{report}"));
    builder.build(config.config, &Resolved::new(), before).unwrap()
}

fn builder() -> Builder {
    Builder::new(Arc::new(Registry::new(1)), Arc::default(), Arc::default(), Arc::default())
}

/// What the endpoint of such a cluster is asked.
fn question_to(address: SocketAddr, authority: &str, lines: &str) -> Question {
    let snapshot = cluster(&mut builder(), address, authority, lines, None);
    let (cluster, view) = (&snapshot.config.clusters[0], &snapshot.clusters[0]);
    let tls = view.check_tls.as_ref().map(|tls| Tls::of(tls, 0));
    question(cluster, &cluster.endpoints[0], address, tls, &[]).unwrap()
}

async fn asked(address: SocketAddr, authority: &str, lines: &str) -> Result<(), String> {
    ask(&question_to(address, authority, lines)).await
}

fn holds(what: &str, result: &Result<(), String>, expected: Result<(), &str>) {
    match (result, expected) {
        (Ok(()), Ok(())) => {}
        (Err(error), Err(part)) if error.contains(part) => {}
        _ => panic!("{what}: {result:?}, expected {expected:?}"),
    }
}

const OURS: &str = "tls = { server_name = 'api.test', ca = 'CA' }";

#[tokio::test]
async fn http_is_asked_as_the_cluster_is_used_unless_the_check_says_otherwise() {
    let well = |mut respond: SendResponse<Bytes>| _ = respond.send_response(answer(204), true).unwrap();
    let check = "health_check = { protocol = 'http', path = '/up' }";
    let both = Authority::new(&["h2", "http/1.1"]);
    let (plain, plain_heads) = listen_h2(None, well).await;
    let (tls, tls_heads) = listen_h2(Some(both.server.clone()), well).await;
    let other = "health_check = { protocol = 'http', http = 'h2', tls = { server_name = 'api.test', ca = 'CA' } }";
    for (address, lines) in [
        (plain, format!("protocol = 'h2'\n{check}")),
        (tls, format!("protocol = 'h2'\n{OURS}\n{check}")),
        (tls, format!("protocol = 'auto'\n{OURS}\n{check}")),
        (tls, other.to_owned()),
        (plain, format!("{OURS}\nhealth_check = {{ protocol = 'http', http = 'h2', tls = false }}")),
    ] {
        holds(&lines, &asked(address, &both.pem, &lines).await, Ok(()));
    }
    for (heads, scheme, address) in [(plain_heads, "http", plain), (tls_heads, "https", tls)] {
        let head = heads.lock().unwrap().remove(0);
        assert_eq!(head.uri().to_string(), format!("{scheme}://{address}/up"));
        assert_eq!(
            (head.method().as_str(), &head.headers()["user-agent"]),
            ("GET", &"gateway-health-check".parse().unwrap())
        );
    }
    let unwell = |mut respond: SendResponse<Bytes>| _ = respond.send_response(answer(503), true).unwrap();
    let (address, _) = listen_h2(None, unwell).await;
    holds("503", &asked(address, "", &format!("protocol = 'h2'\n{check}")).await, Err("answers /up with 503"));
}

#[tokio::test]
async fn http_1_goes_over_tls_and_http_2_is_not_spoken_to_who_does_not_choose_it() {
    async fn serve(mut io: Box<dyn Served>) {
        let _ = io.read(&mut [0; 4096]).await;
        let _ = io.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        let _ = io.shutdown().await;
    }
    let check = "health_check = { protocol = 'http' }";
    for (alpn, protocol, expected) in [
        (&["http/1.1"][..], "h1", Ok(())),
        (&["http/1.1"], "auto", Ok(())),
        (&[], "h1", Ok(())),
        (&[], "auto", Ok(())),
        (&["http/1.1"], "h2", Err("NoApplicationProtocol")),
        (&[], "h2", Err("it does not speak HTTP/2 (ALPN)")),
    ] {
        let authority = Authority::new(alpn);
        let address = listen(Some(authority.server.clone()), serve).await;
        let lines = format!("protocol = '{protocol}'\n{OURS}\n{check}");
        holds(&format!("{alpn:?} {protocol}"), &asked(address, &authority.pem, &lines).await, expected);
    }
    let authority = Authority::new(&[]);
    let address = listen(Some(authority.server.clone()), serve).await;
    let lines = format!("{OURS}\nhealth_check = {{ protocol = 'grpc' }}");
    holds("grpc", &asked(address, &authority.pem, &lines).await, Err("it does not speak HTTP/2 (ALPN)"));
}

#[tokio::test]
async fn a_tls_check_is_a_handshake_with_a_certificate_that_is_trusted() {
    let (ours, stranger) = (Authority::new(&["postgresql"]), Authority::new(&[]));
    let address = listen(Some(ours.server.clone()), async |io| drop(io)).await;
    let check = |tls: &str| format!("health_check = {{ protocol = 'tls', tls = {tls} }}");
    let name = "tls = { server_name = 'api.test', ca = 'CA' }\nhealth_check = { protocol = 'tls' }".to_owned();
    for (authority, lines, expected) in [
        (&ours, name.clone(), Ok(())),
        (&ours, check("{ server_name = 'api.test', ca = 'CA' }"), Ok(())),
        (&stranger, check("{ verify = false }"), Ok(())),
        (&stranger, name, Err("invalid peer certificate: UnknownIssuer")),
        (&ours, check("true"), Err("invalid peer certificate: UnknownIssuer")),
        (
            &ours,
            check("{ server_name = 'other.test', ca = 'CA' }"),
            Err("certificate not valid for name \"other.test\""),
        ),
        (&ours, check("{ ca = 'CA' }"), Err("certificate not valid for name \"127.0.0.1\"")),
    ] {
        let result = asked(address, &authority.pem, &lines).await;
        holds(&lines, &result, expected);
        assert!(result.is_ok() || result.unwrap_err().starts_with(&format!("no TLS with {address}: ")));
    }
}

#[tokio::test]
async fn no_check_resumes_a_session_so_each_sees_the_certificate() {
    let authority = Authority::new(&[]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let config = authority.server.clone();
    let server = tokio::spawn(async move {
        let mut kinds = Vec::new();
        while kinds.len() < 3 {
            let stream = listener.accept().await.unwrap().0;
            let mut stream = TlsAcceptor::from(config.clone()).accept(stream).await.unwrap();
            kinds.push(stream.get_ref().1.handshake_kind().unwrap());
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        }
        kinds
    });
    let question = question_to(address, &authority.pem, &format!("{OURS}\nhealth_check = {{ protocol = 'http' }}"));
    for _ in 0..3 {
        assert_eq!(ask(&question).await, Ok(()));
    }
    assert_eq!(server.await.unwrap(), [HandshakeKind::Full; 3]);
}

#[test]
fn the_settings_of_a_check_are_kept_over_a_reload_while_they_mean_the_same() {
    let (authority, address) = (Authority::new(&[]), ([127, 0, 0, 1], 1).into());
    let mut builder = builder();
    let mut build = |lines: &str, before: Option<&Snapshot>| {
        let lines = format!("{OURS}\n{lines}");
        cluster(&mut builder, address, &authority.pem, &lines, before)
    };
    let settings = |snapshot: &Snapshot| snapshot.clusters[0].check_tls.as_ref().unwrap().config.clone();
    let first = build("health_check = { protocol = 'http' }", None);
    for (lines, same) in [
        ("max_connections = 9\nhealth_check = { protocol = 'http', timeout = '1s' }", true),
        ("health_check = { protocol = 'http', http = 'h2' }", false),
        ("health_check = { protocol = 'http', tls = { verify = false } }", false),
        ("health_check = { protocol = 'tls' }", false),
    ] {
        let next = build(lines, Some(&first));
        assert_eq!(Arc::ptr_eq(&settings(&first), &settings(&next)), same, "{lines}");
    }
}

#[tokio::test]
async fn grpc_is_asked_for_a_service_and_serving_is_the_only_good_answer() {
    type Answers = fn(SendResponse<Bytes>);
    const SERVING: &[u8] = b"\0\0\0\0\x02\x08\x01";
    const ENDLESS: &[u8] = &[0; 10_000];
    let cases: [(Answers, Result<(), &str>); 8] = [
        (|respond| grpc(respond, SERVING, Some(("grpc-status", "0"))), Ok(())),
        (
            |respond| grpc(respond, b"\0\0\0\0\x02\x08\x02", Some(("grpc-status", "0"))),
            Err("answers the gRPC health check with NOT_SERVING"),
        ),
        (|respond| grpc(respond, SERVING, None), Err("with no grpc-status: the answer is not whole")),
        (|respond| grpc(respond, SERVING, Some(("x", "y"))), Err("with no grpc-status: the answer is not whole")),
        (
            |mut respond| {
                let mut head = grpc_head();
                head.headers_mut().insert("grpc-status", "12".parse().unwrap());
                respond.send_response(head, true).unwrap();
            },
            Err("with grpc-status 12 (UNIMPLEMENTED): it has no grpc.health.v1.Health"),
        ),
        (|mut respond| _ = respond.send_response(answer(404), true).unwrap(), Err("with HTTP status 404")),
        (|respond| grpc(respond, ENDLESS, Some(("grpc-status", "0"))), Err("its body does not end")),
        (|mut respond| respond.send_reset(h2::Reason::REFUSED_STREAM), Err("no answer of gRPC")),
    ];
    let lines = "health_check = { protocol = 'grpc', service = 'shop.Orders', host = 'shop.test' }";
    for (answers, expected) in cases {
        let (address, heads) = listen_h2(None, answers).await;
        holds("plain", &asked(address, "", lines).await, expected);
        let head = heads.lock().unwrap().remove(0);
        assert_eq!(head.uri(), "http://shop.test/grpc.health.v1.Health/Check");
        assert_eq!(
            (&head.headers()["te"], &head.headers()["content-type"]),
            (&"trailers".parse().unwrap(), &"application/grpc".parse().unwrap())
        );
    }
    let authority = Authority::new(&["h2"]);
    let serving = |respond| grpc(respond, SERVING, Some(("grpc-status", "0")));
    let (address, _) = listen_h2(Some(authority.server.clone()), serving).await;
    let lines = format!("protocol = 'h2'\n{OURS}\nhealth_check = {{ protocol = 'grpc' }}");
    holds("TLS", &asked(address, &authority.pem, &lines).await, Ok(()));
}

#[tokio::test]
async fn who_says_something_else_or_nothing_fails_whatever_is_asked() {
    async fn garbage(mut io: Box<dyn Served>) {
        let _ = io.write_all(b"220 mail.test ESMTP ready, whatever you say\r\n").await;
        let _ = io.read_to_end(&mut Vec::new()).await;
    }
    async fn silence(mut io: Box<dyn Served>) {
        let _ = io.read_to_end(&mut Vec::new()).await;
    }
    let (garbage, silence) = (listen(None, garbage).await, listen(None, silence).await);
    let gone = listen(None, async |io| drop(io)).await;
    for (check, beginning) in [
        ("protocol = 'tls', tls = { verify = false }", "no TLS with "),
        ("protocol = 'http', tls = { verify = false }", "no TLS with "),
        ("protocol = 'http'", "no answer of HTTP from "),
        ("protocol = 'http', http = 'h2'", "no answer of HTTP from "),
        ("protocol = 'grpc'", "no answer of gRPC from "),
    ] {
        let lines = format!("health_check = {{ timeout = '200ms', {check} }}");
        for address in [garbage, gone] {
            let why = asked(address, "", &lines).await.unwrap_err();
            assert!(why.starts_with(&format!("{beginning}{address}: ")) && why.len() < 200, "{check}: {why}");
        }
        assert_eq!(asked(silence, "", &lines).await.unwrap_err(), "no answer within 200ms", "{check}");
    }
}

#[tokio::test]
async fn endpoints_that_want_a_proxy_header_get_one_that_says_that_nobody_is_passed_on() {
    for (version, header) in [("v1", &b"PROXY UNKNOWN\r\n"[..]), ("v2", b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0")] {
        let address = listen(None, move |mut io| async move {
            let mut begin = vec![0; header.len() + 4];
            io.read_exact(&mut begin).await.unwrap();
            if begin == [header, b"GET "].concat() {
                io.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            }
        });
        let address = address.await;
        let lines = format!("proxy_protocol = '{version}'\nhealth_check = {{ protocol = 'http' }}");
        holds(version, &asked(address, "", &lines).await, Ok(()));
        let lines =
            format!("proxy_protocol = '{version}'\nhealth_check = {{ protocol = 'http', proxy_protocol = 'off' }}");
        assert!(asked(address, "", &lines).await.is_err(), "{version}");
    }
}
