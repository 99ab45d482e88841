//! What is given up, step by step, as the process's memory fills up: Envoy's overload actions, in the order of what they
//! cost clients.

/// What is given up. Each step has those before it in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Step {
    /// Nothing.
    #[default]
    Nothing,
    /// Connections without a request: idle ones close, others after the request they are at (Envoy's
    /// `disable_http_keepalive` and `close_idle_http_connections`).
    Idle,
    /// New connections (`reject_incoming_connections`).
    Connections,
    /// Requests (`stop_accepting_requests`), but for those of routes with `priority = "high"`.
    Requests,
    /// All requests.
    Everything,
}

/// Where steps begin, in percent of the most memory there may be. What the kernel keeps for sockets comes on top, and what
/// is in progress still grows: hence not all of them close to 100.
const MARKS: [(u8, Step); 4] =
    [(85, Step::Idle), (90, Step::Connections), (95, Step::Requests), (100, Step::Everything)];

/// A step ends when so many percent below where it began: closing connections frees some at once, and opening them again
/// must not bring it back.
const HYSTERESIS: u8 = 5;

impl Step {
    /// Every step, in order.
    pub const ALL: [Step; 5] = [Step::Nothing, Step::Idle, Step::Connections, Step::Requests, Step::Everything];

    /// Its name in metrics and logs: what is given up.
    pub const fn as_str(self) -> &'static str {
        match self {
            Step::Nothing => "nothing",
            Step::Idle => "idle_connections",
            Step::Connections => "connections",
            Step::Requests => "requests",
            Step::Everything => "everything",
        }
    }

    /// The step after this one, now that `used` of at most `max` bytes are in use.
    pub fn next(self, used: u64, max: u64) -> Step {
        let percent = |add: u8| u128::from(used) * 100 + u128::from(max) * u128::from(add);
        let reached = |add: u8| {
            let reached = MARKS.iter().rev().find(|(mark, _)| percent(add) >= u128::from(max) * u128::from(*mark));
            reached.map_or(Step::Nothing, |(_, step)| *step)
        };
        reached(0).max(self.min(reached(HYSTERESIS)))
    }

    /// The step that is stored as this number.
    pub fn from_u8(number: u8) -> Step {
        Step::ALL.get(usize::from(number)).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_begin_at_their_marks_and_end_below_them() {
        use Step::{Connections, Everything, Idle, Nothing, Requests};
        let cases = [
            // percent of the memory in use, step by step
            (10, Nothing),
            (84, Nothing),
            (85, Idle),
            (80, Idle),
            (79, Nothing),
            (84, Nothing),
            (90, Connections),
            (85, Connections),
            (84, Idle),
            (96, Requests),
            (90, Requests),
            (89, Connections),
            (100, Everything),
            (95, Everything),
            (94, Requests),
            (300, Everything),
            (0, Nothing),
        ];
        let mut step = Nothing;
        for (percent, expected) in cases {
            step = step.next(percent * 1_000, 100_000);
            assert_eq!(step, expected, "at {percent}%");
        }
    }

    #[test]
    fn no_amount_of_memory_is_too_large_to_calculate_with() {
        assert_eq!(Step::Nothing.next(u64::MAX, u64::MAX), Step::Everything);
        assert_eq!(Step::Nothing.next(u64::MAX / 2, u64::MAX), Step::Nothing);
    }

    #[test]
    fn steps_are_numbers_and_numbers_are_steps() {
        for step in Step::ALL {
            assert_eq!(Step::from_u8(step as u8), step);
        }
    }
}
