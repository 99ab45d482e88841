//! Certificates by ACME, from a real authority that sends real challenges: issue, renew under traffic, and what happens when
//! it is away.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use gateway_tests::certs::Store;
use gateway_tests::conn::Framing;
use gateway_tests::gateway::run;
use gateway_tests::pebble::{Pebble, Settings};
use gateway_tests::ports::loopback;
use gateway_tests::prelude::*;
use gateway_tests::tls::{TlsClient, TlsServer};
use serde_json::{Value, json};

/// Issuing takes a second or two where nobody else wants the processor.
const ISSUE: Duration = Duration::from_secs(60);

/// Listeners `web`, without TLS, and `secure`. Nothing is obtained yet, so the ports are known before the authority is.
fn bare(origin: &Origin) -> Config {
    Config::new()
        .listener("web", "")
        .listener("secure", "")
        .cluster("origin", &[origin.addr()], "")
        .route("all", "cluster = 'origin'")
}

/// The same with a certificate `auto` for these hosts on `secure`, and where all that comes to `web` is sent away; `acme` is
/// the account.
fn with_acme(origin: &Origin, store: &Path, hosts: &str, acme: &str) -> Config {
    Config::new()
        .tables(&format!("[certificate_store]\ndirectory = '{}'", store.display()))
        .tables(&format!("[[acme]]\nname = 'pebble'\n{acme}"))
        .tables(&format!("[[certificate]]\nname = 'auto'\nacme = 'pebble'\nhosts = {hosts}"))
        .listener("web", "")
        .listener("secure", "tls = { certificates = ['auto'] }")
        .cluster("origin", &[origin.addr()], "")
        .route("all", "listeners = ['secure']\ncluster = 'origin'")
        .route("away", "listeners = ['web']\nredirect = { scheme = 'https' }")
}

fn orders(gateway: &Gateway, result: &str) -> u64 {
    gateway.metrics().sum("gateway_acme_orders_total", &[("certificate", "auto"), ("result", result)]) as u64
}

fn wait_issued(gateway: &Gateway, count: u64) {
    wait::within(ISSUE, "a certificate to be issued", || (orders(gateway, "issued") >= count).then_some(()));
}

/// Waits until the listener shows a certificate that leads to the authority's root. That it was issued is known a moment
/// before it is in force.
fn wait_shown(gateway: &Gateway, client: &TlsClient, name: &str) {
    wait::until("the certificate to be in force", || client.connect(gateway.addr("secure"), name).ok());
}

/// An authority that answers as a test says, over TLS. Its directory and its nonces are always there.
struct Scripted {
    script: Script,
    store: Store,
    asked: Arc<Mutex<Vec<Asked>>>,
}

/// What an authority was asked.
#[derive(Clone, Debug)]
struct Asked {
    target: String,
    /// What was signed (RFC 8555 section 6.2); null where nothing was.
    payload: Value,
}

impl Scripted {
    /// `answer` gives a status and a body.
    fn start(answer: impl Fn(&Asked) -> (u16, Value) + Send + Sync + 'static) -> Scripted {
        let store = Store::new();
        let leaf = store.authority.leaf(&[&loopback().to_string()]);
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heard = asked.clone();
        let script = Script::start_tls(TlsServer::new(&leaf, &[]), move |mut conn| {
            let Ok(head) = conn.head() else { return };
            let mut body = Vec::new();
            conn.body(head.framing(Framing::Empty), &mut |bytes| body.extend_from_slice(bytes)).expect("a body");
            let asked = Asked { target: head.target().to_owned(), payload: payload(&body) };
            heard.lock().unwrap().push(asked.clone());
            let url = |path: &str| format!("https://{}{path}", head.header("host").expect("a host"));
            let (status, body) = match head.target() {
                "/dir" => {
                    let urls = ["newNonce", "newAccount", "newOrder", "renewalInfo"];
                    (200, urls.into_iter().map(|name| (name.to_owned(), url(&format!("/{name}")))).collect())
                }
                "/newNonce" => (200, Value::Null),
                _ => answer(&asked),
            };
            let body = if body.is_null() { String::new() } else { body.to_string() };
            let fields = format!("replay-nonce: abc\r\nretry-after: 1200\r\ncontent-length: {}", body.len());
            conn.send(format!("HTTP/1.1 {status} Scripted\r\n{fields}\r\n\r\n{body}"));
        });
        Scripted { script, store, asked }
    }

    /// Where its directory is.
    fn url(&self) -> String {
        format!("https://{}/dir", self.script.addr())
    }

    /// Lines of an `[[acme]]` table.
    fn acme(&self) -> String {
        let ca = self.store.path().join("ca.pem");
        format!("directory_url = '{}'\nca = '{}'\nterms_of_service_agreed = true", self.url(), ca.display())
    }

    /// What it was asked so far below `target`.
    fn asked(&self, target: &str) -> Vec<Asked> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|asked| asked.target.starts_with(target)).cloned().collect()
    }

    /// Takes the place of the authority that has issued what is kept in `store`.
    fn succeed(&self, store: &Path, before: &Pebble) {
        let account = store.join("acme/pebble/account");
        let mut kept: Value = serde_json::from_slice(&std::fs::read(&account).expect("the account")).expect("JSON");
        kept["directory"] = self.url().into();
        std::fs::write(&account, kept.to_string()).expect("write a file");
        let certificate = store.join("certificates/auto");
        let kept = std::fs::read_to_string(&certificate).expect("the certificate");
        let (first, rest) = kept.split_once('\n').expect("lines");
        assert_eq!(first, format!("issued-by: https://{}/dir", before.addr()));
        std::fs::write(&certificate, format!("issued-by: {}\n{rest}", self.url())).expect("write a file");
    }
}

/// The payload of a JSON Web Signature in flattened form (RFC 7515 section 7.2.2).
fn payload(body: &[u8]) -> Value {
    let signed: Value = serde_json::from_slice(body).unwrap_or_default();
    let payload = signed["payload"].as_str().unwrap_or_default();
    let payload = BASE64URL_NOPAD.decode(payload.as_bytes()).expect("base64url");
    serde_json::from_slice(&payload).unwrap_or_default()
}

fn refusal(kind: &str, status: u16) -> (u16, Value) {
    (status, json!({ "type": format!("urn:ietf:params:acme:error:{kind}"), "status": status }))
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).mode() & 0o777
}

#[test]
fn http_01_proves_several_names_before_any_route_and_a_new_start_issues_nothing() {
    let (origin, dir) = (Origin::start("a"), tempfile::tempdir().expect("a temporary directory"));
    let store = dir.path().join("store");
    let mut gateway = Gateway::start(&bare(&origin));
    let pebble = Pebble::start(&Settings::new(gateway.addr("web"), gateway.addr("secure")));
    let hosts = "['one.test', 'two.test']";
    gateway.reload(&with_acme(&origin, &store, hosts, &pebble.acme()));
    wait_issued(&gateway, 1);
    let client = TlsClient::trusting(pebble.root());
    for name in ["one.test", "two.test"] {
        wait_shown(&gateway, &client, name);
        let (mut conn, _) = client.connect(gateway.addr("secure"), name).expect("a handshake");
        conn.send(format!("GET / HTTP/1.1\r\nhost: {name}\r\n\r\n"));
        assert_eq!(conn.response().status, 200);
    }
    // What is not pending is nobody's but the route's.
    assert_eq!(gateway.get("/.well-known/acme-challenge/theirs").status, 301);
    for (path, expected) in [
        ("", 0o700),
        ("acme/pebble", 0o700),
        ("acme/pebble/account", 0o600),
        ("certificates", 0o700),
        ("certificates/auto", 0o600),
    ] {
        assert_eq!(mode(&store.join(path)), expected, "{path}");
    }
    let log = gateway.process.stderr.text();
    assert!(!log.contains("PRIVATE KEY") && !gateway.admin_get("/config").text().contains("PRIVATE KEY"));

    let shown = client.connect(gateway.addr("secure"), "one.test").expect("a handshake").1.certificate;
    drop(gateway);
    let acme = pebble.acme();
    let _ended = pebble.kill();
    let again = Gateway::start(&with_acme(&origin, &store, hosts, &acme));
    let after = client.connect(again.addr("secure"), "one.test").expect("a handshake at once").1.certificate;
    assert!(shown == after, "the certificate is the one that was kept");
    assert_eq!((orders(&again, "issued"), orders(&again, "failed")), (0, 0));
}

#[test]
fn origins_get_the_challenges_that_are_theirs() {
    let origin = Origin::start("a");
    let gateway = Gateway::start(&bare(&origin));
    gateway.get("/.well-known/acme-challenge/theirs");
    assert_eq!(origin.requests(), 1);
}

#[test]
fn tls_alpn_01_with_an_external_account_and_renewals_lose_no_handshake() {
    let (origin, dir) = (Origin::start("a"), tempfile::tempdir().expect("a temporary directory"));
    let mut gateway = Gateway::start(&bare(&origin));
    let key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    let mut settings = Settings::new(gateway.addr("web"), gateway.addr("secure"));
    settings.validity_s = 15;
    settings.external_accounts.insert("kid-1".into(), key.into());
    let pebble = Pebble::start(&settings);
    let hmac = dir.path().join("hmac");
    std::fs::write(&hmac, format!("{key}\n")).expect("write a file");
    let acme = format!(
        "{}challenge = 'tls-alpn-01'\ncontact = ['mailto:ops@example.com']\n\
         external_account = {{ key_id = 'kid-1', hmac_key = '{}' }}",
        pebble.acme(),
        hmac.display()
    );
    gateway.reload(&with_acme(&origin, dir.path(), "['one.test', 'two.test']", &acme));
    wait_issued(&gateway, 1);
    let root = pebble.root();
    wait_shown(&gateway, &TlsClient::trusting(root.clone()), "one.test");

    let (addr, done) = (gateway.addr("secure"), AtomicBool::new(false));
    let shown = std::thread::scope(|scope| {
        // Each handshake is full and verified: with a certificate that has expired it would fail.
        let traffic = scope.spawn(|| {
            let mut shown = BTreeSet::new();
            while !done.load(Relaxed) {
                let client = TlsClient::trusting(root.clone());
                let (mut conn, handshake) = client.connect(addr, "two.test").expect("a handshake");
                conn.send("GET / HTTP/1.1\r\nhost: two.test\r\n\r\n");
                assert_eq!(conn.response().status, 200);
                shown.insert(handshake.certificate.to_vec());
            }
            shown
        });
        // A failed assertion of the traffic must not wait for renewals that nobody needs any more.
        wait::within(ISSUE, "two renewals", || {
            (orders(&gateway, "issued") >= 3 || traffic.is_finished()).then_some(())
        });
        done.store(true, Relaxed);
        traffic.join().expect("no failed handshake")
    });
    assert!(shown.len() >= 2, "{} certificates were seen", shown.len());
    assert_eq!(orders(&gateway, "failed"), 0);
}

#[test]
fn a_failed_renewal_leaves_the_old_certificate_and_is_told() {
    let (origin, dir) = (Origin::start("a"), tempfile::tempdir().expect("a temporary directory"));
    let mut gateway = Gateway::start(&bare(&origin));
    let mut settings = Settings::new(gateway.addr("web"), gateway.addr("secure"));
    settings.validity_s = 15;
    let pebble = Pebble::start(&settings);
    let acme = pebble.acme();
    gateway.reload(&with_acme(&origin, dir.path(), "['one.test']", &acme));
    wait_issued(&gateway, 1);
    let client = TlsClient::trusting(pebble.root());
    wait_shown(&gateway, &client, "one.test");
    let careless = TlsClient::accepting_anything(&gateway_tests::certs::Authority::new());
    let shown = || careless.connect(gateway.addr("secure"), "one.test").expect("a handshake").1.certificate;
    let first = shown();

    // Away: what is there stays, and a line and a metric tell.
    let ended = pebble.kill();
    wait::within(ISSUE, "a failed renewal", || (orders(&gateway, "failed") >= 1).then_some(()));
    assert!(shown() == first);
    let told = |line: &str| line.contains("certificate \"auto\": not issued by `pebble`") && line.contains("stays");
    wait::until_true("a line about it", || gateway.process.stderr.lines().iter().any(|line| told(line)));
    let failure = || {
        let all = gateway.admin_get("/certificates").json();
        let auto = all["certificates"].as_array().and_then(|all| all.iter().find(|of| of["name"] == "auto").cloned());
        auto.expect("the certificate")["renewal_failed"].clone()
    };
    wait::until_true("the inventory to say why", || failure().is_string());

    // Back, and it has forgotten the account: a new one is made.
    let pebble = ended.back(&settings);
    wait_issued(&gateway, 2);
    let client = TlsClient::trusting(pebble.root());
    wait_shown(&gateway, &client, "one.test");
    assert!(shown() != first);
    wait::until_true("the failure to be forgotten", || failure().is_null());
}

#[test]
fn an_authority_that_cannot_reach_the_name_says_so_and_nobody_is_shown_anything() {
    let (origin, dir) = (Origin::start("a"), tempfile::tempdir().expect("a temporary directory"));
    let mut gateway = Gateway::start(&bare(&origin));
    // Its challenges go to the origin.
    let pebble = Pebble::start(&Settings::new(origin.addr(), origin.addr()));
    gateway.reload(&with_acme(&origin, dir.path(), "['one.test']", &pebble.acme()));
    wait::within(ISSUE, "a failed order", || (orders(&gateway, "failed") >= 1).then_some(()));
    let told =
        |line: &str| line.contains("there is none yet") && line.contains("one.test") && line.contains("unauthorized");
    wait::until_true("a line about it", || gateway.process.stderr.lines().iter().any(|line| told(line)));
    let careless = TlsClient::accepting_anything(&gateway_tests::certs::Authority::new());
    careless.connect(gateway.addr("secure"), "one.test").expect_err("there is no certificate");
}

#[test]
fn an_authority_that_wants_a_certificate_to_be_renewed_earlier_is_heard() {
    let (origin, dir) = (Origin::start("a"), tempfile::tempdir().expect("a temporary directory"));
    let mut gateway = Gateway::start(&bare(&origin));
    let pebble = Pebble::start(&Settings::new(gateway.addr("web"), gateway.addr("secure")));
    gateway.reload(&with_acme(&origin, dir.path(), "['one.test']", &pebble.acme()));
    wait_issued(&gateway, 1);
    drop(gateway);

    // Another authority of the same name wants it to be renewed, and nothing to be replaced.
    let authority = Scripted::start(|asked| match asked.target.as_str() {
        "/newOrder" if asked.payload["replaces"].is_string() => refusal("malformed", 400),
        "/newOrder" => refusal("rejectedIdentifier", 400),
        _ => (200, json!({ "suggestedWindow": { "start": "2020-01-01T00:00:00Z", "end": "2020-01-02T00:00:00Z" } })),
    });
    authority.succeed(dir.path(), &pebble);
    let gateway = Gateway::start(&with_acme(&origin, dir.path(), "['one.test']", &authority.acme()));
    wait::within(ISSUE, "a renewal to be tried", || (orders(&gateway, "failed") >= 1).then_some(()));
    let questions = authority.asked("/renewalInfo/");
    let id = questions[0].target.strip_prefix("/renewalInfo/").expect("a certificate");
    assert!(id.contains('.'), "{id}");
    let orders: Vec<Value> = authority.asked("/newOrder").into_iter().map(|asked| asked.payload).collect();
    let identifiers = json!([{ "type": "dns", "value": "one.test" }]);
    let expected = [json!({ "identifiers": identifiers, "replaces": id }), json!({ "identifiers": identifiers })];
    assert_eq!(orders, expected, "what it replaces, and without that when it is not taken so");
}

/// What `gateway certs renew` says, whether it was good or not.
fn renew(gateway: &Gateway, which: &str) -> (bool, String) {
    let admin = gateway.admin_addr().to_string();
    let args = ["certs", "renew", which, "--admin", &admin].map(OsStr::new);
    let (status, out, error) = run(&args);
    (status.success(), out + &error)
}

#[test]
fn an_operator_has_a_certificate_renewed_or_is_told_why_it_is_not() {
    let (origin, dir) = (Origin::start("a"), tempfile::tempdir().expect("a temporary directory"));
    let mut gateway = Gateway::start(&bare(&origin));
    let pebble = Pebble::start(&Settings::new(gateway.addr("web"), gateway.addr("secure")));
    let files = Store::new();
    files.issue("file", &["file.test"]);
    let config = with_acme(&origin, dir.path(), "['one.test']", &pebble.acme()).certificate("file", files.path());
    gateway.reload(&config);
    wait_issued(&gateway, 1);
    let client = TlsClient::trusting(pebble.root());
    wait_shown(&gateway, &client, "one.test");
    let shown = || client.connect(gateway.addr("secure"), "one.test").expect("a handshake").1.certificate;
    let first = shown();
    let (is_good, told) = renew(&gateway, "auto");
    assert!(is_good && told.trim_end() == "auto: a renewal has begun", "{told}");
    wait_issued(&gateway, 2);
    wait::until_true("the new one to be in force", || shown() != first);
    assert!(!gateway.process.stderr.text().contains("not issued"));
    wait::until_true("the next renewal to be possible", || renew(&gateway, "--all").1.contains("auto: a renewal"));
    wait_issued(&gateway, 3);
    for (name, why) in [("file", "is not obtained by ACME; it is in files"), ("none", "there is no certificate")] {
        let (is_good, told) = renew(&gateway, name);
        assert!(!is_good && told.contains(why), "{told}");
    }
    assert_eq!(orders(&gateway, "failed"), 0);
}

#[test]
fn another_directory_orders_anew_what_is_kept_and_the_old_one_is_shown_meanwhile() {
    let (origin, dir) = (Origin::start("a"), tempfile::tempdir().expect("a temporary directory"));
    let mut gateway = Gateway::start(&bare(&origin));
    let settings = Settings::new(gateway.addr("web"), gateway.addr("secure"));
    let (staging, production) = (Pebble::start(&settings), Pebble::start(&settings));
    gateway.reload(&with_acme(&origin, dir.path(), "['one.test']", &staging.acme()));
    wait_issued(&gateway, 1);
    wait_shown(&gateway, &TlsClient::trusting(staging.root()), "one.test");
    gateway.reload(&with_acme(&origin, dir.path(), "['one.test']", &production.acme()));
    let anybody = TlsClient::accepting_anything(&gateway_tests::certs::Authority::new());
    anybody.connect(gateway.addr("secure"), "one.test").expect("the old one");
    wait_shown(&gateway, &TlsClient::trusting(production.root()), "one.test");
    wait::until_true("it to be counted", || orders(&gateway, "issued") == 2);
    let config = with_acme(&origin, dir.path(), "['one.test']", &production.acme());
    drop(gateway);
    let again = Gateway::start(&config);
    TlsClient::trusting(production.root()).connect(again.addr("secure"), "one.test").expect("a handshake at once");
    assert_eq!((orders(&again, "issued"), orders(&again, "failed")), (0, 0));
}

#[test]
fn an_authority_that_is_asked_too_often_is_left_in_peace_by_all_certificates() {
    const CERTIFICATES: usize = 12;
    let (origin, dir) = (Origin::start("a"), tempfile::tempdir().expect("a temporary directory"));
    let authority = Scripted::start(|_| refusal("rateLimited", 429));
    let more = |config: Config, number: usize| {
        config.tables(&format!("[[certificate]]\nname = 'more{number}'\nacme = 'pebble'\nhosts = ['m{number}.test']"))
    };
    let config = (1..CERTIFICATES).fold(with_acme(&origin, dir.path(), "['one.test']", &authority.acme()), more);
    let gateway = Gateway::start(&config);
    let failed = |gateway: &Gateway| gateway.metrics().sum("gateway_acme_orders_total", &[("result", "failed")]) as u64;
    wait::within(ISSUE, "a refusal", || (failed(&gateway) >= 1).then_some(()));
    // Of those that were on their way nothing is left when one that has not been tried is refused.
    wait::until_true("all to be told to wait", || {
        (1..CERTIFICATES).any(|number| renew(&gateway, &format!("more{number}")).1.contains("left in peace until"))
    });
    let tried = || std::fs::read_dir(dir.path().join("tries")).expect("a directory").count();
    let accounts = || authority.asked("/newAccount").len();
    wait::until_true("those under way to end, each of which is remembered", || {
        failed(&gateway) == accounts() as u64 && accounts() == tried()
    });
    assert!((1..=4).contains(&accounts()), "{} of {CERTIFICATES} were tried", accounts());
}
