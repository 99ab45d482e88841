//! Response flags: why a request ended as it did, in Envoy's letters.

use std::fmt;

macro_rules! response_flags {
    ($($(#[$doc:meta])* $name:ident = $text:literal)*) => {
        /// Why a request ended as it did. The texts are Envoy's, so that people and tools know them already.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum ResponseFlag {
            $($(#[$doc])* $name,)*
        }

        impl ResponseFlag {
            /// Every flag, in the order [`ResponseFlags`] writes them.
            pub const ALL: &[ResponseFlag] = &[$(ResponseFlag::$name),*];

            /// The flag's letters in logs and metrics.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(ResponseFlag::$name => $text,)*
                }
            }
        }
    };
}

// The order is that of the text form: Envoy writes the exhausted retries before their cause ("URX,UF").
response_flags! {
    /// The retry limit was reached.
    RetryLimitExceeded = "URX"
    /// No healthy upstream in the cluster.
    NoHealthyUpstream = "UH"
    /// The connection to the upstream could not be made.
    UpstreamConnectionFailure = "UF"
    /// A circuit breaker or connection limit was full.
    UpstreamOverflow = "UO"
    /// No route matched.
    NoRouteFound = "NR"
    /// The route's cluster does not exist.
    NoClusterFound = "NC"
    /// The upstream did not answer within the route's timeout.
    UpstreamRequestTimeout = "UT"
    /// The upstream closed the connection before its answer was complete.
    UpstreamConnectionTermination = "UC"
    /// The upstream reset the stream.
    UpstreamRemoteReset = "UR"
    /// The client closed the connection before the answer was complete.
    DownstreamConnectionTermination = "DC"
    /// The connection or the request lasted longer than it may.
    DurationTimeout = "DT"
    /// The gateway's own health check failed.
    FailedLocalHealthCheck = "LH"
    /// The gateway reset the stream.
    LocalReset = "LR"
    /// A local rate limit refused the request.
    RateLimited = "RL"
    /// Fault injection delayed the request.
    DelayInjected = "DI"
    /// Fault injection aborted the request.
    FaultInjected = "FI"
    /// An external authorisation service refused the request.
    UnauthorizedExternalService = "UAEX"
    /// The rate-limit service failed.
    RateLimitServiceError = "RLSE"
    /// A header that must have a strict form did not have it.
    InvalidEnvoyRequestHeaders = "IH"
    /// The stream was idle for too long.
    StreamIdleTimeout = "SI"
    /// The client broke the protocol.
    DownstreamProtocolError = "DPE"
    /// The upstream broke the protocol.
    UpstreamProtocolError = "UPE"
    /// The stream reached its longest duration.
    UpstreamMaxStreamDurationReached = "UMSDR"
    /// The overload manager ended the request.
    OverloadManager = "OM"
    /// The upstream's name could not be resolved.
    DnsResolutionFailed = "DF"
}

/// How many flags there are; the length of a table indexed by [`ResponseFlag::index`].
pub const FLAG_COUNT: usize = ResponseFlag::ALL.len();

impl ResponseFlag {
    /// The flag as an index into a table of [`FLAG_COUNT`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// A set of [`ResponseFlag`]s. [`Display`](fmt::Display) is Envoy's form: `URX,UF`, or `-` when there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResponseFlags(u32);

const _: () = assert!(FLAG_COUNT <= u32::BITS as usize, "the set has a bit for every flag");

impl ResponseFlags {
    /// No flag.
    pub const NONE: ResponseFlags = ResponseFlags(0);

    /// Adds a flag.
    pub fn insert(&mut self, flag: ResponseFlag) {
        self.0 |= 1 << flag.index();
    }

    /// The set with `flag` in it as well.
    #[must_use]
    pub const fn with(self, flag: ResponseFlag) -> ResponseFlags {
        ResponseFlags(self.0 | 1 << flag.index())
    }

    /// Whether the flag is in the set.
    pub const fn contains(self, flag: ResponseFlag) -> bool {
        self.0 & 1 << flag.index() != 0
    }

    /// Whether there is no flag.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The flags, in the order they are written.
    pub fn iter(self) -> impl Iterator<Item = ResponseFlag> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let flag = ResponseFlag::ALL.get(rest.trailing_zeros() as usize)?;
            rest &= rest - 1;
            Some(*flag)
        })
    }

    /// Appends the text form.
    pub fn write(self, out: &mut Vec<u8>) {
        if self.is_empty() {
            out.push(b'-');
        }
        for (at, flag) in self.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            out.extend_from_slice(flag.as_str().as_bytes());
        }
    }
}

impl From<ResponseFlag> for ResponseFlags {
    fn from(flag: ResponseFlag) -> Self {
        ResponseFlags::NONE.with(flag)
    }
}

impl fmt::Display for ResponseFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Vec::new();
        self.write(&mut text);
        f.write_str(&String::from_utf8_lossy(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_flag_is_a_dash() {
        assert_eq!(ResponseFlags::NONE.to_string(), "-");
    }

    #[test]
    fn exhausted_retries_come_before_their_cause() {
        let mut flags = ResponseFlags::from(ResponseFlag::UpstreamConnectionFailure);
        flags.insert(ResponseFlag::RetryLimitExceeded);
        assert_eq!(flags.to_string(), "URX,UF");
    }

    #[test]
    fn every_flag_is_found_again_and_has_its_own_letters() {
        let mut texts = std::collections::HashSet::new();
        for (index, flag) in ResponseFlag::ALL.iter().enumerate() {
            assert_eq!(flag.index(), index);
            let set = ResponseFlags::from(*flag);
            assert!(set.contains(*flag));
            assert_eq!(set.iter().collect::<Vec<_>>(), [*flag]);
            assert_eq!(set.to_string(), flag.as_str());
            assert!(texts.insert(flag.as_str()), "{} twice", flag.as_str());
        }
        let envoy = "UH UF UO NR NC UT UC UR URX DC DT LH RL DI FI UAEX RLSE IH SI DPE UPE UMSDR OM DF LR";
        assert_eq!(texts, envoy.split(' ').collect());
    }
}
