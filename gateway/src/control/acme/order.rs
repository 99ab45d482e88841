//! One certificate from its order to its chain (RFC 8555 section 7.4).

use std::sync::Arc;
use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Error, Identifier, NewOrder, Order, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair, RsaKeySize};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::PrivateKeyDer;
use zeroize::Zeroizing;

use super::failure::Failure;
use super::schedule::Fault;
use crate::config::model::{Acme, AcmeChallenge, AcmeKeyType};
use crate::snapshot::{ACME_TLS, Challenge, Challenges};

/// How long the authority may take to look at challenges, and again to issue. They are to be done within seconds.
const PATIENCE: RetryPolicy =
    RetryPolicy::new().initial_delay(Duration::from_millis(250)).backoff(1.5).timeout(Duration::from_secs(90));

/// Obtains a certificate for `hosts`: its key and its chain, in PEM.
pub async fn obtain(
    account: &Account,
    settings: &Acme,
    hosts: &[String],
    challenges: &Arc<Challenges>,
) -> Result<Zeroizing<String>, Failure> {
    let names: Vec<Identifier> = hosts.iter().cloned().map(Identifier::Dns).collect();
    let mut wanted = NewOrder::new(&names);
    if let Some(profile) = &settings.profile {
        wanted = wanted.profile(profile);
    }
    let mut order = account.new_order(&wanted).await?;
    prove(&mut order, settings.challenge, challenges).await?;
    let (key, request) = new_key(settings.key_type, hosts.to_vec()).await?;
    order.finalize_csr(&request).await?;
    let chain = order.poll_certificate(&PATIENCE).await?;
    Ok(Zeroizing::new(format!("{}{chain}", key.as_str())))
}

/// Proves that the names of an order are ours.
async fn prove(order: &mut Order, kind: AcmeChallenge, challenges: &Arc<Challenges>) -> Result<(), Failure> {
    // Until the authority has looked at them.
    let mut shown = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        let name = authorization.identifier().to_string();
        match authorization.status {
            AuthorizationStatus::Valid => continue,
            AuthorizationStatus::Pending => {}
            status => return Err(Failure::refused(format!("the authorization of {name} is {status:?}"))),
        }
        let (wanted, text) = match kind {
            AcmeChallenge::Http01 => (ChallengeType::Http01, "http-01"),
            AcmeChallenge::TlsAlpn01 => (ChallengeType::TlsAlpn01, "tls-alpn-01"),
        };
        let Some(mut challenge) = authorization.challenge(wanted) else {
            return Err(Failure::refused(format!("the authority offers no challenge {text} for {name}")));
        };
        let proof = challenge.key_authorization();
        shown.push(challenges.show(match kind {
            AcmeChallenge::Http01 => Challenge::Http { token: challenge.token.clone(), answer: proof.as_str().into() },
            AcmeChallenge::TlsAlpn01 => tls_alpn(&name, proof.digest().as_ref())?,
        }));
        challenge.set_ready().await?;
    }
    match order.poll_ready(&PATIENCE).await {
        Ok(OrderStatus::Ready | OrderStatus::Valid) => Ok(()),
        Ok(_) | Err(Error::Api(_)) => Err(Failure::refused(reasons(order).await)),
        Err(error) => Err(error.into()),
    }
}

/// What the authority says about the challenges that have failed.
async fn reasons(order: &mut Order) -> String {
    let mut reasons = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        if authorization.refresh().await.is_ok() {
            let name = authorization.identifier().to_string();
            let errors = authorization.challenges.iter().filter_map(|challenge| challenge.error.as_ref());
            reasons.extend(errors.map(|error| format!("{name}: {error}")));
        }
    }
    match reasons.is_empty() {
        true => "the authority has refused the order and does not say why".to_owned(),
        false => reasons.join("; "),
    }
}

/// A handshake that shows the certificate of RFC 8737 section 3.
fn tls_alpn(name: &str, digest: &[u8]) -> Result<Challenge, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::refused(format!("the certificate of tls-alpn-01: {error}"));
    let key = KeyPair::generate().map_err(|error| failed(&error))?;
    let mut params = CertificateParams::new([name.to_owned()]).map_err(|error| failed(&error))?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let certificate = params.self_signed(&key).map_err(|error| failed(&error))?;
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let mut settings = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .map_err(|error| failed(&error))?;
    settings.alpn_protocols = vec![ACME_TLS.to_vec()];
    Ok(Challenge::TlsAlpn { name: name.to_ascii_lowercase(), settings: Arc::new(settings) })
}

/// A new key in PEM, and the request for a certificate in DER. A large RSA key takes a second to find.
async fn new_key(kind: AcmeKeyType, hosts: Vec<String>) -> Result<(Zeroizing<String>, Vec<u8>), Failure> {
    let make = move || -> Result<_, rcgen::Error> {
        let key = match kind {
            AcmeKeyType::EcdsaP256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            AcmeKeyType::EcdsaP384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
            AcmeKeyType::Rsa2048 => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048),
            AcmeKeyType::Rsa4096 => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_4096),
        }?;
        let mut params = CertificateParams::new(hosts)?;
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&key)?.der().to_vec();
        Ok((Zeroizing::new(key.serialize_pem()), request))
    };
    let made = tokio::task::spawn_blocking(make).await;
    let failed = |error: String| Failure::new(Fault::Refused, format!("the certificate's key: {error}"));
    made.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))
}
