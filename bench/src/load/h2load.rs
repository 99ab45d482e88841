//! h2load: closed-loop load over HTTP/2.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{Outcome, grpc};
use crate::certs;
use crate::core;

/// What it is to do.
#[derive(Clone, Copy, Debug)]
pub struct Streams {
    /// Connections.
    pub connections: u32,
    /// Requests at once on each.
    pub streams: u32,
    /// Bytes of a gRPC message sent with each request and sent back; `None` is a GET.
    pub message: Option<u32>,
    /// Requests in a second on each connection; `None` is as many as are answered.
    pub per_second: Option<u32>,
}

/// When it ends.
#[derive(Clone, Copy, Debug)]
pub enum Length {
    /// After a while.
    Time(Duration),
    /// After so many requests.
    Requests(u64),
}

/// Runs it; what it writes goes to `dir`.
pub fn run(what: Streams, target: SocketAddr, length: Length, dir: &Path) -> Result<Outcome> {
    let mut command = Command::new("h2load");
    command.arg(format!("--clients={}", what.connections)).arg(format!("--max-concurrent-streams={}", what.streams));
    match length {
        Length::Time(time) => command.arg(format!("--duration={}ms", time.as_millis())),
        Length::Requests(count) => command.arg(format!("--requests={count}")),
    };
    command.args(what.per_second.map(|rate| format!("--rps={rate}")));
    command.arg("--header").arg(format!(":authority: {}", certs::HOST));
    if let Some(length) = what.message {
        let file = dir.join("message");
        fs::write(&file, grpc::message(length))?;
        command.arg("--data").arg(&file);
        command.args(["--header", "content-type: application/grpc", "--header", "te: trailers"]);
    }
    command.arg(format!("http://{target}{}", if what.message.is_some() { "/bench.Echo/Call" } else { "/" }));
    let started = Instant::now();
    let output = core::pinned(command, core::LOAD).output().context("cannot start h2load")?;
    let took = match length {
        Length::Time(time) => time,
        Length::Requests(_) => started.elapsed(),
    };
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("h2load: {} {text}", String::from_utf8_lossy(&output.stderr));
    }
    read(&text, took).with_context(|| format!("h2load said something else than expected: {text}"))
}

/// Reads `requests: 12 total, 13 started, 12 done, 12 succeeded, 0 failed, 0 errored, 0 timeout`, and the statuses: an
/// answer of another status than 2xx is one that failed.
fn read(text: &str, took: Duration) -> Option<Outcome> {
    let line = |start: &str| text.lines().find_map(|line| line.strip_prefix(start));
    let count = |line: &str, what: &str| -> Option<u64> {
        line.split(',').find_map(|part| part.trim().strip_suffix(what)?.trim().parse().ok())
    };
    let requests = line("requests:")?;
    let done = count(line("status codes:")?, " 2xx")?;
    let failed = count(requests, " failed")? + count(requests, " succeeded")?.saturating_sub(done);
    Some(Outcome { done, failed, took, ..Outcome::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_another_status_have_failed() {
        let text = "finished in 1.00s, 90 req/s\n\
            requests: 100 total, 104 started, 100 done, 98 succeeded, 2 failed, 1 errored, 1 timeout\n\
            status codes: 90 2xx, 0 3xx, 0 4xx, 8 5xx\n";
        let outcome = read(text, Duration::from_secs(1)).unwrap();
        assert_eq!((outcome.done, outcome.failed), (90, 10));
        assert!(read("nothing", Duration::ZERO).is_none());
    }
}
