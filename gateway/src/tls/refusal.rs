//! Peers that refuse us when our side of the handshake is done.

use std::io;

use rustls::{AlertDescription, Error};

/// Why the server on the other end refuses the connection, where that is what a read error says.
///
/// In TLS 1.3 the client is done with the handshake before the server has looked at its certificate, so a refusal comes
/// where the first answer should (RFC 8446 §4.4.2.4, §6.2). These alerts have no other meaning, and none of what was sent
/// has been looked at. Of access_denied and handshake_failure that is not so sure, and a request may be sent again after
/// what this says.
pub fn refusal(error: &io::Error) -> Option<String> {
    use AlertDescription as Alert;
    let error: &Error = error.get_ref()?.downcast_ref()?;
    let Error::AlertReceived(alert) = error else { return None };
    let refuses = matches!(
        alert,
        Alert::CertificateRequired
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::DecryptError
    );
    refuses.then(|| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_alerts_about_our_certificate_are_refusals() {
        let of = |error: Error| refusal(&io::Error::new(io::ErrorKind::InvalidData, error));
        let alert = |alert| of(Error::AlertReceived(alert));
        let told = alert(AlertDescription::CertificateRequired).expect("a refusal");
        assert!(told.contains("CertificateRequired"), "{told}");
        assert!(alert(AlertDescription::UnknownCA).is_some());
        for other in [AlertDescription::DecodeError, AlertDescription::AccessDenied, AlertDescription::HandshakeFailure]
        {
            assert_eq!(alert(other), None);
        }
        assert_eq!(of(Error::DecryptError), None);
        assert_eq!(refusal(&io::ErrorKind::ConnectionReset.into()), None);
    }
}
