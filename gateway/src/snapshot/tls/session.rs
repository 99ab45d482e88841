//! What rustls keeps of a client's session, as far as the worth of its ticket depends on it.

use rustls::pki_types::CertificateDer;

/// A session, by its encoding in rustls 0.23 (`ServerSessionValue`), which has no other way to look into one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Session<'a> {
    /// The server name the client asked for.
    pub(super) server_name: Option<&'a str>,
    /// What the client showed, its own certificate first.
    pub(super) chain: Vec<CertificateDer<'a>>,
}

impl<'a> Session<'a> {
    /// Reads the beginning, which is all that is asked for. `None`: it is something else.
    pub(super) fn read(encoded: &'a [u8]) -> Option<Session<'a>> {
        let mut rest = encoded;
        let server_name = if is_there(&mut rest)? { Some(vector(&mut rest, 1)?) } else { None };
        let server_name = server_name.map(std::str::from_utf8).transpose().ok()?;
        // The version, the cipher suite.
        take(&mut rest, 4)?;
        let _secret = vector(&mut rest, 1)?;
        let _extended_ms = take(&mut rest, 1)?;
        let mut certificates = if is_there(&mut rest)? { vector(&mut rest, 3)? } else { &[] };
        let mut chain = Vec::new();
        while !certificates.is_empty() {
            chain.push(CertificateDer::from(vector(&mut certificates, 3)?));
        }
        Some(Session { server_name, chain })
    }
}

fn take<'a>(from: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = from.split_at_checked(count)?;
    *from = rest;
    Some(taken)
}

/// Whether what may be left out is there.
fn is_there(from: &mut &[u8]) -> Option<bool> {
    match take(from, 1)? {
        [0] => Some(false),
        [1] => Some(true),
        _ => None,
    }
}

/// Bytes behind a length of so many bytes.
fn vector<'a>(from: &mut &'a [u8], length_bytes: usize) -> Option<&'a [u8]> {
    let length = take(from, length_bytes)?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    take(from, length)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without a server name, with these certificates.
    const SESSION: &[u8] = &[0, 3, 4, 0x13, 1, 2, 7, 7, 1, 1, 0, 0, 9, 0, 0, 2, 8, 8, 0, 0, 1, 9, 0, 0, 0];

    #[test]
    fn the_certificates_of_a_session_are_read() {
        let session = Session::read(SESSION).unwrap();
        assert_eq!(session.chain, [CertificateDer::from(&[8, 8][..]), CertificateDer::from(&[9][..])]);
        let named = [&[1, 1, b'a'], &SESSION[1..]].concat();
        assert_eq!(Session::read(&named), Some(Session { server_name: Some("a"), chain: session.chain }));
        let without = [&SESSION[..9], &[0, 0, 0, 0]].concat();
        assert_eq!(Session::read(&without).unwrap().chain, []);
    }

    #[test]
    fn what_is_cut_or_no_session_is_not_read() {
        for length in 0..22 {
            assert_eq!(Session::read(&SESSION[..length]), None, "{length}");
        }
        assert_eq!(Session::read(&[2; 40]), None);
    }
}
