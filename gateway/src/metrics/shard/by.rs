//! What is counted by kind: the closed sets of kinds, what their labels say, and a counter for each.

use super::Counter;
use crate::metrics::flags::{FLAG_COUNT, ResponseFlags};

/// What the `code` label says: the class of a status code. One series for each of six hundred codes on every route
/// would be a scrape of its own; the access log has the exact code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CodeClass {
    /// No response head was sent: the client went away first.
    None,
    /// 100 to 199
    Informational,
    /// 200 to 299
    Success,
    /// 300 to 399
    Redirection,
    /// 400 to 499
    ClientError,
    /// 500 and above
    ServerError,
}

impl CodeClass {
    /// Every class, in order.
    pub const ALL: [CodeClass; 6] = [
        CodeClass::None,
        CodeClass::Informational,
        CodeClass::Success,
        CodeClass::Redirection,
        CodeClass::ClientError,
        CodeClass::ServerError,
    ];

    /// The class of a status code; 0 is "no response".
    pub fn of(status: u16) -> CodeClass {
        match status {
            0..100 => CodeClass::None,
            100..200 => CodeClass::Informational,
            200..300 => CodeClass::Success,
            300..400 => CodeClass::Redirection,
            400..500 => CodeClass::ClientError,
            500.. => CodeClass::ServerError,
        }
    }

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            CodeClass::None => "none",
            CodeClass::Informational => "1xx",
            CodeClass::Success => "2xx",
            CodeClass::Redirection => "3xx",
            CodeClass::ClientError => "4xx",
            CodeClass::ServerError => "5xx",
        }
    }
}

/// A counter for each [`CodeClass`].
#[derive(Debug, Default)]
pub struct ByCode([Counter; CodeClass::ALL.len()]);

impl ByCode {
    /// Counts one response; a status of 0 is "no response".
    pub fn count(&self, status: u16) {
        self.of(CodeClass::of(status)).inc();
    }

    /// The counter of a class.
    pub fn of(&self, class: CodeClass) -> &Counter {
        &self.0[class as usize]
    }
}

/// A counter for each response flag.
#[derive(Debug, Default)]
pub struct ByFlag([Counter; FLAG_COUNT]);

impl ByFlag {
    /// Counts one request under each of its flags.
    pub fn count(&self, flags: ResponseFlags) {
        flags.iter().for_each(|flag| self.0[flag.index()].inc());
    }

    /// The counter of the flag with this index.
    pub fn at(&self, index: usize) -> &Counter {
        &self.0[index]
    }
}

/// Why a connection was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Refusal {
    /// The listener has as many connections as it may.
    ListenerLimit,
    /// The source address has as many connections as it may.
    SourceLimit,
    /// Connections come faster than the listener takes them.
    ListenerRate,
    /// Connections of the source come faster than it may.
    SourceRate,
    /// An access rule denies the peer's address, or the one that a PROXY header names.
    AccessDenied,
    /// The peer, or the one that a PROXY header names, is banned for a while.
    Banned,
    /// The PROXY header is missing, broken, too slow, or from somebody who is not trusted.
    ProxyHeader,
    /// All listeners together have as many connections as they may.
    TotalLimit,
    /// There is too much to do.
    Overload,
}

impl Refusal {
    /// Every reason, in order.
    pub const ALL: [Refusal; 9] = [
        Refusal::ListenerLimit,
        Refusal::SourceLimit,
        Refusal::ListenerRate,
        Refusal::SourceRate,
        Refusal::AccessDenied,
        Refusal::Banned,
        Refusal::ProxyHeader,
        Refusal::TotalLimit,
        Refusal::Overload,
    ];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Refusal::ListenerLimit => "limit",
            Refusal::SourceLimit => "source_limit",
            Refusal::ListenerRate => "rate",
            Refusal::SourceRate => "source_rate",
            Refusal::AccessDenied => "access_denied",
            Refusal::Banned => "banned",
            Refusal::ProxyHeader => "proxy_header",
            Refusal::TotalLimit => "total_limit",
            Refusal::Overload => "overload",
        }
    }
}

/// A counter for each [`Refusal`].
#[derive(Debug, Default)]
pub struct ByRefusal([Counter; Refusal::ALL.len()]);

impl ByRefusal {
    /// The counter of a reason.
    pub fn of(&self, refusal: Refusal) -> &Counter {
        &self.0[refusal as usize]
    }
}

/// Why an endpoint stands out among those of its cluster: Envoy's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Finding {
    /// Bad answers in a row, or none.
    Consecutive5xx,
    /// The same of 502, 503, 504 and no answer.
    ConsecutiveGatewayFailure,
    /// Far fewer good answers than the others have.
    SuccessRate,
    /// More bad answers than are bearable.
    FailurePercentage,
}

impl Finding {
    /// Every one, in order.
    pub const ALL: [Finding; 4] =
        [Finding::Consecutive5xx, Finding::ConsecutiveGatewayFailure, Finding::SuccessRate, Finding::FailurePercentage];

    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Finding::Consecutive5xx => "consecutive_5xx",
            Finding::ConsecutiveGatewayFailure => "consecutive_gateway_failure",
            Finding::SuccessRate => "success_rate",
            Finding::FailurePercentage => "failure_percentage",
        }
    }
}

/// A counter for each [`Finding`].
#[derive(Debug, Default)]
pub struct ByFinding([Counter; Finding::ALL.len()]);

impl ByFinding {
    /// The counter of a finding.
    pub fn of(&self, finding: Finding) -> &Counter {
        &self.0[finding as usize]
    }
}

/// Why a TLS handshake failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum HandshakeFailure {
    /// It took too long.
    Timeout,
    /// The client left in the middle of it.
    Closed,
    /// What came is not TLS, or breaks its rules.
    Protocol,
    /// The client's versions are too old.
    Version,
    /// No cipher suite, key exchange, signature or application protocol is known to both.
    NothingInCommon,
    /// No certificate is for the name the client asks for.
    UnknownName,
    /// The client says by an alert why it does not go on.
    Alert,
    /// The client shows no certificate, and has to.
    NoCertificate,
    /// The client's certificate, or one above it, is not valid now.
    Expired,
    /// It has been revoked.
    Revoked,
    /// There is no revocation list that says so, or it has expired.
    RevocationUnknown,
    /// It is of an authority that is not trusted.
    UnknownIssuer,
    /// It is good, but its name or key is not let in.
    NotAllowed,
    /// The client shows more certificates than are looked at.
    LongChain,
    /// The gateway cannot read it.
    Unreadable,
    /// Something else is wrong with it.
    BadCertificate,
}

impl HandshakeFailure {
    /// Every reason, in order.
    pub const ALL: [HandshakeFailure; 16] = [
        HandshakeFailure::Timeout,
        HandshakeFailure::Closed,
        HandshakeFailure::Protocol,
        HandshakeFailure::Version,
        HandshakeFailure::NothingInCommon,
        HandshakeFailure::UnknownName,
        HandshakeFailure::Alert,
        HandshakeFailure::NoCertificate,
        HandshakeFailure::Expired,
        HandshakeFailure::Revoked,
        HandshakeFailure::RevocationUnknown,
        HandshakeFailure::UnknownIssuer,
        HandshakeFailure::NotAllowed,
        HandshakeFailure::LongChain,
        HandshakeFailure::Unreadable,
        HandshakeFailure::BadCertificate,
    ];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            HandshakeFailure::Timeout => "timeout",
            HandshakeFailure::Closed => "closed",
            HandshakeFailure::Protocol => "protocol",
            HandshakeFailure::Version => "version",
            HandshakeFailure::NothingInCommon => "nothing_in_common",
            HandshakeFailure::UnknownName => "unknown_name",
            HandshakeFailure::Alert => "alert",
            HandshakeFailure::NoCertificate => "no_certificate",
            HandshakeFailure::Expired => "expired",
            HandshakeFailure::Revoked => "revoked",
            HandshakeFailure::RevocationUnknown => "revocation_unknown",
            HandshakeFailure::UnknownIssuer => "unknown_issuer",
            HandshakeFailure::NotAllowed => "not_allowed",
            HandshakeFailure::LongChain => "long_chain",
            HandshakeFailure::Unreadable => "unreadable",
            HandshakeFailure::BadCertificate => "bad_certificate",
        }
    }
}

/// A counter for each [`HandshakeFailure`].
#[derive(Debug, Default)]
pub struct ByHandshakeFailure([Counter; HandshakeFailure::ALL.len()]);

impl ByHandshakeFailure {
    /// The counter of a reason.
    pub fn of(&self, failure: HandshakeFailure) -> &Counter {
        &self.0[failure as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_fall_into_their_classes() {
        for (status, text) in
            [(0, "none"), (100, "1xx"), (204, "2xx"), (304, "3xx"), (499, "4xx"), (503, "5xx"), (999, "5xx")]
        {
            assert_eq!(CodeClass::of(status).as_str(), text, "{status}");
        }
    }
}
