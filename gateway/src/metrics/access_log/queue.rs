//! From the workers to the thread that writes the log.
//!
//! A worker collects lines in a buffer of its own and hands it over whole: one channel operation for a hundred lines or
//! more. It never waits. When the writer is behind and the worker's buffer is full too, lines are dropped and counted;
//! a line that was once accepted is kept. Written buffers come home, so the path allocates nothing in the steady state.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use super::{LineFormat, Record};
use crate::metrics::registry::WorkerStats;

/// A buffer is handed over at this size: big enough that a write call costs little per line, small enough to stay in
/// the second-level cache.
const BATCH_BYTES: usize = 64 * 1024;

/// Batches between the workers and the writer: 16 MiB, which is some thirty thousand JSON lines. A disk that stops for
/// longer than it takes to log those costs lines. It is also the most that is lost when the process is killed.
const QUEUE_BATCHES: usize = 256;

/// Empty buffers on their way home, for each worker. More than a few never wait there.
const SPARE_BUFFERS: usize = 8;

/// What the writer thread receives.
#[derive(Debug)]
pub enum Message {
    /// Lines to write.
    Lines(Batch),
    /// There is a file to go on with.
    Wake,
}

/// Whole lines of one worker.
#[derive(Debug)]
pub struct Batch {
    bytes: Vec<u8>,
    home: SyncSender<Vec<u8>>,
}

impl Batch {
    /// The lines, each with its line feed.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Batch {
    /// Sends the buffer home. If the worker is gone or has enough, the buffer is freed.
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        if bytes.capacity() > 0 {
            bytes.clear();
            let _ = self.home.try_send(bytes);
        }
    }
}

/// The channel to the writer thread, which ends when every sender is gone.
pub fn channel() -> (SyncSender<Message>, Receiver<Message>) {
    sync_channel(QUEUE_BATCHES)
}

/// A worker's end: formats lines and hands them over.
#[derive(Debug)]
pub struct LogSink {
    format: Arc<LineFormat>,
    buffer: Vec<u8>,
    lines: u64,
    writer: SyncSender<Message>,
    home: SyncSender<Vec<u8>>,
    spare: Receiver<Vec<u8>>,
    stats: Arc<WorkerStats>,
    worker: usize,
}

impl LogSink {
    /// A sink of this worker, which counts into its shard of `stats`.
    pub fn new(
        format: Arc<LineFormat>,
        writer: SyncSender<Message>,
        stats: Arc<WorkerStats>,
        worker: usize,
    ) -> LogSink {
        let (home, spare) = sync_channel(SPARE_BUFFERS);
        LogSink { format, buffer: Vec::new(), lines: 0, writer, home, spare, stats, worker }
    }

    /// Writes one line, or counts it as dropped when neither the buffer nor the writer has room.
    pub fn write(&mut self, record: &Record<'_>) {
        if self.buffer.len() >= BATCH_BYTES {
            self.flush();
            if self.buffer.len() >= BATCH_BYTES {
                return self.stats.shard(self.worker).log_lines_dropped.inc();
            }
        }
        self.format.write(record, &mut self.buffer);
        self.lines += 1;
    }

    /// Hands over what there is, if the writer has room. The worker calls this on each tick and when it drains.
    pub fn flush(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        let bytes = std::mem::take(&mut self.buffer);
        let batch = Batch { bytes, home: self.home.clone() };
        match self.writer.try_send(Message::Lines(batch)) {
            Ok(()) => {
                self.stats.shard(self.worker).log_lines.add(self.lines);
                self.lines = 0;
                self.buffer = self.spare.try_recv().unwrap_or_default();
            }
            Err(TrySendError::Full(message)) => self.buffer = take_back(message),
            Err(TrySendError::Disconnected(_)) => self.drop_lines(),
        }
    }

    fn drop_lines(&mut self) {
        self.stats.shard(self.worker).log_lines_dropped.add(self.lines);
        self.lines = 0;
    }
}

impl Drop for LogSink {
    /// The last lines: at the end of a drain, or when a reload gives the worker another sink.
    fn drop(&mut self) {
        self.flush();
        self.drop_lines();
    }
}

fn take_back(message: Message) -> Vec<u8> {
    match message {
        Message::Lines(mut batch) => std::mem::take(&mut batch.bytes),
        Message::Wake => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
