//! `[[acme]]` and `[certificate_store]`

use serde_json::{Value, json};

use super::REDACTED;
use crate::config::model::{
    Acme, AcmeChallenge, AcmeKeyType, CertificateStore, EtcdEndpoint, EtcdStore, ExternalAccount,
};

pub(super) fn view(acme: &Acme) -> Value {
    let Acme { name, directory_url, contact, challenge, ca_pem, key_type, external_account, profile } = acme;
    json!({
        "name": name,
        "directory_url": directory_url,
        "contact": contact,
        "challenge": match challenge {
            AcmeChallenge::Http01 => "http-01",
            AcmeChallenge::TlsAlpn01 => "tls-alpn-01",
        },
        "ca": if ca_pem.is_some() { "file" } else { "system" },
        "key_type": match key_type {
            AcmeKeyType::EcdsaP256 => "ecdsa-p256",
            AcmeKeyType::EcdsaP384 => "ecdsa-p384",
            AcmeKeyType::Rsa2048 => "rsa-2048",
            AcmeKeyType::Rsa4096 => "rsa-4096",
        },
        "external_account": external_account.as_ref().map(|ExternalAccount { key_id, hmac_key: _ }| {
            json!({ "key_id": key_id, "hmac_key": REDACTED })
        }),
        "profile": profile,
    })
}

pub(super) fn view_store(CertificateStore { directory, etcd }: &CertificateStore) -> Value {
    json!({ "directory": directory, "etcd": etcd.as_ref().map(view_etcd) })
}

fn view_etcd(EtcdStore { endpoints, prefix, tls, login }: &EtcdStore) -> Value {
    json!({
        "endpoints": endpoints.iter().map(EtcdEndpoint::url).collect::<Vec<_>>(),
        "prefix": prefix,
        "ca": if tls.ca_pem.is_some() { "file" } else { "system" },
        "shows_certificate": tls.client.is_some(),
        "username": login.as_ref().map(|login| &login.username),
        "password": login.as_ref().map(|_| REDACTED),
    })
}
