mod resumption;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, SignatureAlgorithm, date_time_ymd};
use rustls::ServerConfig;

use super::sni::BySni;
use crate::config::model::{Config, HttpVersions, ListenerId};
use crate::config::{Files, Known, load_knowing};
use crate::filter::bans::Bans;
use crate::metrics::registry::Registry;
use crate::snapshot::{Builder, Resolved, ServerTls, Snapshot};

struct Pairs(HashMap<PathBuf, Vec<u8>>);

impl Pairs {
    fn put(&mut self, name: &str, host: &str, algorithm: &'static SignatureAlgorithm) {
        self.put_with(name, algorithm, CertificateParams::new([host.to_owned()]).unwrap());
    }

    fn put_with(&mut self, name: &str, algorithm: &'static SignatureAlgorithm, params: CertificateParams) {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        self.0.insert(format!("{name}.pem").into(), certificate.pem().into());
        self.0.insert(format!("{name}.key").into(), key.serialize_pem().into());
    }

    fn load(&self, running: Option<&Config>) -> Config {
        let known = Known { now: SystemTime::now(), running, find_user: None };
        load_knowing(Path::new("gateway.toml"), self, &known).unwrap().config
    }
}

impl Files for Pairs {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.0.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn glob(&self, _: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }
}

fn pairs(text: &str) -> Pairs {
    let mut pairs = Pairs(HashMap::from([("gateway.toml".into(), text.into())]));
    for (name, host, algorithm) in [
        ("rsa", "one.test", &PKCS_RSA_SHA256),
        ("ecdsa", "one.test", &PKCS_ECDSA_P256_SHA256),
        ("other", "other.test", &PKCS_ECDSA_P256_SHA256),
    ] {
        pairs.put(name, host, algorithm);
        let table = format!("[[certificate]]\nname = '{name}'\nchain = '{name}.pem'\nkey = '{name}.key'\n");
        pairs.0.get_mut(Path::new("gateway.toml")).unwrap().extend_from_slice(table.as_bytes());
    }
    pairs
}

const TWO_LISTENERS: &str = "[[listener]]\nname = 'a'\naddress = '127.0.0.1:0'\ntls.certificates = ['rsa', 'ecdsa']\n\
                             [[listener]]\nname = 'b'\naddress = '127.0.0.1:0'\ntls.certificates = ['other', 'rsa']\n";

#[test]
fn a_renewed_certificate_changes_only_the_settings_of_listeners_that_show_it() {
    let mut pairs = pairs(TWO_LISTENERS);
    let mut builder =
        Builder::new(Arc::new(Registry::new(1)), Arc::new(Bans::default()), Arc::default(), Arc::default());
    let mut build = |config, before: Option<&Snapshot>| builder.build(config, &Resolved::default(), before).unwrap();
    let settings = |snapshot: &Snapshot, listener: u32| -> Arc<ServerConfig> {
        snapshot.listener(ListenerId(listener)).tls.as_ref().unwrap().config_for(None).0.clone()
    };
    let first = build(pairs.load(None), None);
    pairs.put("other", "other.test", &PKCS_ECDSA_P256_SHA256);
    let second = build(pairs.load(Some(&first.config)), Some(&first));
    assert!(Arc::ptr_eq(&settings(&first, 0), &settings(&second, 0)));
    assert!(!Arc::ptr_eq(&settings(&first, 1), &settings(&second, 1)));
    let key = |snapshot: &Snapshot, at: usize| snapshot.config.certificates[at].pair.clone().unwrap();
    for (at, is_same) in [true, true, false].into_iter().enumerate() {
        assert_eq!(Arc::ptr_eq(&key(&first, at), &key(&second, at)), is_same, "{at}");
    }
}

#[test]
fn of_the_certificates_for_a_name_those_with_rsa_and_expired_ones_come_last_for_the_default_too() {
    let mut pairs = pairs(TWO_LISTENERS);
    let mut params = CertificateParams::new(["one.test".to_owned()]).unwrap();
    params.not_after = date_time_ymd(2100, 1, 1);
    pairs.put_with("ecdsa", &PKCS_ECDSA_P256_SHA256, params);
    let config = pairs.load(None);
    let shown_at = |now: i64, listener: usize, name: Option<&str>| -> Vec<usize> {
        let tls = config.listeners[listener].tls.as_ref().unwrap();
        let by_sni = BySni::new(tls, None, &config.certificates, now);
        let shown = name.map_or(by_sni.default(), |name| by_sni.find(name).unwrap_or_default());
        let is = |key, at: usize| Arc::ptr_eq(key, &config.certificates[at].pair.as_ref().unwrap().key);
        shown.iter().map(|shown| (0..3).find(|at| is(&shown.key, *at)).unwrap()).collect()
    };
    let shown = |listener, name| shown_at(0, listener, name);
    let [rsa, ecdsa, other] = [0_usize, 1, 2];
    assert_eq!(shown(0, Some("one.test")), [ecdsa, rsa]);
    assert_eq!(shown(0, None), [ecdsa, rsa]);
    assert!(shown(0, Some("other.test")).is_empty());
    assert_eq!(shown(1, None), [other]);
    assert_eq!(shown(1, Some("one.test")), [rsa]);
    let end = config.certificates[ecdsa].pair.as_ref().unwrap().chain_not_after;
    assert_eq!(shown_at(end, 0, Some("one.test")), [ecdsa, rsa]);
    assert_eq!(shown_at(end + 1, 0, Some("one.test")), [rsa, ecdsa], "one that has expired comes behind all others");
}

#[test]
fn the_dot_of_the_root_gets_nobody_past_the_terms_of_a_host() {
    let listener = "[[listener]]\nname = 'a'\naddress = '127.0.0.1:0'\n\
                    [listener.tls]\ncertificates = ['other', 'ecdsa']\nhosts = [{ hosts = ['one.test'], min_version = '1.3' }]\n";
    let mut builder =
        Builder::new(Arc::new(Registry::new(1)), Arc::new(Bans::default()), Arc::default(), Arc::default());
    let snapshot = builder.build(pairs(listener).load(None), &Resolved::default(), None).unwrap();
    let tls = snapshot.listener(ListenerId(0)).tls.as_ref().unwrap();
    let terms = |name| Arc::as_ptr(tls.config_for(Some(name)).1);
    assert_eq!(terms("one.test."), terms("one.test"));
    assert_ne!(terms("one.test."), terms("other.test."));
}
