mod spoken;

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::time::timeout;

use super::*;
use crate::config::model::{HealthProbe, UpstreamProtocol};
use crate::control::source::DiskFiles;
use crate::metrics::registry::Registry;
use crate::snapshot::{Builder, Resolved};

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(20);

#[test]
fn the_first_answer_decides_at_once_and_later_ones_in_a_row() {
    // Answers, and after each `.` or `!` for "this one decides".
    let cases = [
        (2, 3, "+! +. -. -. -! -. +. -. +. +! +."),
        (1, 1, "-! +! -! -. +!"),
        (2, 3, "-! +. -. +. +!"),
        (2, 3, "+! -. -. +. -. -. -!"),
    ];
    for (healthy, unhealthy, answers) in cases {
        let mut judge = Judge { healthy_after: healthy, unhealthy_after: unhealthy, healthy: None, against: 0 };
        for (at, answer) in answers.split(' ').enumerate() {
            assert_eq!(judge.hears(answer.starts_with('+')), answer.ends_with('!'), "{answers}, answer {at}");
        }
    }
}

#[test]
fn jitter_is_a_tenth_either_way() {
    for (random, ms) in [(0.0, 900), (0.5, 1000), (1.0, 1100)] {
        assert_eq!(jittered(Duration::from_secs(1), random).as_millis(), ms);
    }
}

fn check(probe: HealthProbe) -> HealthCheck {
    let timeout = Duration::from_millis(300);
    HealthCheck {
        probe,
        tls: None,
        proxy_protocol: None,
        port: None,
        interval: Duration::from_millis(1),
        timeout,
        healthy: 1,
        unhealthy: 1,
    }
}

async fn asked(probe: HealthProbe, address: SocketAddr) -> Result<(), String> {
    ask(&Question { check: check(probe), host: "origin.test:80".into(), address, tls: None, ways: Vec::new() }).await
}

fn http(path: &str) -> HealthProbe {
    HealthProbe::Http { version: UpstreamProtocol::H1, path: path.into(), host: None, statuses: 200..=299 }
}

/// Answers each connection with the bytes, after a request of which it gives the head.
async fn answer(listener: TcpListener, bytes: &'static [u8], requests: mpsc::Sender<String>) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 4096];
        let length = stream.read(&mut request).await.unwrap();
        let _ = requests.send(String::from_utf8_lossy(&request[..length]).into_owned()).await;
        let _ = stream.write_all(bytes).await;
    }
}

#[tokio::test]
async fn an_http_endpoint_is_asked_for_the_path_and_judged_by_the_status() {
    let cases: [(&[u8], Result<(), &str>); 7] = [
        (b"HTTP/1.1 204 No Content\r\n\r\n", Ok(())),
        (b"HTTP/1.0 200 OK\r\n\r\nbody", Ok(())),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", Ok(())),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", Err("answers /up with 503")),
        (b"HTTP/1.1 301 Moved\r\nlocation: /\r\n\r\n", Err("answers /up with 301")),
        (b"SSH-2.0-OpenSSH\r\n", Err("no answer of HTTP")),
        (b"HTTP/1.1 200 OK\r\nx:", Err("no answer of HTTP")),
    ];
    for (bytes, expected) in cases {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, mut requests) = mpsc::channel(1);
        let server = tokio::spawn(answer(listener, bytes, sender));
        let result = asked(http("/up"), address).await;
        match (&result, expected) {
            (Ok(()), Ok(())) => {}
            (Err(error), Err(part)) if error.contains(part) => {}
            _ => panic!("{}: {result:?}", String::from_utf8_lossy(bytes)),
        }
        let request = requests.recv().await.unwrap();
        assert!(request.starts_with("GET /up HTTP/1.1\r\nhost: origin.test:80\r\n"), "{request}");
        server.abort();
    }
}

#[tokio::test]
async fn a_silent_or_closed_endpoint_fails() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    assert_eq!(asked(HealthProbe::Tcp, address).await, Ok(()));
    assert_eq!(asked(http("/"), address).await.unwrap_err(), "no answer within 300ms");
    drop(silent);
    let refused = format!("cannot connect to {address}: Connection refused (os error 111)");
    assert_eq!(asked(HealthProbe::Tcp, address).await, Err(refused));
}

#[tokio::test]
async fn a_udp_endpoint_has_to_answer_what_is_expected() {
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    let echo = tokio::spawn(async move {
        let mut buffer = [0; 64];
        loop {
            let (length, from) = server.recv_from(&mut buffer).await.unwrap();
            server.send_to(&buffer[..length], from).await.unwrap();
        }
    });
    let udp = |expect: Option<&[u8]>| HealthProbe::Udp { send: b"ping".to_vec(), expect: expect.map(<[u8]>::to_vec) };
    assert_eq!(asked(udp(None), address).await, Ok(()));
    assert_eq!(asked(udp(Some(b"pi")), address).await, Ok(()));
    assert!(asked(udp(Some(b"po")), address).await.unwrap_err().contains("does not begin with `expect`"));
    echo.abort();
    let _ = echo.await;
    assert!(asked(udp(None), address).await.unwrap_err().contains("Connection refused"), "an ICMP error is an answer");
}

/// A cluster of `addresses`, checked by connecting.
fn snapshot(builder: &mut Builder, addresses: &[SocketAddr], previous: Option<&Snapshot>) -> Snapshot {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gateway.toml");
    let endpoints: Vec<String> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
    let text = format!(
        "[[cluster]]\nname = \"a\"\nendpoints = [{}]\n\
         health_check = {{ protocol = \"tcp\", interval = \"5ms\", timeout = \"1s\", healthy = 2, unhealthy = 2 }}\n",
        endpoints.join(", ")
    );
    std::fs::write(&path, text).unwrap();
    let config = crate::config::load(&path, &DiskFiles, SystemTime::now()).unwrap().config;
    builder.build(config, &Resolved::new(), previous).unwrap()
}

#[tokio::test]
async fn endpoints_come_and_go_with_their_servers_and_their_health_outlives_a_generation() {
    let mut builder = Builder::new(Arc::new(Registry::new(1)), Arc::default(), Arc::default(), Arc::default());
    let up = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let down = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addresses = [up.local_addr().unwrap(), down.local_addr().unwrap()];
    drop(down);
    let first = snapshot(&mut builder, &addresses, None);
    let healthy = |snapshot: &Snapshot, checks: &Checks| -> Vec<bool> {
        checks.now(snapshot)[0].iter().map(|now| now.healthy).collect()
    };
    let mut checks = Checks::default();
    checks.follow(&first, &[vec![]]);
    assert_eq!(healthy(&first, &checks), [true, true], "before anybody was asked");
    checks.settle(LONG).await;
    assert_eq!(healthy(&first, &checks), [true, false]);
    assert!(checks.now(&first)[0].iter().all(|now| now.age.is_none()), "the first generation does not start slowly");

    let down = TcpListener::bind(addresses[1]).await.unwrap();
    timeout(LONG, checks.changed()).await.expect("the server is there again");
    assert_eq!(healthy(&first, &checks), [true, true]);
    assert_eq!(first.clusters[0].endpoints[1].health.changes(), 2);
    let age = checks.now(&first)[0][1].age.expect("it is healthy again");
    assert!(age < LONG);

    drop(up);
    timeout(LONG, checks.changed()).await.expect("the server is gone");
    assert_eq!(healthy(&first, &checks), [false, true]);

    let third: SocketAddr = ([127, 0, 0, 1], 1).into();
    let second = snapshot(&mut builder, &[addresses[0], third], Some(&first));
    checks.follow(&second, &[vec![]]);
    assert_eq!(healthy(&second, &checks), [false, true], "what is known stays known");
    checks.settle(LONG).await;
    assert_eq!(healthy(&second, &checks), [false, false]);
    assert_eq!(checks.endpoints.len(), 2, "nobody asks an endpoint that is gone");
    drop(down);
}
