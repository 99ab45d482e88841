//! The proxies: where their programs are, and how each is told its [`Task`].
//!
//! All get one worker, keep connections to the origin, wait as long, tell the origin the client's address, scheme and a
//! request id, and leave the origin's headers as they are.

mod caddy;
mod envoy;
mod gateway;
mod haproxy;
mod nginx;

use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::core;
use crate::server::Server;
use crate::task::{Back, Front, Places, Task};

/// A proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    /// Ours.
    Gateway,
    /// nginx.
    Nginx,
    /// HAProxy.
    Haproxy,
    /// Envoy.
    Envoy,
    /// Caddy.
    Caddy,
    /// Copies bytes on the gateway's runtime, and nothing else: what a proxy on it must cost at least.
    Forwarder,
}

impl Peer {
    /// Every proxy, ours first.
    pub const ALL: [Peer; 6] = [Peer::Gateway, Peer::Nginx, Peer::Haproxy, Peer::Envoy, Peer::Caddy, Peer::Forwarder];

    /// Its name, which is its program's.
    pub fn name(self) -> &'static str {
        match self {
            Peer::Gateway => "gateway",
            Peer::Nginx => "nginx",
            Peer::Haproxy => "haproxy",
            Peer::Envoy => "envoy",
            Peer::Caddy => "caddy",
            Peer::Forwarder => "forwarder",
        }
    }

    /// Why it cannot do this; `None` when it can.
    pub fn refusal(self, task: &Task) -> Option<&'static str> {
        match self {
            Peer::Forwarder if task.tls.is_some() || task.back == Back::Own => Some("only copies bytes"),
            Peer::Caddy if task.front == Front::Tcp => Some("its core has no TCP relay"),
            Peer::Nginx if task.front == Front::Tcp && nginx::stream_module().is_none() => {
                Some("its stream module is not installed")
            }
            Peer::Nginx if task.routes > 10_000 => Some("it reads so many locations for more than five minutes"),
            Peer::Caddy if task.rate_limits => Some("its core has no rate limits"),
            Peer::Forwarder if task.rate_limits => Some("only copies bytes"),
            Peer::Envoy if task.reloads => Some("its static configuration is read once"),
            Peer::Forwarder if task.reloads => Some("has no configuration"),
            _ => None,
        }
    }

    /// Its program, searched in `PATH`; ours is named by `GATEWAY_BENCH_PROGRAM`.
    pub fn program(self) -> Option<PathBuf> {
        if let (Peer::Gateway, Some(named)) = (self, env::var_os("GATEWAY_BENCH_PROGRAM")) {
            // It is started in a directory of its own.
            return std::path::absolute(named).ok();
        }
        if self == Peer::Forwarder {
            return env::current_exe().ok().map(|own| own.with_file_name(self.name())).filter(|file| file.exists());
        }
        let path = env::var_os("PATH")?;
        env::split_paths(&path).map(|dir| dir.join(self.name())).find(|file| file.is_file())
    }

    /// What it says its version is.
    pub fn version(self) -> String {
        let argument = match self {
            Peer::Caddy => "version",
            Peer::Nginx | Peer::Haproxy => "-v",
            Peer::Gateway | Peer::Envoy => "--version",
            Peer::Forwarder => return "built with the bench".into(),
        };
        let Some(program) = self.program() else { return "unknown".into() };
        let output = Command::new(&program).arg(argument).output().ok();
        // nginx says it on standard error.
        let said = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
        // Envoy says where it is, too, which is nobody's business.
        let text = String::from_utf8_lossy(&said).replace(&*program.to_string_lossy(), self.name());
        text.lines().find(|line| !line.trim().is_empty()).unwrap_or("unknown").trim().to_owned()
    }

    /// Starts it for a task and waits until it listens.
    pub fn start(self, task: &Task, places: &Places) -> Result<Server> {
        let program = self.program().with_context(|| format!("{self} is not installed"))?;
        let file = self.write_configuration(task, places)?;
        let mut server =
            Server::start(self.name(), self.command(&program, &file, task, places), core::PROXY, &places.dir)?;
        server.wait_for(places.listen)?;
        Ok(server)
    }

    /// Gives it another task while it runs. It comes back when that has been asked for, not when it is done.
    pub fn reload(self, server: &Server, task: &Task, places: &Places) -> Result<()> {
        self.write_configuration(task, places)?;
        match self {
            Peer::Gateway | Peer::Nginx => server.signal(libc::SIGHUP),
            Peer::Haproxy => server.signal(libc::SIGUSR2),
            Peer::Caddy => caddy::reload(&self.program().context("caddy is gone")?, places)?,
            Peer::Envoy | Peer::Forwarder => bail!("{self} cannot"),
        }
        Ok(())
    }

    /// Writes the configuration for a task; gives its file.
    pub fn write_configuration(self, task: &Task, places: &Places) -> Result<PathBuf> {
        let (name, text) = match self {
            Peer::Gateway => ("gateway.toml", gateway::config(task, places)),
            Peer::Nginx => ("nginx.conf", nginx::config(task, places)),
            Peer::Haproxy => ("haproxy.cfg", haproxy::config(task, places)),
            Peer::Envoy => ("envoy.yaml", envoy::config(task, places)),
            Peer::Caddy => ("Caddyfile", caddy::config(task, places)),
            Peer::Forwarder => ("none", String::new()),
        };
        if self == Peer::Haproxy && task.routes > 0 {
            write(&places.dir, haproxy::MAP, &haproxy::map(task))?;
        }
        write(&places.dir, name, &text)
    }

    fn command(self, program: &Path, file: &Path, task: &Task, places: &Places) -> Command {
        let mut command = Command::new(program);
        match self {
            Peer::Gateway => command.args(["run", "--config"]).arg(file),
            Peer::Nginx => command.arg("-p").arg(&places.dir).args(["-e", "stderr", "-c"]).arg(file),
            Peer::Haproxy if task.reloads => command.args(["-W", "-db", "-f"]).arg(file),
            Peer::Haproxy => command.args(["-db", "-f"]).arg(file),
            Peer::Envoy => command
                .args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "--config-path"])
                .arg(file),
            Peer::Caddy => command
                .env("GOMAXPROCS", "1")
                .env("HOME", &places.dir)
                .args(["run", "--adapter", "caddyfile", "--config"])
                .arg(file),
            Peer::Forwarder => command.args([places.listen.to_string(), places.origin.to_string()]),
        };
        command
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

fn write(dir: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let file = dir.join(name);
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}
