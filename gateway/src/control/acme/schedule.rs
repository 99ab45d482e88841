//! When a certificate is obtained, and when again after that went wrong. Times are seconds of Unix time and come from
//! outside, as does chance: a number from 0 up to 1.

use std::time::Duration;

use super::tries::Tries;

/// The first pause when nobody was there, or it was their fault; each further one is twice as long.
const AWAY_S: i64 = 10;

/// Longest such pause.
const AWAY_MAX_S: i64 = 60 * 60;

/// The first pause when the authority has refused, which the next try will hardly change. Let's Encrypt allows five failed
/// validations in an hour, for an account and a name.
const REFUSED_S: i64 = 15 * 60;

/// Longest such pause.
const REFUSED_MAX_S: i64 = 24 * 60 * 60;

/// Longest pause that an authority may ask for: a mistake of its must not cost the certificate.
const ASKED_MAX_S: i64 = 7 * 24 * 60 * 60;

/// How long to leave another box, which obtains the certificate right now, in peace.
pub const BUSY_S: i64 = 15;

/// How long a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// From when on.
    pub not_before: i64,
    /// Until when.
    pub not_after: i64,
}

/// Whose fault a failure was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The authority could not be reached, or could not go on: it may at any time.
    Away,
    /// The authority does not want what it was asked for.
    Refused,
}

/// When to do what about one certificate.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// What there is, when it is to be renewed, and where chance has put that; `None`: there is nothing that would do.
    renewal: Option<(Validity, i64, f64)>,
    /// Not before this, whatever is due.
    paused_until: i64,
    /// How long that was when it began.
    pause_s: i64,
    /// In a row.
    failures: u32,
}

impl Schedule {
    /// There is this already, if anything.
    pub fn new(has: Option<Validity>, chance: f64) -> Schedule {
        let renewal = has.map(|has| (has, renewal(has, chance), chance));
        Schedule { renewal, paused_until: i64::MIN, pause_s: 0, failures: 0 }
    }

    /// When to try next. May be in the past.
    pub fn due_at(&self) -> i64 {
        self.renewal.map_or(i64::MIN, |(_, at, _)| at).max(self.paused_until)
    }

    /// A clock that was set back does not make a pause longer than it was when it began. To be called before
    /// [`due_at`](Schedule::due_at).
    pub fn keep_time(&mut self, now: i64) {
        self.paused_until = self.paused_until.min(now + self.pause_s);
    }

    /// What is to be remembered of failures if the process ends now.
    pub fn tries(&self) -> Tries {
        Tries { failures: self.failures, until: self.paused_until, pause_s: self.pause_s }
    }

    /// Goes on where a process before this one has ended.
    pub fn take_up(&mut self, tries: Tries, now: i64) {
        (self.failures, self.paused_until) = (tries.failures, tries.until);
        self.pause_s = tries.pause_s.clamp(0, ASKED_MAX_S);
        self.keep_time(now);
    }

    /// Until when nothing is tried, if anything is due; may be in the past.
    pub fn paused_until(&self) -> i64 {
        self.paused_until
    }

    /// How many tries have failed since one succeeded.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// There is a new one.
    pub fn obtained(&mut self, has: Validity, now: i64, chance: f64) {
        let before = std::mem::replace(self, Schedule::new(Some(has), chance));
        if self.due_at() <= now {
            // Short of its end already: a clock is wrong here or there, or the authority's own certificate ends. The next
            // one will hardly be better.
            self.failures = before.failures;
            self.failed(Fault::Refused, None, now, chance);
        }
    }

    /// The authority suggests to renew between `from` and `to` (RFC 9773), which it may know better: it may have to revoke the
    /// certificate. But a sixth of its life is kept for tries that fail.
    pub fn suggested(&mut self, (from, to): (i64, i64)) {
        if let Some((has, at, chance)) = &mut self.renewal {
            let inside = from + (to.saturating_sub(from).max(0) as f64 * *chance) as i64;
            *at = inside.min(has.not_after - (has.not_after - has.not_before) / 6);
        }
    }

    /// Another box obtains it.
    pub fn busy(&mut self, now: i64) {
        self.pause(BUSY_S, now);
    }

    /// A try has failed. `asked`: how long the authority wants to be left in peace.
    pub fn failed(&mut self, fault: Fault, asked: Option<Duration>, now: i64, chance: f64) {
        let (first, longest) = match fault {
            Fault::Away => (AWAY_S, AWAY_MAX_S),
            Fault::Refused => (REFUSED_S, REFUSED_MAX_S),
        };
        let pause = first.saturating_mul(1 << self.failures.min(20)).min(longest);
        // Boxes that failed together do not come again together.
        let pause = pause - (pause as f64 * chance / 4.0) as i64;
        let asked = asked.map_or(0, |asked| i64::try_from(asked.as_secs()).unwrap_or(i64::MAX)).min(ASKED_MAX_S);
        self.pause(pause.max(asked), now);
        self.failures = self.failures.saturating_add(1);
    }

    fn pause(&mut self, pause_s: i64, now: i64) {
        (self.pause_s, self.paused_until) = (pause_s, now + pause_s);
    }
}

/// When a third of the time is left, or up to a thirtieth of it later: certificates that were issued together, here or on
/// other boxes, are not renewed together.
fn renewal(has: Validity, chance: f64) -> i64 {
    let life = has.not_after - has.not_before;
    has.not_after - life / 3 + (life as f64 / 30.0 * chance) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 24 * 60 * 60;
    const NINETY_DAYS: Validity = Validity { not_before: 0, not_after: 90 * DAY };

    #[test]
    fn what_is_not_there_is_due_at_once() {
        assert!(Schedule::new(None, 0.5).due_at() < 0);
    }

    #[test]
    fn a_certificate_is_renewed_when_a_third_of_its_life_is_left() {
        for (validity, chance, expected) in [
            (NINETY_DAYS, 0.0, 60 * DAY),
            (NINETY_DAYS, 0.5, 61 * DAY + DAY / 2),
            (NINETY_DAYS, 1.0, 63 * DAY),
            (Validity { not_before: 100, not_after: 115 }, 0.9, 110),
            // Long expired: due at once.
            (Validity { not_before: -90 * DAY, not_after: -DAY }, 0.0, -DAY - 89 * DAY / 3),
        ] {
            assert_eq!(Schedule::new(Some(validity), chance).due_at(), expected, "{validity:?} {chance}");
        }
    }

    #[test]
    fn pauses_grow_with_each_failure_up_to_a_limit() {
        for (fault, expected) in [
            (Fault::Away, [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]),
            (Fault::Refused, [900, 1800, 3600, 7200, 14400, 28800, 57600, 86400, 86400, 86400, 86400]),
        ] {
            let mut schedule = Schedule::new(None, 0.0);
            let mut now = 1_000;
            for pause in expected {
                schedule.failed(fault, None, now, 0.0);
                assert_eq!(schedule.due_at() - now, pause, "{fault:?}");
                now = schedule.due_at();
            }
            assert_eq!(schedule.failures(), 11);
        }
    }

    #[test]
    fn a_clock_that_is_set_back_makes_no_pause_longer() {
        let mut schedule = Schedule::new(None, 0.0);
        schedule.failed(Fault::Refused, None, 1_000_000, 0.0);
        schedule.keep_time(1_000_100);
        assert_eq!(schedule.due_at(), 1_000_900);
        schedule.keep_time(50_000);
        assert_eq!(schedule.due_at(), 50_900);
        schedule.keep_time(50_500);
        assert_eq!(schedule.due_at(), 50_900, "it does not begin anew each time");
        schedule.busy(60_000);
        schedule.keep_time(0);
        assert_eq!(schedule.due_at(), BUSY_S);
    }

    #[test]
    fn a_process_goes_on_with_the_failures_of_the_one_before_it() {
        let mut before = Schedule::new(None, 0.0);
        before.failed(Fault::Refused, None, 1_000, 0.0);
        before.failed(Fault::Refused, None, 2_000, 0.0);
        let mut after = Schedule::new(None, 0.5);
        after.take_up(before.tries(), 2_100);
        assert_eq!((after.failures(), after.due_at()), (2, 3_800));
        after.failed(Fault::Refused, None, 3_800, 0.0);
        assert_eq!(after.due_at(), 7_400);
        // The clock was wrong then, or what was kept is nonsense.
        for (tries, now) in [(before.tries(), -90_000), (Tries { failures: 1, until: i64::MAX, pause_s: i64::MAX }, 0)]
        {
            after.take_up(tries, now);
            assert_eq!(after.due_at() - now, tries.pause_s.min(7 * DAY));
        }
    }

    #[test]
    fn chance_makes_a_pause_shorter_by_up_to_a_quarter() {
        let mut schedule = Schedule::new(None, 0.0);
        schedule.failed(Fault::Refused, None, 0, 1.0);
        assert_eq!(schedule.due_at(), 675);
    }

    #[test]
    fn what_the_authority_asks_for_is_kept_within_reason() {
        for (asked, expected) in [(5, 10), (3_600, 3_600), (u64::MAX, 7 * DAY)] {
            let mut schedule = Schedule::new(Some(NINETY_DAYS), 0.0);
            schedule.failed(Fault::Away, Some(Duration::from_secs(asked)), 80 * DAY, 0.0);
            assert_eq!(schedule.due_at() - 80 * DAY, expected, "{asked}");
        }
    }

    #[test]
    fn a_failure_long_before_the_end_does_not_put_a_renewal_off_or_forward() {
        let mut schedule = Schedule::new(Some(NINETY_DAYS), 0.0);
        schedule.failed(Fault::Refused, None, 10 * DAY, 0.0);
        assert_eq!(schedule.due_at(), 60 * DAY);
    }

    #[test]
    fn success_ends_the_row_of_failures() {
        let mut schedule = Schedule::new(None, 0.0);
        schedule.failed(Fault::Refused, None, 0, 0.0);
        schedule.failed(Fault::Refused, None, 900, 0.0);
        schedule.obtained(NINETY_DAYS, 1_000, 0.0);
        assert_eq!((schedule.failures(), schedule.due_at()), (0, 60 * DAY));
        schedule.failed(Fault::Away, None, 60 * DAY, 0.0);
        assert_eq!(schedule.due_at(), 60 * DAY + 10);
    }

    #[test]
    fn a_certificate_that_comes_expired_is_not_asked_for_again_and_again() {
        let mut schedule = Schedule::new(None, 0.0);
        for pause in [900, 1800, 3600, 7200] {
            schedule.obtained(NINETY_DAYS, 365 * DAY, 0.0);
            assert_eq!(schedule.due_at(), 365 * DAY + pause);
        }
        schedule.obtained(NINETY_DAYS, DAY, 0.0);
        assert_eq!((schedule.failures(), schedule.due_at()), (0, 60 * DAY));
    }

    #[test]
    fn what_the_authority_suggests_is_followed_unless_it_is_too_late() {
        for (window, chance, expected) in [
            ((50 * DAY, 52 * DAY), 0.5, 51 * DAY),
            // To be revoked: now.
            ((-DAY, 0), 0.5, -DAY / 2),
            ((80 * DAY, 90 * DAY), 0.5, 75 * DAY),
            ((50 * DAY, 40 * DAY), 0.5, 50 * DAY),
            ((i64::MIN, i64::MAX), 0.0, i64::MIN),
        ] {
            let mut schedule = Schedule::new(Some(NINETY_DAYS), chance);
            schedule.suggested(window);
            assert_eq!(schedule.due_at(), expected, "{window:?}");
        }
        let mut schedule = Schedule::new(None, 0.0);
        schedule.suggested((50 * DAY, 52 * DAY));
        assert_eq!(schedule.due_at(), i64::MIN, "what is not there is due whatever is suggested");
    }

    #[test]
    fn a_box_that_finds_another_at_work_looks_again_soon() {
        let mut schedule = Schedule::new(Some(NINETY_DAYS), 0.0);
        schedule.busy(60 * DAY);
        assert_eq!((schedule.due_at(), schedule.failures()), (60 * DAY + BUSY_S, 0));
    }
}
