//! `tls` of listeners.

use serde_json::{Value, json};

use crate::config::model::*;
use crate::proto::x509;

pub(super) fn view_listener_tls(tls: &ListenerTls, config: &Config) -> Value {
    let ListenerTls { certificates, strict_sni, cipher_suites, key_exchange, terms, hosts } = tls;
    let names: Vec<_> = certificates.iter().map(|id| &config.certificates[id.index()].name).collect();
    json!({
        "certificates": names,
        "strict_sni": strict_sni,
        "cipher_suites": cipher_suites.iter().map(suite).collect::<Vec<_>>(),
        "key_exchange": key_exchange.iter().map(exchange).collect::<Vec<_>>(),
        "min_version": min_version(terms),
        "client_auth": view_client_auth(terms),
        "hosts": hosts.iter().map(view_tls_host).collect::<Vec<_>>(),
    })
}

fn view_tls_host(TlsHost { hosts, terms }: &TlsHost) -> Value {
    let hosts: Vec<_> = hosts.iter().map(super::view_host).collect();
    json!({ "hosts": hosts, "min_version": min_version(terms), "client_auth": view_client_auth(terms) })
}

fn min_version(TlsTerms { min_version, client_auth: _ }: &TlsTerms) -> &'static str {
    match min_version {
        TlsVersion::Tls12 => "1.2",
        TlsVersion::Tls13 => "1.3",
    }
}

fn view_client_auth(TlsTerms { client_auth, min_version: _ }: &TlsTerms) -> Value {
    let Some(ClientAuth { is_required, ca_pem: _, crls, names, spki_sha256 }) = client_auth else { return Value::Null };
    json!({
        "mode": if *is_required { "require" } else { "optional" },
        "crls": crls.len(),
        "names": names.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "spki_sha256": spki_sha256.iter().map(|pin| x509::hex(pin)).collect::<Vec<_>>(),
    })
}

/// IANA's name; rustls has names of its own for those of TLS 1.3.
fn suite(suite: &CipherSuite) -> String {
    format!("{:?}", rustls::CipherSuite::from(suite.0)).replacen("TLS13_", "TLS_", 1)
}

fn exchange(exchange: &KeyExchange) -> &'static str {
    match exchange {
        KeyExchange::X25519MlKem768 => "x25519mlkem768",
        KeyExchange::P256MlKem768 => "secp256r1mlkem768",
        KeyExchange::X25519 => "x25519",
        KeyExchange::P256 => "secp256r1",
        KeyExchange::P384 => "secp384r1",
    }
}

pub(super) fn forward_client_cert(mode: ForwardClientCert) -> &'static str {
    match mode {
        ForwardClientCert::Sanitize => "sanitize",
        ForwardClientCert::SanitizeSet => "sanitize_set",
        ForwardClientCert::ForwardOnly => "forward_only",
        ForwardClientCert::AppendForward => "append_forward",
        ForwardClientCert::AlwaysForwardOnly => "always_forward_only",
    }
}

pub(super) fn client_cert_details(details: ClientCertDetails) -> Vec<&'static str> {
    let ClientCertDetails { cert, chain, subject, uri, dns } = details;
    let all = [(subject, "subject"), (cert, "cert"), (chain, "chain"), (dns, "dns"), (uri, "uri")];
    all.into_iter().filter_map(|(told, name)| told.then_some(name)).collect()
}
