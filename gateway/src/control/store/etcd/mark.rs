//! Where in the history of which etcd a value was that this box has a copy of. It tells what was put or deleted on purpose
//! from what etcd has lost, or found again in a backup.

/// A moment in the history of one prefix of one etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// etcd's number for itself. It may be the same after it has begun anew.
    pub cluster: u64,
    /// Counts up with each change; in a backup it is an earlier one.
    pub revision: u64,
    /// The prefix of the keys.
    pub prefix: String,
}

impl Mark {
    /// Whether etcd has gone on from here to `now`: what is missing there was deleted, and what is another was put there since.
    pub fn leads_to(&self, now: &Mark) -> bool {
        (self.cluster, &self.prefix) == (now.cluster, &now.prefix) && self.revision <= now.revision
    }

    /// In writing: a line.
    pub fn encode(&self) -> String {
        format!("{} {} {}\n", self.cluster, self.revision, self.prefix)
    }

    /// What [`encode`](Mark::encode) has written; `None` for anything else.
    pub fn decode(bytes: &[u8]) -> Option<Mark> {
        let mut words = std::str::from_utf8(bytes).ok()?.strip_suffix('\n')?.splitn(3, ' ');
        let (cluster, revision, prefix) = (words.next()?, words.next()?, words.next()?);
        Some(Mark { cluster: cluster.parse().ok()?, revision: revision.parse().ok()?, prefix: prefix.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(cluster: u64, revision: u64, prefix: &str) -> Mark {
        Mark { cluster, revision, prefix: prefix.into() }
    }

    #[test]
    fn a_history_goes_on_in_the_same_etcd_and_never_back() {
        let here = mark(1, 10, "/gateway/");
        for (now, goes_on) in [
            (mark(1, 10, "/gateway/"), true),
            (mark(1, 11, "/gateway/"), true),
            // From a backup, or begun anew.
            (mark(1, 9, "/gateway/"), false),
            (mark(2, 11, "/gateway/"), false),
            (mark(1, 11, "/other/"), false),
        ] {
            assert_eq!(here.leads_to(&now), goes_on, "{now:?}");
        }
    }

    #[test]
    fn a_mark_is_a_line_and_nothing_else_is_one() {
        let written = mark(u64::MAX, 7, "/gateway/");
        assert_eq!(Mark::decode(written.encode().as_bytes()), Some(written));
        for text in ["", "1 2\n", "1 2 /a/", "x 2 /a/\n", "1 -2 /a/\n"] {
            assert_eq!(Mark::decode(text.as_bytes()), None, "{text:?}");
        }
    }
}
