//! What may be used again after an exchange, on either side: only a connection whose state is beyond doubt.

use std::time::Duration;

use gateway_tests::client::request;
use gateway_tests::conn::Framing;
use gateway_tests::prelude::*;

/// One worker, so that there is one pool.
fn in_front_of(origin: &Script) -> Gateway {
    Gateway::start(&Config::proxy_to(origin.addr()).gateway("workers = 1"))
}

#[test]
fn bytes_behind_an_answer_are_not_taken_for_the_next_one() {
    let origin = Script::start(|mut conn| {
        let index = conn.index;
        while conn.head().is_ok() {
            let surplus = if index == 0 { "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison" } else { "" };
            conn.send(format!("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngood{surplus}"));
        }
    });
    let gateway = in_front_of(&origin);
    for _ in 0..3 {
        assert_eq!(gateway.get("/").text(), "good");
    }
}

#[test]
fn a_connection_whose_request_was_not_sent_whole_is_not_used_again() {
    let origin = Script::start(|mut conn| {
        let head = conn.head().expect("a request");
        conn.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        if head.method() == "POST" {
            let mut body = Vec::new();
            let rest = conn.body(head.framing(Framing::Empty), &mut |bytes| body.extend_from_slice(bytes));
            assert!(rest.is_err() && body == b"begin", "{:?}", String::from_utf8_lossy(&body));
        }
    });
    let gateway = in_front_of(&origin);
    let mut client = gateway.connect();
    client.send(request("POST", "/", "content-length: 1000\r\n") + "begin");
    assert!(client.response().closes());
    assert_eq!(gateway.get("/").text(), "ok");
    assert_eq!(origin.connections(), 2);
    origin.wait_finished(1);
}

#[test]
fn a_client_whose_upload_failed_behind_an_early_answer_is_not_read_on() {
    let (stalled, is_stalled) = std::sync::mpsc::channel::<()>();
    let (answer, may_answer) = std::sync::mpsc::channel::<()>();
    let may_answer = std::sync::Mutex::new(may_answer);
    let origin = Script::start(move |mut conn| {
        conn.head().expect("a request");
        stalled.send(()).expect("the test waits");
        may_answer.lock().unwrap().recv().expect("the test says when");
        // Closing with the body unread resets the connection behind the answer.
        conn.send("HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\n\r\nno");
        drop(conn);
    });
    let gateway = in_front_of(&origin);
    let mut client = gateway.connect();
    client.send(request("POST", "/", "content-length: 1000000000\r\n"));
    is_stalled.recv().expect("the origin has the head");
    // More than the sockets between here and the origin hold: the gateway waits in a send.
    client.patience(Duration::from_millis(300));
    while client.send_some(&[b'x'; 65536]).is_some() {}
    client.patience(wait::DEADLINE);
    // Both the answer and the reset are there when the gateway looks next.
    gateway.process.signal(libc::SIGSTOP);
    answer.send(()).expect("the origin waits");
    origin.wait_finished(1);
    gateway.process.signal(libc::SIGCONT);
    let response = client.response();
    assert_eq!(response.status, 413);
    assert!(response.closes(), "{response:?}");
}

#[test]
fn trailers_stay_with_their_own_answer() {
    let origin = Script::start(|mut conn| {
        conn.head().expect("a request");
        conn.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n0\r\nx-secret: 1\r\n\r\n");
        conn.head().expect("another request");
        conn.send("HTTP/1.1 200 OK\r\n\r\ntwo");
    });
    let gateway = in_front_of(&origin);
    let mut client = gateway.connect();
    assert_eq!(client.get("/").trailers.len(), 1);
    let second = client.get("/");
    assert_eq!((second.text(), second.trailers.len()), ("two", 0));
}

#[test]
fn open_connections_to_a_cluster_are_counted() {
    let origin = Origin::start("a");
    let gateway = Gateway::start(&Config::proxy_to(origin.addr()).gateway("workers = 1"));
    for _ in 0..3 {
        assert_eq!(gateway.get("/").status, 200);
    }
    let open = || gateway.metrics().sum("gateway_cluster_connections_active", &[]);
    assert_eq!(open(), 1.0);
}
