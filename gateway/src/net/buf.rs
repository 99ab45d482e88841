//! Pooled byte buffers.

use std::cell::{Cell, RefCell};

/// Capacity for what a client sends next: an idle connection waits with one of these, so ten thousand of them hold 10 MiB.
/// It takes an API call's head whole; a browser's, with its cookies, comes in two receives.
pub const TINY: usize = 1024;

/// Capacity for message heads and small bodies: holds nearly every response head in one receive.
pub const SMALL: usize = 8 * 1024;

/// Capacity for streamed bodies. Each receive and each send costs acknowledgements, wake-ups of the peer and turns of the
/// loop, whatever it moves; one of 128 KiB has half as many of them for a byte as one of 64 KiB.
pub const LARGE: usize = 128 * 1024;

/// Bytes kept free in front of received data, so that a chunk-size line is written there and not copied around.
pub const HEADROOM: usize = 24;

/// Bytes kept free behind received data, for the CRLF that ends a chunk.
const TAILROOM: usize = 8;

/// What of a buffer's size no receive can fill.
pub(super) const OVERHEAD: usize = HEADROOM + TAILROOM;

/// Free buffers a worker keeps of each size; above it they go back to the allocator.
const KEPT: [usize; 3] = [256, 256, FILLED];

/// Large buffers of a worker that bodies may fill at once, 16 MiB: what is pooled, in use. More bodies than that come in
/// small ones until others have moved on. Thousands of streams whose peers have stopped then hold 16 to 32 KiB each, and
/// not 256.
const FILLED: usize = 128;

/// The sizes that are pooled.
const SIZES: [usize; 3] = [TINY, SMALL, LARGE];

thread_local! {
    /// Free buffers, by the index of their size.
    static POOL: RefCell<[Vec<Vec<u8>>; 3]> = const { RefCell::new([Vec::new(), Vec::new(), Vec::new()]) };
    /// Large buffers in use.
    static LARGE_IN_USE: Cell<usize> = const { Cell::new(0) };
}

/// A byte buffer with room in front, given back to the worker's pool when dropped.
///
/// `bytes[start..]` is the content. `init` is how much of the allocation has ever been written, so that room behind
/// the content can be lent out as a slice without writing zeros again.
#[derive(Default)]
pub struct Buf {
    bytes: Vec<u8>,
    start: usize,
    init: usize,
    /// Counted among the large ones in use, whatever it has grown to.
    is_counted: bool,
}

impl Buf {
    /// An empty buffer from the pool, with [`HEADROOM`] in front. `capacity` is [`TINY`], [`SMALL`] or [`LARGE`]; the next
    /// of them is taken for any other.
    pub fn take(capacity: usize) -> Buf {
        let class = SIZES.iter().position(|size| capacity <= *size).unwrap_or(SIZES.len() - 1);
        let pooled = POOL.with_borrow_mut(|pool| pool[class].pop());
        let mut bytes = pooled.unwrap_or_else(|| vec![0; SIZES[class]]);
        let init = bytes.len();
        bytes.truncate(HEADROOM);
        let is_counted = SIZES[class] == LARGE;
        if is_counted {
            LARGE_IN_USE.set(LARGE_IN_USE.get() + 1);
        }
        Buf { bytes, start: HEADROOM, init, is_counted }
    }

    /// As [`Buf::take`], for what comes from a peer and may wait for another: a [`SMALL`] one in place of a [`LARGE`] one
    /// while as many of those are in use as may be.
    pub fn take_to_fill(capacity: usize) -> Buf {
        let is_scarce = LARGE_IN_USE.get() >= FILLED;
        Buf::take(if is_scarce { capacity.min(SMALL) } else { capacity })
    }

    /// A buffer with a copy of `content`.
    pub fn copy_of(content: &[u8]) -> Buf {
        let mut buf = Buf::take(content.len() + HEADROOM + TAILROOM);
        buf.extend(content);
        buf
    }

    /// The content.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// The content, writable.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..]
    }

    /// Content length in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Whether there is no content.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the buffer has an allocation at all.
    pub fn is_allocated(&self) -> bool {
        self.bytes.capacity() != 0
    }

    /// The size of the allocation.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// How many bytes fit behind the content.
    pub fn room(&self) -> usize {
        self.bytes.capacity().saturating_sub(self.bytes.len() + TAILROOM)
    }

    /// Drops the first `n` bytes of the content (all of it when there are fewer).
    pub fn consume(&mut self, n: usize) {
        self.start += n.min(self.len());
        if self.is_empty() {
            self.clear();
        }
    }

    /// Keeps the first `n` bytes of the content.
    pub fn truncate(&mut self, n: usize) {
        self.init = self.init.max(self.bytes.len());
        self.bytes.truncate(self.start + n);
    }

    /// Forgets the content and keeps the memory.
    pub fn clear(&mut self) {
        self.init = self.init.max(self.bytes.len());
        self.bytes.truncate(HEADROOM);
        self.start = self.bytes.len();
    }

    /// Appends, growing if it must.
    pub fn extend(&mut self, content: &[u8]) {
        self.append_with(|out| out.extend_from_slice(content));
    }

    /// Lets `write` append to the content.
    pub fn append_with<R>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        let (at, before) = (self.bytes.as_ptr(), self.bytes.len());
        let result = write(&mut self.bytes);
        debug_assert!(self.bytes.len() >= before, "append_with only appends");
        self.init = if self.bytes.as_ptr() == at { self.init.max(self.bytes.len()) } else { self.bytes.len() };
        result
    }

    /// Writes `prefix` in front of the content; the caller keeps it within [`HEADROOM`] in sum.
    pub fn prepend(&mut self, prefix: &[u8]) {
        if prefix.len() <= self.start {
            self.start -= prefix.len();
            self.bytes[self.start..][..prefix.len()].copy_from_slice(prefix);
        } else {
            self.init = self.init.max(self.bytes.len());
            self.bytes.splice(..self.start, prefix.iter().copied());
            self.init = self.bytes.len();
            self.start = 0;
        }
    }

    /// Makes room for at least `more` bytes behind the content, first by moving it to the front, then by a larger
    /// allocation.
    pub fn reserve(&mut self, more: usize) {
        if self.room() >= more {
            return;
        }
        if self.start > HEADROOM {
            self.init = self.init.max(self.bytes.len());
            self.bytes.drain(HEADROOM..self.start);
            self.start = HEADROOM;
        }
        if self.room() < more {
            let mut larger = Buf::take(HEADROOM + self.len() + more + TAILROOM);
            larger.append_with(|out| {
                out.reserve(self.len() + more + TAILROOM);
                out.extend_from_slice(self.as_slice());
            });
            *self = larger;
        }
    }

    /// The room behind the content as a slice to write into; [`Buf::advance`] says how much was written.
    pub fn spare_mut(&mut self) -> &mut [u8] {
        let len = self.bytes.len();
        let end = self.bytes.capacity() - TAILROOM.min(self.bytes.capacity() - len);
        if self.init < end {
            self.bytes.resize(end, 0);
            self.init = end;
            self.bytes.truncate(len);
        }
        // SAFETY: bytes `len..end` are inside the allocation and were written before: `init >= end`.
        unsafe { std::slice::from_raw_parts_mut(self.bytes.as_mut_ptr().add(len), end - len) }
    }

    /// Makes the first `n` bytes of [`Buf::spare_mut`] part of the content.
    pub fn advance(&mut self, n: usize) {
        let len = self.bytes.len() + n;
        assert!(len <= self.init, "more was written than there was room for");
        // SAFETY: bytes `..init` are inside the allocation and have been written.
        unsafe { self.bytes.set_len(len) };
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        if self.is_counted {
            LARGE_IN_USE.set(LARGE_IN_USE.get() - 1);
        }
        let (capacity, init) = (self.bytes.capacity(), self.init.max(self.bytes.len()));
        let Some(class) = SIZES.iter().position(|size| capacity == *size) else {
            return;
        };
        let mut bytes = std::mem::take(&mut self.bytes);
        // A pooled vector's length says how much of it is initialised.
        // SAFETY: `init` bytes have been written, and `init <= capacity`.
        unsafe { bytes.set_len(init) };
        bytes.resize(capacity, 0);
        // The thread may be ending, and the pool with it: then the allocator gets the buffer.
        let _ = POOL.try_with(|pool| {
            let Ok(mut pool) = pool.try_borrow_mut() else { return };
            if pool[class].len() < KEPT[class] {
                pool[class].push(bytes);
            }
        });
    }
}

impl std::fmt::Debug for Buf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buf({} of {} bytes)", self.len(), self.bytes.capacity())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_comes_back_after_prepend_append_and_consume() {
        let mut buf = Buf::copy_of(b"body");
        buf.prepend(b"4\r\n");
        buf.extend(b"\r\n");
        assert_eq!(buf.as_slice(), b"4\r\nbody\r\n");
        buf.consume(3);
        buf.truncate(4);
        assert_eq!(buf.as_slice(), b"body");
        buf.consume(9);
        assert!(buf.is_empty());
    }

    #[test]
    fn spare_room_is_written_and_taken_in() {
        let mut buf = Buf::take(SMALL);
        let spare = buf.spare_mut();
        assert_eq!(spare.len(), SMALL - HEADROOM - TAILROOM);
        spare[..3].copy_from_slice(b"abc");
        buf.advance(3);
        assert_eq!(buf.as_slice(), b"abc");
    }

    #[test]
    fn a_full_buffer_moves_its_content_before_it_grows() {
        let mut buf = Buf::take(SMALL);
        buf.extend(&vec![b'x'; buf.room()]);
        buf.consume(100);
        buf.reserve(50);
        assert_eq!(buf.capacity(), SMALL, "moving the content to the front made the room");
        buf.reserve(LARGE);
        assert!(buf.room() >= LARGE);
        assert_eq!(buf.len(), SMALL - HEADROOM - TAILROOM - 100);
    }

    #[test]
    fn a_prefix_longer_than_the_headroom_still_fits() {
        let mut buf = Buf::copy_of(b"tail");
        buf.prepend(&[b'p'; HEADROOM * 2]);
        assert_eq!(buf.len(), HEADROOM * 2 + 4);
        assert!(buf.as_slice().ends_with(b"ptail"));
    }

    #[test]
    fn large_buffers_to_fill_are_scarce_and_come_back() {
        let mut filled: Vec<Buf> = (0..FILLED).map(|_| Buf::take_to_fill(LARGE)).collect();
        assert!(filled.iter().all(|buf| buf.capacity() == LARGE));
        // A growing one stays one of them, and a small one does not become one.
        filled[0].extend(&[0; LARGE]);
        let mut small = Buf::take_to_fill(LARGE);
        assert_eq!((small.capacity(), Buf::take_to_fill(TINY).capacity()), (SMALL, TINY));
        assert_eq!(Buf::take(LARGE).capacity(), LARGE, "for what cannot do with less");
        small.extend(&[0; LARGE]);
        drop(small);
        assert_eq!(Buf::take_to_fill(LARGE).capacity(), SMALL);
        drop(filled);
        assert_eq!(LARGE_IN_USE.get(), 0);
        assert_eq!(Buf::take_to_fill(LARGE).capacity(), LARGE);
    }

    #[test]
    fn buffers_are_used_again() {
        let at = Buf::take(LARGE).bytes.as_ptr();
        assert_eq!(Buf::take(LARGE).bytes.as_ptr(), at);
    }
}
