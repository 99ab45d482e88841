//! Who may connect where XDP is off: access rules with their conditions and ends, lists in files, bans.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use gateway_tests::gateway::run;
use gateway_tests::ports::{HeldPort, loopback};
use gateway_tests::prelude::*;
use gateway_tests::stream::Stream;

#[test]
fn a_rule_with_a_port_refuses_that_listener_only() {
    let (denied, free) = (HeldPort::released(), HeldPort::released());
    let rule = format!(
        "[[access]]\nname = 'port'\naction = 'deny'\nprotocol = 'tcp'\nports = [{}]\nsources = ['127.0.0.0/8']\n\
         [[access]]\nname = 'other'\naction = 'deny'\nprotocol = 'udp'\nsources = ['127.0.0.0/8']",
        denied.port()
    );
    let config = Config::new()
        .listener_at("denied", denied, "")
        .listener_at("free", free, "")
        .route("all", "respond = { status = 204 }")
        .tables(&rule);
    let gateway = Gateway::start(&config);
    assert!(is_served(free) && !is_served(denied));
    assert_eq!(refused(&gateway, "access_denied"), 1.0);
}

#[test]
fn a_source_in_a_watched_file_is_refused_until_its_line_ends_or_goes() {
    let mut gateway = Gateway::start(&simple());
    let web = gateway.addr("web");
    assert!(is_served(web));
    let end = SystemTime::now() + Duration::from_secs(3);
    let line = format!("{} expires={}\n", loopback(), humantime::format_rfc3339_seconds(end));
    gateway.write_file("bad.txt", &line);
    let rule = "[[access]]\nname = 'bad'\naction = 'deny'\nsource_files = ['bad.txt']";
    gateway.reload(&simple().tables(rule));
    wait::until_true("the end of the line's time", || is_served(web));
    assert!(SystemTime::now() >= end - Duration::from_secs(1), "it ended early");
    gateway.write_file("bad.txt", &format!("{}\n", loopback()));
    wait::until_true("the file's source to be refused", || !is_served(web));
    gateway.write_file("bad.txt", "# nobody\n");
    wait::until_true("nobody to be refused", || is_served(web));
}

#[test]
fn a_banned_source_is_refused_until_the_ban_is_undone() {
    let mut gateway = Gateway::start(&simple());
    let web = gateway.addr("web");
    let address = loopback().to_string();
    let bans = |words: &[&str]| command(&gateway, &[&["bans"], words].concat());
    assert_eq!(bans(&["list"]).unwrap().trim(), "[]");
    assert!(is_served(web));
    bans(&["add", &address, "--ttl", "10m", "--reason", "a test"]).unwrap();
    assert!(!is_served(web));
    assert!(refused(&gateway, "banned") >= 1.0);
    assert_eq!(gateway.metrics().sum("gateway_bans_active", &[]), 1.0);
    let why = bans(&["why", &address]).unwrap();
    assert!(why.contains("\"reason\": \"a test\"") && why.contains("named by an operator"), "{why}");
    assert!(bans(&["list"]).unwrap().contains("\"reason\": \"a test\""));
    bans(&["undo", &address]).unwrap();
    assert!(is_served(web));
    for words in [&["undo", &address][..], &["why", &address]] {
        assert!(bans(words).unwrap_err().contains("is not banned"), "{words:?}");
    }
    assert!(bans(&["add", &address, "--ttl", "8days"]).unwrap_err().contains("7 days"));
    assert!(command(&gateway, &["lists"]).is_ok());

    bans(&["add", &address]).unwrap();
    assert!(!is_served(web));
    gateway.reload(&simple().gateway(&format!("trusted_proxies = ['{address}']")));
    assert!(is_served(web), "a trusted proxy is not banned");
    let error = command(&gateway, &["bans", "add", &address]).unwrap_err();
    assert!(error.contains("trusted proxy"), "{error}");
}

#[test]
fn a_command_says_so_when_there_is_no_gateway() {
    let nobody = HeldPort::new();
    let address = nobody.addr().to_string();
    let (status, _, error) = run(&["bans", "list", "--admin", &address].map(OsStr::new));
    assert!(!status.success());
    assert!(error.contains("is the gateway running"), "{error}");
}

fn simple() -> Config {
    Config::new().listener("web", "").route("all", "respond = { status = 204 }")
}

/// Whether a request is answered. A refused connection may be reset before it is ready for use.
fn is_served(address: SocketAddr) -> bool {
    let Ok(stream) = Stream::connect(address) else { return false };
    let mut client = Conn::new(stream, 0);
    client.try_send(gateway_tests::client::request("GET", "/", ""));
    client.try_response_to("GET").is_ok_and(|response| response.status == 204)
}

fn refused(gateway: &Gateway, reason: &str) -> f64 {
    gateway.metrics().sum("gateway_listener_connections_refused_total", &[("reason", reason)])
}

/// What the command prints, or its error.
fn command(gateway: &Gateway, words: &[&str]) -> Result<String, String> {
    let lines = gateway.process.stdout.lines();
    let admin = lines.iter().find_map(|line| line.strip_prefix("ADMIN ")).expect("an ADMIN line");
    let words = [words, &["--admin", admin]].concat();
    let words: Vec<&OsStr> = words.into_iter().map(OsStr::new).collect();
    let (status, out, error) = run(&words);
    if status.success() { Ok(out) } else { Err(error) }
}
