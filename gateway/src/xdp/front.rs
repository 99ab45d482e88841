//! A byte for each IPv4 network of 24 bits, written through memory that is shared with the kernel.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use gateway_ebpf::abi::access::{FRONT_BYTES, FRONT_PREFIX, FRONT_SINGLE};

use super::batch::{Kind, Table};
use super::lists::{Address, Row};

/// The one element of a map.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Bytes([u8; FRONT_BYTES]);

// SAFETY: bytes, of which every pattern is a value.
unsafe impl aya::Pod for Bytes {}

/// A front that this process may write. The kernel's map lives on when it is dropped.
pub(super) struct Front {
    map: Table<u32, Bytes>,
    bytes: NonNull<AtomicU8>,
}

// SAFETY: the memory is shared with the kernel already and written by atomic stores only.
unsafe impl Send for Front {}
// SAFETY: as above.
unsafe impl Sync for Front {}

impl Front {
    /// An empty one.
    pub fn create() -> io::Result<Front> {
        let map = Table::<u32, Bytes>::create(Kind::MappedArray, 1)?;
        let (protection, fd) = (libc::PROT_READ | libc::PROT_WRITE, map.as_fd().as_raw_fd());
        // SAFETY: the map has one element of this size, and a new mapping is at an address of the kernel's choice.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), FRONT_BYTES, protection, libc::MAP_SHARED, fd, 0) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let bytes = NonNull::new(address.cast()).ok_or_else(|| io::Error::other("mapped at address 0"))?;
        Ok(Front { map, bytes })
    }

    /// The kernel's map.
    pub fn map(&self) -> &Table<u32, Bytes> {
        &self.map
    }

    /// Makes the program look for this prefix. There is no way back: a byte too many costs a lookup, and the next list has
    /// a front of its own.
    pub fn mark(&self, row: &Row<u32>) {
        let bit = if row.length == u32::BITS as u8 { FRONT_SINGLE } else { FRONT_PREFIX };
        let (first, last) = (row.first >> 8, row.first.last(row.length) >> 8);
        for byte in &self.bytes()[first as usize..=last as usize] {
            byte.fetch_or(bit, Relaxed);
        }
    }

    fn bytes(&self) -> &[AtomicU8] {
        // SAFETY: the mapping has this many bytes and lives until `drop`.
        unsafe { std::slice::from_raw_parts(self.bytes.as_ptr(), FRONT_BYTES) }
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and nobody borrows from it any more.
        unsafe { libc::munmap(self.bytes.as_ptr().cast(), FRONT_BYTES) };
    }
}
