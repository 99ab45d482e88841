//! The runtime: one ring and one current-thread executor per worker.

use std::fmt;
use std::future::Future;
use std::io;

use io_uring::{IoUring, opcode};

/// Submissions prepared between two system calls. When it is full they are handed over early, so this only bounds the
/// batch.
const SUBMISSIONS: u32 = 1024;

/// Completions the kernel may post before we look. Beyond it the kernel keeps a list of its own.
const COMPLETIONS: u32 = 8192;

/// What the kernel's io_uring offers beyond the minimum.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// `IORING_SETUP_SINGLE_ISSUER` (Linux 6.0).
    single_issuer: bool,
}

/// Why there can be no ring here.
#[derive(Debug)]
pub struct RingError(String);

impl fmt::Display for RingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for RingError {}

/// Checks that a worker's ring can be made and knows every operation that `net` uses.
pub fn probe() -> Result<Probe, RingError> {
    let probe = [true, false]
        .into_iter()
        .map(|single_issuer| Probe { single_issuer })
        .find(|probe| probe.builder().build(8).is_ok())
        .map_or_else(|| Err(explain()), Ok)?;
    let ring: IoUring = probe.builder().build(8).map_err(|_| explain())?;
    let mut known = io_uring::Probe::new();
    ring.submitter().register_probe(&mut known).map_err(|error| RingError(format!("io_uring: {error}")))?;
    let needed = [
        ("RECV", opcode::Recv::CODE),
        ("SEND", opcode::Send::CODE),
        ("POLL_ADD", opcode::PollAdd::CODE),
        ("ACCEPT", opcode::Accept::CODE),
        ("CONNECT", opcode::Connect::CODE),
        ("ASYNC_CANCEL", opcode::AsyncCancel2::CODE),
    ];
    match needed.iter().find(|(_, code)| !known.is_supported(*code)) {
        None => Ok(probe),
        Some((name, _)) => {
            Err(RingError(format!("io_uring: the kernel lacks the operation {name}; Linux 5.19 has it")))
        }
    }
}

impl Probe {
    fn builder(self) -> io_uring::Builder {
        let mut builder = IoUring::builder();
        // Without COOP_TASKRUN the kernel interrupts the thread for each completion.
        builder.setup_coop_taskrun().setup_cqsize(COMPLETIONS).setup_clamp();
        if self.single_issuer {
            builder.setup_single_issuer();
        }
        builder
    }
}

fn explain() -> RingError {
    let Err(error) = IoUring::new(8) else {
        return RingError("io_uring: the kernel is too old; Linux 5.19 is needed (IORING_SETUP_COOP_TASKRUN)".into());
    };
    RingError(match error.raw_os_error() {
        Some(libc::ENOSYS) => "io_uring: not built into this kernel; Linux 5.19 with CONFIG_IO_URING is needed".into(),
        Some(libc::EPERM) => "io_uring: forbidden here; allow it with `sysctl kernel.io_uring_disabled=0`, and in a \
             container also in the seccomp profile"
            .into(),
        Some(libc::ENOMEM) => format!("io_uring: {error}; raise `ulimit -l` (locked memory)"),
        _ => format!("io_uring: {error}"),
    })
}

/// Runs `future` on this thread's own ring and executor. Call [`probe`] first: a ring that cannot be made is a panic.
pub fn start<F: Future>(probe: Probe, future: F) -> F::Output {
    tokio_uring::builder().entries(SUBMISSIONS).uring_builder(&probe.builder()).start(future)
}

/// Starts a task on this thread.
pub fn spawn(task: impl Future<Output = ()> + 'static) {
    drop(tokio_uring::spawn(task));
}

/// Pins the calling thread to one core.
pub fn pin_to_core(core: usize) -> io::Result<()> {
    // SAFETY: an all-zero set is a valid, empty `cpu_set_t`, and `CPU_SET` ignores numbers beyond its size.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        match libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// The cores this process may run on.
pub fn cores() -> Vec<usize> {
    // SAFETY: `set` is a valid place for the kernel to write to.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set);
        set
    };
    // SAFETY: every number is below the set's size.
    (0..libc::CPU_SETSIZE as usize).filter(|core| unsafe { libc::CPU_ISSET(*core, &set) }).collect()
}
