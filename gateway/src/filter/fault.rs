//! Fault injection: which request is delayed or aborted, as Envoy's fault filter decides it.

use std::time::Duration;

use crate::config::model::{AbortStatus, Fault, Share};
use crate::proto::head::{Headers, Known, Name};

/// Longest delay that a request may ask for by its header: whoever asks for days must not keep our memory for days.
const ASKED_DELAY_MAX: Duration = Duration::from_secs(60 * 60);

/// What happens to a request: the delay first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// How long it waits.
    pub delay: Option<Duration>,
    /// How it ends.
    pub abort: Option<AbortStatus>,
}

impl Plan {
    /// What `fault` does to a request with these fields. The numbers in `random` are evenly distributed over all values.
    pub fn of(fault: &Fault, headers: &Headers, random: [u32; 2]) -> Plan {
        let asked = |name: &'static str| fault.headers.then(|| number(headers, name)).flatten();
        let is_hit = |share: Share, percentage: &'static str, random: u32| {
            // A header makes the share smaller, never larger.
            let percent = asked(percentage).map_or(100, |percent| percent.min(100) as u32);
            share.min(Share(percent * (Share::ALL.0 / 100))).has(random)
        };
        let delay = fault.delay.and_then(|delay| {
            let asked = asked("x-envoy-fault-delay-request").map(Duration::from_millis);
            let time = asked.map(|asked| asked.min(ASKED_DELAY_MAX)).or(delay.time)?;
            is_hit(delay.share, "x-envoy-fault-delay-request-percentage", random[0]).then_some(time)
        });
        let abort = fault.abort.and_then(|abort| {
            let http = asked("x-envoy-fault-abort-request").filter(|status| (200..600).contains(status));
            let grpc = asked("x-envoy-fault-abort-grpc-request").filter(|status| (1..=16).contains(status));
            let asked = http.map(|status| AbortStatus::Http(status as u16));
            let asked = asked.or(grpc.map(|status| AbortStatus::Grpc(status as u8)));
            let with = asked.or(abort.with)?;
            is_hit(abort.share, "x-envoy-fault-abort-request-percentage", random[1]).then_some(with)
        });
        Plan { delay: delay.filter(|time| !time.is_zero()), abort }
    }

    /// Whether nothing happens to it.
    pub fn is_nothing(self) -> bool {
        self == Plan::default()
    }
}

/// The value of a field, where it is a number.
fn number(headers: &Headers, name: &'static str) -> Option<u64> {
    std::str::from_utf8(headers.get(&Unlisted(name))?).ok()?.trim().parse().ok()
}

/// A name that is not among the [`Known`] ones.
struct Unlisted(&'static str);

impl Name for Unlisted {
    fn known(&self) -> Known {
        Known::Other
    }

    fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::{FaultAbort, FaultDelay, When};

    const PERCENT: u32 = 10_000;

    fn fault(headers: bool, delay_ms: Option<u64>, with: Option<AbortStatus>) -> Fault {
        Fault {
            name: "fault".into(),
            when: When::default(),
            delay: Some(FaultDelay { share: Share(50 * PERCENT), time: delay_ms.map(Duration::from_millis) }),
            abort: Some(FaultAbort { share: Share(50 * PERCENT), with }),
            headers,
            max_active: 1,
        }
    }

    #[test]
    fn requests_are_hit_as_often_as_configured() {
        for share in [0, 1, 10, 5_000, 25 * PERCENT, 1_000_000] {
            // Every value of the random number once, in steps.
            let steps = 10_000_000_u64;
            let hits = (0..steps).filter(|step| Share(share).has(((step << 32) / steps) as u32)).count();
            assert!(hits.abs_diff(share as usize * 10) <= 1, "{hits} of {share}");
        }
        assert!(!Share(999_999).has(u32::MAX) && Share::ALL.has(u32::MAX));
    }

    #[test]
    fn what_a_request_asks_for_counts_only_where_headers_are_on() {
        use AbortStatus::{Grpc, Http};
        const HIT: u32 = 0;
        const MISS: u32 = u32::MAX / 4 * 3;
        let own = (Some(1_000), Some(Http(503)));
        let none = (None, None);
        let hour = 60 * 60 * 1_000;
        // Headers on, delay and abort of the configuration, random, fields, what happens.
        type Wish = (Option<u64>, Option<AbortStatus>);
        type Case<'a> = (bool, Wish, u32, &'a [(&'a str, &'a str)], Wish);
        let cases: &[Case<'_>] = &[
            (false, own, HIT, &[], (Some(1_000), Some(Http(503)))),
            (false, own, MISS, &[], (None, None)),
            (false, own, HIT, &[("x-envoy-fault-delay-request", "5")], (Some(1_000), Some(Http(503)))),
            (true, own, HIT, &[], (Some(1_000), Some(Http(503)))),
            (true, none, HIT, &[], (None, None)),
            (true, own, HIT, &[("x-envoy-fault-delay-request", "5")], (Some(5), Some(Http(503)))),
            (true, none, HIT, &[("x-envoy-fault-delay-request", "99999999999")], (Some(hour), None)),
            (true, own, HIT, &[("x-envoy-fault-delay-request", "0")], (None, Some(Http(503)))),
            (true, own, HIT, &[("x-envoy-fault-delay-request", "soon")], (Some(1_000), Some(Http(503)))),
            (true, none, HIT, &[("x-envoy-fault-abort-request", "418")], (None, Some(Http(418)))),
            (true, none, HIT, &[("x-envoy-fault-abort-request", "99")], (None, None)),
            (true, none, HIT, &[("x-envoy-fault-abort-grpc-request", "8")], (None, Some(Grpc(8)))),
            (true, own, MISS, &[("x-envoy-fault-delay-request", "5")], (None, None)),
            (true, own, HIT, &[("x-envoy-fault-delay-request-percentage", "0")], (None, Some(Http(503)))),
            (true, own, HIT, &[("x-envoy-fault-abort-request-percentage", "0")], (Some(1_000), None)),
            (true, own, MISS, &[("x-envoy-fault-abort-request-percentage", "100")], (None, None)),
        ];
        for (on, (delay, abort), random, fields, (wait, end)) in cases {
            let mut headers = Headers::default();
            fields.iter().for_each(|(name, value)| headers.append_raw(name.as_bytes(), value.as_bytes()));
            let plan = Plan::of(&fault(*on, *delay, *abort), &headers, [*random; 2]);
            let expected = Plan { delay: wait.map(Duration::from_millis), abort: *end };
            assert_eq!(plan, expected, "{on} {delay:?} {abort:?} {random} {fields:?}");
            assert_eq!(plan.is_nothing(), expected == Plan::default());
        }
    }
}
