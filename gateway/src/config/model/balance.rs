//! How a request finds its endpoint within a cluster: `balance`, `hash_on`, `affinity_cookie`, tiers and subsets.

use crate::proto::cookie::Cookie;
use crate::proto::head::HeaderName;

/// `balance`: how an endpoint is chosen. Weights count in all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Balance {
    /// In turn.
    #[default]
    RoundRobin,
    /// Of two at random, the one with fewer requests in progress (Envoy's `choice_count` 2, `active_request_bias` 1).
    LeastRequest,
    /// At random.
    Random,
    /// By a key, on a ring of hashes.
    RingHash,
    /// By a key, in a table.
    Maglev,
}

impl Balance {
    /// Whether a key decides.
    pub fn hashes(self) -> bool {
        matches!(self, Balance::RingHash | Balance::Maglev)
    }

    /// As the file has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Balance::RoundRobin => "round_robin",
            Balance::LeastRequest => "least_request",
            Balance::Random => "random",
            Balance::RingHash => "ring_hash",
            Balance::Maglev => "maglev",
        }
    }
}

/// One rule of `hash_on`: what of a request is its key, or a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashRule {
    /// Where the key is.
    pub on: HashOn,
    /// `terminal`: those behind it count only where there is no key yet.
    pub terminal: bool,
}

/// Where a key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashOn {
    /// `header`: the values of the field.
    Header(HeaderName),
    /// `cookie`: its value.
    Cookie {
        /// Its name.
        cookie: Cookie,
        /// Whether a client without it gets one.
        generate: bool,
    },
    /// `query`: the value of the parameter, as it is written.
    Query(String),
    /// `source_ip`: the client, after the headers of trusted proxies.
    SourceIp,
}

/// `affinity_cookie`: a cookie that names the endpoint.
#[derive(Clone, PartialEq, Eq)]
pub struct AffinityCookie {
    /// The cookie.
    pub cookie: Cookie,
    /// `strict`: without the endpoint it names, the answer is 503. Else another one is chosen.
    pub strict: bool,
    /// `secret`: without it the names of endpoints can be worked out by who guesses their addresses. Never printed.
    pub secret: Option<String>,
}

impl std::fmt::Debug for AffinityCookie {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let AffinityCookie { cookie, strict, secret: _ } = self;
        f.debug_struct("AffinityCookie").field("cookie", cookie).field("strict", strict).finish_non_exhaustive()
    }
}

/// Labels, sorted by name.
pub type Labels = Vec<(String, String)>;

/// `subset` of a route: which endpoints of its clusters it uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subset {
    /// Those that have all of these labels; never empty.
    pub labels: Labels,
    /// `subset_fallback`: what happens when none of them is up.
    pub fallback: SubsetFallback,
}

/// What happens to requests for a subset of which no endpoint is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum SubsetFallback {
    /// `"none"`: they stay with the subset.
    #[default]
    None,
    /// `"any"`: they go to any endpoint of the cluster.
    Any,
}

impl SubsetFallback {
    /// As the file has it.
    pub fn as_str(self) -> &'static str {
        match self {
            SubsetFallback::None => "none",
            SubsetFallback::Any => "any",
        }
    }
}
