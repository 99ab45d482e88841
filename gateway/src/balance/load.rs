//! How much of a cluster's load each tier of endpoints takes, from how many of them are up: Envoy's priority levels,
//! overprovisioning and panic threshold, in its integers.

/// A tier's part of the load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Percent of all picks for this tier and those before it.
    pub up_to: u8,
    /// Whether too few endpoints are up for the health checks to be believed: then all are used but those that drain.
    pub panic: bool,
}

/// The endpoints of a tier that do not drain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// All of them.
    pub all: u32,
    /// Those that are up.
    pub up: u32,
}

/// Envoy's `overprovisioning_factor`, in percent: a tier takes all of the load while 72 % of it is up.
const OVERPROVISIONING: u64 = 140;

/// Each tier's part. Below `panic_threshold` percent of endpoints that are up, a tier is in panic, unless all tiers
/// together can carry the load. Where nobody is up and the threshold is 0, no tier has a part.
pub fn split(counts: &[Count], panic_threshold: u8, parts: &mut [Part]) {
    let able = |count: &Count| match count.up {
        0 => 0,
        up => (OVERPROVISIONING * u64::from(up) / u64::from(count.all)).clamp(1, 100),
    };
    let total = counts.iter().map(able).sum::<u64>().min(100);
    let panics = |count: &Count| {
        total < 100 && count.all > 0 && u64::from(count.up) * 100 < u64::from(panic_threshold) * u64::from(count.all)
    };
    let all: u64 = counts.iter().map(|count| u64::from(count.all)).sum();
    // Where every tier is in panic, nothing is known of any, and the load is shared by size.
    let by_size = counts.iter().all(|count| count.all == 0 || panics(count));
    let weight = |count: &Count| if by_size { u64::from(count.all) } else { able(count) };
    let whole = if by_size { all } else { total };
    let mut sum = 0;
    for (part, count) in parts.iter_mut().zip(counts) {
        // Rounding the running sum, not each part, keeps the roundings from adding up.
        sum = (sum + weight(count)).min(whole);
        let up_to = (sum * 100).checked_div(whole).unwrap_or(0) as u8;
        *part = Part { up_to, panic: panics(count) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `up/all` of each tier to `percent` of each, with `!` where it is in panic.
    fn shown(counts: &str, threshold: u8) -> String {
        let count = |text: &str| {
            let (up, all) = text.split_once('/').unwrap();
            Count { up: up.parse().unwrap(), all: all.parse().unwrap() }
        };
        let counts: Vec<Count> = counts.split_whitespace().map(count).collect();
        let mut parts = vec![Part::default(); counts.len()];
        split(&counts, threshold, &mut parts);
        let mut before = 0;
        let text = |part: &Part| {
            let own = part.up_to - std::mem::replace(&mut before, part.up_to);
            format!("{own}{}", if part.panic { "!" } else { "" })
        };
        parts.iter().map(text).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_load_of_each_tier_is_envoys() {
        // The tables of Envoy's documentation of priority levels and of the panic threshold, and edges.
        let cases: &[(&str, u8, &str)] = &[
            ("1/1", 50, "100"),
            ("0/0", 50, "0"),
            ("100/100 100/100", 50, "100 0"),
            ("72/100 100/100", 50, "100 0"),
            ("71/100 100/100", 50, "99 1"),
            ("50/100 100/100", 50, "70 30"),
            ("25/100 100/100", 50, "35 65"),
            ("0/100 100/100", 50, "0 100"),
            ("25/100 25/100", 0, "50 50"),
            ("25/100 25/100", 50, "50! 50!"),
            ("100/100 100/100 100/100", 50, "100 0 0"),
            ("25/100 25/100 100/100", 50, "35 35 30"),
            ("25/100 25/100 20/100", 20, "35 36 29"),
            ("72/100 72/100 0/0", 50, "100 0 0"),
            ("5/100 65/100", 50, "7! 93"),
            ("0/10 0/30", 50, "25! 75!"),
            ("0/10 0/30", 0, "0 0"),
            ("1/2", 50, "100"),
            ("1/3", 50, "100!"),
            ("0/3", 50, "100!"),
            ("1/1000", 0, "100"),
            ("1/1000 0/10", 0, "100 0"),
            ("0/3", 1, "100!"),
            ("0/3", 0, "0"),
            ("0/0 1/1", 50, "0 100"),
        ];
        for (counts, threshold, expected) in cases {
            assert_eq!(shown(counts, *threshold), *expected, "{counts} at {threshold}");
        }
    }
}
