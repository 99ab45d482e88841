//! Handshakes in memory: what a session ticket is worth, and what is said to who is not let in.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rcgen::{BasicConstraints, CertifiedIssuer, IsCa, date_time_ymd};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, Connection, Error, HandshakeKind, RootCertStore,
    ServerConnection, SignatureScheme, SupportedProtocolVersion,
};

use super::*;
use crate::snapshot::tls::{Secret, Secrets, TicketKeys, Tickets, server};

const VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];

/// The day on which most of it happens, in seconds of Unix time.
const TODAY_S: u64 = 1_800_000_000;
const DAY_S: u64 = 24 * 60 * 60;

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

    fn certified(&self, certificate: CertificateDer<'static>, key: &KeyPair) -> CertifiedKey {
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        CertifiedKey::new(vec![certificate], self.secrets.provider.key_provider.load_private_key(key).unwrap())
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

/// What a handshake came to: of which kind it was, or what the server found wrong and the alert that the client got.
fn shake(
    to: &ServerTls,
    client: &ClientConfig,
    name: &'static str,
) -> Result<HandshakeKind, (Error, AlertDescription)> {
    let name = ServerName::try_from(name).unwrap();
    let sni = match &name {
        ServerName::DnsName(name) => Some(name.as_ref().to_owned()),
        _ => None,
    };
    let config = to.config_for(sni.as_deref()).0.clone();
    let mut server = Connection::from(ServerConnection::new(config).unwrap());
    let mut client = Connection::from(ClientConnection::new(Arc::new(client.clone()), name).unwrap());
    let mut wrong = None;
    while client.wants_write() || server.wants_write() {
        if let Err(error) = pass(&mut client, &mut server) {
            wrong = wrong.or(Some(error));
        }
        match (pass(&mut server, &mut client), wrong.take()) {
            (Err(Error::AlertReceived(alert)), Some(error)) => return Err((error, alert)),
            (Err(error), _) => panic!("the client does not go on: {error}"),
            (Ok(()), still) => wrong = still,
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
            assert_eq!(alert, AlertDescription::CertificateExpired, "{version:?}: {error}");
            shows.set(lab.leaf(TODAY_S + 9 * DAY_S));
            assert_eq!(shake(&listener, &client, "one.test"), Ok(HandshakeKind::Full));
            assert_eq!(shake(&listener, &client, "one.test"), Ok(HandshakeKind::Resumed));
        }
    }
}
