//! What one access log line costs a worker. Allocations are counted: there must be none.

use divan::{AllocProfiler, Bencher, black_box};
use gateway::metrics::access_log::{DEFAULT_FORMAT, Format, LineFormat, Record};
use gateway::metrics::flags::ResponseFlags;
use gateway::proto::head::{Headers, Method, RequestHead, Version};

#[global_allocator]
static ALLOC: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

#[divan::bench]
fn json(bencher: Bencher) {
    write(bencher, &LineFormat::Json, b"Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0");
}

#[divan::bench]
fn json_with_a_value_to_escape(bencher: Bencher) {
    write(bencher, &LineFormat::Json, "Mozilla/5.0 (\"quoted\"; Gerät) Gecko/20100101".as_bytes());
}

#[divan::bench]
fn envoy_default(bencher: Bencher) {
    let format = LineFormat::Text(Format::compile(DEFAULT_FORMAT).expect("the default compiles"));
    write(bencher, &format, b"Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0");
}

#[divan::bench]
fn start_time_alone(bencher: Bencher) {
    write(bencher, &LineFormat::Text(Format::compile("%START_TIME%").expect("it compiles")), b"");
}

fn write(bencher: Bencher, format: &LineFormat, agent: &[u8]) {
    let (request, response) = (request(agent), Headers::default());
    let record = record(&request, &response);
    let mut line = Vec::with_capacity(4096);
    bencher.bench_local(|| {
        line.clear();
        format.write(black_box(&record), &mut line);
        line.len()
    });
}

fn request(agent: &[u8]) -> RequestHead {
    let mut head = RequestHead {
        method: Method::Get,
        authority: b"api.example.com".to_vec(),
        target: b"/v1/items/4711?fields=name,price&sort=asc".to_vec(),
        ..RequestHead::default()
    };
    head.headers.append_raw(b"accept", b"*/*");
    head.headers.append_raw(b"user-agent", agent);
    head.headers.append_raw(b"x-forwarded-for", b"203.0.113.9");
    head.headers.append_raw(b"x-request-id", b"6c4b7b0e-1f0a-4d6e-9d5b-2f6f2f9a1c11");
    head
}

fn record<'a>(request: &'a RequestHead, response: &'a Headers) -> Record<'a> {
    Record {
        start_unix_us: 1_709_210_096_007_089,
        duration_us: 1_234,
        request_duration_us: Some(15),
        response_duration_us: Some(1_200),
        request: Some(request),
        protocol: Some(Version::Http11),
        original_target: None,
        status: 200,
        response_headers: Some(response),
        response_trailers: None,
        bytes_received: 0,
        bytes_sent: 512,
        flags: ResponseFlags::NONE,
        details: Some("via_upstream"),
        upstream_host: Some(([10, 0, 0, 1], 8080).into()),
        upstream_local: None,
        upstream_cluster: Some("api"),
        upstream_failure: None,
        identity: None,
        upstream_attempts: 1,
        upstream_service_us: Some(1_100),
        route: Some("api-v1"),
        listener: "web",
        downstream_peer: ([203, 0, 113, 9], 55_555).into(),
        downstream_local: ([192, 0, 2, 1], 443).into(),
        client_ip: [203, 0, 113, 9].into(),
        sni: Some("api.example.com"),
        tls_version: Some("TLSv1.3"),
        request_id: None,
        connection_id: 123_456,
        hostname: "edge-1",
    }
}
