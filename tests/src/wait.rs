//! Waiting for something that no blocking call announces, with a deadline.

use std::time::{Duration, Instant};

/// How long a test waits for anything that should happen at once. Generous, because the machine may be busy: a test
/// that passes never waits this long.
pub const DEADLINE: Duration = Duration::from_secs(15);

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(5);

/// Waits until `probe` gives something, for at most [`DEADLINE`]. `what` completes "waited in vain for …".
pub fn until<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    within(DEADLINE, what, probe)
}

/// Waits until `condition` holds, for at most [`DEADLINE`].
pub fn until_true(what: &str, mut condition: impl FnMut() -> bool) {
    until(what, || condition().then_some(()));
}

/// Waits until `probe` gives something, for at most `limit`.
pub fn within<T>(limit: Duration, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {limit:?} in vain for {what}");
        std::thread::sleep(POLL);
    }
}

/// Waits until `probe` has given the same value for `quiet`, and returns that value. For "it has come to a stop".
pub fn steady<T: PartialEq + Copy>(what: &str, quiet: Duration, mut probe: impl FnMut() -> T) -> T {
    let mut last = (probe(), Instant::now());
    until(what, || {
        let now = probe();
        if now != last.0 {
            last = (now, Instant::now());
        }
        (last.1.elapsed() >= quiet).then_some(now)
    })
}
