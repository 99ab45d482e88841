//! The certificate that a client has shown.

use std::cell::OnceCell;
use std::fmt::Write as _;

use rustls_pki_types::CertificateDer;

use super::x509::{self, Identity};

/// What is known of a client by its certificate. Made once per connection; what is seldom asked for, when it is.
#[derive(Clone, Debug)]
pub struct ClientCert {
    /// What the certificate says.
    pub identity: Identity,
    /// The URIs among the names of the gateway's own certificate: who has found out the identity.
    pub own_uris: Vec<String>,
    /// What the client sent, its own certificate first.
    pub chain: Vec<CertificateDer<'static>>,
    pem: OnceCell<Pem>,
}

/// PEM as Envoy writes it in header fields.
#[derive(Clone, Debug)]
struct Pem {
    chain: String,
    /// Where the first certificate ends.
    own: usize,
}

impl ClientCert {
    /// Reads it; `None` when there is none. `own` is the certificate the gateway has shown.
    pub fn of(chain: &[CertificateDer<'_>], own: Option<&CertificateDer<'_>>) -> Option<ClientCert> {
        let identity = Identity::of(chain.first()?)?;
        let own_uris = own.map_or_else(Vec::new, |der| x509::uris(der));
        Some(ClientCert::new(identity, own_uris, chain.iter().map(|der| der.clone().into_owned()).collect()))
    }

    /// A client whose identity is known.
    pub fn new(identity: Identity, own_uris: Vec<String>, chain: Vec<CertificateDer<'static>>) -> ClientCert {
        ClientCert { identity, own_uris, chain, pem: OnceCell::new() }
    }

    /// The certificate in PEM, URL-encoded.
    pub fn pem(&self) -> &str {
        let pem = self.encoded();
        &pem.chain[..pem.own]
    }

    /// The same of all that the client sent.
    pub fn chain_pem(&self) -> &str {
        &self.encoded().chain
    }

    fn encoded(&self) -> &Pem {
        self.pem.get_or_init(|| {
            let mut pem = Pem { chain: String::new(), own: 0 };
            for der in &self.chain {
                push_pem(der, &mut pem.chain);
                if pem.own == 0 {
                    pem.own = pem.chain.len();
                }
            }
            pem
        })
    }
}

/// RFC 7468, with what is not safe in a URL percent-encoded.
fn push_pem(der: &[u8], out: &mut String) {
    const LINE: usize = 64;
    out.push_str("-----BEGIN%20CERTIFICATE-----%0A");
    let text = data_encoding::BASE64.encode(der);
    for (at, c) in text.char_indices() {
        if at > 0 && at % LINE == 0 {
            out.push_str("%0A");
        }
        match c {
            '+' | '/' | '=' => _ = write!(out, "%{:02X}", u32::from(c)),
            c => out.push(c),
        }
    }
    out.push_str("%0A-----END%20CERTIFICATE-----%0A");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_is_url_encoded() {
        let mut text = String::new();
        push_pem(&[0xfb, 0xff, 0xfe, 0xff].repeat(13), &mut text);
        let lines: Vec<_> = text.split("%0A").collect();
        assert_eq!(lines[0], "-----BEGIN%20CERTIFICATE-----");
        assert_eq!(lines[1].replace("%2B", "+").replace("%2F", "/").len(), 64);
        assert!(lines[2].ends_with("%3D"), "{text}");
        assert_eq!(lines[3..], ["-----END%20CERTIFICATE-----", ""]);
    }
}
