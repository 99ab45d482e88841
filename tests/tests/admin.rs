//! The admin endpoint and the command line.

use std::ffi::OsStr;

use gateway_tests::gateway::run;
use gateway_tests::prelude::*;

fn simple() -> Config {
    Config::new().listener("web", "").route("all", "respond = { status = 204 }")
}

#[test]
fn the_admin_endpoint_answers_its_paths_and_no_others() {
    let gateway = Gateway::start(&simple());
    for path in ["/ready", "/healthz", "/metrics", "/config", "/endpoints"] {
        assert_eq!(gateway.admin_get(path).status, 200, "{path}");
    }
    assert_eq!(gateway.admin_get("/nothing").status, 404);
    assert_eq!(gateway.admin_get("/reload").status, 405, "a GET must change nothing");
    assert_eq!(gateway.admin_post("/reload").status, 200);
}

#[test]
fn web_pages_in_a_local_browser_get_nothing() {
    let gateway = Gateway::start(&simple());
    for (headers, why) in [
        ("host: evil.test\r\n", "a name that was pointed at this address (DNS rebinding)"),
        ("host: localhost\r\norigin: http://evil.test\r\n", "another site's page"),
    ] {
        for (method, path) in [("GET", "/config"), ("POST", "/reload")] {
            assert_eq!(gateway.admin_request(method, path, headers).status, 403, "{method} {path}: {why}");
        }
    }
}

#[test]
fn the_running_configuration_is_shown_without_keys() {
    let store = gateway_tests::certs::Store::new();
    let leaf = store.issue("site", &["site.test"]);
    let config = Config::new()
        .certificate("site", store.path())
        .listener("web", "tls = { certificates = ['site'] }")
        .route("visible-route", "respond = { status = 204 }");
    let gateway = Gateway::start(&config);
    let shown = gateway.admin_get("/config");
    assert!(shown.text().contains("visible-route"), "{}", shown.text());
    let secret = leaf.key_pem.lines().nth(1).expect("a line of the key");
    assert!(!shown.text().contains(secret) && !shown.text().contains("PRIVATE KEY"));
}

#[test]
fn a_second_gateway_on_the_same_port_says_so_and_fails() {
    let taken = Origin::start("holds a port");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("gateway.toml");
    let config = Config::new().listener_at("web", taken.addr(), "").route("all", "respond = { status = 204 }");
    std::fs::write(&file, config.to_string()).expect("write");
    let (status, out, log) = run(&[OsStr::new("run"), OsStr::new("--config"), file.as_os_str()]);
    assert!(!status.success());
    assert!(!out.contains("READY"), "{out}");
    assert!(log.contains(&taken.addr().to_string()), "{log}");
}

#[test]
fn check_accepts_a_good_file_and_shows_every_error_of_a_bad_one() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("gateway.toml");
    let check = |text: &str| {
        std::fs::write(&file, text).expect("write");
        run(&[OsStr::new("check"), file.as_os_str()])
    };
    assert!(check(&simple().to_string()).0.success());
    let (status, out, log) =
        check("[[listener]]\nname = 'web'\naddress = 'nowhere'\n[[route]]\nname = 'r'\nclutser = 'x'\n");
    assert_eq!(status.code(), Some(1));
    let text = out + &log;
    for part in ["gateway.toml:3:", "nowhere", "gateway.toml:6:", "clutser", "cluster"] {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let (status, _, log) = run(&[OsStr::new("run"), OsStr::new("--config"), OsStr::new("/nonexistent/gateway.toml")]);
    assert!(!status.success());
    assert!(log.contains("/nonexistent/gateway.toml"), "{log}");
}
