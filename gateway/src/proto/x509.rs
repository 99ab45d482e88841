//! Who a certificate says its owner is (RFC 5280), and rules on that.

use std::fmt::{self, Write as _};
use std::net::IpAddr;

use aws_lc_rs::digest::{SHA256, digest};
use x509_parser::der_parser::asn1_rs::{Any, Tag};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::X509Name;

/// What a certificate says of its owner. Made once per handshake in which a certificate was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The subject, as RFC 2253 writes it: the last part of the name first.
    pub subject: String,
    /// The issuer, in the same way.
    pub issuer: String,
    /// The serial number in lower-case hexadecimal digits.
    pub serial: String,
    /// Subject alternative names that are DNS names, as they are written there.
    pub dns: Vec<String>,
    /// Subject alternative names that are URIs.
    pub uris: Vec<String>,
    /// Subject alternative names that are addresses.
    pub ips: Vec<IpAddr>,
    /// SHA-256 of the certificate.
    pub sha256: [u8; 32],
    /// SHA-256 of its key, as a `SubjectPublicKeyInfo` (RFC 7469 §2.4).
    pub spki_sha256: [u8; 32],
}

/// A rule on subject alternative names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SanMatch {
    /// `client.example.com`: this DNS name. Lower case.
    Dns(String),
    /// `*.example.com`, kept as `.example.com`: a DNS name with one label before that (RFC 9525 §6.3).
    DnsLabel(String),
    /// `.example.com`: a DNS name with any number of labels, at least one, before that.
    DnsBelow(String),
    /// `spiffe://example.org/web`: this URI.
    Uri(String),
    /// `spiffe://example.org/ns/*`, kept without the star: a URI that begins like this.
    UriPrefix(String),
    /// `spiffe://example.org`, kept with a slash at its end: every SPIFFE ID of this trust domain.
    TrustDomain(String),
    /// `192.0.2.1`: this address.
    Ip(IpAddr),
}

impl Identity {
    /// Reads a certificate; `None` when it is not one, or its alternative names cannot be read.
    pub fn of(der: &[u8]) -> Option<Identity> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let mut identity = Identity {
            subject: rfc2253(certificate.subject()),
            issuer: rfc2253(certificate.issuer()),
            serial: hex(certificate.raw_serial()),
            dns: Vec::new(),
            uris: Vec::new(),
            ips: Vec::new(),
            sha256: sha256(der),
            spki_sha256: sha256(certificate.public_key().raw),
        };
        let extension = certificate.subject_alternative_name().ok()?;
        for name in extension.iter().flat_map(|extension| &extension.value.general_names) {
            match name {
                GeneralName::DNSName(name) => identity.dns.push((*name).to_owned()),
                GeneralName::URI(uri) => identity.uris.push((*uri).to_owned()),
                GeneralName::IPAddress(bytes) => identity.ips.extend(ip(bytes)),
                _ => {}
            }
        }
        Some(identity)
    }
}

/// When a certificate expires, in seconds of Unix time; `None` when it is not one.
pub fn not_after_s(der: &[u8]) -> Option<u64> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    u64::try_from(certificate.validity().not_after.timestamp()).ok()
}

/// The URIs among a certificate's subject alternative names.
pub fn uris(der: &[u8]) -> Vec<String> {
    Identity::of(der).map_or_else(Vec::new, |identity| identity.uris)
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

// === impl SanMatch ===

impl SanMatch {
    /// Whether one of the names is what this asks for. A name with a wildcard in it stands for no host here: it is an
    /// identity, and matches only what is written with the same star.
    pub fn matches(&self, identity: &Identity) -> bool {
        match self {
            SanMatch::Dns(wanted) => identity.dns.iter().any(|name| name.eq_ignore_ascii_case(wanted)),
            SanMatch::DnsLabel(parent) => {
                let one_label = |name: &String| below(name, parent).is_some_and(|labels| !labels.contains('.'));
                identity.dns.iter().any(one_label)
            }
            SanMatch::DnsBelow(parent) => identity.dns.iter().any(|name| below(name, parent).is_some()),
            SanMatch::Uri(wanted) => identity.uris.contains(wanted),
            SanMatch::UriPrefix(prefix) | SanMatch::TrustDomain(prefix) => {
                identity.uris.iter().any(|uri| uri.starts_with(prefix.as_str()))
            }
            SanMatch::Ip(wanted) => identity.ips.contains(wanted),
        }
    }
}

/// As in the configuration.
impl fmt::Display for SanMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SanMatch::Dns(text) | SanMatch::DnsBelow(text) | SanMatch::Uri(text) => f.write_str(text),
            SanMatch::DnsLabel(parent) => write!(f, "*{parent}"),
            SanMatch::UriPrefix(prefix) => write!(f, "{prefix}*"),
            SanMatch::TrustDomain(prefix) => f.write_str(prefix.trim_end_matches('/')),
            SanMatch::Ip(ip) => ip.fmt(f),
        }
    }
}

/// The labels before `parent`, which begins with a dot.
fn below<'a>(name: &'a str, parent: &str) -> Option<&'a str> {
    let (labels, rest) = name.split_at_checked(name.len().checked_sub(parent.len())?)?;
    (!labels.is_empty() && rest.eq_ignore_ascii_case(parent)).then_some(labels)
}

// === Names as text ===

/// A distinguished name as RFC 2253 writes it and OpenSSL's `XN_FLAG_RFC2253` prints it, which is what Envoy tells origins:
/// the last part first, and all that is not printable ASCII escaped, byte by byte, as UTF-8.
fn rfc2253(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    let parts: Vec<Vec<_>> = name.iter().map(|rdn| rdn.iter().collect()).collect();
    for (at, part) in parts.iter().rev().enumerate() {
        for (of_part, attribute) in part.iter().rev().enumerate() {
            match (at, of_part) {
                (0, 0) => {}
                (_, 0) => text.push(','),
                _ => text.push('+'),
            }
            let oid = attribute.attr_type().to_id_string();
            match short_name(&oid) {
                Some(short) => {
                    text.push_str(short);
                    text.push('=');
                    push_value(attribute.attr_value(), &mut text);
                }
                None => {
                    text.push_str(&oid);
                    text.push('=');
                    push_der(attribute.attr_value(), &mut text);
                }
            }
        }
    }
    text
}

/// OpenSSL's short names of what distinguished names are made of.
fn short_name(oid: &str) -> Option<&'static str> {
    Some(match oid {
        "2.5.4.3" => "CN",
        "2.5.4.4" => "SN",
        "2.5.4.5" => "serialNumber",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "street",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "2.5.4.12" => "title",
        "2.5.4.13" => "description",
        "2.5.4.15" => "businessCategory",
        "2.5.4.17" => "postalCode",
        "2.5.4.41" => "name",
        "2.5.4.42" => "GN",
        "2.5.4.43" => "initials",
        "2.5.4.44" => "generationQualifier",
        "2.5.4.45" => "x500UniqueIdentifier",
        "2.5.4.46" => "dnQualifier",
        "2.5.4.65" => "pseudonym",
        "0.9.2342.19200300.100.1.1" => "UID",
        "0.9.2342.19200300.100.1.25" => "DC",
        "1.2.840.113549.1.9.1" => "emailAddress",
        _ => return None,
    })
}

fn push_value(value: &Any<'_>, out: &mut String) {
    let text = match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::NumericString | Tag::VisibleString => {
            std::str::from_utf8(value.data).ok().map(str::to_owned)
        }
        Tag::T61String => Some(value.data.iter().map(|&byte| char::from(byte)).collect()),
        Tag::BmpString => {
            let units = value.data.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
            char::decode_utf16(units).collect::<Result<_, _>>().ok()
        }
        _ => None,
    };
    match text {
        Some(text) => push_escaped(&text, out),
        None => push_der(value, out),
    }
}

fn push_escaped(text: &str, out: &mut String) {
    let last = text.len().wrapping_sub(1);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b',' | b'+' | b'"' | b'<' | b'>' | b';' | b'\\' => out.extend(['\\', char::from(byte)]),
            b'#' | b' ' if at == 0 => out.extend(['\\', char::from(byte)]),
            b' ' if at == last => out.push_str("\\ "),
            0x20..0x7f => out.push(char::from(byte)),
            // Cannot fail: it writes to a string.
            _ => _ = write!(out, "\\{byte:02X}"),
        }
    }
}

/// `#` and the value's DER (RFC 2253 §2.4).
fn push_der(value: &Any<'_>, out: &mut String) {
    let tag = value.header.class() as u8 | u8::from(value.header.is_constructed()) << 5 | value.tag().0 as u8;
    let length = value.data.len();
    let _ = match length {
        ..0x80 => write!(out, "#{tag:02X}{length:02X}"),
        0x80..0x100 => write!(out, "#{tag:02X}81{length:02X}"),
        _ => write!(out, "#{tag:02X}82{length:04X}"),
    };
    out.push_str(&data_encoding::HEXUPPER.encode(value.data));
}

#[cfg(test)]
mod tests;
