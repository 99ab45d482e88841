//! When somebody has to be told of a certificate. Pure: certificates and time go in, what to say comes out.

use std::collections::HashMap;
use std::fmt;

use serde_json::{Value, json};

use super::inventory::{DAY_S, Item, Kind, date_time, view_item};

/// How long a pair has to be refused until it is said, in seconds. Of two files that are replaced one after the other, the
/// first one is refused until the second is there.
const PATIENCE_S: i64 = 5;

/// What there is to say about a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It expires within so many days.
    Within(u16),
    /// It has expired.
    Expired,
    /// A newer pair was refused.
    Refused,
    /// It could not be obtained, or renewed.
    NotRenewed,
}

/// Something to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alert<'a> {
    /// Of which certificate.
    pub item: &'a Item,
    /// Why.
    pub reason: Reason,
    /// When, in seconds of Unix time.
    pub now_s: i64,
}

/// What has been said already.
#[derive(Debug, Default)]
pub struct Alerts {
    told: HashMap<Key, Told>,
    /// When time alone makes the next alert due, in seconds of Unix time.
    next_s: Option<i64>,
}

/// A certificate in its place: one that is there twice has to be renewed twice.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    name: String,
    sha256: Option<[u8; 32]>,
}

#[derive(Debug, Default)]
struct Told {
    end: Option<End>,
    refusal: Option<Refusal>,
    /// That it could not be renewed; said once until it can be.
    is_not_renewed: bool,
}

/// A pair that is refused.
#[derive(Debug)]
struct Refusal {
    why: String,
    since_s: i64,
    is_told: bool,
}

/// How near the end is; what is nearer is less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Expired,
    Within(u16),
}

impl Alerts {
    /// What is to be said now of `items`, which are all there are; authorities are passed over. `days`: how many before the
    /// end there is an alert, the most first. Of several that have been passed the last one counts, and each is said once.
    pub fn due<'a>(&mut self, items: &'a [Item], days: &[u16], now_s: i64) -> Vec<Alert<'a>> {
        // What is not there any more is forgotten.
        let mut before = std::mem::take(&mut self.told);
        self.next_s = None;
        let mut alerts = Vec::new();
        for item in items.iter().filter(|item| item.kind == Kind::Certificate) {
            let sha256 = item.end.as_ref().map(|end| end.info.sha256);
            let key = Key { name: item.name.clone(), sha256 };
            let mut told = before.remove(&key).unwrap_or_default();
            if let Some(until) = item.end.as_ref().map(|end| end.until) {
                if let Some(end) = end(until, days, now_s).filter(|end| told.end.is_none_or(|told| *end < told)) {
                    told.end = Some(end);
                    alerts.push(Alert { item, reason: end.into(), now_s });
                }
                let moments = days.iter().map(|days| begin(until, *days)).chain([until.saturating_add(1)]);
                self.next_s = moments.filter(|moment| *moment > now_s).chain(self.next_s).min();
            }
            if item.failed.is_some() && !told.is_not_renewed {
                alerts.push(Alert { item, reason: Reason::NotRenewed, now_s });
            }
            told.is_not_renewed = item.failed.is_some();
            told.refusal = item.refused.as_ref().map(|why| Refusal::of(why, told.refusal.take(), now_s));
            if let Some(refusal) = told.refusal.as_mut().filter(|refusal| !refusal.is_told) {
                let due_s = refusal.since_s.saturating_add(PATIENCE_S);
                refusal.is_told = now_s >= due_s;
                match refusal.is_told {
                    true => alerts.push(Alert { item, reason: Reason::Refused, now_s }),
                    false => self.next_s = Some(self.next_s.map_or(due_s, |next| next.min(due_s))),
                }
            }
            self.told.insert(key, told);
        }
        alerts
    }

    /// Whether time alone has made something due.
    pub fn is_due(&self, now_s: i64) -> bool {
        self.next_s.is_some_and(|next| now_s >= next)
    }
}

impl Refusal {
    /// The one there was, if it is for the same reason.
    fn of(why: &str, before: Option<Refusal>, now_s: i64) -> Refusal {
        let same = before.filter(|before| before.why == why);
        same.unwrap_or_else(|| Refusal { why: why.to_owned(), since_s: now_s, is_told: false })
    }
}

/// From when on there are no more than so many days.
fn begin(until: i64, days: u16) -> i64 {
    until.saturating_sub(i64::from(days) * DAY_S)
}

fn end(until: i64, days: &[u16], now_s: i64) -> Option<End> {
    if now_s > until {
        return Some(End::Expired);
    }
    days.iter().rev().find(|days| now_s >= begin(until, **days)).map(|days| End::Within(*days))
}

impl From<End> for Reason {
    fn from(end: End) -> Reason {
        match end {
            End::Expired => Reason::Expired,
            End::Within(days) => Reason::Within(days),
        }
    }
}

impl Alert<'_> {
    /// For a program: what `GET /certificates` says of the certificate, and why it is told.
    pub fn view(&self) -> Value {
        let event = match self.reason {
            Reason::Within(_) => "expires",
            Reason::Expired => "expired",
            Reason::Refused => "refused",
            Reason::NotRenewed => "not_renewed",
        };
        let within_days = match self.reason {
            Reason::Within(days) => Some(days),
            Reason::Expired | Reason::Refused | Reason::NotRenewed => None,
        };
        json!({
            "event": event,
            "within_days": within_days,
            "text": self.to_string(),
            "certificate": view_item(self.item, self.now_s),
        })
    }
}

/// In a line, for people.
impl fmt::Display for Alert<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Alert { item, reason, now_s } = self;
        write!(f, "certificate \"{}\"", item.name)?;
        if let Some(host) = item.domain() {
            write!(f, " ({host})")?;
        }
        let end = item.end.as_ref().map(|end| (date_time(end.until), end.until.saturating_sub(*now_s)));
        let [refused, failed] = [&item.refused, &item.failed].map(|why| why.as_deref().unwrap_or_default());
        match (reason, end) {
            (Reason::Within(_), Some((until, left_s))) => write!(f, " expires in {}, on {until}", Days(left_s)),
            (Reason::Expired, Some((until, left_s))) => {
                write!(f, " expired {} ago, on {until}", Days(left_s.saturating_neg()))
            }
            (Reason::Refused, Some((until, _))) => {
                write!(f, " goes on until {until} with the pair it has, for the new one is refused: {refused}")
            }
            (Reason::NotRenewed, Some((until, _))) => {
                write!(f, " goes on until {until}, for it cannot be renewed: {failed}")
            }
            (Reason::NotRenewed, None) => write!(f, " cannot be obtained: {failed}"),
            (Reason::Within(_) | Reason::Expired | Reason::Refused, None) => write!(f, " is refused: {refused}"),
        }
    }
}

/// Seconds, as days.
struct Days(i64);

impl fmt::Display for Days {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 / DAY_S {
            ..1 => f.write_str("less than a day"),
            1 => f.write_str("1 day"),
            days => write!(f, "{days} days"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::inventory::tests::{authority, item, not_obtained};
    use super::*;

    const DAYS: [u16; 4] = [30, 14, 7, 1];

    /// What is said of a certificate that ends at second 0, at each of these days before that (after it, below 0).
    fn said(alerts: &mut Alerts, items: &[Item], days_before: &[i64]) -> Vec<Vec<Reason>> {
        let at = |days: &i64| alerts.due(items, &DAYS, -days * DAY_S).iter().map(|alert| alert.reason).collect();
        days_before.iter().map(at).collect()
    }

    #[test]
    fn each_threshold_is_said_once_as_time_goes_by() {
        let items = [item("a", 1, 0)];
        let said = said(&mut Alerts::default(), &items, &[40, 31, 30, 29, 15, 14, 8, 7, 2, 1, 0, -1, -2, -100]);
        let within = |days| vec![Reason::Within(days)];
        let none = Vec::new;
        let expected = [
            none(),
            none(),
            within(30),
            none(),
            none(),
            within(14),
            none(),
            within(7),
            none(),
            within(1),
            none(),
            vec![Reason::Expired],
            none(),
            none(),
        ];
        assert_eq!(said, expected);
    }

    #[test]
    fn of_several_thresholds_that_were_passed_only_the_last_is_said() {
        for (days_before, reason) in [
            (20, Some(Reason::Within(30))),
            (5, Some(Reason::Within(7))),
            (1, Some(Reason::Within(1))),
            (0, Some(Reason::Within(1))),
            (-3, Some(Reason::Expired)),
            (100, None),
        ] {
            let mut alerts = Alerts::default();
            let said = said(&mut alerts, &[item("a", 1, 0)], &[days_before, days_before]);
            assert_eq!(said, [reason.into_iter().collect(), vec![]], "{days_before} days before");
        }
    }

    #[test]
    fn a_renewed_certificate_is_a_new_one_and_the_same_one_is_not() {
        let mut alerts = Alerts::default();
        let mut due = |items: &[Item], days: &[u16], now_s| -> Vec<(String, Reason)> {
            alerts.due(items, days, now_s).iter().map(|alert| (alert.item.name.clone(), alert.reason)).collect()
        };
        let old = [item("a", 1, 20 * DAY_S), item("b", 1, 20 * DAY_S)];
        let both = [("a".into(), Reason::Within(30)), ("b".into(), Reason::Within(30))];
        assert_eq!(due(&old, &DAYS, 0), both, "one file in two places has to be renewed in both");
        assert_eq!(due(&old, &DAYS, 0), []);
        assert_eq!(due(&old, &[60, 25, 10], 0), [("a".into(), Reason::Within(25)), ("b".into(), Reason::Within(25))]);
        assert_eq!(due(&old, &DAYS, 0), [], "a threshold that is further away than what was said");
        let renewed = [item("a", 2, 5 * DAY_S), item("b", 1, 20 * DAY_S)];
        assert_eq!(due(&renewed, &DAYS, 0), [("a".into(), Reason::Within(7))]);
        assert_eq!(due(&[item("a", 3, 90 * DAY_S)], &DAYS, 0), []);
        assert_eq!(due(&old, &DAYS, 0), both, "what was gone is told of again");
    }

    #[test]
    fn a_pair_that_stays_refused_is_said_once_for_each_reason() {
        let mut alerts = Alerts::default();
        let mut said = |now_s: i64, refused: Option<&str>| {
            let items = [Item { refused: refused.map(str::to_owned), ..item("a", 1, 90 * DAY_S) }];
            let is_due = alerts.is_due(now_s);
            let lines: Vec<_> = alerts.due(&items, &DAYS, now_s).iter().map(ToString::to_string).collect();
            assert!(lines.is_empty() || is_due, "nobody would have looked");
            lines
        };
        let text = "certificate \"a\" (a.test) goes on until 1970-04-01T00:00:00Z with the pair it has, for the new one is \
                    refused: a.key is not its key";
        assert!(said(0, Some("a.key is not its key")).is_empty());
        assert!(said(4, Some("a.key is not its key")).is_empty());
        assert!(said(5, None).is_empty(), "the second file has come");
        assert!(said(10, Some("a.key is not its key")).is_empty());
        assert_eq!(said(15, Some("a.key is not its key")), [text]);
        assert!(said(99, Some("a.key is not its key")).is_empty());
        assert!(said(100, Some("a.pem is empty")).is_empty());
        assert_eq!(said(105, Some("a.pem is empty")).len(), 1);
    }

    #[test]
    fn that_a_certificate_is_not_renewed_is_said_once_until_it_is() {
        let mut alerts = Alerts::default();
        let mut said = |of: Item, failed: Option<&str>| {
            let items = [Item { failed: failed.map(str::to_owned), ..of }];
            alerts.due(&items, &DAYS, 0).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let old = || item("a", 1, 90 * DAY_S);
        let text = "certificate \"a\" (a.test) goes on until 1970-04-01T00:00:00Z, for it cannot be renewed: no answer";
        assert_eq!(said(old(), Some("no answer")), [text]);
        assert!(said(old(), Some("refused")).is_empty());
        assert!(said(item("a", 2, 90 * DAY_S), None).is_empty());
        assert_eq!(said(not_obtained("b"), Some("no answer")), ["certificate \"b\" cannot be obtained: no answer"]);
    }

    #[test]
    fn only_certificates_that_there_are_end() {
        let mut alerts = Alerts::default();
        assert!(alerts.due(&[authority(0), not_obtained("a")], &DAYS, DAY_S).is_empty());
        assert!(!alerts.is_due(i64::MAX));
        let refused = Item { refused: Some("b.pem is empty".into()), ..not_obtained("b") };
        let items = [refused];
        assert!(alerts.due(&items, &DAYS, 0).is_empty());
        let said: Vec<_> = alerts.due(&items, &DAYS, PATIENCE_S).iter().map(ToString::to_string).collect();
        assert_eq!(said, ["certificate \"b\" is refused: b.pem is empty"]);
    }

    #[test]
    fn it_is_known_when_to_look_again() {
        let mut alerts = Alerts::default();
        let items =
            [item("a", 1, 100 * DAY_S), item("b", 2, 50 * DAY_S), item("c", 3, i64::MAX), item("d", 4, i64::MIN)];
        let mut now_s = 0;
        let mut moments = Vec::new();
        while now_s <= 100 * DAY_S {
            if !alerts.due(&items, &DAYS, now_s).is_empty() {
                moments.push(now_s);
            }
            assert!(!alerts.is_due(now_s));
            now_s = alerts.next_s.unwrap();
            assert!(alerts.is_due(now_s));
        }
        let expected = [0, 20, 36, 43, 49, 70, 86, 93, 99].map(|day| day * DAY_S);
        assert_eq!(moments, [&expected[..5], &[50 * DAY_S + 1], &expected[5..]].concat());
    }

    #[test]
    fn an_alert_is_a_line() {
        let cases = [
            (20 * DAY_S, "expires in 20 days, on 1970-01-21T00:00:00Z"),
            (20 * DAY_S - 1, "expires in 19 days, on 1970-01-20T23:59:59Z"),
            (DAY_S, "expires in 1 day, on 1970-01-02T00:00:00Z"),
            (5, "expires in less than a day, on 1970-01-01T00:00:05Z"),
        ];
        for (until, text) in cases {
            let items = [item("a", 1, until)];
            let alerts = Alerts::default().due(&items, &DAYS, 0).iter().map(ToString::to_string).collect::<Vec<_>>();
            assert_eq!(alerts, [format!("certificate \"a\" (a.test) {text}")]);
        }
        let items = [item("a", 1, 0)];
        let expired = Alert { item: &items[0], reason: Reason::Expired, now_s: 3 * DAY_S };
        assert_eq!(expired.to_string(), "certificate \"a\" (a.test) expired 3 days ago, on 1970-01-01T00:00:00Z");
        let view = expired.view();
        assert_eq!((&view["event"], &view["certificate"]["days_left"]), (&json!("expired"), &json!(-3)));
    }
}
