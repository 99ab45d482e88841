use proptest::prelude::*;

use super::*;
use crate::proto::h1::encode;

const LIMITS: HeadLimits = HeadLimits { bytes: 60 * 1024, count: 100 };

fn parsed(bytes: &[u8]) -> Result<Option<(ParsedRequest, RequestHead)>, RequestError> {
    let mut head = RequestHead::default();
    request(bytes, LIMITS, &mut head).map(|parsed| parsed.map(|parsed| (parsed, head)))
}

/// A request with these field lines.
fn with_fields(lines: &str) -> Result<(ParsedRequest, RequestHead), RequestError> {
    parsed(format!("POST / HTTP/1.1\r\n{lines}\r\n").as_bytes()).map(|parsed| parsed.expect("a whole head"))
}

/// A request with this request line.
fn with_line(line: &str) -> Result<(ParsedRequest, RequestHead), RequestError> {
    parsed(format!("{line}\r\nHost: h.test\r\n\r\n").as_bytes()).map(|parsed| parsed.expect("a whole head"))
}

#[test]
fn a_plain_request_comes_out_with_everything_in_its_place() {
    let bytes = b"GET /a?b=c HTTP/1.1\r\nHost: H.test:80\r\nUser-Agent: x y\r\nEmpty:\r\nACCEPT:\t */* \t\r\n\r\nrest";
    let (parsed, head) = parsed(bytes).unwrap().unwrap();
    assert_eq!(
        parsed,
        ParsedRequest {
            consumed: bytes.len() - 4,
            keep_alive: true,
            expect_continue: false,
            scheme: None,
            upgrade: false
        }
    );
    assert_eq!((head.method, head.version, head.body), (Method::Get, Version::Http11, BodyLength::Empty));
    assert_eq!((head.target.as_slice(), head.authority.as_slice()), (&b"/a?b=c"[..], &b"h.test:80"[..]));
    let fields: Vec<_> = head.headers.iter().map(|(_, name, value)| (name, value)).collect();
    assert_eq!(fields, [(&b"user-agent"[..], &b"x y"[..]), (b"empty", b""), (b"accept", b"*/*")]);
}

#[test]
fn bad_request_lines_are_refused_for_the_right_reason() {
    for (line, error) in [
        ("GET /", RequestError::Malformed),
        ("GET", RequestError::Malformed),
        (" GET / HTTP/1.1", RequestError::Malformed),
        ("GET  / HTTP/1.1", RequestError::Malformed),
        ("GET /  HTTP/1.1", RequestError::Malformed),
        ("GET / HTTP/1.1 ", RequestError::Malformed),
        ("GET\t/ HTTP/1.1", RequestError::Malformed),
        ("G@T / HTTP/1.1", RequestError::Malformed),
        ("G\u{e9}T / HTTP/1.1", RequestError::Malformed),
        ("GET / http/1.1", RequestError::Malformed),
        ("GET / HTTP/one", RequestError::Malformed),
        ("GET / x", RequestError::Malformed),
        ("GET /\x01 HTTP/1.1", RequestError::Malformed),
        ("GET /\x7f HTTP/1.1", RequestError::Malformed),
        ("GET /\u{e9} HTTP/1.1", RequestError::Target),
        ("GET / HTTP/1.2", RequestError::Version),
        ("GET / HTTP/2.0", RequestError::Version),
        ("GET / HTTP/2", RequestError::Version),
        ("GET / HTTP/0.9", RequestError::Version),
        ("PRI * HTTP/2.0", RequestError::Version),
        ("GET /a#b HTTP/1.1", RequestError::Target),
        ("GET a HTTP/1.1", RequestError::Target),
        ("GET * HTTP/1.1", RequestError::Target),
        ("GET h.test:80 HTTP/1.1", RequestError::Target),
        ("GET ftp://h.test/ HTTP/1.1", RequestError::Target),
        ("GET http:/h.test/ HTTP/1.1", RequestError::Target),
        ("OPTIONS ** HTTP/1.1", RequestError::Target),
        ("GET http:/// HTTP/1.1", RequestError::Host),
        ("GET http://a@b/ HTTP/1.1", RequestError::Host),
        ("GET http://a:x/ HTTP/1.1", RequestError::Host),
        ("CONNECT h.test:443 HTTP/1.1", RequestError::Connect),
        ("CONNECT / HTTP/1.1", RequestError::Connect),
    ] {
        assert_eq!(with_line(line).map(|_| ()), Err(error), "{line:?}");
    }
}

#[test]
fn every_form_of_target_becomes_a_path_and_an_authority() {
    for (line, authority, target, scheme) in [
        ("GET / HTTP/1.1", "h.test", "/", None),
        ("GET //x?a?b HTTP/1.1", "h.test", "//x?a?b", None),
        ("OPTIONS * HTTP/1.1", "h.test", "*", None),
        ("OPTIONS http://o.test HTTP/1.1", "o.test", "*", Some(Scheme::Http)),
        ("GET http://O.test HTTP/1.1", "o.test", "/", Some(Scheme::Http)),
        ("GET HTTPS://o.test:8443/p?q HTTP/1.1", "o.test:8443", "/p?q", Some(Scheme::Https)),
        ("GET http://o.test?q=/ HTTP/1.1", "o.test", "/?q=/", Some(Scheme::Http)),
        ("GET http://[::1]:80/ HTTP/1.1", "[::1]:80", "/", Some(Scheme::Http)),
        ("M-SEARCH / HTTP/1.1", "h.test", "/", None),
    ] {
        let (parsed, head) = with_line(line).unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        assert_eq!((text(head.authority).as_str(), text(head.target).as_str()), (authority, target), "{line}");
        assert_eq!(parsed.scheme, scheme, "{line}");
    }
}

#[test]
fn bad_fields_are_refused_for_the_right_reason() {
    use FramingError::*;
    let host = "Host: h.test\r\n";
    for (lines, error) in [
        ("", RequestError::NoHost),
        ("Host: a\r\nHost: a\r\n", RequestError::ManyHosts),
        ("Host: a\r\nhost: b\r\n", RequestError::ManyHosts),
        ("Host:\r\n", RequestError::Host),
        ("Host: a b\r\n", RequestError::Host),
        ("Host: a/b\r\n", RequestError::Host),
        ("Host : a\r\n", RequestError::Malformed),
        (" Host: a\r\n", RequestError::Malformed),
        ("Host: a\r\n b\r\n", RequestError::Malformed),
        ("Host: a\r\n\tb: c\r\n", RequestError::Malformed),
        ("Host: a\r\nx\r\n", RequestError::Malformed),
        ("Host: a\r\n: b\r\n", RequestError::Malformed),
        ("Host: a\r\nx: a\0b\r\n", RequestError::Malformed),
        ("Host: a\r\nx: a\rb\r\n", RequestError::Malformed),
        ("Host: a\r\nx: \x7f\r\n", RequestError::Malformed),
        ("Host: a\r\nx: \x0b\r\n", RequestError::Malformed),
        ("Host: a\r\nx\0: b\r\n", RequestError::Malformed),
        ("Host: a\nx: b\r\n", RequestError::BareLf),
        ("Host: a\r\nx: b\n", RequestError::BareLf),
        ("Host: a\r\nx:\ny: z\r\n", RequestError::BareLf),
        ("Host: a\r\n\n", RequestError::BareLf),
        ("Host: a\r\nExpect: 200-ok\r\n", RequestError::Expectation),
        ("Host: a\r\nExpect: 100-continue, x\r\n", RequestError::Expectation),
        ("Host: a\r\nExpect:\r\n", RequestError::Expectation),
    ] {
        assert_eq!(with_fields(lines).map(|_| ()), Err(error), "{lines:?}");
    }
    for (lines, error) in [
        ("Content-Length: 1\r\nContent-Length: 2\r\n", ManyLengths),
        ("Content-Length: 1\r\ncontent-length: 1\r\n", ManyLengths),
        ("Content-Length: 1, 1\r\n", Length),
        ("Content-Length: +1\r\n", Length),
        ("Content-Length: -1\r\n", Length),
        ("Content-Length: 0x1\r\n", Length),
        ("Content-Length: 1 1\r\n", Length),
        ("Content-Length: 1.0\r\n", Length),
        ("Content-Length:\r\n", Length),
        ("Content-Length: 18446744073709551616\r\n", Length),
        ("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", LengthAndCoding),
        ("Transfer-Encoding: chunked\r\nContent-Length: 1\r\n", LengthAndCoding),
        ("Transfer-Encoding: xchunked\r\n", Coding),
        ("Transfer-Encoding: chunked, identity\r\n", Coding),
        ("Transfer-Encoding: gzip, chunked\r\n", Coding),
        ("Transfer-Encoding: chunked;q=1\r\n", Coding),
        ("Transfer-Encoding: \"chunked\"\r\n", Coding),
        ("Transfer-Encoding:\r\n", Coding),
        ("Transfer-Encoding: identity\r\n", Coding),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Coding),
    ] {
        let lines = format!("{host}{lines}");
        assert_eq!(with_fields(&lines).map(|_| ()), Err(error.into()), "{lines:?}");
    }
}

#[test]
fn a_request_body_is_as_long_as_the_fields_say() {
    for (lines, body) in [
        ("", BodyLength::Empty),
        ("Content-Length: 0\r\n", BodyLength::Known(0)),
        ("Content-Length: 18446744073709551615\r\n", BodyLength::Known(u64::MAX)),
        ("content-length:0012 \r\n", BodyLength::Known(12)),
        ("Transfer-Encoding: Chunked\r\n", BodyLength::Streamed),
    ] {
        let (_, head) = with_fields(&format!("Host: a\r\n{lines}")).unwrap();
        assert_eq!(head.body, body, "{lines:?}");
        assert!(head.headers.is_empty(), "{lines:?}");
    }
}

#[test]
fn names_with_an_underscore_and_values_beyond_ascii_pass() {
    let (_, head) = with_fields("Host: a\r\nx_y: \u{e9}\r\n").unwrap();
    let (_, name, value) = head.headers.iter().next().unwrap();
    assert_eq!((name, value), (&b"x_y"[..], "\u{e9}".as_bytes()));
}

#[test]
fn http10_needs_no_host_and_never_keeps_its_connection() {
    let (kept, head) = parsed(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").unwrap().unwrap();
    assert_eq!((head.version, kept.keep_alive), (Version::Http10, false));
    assert!(head.authority.is_empty());
    for (lines, error) in [
        ("Host: a\r\nHost: b\r\n", RequestError::ManyHosts),
        ("Transfer-Encoding: chunked\r\n", FramingError::CodingInHttp10.into()),
    ] {
        let bytes = format!("POST / HTTP/1.0\r\n{lines}\r\n");
        assert_eq!(parsed(bytes.as_bytes()).map(|_| ()), Err(error), "{lines:?}");
    }
}

#[test]
fn the_connection_field_decides_what_becomes_of_the_connection() {
    for (lines, keep_alive, upgrade) in [
        ("", true, false),
        ("Connection: keep-alive\r\n", true, false),
        ("Connection: Close\r\n", false, false),
        ("Connection: x, close\r\n", false, false),
        ("Connection: x\r\nConnection: close\r\n", false, false),
        ("Connection: closed\r\n", true, false),
        ("Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n", true, true),
        ("Upgrade: h2c\r\n", true, false),
        ("Connection: upgrade\r\n", true, false),
    ] {
        let (parsed, _) = with_fields(&format!("Host: a\r\n{lines}")).unwrap();
        assert_eq!((parsed.keep_alive, parsed.upgrade), (keep_alive, upgrade), "{lines:?}");
    }
}

#[test]
fn an_expectation_counts_only_when_a_body_is_to_come() {
    for (bytes, expected) in [
        ("PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 1\r\n\r\n", true),
        ("PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n", true),
        ("PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n", false),
        ("GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n", false),
        ("PUT / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n", false),
    ] {
        let (parsed, head) = parsed(bytes.as_bytes()).unwrap().unwrap();
        assert_eq!(parsed.expect_continue, expected, "{bytes:?}");
        assert!(!head.headers.contains(&Known::Expect));
    }
}

#[test]
fn one_empty_line_before_the_request_is_ignored_and_no_more() {
    let plain = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let (one, _) = parsed(format!("\r\n{plain}").as_bytes()).unwrap().unwrap();
    assert_eq!(one.consumed, plain.len() + 2);
    assert!(parsed(b"\r").unwrap().is_none());
    assert!(parsed(b"\r\n").unwrap().is_none());
    for start in ["\n", "\r\r\n", "\r\n\r\n", "\r\n\n"] {
        let bytes = format!("{start}{plain}");
        assert_eq!(parsed(bytes.as_bytes()).map(|_| ()), Err(RequestError::Malformed), "{start:?}");
    }
}

#[test]
fn heads_beyond_the_limits_are_refused_as_early_as_can_be() {
    let limits = HeadLimits { bytes: 64, count: 2 };
    for (bytes, error) in [
        (format!("GET /{} HTTP/1.1\r\n", "a".repeat(64)), RequestError::TargetTooLong),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nx: {}", "b".repeat(64)), RequestError::TooLarge),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nx: {}\r\n\r\n", "b".repeat(64)), RequestError::TooLarge),
        ("GET / HTTP/1.1\r\nHost: a\r\nx: y\r\nz: w\r\n".to_owned(), RequestError::TooManyFields),
    ] {
        let result = request(bytes.as_bytes(), limits, &mut RequestHead::default());
        assert_eq!(result, Err(error), "{bytes:?}");
    }
    let exact = format!("GET / HTTP/1.1\r\nHost: a\r\nx: {}\r\n\r\n", "b".repeat(64 - 32));
    assert_eq!(exact.len(), 64);
    assert!(request(exact.as_bytes(), limits, &mut RequestHead::default()).unwrap().is_some());
    let name = format!("GET / HTTP/1.1\r\nHost: a\r\n{}: b\r\n\r\n", "x".repeat(1025));
    assert_eq!(parsed(name.as_bytes()).map(|_| ()), Err(RequestError::TooLarge));
}

#[test]
fn a_second_look_is_worth_it_only_when_an_empty_line_or_the_limit_has_come() {
    let bytes = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    assert!(may_complete(b"G", 0, LIMITS));
    assert!(!may_complete(b"", 0, LIMITS));
    for end in 2..bytes.len() {
        assert!((1..end).all(|seen| !may_complete(&bytes[..end], seen, LIMITS)));
    }
    for seen in 1..bytes.len() {
        assert!(may_complete(bytes, seen, LIMITS), "{seen}");
    }
    assert!(may_complete(b"GET / HTTP/1.1\n\n", 15, LIMITS));
    assert!(may_complete(b"GET /", 4, HeadLimits { bytes: 5, count: 1 }));
}

#[test]
fn every_refusal_has_its_status() {
    for (error, status) in [
        (RequestError::Malformed, 400),
        (RequestError::BareLf, 400),
        (RequestError::Target, 400),
        (RequestError::NoHost, 400),
        (RequestError::ManyHosts, 400),
        (RequestError::Host, 400),
        (FramingError::ManyLengths.into(), 400),
        (FramingError::LengthAndCoding.into(), 400),
        (FramingError::CodingInHttp10.into(), 400),
        (RequestError::TargetTooLong, 414),
        (RequestError::Expectation, 417),
        (RequestError::TooLarge, 431),
        (RequestError::TooManyFields, 431),
        (RequestError::Connect, 501),
        (FramingError::Coding.into(), 501),
        (RequestError::Version, 505),
    ] {
        assert_eq!(error.status(), status, "{error:?}");
    }
}

fn answered(bytes: &[u8], method: &Method) -> Result<Option<(ParsedResponse, ResponseHead)>, ResponseError> {
    let mut head = ResponseHead::default();
    response(bytes, LIMITS, method, &mut head).map(|parsed| parsed.map(|parsed| (parsed, head)))
}

#[test]
fn a_response_body_is_as_long_as_rfc_9112_says() {
    use BodyLength::*;
    const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";
    const LENGTH: &str = "Content-Length: 3\r\n";
    for (method, status, lines, body, keep_alive) in [
        (Method::Get, 200, LENGTH, Known(3), true),
        (Method::Get, 200, "Content-Length: 0\r\n", Known(0), true),
        (Method::Get, 200, CHUNKED, Streamed, true),
        (Method::Get, 200, "", UntilClose, false),
        (Method::Get, 200, "Content-Length: 3\r\nConnection: close\r\n", Known(3), false),
        (Method::Get, 999, LENGTH, Known(3), true),
        (Method::Head, 200, LENGTH, Empty, true),
        (Method::Head, 200, CHUNKED, Empty, true),
        (Method::Head, 200, "", Empty, true),
        (Method::Get, 304, LENGTH, Empty, true),
        (Method::Get, 304, "", Empty, true),
        (Method::Get, 204, "", Empty, true),
        (Method::Get, 204, "Content-Length: 0\r\n", Empty, true),
        (Method::Get, 204, LENGTH, Empty, false),
        (Method::Get, 204, CHUNKED, Empty, false),
        (Method::Get, 100, "", Empty, true),
        (Method::Get, 103, LENGTH, Empty, false),
    ] {
        let bytes = format!("HTTP/1.1 {status} x\r\n{lines}\r\n");
        let (parsed, head) = answered(bytes.as_bytes(), &method).unwrap().unwrap();
        assert_eq!((parsed.consumed, head.status), (bytes.len(), status));
        assert_eq!((head.body, parsed.keep_alive), (body, keep_alive), "{method:?} {bytes:?}");
        let has_length = head.headers.iter().any(|(_, name, _)| name == b"content-length");
        let keeps_length = lines == LENGTH && (method == Method::Head || status == 304);
        assert_eq!(has_length, keeps_length, "{bytes:?}");
    }
}

#[test]
fn an_http10_response_keeps_the_connection_only_when_it_says_so() {
    for (lines, keep_alive) in [
        ("Content-Length: 1\r\n", false),
        ("Content-Length: 1\r\nConnection: Keep-Alive\r\n", true),
        ("Content-Length: 1\r\nConnection: keep-alive, close\r\n", false),
        ("Connection: keep-alive\r\n", false),
    ] {
        let bytes = format!("HTTP/1.0 200 OK\r\n{lines}\r\n");
        let (parsed, head) = answered(bytes.as_bytes(), &Method::Get).unwrap().unwrap();
        assert_eq!((head.version, parsed.keep_alive), (Version::Http10, keep_alive), "{lines:?}");
    }
}

#[test]
fn bad_responses_are_refused_for_the_right_reason() {
    use FramingError::*;
    for (bytes, error) in [
        ("\r\nHTTP/1.1 200 OK\r\n\r\n", ResponseError::Malformed),
        ("HTTP/2 200\r\n\r\n", ResponseError::Malformed),
        ("HTTP/1.1 20 OK\r\n\r\n", ResponseError::Malformed),
        ("HTTP/1.1 2000 OK\r\n\r\n", ResponseError::Malformed),
        ("HTTP/1.1 099 OK\r\n\r\n", ResponseError::Malformed),
        ("HTTP/1.1  200 OK\r\n\r\n", ResponseError::Malformed),
        ("HTTP/1.1 200 O\0K\r\n\r\n", ResponseError::Malformed),
        ("HTTP/1.1 200 OK\r\na : b\r\n\r\n", ResponseError::Malformed),
        ("HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n", ResponseError::Malformed),
        ("HTTP/1.1 200 OK\n\r\n", ResponseError::BareLf),
        ("HTTP/1.1 200 OK\r\na: b\n\r\n", ResponseError::BareLf),
        ("HTTP/1.1 200\na: b\r\n\r\n", ResponseError::BareLf),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", ManyLengths.into_response()),
        ("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", Length.into_response()),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", LengthAndCoding.into_response()),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", Coding.into_response()),
        ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", CodingInHttp10.into_response()),
    ] {
        assert_eq!(answered(bytes.as_bytes(), &Method::Get).map(|_| ()), Err(error), "{bytes:?}");
    }
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(101));
    assert_eq!(answered(many.as_bytes(), &Method::Get).map(|_| ()), Err(ResponseError::TooLarge));
    let long = format!("HTTP/1.1 200 OK\r\na: {}", "b".repeat(LIMITS.bytes));
    assert_eq!(answered(long.as_bytes(), &Method::Get).map(|_| ()), Err(ResponseError::TooLarge));
}

impl FramingError {
    fn into_response(self) -> ResponseError {
        self.into()
    }
}

/// Everything a request head holds, so that two can be compared.
fn contents(head: &RequestHead) -> String {
    let fields: Vec<_> = head.headers.iter().collect();
    format!("{:?} {:?} {:?} {:?} {fields:?}", head.method, head.target, head.authority, head.body)
}

fn fields() -> impl Strategy<Value = Vec<(String, String)>> {
    prop::collection::vec(("x-[a-z0-9_!~]{0,8}", "([!-~]([ -~\t]{0,20}[!-~])?)?"), 0..8)
}

fn body_length() -> impl Strategy<Value = BodyLength> {
    prop_oneof![Just(BodyLength::Empty), any::<u64>().prop_map(BodyLength::Known), Just(BodyLength::Streamed)]
}

fn headers(fields: &[(String, String)]) -> Headers {
    let mut headers = Headers::default();
    for (name, value) in fields {
        headers.append_raw(name.as_bytes(), value.as_bytes());
    }
    headers
}

prop_compose! {
    fn request_head()(
        method in "GET|HEAD|DELETE|PURGE|OPTIONS",
        authority in "[a-z0-9][a-z0-9.-]{0,20}(:[1-9][0-9]{0,3})?",
        target in "/[!\"$-~]{0,30}",
        fields in fields(),
        body in body_length(),
    ) -> RequestHead {
        RequestHead {
            method: Method::from_token(&method),
            version: Version::Http11,
            authority: authority.into_bytes(),
            target: target.into_bytes(),
            headers: headers(&fields),
            body,
        }
    }
}

/// Bytes that are nearly a head.
fn nearly_a_head(start: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let pieces = [
        "\r\n",
        "\r\n",
        "\n",
        "\r",
        ":",
        " ",
        "Host: a",
        "Host: b",
        "Content-Length: 1",
        "Content-Length: 2",
        "\0",
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: gzip",
        "x: y",
        "x",
        "Connection: close",
        "\r\n\r\n",
        "\u{e9}",
    ];
    let tail = prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..12);
    (prop::sample::select(vec![start, start, ""]), tail)
        .prop_map(|(start, tail)| [start, &tail.concat()].concat().into())
}

proptest! {
    #[test]
    fn parsing_undoes_encoding_of_requests(head in request_head()) {
        let mut bytes = Vec::new();
        encode::request(&head, &mut bytes);
        let (parsed, again) = parsed(&bytes).unwrap().unwrap();
        prop_assert_eq!(parsed.consumed, bytes.len());
        prop_assert_eq!(contents(&again), contents(&head));
    }

    #[test]
    fn parsing_undoes_encoding_of_responses(status in 200u16..1000, fields in fields(), body in body_length()) {
        let head = ResponseHead { status, version: Version::Http11, headers: headers(&fields), body };
        let framing = encode::ResponseFraming::of(&Method::Get, Version::Http11, &head, true);
        let mut bytes = Vec::new();
        encode::response(&head, framing, &mut bytes);
        let (parsed, again) = answered(&bytes, &Method::Get).unwrap().unwrap();
        prop_assert_eq!((parsed.consumed, again.status), (bytes.len(), status));
        let expected = match framing.body {
            encode::BodyFraming::Length(length) => BodyLength::Known(length),
            encode::BodyFraming::Chunked => BodyLength::Streamed,
            _ => BodyLength::Empty,
        };
        prop_assert_eq!(again.body, expected);
        for (_, name, value) in head.headers.iter() {
            prop_assert!(again.headers.iter().any(|(_, n, v)| (n, v) == (name, value)));
        }
    }

    #[test]
    fn a_request_head_in_pieces_is_judged_as_in_one(bytes in nearly_a_head("GET / HTTP/1.1\r\n")) {
        let whole = parsed(&bytes);
        for end in 0..bytes.len() {
            match (parsed(&bytes[..end]), &whole) {
                (Ok(None), Ok(Some(_))) => prop_assert!(may_complete(&bytes, end, LIMITS)),
                (Ok(None), _) => {}
                (Err(early), Err(late)) => prop_assert_eq!(early, *late),
                (Ok(Some((early, _))), Ok(Some((late, _)))) => prop_assert_eq!(early, *late),
                (early, late) => prop_assert!(false, "{:?} became {:?}", early, late),
            }
        }
    }

    #[test]
    fn a_response_head_in_pieces_is_judged_as_in_one(bytes in nearly_a_head("HTTP/1.1 200 OK\r\n")) {
        let whole = answered(&bytes, &Method::Get);
        for end in 0..bytes.len() {
            match (answered(&bytes[..end], &Method::Get), &whole) {
                (Ok(None), Ok(Some(_))) => prop_assert!(may_complete(&bytes, end, LIMITS)),
                (Ok(None), _) => {}
                (Err(early), Err(late)) => prop_assert_eq!(early, *late),
                (Ok(Some((early, _))), Ok(Some((late, _)))) => prop_assert_eq!(early, *late),
                (early, late) => prop_assert!(false, "{:?} became {:?}", early, late),
            }
        }
    }

    #[test]
    fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), bytes_max in 0..200usize) {
        let limits = HeadLimits { bytes: bytes_max, count: bytes_max / 8 };
        let _ = request(&bytes, limits, &mut RequestHead::default());
        let _ = response(&bytes, limits, &Method::Get, &mut ResponseHead::default());
    }
}
