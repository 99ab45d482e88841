//! What the process may do: who it is, what each of its threads is allowed, and what stays secret.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use gateway_tests::certs::Store;
use gateway_tests::gateway::binary;
use gateway_tests::ports::loopback;
use gateway_tests::prelude::*;
use gateway_tests::process::Process;
use gateway_tests::root_or_skip;
use gateway_tests::tls::TlsClient;

/// The user and group that nobody uses for files.
const NOBODY: u32 = 65_534;

/// What is kept, as the kernel numbers capabilities: DAC_READ_SEARCH, NET_BIND_SERVICE, NET_ADMIN, PERFMON, BPF.
const KEPT: u64 = 1 << 2 | 1 << 10 | 1 << 12 | 1 << 38 | 1 << 39;

/// The status of every thread, by field; `Name` is the thread's.
fn threads(gateway: &Gateway) -> Vec<BTreeMap<String, String>> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", gateway.process.pid())).expect("the threads");
    let status = |path: &Path| {
        let text = std::fs::read_to_string(path.join("status")).ok()?;
        let field = |line: &str| line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
        Some(text.lines().filter_map(field).collect())
    };
    // One that has ended meanwhile has no status.
    tasks.filter_map(|task| status(&task.expect("a thread").path())).collect()
}

fn mask(thread: &BTreeMap<String, String>, field: &str) -> u64 {
    u64::from_str_radix(&thread[field], 16).expect("a mask in hexadecimal")
}

fn assert_rights(gateway: &Gateway) {
    let threads = threads(gateway);
    let workers = threads.iter().filter(|thread| thread["Name"].starts_with("worker-")).count();
    assert_eq!(workers, 2, "{threads:?}");
    for thread in &threads {
        assert_eq!(thread["NoNewPrivs"], "1", "{thread:?}");
        let moves_bytes = ["worker-", "iou-", "access-log"].iter().any(|name| thread["Name"].starts_with(name));
        let most = if moves_bytes { 0 } else { KEPT };
        for (field, most) in [("CapEff", most), ("CapPrm", most), ("CapBnd", KEPT), ("CapInh", 0), ("CapAmb", 0)] {
            assert_eq!(mask(thread, field) & !most, 0, "{field} of {thread:?}");
        }
    }
    let control = threads.iter().find(|thread| thread["Pid"] == gateway.process.pid().to_string());
    assert_eq!(mask(control.expect("the control thread"), "CapEff"), KEPT);
}

#[test]
fn root_keeps_what_reloads_need_and_workers_keep_nothing() {
    root_or_skip!();
    let origin = Origin::start("a");
    let dir = tempfile::tempdir().expect("a directory");
    let log = dir.path().join("access.log");
    let log = format!("[access_log]\npath = '{}'", log.display());
    let gateway = Gateway::start(&Config::proxy_to(origin.addr()).tables(&log));
    assert_eq!(gateway.get("/").text(), "a");
    assert_rights(&gateway);
    assert!(gateway.process.stderr.text().contains("runs as root: `user` in [gateway]"));
}

#[test]
fn another_user_reloads_keys_that_are_roots_and_binds_ports_below_1024() {
    root_or_skip!();
    let (store, origin) = (Store::new(), Origin::start("a"));
    store.issue("site", &["test.example"]);
    let key = store.path().join("site.key");
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).expect("a key that is root's alone");
    std::fs::set_permissions(store.path(), PermissionsExt::from_mode(0o700)).expect("a directory that is root's alone");
    let client = TlsClient::new(&store.authority);
    let tls = "tls = { certificates = ['site'] }";
    let config = Config::new()
        .gateway("user = 'nobody'")
        .certificate("site", store.path())
        .listener("web", tls)
        .cluster("origin", &[origin.addr()], "")
        .route("all", "cluster = 'origin'");
    let mut gateway = Gateway::start(&config);
    assert_rights(&gateway);
    for thread in threads(&gateway) {
        assert_eq!(thread["Uid"], ["65534"; 4].join("\t"), "{thread:?}");
        assert_eq!((&*thread["Gid"], &*thread["Groups"]), (&*["65534"; 4].join("\t"), "65534"), "{thread:?}");
    }
    let owner = |gateway: &Gateway| {
        std::fs::metadata(format!("/proc/{}/environ", gateway.process.pid())).expect("a file of the process").uid()
    };
    assert_eq!(owner(&gateway), 0, "its memory is nobody's to look at");

    let before = client.connect(gateway.addr("web"), "test.example").expect("a handshake").1.certificate;
    store.issue("site", &["test.example"]);
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).expect("the new key likewise");
    let low = low_port(loopback());
    gateway.reload(&config.clone().listener_at("low", low, tls));
    let (mut conn, handshake) = client.connect(low, "test.example").expect("a handshake");
    assert_ne!(handshake.certificate, before, "the renewed one");
    assert_eq!(conn.get("/").text(), "a");
    assert_rights(&gateway);

    let debugged = Gateway::start(&config.gateway("core_dumps = true"));
    assert_eq!(owner(&debugged), NOBODY, "its user may look into it");
}

#[test]
fn a_log_in_a_directory_that_is_roots_alone_is_rotated_without_losing_a_line() {
    root_or_skip!();
    let origin = Origin::start("a");
    // What is below root's directory may be the user's, which then makes the new file; or logrotate makes it (`create`).
    for logrotate_creates in [false, true] {
        let roots = tempfile::tempdir().expect("a directory");
        std::fs::set_permissions(roots.path(), PermissionsExt::from_mode(0o700)).expect("that is root's alone");
        let give = |path: &Path| chown(path, Some(NOBODY), Some(NOBODY)).expect("give it away");
        let dir = if logrotate_creates { roots.path().to_owned() } else { roots.path().join("logs") };
        let log = dir.join("access.log");
        let create = || {
            std::fs::File::create_new(&log).expect("a log");
            give(&log);
        };
        if logrotate_creates {
            create();
        } else {
            std::fs::create_dir(&dir).expect("the user's own directory");
            give(&dir);
        }
        let log_to = format!("[access_log]\npath = '{}'\nformat = '%REQ(:PATH)%'", log.display());
        let config = Config::proxy_to(origin.addr()).gateway("user = 'nobody'\ngroup = 'nogroup'").tables(&log_to);
        let gateway = Gateway::start(&config);
        let (mut client, mut asked) = (gateway.connect(), Vec::new());
        let mut rotated: Vec<_> = (0..3).map(|number| dir.join(format!("access.log.{number}"))).collect();
        for old in &rotated {
            std::fs::rename(&log, old).expect("rotate");
            if logrotate_creates {
                create();
            }
            gateway.process.signal(libc::SIGUSR1);
            wait::until_true("a line in the new file", || {
                asked.push(format!("/bytes/{}", asked.len() + 1));
                assert_eq!(client.get(asked.last().expect("a path")).status, 200);
                std::fs::metadata(&log).is_ok_and(|file| file.len() > 0)
            });
        }
        rotated.push(log);
        let read = |path: &PathBuf| std::fs::read_to_string(path).expect("a log");
        wait::until_true("every line", || {
            rotated.iter().map(|path| read(path).lines().count()).sum::<usize>() >= asked.len()
        });
        let lines: Vec<String> =
            rotated.iter().flat_map(|path| read(path).lines().map(str::to_owned).collect::<Vec<_>>()).collect();
        assert_eq!(lines, asked, "each once, in their order");
        assert_rights(&gateway);
    }
}

/// A port below 1024 that nothing listens on.
fn low_port(host: IpAddr) -> SocketAddr {
    let free = |port: &u16| TcpListener::bind((host, *port)).is_ok();
    // Programs of other tests do not come here.
    let port = (600..1024).find(free).expect("a free port below 1024");
    SocketAddr::new(host, port)
}

#[test]
fn whoever_is_not_root_cannot_become_somebody_and_is_told_what_to_do() {
    root_or_skip!();
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("a directory for everybody");
    // Where the program is built may be root's alone.
    let program = dir.path().join("gateway");
    std::fs::copy(binary(), &program).expect("copy the program");
    let file = dir.path().join("gateway.toml");
    let start = |lines: &str| {
        std::fs::write(&file, Config::new().gateway(lines).to_string()).expect("write the configuration");
        let mut command = Command::new(&program);
        command.arg("run").arg("--config").arg(&file).uid(NOBODY).gid(NOBODY);
        Process::start(command)
    };
    for (lines, error) in [
        ("user = 'root'", "gateway.user: only root can become \"root\", and this process is user 65534"),
        ("user = 'no-such-user'", "gateway.user: this machine has no user \"no-such-user\""),
        ("user = 'nobody'\ngroup = 'root'", "gateway.user: only root can become \"nobody\""),
    ] {
        let mut process = start(lines);
        let status = process.wait_exit(wait::DEADLINE);
        assert_eq!(status.code(), Some(1), "{lines}");
        assert!(process.stderr.text().contains(error), "{lines}: {}", process.stderr.text());
    }
    for lines in ["", "user = 'nobody'", "user = '65534'\ngroup = '65534'"] {
        let process = start(lines);
        assert!(process.stdout.find("READY", |line| line == "READY").is_some(), "{lines}: {}", process.stderr.text());
    }
}

#[test]
fn private_keys_are_in_no_view_and_in_no_log() {
    let (store, origin) = (Store::new(), Origin::start("a"));
    let secrets = |key: &str| key.lines().filter(|line| !line.starts_with("-----")).map(str::to_owned).collect();
    let mut keys: Vec<String> = secrets(&store.issue("site", &["test.example"]).key_pem);
    let config = Config::new()
        .certificate("site", store.path())
        .listener("web", "tls = { certificates = ['site'] }")
        .cluster("origin", &[origin.addr()], "")
        .route("all", "cluster = 'origin'");
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("gateway.toml");
    std::fs::write(&file, config.to_string()).expect("write the configuration");
    let mut command = Command::new(binary());
    command.arg("run").arg("--config").arg(&file).env("RUST_LOG", "trace");
    let process = Process::start(command);
    let ready = |line: &str| line == "READY";
    assert!(process.stdout.find("READY", ready).is_some(), "{}", process.stderr.text());
    let lines = process.stdout.lines();
    let addr = |prefix: &str| -> SocketAddr {
        let line = lines.iter().find_map(|line| line.strip_prefix(prefix));
        line.and_then(|addr| addr.parse().ok()).expect("an address")
    };
    let client = TlsClient::new(&store.authority);
    let (mut conn, _) = client.connect(addr("LISTEN web "), "test.example").expect("a handshake");
    assert_eq!(conn.get("/").text(), "a");
    let ask = |method: &str, path: &str| {
        let mut admin = Conn::connect(addr("ADMIN "));
        admin.send(format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n"));
        admin.response().text().to_owned()
    };
    // A key that is included as if it were a configuration, a key in place of a chain, and the key of another certificate:
    // all of these are refused with a report.
    let key = store.path().join("site.key").display().to_string();
    let included = format!("include = ['{key}']\n{config}");
    let swapped = config.to_string().replace("site.pem", "site.key");
    let mut seen = vec![ask("GET", "/config"), ask("GET", "/metrics"), ask("GET", "/endpoints")];
    for text in [included, swapped, config.to_string()] {
        if text == config.to_string() {
            keys.extend::<Vec<String>>(secrets(&store.authority.leaf(&["test.example"]).key_pem));
            let other = store.authority.leaf(&["test.example"]).key_pem;
            keys.extend::<Vec<String>>(secrets(&other));
            std::fs::write(&key, other).expect("write a key");
        }
        std::fs::write(&file, text).expect("write the configuration");
        seen.push(ask("POST", "/reload"));
    }
    seen.push(process.stderr.text());
    assert!(seen[0].contains("test.example"), "{}", seen[0]);
    assert!(keys.len() > 3, "{keys:?}");
    for (text, secret) in seen.iter().flat_map(|text| keys.iter().map(move |key| (text, key))) {
        assert!(!text.contains(secret.as_str()), "a line of a private key is in:\n{text}");
    }
}
