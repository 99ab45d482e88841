//! What a request needs while it is in progress, and a connection that rests does without.

use std::cell::RefCell;
use std::time::Instant;

use super::{Exchange, RequestTimers};
use crate::net::Timers;

/// Free rooms that a worker keeps: as many requests are in progress on a busy worker, and most of their heads take 1 to
/// 2 KiB. The longest that are kept ([`KEPT_HEAD_BYTES`](crate::proto::limits::KEPT_HEAD_BYTES)) make it 5 MiB.
const KEPT: usize = 256;

/// The exchange of a request, and its deadlines.
pub struct Room {
    /// What is known of the request.
    pub exchange: Exchange,
    /// None is set when the request begins.
    pub timers: RequestTimers,
}

/// A worker's free rooms. The one that was left last is taken first: it is still in the processor's caches.
#[derive(Default)]
#[expect(clippy::vec_box, reason = "a room goes from the list to a request and back as it is")]
pub struct Rooms(RefCell<Vec<Box<Room>>>);

impl Rooms {
    /// A room for one more request.
    pub fn take(&self, timers: &Timers) -> Box<Room> {
        let free = self.0.borrow_mut().pop();
        free.unwrap_or_else(|| {
            Box::new(Room { exchange: Exchange::new(Instant::now()), timers: RequestTimers::new(timers) })
        })
    }

    /// The request is over.
    pub fn put(&self, mut room: Box<Room>) {
        let mut free = self.0.borrow_mut();
        if free.len() < KEPT {
            room.exchange.rest();
            room.timers.clear();
            free.push(room);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_is_used_again_without_what_was_in_it() {
        let (rooms, timers) = (Rooms::default(), Timers::default());
        let mut room = rooms.take(&timers);
        room.exchange.request.target.extend_from_slice(b"/secret");
        room.exchange.scratch.extend_from_slice(b"secret");
        room.timers.end.set_at(0);
        room.timers.start(None);
        let at = &raw const *room;
        rooms.put(room);
        let mut room = rooms.take(&timers);
        room.exchange.begin(Instant::now());
        assert!(std::ptr::eq(at, &raw const *room));
        assert!(room.exchange.request.target.is_empty() && room.exchange.scratch.is_empty());
        assert!(!room.timers.end.is_due());
        assert_eq!(room.timers.took(crate::net::now_ms() + 60_000), 0, "the time of another request");
    }

    #[test]
    fn a_worker_keeps_no_more_rooms_than_it_may() {
        let (rooms, timers) = (Rooms::default(), Timers::default());
        let taken: Vec<_> = (0..KEPT + 10).map(|_| rooms.take(&timers)).collect();
        taken.into_iter().for_each(|room| rooms.put(room));
        assert_eq!(rooms.0.borrow().len(), KEPT);
    }
}
