//! What some hosts have of their own.

use std::collections::HashMap;

use crate::config::model::HostPattern;

/// A value for each of some hosts. The most specific pattern counts, as in routes: otherwise a host could be reached by a
/// route and get past what is asked of its clients.
pub(super) struct Hosts<T> {
    exact: HashMap<Vec<u8>, T>,
    /// By what follows the star, a dot first.
    below: HashMap<Vec<u8>, T>,
    any: Option<T>,
}

impl<T> Default for Hosts<T> {
    fn default() -> Self {
        Hosts { exact: HashMap::new(), below: HashMap::new(), any: None }
    }
}

impl<T> Hosts<T> {
    pub(super) fn add(&mut self, pattern: &HostPattern, value: T) {
        match pattern {
            HostPattern::Exact(host) => _ = self.exact.insert(host.clone().into(), value),
            HostPattern::Suffix(parent) => _ = self.below.insert(parent.clone().into(), value),
            HostPattern::Any => self.any = Some(value),
        }
    }

    /// What a host has, which is in lower case. Bytes, as a request's host may be anything.
    pub(super) fn find(&self, host: &[u8]) -> Option<&T> {
        // The longest first.
        let parents = || memchr::memchr_iter(b'.', host).find_map(|at| self.below.get(&host[at..]));
        let below = || if self.below.is_empty() { None } else { parents() };
        self.exact.get(host).or_else(below).or(self.any.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_pattern_counts() {
        let mut hosts = Hosts::default();
        assert_eq!(hosts.find(b"a.test"), None);
        hosts.add(&HostPattern::Exact("a.test".into()), 1);
        hosts.add(&HostPattern::Suffix(".a.test".into()), 2);
        hosts.add(&HostPattern::Suffix(".b.a.test".into()), 3);
        let cases = [
            ("a.test", Some(1)),
            ("x.a.test", Some(2)),
            ("x.y.a.test", Some(2)),
            ("b.a.test", Some(2)),
            ("x.b.a.test", Some(3)),
            ("xa.test", None),
            // Whatever a route may take for a host below.
            (".a.test", Some(2)),
            ("test", None),
            ("", None),
            ("[::1]", None),
        ];
        for (host, wanted) in cases {
            assert_eq!(hosts.find(host.as_bytes()).copied(), wanted, "{host}");
        }
        assert_eq!(hosts.find(b"\xff.a.test"), Some(&2));
        hosts.add(&HostPattern::Any, 4);
        for host in [&b"test"[..], b"", b"\xff"] {
            assert_eq!(hosts.find(host), Some(&4));
        }
        assert_eq!(hosts.find(b"a.test"), Some(&1));
    }
}
