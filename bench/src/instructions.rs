//! Instructions of one request, counted by callgrind: a figure without noise, for what changes from one commit to the next.
//!
//! The real program runs under valgrind, ring and all, and answers the same request again and again on one connection. Two
//! runs differ in the number of requests only, so their difference has neither start nor end in it. Client and origin take
//! their time, so that the gateway waits for each of their messages: otherwise it would depend on the moment whether a
//! message is found by looking once or twice. Counts depend on the
//! compiler, hence the compiler's version in the baseline; valgrind shows every program the same processor (AVX2), so they
//! hardly depend on the machine.

use std::fmt::Write;
use std::fs;
use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::certs::{self, Key};
use crate::core;
use crate::load::engine::Engine;
use crate::load::h2load::{self, Streams};
use crate::load::{Exchange, Life, Pace, Plan};
use crate::machine;
use crate::peer::Peer;
use crate::server::Server;
use crate::task::{Front, Places, Task};

/// Requests of the two runs.
const REQUESTS: [u64; 2] = [100, 600];
/// What client and origin take their time for: longer than a step of the gateway takes under valgrind.
const PAUSE: Duration = Duration::from_millis(3);
/// Growth that is an error, in parts of the baseline.
const GROWTH: f64 = 0.03;
/// Under valgrind everything takes fifty times as long.
const PATIENCE: Duration = Duration::from_secs(60);

/// A scripted exchange.
#[derive(Clone, Copy, PartialEq)]
enum Script {
    Http1,
    Tls,
    Http2,
    Filters,
}

impl Script {
    const ALL: [Script; 4] = [Script::Http1, Script::Tls, Script::Http2, Script::Filters];

    fn name(self) -> &'static str {
        match self {
            Script::Http1 => "http1",
            Script::Tls => "tls",
            Script::Http2 => "h2",
            Script::Filters => "filters",
        }
    }

    fn task(self) -> Task {
        match self {
            Script::Http1 => Task::PLAIN,
            Script::Tls => Task { tls: Some(Key::Ecdsa), ..Task::PLAIN },
            Script::Http2 => Task { front: Front::Http2, ..Task::PLAIN },
            Script::Filters => Task { filters: true, access_log: true, routes: 100, ..Task::PLAIN },
        }
    }
}

/// Counts, and compares with the baseline in `file`; with `renew`, writes it.
pub fn run(file: &Path, renew: bool, mut say: impl FnMut(&str)) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let origin = slow_origin()?;
    let baseline = Baseline::read(file)?;
    let mut counted = Baseline { compiler: machine::compiler(), counts: Vec::new() };
    for script in Script::ALL {
        let [few, many] = REQUESTS;
        let more = count(script, many, origin, dir.path())? - count(script, few, origin, dir.path())?;
        let each = more / (many - few);
        let before = baseline.as_ref().and_then(|baseline| baseline.of(script.name()));
        let against = before.map(|before| format!(", baseline {before} ({:+.1} %)", growth(each, before) * 100.0));
        say(&format!("{:<8} {each} instructions a request{}", script.name(), against.unwrap_or_default()));
        counted.counts.push((script.name().into(), each));
    }
    if renew {
        return fs::write(file, counted.text()).with_context(|| format!("cannot write {}", file.display()));
    }
    let baseline = baseline.with_context(|| format!("there is no baseline in {}: make one", file.display()))?;
    ensure!(
        baseline.compiler == counted.compiler,
        "the baseline is of {}, this is {}: their counts cannot be compared; renew it",
        baseline.compiler,
        counted.compiler
    );
    let grown = |(name, each): &&(String, u64)| baseline.of(name).is_some_and(|before| growth(*each, before) > GROWTH);
    let names: Vec<&str> = counted.counts.iter().filter(grown).map(|(name, _)| name.as_str()).collect();
    if !names.is_empty() {
        bail!("more than {} % above the baseline: {}; renew it if that must be", GROWTH * 100.0, names.join(", "));
    }
    Ok(())
}

fn growth(now: u64, before: u64) -> f64 {
    now as f64 / before as f64 - 1.0
}

/// Instructions of a whole run with so many requests.
fn count(script: Script, requests: u64, origin: SocketAddr, dir: &Path) -> Result<u64> {
    let task = script.task();
    let listen = TcpListener::bind("127.0.77.1:0")?.local_addr()?;
    let certificate = task.tls.map(|key| certs::issue(key, dir)).transpose()?;
    let places = Places { dir: dir.to_owned(), listen, origin, certificate, descriptors: 1_024 };
    let config = Peer::Gateway.write_configuration(&task, &places)?;
    let program = Peer::Gateway.program().context("no gateway")?;
    let counts = dir.join("callgrind.out");
    let mut valgrind = Command::new("valgrind");
    valgrind
        .args(["--tool=callgrind", "--quiet", "--separate-threads=yes"])
        .arg(format!("--callgrind-out-file={}", counts.display()));
    valgrind.arg(program).args(["run", "--config"]).arg(config);
    let mut server = Server::start("valgrind", valgrind, core::PROXY, dir)?;
    server.wait_for(listen)?;
    if task.front == Front::Http2 {
        let per_second = Some(1_000 / (2 * PAUSE.as_millis() as u32));
        let streams = Streams { connections: 1, streams: 1, message: None, per_second };
        let outcome = h2load::run(streams, listen, h2load::Length::Requests(requests), dir)?;
        ensure!(outcome.done == requests, "{} of {requests} requests were answered", outcome.done);
    } else {
        let path = if task.routes > 0 { Task::path_of(task.routes - 1) } else { "/".into() };
        let head = format!("GET {path} HTTP/1.1\r\nhost: {}\r\nuser-agent: bench\r\naccept: */*\r\n\r\n", certs::HOST);
        let plan = Plan {
            target: listen,
            tls: task.tls.map(|_| certs::client(false)).transpose()?,
            connections: 1,
            pace: Pace::Closed,
            exchange: Arc::new(Exchange::Http { head: head.into_bytes(), body: 0 }),
            life: Life::KeepAlive,
            patience: PATIENCE,
        };
        Engine::new(plan)?.run_count(requests, PAUSE)?;
    }
    server.stop(PATIENCE)?;
    let sum = sum_of_workers(dir)?;
    ensure!(sum > 0, "callgrind has written no sum: {}", counts.display());
    Ok(sum)
}

/// Answers each request after a pause.
fn slow_origin() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let addr = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer_slowly(stream));
        }
    });
    Ok(addr)
}

fn answer_slowly(mut stream: TcpStream) {
    let mut head = [0; 4096];
    // Each read is one head: the gateway sends the next one only after an answer.
    while stream.read(&mut head).is_ok_and(|count| count > 0) {
        thread::sleep(PAUSE);
        let answer =
            b"HTTP/1.1 200 OK\r\nserver: origin\r\ncontent-type: text/plain\r\ncontent-length: 6\r\n\r\nanswer";
        if stream.write_all(answer).is_err() {
            return;
        }
    }
}

/// Adds up `callgrind.out-02` and so on. The first thread is left out: it starts everything and has no part in a request, but
/// takes more instructions than all requests together, and not always as many.
fn sum_of_workers(dir: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(dir)?.flatten() {
        let name = entry.file_name();
        let thread = name.to_str().and_then(|name| name.strip_prefix("callgrind.out-"));
        if thread.is_some_and(|thread| thread != "01") {
            let text = fs::read_to_string(entry.path())?;
            let total = text.lines().find_map(|line| line.strip_prefix("totals:"));
            sum += total.and_then(|total| total.trim().parse::<u64>().ok()).context("a profile without a sum")?;
        }
    }
    Ok(sum)
}

/// Instructions a request, by script, and the compiler they are of.
struct Baseline {
    compiler: String,
    counts: Vec<(String, u64)>,
}

impl Baseline {
    fn read(file: &Path) -> Result<Option<Baseline>> {
        if !file.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        Baseline::parse(&text).map(Some).with_context(|| format!("{} is no baseline", file.display()))
    }

    fn parse(text: &str) -> Option<Baseline> {
        let mut lines = text.lines();
        let compiler = lines.next()?.strip_prefix("compiler,")?.to_owned();
        let count = |line: &str| {
            let (name, count) = line.split_once(',')?;
            Some((name.to_owned(), count.parse().ok()?))
        };
        Some(Baseline { compiler, counts: lines.map(count).collect::<Option<_>>()? })
    }

    fn text(&self) -> String {
        let mut text = format!("compiler,{}\n", self.compiler);
        for (name, count) in &self.counts {
            let _ = writeln!(text, "{name},{count}");
        }
        text
    }

    fn of(&self, name: &str) -> Option<u64> {
        self.counts.iter().find(|(of, _)| of == name).map(|(_, count)| *count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_baseline_is_read_as_it_was_written() {
        let counts = vec![("http1".to_owned(), 31_000), ("h2".to_owned(), 40_000)];
        let written = Baseline { compiler: "rustc 1.95.0".into(), counts }.text();
        let read = Baseline::parse(&written).unwrap();
        assert_eq!((read.compiler.as_str(), read.of("h2"), read.of("tls")), ("rustc 1.95.0", Some(40_000), None));
        assert!(Baseline::parse("http1,12").is_none());
    }

    #[test]
    fn growth_is_a_part_of_the_baseline() {
        assert!(growth(103_100, 100_000) > GROWTH);
        assert!(growth(102_900, 100_000) < GROWTH);
    }
}
