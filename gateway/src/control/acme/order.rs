//! One certificate from its order to its chain (RFC 8555 section 7.4).

use std::sync::Arc;
use std::time::Duration;

use instant_acme::{
    Account, AuthorizationHandle, AuthorizationStatus, CertificateIdentifier, ChallengeType, Error, Identifier,
    NewOrder, Order, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, RsaKeySize};
use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::failure::{About, Failure};
use super::proof::Proof;
use super::schedule::Fault;
use crate::config::model::{Acme, AcmeChallenge, AcmeKeyType};
use crate::control::fleet::HEARD;
use crate::control::store::{CHALLENGES, Store, segment};
use crate::snapshot::Challenges;

/// How long the authority may take to look at challenges, and again to issue. They are to be done within seconds.
const PATIENCE: RetryPolicy =
    RetryPolicy::new().initial_delay(Duration::from_millis(250)).backoff(1.5).timeout(Duration::from_secs(90));

/// Obtains a certificate for `hosts`: its key and its chain, in PEM. `replaced` is the one that it renews, if there is one.
pub async fn obtain(
    account: &Account,
    settings: &Acme,
    hosts: &[String],
    replaced: Option<&CertificateDer<'_>>,
    challenges: &Arc<Challenges>,
    store: &Store,
) -> Result<Zeroizing<String>, Failure> {
    let names: Vec<Identifier> = hosts.iter().cloned().map(Identifier::Dns).collect();
    let mut order = order(account, &names, settings.profile.as_deref(), replaced).await?;
    prove(&mut order, settings.challenge, challenges, store).await?;
    let (key, request) = new_key(settings.key_type, hosts.to_vec()).await?;
    order.finalize_csr(&request).await?;
    let chain = order.poll_certificate(&PATIENCE).await?;
    Ok(Zeroizing::new(format!("{}{chain}", key.as_str())))
}

/// An order that says what it replaces (RFC 9773 section 5), which some authorities hold against fewer limits. One that does not
/// want to hear of that, as it knows no such thing, or another account had the certificate, gets the order without it; one that is away or overworked is not asked again at once.
async fn order(
    account: &Account,
    names: &[Identifier],
    profile: Option<&str>,
    replaced: Option<&CertificateDer<'_>>,
) -> Result<Order, Failure> {
    let wanted = || match profile {
        Some(profile) => NewOrder::new(names).profile(profile),
        None => NewOrder::new(names),
    };
    if let Some(replaced) = replaced.and_then(|der| CertificateIdentifier::try_from(der).ok()) {
        match account.new_order(&wanted().replaces(replaced)).await.map_err(Failure::from) {
            Err(failure) if failure.about == About::Order && failure.fault == Fault::Refused => {
                log::debug!("an order is not taken with what it replaces: {failure}");
            }
            order => return order,
        }
    }
    Ok(account.new_order(&wanted()).await?)
}

/// Proves that the names of an order are ours.
async fn prove(
    order: &mut Order,
    kind: AcmeChallenge,
    challenges: &Arc<Challenges>,
    store: &Store,
) -> Result<(), Failure> {
    // Until the authority has looked at them.
    let (mut shown, mut announced) = (Vec::new(), Vec::new());
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        let Some((token, proof)) = proof(&mut authorization, kind)? else { continue };
        shown.push(challenges.show(proof.challenge()?));
        // It may ask any box of a fleet.
        announced.extend(store.announce(&challenge_key(&token), proof.encode().as_bytes()).await?);
    }
    if !announced.is_empty() {
        tokio::time::sleep(HEARD).await;
    }
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status == AuthorizationStatus::Pending
            && let Some(mut challenge) = authorization.challenge(named(kind).0)
        {
            challenge.set_ready().await?;
        }
    }
    match order.poll_ready(&PATIENCE).await {
        Ok(OrderStatus::Ready | OrderStatus::Valid) => Ok(()),
        Ok(_) | Err(Error::Api(_)) => Err(Failure::refused(reasons(order).await)),
        Err(error) => Err(error.into()),
    }
}

/// The answer to an authorization's challenge, with its token; `None` where nothing is left to be proven.
fn proof<'a>(
    authorization: &'a mut AuthorizationHandle<'a>,
    kind: AcmeChallenge,
) -> Result<Option<(String, Proof)>, Failure> {
    let name = authorization.identifier().to_string();
    match authorization.status {
        AuthorizationStatus::Valid => return Ok(None),
        AuthorizationStatus::Pending => {}
        status => return Err(Failure::refused(format!("the authorization of {name} is {status:?}"))),
    }
    let (wanted, text) = named(kind);
    let Some(challenge) = authorization.challenge(wanted) else {
        return Err(Failure::refused(format!("the authority offers no challenge {text} for {name}")));
    };
    let (token, answer) = (challenge.token.clone(), challenge.key_authorization());
    let proof = match kind {
        AcmeChallenge::Http01 => Proof::Http { token: token.clone(), answer: answer.as_str().to_owned() },
        AcmeChallenge::TlsAlpn01 => Proof::TlsAlpn { name, digest: answer.digest().as_ref().to_vec() },
    };
    Ok(Some((token, proof)))
}

fn named(kind: AcmeChallenge) -> (ChallengeType, &'static str) {
    match kind {
        AcmeChallenge::Http01 => (ChallengeType::Http01, "http-01"),
        AcmeChallenge::TlsAlpn01 => (ChallengeType::TlsAlpn01, "tls-alpn-01"),
    }
}

fn challenge_key(token: &str) -> String {
    format!("{CHALLENGES}/{}", segment(token))
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
