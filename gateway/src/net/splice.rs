//! Large streams from one plain socket to another through a pipe: their bytes never come to this process (splice(2)).

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::null_mut;
use std::task::Poll;

use super::tcp::{Reader, Writer};
use super::until::Until;

/// Most bytes of one round, and what a pipe is asked to hold. The system calls are then few per byte, and what a slow reader
/// makes us hold is less than what is in the sockets' own buffers. The kernel grants it to every process (pipe(7)).
const ROUND: usize = 256 * 1024;

/// Rounds after which the worker's other connections get their turn: 1 MiB, some hundred microseconds.
const ROUNDS: u32 = 4;

/// What a wake has to bring for the next one to be spliced too. Copying less costs no more than the pipe's system calls.
const WORTHWHILE: u64 = 16 * 1024;

/// Pipes a worker has at once. Each waits for one slow reader, holds up to [`ROUND`] bytes and takes two descriptors, which
/// connections need too; further streams are copied.
const PIPES: usize = 256;

/// Pipes a worker keeps for later: as many as it has streams that move at about the same time.
const KEPT: usize = 16;

/// Where a stream comes from.
pub struct SpliceFrom<'a> {
    /// The receiving half.
    pub reader: &'a mut Reader,
    /// Counts the bytes taken from it.
    pub received: &'a mut u64,
}

/// Where a stream goes to.
pub struct SpliceTo<'a> {
    /// The sending half. What was sent before is out.
    pub writer: &'a mut Writer,
    /// Counts the bytes given to it.
    pub sent: &'a mut u64,
}

/// Which side a stream failed on.
#[derive(Debug)]
pub enum SpliceError {
    /// It could not be read, or a deadline passed.
    From(io::Error),
    /// It could not be written, or a deadline passed.
    To(io::Error),
}

/// Moves bytes as long as they come in large amounts. What comes then, an end or an error too, is for [`Reader::fill`];
/// so is everything where bytes wait in the reader already or no pipe is to be had.
///
/// A dropped future, like an error, may lose bytes that were under way: the connections can only be cut then.
pub async fn splice(mut from: SpliceFrom<'_>, mut to: SpliceTo<'_>, until: &Until<'_>) -> Result<(), SpliceError> {
    if !from.reader.is_at_rest() {
        return Ok(());
    }
    from.reader.socket.set_nonblocking().map_err(SpliceError::From)?;
    to.writer.socket.set_nonblocking().map_err(SpliceError::To)?;
    loop {
        // Taken anew after each wait: a stream that waits for bytes holds no pipe.
        let Some(pipe) = Pipe::take() else { return Ok(()) };
        let drained = pipe.drain(&mut from, &mut to, until).await?;
        pipe.give_back();
        match drained {
            Drained::Ended => return Ok(()),
            Drained::For(moved) if moved < WORTHWHILE => {
                from.reader.expect_little();
                return Ok(());
            }
            Drained::For(_) => {}
        }
        from.reader.readable(until).await.map_err(SpliceError::From)?;
    }
}

/// Why there is nothing more to move.
enum Drained {
    /// The stream is at its end.
    Ended,
    /// The socket is empty, after so many bytes.
    For(u64),
}

/// A pipe of the worker's. Dropped, and not given back, it is closed: bytes may be in it, with which the next stream must
/// not begin.
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

thread_local! {
    /// Empty pipes.
    static FREE: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
    /// How many there are, those in use included.
    static OPEN: Cell<usize> = const { Cell::new(0) };
}

impl Pipe {
    /// An empty pipe. `None` when the worker has too many already, or the process too many descriptors.
    fn take() -> Option<Pipe> {
        FREE.with_borrow_mut(Vec::pop).or_else(|| (OPEN.get() < PIPES).then(Pipe::new)?.ok())
    }

    fn new() -> io::Result<Pipe> {
        let mut ends = [0; 2];
        // SAFETY: `ends` is room for two descriptors.
        if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: both are new, and nobody else owns them.
        let [read, write] = ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) });
        // SAFETY: the descriptor is open. A user with many pipes may be refused, and has smaller ones then.
        unsafe { libc::fcntl(write.as_raw_fd(), libc::F_SETPIPE_SZ, ROUND as libc::c_int) };
        OPEN.set(OPEN.get() + 1);
        Ok(Pipe { read, write })
    }

    /// Keeps an empty pipe for the next stream.
    fn give_back(self) {
        FREE.with_borrow_mut(|free| {
            if free.len() < KEPT {
                free.push(self);
            }
        });
    }

    /// Moves what the reader's socket has, and what comes to it meanwhile.
    async fn drain(
        &self,
        from: &mut SpliceFrom<'_>,
        to: &mut SpliceTo<'_>,
        until: &Until<'_>,
    ) -> Result<Drained, SpliceError> {
        let (mut moved, mut rounds) = (0, 0);
        loop {
            let held = match transfer(from.reader.socket.fd.raw(), self.write.as_raw_fd(), ROUND) {
                Ok(0) => return Ok(Drained::Ended),
                Ok(n) => n,
                // The pipe is empty, so the socket is.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Drained::For(moved)),
                Err(error) => return Err(SpliceError::From(error)),
            };
            *from.received += held as u64;
            moved += held as u64;
            until.progress();
            self.empty(held, to, until).await.map_err(SpliceError::To)?;
            rounds += 1;
            if rounds == ROUNDS {
                rounds = 0;
                tokio::task::yield_now().await;
                in_time(until).await.map_err(SpliceError::From)?;
            }
        }
    }

    async fn empty(&self, mut held: usize, to: &mut SpliceTo<'_>, until: &Until<'_>) -> io::Result<()> {
        while held > 0 {
            match transfer(self.read.as_raw_fd(), to.writer.socket.fd.raw(), held) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    held -= n;
                    *to.sent += n as u64;
                    until.progress();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => to.writer.room(until).await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        OPEN.set(OPEN.get() - 1);
    }
}

/// Moves up to `limit` bytes between a pipe and a socket, without waiting; `Ok(0)` is the end. Writing to a socket that is
/// shut is an error and no SIGPIPE, which the process ignores as every Rust program does.
fn transfer(from: RawFd, to: RawFd, limit: usize) -> io::Result<usize> {
    loop {
        let flags = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK;
        // SAFETY: no offsets are given, and the kernel touches no memory of ours.
        let n = unsafe { libc::splice(from, null_mut(), to, null_mut(), limit, flags) };
        match usize::try_from(n) {
            Ok(n) => return Ok(n),
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
}

/// An error when a deadline has passed.
async fn in_time(until: &Until<'_>) -> io::Result<()> {
    std::future::poll_fn(|cx| match until.poll_passed(cx) {
        Poll::Ready(error) => Poll::Ready(Err(error)),
        Poll::Pending => Poll::Ready(Ok(())),
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_has_a_limit_of_pipes_and_keeps_few_that_are_empty() {
        let mut pipes: Vec<Pipe> = (0..PIPES).map_while(|_| Pipe::take()).collect();
        assert_eq!(pipes.len(), PIPES, "this test needs {} descriptors", 2 * PIPES);
        assert!(Pipe::take().is_none());
        // As after an error, with bytes in it.
        drop(pipes.pop());
        pipes.push(Pipe::take().expect("the place of the one that was closed"));
        pipes.into_iter().for_each(Pipe::give_back);
        assert_eq!((OPEN.get(), FREE.with_borrow(Vec::len)), (KEPT, KEPT));
    }
}
