//! The program's log records, passed on to the `log` crate.

use std::io;

use aya::Ebpf;
use aya_log::EbpfLogger;
use gateway_ebpf::abi::LOG_TARGET;
use log::Log;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Whether anybody wants to read about dropped packets. Asked once, before the program is loaded: the answer is a
/// constant in it.
pub(super) fn wanted() -> bool {
    log::log_enabled!(target: LOG_TARGET, log::Level::Debug)
}

/// Reads the records of one loaded program; [`run`](DebugLog::run) it as a task of its own.
#[must_use = "records that nobody reads are lost once the ring is full"]
pub struct DebugLog(EbpfLogger<&'static dyn Log>);

impl DebugLog {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<DebugLog, aya_log::Error> {
        EbpfLogger::init(ebpf).map(DebugLog)
    }

    /// Passes records on as they come, until the task is dropped. Needs tokio's I/O driver. The program limits how
    /// many records there are, so the loop leaves the thread to others.
    pub async fn run(self) -> io::Result<()> {
        // SAFETY: the logger owns the ring's descriptor, and it is the same one until the logger is dropped.
        let mut ring = unsafe { AsyncFd::register_with_interest(self.0, Interest::READABLE) }?;
        loop {
            let mut guard = ring.readable_mut().await?;
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
    }
}
