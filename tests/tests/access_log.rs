//! One line for each request, whatever became of it.

use gateway_tests::client;
use gateway_tests::ports::{HeldPort, loopback};
use gateway_tests::prelude::*;
use serde_json::{Value, json};

/// Where the test has the log written.
const LOG: &str = "access.log";

fn logging(config: Config, format: &str, dir: &tempfile::TempDir) -> Config {
    let path = dir.path().join(LOG);
    config.tables(&format!("[access_log]\npath = '{}'\nformat = {format}", path.display()))
}

/// Waits for `count` lines of the log and returns them.
fn lines(dir: &tempfile::TempDir, count: usize) -> Vec<String> {
    wait::until("lines of the access log", || {
        let text = std::fs::read_to_string(dir.path().join(LOG)).unwrap_or_default();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        (lines.len() >= count && text.ends_with('\n')).then_some(lines)
    })
}

fn json_lines(dir: &tempfile::TempDir, count: usize) -> Vec<Value> {
    let lines = lines(dir, count);
    assert_eq!(lines.len(), count, "{lines:?}");
    lines.iter().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

#[test]
fn a_json_line_says_what_happened() {
    let (dir, origin) = (tempfile::tempdir().expect("a temporary directory"), Origin::start("a"));
    let gateway = Gateway::start(&logging(Config::proxy_to(origin.addr()), "'json'", &dir));
    let mut client = gateway.connect();
    let fields = "user-agent: \"quo\\ted\"\r\n";
    assert_eq!(client.request("POST", "/echo?q=1", fields, b"12345").text(), "12345");
    let line = &json_lines(&dir, 1)[0];
    for (member, value) in [
        ("method", json!("POST")),
        ("path", json!("/echo?q=1")),
        ("protocol", json!("HTTP/1.1")),
        ("response_code", json!(200)),
        ("response_flags", json!("-")),
        ("bytes_received", json!(5)),
        ("bytes_sent", json!(5)),
        ("user_agent", json!("\"quo\\ted\"")),
        ("authority", json!(client::HOST)),
        ("upstream_host", json!(origin.addr().to_string())),
        ("upstream_cluster", json!("origin")),
        ("route_name", json!("all")),
        ("listener", json!("web")),
        ("downstream_remote_address", json!(client.local_addr().to_string())),
        ("downstream_local_address", json!(gateway.addr("web").to_string())),
    ] {
        assert_eq!(line[member], value, "{member} of {line}");
    }
    assert!(line["request_id"].as_str().is_some_and(|id| id.len() == 36), "{line}");
    assert!(line["duration_us"].as_u64().is_some_and(|us| us > 0), "{line}");
}

#[test]
fn every_kind_of_end_is_logged_with_its_flag() {
    let (dir, nobody) = (tempfile::tempdir().expect("a temporary directory"), HeldPort::new());
    let origin = Origin::start("a");
    let config = Config::new()
        .listener("web", "")
        .cluster("origin", &[origin.addr()], "")
        .cluster("nobody", &[nobody.addr()], "")
        .cluster("empty", &[], "")
        .route("ok", "match = { path_prefix = '/ok' }\ncluster = 'origin'")
        .route("slow", "match = { path_prefix = '/hold' }\ncluster = 'origin'\ntimeout = '100ms'")
        .route("nobody", "match = { path_prefix = '/nobody' }\ncluster = 'nobody'")
        .route("empty", "match = { path_prefix = '/empty' }\ncluster = 'empty'")
        .route("direct", "match = { path_prefix = '/direct' }\nrespond = { status = 204 }");
    let gateway = Gateway::start(&logging(config, "'json'", &dir));
    for (path, status) in
        [("/ok", 200), ("/hold", 504), ("/nobody", 503), ("/empty", 503), ("/none", 404), ("/direct", 204)]
    {
        assert_eq!(gateway.get(path).status, status, "{path}");
    }
    let mut broken = gateway.connect();
    broken.send("GARBAGE\r\n\r\n");
    assert_eq!(broken.response().status, 400);
    let mut lines = json_lines(&dir, 7);
    let text = |line: &Value, member: &str| line[member].as_str().unwrap_or("").to_owned();
    lines.sort_by_key(|line| text(line, "path"));
    let ends: Vec<(String, u64, String)> = lines
        .iter()
        .map(|line| (text(line, "path"), line["response_code"].as_u64().unwrap(), text(line, "response_flags")))
        .collect();
    let expected = [
        ("", 400, "DPE"),
        ("/direct", 204, "-"),
        ("/empty", 503, "UH"),
        ("/hold", 504, "UT"),
        ("/nobody", 503, "URX,UF"),
        ("/none", 404, "NR"),
        ("/ok", 200, "-"),
    ];
    assert_eq!(ends, expected.map(|(path, code, flags)| (path.to_owned(), code, flags.to_owned())));
}

#[test]
fn a_head_that_is_refused_is_logged_with_its_senders_address() {
    let (dir, origin) = (tempfile::tempdir().expect("a temporary directory"), Origin::start("a"));
    let gateway = Gateway::start(&logging(Config::proxy_to(origin.addr()), "'json'", &dir));
    let mut client = gateway.connect();
    client.send("GARBAGE\r\n\r\n");
    assert_eq!(client.response().status, 400);
    let line = &json_lines(&dir, 1)[0];
    assert_eq!(line["downstream_remote_address"], json!(client.local_addr().to_string()), "{line}");
}

#[test]
fn a_client_that_left_is_logged_as_such() {
    let (dir, origin) = (tempfile::tempdir().expect("a temporary directory"), Origin::start("a"));
    let gateway = Gateway::start(&logging(Config::proxy_to(origin.addr()), "'json'", &dir));
    let mut client = gateway.connect();
    client.send(client::request("GET", "/hold", ""));
    origin.wait_held(1);
    client.reset();
    let line = &json_lines(&dir, 1)[0];
    assert_eq!((&line["response_code"], &line["response_flags"]), (&json!(0), &json!("DC")), "{line}");
}

#[test]
fn an_envoy_format_string_is_understood() {
    let (dir, origin) = (tempfile::tempdir().expect("a temporary directory"), Origin::start("a"));
    let format =
        r#"'%REQ(:METHOD)% %REQ(X-A?:PATH)% %RESPONSE_CODE% %BYTES_SENT% %RESP(X-ORIGIN)% "%REQ(NONE)%" %PROTOCOL%'"#;
    let gateway = Gateway::start(&logging(Config::proxy_to(origin.addr()), format, &dir));
    let mut client = gateway.connect();
    client.get("/bytes/7");
    client.request("GET", "/bytes/8", "x-a: instead\r\n", b"");
    assert_eq!(lines(&dir, 2), [r#"GET /bytes/7 200 7 a "-" HTTP/1.1"#, r#"GET instead 200 8 a "-" HTTP/1.1"#]);
}

#[test]
fn the_text_format_is_envoys_default_line() {
    let (dir, origin) = (tempfile::tempdir().expect("a temporary directory"), Origin::start("a"));
    let gateway = Gateway::start(&logging(Config::proxy_to(origin.addr()), "'text'", &dir));
    gateway.connect().request("GET", "/", "user-agent: test/1\r\n", b"");
    let line = lines(&dir, 1).remove(0);
    let expected = r#"] "GET / HTTP/1.1" 200 - 0 1 "#;
    assert!(line.starts_with("[20") && line.contains(expected), "{line}");
    assert!(line.contains(&format!(r#" "{}" "test/1" ""#, loopback())), "{line}");
    assert!(line.ends_with(&format!(r#"" "{}" "{}""#, client::HOST, origin.addr())), "{line}");
}

#[test]
fn a_client_cannot_forge_a_line() {
    let (dir, origin) = (tempfile::tempdir().expect("a temporary directory"), Origin::start("a"));
    let gateway = Gateway::start(&logging(Config::proxy_to(origin.addr()), "'text'", &dir));
    gateway.connect().request("GET", "/", "user-agent: \" 200 - forged\té\r\n", b"");
    let line = lines(&dir, 1).remove(0);
    assert!(!line.contains("\" 200 - forged"), "{line}");
}

#[test]
fn the_log_can_go_to_standard_output() {
    let origin = Origin::start("a");
    let config =
        Config::proxy_to(origin.addr()).tables("[access_log]\npath = 'stdout'\nformat = 'ACCESS %REQ(:PATH)%'");
    let gateway = Gateway::start(&config);
    gateway.get("/bytes/1");
    let line = gateway.process.stdout.find("the line", |line| line.starts_with("ACCESS"));
    assert_eq!(line.as_deref(), Some("ACCESS /bytes/1"));
}

#[test]
fn a_rotated_log_is_reopened_on_sigusr1() {
    let (dir, origin) = (tempfile::tempdir().expect("a temporary directory"), Origin::start("a"));
    let gateway = Gateway::start(&logging(Config::proxy_to(origin.addr()), "'%REQ(:PATH)%'", &dir));
    gateway.get("/before");
    assert_eq!(lines(&dir, 1), ["/before"]);
    let (log, rotated) = (dir.path().join(LOG), dir.path().join("access.log.1"));
    std::fs::rename(&log, &rotated).expect("rotate");
    gateway.process.signal(libc::SIGUSR1);
    wait::until_true("the new file", || log.exists());
    gateway.get("/after");
    assert_eq!(lines(&dir, 1), ["/after"]);
    assert_eq!(std::fs::read_to_string(rotated).expect("the old file"), "/before\n");
}

#[test]
fn the_last_lines_are_written_before_the_end() {
    let (dir, origin) = (tempfile::tempdir().expect("a temporary directory"), Origin::start("a"));
    let mut gateway = Gateway::start(&logging(Config::proxy_to(origin.addr()), "'%REQ(:PATH)%'", &dir));
    let mut client = gateway.connect();
    for _ in 0..500 {
        client.get("/x");
    }
    gateway.terminate();
    assert!(gateway.wait_exit(wait::DEADLINE).success());
    assert_eq!(std::fs::read_to_string(dir.path().join(LOG)).expect("the log").lines().count(), 500);
}
