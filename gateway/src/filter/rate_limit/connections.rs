//! How fast a listener takes new connections: Envoy's `local_ratelimit` filters of listeners and of connections, and that for
//! each source.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Alone, KeyTable, Pace, Taken, masked};
use crate::config::model::{ListenerLimits, Prefixes};
use crate::metrics::shard::Refusal;

/// What tells sources apart: of IPv6 a network that one customer is given (RFC 6177).
const SOURCE: Prefixes = Prefixes { ipv4: 32, ipv6: 64 };

/// Sources whose buckets are held, as by a `rate_limit` by default; 2 MiB. When there are more, the fullest bucket is
/// forgotten.
const SOURCES: u32 = 1 << 16;

/// `new_connections` and `new_connections_per_source` of a listener, with their buckets, which outlive a generation.
#[derive(Debug, Default)]
pub struct ConnectionRates {
    all: Option<(Pace, Arc<Alone>)>,
    by_source: Option<(Pace, Arc<KeyTable>)>,
}

/// Whose rate a connection is above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooFast {
    /// The listener's.
    Listener,
    /// The source's.
    Source,
}

impl From<TooFast> for Refusal {
    fn from(too_fast: TooFast) -> Refusal {
        match too_fast {
            TooFast::Listener => Refusal::ListenerRate,
            TooFast::Source => Refusal::SourceRate,
        }
    }
}

impl ConnectionRates {
    /// The rates of a listener. Its buckets of the generation before are taken over, whatever its rates were.
    pub fn build(limits: &ListenerLimits, before: Option<&ConnectionRates>) -> ConnectionRates {
        let all = before.and_then(|before| before.all.as_ref()).map(|(_, bucket)| bucket.clone());
        let by_source = before.and_then(|before| before.by_source.as_ref()).map(|(_, table)| table.clone());
        ConnectionRates {
            all: limits.new_connections.map(|quota| (Pace::of(&quota), all.unwrap_or_default())),
            by_source: limits
                .new_connections_per_source
                .map(|quota| (Pace::of(&quota), by_source.unwrap_or_else(|| Arc::new(KeyTable::new(SOURCES))))),
        }
    }

    /// Lets a connection in at `now`, in nanoseconds of a clock that never goes back, which is asked where there is a rate.
    /// `source` is `None` for a trusted proxy's own connections.
    pub fn enter(&self, source: Option<IpAddr>, now: impl FnOnce() -> u64) -> Result<(), TooFast> {
        if self.all.is_none() && self.by_source.is_none() {
            return Ok(());
        }
        let now = now();
        // First, so that a source that is too fast takes nothing from the others.
        source.map_or(Ok(()), |source| self.enter_source(source, now))?;
        match &self.all {
            Some((pace, bucket)) if !has_token(pace.take(&bucket.0, now)) => Err(TooFast::Listener),
            _ => Ok(()),
        }
    }

    fn enter_source(&self, source: IpAddr, now: u64) -> Result<(), TooFast> {
        let Some((pace, table)) = &self.by_source else { return Ok(()) };
        let (taken, _) = pace.take_by_key(table, masked(source, SOURCE), now);
        if has_token(taken) { Ok(()) } else { Err(TooFast::Source) }
    }
}

fn has_token(taken: Taken) -> bool {
    matches!(taken, Taken::Token { .. })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::model::Quota;

    const SECOND: u64 = 1_000_000_000;

    fn limits(all: Option<u32>, of_source: Option<u32>) -> ListenerLimits {
        let quota = |burst| Quota { requests: 1, per: Duration::from_secs(1), burst };
        ListenerLimits {
            new_connections: all.map(quota),
            new_connections_per_source: of_source.map(quota),
            ..ListenerLimits::default()
        }
    }

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn a_source_that_is_too_fast_takes_nothing_from_the_others() {
        let rates = ConnectionRates::build(&limits(Some(4), Some(2)), None);
        let (a, b, c) = (ip("192.0.2.1"), ip("192.0.2.2"), ip("192.0.2.3"));
        for (source, expected) in [
            (a, Ok(())),
            (a, Ok(())),
            (a, Err(TooFast::Source)),
            (a, Err(TooFast::Source)),
            (b, Ok(())),
            (None, Ok(())),
            (b, Err(TooFast::Listener)),
            (c, Err(TooFast::Listener)),
        ] {
            assert_eq!(rates.enter(source, || SECOND), expected, "{source:?}");
        }
        assert_eq!(rates.enter(c, || 2 * SECOND), Ok(()), "a token comes in a second");
        assert_eq!(rates.enter(a, || 2 * SECOND), Err(TooFast::Listener));
    }

    #[test]
    fn a_source_is_an_address_or_a_network_of_ipv6() {
        let rates = ConnectionRates::build(&limits(None, Some(1)), None);
        for (source, expected) in [
            ("2001:db8:0:1::1", Ok(())),
            ("2001:db8:0:1::2", Err(TooFast::Source)),
            ("2001:db8:0:2::1", Ok(())),
            ("192.0.2.1", Ok(())),
            ("192.0.2.2", Ok(())),
            ("::ffff:192.0.2.2", Err(TooFast::Source)),
        ] {
            assert_eq!(rates.enter(ip(source), || SECOND), expected, "{source}");
        }
    }

    #[test]
    fn without_limits_all_are_let_in_and_a_reload_does_not_fill_buckets() {
        let none = ConnectionRates::build(&limits(None, None), None);
        assert!((0..1000).all(|_| none.enter(ip("192.0.2.1"), || SECOND).is_ok()));
        let (first, source) = (ConnectionRates::build(&limits(Some(1), Some(1)), None), ip("192.0.2.1"));
        assert_eq!(first.enter(source, || SECOND), Ok(()));
        let same = ConnectionRates::build(&limits(Some(1), Some(1)), Some(&first));
        assert_eq!(same.enter(source, || SECOND), Err(TooFast::Source));
        assert_eq!(same.enter(ip("192.0.2.9"), || SECOND), Err(TooFast::Listener));
        let wider = ConnectionRates::build(&limits(Some(2), Some(2)), Some(&same));
        assert_eq!(wider.enter(source, || SECOND), Ok(()));
        assert_eq!(wider.enter(source, || SECOND), Err(TooFast::Source));
    }
}
