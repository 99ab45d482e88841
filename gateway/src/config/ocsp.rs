//! What an OCSP response says (RFC 6960 section 4.2.1), as far as it decides whether to staple it. Its signature is for the
//! client to verify.

use data_encoding::HEXLOWER;
use x509_parser::asn1_rs::{Any, Class, FromDer, GeneralizedTime, Tag};

/// Longest response. Most have 500 bytes, and a few KiB with the responder's certificate; it is sent in every handshake
/// whose client asks for it.
pub const MAX_BYTES: usize = 64 << 10;

/// A response about one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Staple {
    /// The serial number of the certificate, in hexadecimal, as in `CertificateInfo`.
    pub serial: String,
    /// Whether it is said not to be revoked.
    pub is_good: bool,
    /// Until when the response may be used, in seconds of Unix time; `None` when it does not say.
    pub next_update: Option<i64>,
}

impl Staple {
    /// Reads a response in DER form; `None` when it is none, or its responder had nothing to say.
    pub fn of(der: &[u8]) -> Option<Staple> {
        if der.len() > MAX_BYTES {
            return None;
        }
        let response = sequence(only(der)?)?;
        let status = response.first()?;
        if status.tag() != Tag::Enumerated || status.data != [0] {
            return None;
        }
        let bytes = sequence(only(response.get(1).filter(|it| is_tagged(it, 0))?.data)?)?;
        let basic = sequence(only(bytes.get(1).filter(|it| it.tag() == Tag::OctetString)?.data)?)?;
        // Of the parts of the data before the list of answers, none is a sequence.
        let answers = sequence(basic.into_iter().next()?)?.into_iter().find(|part| part.tag() == Tag::Sequence)?;
        let mut answer = sequence(elements(answers.data)?.into_iter().next()?)?.into_iter();
        let (certificate, status, _this_update) = (answer.next()?, answer.next()?, answer.next()?);
        let serial = sequence(certificate)?.into_iter().nth(3).filter(|it| it.tag() == Tag::Integer)?;
        let next_update = match answer.next().filter(|it| is_tagged(it, 0)) {
            Some(tagged) => Some(GeneralizedTime::from_der(tagged.data).ok()?.1.utc_datetime().ok()?.unix_timestamp()),
            None => None,
        };
        Some(Staple { serial: serial_text(serial.data), is_good: is_tagged(&status, 0), next_update })
    }

    /// Whether it is worth showing: it says that the certificate is good, and has not expired.
    pub fn is_usable(&self, now_s: i64) -> bool {
        self.is_good && self.next_update.is_none_or(|end| end > now_s)
    }
}

/// A serial number as people write it.
pub fn serial_text(integer: &[u8]) -> String {
    // The first byte may be there only to make the number positive.
    HEXLOWER.encode(integer.strip_prefix(&[0]).filter(|rest| !rest.is_empty()).unwrap_or(integer))
}

fn elements(mut der: &[u8]) -> Option<Vec<Any<'_>>> {
    let mut found = Vec::new();
    while !der.is_empty() {
        let (rest, element) = Any::from_der(der).ok()?;
        found.push(element);
        der = rest;
    }
    Some(found)
}

fn only(der: &[u8]) -> Option<Any<'_>> {
    let (rest, element) = Any::from_der(der).ok()?;
    rest.is_empty().then_some(element)
}

fn sequence(any: Any<'_>) -> Option<Vec<Any<'_>>> {
    if any.tag() == Tag::Sequence { elements(any.data) } else { None }
}

fn is_tagged(any: &Any<'_>, number: u32) -> bool {
    any.class() == Class::ContextSpecific && any.tag().0 == number
}

#[cfg(test)]
pub(crate) mod tests;
