//! An XDP program that passes every frame: what the kernel's part of a measured run costs.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const PROG_LOAD: libc::c_long = 5;
const PROG_TEST_RUN: libc::c_long = 10;
const TYPE_XDP: u32 = 6;

/// The program, loaded.
#[derive(Debug)]
pub struct EmptyXdp(OwnedFd);

impl EmptyXdp {
    /// Loads it; root only.
    pub fn load() -> io::Result<EmptyXdp> {
        // r0 = XDP_PASS; exit
        let code: [u64; 2] = [0x0000_0002_0000_00b7, 0x95];
        let license = c"GPL";
        let mut attributes = [0u64; 16];
        attributes[0] = u64::from(TYPE_XDP) | (code.len() as u64) << 32;
        attributes[1] = code.as_ptr() as u64;
        attributes[2] = license.as_ptr() as u64;
        let fd = bpf(PROG_LOAD, &mut attributes)?;
        // SAFETY: the kernel has just opened this descriptor for nobody else.
        Ok(EmptyXdp(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Nanoseconds that one of `repeat` runs took (BPF_PROG_TEST_RUN).
    pub fn nanoseconds(&self, frame: &[u8], repeat: u32) -> io::Result<u128> {
        let mut attributes = [0u64; 16];
        attributes[0] = self.0.as_raw_fd() as u64;
        attributes[1] = frame.len() as u64;
        attributes[2] = frame.as_ptr() as u64;
        attributes[4] = u64::from(repeat);
        bpf(PROG_TEST_RUN, &mut attributes)?;
        Ok(u128::from(attributes[4] >> 32))
    }
}

fn bpf(command: libc::c_long, attributes: &mut [u64; 16]) -> io::Result<i32> {
    // SAFETY: the attributes are of the size given, and what they point to lives in the callers until this returns.
    match unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size_of_val(attributes)) } {
        result if result >= 0 => Ok(result as i32),
        _ => Err(io::Error::last_os_error()),
    }
}
