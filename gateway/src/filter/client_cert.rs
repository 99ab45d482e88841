//! What the origin is told about the client's certificate: `x-forwarded-client-cert`, as Envoy has it.
//!
//! One element for each hop that has seen a certificate, the last hop's at the right, with a comma between them. An element is
//! a list of `Key=value` with a semicolon between them: `By` (the gateway's own URI), `Hash` (SHA-256 of the certificate),
//! then those of `Cert`, `Chain`, `Subject`, `URI` and `DNS` that the configuration asks for.
//!
//! One thing is not as in Envoy: a name from the certificate that has a `,`, `;` or `"` in it is quoted, which Envoy leaves
//! for later. Whoever is given a certificate by an authority that does not look at URIs could write keys of his own otherwise.

use std::fmt::Write as _;

use crate::config::model::{ClientCertDetails, ForwardClientCert};
use crate::proto::client_cert::ClientCert;
use crate::proto::head::{Headers, Known};

/// Makes the field say what the listener wants. `shown` is `None` for a client without a certificate; `scratch` is memory to
/// reuse.
pub fn forward(
    mode: ForwardClientCert,
    details: ClientCertDetails,
    shown: Option<&ClientCert>,
    headers: &mut Headers,
    scratch: &mut Vec<u8>,
) {
    use ForwardClientCert::{AlwaysForwardOnly, AppendForward, ForwardOnly, Sanitize, SanitizeSet};
    let name = Known::XForwardedClientCert;
    match (mode, shown) {
        (AlwaysForwardOnly, _) | (ForwardOnly, Some(_)) => {}
        (Sanitize, _) | (SanitizeSet | ForwardOnly | AppendForward, None) => _ = headers.remove(&name),
        (SanitizeSet, Some(shown)) => {
            scratch.clear();
            write(details, shown, scratch);
            headers.set(&name, scratch);
        }
        (AppendForward, Some(shown)) => {
            scratch.clear();
            for line in headers.get_all(&name).filter(|line| !line.is_empty()) {
                scratch.extend_from_slice(line);
                scratch.push(b',');
            }
            write(details, shown, scratch);
            headers.set(&name, scratch);
        }
    }
}

/// Writes an element.
fn write(details: ClientCertDetails, shown: &ClientCert, out: &mut Vec<u8>) {
    let identity = &shown.identity;
    for uri in &shown.own_uris {
        name(out, "By=", uri);
        out.push(b';');
    }
    out.extend_from_slice(b"Hash=");
    let mut hash = [0; 64];
    data_encoding::HEXLOWER.encode_mut(&identity.sha256, &mut hash);
    out.extend_from_slice(&hash);
    if details.cert {
        quoted(out, ";Cert=\"", shown.pem());
    }
    if details.chain {
        quoted(out, ";Chain=\"", shown.chain_pem());
    }
    if details.subject {
        // RFC 2253 has escaped what ends a quoted text.
        quoted(out, ";Subject=\"", &identity.subject);
    }
    if details.uri {
        // The key is there also where there is none.
        if identity.uris.is_empty() {
            out.extend_from_slice(b";URI=");
        }
        identity.uris.iter().for_each(|uri| name(out, ";URI=", uri));
    }
    if details.dns {
        identity.dns.iter().for_each(|dns| name(out, ";DNS=", dns));
    }
}

fn quoted(out: &mut Vec<u8>, key: &str, value: &str) {
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(value.as_bytes());
    out.push(b'"');
}

/// Writes a name from a certificate, quoted where it would end the value, and without bytes that would end the field.
fn name(out: &mut Vec<u8>, key: &str, value: &str) {
    out.extend_from_slice(key.as_bytes());
    let needs_quotes = value.bytes().any(|byte| matches!(byte, b',' | b';' | b'"'));
    if needs_quotes {
        out.push(b'"');
    }
    for byte in value.bytes() {
        match byte {
            b'"' | b'\\' if needs_quotes => out.extend_from_slice(&[b'\\', byte]),
            0x20..0x7f => out.push(byte),
            _ => {
                let mut escaped = String::new();
                // Cannot fail: it writes to a string.
                let _ = write!(escaped, "%{byte:02X}");
                out.extend_from_slice(escaped.as_bytes());
            }
        }
    }
    if needs_quotes {
        out.push(b'"');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::x509::Identity;

    fn identity(uris: &[&str], dns: &[&str]) -> Identity {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Identity {
            subject: "O=x,CN=client.test".into(),
            issuer: String::new(),
            serial: String::new(),
            dns: owned(dns),
            uris: owned(uris),
            ips: Vec::new(),
            sha256: [0xab; 32],
            spki_sha256: [0; 32],
        }
    }

    /// The field after `forward`, lines joined by `|`, for a request that came with `lines`.
    fn forwarded(
        mode: ForwardClientCert,
        details: ClientCertDetails,
        identity: Option<&Identity>,
        lines: &[&str],
    ) -> Option<String> {
        let mut headers = Headers::default();
        lines.iter().for_each(|line| headers.append_raw(b"X-Forwarded-Client-Cert", line.as_bytes()));
        let own = vec!["spiffe://td/b".to_owned()];
        let shown =
            identity.map(|identity| ClientCert::new(identity.clone(), own, vec![vec![1].into(), vec![2].into()]));
        forward(mode, details, shown.as_ref(), &mut headers, &mut b"old".to_vec());
        let text = |line: &[u8]| String::from_utf8_lossy(line).into_owned();
        let lines: Vec<_> = headers.get_all(&Known::XForwardedClientCert).map(text).collect();
        (!lines.is_empty()).then(|| lines.join("|"))
    }

    fn hash() -> String {
        "ab".repeat(32)
    }

    #[test]
    fn each_mode_does_what_envoy_does() {
        use ForwardClientCert::*;
        let (identity, none) = (identity(&[], &[]), ClientCertDetails::default());
        let own = format!("By=spiffe://td/b;Hash={}", hash());
        let appended = format!("Hash=1,Hash=2,{own}");
        let cases: [(_, &[&str], _, _); 10] = [
            (Sanitize, &["Hash=1"], true, None),
            (Sanitize, &["Hash=1"], false, None),
            (SanitizeSet, &["Hash=1", "Hash=2"], true, Some(own.as_str())),
            (SanitizeSet, &["Hash=1"], false, None),
            (ForwardOnly, &["Hash=1", "Hash=2"], true, Some("Hash=1|Hash=2")),
            (ForwardOnly, &["Hash=1"], false, None),
            (AppendForward, &["Hash=1", "Hash=2"], true, Some(appended.as_str())),
            (AppendForward, &[], true, Some(own.as_str())),
            (AppendForward, &["Hash=1"], false, None),
            (AlwaysForwardOnly, &["Hash=1"], false, Some("Hash=1")),
        ];
        for (mode, lines, shows, wanted) in cases {
            let got = forwarded(mode, none, shows.then_some(&identity), lines);
            assert_eq!(got.as_deref(), wanted, "{mode:?} {lines:?} {shows}");
        }
    }

    #[test]
    fn the_details_are_in_envoys_order() {
        let all = ClientCertDetails { cert: true, chain: true, subject: true, uri: true, dns: true };
        let identity = identity(&["spiffe://td/a", "urn:a"], &["client.test", "*.client.test"]);
        let pem = |body: &str| format!("-----BEGIN%20CERTIFICATE-----%0A{body}%3D%3D%0A-----END%20CERTIFICATE-----%0A");
        let (own, next) = (pem("AQ"), pem("Ag"));
        let wanted = format!(
            "By=spiffe://td/b;Hash={};Cert=\"{own}\";Chain=\"{own}{next}\";Subject=\"O=x,CN=client.test\";URI=spiffe://td/a;\
             URI=urn:a;DNS=client.test;DNS=*.client.test",
            hash()
        );
        assert_eq!(forwarded(ForwardClientCert::SanitizeSet, all, Some(&identity), &[]), Some(wanted));
    }

    #[test]
    fn a_certificate_without_names_has_an_empty_uri_and_no_dns() {
        let details = ClientCertDetails { uri: true, dns: true, ..ClientCertDetails::default() };
        let wanted = format!("By=spiffe://td/b;Hash={};URI=", hash());
        assert_eq!(forwarded(ForwardClientCert::SanitizeSet, details, Some(&identity(&[], &[])), &[]), Some(wanted));
    }

    #[test]
    fn a_name_cannot_add_a_key_an_element_or_a_field() {
        let details = ClientCertDetails { uri: true, dns: true, ..ClientCertDetails::default() };
        let cases = [
            ("spiffe://td/a;Hash=0", "\"spiffe://td/a;Hash=0\""),
            ("spiffe://td/a,By=b", "\"spiffe://td/a,By=b\""),
            ("spiffe://td/\";Hash=0", "\"spiffe://td/\\\";Hash=0\""),
            ("spiffe://td/\\\";Hash=0", "\"spiffe://td/\\\\\\\";Hash=0\""),
            ("spiffe://td/a?b=c", "spiffe://td/a?b=c"),
            ("spiffe://td/\r\nx: y", "spiffe://td/%0D%0Ax: y"),
            ("spiffe://td/é", "spiffe://td/%C3%A9"),
        ];
        for (uri, written) in cases {
            let wanted = format!("By=spiffe://td/b;Hash={};URI={written};DNS=a", hash());
            let identity = identity(&[uri], &["a"]);
            assert_eq!(forwarded(ForwardClientCert::SanitizeSet, details, Some(&identity), &[]), Some(wanted));
        }
    }
}
