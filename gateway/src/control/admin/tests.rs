use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::control::renew::{NotRenewed, Which};
use crate::filter::bans::Bans;

impl Sources for Bans {
    fn bans(&self) -> &Bans {
        self
    }

    fn apply_bans(&self) {
        let (_, any) = self.take_changes();
        assert_eq!(any, self.count() > 0);
    }

    fn banned_packets(&self, _: ipnet::IpNet) -> u64 {
        7
    }

    fn lists(&self, address: Option<IpAddr>) -> String {
        format!("{address:?}\n")
    }
}

struct Bed {
    address: std::net::SocketAddr,
    readiness: watch::Sender<Readiness>,
    reloads: mpsc::Receiver<ReloadRequest>,
}

async fn bed() -> Bed {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (readiness, readiness_seen) = watch::channel(Readiness::Initializing);
    let (reload, reloads) = mpsc::channel(1);
    let state = AdminState {
        readiness: readiness_seen,
        metrics: Arc::new(|| "# metrics\n".to_owned()),
        config: Arc::new(|| "{\"listeners\":[]}".to_owned()),
        endpoints: Arc::new(|| "[]".to_owned()),
        certificates: Arc::new(|| "{}\n".to_owned()),
        renew: Arc::new(|which| match which {
            Which::All => Ok("{}\n".to_owned()),
            Which::One(name) if name == "busy" => Err(NotRenewed::Refused("busy: not now".to_owned())),
            Which::One(name) => Err(NotRenewed::Unknown(format!("no {name}"))),
        }),
        overload: Arc::new(|| "{}\n".to_owned()),
        reload,
        sources: Arc::new(Bans::default()),
    };
    tokio::spawn(serve(listener, state));
    Bed { address, readiness, reloads }
}

/// Sends the bytes and reads until the endpoint closes the connection.
async fn raw(address: std::net::SocketAddr, request: String) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

impl Bed {
    async fn ask(&self, request_line: &str, fields: &str) -> String {
        let host = if fields.contains("host:") { String::new() } else { format!("host: {}\r\n", self.address) };
        raw(self.address, format!("{request_line} HTTP/1.1\r\n{host}{fields}\r\n")).await
    }

    async fn status(&self, request_line: &str, fields: &str) -> u16 {
        self.ask(request_line, fields).await[9..12].parse().unwrap()
    }
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

#[tokio::test]
async fn ready_follows_the_life_of_the_gateway() {
    let bed = bed().await;
    for (readiness, status, text) in [
        (Readiness::Initializing, "503", "INITIALIZING\n"),
        (Readiness::Live, "200", "LIVE\n"),
        (Readiness::Draining, "503", "DRAINING\n"),
    ] {
        bed.readiness.send_replace(readiness);
        let answer = bed.ask("GET /ready", "").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        assert_eq!(body(&answer), text);
    }
}

#[tokio::test]
async fn pages_have_their_types() {
    let bed = bed().await;
    let metrics = bed.ask("GET /metrics", "").await;
    assert!(metrics.contains("content-type: text/plain; version=0.0.4"), "{metrics}");
    assert_eq!(body(&metrics), "# metrics\n");
    let config = bed.ask("GET /config", "").await;
    assert!(config.contains("content-type: application/json"), "{config}");
    assert_eq!(body(&config), "{\"listeners\":[]}");
    assert!(body(&bed.ask("GET /", "").await).contains("POST /reload"));
    assert_eq!(body(&bed.ask("GET /healthz", "").await), "OK\n");
    assert_eq!(body(&bed.ask("HEAD /healthz", "").await), "");
}

#[tokio::test]
async fn wrong_methods_and_paths_are_refused() {
    let bed = bed().await;
    let answer = bed.ask("GET /reload", "").await;
    assert!(answer.starts_with("HTTP/1.1 405") && answer.contains("allow: POST"), "{answer}");
    assert_eq!(bed.status("POST /ready", "content-length: 0\r\n").await, 405);
    assert_eq!(bed.status("GET /nothing", "").await, 404);
    assert_eq!(bed.status("POST /reload", "content-length: 1000000\r\n").await, 413);
}

#[tokio::test]
async fn a_reload_answers_with_its_result() {
    let mut bed = bed().await;
    let cases: [(Result<ReloadDone, String>, &str, &str); 2] = [
        (
            Ok(ReloadDone { generation: 8, changed: true, warnings: vec!["\"old\" certificate".into()] }),
            "200",
            "{\"generation\":8,\"changed\":true,\"warnings\":[\"\\\"old\\\" certificate\"]}\n",
        ),
        (Err("error: unknown key\n".into()), "400", "error: unknown key\n"),
    ];
    for (result, status, text) in cases {
        let request = format!("POST /reload HTTP/1.1\r\nhost: {}\r\ncontent-length: 1\r\n\r\nx", bed.address);
        let answer = tokio::spawn(raw(bed.address, request));
        bed.reloads.recv().await.unwrap().reply.send(result).unwrap();
        let answer = answer.await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        assert_eq!(body(&answer), text);
    }
}

#[tokio::test]
async fn a_reload_while_the_gateway_ends_says_so() {
    let mut bed = bed().await;
    bed.reloads.close();
    assert_eq!(bed.status("POST /reload", "").await, 503);
}

#[tokio::test]
async fn names_and_origins_of_others_are_refused() {
    let bed = bed().await;
    let port = bed.address.port();
    for (fields, status) in [
        ("host: localhost\r\n".to_owned(), 200),
        (format!("host: LOCALHOST:{port}\r\n"), 200),
        (format!("host: [::1]:{port}\r\n"), 200),
        ("host: gateway.localhost\r\n".to_owned(), 200),
        (format!("host: evil.example:{port}\r\n"), 403),
        ("host: localhost.evil.example\r\n".to_owned(), 403),
        ("host: 127.0.0.1.evil.example\r\n".to_owned(), 403),
        (format!("host: 127.0.0.1:{port}\r\norigin: http://127.0.0.1:{port}\r\n"), 200),
        ("origin: http://evil.example\r\n".to_owned(), 403),
        ("origin: null\r\n".to_owned(), 403),
    ] {
        assert_eq!(bed.status("GET /healthz", &fields).await, status, "{fields}");
    }
}

#[test]
fn beyond_loopback_any_name_will_do_but_no_foreign_origin() {
    let guard = Guard { loopback: false };
    let mut headers = HeaderMap::new();
    headers.insert(header::HOST, HeaderValue::from_static("gateway.internal:9901"));
    assert_eq!(guard.refusal(&headers), None);
    headers.insert(header::ORIGIN, HeaderValue::from_static("https://evil.example"));
    assert!(guard.refusal(&headers).is_some());
}

#[tokio::test]
async fn every_answer_ends_its_connection() {
    let answer = bed().await.ask("GET /healthz", "connection: keep-alive\r\n").await;
    assert!(answer.contains("connection: close"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_is_cut_off() {
    let bed = bed().await;
    let mut stream = TcpStream::connect(bed.address).await.unwrap();
    // The paused clock runs ahead to the connection's deadline.
    assert!(matches!(stream.read(&mut [0; 16]).await, Ok(0) | Err(_)));
}

#[tokio::test]
async fn a_renewal_is_asked_for_by_name_or_for_all() {
    let bed = bed().await;
    for (body, status, text) in [
        (r#"{"all": true}"#, "200", "{}\n"),
        (r#"{"name": "busy"}"#, "409", "busy: not now\n"),
        (r#"{"name": "none"}"#, "404", "no none\n"),
        (r#"{"name": "none", "all": true}"#, "400", "the body has to be"),
        (r#"{"all": false}"#, "400", "the body has to be"),
        ("", "400", "the body has to be"),
    ] {
        let length = body.len();
        let head = "POST /certificates/renew HTTP/1.1\r\nhost: localhost\r\ncontent-length";
        let answer = raw(bed.address, format!("{head}: {length}\r\n\r\n{body}")).await;
        assert_eq!(&answer[9..12], status, "{body}");
        assert!(answer.split_once("\r\n\r\n").unwrap().1.starts_with(text), "{body}: {answer}");
    }
}

#[tokio::test]
async fn bans_are_made_shown_and_ended() {
    let bed = bed().await;
    let ask = async |method: &str, path: &str, body: &str| {
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n{body}");
        let answer = raw(bed.address, head).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].to_owned(), body.to_owned())
    };
    let cases = [
        ("GET", "/bans", "", "200", "[]"),
        ("POST", "/bans/192.0.2.1", r#"{"ttl": "10m", "reason": "scans"}"#, "200", r#"{"banned":"192.0.2.1/32"}"#),
        ("POST", "/bans/2001:db8::1", "", "200", r#"{"banned":"2001:db8::/64"}"#),
        ("POST", "/bans/192.0.2.9", r#"{"ttl": "8days"}"#, "409", "a ban lasts from"),
        ("POST", "/bans/192.0.2.9", r#"{"ttl": "soon"}"#, "400", "is not a duration"),
        ("POST", "/bans/192.0.2.9", "{", "400", "is not JSON"),
        ("POST", "/bans/example.com", "", "400", "is not an IP address"),
        ("GET", "/bans", "", "200", r#""xdp_packets": 7"#),
        ("GET", "/bans/192.0.2.1", "", "200", r#""reason": "scans""#),
        ("GET", "/bans/192.0.2.2", "", "404", "is not banned"),
        ("DELETE", "/bans/192.0.2.1", "", "200", r#"{"undone":"192.0.2.1/32"}"#),
        ("DELETE", "/bans/192.0.2.1", "", "404", "is not banned"),
        ("GET", "/lists/192.0.2.1", "", "200", "Some(192.0.2.1)"),
        ("GET", "/lists", "", "200", "None"),
    ];
    for (method, path, body, status, part) in cases {
        let (got, text) = ask(method, path, body).await;
        assert!(got == status && text.contains(part), "{method} {path} {body}: {got} {text}");
    }
}
