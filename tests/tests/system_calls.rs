//! The floor for system calls that `docs/tls.md` shows: the gateway under it, as systemd makes it.

use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, ExitStatus};

use gateway_tests::certs::Store;
use gateway_tests::gateway::binary;
use gateway_tests::lab::is_root;
use gateway_tests::prelude::*;
use gateway_tests::tls::TlsClient;

/// Allows what the lines of `SystemCallFilter=` allow, of the system calls of this machine alone, and executes the rest of its
/// arguments. Where systemd is to answer EPERM, this kills: what the gateway does without in silence shows too.
const LOADER: &str = r#"
import ctypes, os, subprocess, sys

def expand(name):
    if not name.startswith("@"):
        return {name}
    text = subprocess.run(["systemd-analyze", "syscall-filter", name], check=True, capture_output=True, text=True).stdout
    names = [line.strip() for line in text.splitlines()[1:]]
    return set().union(*(expand(name) for name in names if name and not name.startswith('#')))

lines, command = sys.argv[1].splitlines(), sys.argv[2:]
allowed = expand("@default")
for line in lines:
    names = set().union(*map(expand, line.lstrip("~").split()))
    allowed = allowed - names if line.startswith("~") else allowed | names
seccomp = ctypes.CDLL("libseccomp.so.2")
seccomp.seccomp_init.restype = ctypes.c_void_p
KILL_PROCESS, ALLOW, UNKNOWN = 0x80000000, 0x7FFF0000, -1
context = ctypes.c_void_p(seccomp.seccomp_init(ctypes.c_uint32(KILL_PROCESS)))
for name in allowed:
    number = seccomp.seccomp_syscall_resolve_name(name.encode())
    if number != UNKNOWN:
        seccomp.seccomp_rule_add(context, ctypes.c_uint32(ALLOW), ctypes.c_int(number), ctypes.c_uint(0))
assert seccomp.seccomp_load(context) == 0
if command:
    os.execv(command[0], command)
"#;

/// The values of `SystemCallFilter=` in the documentation, in their order.
fn documented() -> Vec<String> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/tls.md");
    let text = std::fs::read_to_string(docs).expect("the documentation");
    text.lines().filter_map(|line| line.strip_prefix("SystemCallFilter=")).map(str::to_owned).collect()
}

fn under(filter: &[String]) -> Command {
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", LOADER, &filter.join("\n")]);
    command
}

/// Whether systemd's groups and libseccomp are here; says so where they are not.
fn is_skipped() -> bool {
    let works = |status: std::io::Result<ExitStatus>| status.is_ok_and(|status| status.success());
    let libraries = "import ctypes, shutil; ctypes.CDLL('libseccomp.so.2'); assert shutil.which('systemd-analyze')";
    let skipped = !works(Command::new("/usr/bin/python3").args(["-c", libraries]).status());
    if skipped {
        // Not `eprintln!`, which the test runner shows only when a test fails.
        let missing = b"\n=== SKIPPED, a test of system calls: it needs systemd-analyze, libseccomp and python3 ===\n";
        let _ = std::io::stderr().write_all(missing);
    }
    skipped
}

/// TLS, a log that is opened anew, a reload and an orderly end. `owner` is whose the log is, where it is not this user's.
fn works_under(filter: &[String], gateway_lines: &str, owner: Option<u32>) {
    let (store, origin) = (Store::new(), Origin::start("a"));
    store.issue("site", &["test.example"]);
    let logs = tempfile::tempdir().expect("a directory");
    let log = logs.path().join("access.log");
    std::fs::File::create(&log).expect("a log");
    std::os::unix::fs::chown(&log, owner, None).expect("give it away");
    let config = Config::new()
        .gateway(gateway_lines)
        .tables(&format!("[access_log]\npath = '{}'", log.display()))
        .certificate("site", store.path())
        .listener("web", "tls = { certificates = ['site'] }")
        .listener("plain", "")
        .cluster("origin", &[origin.addr()], "")
        .route("all", "cluster = 'origin'");
    let mut gateway = Gateway::start_under(under(filter), &config);
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.process.pid())).expect("its status");
    assert!(status.contains("Seccomp:\t2"), "{status}");
    let client = TlsClient::new(&store.authority);
    let serves = |gateway: &Gateway| {
        let (mut conn, _) = client.connect(gateway.addr("web"), "test.example").expect("a handshake");
        assert_eq!(conn.get("/").text(), "a");
        assert_eq!(Conn::connect(gateway.addr("plain")).get("/bytes/1000000").body.len(), 1_000_000);
    };
    serves(&gateway);
    store.issue("site", &["test.example"]);
    gateway.reload(&config.listener("more", ""));
    gateway.process.signal(libc::SIGUSR1);
    serves(&gateway);
    wait::until_true("the access log", || std::fs::read_to_string(&log).is_ok_and(|text| text.lines().count() == 4));
    gateway.terminate();
    assert_eq!(gateway.wait_exit(wait::DEADLINE).code(), Some(0));
}

#[test]
fn the_documented_filter_lets_everything_through_that_the_gateway_does() {
    if is_skipped() {
        return;
    }
    let filter = documented();
    assert_eq!(filter.len(), 2, "{filter:?}");
    works_under(&filter, "", None);
    if is_root() {
        works_under(&filter[..1], "user = 'nobody'", Some(65_534));
    }
}

#[test]
fn a_filter_without_io_uring_ends_it() {
    if is_skipped() {
        return;
    }
    let mut filter = documented();
    filter.push("~@aio".to_owned());
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("gateway.toml");
    std::fs::write(&file, Config::new().to_string()).expect("write the configuration");
    let status = under(&filter).arg(binary()).arg("run").arg("--config").arg(&file).status().expect("a process");
    assert_eq!(status.signal(), Some(libc::SIGSYS), "{status}");
}
