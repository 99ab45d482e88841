use super::*;

fn request_text(build: impl FnOnce(&mut RequestHead)) -> String {
    let mut head = RequestHead { target: b"/".to_vec(), authority: b"a.test".to_vec(), ..RequestHead::default() };
    build(&mut head);
    let mut out = Vec::new();
    request(&head, &mut out);
    String::from_utf8(out).unwrap()
}

fn response_text(method: &Method, version: Version, keep_alive: bool, head: &ResponseHead) -> String {
    let mut out = Vec::new();
    response(head, ResponseFraming::of(method, version, head, keep_alive), &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn a_request_starts_with_its_line_and_host() {
    let text = request_text(|head| head.headers.append(&Known::UserAgent, b"x"));
    assert_eq!(text, "GET / HTTP/1.1\r\nhost: a.test\r\nuser-agent: x\r\n\r\n");
}

#[test]
fn a_request_body_is_framed_as_the_head_says() {
    for (method, body, field) in [
        (Method::Get, BodyLength::Empty, ""),
        (Method::Delete, BodyLength::Empty, ""),
        (Method::Post, BodyLength::Empty, "content-length: 0\r\n"),
        (Method::Get, BodyLength::Known(0), "content-length: 0\r\n"),
        (Method::Get, BodyLength::Known(12), "content-length: 12\r\n"),
        (Method::Put, BodyLength::Streamed, "transfer-encoding: chunked\r\n"),
    ] {
        let text = request_text(|head| (head.method, head.body) = (method.clone(), body));
        assert_eq!(text, format!("{} / HTTP/1.1\r\nhost: a.test\r\n{field}\r\n", method.as_str()));
    }
}

#[test]
fn a_header_cannot_contradict_the_framing() {
    let text = request_text(|head| {
        head.headers.append(&Known::Host, b"b.test");
        head.headers.append(&Known::ContentLength, b"9");
        head.headers.append(&Known::TransferEncoding, b"chunked");
    });
    assert_eq!(text, "GET / HTTP/1.1\r\nhost: a.test\r\n\r\n");
    let mut head = ResponseHead { status: 200, body: BodyLength::Known(1), ..ResponseHead::default() };
    head.headers.append(&Known::ContentLength, b"9");
    head.headers.append(&Known::TransferEncoding, b"chunked");
    let text = response_text(&Method::Get, Version::Http11, true, &head);
    assert_eq!(text, "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n");
}

#[test]
fn a_response_is_framed_for_its_request() {
    use BodyLength::*;
    const CLOSE: &str = "connection: close\r\n";
    const CHUNKED: &str = "transfer-encoding: chunked\r\n";
    for (method, version, status, body, expected) in [
        (Method::Get, Version::Http11, "200 OK", Empty, "content-length: 0\r\n"),
        (Method::Get, Version::Http11, "200 OK", Known(3), "content-length: 3\r\n"),
        (Method::Get, Version::Http11, "200 OK", Streamed, CHUNKED),
        (Method::Get, Version::Http11, "200 OK", UntilClose, CHUNKED),
        (Method::Get, Version::Http10, "200 OK", Streamed, CLOSE),
        (Method::Get, Version::Http10, "200 OK", UntilClose, CLOSE),
        (Method::Head, Version::Http11, "200 OK", Known(3), "content-length: 3\r\n"),
        (Method::Head, Version::Http11, "200 OK", Empty, ""),
        (Method::Head, Version::Http10, "200 OK", Streamed, ""),
        (Method::Get, Version::Http11, "204 No Content", Known(3), ""),
        (Method::Get, Version::Http11, "304 Not Modified", Known(3), "content-length: 3\r\n"),
        (Method::Get, Version::Http11, "299 ", Empty, "content-length: 0\r\n"),
    ] {
        let head = ResponseHead { status: status[..3].parse().unwrap(), body, ..ResponseHead::default() };
        let text = response_text(&method, version, true, &head);
        assert_eq!(text, format!("HTTP/1.1 {status}\r\n{expected}\r\n"), "{method:?} {version:?} {body:?}");
    }
}

#[test]
fn an_answer_to_head_keeps_the_length_its_origin_announced() {
    let mut head = ResponseHead { status: 200, ..ResponseHead::default() };
    head.headers.append(&Known::ContentLength, b"123");
    let text = response_text(&Method::Head, Version::Http11, true, &head);
    assert_eq!(text, "HTTP/1.1 200 OK\r\ncontent-length: 123\r\n\r\n");
}

#[test]
fn the_last_response_of_a_connection_says_so_and_an_interim_one_does_not() {
    let mut head = ResponseHead { status: 200, ..ResponseHead::default() };
    let text = response_text(&Method::Get, Version::Http11, false, &head);
    assert_eq!(text, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    head.status = 100;
    assert_eq!(response_text(&Method::Get, Version::Http11, false, &head).as_bytes(), CONTINUE);
}
