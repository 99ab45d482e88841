//! 10 000 certificates: reading them (less than 2 s), a reload after one of them was renewed, and choosing one for a
//! ClientHello (less than 1 µs).
//!
//! `cargo bench -p gateway-bench --bench certificates`. Files are in memory; what the kernel adds is in `from_disk`.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use divan::{Bencher, black_box};
use gateway::config::model::{Config, ListenerId};
use gateway::config::{Files, Known, load_knowing};
use gateway::control::source::DiskFiles;
use gateway::filter::bans::Bans;
use gateway::metrics::registry::Registry;
use gateway::snapshot::{Builder, Resolved, Snapshot};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, SignatureAlgorithm};
use rustls::RootCertStore;
use rustls::server::{Accepted, Acceptor};

const CERTIFICATES: usize = 10_000;

/// Making an RSA key takes a second; certificates share so many.
const KEYS: usize = 8;

const TEXT: &str = "[[certificate]]\nname = 'all'\ndirectory = 'd'\n\
                    [[listener]]\nname = 'web'\naddress = '127.0.0.1:0'\ntls = { certificates = ['all'] }\n\
                    [[route]]\nname = 'r'\nrespond = { status = 200 }\n";

fn main() {
    divan::main();
}

#[divan::bench(args = ["ecdsa", "rsa"], sample_count = 5, sample_size = 1)]
fn first_load(bencher: Bencher<'_, '_>, kind: &str) {
    let files = MapFiles::of(kind);
    bencher.bench_local(|| load(black_box(&files), Path::new("gateway.toml"), None));
}

#[divan::bench(sample_count = 5, sample_size = 1)]
fn first_load_from_disk(bencher: Bencher<'_, '_>) {
    let (_directory, path) = on_disk();
    bencher.bench_local(|| load(&DiskFiles, black_box(&path), None));
}

/// Nothing has changed, or one certificate of them: all are read, and one is parsed.
#[divan::bench(sample_count = 10, sample_size = 1)]
fn reload_from_disk(bencher: Bencher<'_, '_>) {
    let (_directory, path) = on_disk();
    let running = load(&DiskFiles, &path, None);
    let renewed = MapFiles::of("renewed");
    for extension in ["crt", "key"] {
        let name = format!("d/host-17.{extension}");
        let bytes = &renewed.0[Path::new(&name)];
        fs::write(path.with_file_name(&name), bytes).expect("write");
    }
    bencher.bench_local(|| load(&DiskFiles, black_box(&path), Some(&running)));
}

#[divan::bench(sample_count = 10, sample_size = 1)]
fn snapshot(bencher: Bencher<'_, '_>) {
    let config = load(&MapFiles::of("ecdsa"), Path::new("gateway.toml"), None);
    bencher.with_inputs(|| config.clone()).bench_local_values(build);
}

/// What a handshake costs for there being many certificates. The name is one that there is, one below a wildcard, one that
/// there is not, or none.
#[divan::bench(args = ["host-4711.test", "www.wild-4711.test", "unknown.test", ""])]
fn choose(bencher: Bencher<'_, '_>, name: &str) {
    let snapshot = build(load(&MapFiles::of("ecdsa"), Path::new("gateway.toml"), None));
    let tls = snapshot.listener(ListenerId(0)).tls.clone().expect("a TLS listener");
    let hello = hello(name);
    bencher.bench_local(|| {
        let hello = black_box(&hello).client_hello();
        black_box(tls.config_for(hello.server_name()));
        tls.certificate_for(hello)
    });
}

/// The first message of a client.
fn hello(name: &str) -> Accepted {
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    // An address is not told.
    let name = if name.is_empty() { "127.0.0.1" } else { name };
    let name = name.to_owned().try_into().expect("a server name");
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).expect("it fits in memory");
    let mut acceptor = Acceptor::default();
    acceptor.read_tls(&mut &bytes[..]).expect("a record");
    let Ok(Some(accepted)) = acceptor.accept() else { panic!("a whole ClientHello") };
    accepted
}

fn load(files: &dyn Files, path: &Path, running: Option<&Config>) -> Config {
    let known = Known { now: SystemTime::now(), running, find_user: None };
    let loaded = load_knowing(path, files, &known).expect("no errors");
    assert!(loaded.refused.is_empty() && loaded.config.certificates.len() == CERTIFICATES);
    loaded.config
}

fn build(config: Config) -> Snapshot {
    let mut builder =
        Builder::new(Arc::new(Registry::new(1)), Arc::new(Bans::default()), Arc::default(), Arc::default());
    builder.build(config, &Resolved::default(), None).expect("it builds")
}

fn on_disk() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    fs::create_dir(directory.path().join("d")).expect("a directory");
    for (path, bytes) in MapFiles::of("ecdsa").0 {
        fs::write(directory.path().join(path), bytes).expect("write");
    }
    let path = directory.path().join("gateway.toml");
    (directory, path)
}

/// Files in memory.
struct MapFiles(HashMap<PathBuf, Vec<u8>>);

impl MapFiles {
    /// Certificates with keys of one kind.
    fn of(kind: &str) -> MapFiles {
        let algorithm: &'static SignatureAlgorithm =
            if kind == "rsa" { &PKCS_RSA_SHA256 } else { &PKCS_ECDSA_P256_SHA256 };
        let keys: Vec<_> = (0..KEYS).map(|_| KeyPair::generate_for(algorithm).expect("a key")).collect();
        let mut files = HashMap::from([(PathBuf::from("gateway.toml"), TEXT.as_bytes().to_vec())]);
        for (n, key) in (0..CERTIFICATES).zip(keys.iter().cycle()) {
            let names = [format!("host-{n}.test"), format!("*.wild-{n}.test")];
            let certificate = CertificateParams::new(names).expect("names").self_signed(key).expect("a certificate");
            files.insert(format!("d/host-{n}.crt").into(), certificate.pem().into_bytes());
            files.insert(format!("d/host-{n}.key").into(), key.serialize_pem().into_bytes());
        }
        MapFiles(files)
    }
}

impl Files for MapFiles {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.0.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn glob(&self, _: &Path) -> io::Result<Vec<PathBuf>> {
        let mut paths: Vec<_> = self.0.keys().filter(|path| path.starts_with("d")).cloned().collect();
        paths.sort();
        Ok(paths)
    }
}
