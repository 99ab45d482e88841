//! The thread that writes the access log.
//!
//! It is the only one that a slow disk or a stuck pipe can hold up; the workers drop lines rather than wait for it. It
//! reads what clients sent, so it has no capabilities. Opening the file anew may take one, for directories that others
//! may not enter, and may take long: that is left to a thread of its own, which keeps what the control thread has and
//! sees no line.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use crate::config::model::{LogFormat, LogTarget};
use crate::metrics::access_log::queue::{self, Message};
use crate::metrics::access_log::{Format, FormatError, LineFormat};
use crate::worker::give_up_capabilities;

/// The control thread's handle. Dropping it lets the thread write what is queued and end once the last sink is gone,
/// which is what a reload with another target wants.
#[derive(Debug)]
pub struct LogWriter {
    queue: SyncSender<Message>,
    /// Wishes to open the file anew; `None` for standard output.
    reopen: Option<SyncSender<()>>,
    ended: Receiver<()>,
}

impl LogWriter {
    /// Opens the target and starts the thread. `errors` counts failed writes; a new writer goes on with the old one's.
    pub fn start(target: &LogTarget, errors: Arc<AtomicU64>) -> io::Result<LogWriter> {
        let output = Output::open(target)?;
        let (queue, inbox) = queue::channel();
        let (reopened, files) = sync_channel(1);
        let reopen = match target {
            LogTarget::Stdout => None,
            LogTarget::File(path) => Some(Opener { path: path.clone(), reopened, queue: queue.clone() }.start()?),
        };
        let (end, ended) = sync_channel(1);
        let writing = Writing { output, errors, files, failing: false, mid_line: false };
        thread::Builder::new().name("access-log".into()).spawn(move || {
            if let Err(error) = give_up_capabilities() {
                log::error!("access log: cannot give up its capabilities: {error}");
            }
            writing.run(&inbox);
            let _ = end.send(());
        })?;
        Ok(LogWriter { queue, reopen, ended })
    }

    /// What a worker's [`LogSink`](queue::LogSink) sends to.
    pub fn queue(&self) -> SyncSender<Message> {
        self.queue.clone()
    }

    /// Has the file opened again by its name, after logrotate has renamed it. Until that is done, lines go to the old one.
    pub fn reopen(&self) {
        if let Some(wishes) = &self.reopen {
            // When one waits already, the file is opened after this moment too.
            let _ = wishes.try_send(());
        }
    }

    /// Waits until every line is written, at most for `limit`: a pipe that nobody reads must not keep the process from
    /// ending. The workers' sinks must be gone. Says whether everything was written.
    pub fn finish(self, limit: Duration) -> bool {
        drop((self.queue, self.reopen));
        self.ended.recv_timeout(limit).is_ok()
    }
}

/// What the configuration says of a line's form, compiled for the workers' sinks.
pub fn line_format(format: &LogFormat) -> Result<LineFormat, FormatError> {
    match format {
        LogFormat::Json => Ok(LineFormat::Json),
        LogFormat::Format(text) => Format::compile(text).map(LineFormat::Text),
    }
}

/// The state of the thread that opens the file anew. It lives as long as somebody may wish for that.
struct Opener {
    path: PathBuf,
    reopened: SyncSender<File>,
    queue: SyncSender<Message>,
}

impl Opener {
    /// Starts the thread, with the rights of the calling one. One wish waits at most: more would find the same file.
    fn start(self) -> io::Result<SyncSender<()>> {
        let (wish, wishes) = sync_channel(1);
        thread::Builder::new().name("log-opener".into()).spawn(move || wishes.iter().for_each(|()| self.open()))?;
        Ok(wish)
    }

    fn open(&self) {
        match open_to_append(&self.path) {
            // The writer outlives this: it waits for the queue's last sender, which is here.
            Ok(file) => {
                let _ = self.reopened.send(file);
                let _ = self.queue.send(Message::Wake);
            }
            Err(error) => log::error!(
                "access log: cannot reopen {}: {error}; lines go on into the file that was open before",
                self.path.display()
            ),
        }
    }
}

/// The writing thread's state.
struct Writing {
    output: Output,
    errors: Arc<AtomicU64>,
    /// The file, opened anew.
    files: Receiver<File>,
    /// The last write failed; the next failure is not reported again.
    failing: bool,
    /// The last write ended within a line.
    mid_line: bool,
}

impl Writing {
    fn run(mut self, inbox: &Receiver<Message>) {
        while let Ok(message) = inbox.recv() {
            while let Ok(file) = self.files.try_recv() {
                self.output.replace(file);
            }
            if let Message::Lines(batch) = message {
                self.write(batch.bytes());
            }
        }
    }

    fn write(&mut self, lines: &[u8]) {
        match self.try_write(lines) {
            Ok(()) => self.failing = false,
            Err(error) => {
                self.errors.fetch_add(1, Relaxed);
                if !std::mem::replace(&mut self.failing, true) {
                    log::error!("access log: cannot write to {}: {error}; lines are lost until it works", self.output);
                }
            }
        }
    }

    /// What is left of a line that a full disk cut short is ended first, so that the next one stays whole.
    fn try_write(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.mid_line {
            self.output.write_all(b"\n")?;
            self.mid_line = false;
        }
        let mut rest = lines;
        while !rest.is_empty() {
            let written = match self.output.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.mid_line = rest[written - 1] != b'\n';
            rest = &rest[written..];
        }
        self.output.flush()
    }
}

enum Output {
    Stdout(io::Stdout),
    File { path: PathBuf, file: File },
}

impl Output {
    fn open(target: &LogTarget) -> io::Result<Output> {
        match target {
            LogTarget::Stdout => Ok(Output::Stdout(io::stdout())),
            LogTarget::File(path) => Ok(Output::File { path: path.clone(), file: open_to_append(path)? }),
        }
    }

    fn replace(&mut self, new: File) {
        if let Output::File { file, .. } = self {
            *file = new;
        }
    }
}

/// Appending, so that copying and truncating rotates too. Not for everybody's eyes: paths and addresses are personal.
fn open_to_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Output::Stdout(stdout) => stdout.write(bytes),
            Output::File { file, .. } => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Output::Stdout(stdout) => stdout.flush(),
            Output::File { file, .. } => file.flush(),
        }
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Output::Stdout(_) => f.write_str("standard output"),
            Output::File { path, .. } => path.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests;
