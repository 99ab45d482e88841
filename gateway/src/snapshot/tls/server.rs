//! TLS towards clients.

use std::sync::Arc;

use ::aws_lc_rs::digest;
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::{ServerConfig, SupportedProtocolVersion};

use super::bound_tickets::BoundTickets;
use super::client_auth::{ClientAuth, Digest};
use super::hosts::Hosts;
use super::sni::BySni;
use super::{BuildError, Secrets, alpn};
use crate::config::model::{Certificate, HttpVersions, KeyExchange, ListenerTls, TlsTerms, TlsVersion};

/// A listener's settings.
#[derive(Clone)]
pub struct ServerTls {
    certificates: Arc<BySni>,
    /// For hosts without settings of their own.
    default: Settings,
    hosts: Arc<Hosts<Settings>>,
    /// Whether the terms are all the same, and no client is asked for a certificate.
    is_plain: bool,
}

/// What a connection had to do to be served. Made once per generation.
#[derive(Debug)]
pub struct Terms {
    min_version: TlsVersion,
    client_auth: Option<Arc<ClientAuth>>,
}

/// What a handshake is made with.
#[derive(Clone)]
struct Settings {
    terms: Arc<Terms>,
    /// For handshakes, and for those of hosts that are offered one version of HTTP only.
    all: Arc<ServerConfig>,
    only_h1: Arc<ServerConfig>,
    only_h2: Arc<ServerConfig>,
}

/// A client's connection, as far as terms go.
pub struct Shaken<'a> {
    /// The terms it was made under; `None` where it has no TLS.
    pub terms: Option<&'a Arc<Terms>>,
    /// The server name the client asked for.
    pub server_name: Option<&'a str>,
    /// The certificates it showed.
    pub chain: &'a [CertificateDer<'static>],
    /// Whether it speaks TLS 1.3.
    pub is_tls13: bool,
}

/// Whether a connection made under certain terms may ask for a host.
#[derive(Debug)]
pub enum AdmittedBy {
    /// As it is.
    Yes,
    /// The host's terms have changed since, and it fulfils the new ones, which it counts as made under from now on.
    Anew(Arc<Terms>),
    /// It may not.
    No,
}

impl ServerTls {
    /// The settings for a handshake with a client that asks for `server_name`, and the terms that come with it.
    pub fn config_for(&self, server_name: Option<&str>) -> (&Arc<ServerConfig>, &Arc<Terms>) {
        let server_name = server_name.map(without_root);
        let shown = server_name.and_then(|name| self.certificates.find(name)).and_then(<[_]>::first);
        let settings = self.settings_for(server_name.unwrap_or_default().as_bytes());
        let config = match shown.map_or(self.certificates.default_http, |shown| shown.http) {
            HttpVersions { h1: true, h2: true } => &settings.all,
            HttpVersions { h2: true, .. } => &settings.only_h2,
            HttpVersions { .. } => &settings.only_h1,
        };
        (config, &settings.terms)
    }

    /// The certificate that this client is shown.
    pub fn certificate_for(&self, hello: ClientHello<'_>) -> Option<CertificateDer<'static>> {
        self.certificates.resolve(hello)?.cert.first().cloned()
    }

    /// Whether a request for `host` came over a connection that was made to reach another one: the certificate that
    /// was chosen for `server_name` does not serve it (RFC 9110 §15.5.20). A client that was shown the default
    /// certificate has accepted whatever it got.
    pub fn misdirects(&self, server_name: &str, host: &[u8]) -> bool {
        if host.eq_ignore_ascii_case(server_name.as_bytes()) {
            return false;
        }
        let Some(shown) = self.certificates.find(server_name) else { return false };
        let of_host = std::str::from_utf8(host).ok().and_then(|host| self.certificates.find(host)).unwrap_or_default();
        !of_host.iter().any(|it| shown.iter().any(|shown| Arc::ptr_eq(&shown.key, &it.key)))
    }

    /// Whether a connection may ask for `host`, as routes compare it: it must have been made under the host's terms. Where
    /// they have changed since, the certificate that was shown then is held against the new ones.
    pub fn admits(&self, shaken: &Shaken<'_>, host: &[u8], now: impl FnOnce() -> UnixTime) -> AdmittedBy {
        let wanted = || &self.settings_for(host).terms;
        let Some(made) = shaken.terms else {
            // From before the listener had TLS.
            let may = self.is_plain || !wanted().client_auth.as_ref().is_some_and(|auth| auth.is_required);
            return if may { AdmittedBy::Yes } else { AdmittedBy::No };
        };
        if self.is_plain && made.client_auth.is_none() && self.default.terms.min_version == made.min_version {
            return AdmittedBy::Yes;
        }
        let wanted = wanted();
        if Arc::ptr_eq(made, wanted) {
            return AdmittedBy::Yes;
        }
        if wanted.min_version == TlsVersion::Tls13 && !shaken.is_tls13 {
            return AdmittedBy::No;
        }
        if made.rules() == wanted.rules() {
            return AdmittedBy::Anew(wanted.clone());
        }
        let own = self.settings_for(shaken.server_name.unwrap_or_default().as_bytes()).terms.rules();
        let passes = || wanted.client_auth.as_ref().is_none_or(|auth| auth.verify(shaken.chain, now()).is_ok());
        match own == wanted.rules() && passes() {
            true => AdmittedBy::Anew(wanted.clone()),
            false => AdmittedBy::No,
        }
    }

    fn settings_for(&self, host: &[u8]) -> &Settings {
        self.hosts.find(host).unwrap_or(&self.default)
    }
}

/// A server name without the dot of the root, which nobody should send (RFC 6066 section 3) and routes do not see.
pub fn without_root(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

impl Terms {
    /// Whether clients are asked for a certificate.
    pub fn asks_for_certificates(&self) -> bool {
        self.client_auth.is_some()
    }

    fn rules(&self) -> Digest {
        self.client_auth.as_ref().map_or(Digest::default(), |auth| auth.digest)
    }
}

/// The settings of a listener.
pub(in crate::snapshot) fn server(
    wanted: &ListenerTls,
    http: Option<HttpVersions>,
    certificates: &[Certificate],
    secrets: &Secrets,
) -> Result<ServerTls, BuildError> {
    let provider = provider(wanted, &secrets.provider);
    let now = secrets.time.current_time().map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    let certificates = Arc::new(BySni::new(wanted, http, certificates, now));
    let build = |terms: &TlsTerms| settings(terms, http, &certificates, &provider, secrets);
    let mut hosts = Hosts::default();
    for of in &wanted.hosts {
        let settings = build(&of.terms)?;
        of.hosts.iter().for_each(|pattern| hosts.add(pattern, settings.clone()));
    }
    Ok(ServerTls {
        default: build(&wanted.terms)?,
        certificates: certificates.clone(),
        hosts: Arc::new(hosts),
        is_plain: wanted.hosts.is_empty() && wanted.terms.client_auth.is_none(),
    })
}

fn settings(
    terms: &TlsTerms,
    http: Option<HttpVersions>,
    certificates: &Arc<BySni>,
    provider: &Arc<CryptoProvider>,
    secrets: &Secrets,
) -> Result<Settings, BuildError> {
    let client_auth = terms.client_auth.as_ref().map(|auth| ClientAuth::new(auth, provider)).transpose()?.map(Arc::new);
    let terms = Terms { min_version: terms.min_version, client_auth };
    let verifier = match &terms.client_auth {
        Some(auth) => auth.clone(),
        None => WebPkiClientVerifier::no_client_auth(),
    };
    let mut config = ServerConfig::builder_with_details(provider.clone(), secrets.time.clone())
        .with_protocol_versions(versions(terms.min_version))
        .map_err(|error| BuildError(format!("TLS versions: {error}")))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificates.clone());
    // Sessions live in tickets: a store would be one more thing that workers share.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = Arc::new(BoundTickets {
        keys: secrets.tickets.clone(),
        terms: digest_of(&terms, &provider.kx_groups),
        client_auth: terms.client_auth.clone(),
        certificates: certificates.clone(),
        time: secrets.time.clone(),
    });
    // Every suite is strong, so the order is about speed; that it is the server's is what scanners ask for.
    config.ignore_client_order = true;
    let offering = |versions: HttpVersions| {
        let mut config = config.clone();
        config.alpn_protocols = http.map_or_else(Vec::new, |_| alpn(versions));
        Arc::new(config)
    };
    Ok(Settings {
        all: offering(HttpVersions { h1: true, h2: true }),
        only_h1: offering(HttpVersions { h1: true, h2: false }),
        only_h2: offering(HttpVersions { h1: false, h2: true }),
        terms: Arc::new(terms),
    })
}

/// What a client that resumes is not asked again: in TLS 1.2 the key exchange is that of the first handshake. The version and
/// the cipher suite are chosen each time, and rustls takes no ticket of others.
fn digest_of(terms: &Terms, groups: &[&dyn SupportedKxGroup]) -> Digest {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&terms.rules());
    groups.iter().for_each(|group| context.update(&u16::from(group.name()).to_be_bytes()));
    let mut digest = Digest::default();
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

/// The cryptography, without what the listener does not accept.
fn provider(wanted: &ListenerTls, all: &Arc<CryptoProvider>) -> Arc<CryptoProvider> {
    let mut provider = CryptoProvider::clone(all);
    if !wanted.cipher_suites.is_empty() {
        let find = |number: u16| all.cipher_suites.iter().find(|suite| u16::from(suite.suite()) == number).copied();
        provider.cipher_suites = wanted.cipher_suites.iter().filter_map(|suite| find(suite.0)).collect();
    }
    provider.kx_groups = wanted.key_exchange.iter().copied().map(group).collect();
    Arc::new(provider)
}

fn group(exchange: KeyExchange) -> &'static dyn SupportedKxGroup {
    use aws_lc_rs::kx_group;
    match exchange {
        KeyExchange::X25519MlKem768 => kx_group::X25519MLKEM768,
        KeyExchange::P256MlKem768 => kx_group::SECP256R1MLKEM768,
        KeyExchange::X25519 => kx_group::X25519,
        KeyExchange::P256 => kx_group::SECP256R1,
        KeyExchange::P384 => kx_group::SECP384R1,
    }
}

/// What is spoken from `floor` on.
pub(super) fn versions(floor: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    static FROM_12: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];
    static FROM_13: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS13];
    match floor {
        TlsVersion::Tls12 => &FROM_12,
        TlsVersion::Tls13 => &FROM_13,
    }
}
