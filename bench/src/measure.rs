//! One run of one proxy: it is started, loaded, measured and stopped.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::certs;
use crate::figure::{Figure, Sample};
use crate::load::answer::Frames;
use crate::load::engine::Engine;
use crate::load::{Exchange, Life, Outcome, Pace, Plan, grpc, h2load, paced};
use crate::origin::Origin;
use crate::scenario::{Contestant, Load, Unit};
use crate::server::{Cpu, Server, process_clock};
use crate::task::{Back, Front, Places, Task};

/// How long each part of a run takes.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Before anything is measured: caches fill, connections to the origin are made.
    pub warm_up: Duration,
    /// At full speed.
    pub load: Duration,
    /// At a fixed rate.
    pub latency: Duration,
}

/// How long a client waits for an answer before it gives up.
const PATIENCE: Duration = Duration::from_secs(10);
const OVERLOAD_PATIENCE: Duration = Duration::from_secs(1);
/// Connections of [`Load::Idle`].
pub const IDLE_CONNECTIONS: usize = 10_000;
/// What processes need to come to rest before their memory is read.
const REST: Duration = Duration::from_millis(500);
/// Reloads in a second of [`Load::Reload`].
const RELOADS_PER_SECOND: f64 = 2.0;
const MIB: f64 = (1u64 << 20) as f64;

/// What runs share.
pub struct Bench {
    /// Certificates and the directories of runs.
    pub dir: tempfile::TempDir,
    origin: Origin,
    descriptors: u64,
    /// How long runs are.
    pub times: Times,
}

impl Bench {
    /// Starts the origins.
    pub fn new(times: Times, descriptors: u64) -> Result<Bench> {
        let dir = tempfile::tempdir()?;
        let origin = Origin::start()?;
        Ok(Bench { dir, origin, descriptors, times })
    }

    /// One run at full speed.
    pub fn saturate(&self, contestant: &Contestant, load: &Load) -> Result<Sample> {
        let (places, mut server) = self.start(contestant)?;
        let idle = server.memory();
        let measured = match load {
            Load::Http2 { streams, .. } => {
                let once = |time| h2load::run(*streams, places.listen, h2load::Length::Time(time), &places.dir);
                once(self.times.warm_up)?;
                measured(&server, || once(self.times.load))?
            }
            Load::Calls(streams) => {
                grpc::run(*streams, places.listen, self.times.warm_up)?;
                measured(&server, || grpc::run(*streams, places.listen, self.times.load))?
            }
            Load::Idle => {
                let mut engine = Engine::new(self.plan(contestant, load, &places)?)?;
                let outcome = measured(&server, || engine.run(Duration::ZERO))?;
                std::thread::sleep(REST);
                let grown = server.memory().pss.saturating_sub(idle.pss);
                let mut sample = sample_of(&outcome, Unit::Exchange);
                sample.insert(Figure::PerConnection, grown as f64 / IDLE_CONNECTIONS as f64);
                sample.insert(Figure::Memory, server.memory().pss as f64 / MIB);
                // Of connections that are opened one after another, these say nothing.
                sample.retain(|figure, _| !matches!(figure, Figure::Rate | Figure::Busy));
                return Ok(sample);
            }
            _ => {
                let mut engine = Engine::new(self.plan(contestant, load, &places)?)?;
                engine.run(self.times.warm_up)?;
                measured(&server, || engine.run(self.times.load))?
            }
        };
        check(&measured.0, &mut server)?;
        let mut sample = sample_of(&measured, load.unit());
        sample.insert(Figure::Memory, server.memory().pss as f64 / MIB);
        if contestant.task.tls.is_some() && is_one_each(load) {
            sample.insert(Figure::Resumed, measured.0.resumed as f64 / measured.0.done.max(1) as f64);
        }
        Ok(sample)
    }

    /// One run in which so many exchanges a second are due, whatever becomes of them.
    pub fn at_rate(&self, contestant: &Contestant, load: &Load, per_second: f64) -> Result<(Sample, Outcome)> {
        let (places, server) = self.start(contestant)?;
        if let Load::Http2 { streams, .. } = load {
            let outcome = paced::run(*streams, per_second, places.listen, self.times.warm_up, self.times.latency)?;
            return Ok((latencies(&outcome), outcome));
        }
        let mut plan = self.plan(contestant, load, &places)?;
        plan.pace = Pace::Open { per_second };
        if matches!(load, Load::Overload) {
            plan.patience = OVERLOAD_PATIENCE;
            plan.connections = self.descriptors as usize / 2;
        }
        let mut engine = Engine::new(plan)?;
        engine.run(self.times.warm_up)?;
        let own = || process_clock(std::process::id()).unwrap_or_default();
        let before = own();
        let (mut outcome, cpu) = if matches!(load, Load::Reload) {
            let steps = (self.times.latency.as_secs_f64() * RELOADS_PER_SECOND).ceil() as u32;
            self.reloading(contestant, &server, &places, &mut engine, steps)?
        } else {
            measured(&server, || engine.run(self.times.latency))?
        };
        let mut sample = Sample::new();
        if matches!(load, Load::Overload | Load::Reload) {
            sample = sample_of(&(outcome.clone(), cpu), Unit::Exchange);
        }
        sample.insert(Figure::LoadBusy, own().saturating_sub(before).as_secs_f64() / outcome.took.as_secs_f64());
        outcome.add(engine.drain()?);
        sample.extend(latencies(&outcome));
        Ok((sample, outcome))
    }

    /// Runs in `steps` pieces and changes the configuration between them.
    fn reloading(
        &self,
        contestant: &Contestant,
        server: &Server,
        places: &Places,
        engine: &mut Engine,
        steps: u32,
    ) -> Result<(Outcome, Cpu)> {
        let before = server.cpu();
        let mut all = Outcome::default();
        for step in 0..steps {
            let task = Task { routes: 10 + step as usize % 2, ..contestant.task };
            // The first route of every number of routes is asked for, so each answer is a good one.
            contestant.peer.reload(server, &task, places)?;
            all.add(engine.run(self.times.latency / steps)?);
        }
        Ok((all, server.cpu() - before))
    }

    fn start(&self, contestant: &Contestant) -> Result<(Places, Server)> {
        let Contestant { peer, task, .. } = contestant;
        let origin = match task.back {
            Back::Http1 | Back::Own => self.origin.http,
            Back::Tcp => self.origin.tcp,
            Back::Http2 => self.origin.grpc,
        };
        let run = self.dir.path().join(peer.name());
        let _none_before = std::fs::remove_dir_all(&run);
        std::fs::create_dir_all(&run)?;
        let certificate = task.tls.map(|key| certs::issue(key, self.dir.path())).transpose()?;
        let places = Places { dir: run, listen: free_port()?, origin, certificate, descriptors: self.descriptors };
        let server = peer.start(task, &places)?;
        Ok((places, server))
    }

    fn plan(&self, contestant: &Contestant, load: &Load, places: &Places) -> Result<Plan> {
        let task = &contestant.task;
        let one_each = is_one_each(load);
        let resumes = matches!(load, Load::Requests(requests) if requests.resumes);
        let connections = match load {
            Load::Requests(requests) => requests.connections,
            Load::Idle => IDLE_CONNECTIONS,
            _ => 32,
        };
        Ok(Plan {
            target: places.listen,
            tls: task.tls.map(|_| certs::client(resumes)).transpose()?,
            connections,
            pace: if matches!(load, Load::Idle) { Pace::Once { at_once: 32 } } else { Pace::Closed },
            exchange: Arc::new(exchange(task, load)),
            life: if one_each { Life::OneExchange } else { Life::KeepAlive },
            patience: PATIENCE,
        })
    }
}

fn is_one_each(load: &Load) -> bool {
    matches!(load, Load::Overload) || matches!(load, Load::Requests(requests) if requests.one_each)
}

fn exchange(task: &Task, load: &Load) -> Exchange {
    if let Load::Echo { message, websocket } = load {
        return echo(*message, *websocket);
    }
    if task.front == Front::Http2 {
        return Exchange::Http2(Frames::opening());
    }
    let (up, down) = match load {
        Load::Requests(requests) => (requests.up, requests.down),
        _ => (0, 0),
    };
    let prefix = match task.routes {
        0 if matches!(load, Load::Reload) => Task::path_of(0),
        0 => "/".into(),
        count => Task::path_of(count - 1),
    };
    let (method, path) = match (up, down) {
        (0, 0) => ("GET", prefix),
        (0, down) => ("GET", format!("/bytes/{down}")),
        (_, _) => ("POST", "/upload".into()),
    };
    let length = if up > 0 { format!("content-length: {up}\r\n") } else { String::new() };
    let closes = if is_one_each(load) { "connection: close\r\n" } else { "" };
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {}\r\nuser-agent: bench\r\naccept: */*\r\ncookie: theme=dark\r\n{length}{closes}\r\n",
        certs::HOST
    );
    Exchange::Http { head: head.into_bytes(), body: up }
}

fn echo(length: usize, websocket: bool) -> Exchange {
    let payload = vec![b'm'; length];
    if !websocket {
        return Exchange::Echo { opening: None, message: payload, answer: length as u64 };
    }
    let opening = format!(
        "GET /echo HTTP/1.1\r\nhost: {}\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        certs::HOST
    );
    // One whole binary frame, masked with zeros; it comes back without a mask (RFC 6455 section 5.2).
    let message = [&[0x82, 0x80 | length as u8, 0, 0, 0, 0][..], &payload].concat();
    Exchange::Echo { opening: Some(opening.into_bytes()), message, answer: length as u64 + 2 }
}

fn measured(server: &Server, work: impl FnOnce() -> Result<Outcome>) -> Result<(Outcome, Cpu)> {
    let before = server.cpu();
    let outcome = work()?;
    Ok((outcome, server.cpu() - before))
}

fn sample_of((outcome, cpu): &(Outcome, Cpu), unit: Unit) -> Sample {
    let units = match unit {
        Unit::Exchange => outcome.done as f64,
        Unit::MiB => outcome.bytes as f64 / MIB,
    };
    let seconds = outcome.took.as_secs_f64();
    let mut sample = Sample::from([
        (Figure::User, cpu.user() * 1e6 / units),
        (Figure::System, cpu.system() * 1e6 / units),
        (Figure::Cpu, cpu.total() * 1e6 / units),
        (Figure::Rate, units / seconds),
        (Figure::Busy, cpu.total() / seconds),
        (Figure::Failed, outcome.failed as f64),
        (Figure::Unanswered, outcome.unanswered as f64),
    ]);
    // Where nothing was done, there is no cost of it.
    sample.retain(|_, value| value.is_finite());
    sample
}

fn latencies(outcome: &Outcome) -> Sample {
    let percentile = |part: f64| outcome.latency.value_at_quantile(part) as f64 / 1e3;
    Sample::from([
        (Figure::P50, percentile(0.5)),
        (Figure::P99, percentile(0.99)),
        (Figure::P999, percentile(0.999)),
        (Figure::Failed, outcome.failed as f64),
        (Figure::Unanswered, outcome.unanswered as f64),
    ])
}

/// A run in which little was done, or much went wrong, measures nothing.
fn check(outcome: &Outcome, server: &mut Server) -> Result<()> {
    if (outcome.done == 0 && outcome.bytes == 0) || outcome.failed > outcome.done / 100 {
        let why = outcome.why.as_deref().unwrap_or("no reason is known");
        let Outcome { done, failed, took, .. } = outcome;
        bail!("{done} exchanges done and {failed} failed in {took:.1?}: {why} {}", server.log_tail());
    }
    Ok(())
}

/// A port of an address from which no client connects.
fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.77.1:0")?.local_addr()?)
}
