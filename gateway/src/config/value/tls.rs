//! How values of TLS are written.

use std::net::IpAddr;

use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};

use super::{is_dns_name, schema};
use crate::config::decode::{FromText, Problem, keywords};
use crate::config::model::{CipherSuite, ClientAuthMode, ForwardClientCert, KeyExchange, SanMatch, TlsVersion};

keywords!(TlsVersion { "1.2" => TlsVersion::Tls12, "1.3" => TlsVersion::Tls13 }
    never { ["1.0", "1.1"] because "it is deprecated (RFC 8996), and the TLS library does not have it" });

keywords!(ClientAuthMode {
    "require" => ClientAuthMode::Require,
    "optional" => ClientAuthMode::Optional,
    "off" => ClientAuthMode::Off,
});

keywords!(CipherSuite {
    "TLS_AES_256_GCM_SHA384" => CipherSuite(0x1302),
    "TLS_AES_128_GCM_SHA256" => CipherSuite(0x1301),
    "TLS_CHACHA20_POLY1305_SHA256" => CipherSuite(0x1303),
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384" => CipherSuite(0xc02c),
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256" => CipherSuite(0xc02b),
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256" => CipherSuite(0xcca9),
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384" => CipherSuite(0xc030),
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256" => CipherSuite(0xc02f),
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256" => CipherSuite(0xcca8),
});

keywords!(KeyExchange {
    "x25519mlkem768" => KeyExchange::X25519MlKem768,
    "secp256r1mlkem768" => KeyExchange::P256MlKem768,
    "x25519" => KeyExchange::X25519,
    "secp256r1" => KeyExchange::P256,
    "secp384r1" => KeyExchange::P384,
});

keywords!(ForwardClientCert {
    "sanitize" => ForwardClientCert::Sanitize,
    "sanitize_set" => ForwardClientCert::SanitizeSet,
    "forward_only" => ForwardClientCert::ForwardOnly,
    "append_forward" => ForwardClientCert::AppendForward,
    "always_forward_only" => ForwardClientCert::AlwaysForwardOnly,
});

/// A part of `x-forwarded-client-cert`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertDetail {
    /// `"subject"`
    Subject,
    /// `"cert"`
    Cert,
    /// `"chain"`
    Chain,
    /// `"dns"`
    Dns,
    /// `"uri"`
    Uri,
}

keywords!(ClientCertDetail {
    "subject" => ClientCertDetail::Subject,
    "cert" => ClientCertDetail::Cert,
    "chain" => ClientCertDetail::Chain,
    "dns" => ClientCertDetail::Dns,
    "uri" => ClientCertDetail::Uri,
});

/// A rule on subject alternative names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct San(pub SanMatch);

schema!(San, "alternative name", { "type": "string", "minLength": 1 });

impl FromText for San {
    fn from_text(text: &str) -> Result<Self, Problem> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(San(SanMatch::Ip(ip)));
        }
        if text.contains("://") || text.starts_with("urn:") {
            return uri(text).map(San);
        }
        let lower = text.to_ascii_lowercase();
        let dns = if let Some(parent) = lower.strip_prefix("*.").filter(|parent| is_dns_name(parent)) {
            SanMatch::DnsLabel(format!(".{parent}"))
        } else if lower.strip_prefix('.').is_some_and(is_dns_name) {
            SanMatch::DnsBelow(lower)
        } else if is_dns_name(&lower) {
            SanMatch::Dns(lower)
        } else {
            let help = "a DNS name (\"client.example.com\", \"*.example.com\", \".example.com\"), a URI \
                        (\"spiffe://example.org/web\", \"spiffe://example.org/ns/*\") or an address";
            return Err(Problem::new(format!("{text:?} is not an alternative name"), help));
        };
        Ok(San(dns))
    }
}

fn uri(text: &str) -> Result<SanMatch, Problem> {
    let spiffe = text.strip_prefix("spiffe://");
    if let Some(domain) = spiffe.map(|rest| rest.strip_suffix('/').unwrap_or(rest))
        && !domain.contains('/')
    {
        // SPIFFE-ID section 2.1. A star here would also let in `example.org.attacker.test`.
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_');
        if domain.is_empty() || !domain.bytes().all(fits) {
            let help = "lower-case letters, digits, `.`, `-` and `_`, such as \"spiffe://example.org\"";
            return Err(Problem::new(format!("{domain:?} is not a trust domain"), help));
        }
        return Ok(SanMatch::TrustDomain(format!("spiffe://{domain}/")));
    }
    let prefix = text.strip_suffix('*');
    let is_wrong = |&(_, c): &(usize, char)| !c.is_ascii_graphic() || c == '*';
    match prefix.unwrap_or(text).char_indices().find(is_wrong) {
        Some((at, c)) => {
            let help = "a `*` may only be its last character; what is not ASCII is percent-encoded";
            let message = format!("{text:?} is not a URI, nor the beginning of one");
            Err(Problem::new(message, help).at(at..at + c.len_utf8()))
        }
        // `https://example.com*` would let in `https://example.com.attacker.test`.
        None if prefix.is_some_and(|prefix| !prefix.ends_with(['/', ':'])) => {
            let help = "write it behind a `/` (or, in a URN, a `:`)";
            Err(Problem::new(format!("the `*` in {text:?} would stand for part of a name"), help))
        }
        None => Ok(match prefix {
            Some(prefix) => SanMatch::UriPrefix(prefix.to_owned()),
            None => SanMatch::Uri(text.to_owned()),
        }),
    }
}

/// SHA-256 of a public key: base64, or hexadecimal digits with or without colons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPin(pub [u8; 32]);

schema!(KeyPin, "SHA-256", { "type": "string", "minLength": 44 });

impl FromText for KeyPin {
    fn from_text(text: &str) -> Result<Self, Problem> {
        let digits = text.replace(':', "");
        let bytes = match digits.len() {
            64 => HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).ok(),
            _ => BASE64.decode(text.as_bytes()).ok(),
        };
        let hash = bytes.and_then(|bytes| bytes.try_into().ok());
        hash.map(KeyPin).ok_or_else(|| {
            let help = "32 bytes in base64 or in hexadecimal digits: `openssl x509 -in client.pem -pubkey -noout | \
                        openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | base64`";
            Problem::new(format!("{text:?} is not a SHA-256"), help)
        })
    }
}
