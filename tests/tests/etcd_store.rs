//! The certificate store in etcd, against a real one.

use std::future::Future;
use std::time::{Duration, Instant};

use gateway::config::model::{EtcdEndpoint, EtcdLogin, EtcdPair, EtcdStore, EtcdTls};
use gateway::control::store::{Directory, Store, StoreError, etcd::Etcd as EtcdClient};
use gateway_tests::certs::Store as Certificates;
use gateway_tests::conn::Framing;
use gateway_tests::etcd::Etcd;
use gateway_tests::ports::{HeldPort, StuckPort};
use tempfile::TempDir;

const TTL: Duration = Duration::from_secs(60);

struct Member {
    etcd: EtcdClient,
    store: Store,
    copy: Directory,
    _dir: TempDir,
}

fn settings(endpoints: &[std::net::SocketAddr]) -> EtcdStore {
    let member =
        |addr: &std::net::SocketAddr| EtcdEndpoint { is_tls: false, host: addr.ip().to_string(), port: addr.port() };
    EtcdStore {
        endpoints: endpoints.iter().map(member).collect(),
        prefix: "/test/".into(),
        tls: EtcdTls::default(),
        login: None,
    }
}

fn member(settings: &EtcdStore) -> Member {
    let dir = tempfile::tempdir().unwrap();
    let copy = Directory::open(dir.path().join("copy")).unwrap();
    let etcd = EtcdClient::new(settings, copy.clone());
    Member { store: Store::Etcd(etcd.clone()), etcd, copy, _dir: dir }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn why<T>(result: Result<T, StoreError>) -> String {
    result.err().expect("an error").to_string()
}

#[test]
fn a_value_is_put_by_one_box_and_found_by_the_others_and_by_etcdctl() {
    let etcd = Etcd::start(&[]);
    let (one, other) = (member(&settings(&[etcd.addr()])), member(&settings(&[etcd.addr()])));
    let value: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    run(async {
        assert_eq!(one.store.get("acme/le/account").await.unwrap(), None);
        one.store.put("acme/le/account", &value).await.unwrap();
        assert_eq!(other.store.get("acme/le/account").await.unwrap().unwrap(), value);
        assert_eq!(one.copy.get("acme/le/account").unwrap().unwrap(), value, "its own copy");
        assert_eq!(other.copy.get("acme/le/account").unwrap(), None);
        one.etcd.put_shared("tickets", b"secret").await.unwrap();
        assert_eq!(one.copy.get("tickets").unwrap(), None, "what is for no disk");
        one.store.put("acme/le/account", b"new").await.unwrap();
        assert_eq!(other.store.get("acme/le/account").await.unwrap().unwrap(), b"new");
        for bad in ["", "a//b", "../x", "a b"] {
            assert!(matches!(one.store.get(bad).await, Err(StoreError::Key(_))), "{bad:?}");
        }
    });
    assert_eq!(etcd.ctl(&["get", "/test/tickets", "--print-value-only"], b""), "secret\n");
}

#[test]
fn a_box_brings_along_what_only_it_has() {
    let etcd = Etcd::start(&[]);
    let (one, other) = (member(&settings(&[etcd.addr()])), member(&settings(&[etcd.addr()])));
    run(async {
        one.copy.put("certificates/a", b"one's").unwrap();
        other.copy.put("certificates/a", b"other's").unwrap();
        assert_eq!(one.store.get("certificates/a").await.unwrap().unwrap(), b"one's");
        assert_eq!(other.store.get("certificates/a").await.unwrap().unwrap(), b"one's", "what is there already counts");
    });
    assert_eq!(etcd.ctl(&["get", "/test/certificates/a", "--print-value-only"], b""), "one's\n");
}

#[test]
fn a_value_that_was_deleted_stays_away_and_one_that_etcd_has_lost_is_brought_back() {
    let etcd = Etcd::start(&[]);
    let one = member(&settings(&[etcd.addr()]));
    let other_prefix = EtcdStore { prefix: "/other/".into(), ..settings(&[etcd.addr()]) };
    let stopped = run(async {
        one.store.put("certificates/first", b"1").await.unwrap();
        let backup = etcd.stop();
        let copy = backup.backup();
        let etcd = backup.start();
        put_when_up(&one.store, "certificates/a", b"one's").await;
        etcd.ctl(&["del", "/test/certificates/a"], b"");
        assert_eq!(one.store.get("certificates/a").await.unwrap(), None);
        assert_eq!(one.copy.get("certificates/a").unwrap().unwrap(), b"one's", "it is in use until there is another");
        // Nothing was deleted where nothing has ever been.
        let elsewhere = EtcdClient::new(&other_prefix, one.copy.clone());
        assert_eq!(elsewhere.get("certificates/a").await.unwrap().unwrap(), b"one's");
        one.store.put("certificates/a", b"new").await.unwrap();
        let stopped = etcd.stop();
        stopped.restore(&copy);
        stopped
    });
    let etcd = stopped.start();
    run(async {
        let end = Instant::now() + gateway_tests::wait::DEADLINE;
        while one.store.get("certificates/a").await.is_err() {
            assert!(Instant::now() < end);
        }
        assert_eq!(one.store.get("certificates/a").await.unwrap().unwrap(), b"new");
    });
    assert_eq!(etcd.ctl(&["get", "/test/certificates/a", "--print-value-only"], b""), "new\n");
}

/// It listens before it has elected itself.
async fn put_when_up(store: &Store, key: &str, value: &[u8]) {
    let end = Instant::now() + gateway_tests::wait::DEADLINE;
    while store.put(key, value).await.is_err() {
        assert!(Instant::now() < end);
    }
}

#[test]
fn what_is_announced_is_there_as_long_as_it_is_held() {
    let etcd = Etcd::start(&[]);
    let (one, other) = (member(&settings(&[etcd.addr()])), member(&settings(&[etcd.addr()])));
    run(async {
        let held = one.store.announce("challenges/a", b"answer").await.unwrap().expect("there are others");
        let all = other.etcd.all("challenges").await.unwrap();
        assert_eq!((all.len(), all[0].key.as_str(), &all[0].value[..]), (1, "challenges/a", &b"answer"[..]));
        drop(held);
        let end = Instant::now() + gateway_tests::wait::DEADLINE;
        while !other.etcd.all("challenges").await.unwrap().is_empty() {
            assert!(Instant::now() < end, "it does not end");
        }
    });
    let alone = Store::Directory(one.copy);
    assert!(run(alone.announce("challenges/a", b"answer")).unwrap().is_none());
}

#[test]
fn a_list_has_what_is_one_level_below_however_much_that_is() {
    let etcd = Etcd::start(&[]);
    let member = member(&settings(&[etcd.addr()]));
    let keys: Vec<String> = (0..150).map(|number| format!("certificates/{number:03}")).collect();
    run(async {
        for key in &keys {
            member.etcd.put_shared(key, b"x").await.unwrap();
        }
        for key in ["certificates", "certificates/000/deeper", "certificatesx/a", "other/b"] {
            member.etcd.put_shared(key, b"x").await.unwrap();
        }
        assert_eq!(member.store.list("certificates").await.unwrap(), keys);
        assert_eq!(member.store.list("nothing").await.unwrap(), [""; 0]);
    });
}

#[test]
fn changes_are_what_came_after_a_revision_page_by_page() {
    let etcd = Etcd::start(&[]);
    let member = member(&settings(&[etcd.addr()]));
    run(async {
        for number in 0..70 {
            member.etcd.put_shared(&format!("certificates/{number:03}"), b"old").await.unwrap();
        }
        let (first, more) = member.etcd.changes("certificates", None, 0).await.unwrap();
        assert_eq!((first.len(), more), (64, true));
        let after = first.last().unwrap().key.as_str();
        let (rest, more) = member.etcd.changes("certificates", Some(after), 0).await.unwrap();
        assert_eq!((rest.len(), more, rest[5].key.as_str()), (6, false, "certificates/069"));
        let (_, revision) = member.etcd.get_at("tickets").await.unwrap();
        assert!(member.etcd.changes("certificates", None, revision).await.unwrap().0.is_empty());
        member.etcd.put_shared("certificates/005", b"new").await.unwrap();
        let (changed, more) = member.etcd.changes("certificates", None, revision).await.unwrap();
        let changed: Vec<_> = changed.iter().map(|it| (it.key.as_str(), it.value.as_slice())).collect();
        assert_eq!((changed, more), (vec![("certificates/005", &b"new"[..])], false));
        assert!(member.etcd.get_at("tickets").await.unwrap().1 > revision);
    });
}

#[test]
fn a_lock_has_one_holder_and_ends_with_it() {
    let etcd = Etcd::start(&[]);
    let (one, other) = (member(&settings(&[etcd.addr()])), member(&settings(&[etcd.addr()])));
    run(async {
        let lock = one.store.lock("renewal", TTL).await.unwrap().expect("nobody has it");
        assert!(other.store.lock("renewal", TTL).await.unwrap().is_none());
        assert!(one.store.lock("renewal", TTL).await.unwrap().is_none(), "once, by the same box too");
        assert!(other.store.lock("another", TTL).await.unwrap().is_some());
        drop(lock);
        taken(&other.store, "renewal").await;
    });
}

#[test]
fn the_lock_of_a_box_that_is_gone_ends_with_its_time_and_one_that_is_held_does_not() {
    let etcd = Etcd::start(&[]);
    let [gone, one, other] = [(); 3].map(|()| member(&settings(&[etcd.addr()])));
    let short = Duration::from_secs(2);
    let lose = |name: &str| {
        // The runtime ends, and with it whatever would keep the lock alive or give it back.
        let lock = run(gone.store.lock(name, short)).unwrap().expect("nobody has it");
        std::mem::forget(lock);
    };
    lose("a");
    run(async {
        assert!(other.store.lock("a", TTL).await.unwrap().is_none());
        let held = one.store.lock("held", short).await.unwrap().expect("nobody has it");
        taken(&other.store, "a").await;
        // As long again.
        let granted = etcd.ctl(&["lease", "grant", "2"], b"");
        etcd.ctl(&["put", "--lease", granted.split(' ').nth(1).expect("its id"), "/test/locks/b", "x"], b"");
        taken(&other.store, "b").await;
        assert!(other.store.lock("held", TTL).await.unwrap().is_none(), "it is kept alive");
        drop(held);
        taken(&other.store, "held").await;
    });
}

async fn taken(store: &Store, name: &str) {
    let end = Instant::now() + gateway_tests::wait::DEADLINE;
    while store.lock(name, TTL).await.unwrap().is_none() {
        assert!(Instant::now() < end, "the lock {name} does not end");
    }
}

#[test]
fn a_member_that_is_away_is_passed_over_and_one_that_comes_back_is_asked_again() {
    let etcd = Etcd::start(&[]);
    let nobody = HeldPort::on(([127, 0, 0, 1], 0).into());
    let both = member(&settings(&[nobody.addr(), etcd.addr()]));
    let one = member(&settings(&[etcd.addr()]));
    let addr = etcd.addr();
    run(async {
        both.store.put("a", b"1").await.unwrap();
        one.store.put("b", b"2").await.unwrap();
        let stopped = etcd.stop();
        let told = why(one.store.get("b").await);
        assert!(told.starts_with(&format!("etcd at {addr}: ")), "{told}");
        assert!(why(both.store.get("a").await).starts_with("etcd at 127."));
        let _etcd = stopped.start();
        let end = Instant::now() + gateway_tests::wait::DEADLINE;
        // It listens before it has elected itself.
        while one.store.get("b").await.is_err() {
            assert!(Instant::now() < end);
        }
        assert_eq!(one.store.get("b").await.unwrap().unwrap(), b"2");
        assert_eq!(both.store.get("a").await.unwrap().unwrap(), b"1");
    });
}

#[test]
fn a_member_that_hangs_is_not_waited_for_for_long() {
    let stuck = StuckPort::new();
    let member = member(&settings(&[stuck.addr()]));
    let begin = Instant::now();
    let told = run(async { why(member.store.get("a").await) });
    assert!(told.ends_with("cannot be reached in time"), "{told}");
    assert!(begin.elapsed() < Duration::from_secs(10));
}

#[test]
fn what_is_no_etcd_is_an_error_that_says_so() {
    use gateway_tests::origin::{Origin, Script};
    let origin = Origin::start("a");
    let told = run(async { why(member(&settings(&[origin.addr()])).store.get("a").await) });
    assert!(told.contains("etcd at "), "{told}");
    for (answer, expected) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]", "something else than etcd's API"),
        ("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy", "it answers 503"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 35\r\n\r\n{\"header\":{},\"kvs\":[{\"value\":\"?\"}]}", "no base64"),
        ("nonsense\r\n\r\n", "etcd at "),
    ] {
        let script = Script::start(move |mut conn| {
            let head = conn.head().expect("a request");
            conn.body(head.framing(Framing::Empty), &mut |_| {}).expect("its body");
            conn.send(answer);
        });
        let told = run(async { why(member(&settings(&[script.addr()])).store.get("a").await) });
        assert!(told.contains(expected), "{told}");
    }
}

#[test]
fn a_user_logs_in_and_one_who_may_not_is_told_so() {
    let etcd = Etcd::start(&[]);
    etcd.ctl(&["user", "add", "root:rootpw"], b"");
    etcd.ctl(&["user", "add", "gw:gwpw"], b"");
    etcd.ctl(&["role", "add", "gw"], b"");
    etcd.ctl(&["role", "grant-permission", "gw", "readwrite", "/test/", "--prefix"], b"");
    etcd.ctl(&["user", "grant-role", "root", "root"], b"");
    etcd.ctl(&["user", "grant-role", "gw", "gw"], b"");
    etcd.ctl(&["auth", "enable"], b"");
    let addr = etcd.addr();
    let login = |username: &str, password: &str, prefix: &str| {
        let login = Some(EtcdLogin { username: username.into(), password: password.into() });
        member(&EtcdStore { login, prefix: prefix.into(), ..settings(&[addr]) })
    };
    run(async {
        let good = login("gw", "gwpw", "/test/");
        good.store.put("a", b"1").await.unwrap();
        assert!(good.store.lock("l", TTL).await.unwrap().is_some(), "leases and transactions, too");
        let nobody = why(member(&settings(&[addr])).store.get("a").await);
        assert!(nobody.contains("user name is empty"), "{nobody}");
        let wrong = why(login("gw", "other", "/test/").store.get("a").await);
        assert!(wrong.contains("authentication failed"), "{wrong}");
        let elsewhere = why(login("gw", "gwpw", "/other/").store.get("a").await);
        assert!(elsewhere.contains("permission denied"), "{elsewhere}");
        // A token is forgotten with the process that gave it.
        let etcd = etcd.stop().start();
        let end = Instant::now() + gateway_tests::wait::DEADLINE;
        while good.store.get("a").await.is_err() {
            assert!(Instant::now() < end);
        }
        drop(etcd);
    });
}

#[test]
fn tls_is_spoken_with_a_member_that_shows_and_wants_certificates() {
    let (server, stranger) = (Certificates::new(), Certificates::new());
    server.issue("etcd", &["127.0.77.1"]);
    let client = server.issue("client", &["client.test"]);
    let path = |name: &str| server.path().join(name).to_str().unwrap().to_owned();
    let etcd = Etcd::start_tls(&[
        "--cert-file",
        &path("etcd.pem"),
        "--key-file",
        &path("etcd.key"),
        "--client-cert-auth",
        "--trusted-ca-file",
        &path("ca.pem"),
    ]);
    let with = |ca: &Certificates, shown: bool| {
        let pair =
            EtcdPair { chain_pem: client.chain_pem.as_bytes().into(), key_pem: client.key_pem.as_bytes().into() };
        let mut settings = settings(&[etcd.addr()]);
        settings.endpoints[0].is_tls = true;
        settings.tls = EtcdTls { ca_pem: Some(ca.authority.pem().as_bytes().into()), client: shown.then_some(pair) };
        member(&settings)
    };
    run(async {
        let good = with(&server, true);
        good.store.put("a", b"1").await.unwrap();
        assert_eq!(good.store.get("a").await.unwrap().unwrap(), b"1");
        assert!(why(with(&stranger, true).store.get("a").await).contains("no TLS"));
        assert!(with(&server, false).store.get("a").await.is_err());
    });
}
