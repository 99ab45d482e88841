//! Certificates end: who is told, and what there is to see of them.

use std::ffi::OsStr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use gateway_tests::certs::{Authority, Store};
use gateway_tests::gateway::run;
use gateway_tests::h2::Options;
use gateway_tests::origin::serve;
use gateway_tests::prelude::*;
use gateway_tests::tls::TlsServer;
use serde_json::{Value, json};

/// A webhook, and the bodies it was sent.
struct Hook {
    script: Script,
    bodies: Arc<Mutex<Vec<Value>>>,
}

impl Hook {
    fn start(tls: Option<TlsServer>) -> Hook {
        let bodies = Arc::new(Mutex::new(Vec::new()));
        let heard = bodies.clone();
        let script = move |conn| {
            serve(conn, &Options::default(), &|served| {
                let mut body = Vec::new();
                served.body(&mut |bytes| body.extend_from_slice(bytes)).expect("a body");
                assert_eq!((served.head.method(), served.path()), ("POST", "/hook"));
                assert_eq!(served.head.header("content-type"), Some("application/json"));
                heard.lock().unwrap().push(serde_json::from_slice(&body).expect("JSON"));
                served.answer(204, &[], b"");
            });
        };
        let script = match tls {
            None => Script::start(script),
            Some(tls) => Script::start_tls(tls, script),
        };
        Hook { script, bodies }
    }

    /// Waits for so many bodies, and gives all there are.
    fn bodies(&self, count: usize) -> Vec<Value> {
        wait::until_true("alerts at the webhook", || self.bodies.lock().unwrap().len() >= count);
        self.bodies.lock().unwrap().clone()
    }

    fn settings(&self, scheme: &str, lines: &str) -> String {
        format!("[certificate_alerts]\nwebhook = '{scheme}://{}/hook'\n{lines}\n", self.script.addr())
    }
}

/// In so many days and an hour, so that no test depends on how long it takes.
fn in_days(days: u64) -> SystemTime {
    SystemTime::now() + Duration::from_secs(days * 86_400 + 3_600)
}

/// A listener `web` that shows `site`.
fn site(store: &Store) -> Config {
    Config::new()
        .certificate("site", store.path())
        .listener("web", "tls = { certificates = ['site'] }")
        .route("all", "respond = { status = 204 }")
}

/// Lines of the log about the certificate `site`'s end.
fn lines(gateway: &Gateway) -> Vec<String> {
    let is_wanted = |line: &String| line.contains("certificate \"site\"") && line.contains(" expire");
    gateway.process.stderr.lines().into_iter().filter(is_wanted).collect()
}

/// What `gateway certs ARGS` prints.
fn certs(args: &[&str]) -> String {
    let args: Vec<&OsStr> = [&["certs"], args].concat().into_iter().map(OsStr::new).collect();
    let (status, out, error) = run(&args);
    assert!(status.success(), "{error}");
    out
}

#[test]
fn a_certificate_that_ends_soon_is_told_of_once_and_its_successor_by_itself() {
    let (store, hook) = (Store::new(), Hook::start(None));
    store.issue_until("site", &["site.test", "www.site.test"], in_days(20));
    let config = site(&store).tables(&hook.settings("http", ""));
    let mut gateway = Gateway::start(&config);
    let alert = hook.bodies(1)[0].clone();
    let [only] = alert["alerts"].as_array().expect("alerts").as_slice() else { panic!("{alert}") };
    assert_eq!((&only["event"], &only["within_days"]), (&json!("expires"), &json!(30)));
    assert_eq!((&only["certificate"]["name"], &only["certificate"]["days_left"]), (&json!("site"), &json!(20)));
    let text = alert["text"].as_str().expect("a text");
    assert!(text.contains("certificate \"site\" (site.test) expires in 20 days, on "), "{text}");
    assert_eq!(lines(&gateway).len(), 1, "{:?}", lines(&gateway));

    gateway.reload(&config.clone().route("more", "match = { path = '/more' }\nrespond = { status = 204 }"));
    store.issue_until("site", &["site.test"], in_days(5));
    assert_eq!(gateway.admin_post("/reload").status, 200);
    let bodies = hook.bodies(2);
    assert_eq!(bodies[1]["alerts"][0]["within_days"], 7, "{}", bodies[1]);
    assert_eq!(bodies[1]["alerts"][0]["certificate"]["days_left"], 5, "{}", bodies[1]);

    // What would be told wrongly would be told before this.
    let other = "[[certificate]]\nname = 'gone'\nchain = 'gone.pem'\nkey = 'gone.key'\n";
    let gone = store.authority.leaf_until(&["gone.test"], SystemTime::now() - Duration::from_secs(3 * 86_400 + 60));
    gateway.write_file("gone.pem", &gone.chain_pem);
    gateway.write_file("gone.key", &gone.key_pem);
    gateway.reload(&config.tables(other));
    let bodies = hook.bodies(3);
    assert_eq!(bodies.len(), 3, "{bodies:?}");
    assert_eq!((&bodies[2]["alerts"][0]["event"], &bodies[2]["alerts"][1]), (&json!("expired"), &Value::Null));
    let text = bodies[2]["text"].as_str().expect("a text");
    assert!(text.contains("certificate \"gone\" (gone.test) expired 3 days ago"), "{text}");
    assert_eq!(lines(&gateway).len(), 2, "{:?}", lines(&gateway));
    let posts = |gateway: &Gateway, result| {
        gateway.metrics().sum("gateway_certificate_alert_posts_total", &[("result", result)])
    };
    wait::until_true("three posts to be counted", || posts(&gateway, "ok") == 3.0);
    assert_eq!(posts(&gateway, "failed"), 0.0);
}

#[test]
fn the_webhook_is_spoken_to_over_tls_when_its_authority_is_trusted() {
    let (store, other) = (Store::new(), Authority::new());
    store.issue_until("site", &["site.test"], in_days(1));
    let trusted = Hook::start(Some(TlsServer::new(&store.authority.leaf(&["127.0.0.1", "::1"]), &["h2", "http/1.1"])));
    let untrusted = Hook::start(Some(TlsServer::new(&other.leaf(&["127.0.0.1", "::1"]), &[])));
    let ca = format!("webhook_ca = '{}/ca.pem'", store.path().display());
    let mut gateway = Gateway::start(&site(&store).tables(&trusted.settings("https", &ca)));
    assert_eq!(trusted.bodies(1)[0]["alerts"][0]["within_days"], 7);
    gateway.reload(&site(&store).tables(&untrusted.settings("https", &ca)));
    store.issue_until("site", &["site.test"], in_days(8));
    assert_eq!(gateway.admin_post("/reload").status, 200);
    let line = gateway.process.stderr.find("the webhook's refusal", |line| line.contains("no TLS")).expect("a line");
    assert!(line.contains("webhook https://") && !line.contains("/hook"), "{line}");
    assert!(untrusted.bodies.lock().unwrap().is_empty());
    let shown = gateway.admin_get("/config");
    assert!(!shown.text().contains("/hook"), "{}", shown.text());
}

#[test]
fn certs_shows_what_there_is_and_metrics_when_it_ends() {
    let store = Store::new();
    let until = in_days(45);
    store.issue_until("site", &["site.test", "www.site.test"], until);
    let key = store.issue("second", &["*.second.test"]);
    let ca = store.path().join("ca.pem").display().to_string();
    let clients = format!("client_auth = {{ mode = 'optional', ca = '{ca}' }}");
    let config = site(&store)
        .certificate("second", store.path())
        .listener("other", &format!("tls = {{ certificates = ['second', 'site'], {clients} }}"))
        .cluster(
            "api",
            &["127.0.0.1:1".parse().expect("an address")],
            &format!("tls = {{ ca = '{ca}', certificate = 'second' }}"),
        )
        .route("api", "match = { path = '/api' }\ncluster = 'api'");
    let gateway = Gateway::start(&config);
    let admin = gateway.admin_addr().to_string();
    let out = certs(&["--admin", &admin]);
    let rows: Vec<&str> = out.lines().collect();
    for head in [
        "NAME",
        "KIND",
        "STATE",
        "DAYS LEFT",
        "NOT BEFORE",
        "NOT AFTER",
        "KEY",
        "DNS NAMES",
        "BOUND TO",
        "SOURCE",
        "ISSUER",
        "SERIAL",
        "SHA-256",
    ] {
        assert!(rows[0].contains(head), "{out}");
    }
    let file = store.path().join("site.pem").display().to_string();
    for part in [
        "certificate",
        "ok",
        " 45 ",
        "1975-01-01T00:00:00Z",
        "ECDSA P-256",
        "site.test, www.site.test",
        "web (default), other",
        &file,
        "CN=Test authority",
    ] {
        assert!(rows[1].starts_with("site ") && rows[1].contains(part), "{part}:\n{out}");
    }
    let authority = rows.iter().find(|row| row.starts_with("CN=Test authority ")).expect("the authority's row");
    assert!(authority.contains(" authority ") && authority.contains("cluster api, clients of other"), "{out}");
    assert!(!out.contains("PRIVATE"), "{out}");

    let json: Value = serde_json::from_str(&certs(&["--admin", &admin, "--json"])).expect("JSON");
    assert_eq!(json["certificates"][0]["dns_names"], json!(["site.test", "www.site.test"]));
    let second = json["certificates"].as_array().unwrap().iter().find(|of| of["name"] == "second").expect("it");
    assert_eq!(second["bound"], json!([{ "listener": "other", "default": true }, { "cluster": "api" }]));
    let digest = second["fingerprint_sha256"].as_str().expect("a digest");
    assert_eq!(digest, sha256(&key.der), "of the certificate's DER form");
    let unasked: Value =
        serde_json::from_str(&certs(&["--config", gateway.dir().join("gateway.toml").to_str().unwrap(), "--json"]))
            .expect("JSON");
    assert_eq!(unasked, json, "the file says the same as the gateway");

    let metrics = gateway.metrics();
    let until = until.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as f64;
    let labels = [("kind", "certificate"), ("name", "site"), ("domain", "site.test")];
    assert_eq!(metrics.sum("gateway_certificate_not_after_seconds", &labels), until);
    assert_eq!(metrics.sum("gateway_certificates", &[("state", "ok")]), 2.0);
}

#[test]
fn a_refused_pair_is_told_of_and_shown() {
    let (store, hook) = (Store::new(), Hook::start(None));
    let good = store.issue("site", &["site.test"]);
    let gateway = Gateway::start(&site(&store).tables(&hook.settings("http", "days = []")));
    let other = store.authority.leaf(&["site.test"]);
    std::fs::write(store.path().join("site.key"), &other.key_pem).expect("write a key");
    let alert = hook.bodies(1)[0]["alerts"][0].clone();
    assert_eq!((&alert["event"], &alert["certificate"]["state"]), (&json!("refused"), &json!("ok")), "{alert}");
    assert_eq!(alert["certificate"]["fingerprint_sha256"], sha256(&good.der));
    let shown = certs(&["--admin", &gateway.admin_addr().to_string()]);
    assert!(shown.contains("site: a newer pair is refused: "), "{shown}");
    std::fs::write(store.path().join("site.key"), &good.key_pem).expect("write a key");
    wait::until_true("the refusal to be over", || {
        !certs(&["--admin", &gateway.admin_addr().to_string()]).contains("refused")
    });
    assert_eq!(hook.bodies(1).len(), 1);
}

fn sha256(der: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
