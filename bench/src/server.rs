//! A server under test: its processes, what they have used, and their end.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::ops::{Add, Sub};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::core;

/// How long a server may take until it accepts connections: the largest table of routes is compiled first.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long it may take to end after SIGTERM. Then it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(10);

/// A running server with all its processes.
pub struct Server {
    child: Child,
    log: PathBuf,
}

/// Processor time of all processes and threads of a server, in seconds.
///
/// The sum is known to the nanosecond, how it divides only to 10 ms: of the difference of two, the sum is exact and its
/// parts are as good as it is long.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    total: f64,
    user_ticks: f64,
    system_ticks: f64,
}

/// Memory of all processes of a server, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Resident; what several processes share counts for each.
    pub rss: u64,
    /// Resident; what several processes share is divided among them.
    pub pss: u64,
}

impl Server {
    /// Starts `command` on `core`. What it prints goes to `NAME.log` in `dir`.
    pub fn start(name: &str, mut command: Command, core: usize, dir: &Path) -> Result<Server> {
        let log = dir.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        command.current_dir(dir).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = core::pinned(command, core).spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Server { child, log })
    }

    /// Waits until it accepts connections at `addr`.
    pub fn wait_for(&mut self, addr: SocketAddr) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        while TcpStream::connect(addr).is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended before it listened on {addr} ({status}): {}", self.log_tail());
            }
            if Instant::now() > deadline {
                bail!("it does not listen on {addr} after {START_LIMIT:?}: {}", self.log_tail());
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// Its first process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks for something by a signal.
    pub fn signal(&self, signal: i32) {
        send(self.child.id(), signal);
    }

    /// Asks it to end and waits until it has.
    pub fn stop(mut self, limit: Duration) -> Result<()> {
        self.signal(libc::SIGTERM);
        let deadline = Instant::now() + limit;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                bail!("it does not end: {}", self.log_tail());
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// What it has used since it started, processes that have ended included.
    pub fn cpu(&self) -> Cpu {
        let mut all = Cpu::default();
        for process in self.processes() {
            all = all + process.cpu();
        }
        all
    }

    /// What it holds now.
    pub fn memory(&self) -> Memory {
        let mut all = Memory::default();
        for process in self.processes() {
            let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", process.pid)).unwrap_or_default();
            all.rss += kib(&rollup, "Rss:") * 1024;
            all.pss += kib(&rollup, "Pss:") * 1024;
        }
        all
    }

    /// The last lines of what it printed.
    pub fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }

    fn processes(&self) -> Vec<Stat> {
        tree(self.child.id())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        let pids: Vec<u32> = self.processes().iter().map(|process| process.pid).collect();
        self.signal(libc::SIGTERM);
        let deadline = Instant::now() + STOP_LIMIT;
        while !matches!(self.child.try_wait(), Ok(Some(_))) {
            if Instant::now() > deadline {
                // Children first: the parent could start them again.
                pids.iter().skip(1).for_each(|pid| send(*pid, libc::SIGKILL));
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(POLL);
        }
    }
}

fn send(pid: u32, signal: i32) {
    // SAFETY: kill(2) touches no memory. The process is a child of ours that is not reaped yet, or a child of it.
    unsafe { libc::kill(pid as libc::pid_t, signal) };
}

/// The fields of /proc/PID/stat that are of use here, times in ticks.
struct Stat {
    pid: u32,
    parent: u32,
    user: u64,
    system: u64,
    children_user: u64,
    children_system: u64,
}

impl Stat {
    fn read(pid: u32) -> Option<Stat> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // Fields are counted after the command, which is in parentheses and may have spaces in it.
        let fields: Vec<&str> = text.rsplit(')').next()?.split_ascii_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        Some(Stat {
            pid,
            parent: number(1)? as u32,
            user: number(11)?,
            system: number(12)?,
            children_user: number(13)?,
            children_system: number(14)?,
        })
    }

    fn cpu(&self) -> Cpu {
        let ticks = ticks_per_second();
        let (user, system) = (self.user as f64 / ticks, self.system as f64 / ticks);
        let own = process_clock(self.pid).map_or(user + system, |exact| exact.as_secs_f64());
        let (dead_user, dead_system) = (self.children_user as f64 / ticks, self.children_system as f64 / ticks);
        Cpu { total: own + dead_user + dead_system, user_ticks: user + dead_user, system_ticks: system + dead_system }
    }
}

/// `root` and the processes it has started, parents before children.
fn tree(root: u32) -> Vec<Stat> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut all: BTreeMap<u32, Stat> = pids.filter_map(|pid| Some((pid, Stat::read(pid)?))).collect();
    let mut found: Vec<Stat> = all.remove(&root).into_iter().collect();
    let mut at = 0;
    while at < found.len() {
        let parent = found[at].pid;
        let children: Vec<u32> = all.values().filter(|stat| stat.parent == parent).map(|stat| stat.pid).collect();
        found.extend(children.iter().filter_map(|pid| all.remove(pid)));
        at += 1;
    }
    found
}

/// What all threads of a process have used, those that have ended included.
pub fn process_clock(pid: u32) -> Option<Duration> {
    let mut clock = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both places are valid for the kernel to write to.
    let failed = unsafe {
        libc::clock_getcpuclockid(pid as libc::pid_t, &raw mut clock) != 0
            || libc::clock_gettime(clock, &raw mut time) != 0
    };
    (!failed).then(|| Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

fn ticks_per_second() -> f64 {
    // SAFETY: sysconf(3) reads a constant of the system.
    unsafe { libc::sysconf(libc::_SC_CLK_TCK) as f64 }
}

fn kib(text: &str, field: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok()).unwrap_or(0)
}

impl Cpu {
    /// In the program and in the kernel.
    pub fn total(self) -> f64 {
        self.total
    }

    /// In the program.
    pub fn user(self) -> f64 {
        let ticks = self.user_ticks + self.system_ticks;
        if ticks > 0.0 { self.total * self.user_ticks / ticks } else { self.total / 2.0 }
    }

    /// In the kernel.
    pub fn system(self) -> f64 {
        self.total - self.user()
    }
}

impl Add for Cpu {
    type Output = Cpu;

    fn add(self, other: Cpu) -> Cpu {
        Cpu {
            total: self.total + other.total,
            user_ticks: self.user_ticks + other.user_ticks,
            system_ticks: self.system_ticks + other.system_ticks,
        }
    }
}

impl Sub for Cpu {
    type Output = Cpu;

    fn sub(self, other: Cpu) -> Cpu {
        Cpu {
            total: self.total - other.total,
            user_ticks: self.user_ticks - other.user_ticks,
            system_ticks: self.system_ticks - other.system_ticks,
        }
    }
}
