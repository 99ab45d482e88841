//! Why handshakes fail.

use std::fmt;
use std::io;

use rustls::{AlertDescription, CertificateError, Error, OtherError, PeerIncompatible};

pub use crate::metrics::shard::HandshakeFailure;
use crate::snapshot::LongChain;

/// Why a handshake failed.
#[derive(Debug)]
pub enum HandshakeError {
    /// The peer broke the protocol, offered nothing acceptable, or its certificate does not verify.
    Tls(Error),
    /// The deadline passed.
    TimedOut,
    /// The connection ended.
    Io(io::Error),
}

impl HandshakeError {
    /// The same for metrics.
    pub fn failure(&self) -> HandshakeFailure {
        use HandshakeFailure as Failure;
        match self {
            HandshakeError::TimedOut => Failure::Timeout,
            HandshakeError::Io(_) => Failure::Closed,
            HandshakeError::Tls(error) => match error {
                Error::NoCertificatesPresented => Failure::NoCertificate,
                Error::InvalidCertificate(error) => of_certificate(error),
                Error::InvalidCertRevocationList(_) => Failure::RevocationUnknown,
                Error::PeerIncompatible(error) => of_incompatible(error),
                Error::AlertReceived(_) => Failure::Alert,
                Error::NoApplicationProtocol => Failure::NothingInCommon,
                // What rustls says when there is no certificate for the name.
                Error::General(_) => Failure::UnknownName,
                _ => Failure::Protocol,
            },
        }
    }
}

fn of_certificate(error: &CertificateError) -> HandshakeFailure {
    use CertificateError as E;
    match error {
        E::Expired | E::ExpiredContext { .. } | E::NotValidYet | E::NotValidYetContext { .. } => {
            HandshakeFailure::Expired
        }
        E::Revoked => HandshakeFailure::Revoked,
        E::UnknownIssuer => HandshakeFailure::UnknownIssuer,
        E::UnknownRevocationStatus | E::ExpiredRevocationList | E::ExpiredRevocationListContext { .. } => {
            HandshakeFailure::RevocationUnknown
        }
        E::ApplicationVerificationFailure | E::NotValidForName | E::NotValidForNameContext { .. } => {
            HandshakeFailure::NotAllowed
        }
        E::Other(OtherError(error)) if error.is::<LongChain>() => HandshakeFailure::LongChain,
        E::BadEncoding => HandshakeFailure::Unreadable,
        _ => HandshakeFailure::BadCertificate,
    }
}

fn of_incompatible(error: &PeerIncompatible) -> HandshakeFailure {
    use PeerIncompatible as E;
    match error {
        E::Tls12NotOffered | E::Tls12NotOfferedOrEnabled | E::Tls13RequiredForQuic => HandshakeFailure::Version,
        E::SupportedVersionsExtensionRequired => HandshakeFailure::Version,
        _ => HandshakeFailure::NothingInCommon,
    }
}

/// A fatal alert before there are keys, as a record.
pub(super) fn record(alert: AlertDescription) -> [u8; 7] {
    const ALERT: u8 = 21;
    const FATAL: u8 = 2;
    [ALERT, 3, 3, 0, 2, FATAL, alert.into()]
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HandshakeError::Tls(error) => error.fmt(f),
            HandshakeError::TimedOut => f.write_str("handshake timed out"),
            HandshakeError::Io(error) => error.fmt(f),
        }
    }
}

impl From<Error> for HandshakeError {
    fn from(error: Error) -> Self {
        HandshakeError::Tls(error)
    }
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut => HandshakeError::TimedOut,
            // From `feed`, which has it from rustls.
            io::ErrorKind::InvalidData => match error.downcast::<Error>() {
                Ok(error) => HandshakeError::Tls(error),
                Err(error) => HandshakeError::Io(error),
            },
            _ => HandshakeError::Io(error),
        }
    }
}
