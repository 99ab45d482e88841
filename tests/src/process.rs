//! A child process whose output is kept, whose resources can be read, and which does not outlive its test.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::wait;

/// A running child.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// Lines of its standard output.
    pub stdout: Output,
    /// Lines of its standard error.
    pub stderr: Output,
}

/// What a child has written to one of its pipes.
#[derive(Clone, Debug, Default)]
pub struct Output(Arc<(Mutex<Lines>, Condvar)>);

#[derive(Debug, Default)]
struct Lines {
    lines: Vec<String>,
    ended: bool,
}

impl Process {
    /// Starts `command` with no input.
    pub fn start(mut command: Command) -> Process {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{}: {e}", command.get_program().display()));
        let stdout = Output::collect(child.stdout.take().expect("piped"));
        let stderr = Output::collect(child.stderr.take().expect("piped"));
        Process { child, stdout, stderr }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends `signal`, one of `libc::SIG…`.
    pub fn signal(&self, signal: i32) {
        // SAFETY: kill(2) touches no memory. The child has not been waited for while `self.child` is unreaped, so the id is its.
        let sent = unsafe { libc::kill(self.pid() as libc::pid_t, signal) };
        assert_eq!(sent, 0, "kill: {}", std::io::Error::last_os_error());
    }

    /// Its exit status, when it has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("wait for the child")
    }

    /// Waits for its end and for the last of its output.
    pub fn wait_exit(&mut self, limit: Duration) -> ExitStatus {
        let status = wait::within(limit, "the process to exit", || self.exited());
        self.stdout.wait_end();
        self.stderr.wait_end();
        status
    }

    /// Memory in use now, in bytes.
    pub fn rss(&self) -> u64 {
        self.status_bytes("VmRSS:")
    }

    /// The most memory that has been in use at any time, in bytes.
    pub fn peak_rss(&self) -> u64 {
        self.status_bytes("VmHWM:")
    }

    fn status_bytes(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the child's status");
        let line = status.lines().find(|line| line.starts_with(field)).expect("a line for the field");
        line.split_ascii_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number of KiB") * 1024
    }

    /// Processor time used so far: user, system.
    pub fn cpu_times(&self) -> (Duration, Duration) {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("the child's stat");
        // Fields are counted after the command, which is in parentheses and may have spaces in it.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_ascii_whitespace().collect();
        // SAFETY: sysconf(3) reads a constant of the system.
        let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
        let time = |field: usize| Duration::from_secs_f64(fields[field].parse::<f64>().expect("ticks") / ticks);
        (time(11), time(12))
    }

    /// Open file descriptors.
    pub fn fd_count(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the child's descriptors").count()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails when it has exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Output {
    fn collect(pipe: impl Read + Send + 'static) -> Output {
        let output = Output::default();
        let writer = output.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                writer.change(|lines| lines.lines.push(String::from_utf8_lossy(&line).into_owned()));
            }
            writer.change(|lines| lines.ended = true);
        });
        output
    }

    /// All lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.0.0.lock().unwrap().lines.clone()
    }

    /// All lines so far, as one text.
    pub fn text(&self) -> String {
        self.lines().join("\n")
    }

    /// Waits for a line for which `wanted` holds and returns the first one; `None` when the output ended without it.
    pub fn find(&self, what: &str, wanted: impl Fn(&str) -> bool) -> Option<String> {
        let found = self.wait(what, |lines| lines.ended || lines.lines.iter().any(|line| wanted(line)));
        found.into_iter().find(|line| wanted(line))
    }

    fn wait_end(&self) {
        self.wait("the end of the output", |lines| lines.ended);
    }

    fn wait(&self, what: &str, done: impl Fn(&Lines) -> bool) -> Vec<String> {
        let lines = self.0.0.lock().unwrap();
        let (lines, waited) = self.0.1.wait_timeout_while(lines, wait::DEADLINE, |lines| !done(lines)).unwrap();
        assert!(!waited.timed_out(), "waited in vain for {what} in:\n{}", lines.lines.join("\n"));
        lines.lines.clone()
    }

    fn change(&self, edit: impl FnOnce(&mut Lines)) {
        edit(&mut self.0.0.lock().unwrap());
        self.0.1.notify_all();
    }
}

/// Raises this process's limit of open files, which gateways inherit, to what it may have.
///
/// # Panics
/// When that is less than `needed`.
pub fn raise_open_files(needed: usize) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls get a pointer to a live `rlimit`.
    let raised = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 && {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit) == 0
        }
    };
    assert!(raised && limit.rlim_cur as usize >= needed, "`ulimit -n` is {}: {needed} are needed", limit.rlim_cur);
}
