//! What one message head costs: `cargo bench -p gateway-bench --bench proto_head`.

use std::hint::black_box;

use divan::Bencher;
use gateway::proto::h1::chunked::Decoder;
use gateway::proto::h1::encode::{self, ResponseFraming};
use gateway::proto::h1::hop;
use gateway::proto::h1::parse::{self, HeadLimits};
use gateway::proto::head::{Method, RequestHead, ResponseHead, Version};
use gateway::proto::path::{self, PathPolicy};

const LIMITS: HeadLimits = HeadLimits { bytes: 60 * 1024, count: 100 };

/// Ten fields, as a browser sends them.
const REQUEST: &[u8] = b"GET /api/v1/items/4711?expand=owner&limit=20 HTTP/1.1\r\n\
    Host: shop.example.com\r\n\
    Connection: keep-alive\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36\r\n\
    Accept: application/json, text/plain, */*\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\n\
    Referer: https://shop.example.com/items\r\n\
    Cookie: session=3f786850e387550fdab836ed7e6dc881de23001b; theme=dark\r\n\
    X-Requested-With: XMLHttpRequest\r\n\
    Cache-Control: no-cache\r\n\r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
    Server: nginx/1.22.1\r\n\
    Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
    Content-Type: application/json; charset=utf-8\r\n\
    Content-Length: 1024\r\n\
    Connection: keep-alive\r\n\
    Cache-Control: private, max-age=0\r\n\
    ETag: \"3f786850e387\"\r\n\
    Vary: Accept-Encoding\r\n\r\n";

fn main() {
    divan::main();
}

#[divan::bench]
fn parse_request(bencher: Bencher) {
    let mut head = RequestHead::default();
    bencher.bench_local(|| parse::request(black_box(REQUEST), LIMITS, &mut head).unwrap().unwrap().consumed);
}

#[divan::bench]
fn parse_response(bencher: Bencher) {
    let mut head = ResponseHead::default();
    bencher.bench_local(|| {
        parse::response(black_box(RESPONSE), LIMITS, &Method::Get, &mut head).unwrap().unwrap().consumed
    });
}

#[divan::bench]
fn encode_request(bencher: Bencher) {
    let (mut head, mut out) = (RequestHead::default(), Vec::new());
    parse::request(REQUEST, LIMITS, &mut head).unwrap();
    bencher.bench_local(|| {
        out.clear();
        encode::request(black_box(&head), &mut out);
        out.len()
    });
}

#[divan::bench]
fn encode_response(bencher: Bencher) {
    let (mut head, mut out) = (ResponseHead::default(), Vec::new());
    parse::response(RESPONSE, LIMITS, &Method::Get, &mut head).unwrap();
    bencher.bench_local(|| {
        out.clear();
        let framing = ResponseFraming::of(&Method::Get, Version::Http11, &head, true);
        encode::response(black_box(&head), framing, &mut out);
        out.len()
    });
}

/// All that a proxied request costs here: both heads read, stripped and written.
#[divan::bench]
fn whole_exchange(bencher: Bencher) {
    let (mut request, mut response, mut out) = (RequestHead::default(), ResponseHead::default(), Vec::new());
    bencher.bench_local(|| {
        out.clear();
        parse::request(black_box(REQUEST), LIMITS, &mut request).unwrap();
        path::normalise(&mut request.target, PathPolicy::default()).unwrap();
        hop::strip(&mut request.headers);
        encode::request(&request, &mut out);
        parse::response(black_box(RESPONSE), LIMITS, &request.method, &mut response).unwrap();
        hop::strip(&mut response.headers);
        let framing = ResponseFraming::of(&request.method, request.version, &response, true);
        encode::response(&response, framing, &mut out);
        out.len()
    });
}

#[divan::bench(args = ["/api/v1/items/4711?expand=owner&limit=20", "/api/./v1//items/%7e/../4711?expand=owner"])]
fn normalise(bencher: Bencher, target: &str) {
    let mut buffer = Vec::new();
    bencher.bench_local(|| {
        buffer.clear();
        buffer.extend_from_slice(target.as_bytes());
        path::normalise(&mut buffer, PathPolicy::default())
    });
}

/// 64 KiB of body in chunks of 16 KiB.
#[divan::bench]
fn decode_chunks(bencher: Bencher) {
    let body = [b"4000\r\n".as_slice(), &[b'x'; 0x4000], b"\r\n"].concat().repeat(4);
    let (mut decoder, mut buffer) = (Decoder::default(), Vec::new());
    bencher.bench_local(|| {
        buffer.clear();
        buffer.extend_from_slice(&body);
        decoder.reset();
        decoder.decode(&mut buffer).unwrap().payload
    });
}
