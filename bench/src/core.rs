//! Which core does what: the proxy has one for itself, load and origins share another.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Where the proxy runs.
pub const PROXY: usize = 0;
/// Where load generators and origins run.
pub const LOAD: usize = 1;

/// Pins the calling thread.
pub fn pin(core: usize) -> io::Result<()> {
    pin_process(0, core)
}

/// Pins a thread, or the first one of a process.
pub fn pin_process(pid: u32, core: usize) -> io::Result<()> {
    // SAFETY: an all-zero set is a valid, empty `cpu_set_t`; both cores are below its size.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        match libc::sched_setaffinity(pid as libc::pid_t, size_of::<libc::cpu_set_t>(), &raw const set) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Has `command` run on one core, and end when the thread that starts it ends.
pub fn pinned(mut command: Command, core: usize) -> Command {
    let in_child = move || {
        pin(core)?;
        // SAFETY: prctl(2) with this option takes a number and touches no memory.
        match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: between fork and exec it makes two system calls, and allocates nothing.
    unsafe { command.pre_exec(in_child) };
    command
}
