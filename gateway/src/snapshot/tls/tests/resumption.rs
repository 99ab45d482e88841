//! Handshakes in memory: what a session ticket is worth, and what is said to who is not let in.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateRevocationListParams, CertifiedIssuer, CustomExtension, IsCa, KeyIdMethod,
    SerialNumber, date_time_ymd,
};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, Connection, Error, HandshakeKind, RootCertStore,
    ServerConnection, SignatureScheme, SupportedProtocolVersion,
};

use super::*;
use crate::config::model::UpstreamProtocol;
use crate::snapshot::tls::{Secret, Secrets, TicketKeys, Tickets, client, of_endpoint, server};

const VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];

/// The day on which most of it happens, in seconds of Unix time.
const TODAY_S: u64 = 1_800_000_000;
const HOUR_S: u64 = 60 * 60;
const DAY_S: u64 = 24 * HOUR_S;

#[derive(Debug)]
struct Clock(AtomicU64);

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.load(Relaxed))))
    }
}

/// What a client shows. Its sessions stay when that changes.
#[derive(Debug, Default)]
struct Shows(Mutex<Option<Arc<CertifiedKey>>>);

impl Shows {
    fn set(&self, certificate: CertifiedKey) {
        *self.0.lock().unwrap() = Some(Arc::new(certificate));
    }
}

impl ResolvesClientCert for Shows {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.lock().unwrap().clone()
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// An authority of clients, and what listeners are made with.
struct Lab {
    authority: CertifiedIssuer<'static, KeyPair>,
    pairs: Pairs,
    secrets: Secrets,
    clock: Arc<Clock>,
}

impl Lab {
    fn new(listeners: &str) -> Lab {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let mut pairs = pairs(listeners);
        pairs.0.insert("clients.pem".into(), authority.pem().into());
        let keys = TicketKeys::new(Secret::new([7; 32]), TODAY_S);
        let mut secrets = Secrets::new(Tickets::new(keys.ring(TODAY_S)));
        let clock = Arc::new(Clock(AtomicU64::new(TODAY_S)));
        secrets.time = clock.clone();
        Lab { authority, pairs, secrets, clock }
    }

    fn listener(&self, at: usize) -> ServerTls {
        let config = self.pairs.load(None);
        let listener = &config.listeners[at];
        server(listener.tls.as_ref().unwrap(), Some(HttpVersions::default()), &config.certificates, &self.secrets)
            .unwrap()
    }

    /// A certificate of a client that is good for so long.
    fn leaf(&self, until_s: u64) -> CertifiedKey {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["client.test".to_owned()]).unwrap();
        params.not_after = date_time_ymd(1970, 1, 1) + Duration::from_secs(until_s);
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        self.certified(certificate.der().clone(), &key)
    }

    /// One whose alternative names are no list. webpki does not look at them, as no name is asked for.
    fn unreadable(&self) -> CertifiedKey {
        const ALTERNATIVE_NAMES: [u64; 4] = [2, 5, 29, 17];
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.custom_extensions = vec![CustomExtension::from_oid_content(&ALTERNATIVE_NAMES, vec![4, 1, 0])];
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        self.certified(certificate.der().clone(), &key)
    }

    fn certified(&self, certificate: CertificateDer<'static>, key: &KeyPair) -> CertifiedKey {
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        CertifiedKey::new(vec![certificate], self.secrets.provider.key_provider.load_private_key(key).unwrap())
    }

    /// An endpoint whose certificate is good for so long; all of them have the same ticket keys.
    fn endpoint(&self, version: &'static SupportedProtocolVersion, until_s: u64) -> ServerConfig {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["end.test".to_owned()]).unwrap();
        params.not_after = date_time_ymd(1970, 1, 1) + Duration::from_secs(until_s);
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let mut config = ServerConfig::builder_with_provider(self.secrets.provider.clone())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        config.ticketer = self.secrets.tickets.clone();
        config
    }

    /// The settings of a cluster's endpoint.
    fn cluster(&self, verify: bool) -> Arc<ClientConfig> {
        let tls = if verify { "ca = 'clients.pem'" } else { "verify = false" };
        let text = format!("[[cluster]]\nname = 'c'\nendpoints = ['127.0.0.1:1']\ntls = {{ {tls} }}\n");
        let mut pairs = Pairs(self.pairs.0.clone());
        pairs.0.insert("gateway.toml".into(), text.into());
        let config = pairs.load(None);
        let wanted = config.clusters[0].tls.as_ref().unwrap();
        let of_cluster = client(wanted, UpstreamProtocol::H1, None, &self.secrets).unwrap();
        of_endpoint(&of_cluster, wanted)
    }

    /// A client that trusts all the gateway's certificates, and has sessions of its own.
    fn client(&self, version: &'static SupportedProtocolVersion, shows: &Arc<Shows>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        for certificate in &self.pairs.load(None).certificates {
            roots.add(certificate.pair.as_ref().unwrap().key.cert[0].clone()).unwrap();
        }
        ClientConfig::builder_with_provider(self.secrets.provider.clone())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_cert_resolver(shows.clone())
    }
}

/// What a handshake came to: of which kind it was; or what the server found wrong and the alert that the client got, or what
/// the client found wrong.
fn shake(
    to: &ServerTls,
    client: &ClientConfig,
    name: &'static str,
) -> Result<HandshakeKind, (Error, Option<AlertDescription>)> {
    shake_with(to.config_for(Some(name)).0, client, name)
}

fn shake_with(
    server: &ServerConfig,
    client: &ClientConfig,
    name: &'static str,
) -> Result<HandshakeKind, (Error, Option<AlertDescription>)> {
    let mut server = Connection::from(ServerConnection::new(Arc::new(server.clone())).unwrap());
    let name = ServerName::try_from(name).unwrap();
    let mut client = Connection::from(ClientConnection::new(Arc::new(client.clone()), name).unwrap());
    while client.wants_write() || server.wants_write() {
        let at_server = pass(&mut client, &mut server);
        match (at_server, pass(&mut server, &mut client)) {
            (Ok(()), Ok(())) => {}
            (Err(error), Err(Error::AlertReceived(alert))) => return Err((error, Some(alert))),
            (_, Err(error)) => return Err((error, None)),
            (Err(error), Ok(())) => panic!("no alert is sent for {error}"),
        }
    }
    Ok(server.handshake_kind().unwrap())
}

fn pass(from: &mut Connection, to: &mut Connection) -> Result<(), Error> {
    let mut sent = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut sent).unwrap();
    }
    let mut sent = &sent[..];
    while !sent.is_empty() {
        to.read_tls(&mut sent).unwrap();
        to.process_new_packets()?;
    }
    Ok(())
}

const MUTUAL: &str = "[[listener]]\nname = 'a'\naddress = '127.0.0.1:0'\n\
                      tls = { certificates = ['ecdsa'], client_auth = { ca = 'clients.pem' } }\n";

#[test]
fn a_ticket_of_a_certificate_that_has_expired_is_none_and_the_client_makes_a_full_handshake() {
    for mode in ["require", "optional"] {
        let lab = Lab::new(&MUTUAL.replace("'clients.pem'", &format!("'clients.pem', mode = '{mode}'")));
        let listener = lab.listener(0);
        for version in VERSIONS {
            lab.clock.0.store(TODAY_S, Relaxed);
            let shows = Arc::new(Shows::default());
            shows.set(lab.leaf(TODAY_S + DAY_S));
            let client = lab.client(version, &shows);
            assert_eq!(shake(&listener, &client, "one.test"), Ok(HandshakeKind::Full));
            assert_eq!(shake(&listener, &client, "one.test"), Ok(HandshakeKind::Resumed));
            lab.clock.0.store(TODAY_S + 2 * DAY_S, Relaxed);
            let (error, alert) = shake(&listener, &client, "one.test").unwrap_err();
            assert_eq!(alert, Some(AlertDescription::CertificateExpired), "{version:?}: {error}");
            shows.set(lab.leaf(TODAY_S + 9 * DAY_S));
            assert_eq!(shake(&listener, &client, "one.test"), Ok(HandshakeKind::Full));
            assert_eq!(shake(&listener, &client, "one.test"), Ok(HandshakeKind::Resumed));
        }
    }
}

#[test]
fn more_certificates_than_anybody_needs_are_refused_before_they_are_looked_at() {
    let lab = Lab::new(MUTUAL);
    let listener = lab.listener(0);
    for version in VERSIONS {
        let shows = Arc::new(Shows::default());
        let mut leaf = lab.leaf(TODAY_S + DAY_S);
        let own = leaf.cert[0].clone();
        leaf.cert = vec![own.clone(); 10];
        shows.set(leaf.clone());
        assert_eq!(shake(&listener, &lab.client(version, &shows), "one.test"), Ok(HandshakeKind::Full));
        let long = CertificateDer::from(vec![0; 32 * 1024]);
        for chain in [vec![own.clone(); 11], vec![own, long]] {
            leaf.cert = chain;
            shows.set(leaf.clone());
            let (error, alert) = shake(&listener, &lab.client(version, &shows), "one.test").unwrap_err();
            assert_eq!((reason(error), alert), ("long_chain", Some(AlertDescription::CertificateUnknown)));
        }
    }
}

#[test]
fn a_certificate_that_cannot_be_read_is_refused_and_does_not_make_its_client_nobody() {
    for mode in ["require", "optional"] {
        let lab = Lab::new(&MUTUAL.replace("'clients.pem'", &format!("'clients.pem', mode = '{mode}'")));
        let listener = lab.listener(0);
        for version in VERSIONS {
            let shows = Arc::new(Shows::default());
            shows.set(lab.unreadable());
            let (error, alert) = shake(&listener, &lab.client(version, &shows), "one.test").unwrap_err();
            assert_eq!((reason(error), alert), ("unreadable", Some(AlertDescription::BadCertificate)));
        }
    }
}

/// A full handshake of TLS 1.3 may take another round for the key exchange.
fn is_resumed(kind: HandshakeKind) -> bool {
    kind == HandshakeKind::Resumed
}

/// As metrics have it.
fn reason(error: Error) -> &'static str {
    crate::tls::HandshakeError::from(error).failure().as_str()
}

#[test]
fn a_ticket_is_good_only_where_the_certificate_is_for_the_same_names() {
    let certificates = ["'ecdsa'", "'ecdsa', 'other'", "'other', 'ecdsa'", "'other'"];
    let listeners: String = (0..).zip(certificates).map(|(at, certificates)| listener(at, certificates, "")).collect();
    let lab = Lab::new(&listeners);
    let [first, same, has_it, lacks_it] = [0, 1, 2, 3].map(|at| lab.listener(at));
    for version in VERSIONS {
        let client = lab.client(version, &Arc::default());
        assert_eq!(shake(&first, &client, "one.test"), Ok(HandshakeKind::Full));
        for other in [&first, &same, &has_it] {
            assert_eq!(shake(other, &client, "one.test"), Ok(HandshakeKind::Resumed), "{version:?}");
        }
        // Who resumed there would take it for one that has shown a certificate for this name.
        let (error, _) = shake(&lacks_it, &client, "one.test").unwrap_err();
        assert!(matches!(error, Error::InvalidCertificate(_)), "{error}");
    }
}

#[test]
fn a_ticket_is_not_good_where_something_else_is_asked_of_the_handshake() {
    let listeners = [
        listener(0, "'ecdsa'", "key_exchange = ['secp256r1']"),
        listener(1, "'ecdsa'", "key_exchange = ['x25519']"),
        listener(2, "'ecdsa'", "key_exchange = ['secp256r1'], client_auth = { ca = 'clients.pem', mode = 'optional' }"),
    ];
    let lab = Lab::new(&listeners.concat());
    let [first, other_exchange, asks] = [0, 1, 2].map(|at| lab.listener(at));
    // In TLS 1.3 each handshake has its own key exchange.
    for (other, versions) in [(&other_exchange, &VERSIONS[..1]), (&asks, &VERSIONS)] {
        for version in versions {
            let client = lab.client(version, &Arc::default());
            assert!(shake(&first, &client, "one.test").is_ok());
            assert_eq!(shake(&first, &client, "one.test").map(is_resumed), Ok(true));
            assert_eq!(shake(other, &client, "one.test").map(is_resumed), Ok(false), "{version:?}");
        }
    }
}

fn listener(at: u32, certificates: &str, more: &str) -> String {
    let tls = format!("{{ certificates = [{certificates}], {more} }}").replace(", }", " }");
    format!("[[listener]]\nname = '{at}'\naddress = '127.0.0.1:0'\ntls = {tls}\n")
}

#[test]
fn a_session_with_an_endpoint_ends_with_the_certificate_it_is_from() {
    for (version, verify) in VERSIONS.into_iter().flat_map(|version| [(version, true), (version, false)]) {
        let lab = Lab::new("");
        let endpoint = |until_s| lab.endpoint(version, until_s);
        let client = lab.cluster(verify);
        let at = |hour: u64| lab.clock.0.store(TODAY_S + hour * HOUR_S, Relaxed);
        let (first, second) = (endpoint(TODAY_S + 3 * HOUR_S), endpoint(TODAY_S + 9 * HOUR_S));
        let shake = |server: &ServerConfig| is_resumed(shake_with(server, &client, "end.test").unwrap());
        assert!(!shake(&first), "{version:?}");
        at(2);
        assert!(shake(&first));
        // Renewed, with the keys of tickets as before: it shows the new certificate to nobody who resumes.
        assert!(shake(&second));
        at(4);
        assert!(!shake(&second), "what it has goes back to the first certificate");
        assert!(shake(&second));
        at(8);
        assert!(shake(&second));
        at(10);
        let refused = shake_with(&second, &client, "end.test");
        assert_eq!(refused.map(is_resumed).ok(), if verify { None } else { Some(false) });
    }
}

/// A revocation list of this number, in which nobody is.
fn revocation_list(authority: &CertifiedIssuer<'static, KeyPair>, number: u64) -> Vec<u8> {
    let params = CertificateRevocationListParams {
        this_update: date_time_ymd(2024, 1, 1),
        next_update: date_time_ymd(2100, 1, 1),
        crl_number: SerialNumber::from(number),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(authority).unwrap().pem().unwrap().into()
}

#[test]
fn a_reload_keeps_sessions_with_an_endpoint_only_while_all_that_is_asked_of_it_is_the_same() {
    let lab = Lab::new("");
    let cluster = |more: &str| {
        let tls = format!("tls = {{ ca = 'ca.pem', crl = ['ca.crl']{more} }}");
        format!("[[cluster]]\nname = 'c'\nendpoints = ['127.0.0.1:1']\n{tls}\n")
    };
    let files = |ca: &CertifiedIssuer<'static, KeyPair>, crl: &[u8], more: &str| {
        let files =
            [("gateway.toml", cluster(more).into_bytes()), ("ca.pem", ca.pem().into_bytes()), ("ca.crl", crl.to_vec())];
        Pairs(files.into_iter().map(|(name, bytes)| (name.into(), bytes)).collect()).load(None)
    };
    let mut builder =
        Builder::new(Arc::new(Registry::new(1)), Arc::new(Bans::default()), Arc::default(), Arc::default());
    let mut build = |config, before: Option<&Snapshot>| builder.build(config, &Resolved::default(), before).unwrap();
    let settings = |snapshot: &Snapshot| snapshot.clusters[0].endpoints[0].tls.as_ref().unwrap().config.clone();
    let (ours, other) = (&lab.authority, &Lab::new("").authority);
    let (crl, newer) = (revocation_list(ours, 1), revocation_list(ours, 2));
    let cases = [
        ("nothing", files(ours, &crl, ""), true),
        ("the authority", files(other, &revocation_list(other, 1), ""), false),
        ("the revocation list", files(ours, &newer, ""), false),
        ("the names", files(ours, &crl, ", names = ['a.test']"), false),
        ("the server name", files(ours, &crl, ", server_name = 'a.test'"), false),
        ("the version", files(ours, &crl, ", min_version = '1.3'"), false),
    ];
    for (what, changed, is_kept) in cases {
        let first = build(files(ours, &crl, ""), None);
        let second = build(changed, Some(&first));
        assert_eq!(Arc::ptr_eq(&settings(&first), &settings(&second)), is_kept, "{what}");
    }
}
