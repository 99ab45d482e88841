//! How long a wait may take: an idle time that progress renews, and a hard end.

use std::cell::Cell;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use super::timer::Deadline;

/// The deadlines that end a wait. Both halves of an exchange share one, so that progress in either direction counts.
pub struct Until<'a> {
    idle: Option<(&'a Deadline, Duration)>,
    end: Option<&'a Deadline>,
    passed: Cell<Option<Passed>>,
}

/// Which deadline ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passed {
    /// Nothing moved for the idle time.
    Idle,
    /// The time for the whole is over.
    End,
}

impl<'a> Until<'a> {
    /// Nothing ends the wait.
    pub fn never() -> Until<'a> {
        Until { idle: None, end: None, passed: Cell::new(None) }
    }

    /// One deadline for the whole wait, set by the caller.
    pub fn only(end: &'a Deadline) -> Until<'a> {
        Until { idle: None, end: Some(end), passed: Cell::new(None) }
    }

    /// An idle time, renewed by progress and started now, and perhaps an end that the caller set.
    pub fn idle(timer: &'a Deadline, idle: Duration, end: Option<&'a Deadline>) -> Until<'a> {
        timer.set(idle);
        Until { idle: Some((timer, idle)), end, passed: Cell::new(None) }
    }

    /// Something moved.
    pub fn progress(&self) {
        if let Some((timer, idle)) = self.idle {
            timer.set(idle);
        }
    }

    /// Which deadline has passed, if one has.
    pub fn passed(&self) -> Option<Passed> {
        self.passed.get()
    }

    /// Ready with [`io::ErrorKind::TimedOut`] once a deadline has passed.
    pub fn poll_passed(&self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let passed = if self.end.is_some_and(|end| end.poll_passed(cx).is_ready()) {
            Passed::End
        } else if self.idle.is_some_and(|(timer, _)| timer.poll_passed(cx).is_ready()) {
            Passed::Idle
        } else {
            return Poll::Pending;
        };
        self.passed.set(Some(passed));
        Poll::Ready(io::ErrorKind::TimedOut.into())
    }
}
