//! `gateway run --demo`: each command of its banner does what the banner says, and nothing stays behind.

use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use gateway::xdp;
use gateway_tests::gateway::binary;
use gateway_tests::lab;
use gateway_tests::process::Process;
use gateway_tests::wait;

/// What the output of a command must contain: of the first command of the banner with this in it.
const EXPECTED: [(&str, &[&str]); 18] = [
    ("/?[1-4]", &["Hello from blue: GET /", "Hello from green: GET /"]),
    ("/canary?", &["Hello from blue: GET /canary"]),
    ("host: green.demo.localhost", &["Hello from green: GET /"]),
    ("/nowhere", &["HTTP/1.1 404 Not Found"]),
    (
        "/api/v1/headers",
        &[
            "HTTP/1.1 200 OK",
            "x-demo-response: set by the gateway",
            r#""x-demo-request": "set by the gateway""#,
            r#""x-envoy-original-path": "/api/v1/headers""#,
            r#""host": "internal.example""#,
        ],
    ),
    ("/teapot", &["HTTP/1.1 418", "A teapot."]),
    ("/slow/3000", &["HTTP/1.1 504 Gateway Timeout", "upstream request timeout"]),
    ("/echo", &["transfer-encoding: chunked", "hello"]),
    ("/bytes/", &["100000000"]),
    ("curl -k https://green.demo.localhost", &["Hello from green: GET /"]),
    ("/secure", &["HTTP/1.1 308", "location: https://", "Hello from "]),
    ("--http2 ", &["HTTP/2 200", "Hello from green: GET /"]),
    ("--http2-prior-knowledge", &["HTTP/2 200", "grpc-status: 12"]),
    ("/relayed", &["Hello from ", ": GET /relayed"]),
    ("/reload", &[r#""changed":true"#]),
    ("/config", &[r#""green""#]),
    ("gateway_route_requests_total", &[r#"route="teapot""#]),
    ("gateway_xdp_packets_total", &[r#"reason="denied_v4""#, r#"reason="denied_v6""#]),
];

#[test]
fn each_command_of_the_banner_shows_what_it_promises() {
    let mut demo = Demo::start();
    let commands = demo.commands();
    let lab_works = lab::is_root() && xdp::object_is_embedded();
    for (part, expected) in EXPECTED {
        let Some(command) = commands.iter().find(|command| command.contains(part)) else {
            assert!(
                part.contains("xdp") && !lab_works,
                "no command with {part} in the banner:\n{}",
                commands.join("\n")
            );
            continue;
        };
        // Those of the lab come before the counters of what they send.
        if part.contains("xdp") {
            demo.lab_clients_are_told_apart(&commands);
        }
        let output = shell(command).0;
        for text in expected {
            assert!(output.contains(text), "{command}\nhas no {text:?} in its output:\n{output}");
        }
    }
    let tried = |command: &&String| EXPECTED.iter().any(|(part, _)| command.contains(part)) || is_for_lab(command);
    assert_eq!(commands.iter().find(|command| !tried(command)), None, "this command is not tested");
    demo.stop(libc::SIGTERM);
}

#[test]
fn reloads_move_the_canary_to_green() {
    let mut demo = Demo::start();
    let commands = demo.commands();
    let canary = commands.iter().find(|command| command.contains("/canary?")).unwrap();
    let reload = commands.iter().find(|command| command.contains("/reload")).unwrap();

    let blue = count_of(&shell(canary).0, "blue");
    assert!((50..100).contains(&blue), "{blue} of 100 requests went to blue, which has a weight of 90");
    shell(reload);
    shell(reload);
    assert_eq!(count_of(&shell(canary).0, "green"), 100);
    demo.stop(libc::SIGINT);
}

#[test]
fn a_second_demo_takes_other_ports() {
    let (mut one, mut two) = (Demo::start(), Demo::start());
    for demo in [&one, &two] {
        let command = &demo.commands()[0];
        let (output, _) = shell(command);
        assert!(output.contains("Hello from"), "{command}:\n{output}");
    }
    one.stop(libc::SIGTERM);
    two.stop(libc::SIGTERM);
}

#[test]
fn the_next_demo_removes_what_a_killed_one_left() {
    let mut killed = Demo::start();
    killed.0.signal(libc::SIGKILL);
    killed.0.wait_exit(wait::DEADLINE);
    let mut next = Demo::start();
    // The kernel removes a namespace's interfaces some time after the namespace.
    wait::until_true("the lab of the killed demo to be gone", || killed.leftovers().is_empty());
    next.stop(libc::SIGTERM);
}

struct Demo(Process);

impl Demo {
    /// Starts it and waits for the end of the banner. One at a time: two that start at the same moment may choose the
    /// same ports.
    fn start() -> Demo {
        static STARTING: Mutex<()> = Mutex::new(());
        let _one_at_a_time = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        let mut command = Command::new(binary());
        command.args(["run", "--demo"]);
        let process = Process::start(command);
        let last = process.stdout.find("the end of the banner", |line| line.contains("Stop with Ctrl-C"));
        assert!(last.is_some(), "the demo ended before it was ready:\n{}", process.stderr.text());
        Demo(process)
    }

    /// The commands of the banner: what is indented by four.
    fn commands(&self) -> Vec<String> {
        let lines = self.0.stdout.lines();
        let banner = lines.iter().take_while(|line| !line.contains("Stop with Ctrl-C"));
        banner.filter_map(|line| line.strip_prefix("    ").map(str::to_owned)).collect()
    }

    fn lab_clients_are_told_apart(&self, commands: &[String]) {
        for command in commands.iter().filter(|command| is_for_lab(command)) {
            let (output, code) = shell(command);
            let answered = output.contains("Hello from");
            assert_eq!(answered, command.contains("client-good"), "{command}:\n{output}");
            // curl's exit code for a timeout.
            assert!(answered || code == Some(28), "{command} ended with {code:?}:\n{output}");
        }
    }

    /// Ends it by a signal; then nothing of it may be left.
    fn stop(&mut self, signal: i32) {
        self.0.signal(signal);
        let status = self.0.wait_exit(wait::DEADLINE);
        assert!(status.success(), "{status}:\n{}", self.0.stderr.text());
        assert_eq!(self.leftovers(), Vec::<String>::new());
    }

    /// The namespaces and interfaces of its lab.
    fn leftovers(&self) -> Vec<String> {
        let pid = self.0.pid();
        let (namespace, interface) = (format!("gw-demo-{pid}-"), format!("gwd{pid}"));
        let of_lab = |name: &String| name.starts_with(&namespace) || name.starts_with(&interface);
        ["/run/netns", "/sys/class/net"].into_iter().flat_map(names_in).filter(of_lab).collect()
    }
}

fn is_for_lab(command: &str) -> bool {
    command.starts_with("ip netns exec")
}

fn names_in(folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// The number before the line about `origin`, as `uniq -c` writes it.
fn count_of(output: &str, origin: &str) -> u32 {
    let line = output.lines().find(|line| line.contains(origin)).unwrap_or_else(|| panic!("no {origin} in:\n{output}"));
    line.split_ascii_whitespace().next().and_then(|count| count.parse().ok()).expect("a count")
}

/// Runs a command as a user would paste it: what it writes, and its exit code.
fn shell(line: &str) -> (String, Option<i32>) {
    let mut command = Command::new("sh");
    command.args(["-c", line]).env("NO_PROXY", "*");
    let mut process = Process::start(command);
    let status = process.wait_exit(Duration::from_secs(60));
    (process.stdout.text(), status.code())
}
