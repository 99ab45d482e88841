//! Pauses of whole authorities: one that is asked too often (429, `rateLimited`) means all that is asked of it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Longest pause of an authority. Some of its limits are about one certificate, which waits for as long as it is told; the others
/// are not to wait days for it.
const LONGEST_S: i64 = 60 * 60;

/// How long one is left in peace when the authority does not say.
const UNSAID_S: i64 = 15 * 60;

/// Until when each authority is left in peace, by the URL of its directory: another table for it is another account there, which it
/// counts by address as well.
#[derive(Debug, Default)]
pub struct Rests(Mutex<HashMap<String, i64>>);

impl Rests {
    /// The authority has refused to be asked so often, and may have said for how long.
    pub fn begin(&self, directory_url: &str, asked_s: Option<i64>, now: i64) {
        let until = now + asked_s.unwrap_or(UNSAID_S).clamp(0, LONGEST_S);
        let mut rests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let rest = rests.entry(directory_url.to_owned()).or_insert(until);
        *rest = until.max(*rest);
    }

    /// Until when nothing is asked of it. A clock that was set back does not make that longer than the longest. What is over is
    /// forgotten.
    pub fn until(&self, directory_url: &str, now: i64) -> i64 {
        let mut rests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rests.retain(|_, until| *until > now);
        match rests.get_mut(directory_url) {
            Some(until) => {
                *until = (*until).min(now + LONGEST_S);
                *until
            }
            None => i64::MIN,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_rests_as_long_as_it_is_asked_to_within_an_hour() {
        for (asked, expected) in [(Some(60), 60), (Some(1_000_000), 3_600), (None, 900)] {
            let rests = Rests::default();
            rests.begin("le", asked, 1_000);
            assert_eq!(rests.until("le", 1_000), 1_000 + expected, "{asked:?}");
            assert_eq!(rests.until("other", 1_000), i64::MIN);
        }
    }

    #[test]
    fn the_longer_of_two_rests_counts_and_a_clock_set_back_shortens_it() {
        let rests = Rests::default();
        rests.begin("le", Some(1_000), 100_000);
        rests.begin("le", Some(10), 100_000);
        assert_eq!(rests.until("le", 100_000), 101_000);
        assert_eq!(rests.until("le", 50_000), 53_600);
        assert_eq!(rests.until("le", 51_000), 53_600, "it does not begin anew each time");
        assert_eq!(rests.until("other", 53_600), i64::MIN);
        assert!(rests.0.lock().unwrap().is_empty(), "it is over");
    }
}
