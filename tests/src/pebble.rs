//! Pebble, a certificate authority that speaks ACME and checks what it is told: it sends its challenges to the names, which
//! a DNS server of its own says are all this machine.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::certs::Store;
use crate::ports::{HeldPort, loopback};
use crate::process::Process;
use crate::tls::TlsClient;
use crate::wait;

/// How a Pebble is to be.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where challenges of HTTP-01 go: the port of this address.
    pub http: SocketAddr,
    /// The same of TLS-ALPN-01.
    pub tls: SocketAddr,
    /// How long certificates are valid.
    pub validity_s: u64,
    /// The accounts of which a client has to have one already, by their id: the key in base64url.
    pub external_accounts: BTreeMap<String, String>,
}

/// A running Pebble. It keeps nothing: the next one knows no account, and issues from another root.
pub struct Pebble {
    process: Process,
    dns: Process,
    addrs: [SocketAddr; 2],
    store: Store,
}

/// What is left of one: its place, and the authority behind its own server.
pub struct Ended {
    addrs: [SocketAddr; 2],
    store: Store,
}

impl Ended {
    /// Starts another one in its place.
    pub fn back(self, settings: &Settings) -> Pebble {
        Pebble::start_at(self.addrs, self.store, settings)
    }
}

impl Settings {
    /// Challenges go to these addresses; certificates are valid for a day, and anybody may have an account.
    pub fn new(http: SocketAddr, tls: SocketAddr) -> Settings {
        Settings { http, tls, validity_s: 24 * 60 * 60, external_accounts: BTreeMap::new() }
    }
}

impl Pebble {
    /// Starts one.
    pub fn start(settings: &Settings) -> Pebble {
        Pebble::start_at([HeldPort::released(), HeldPort::released()], Store::new(), settings)
    }

    /// Ends it as `kill -9` does.
    pub fn kill(mut self) -> Ended {
        for process in [&mut self.process, &mut self.dns] {
            process.signal(libc::SIGKILL);
            process.wait_exit(wait::DEADLINE);
        }
        Ended { addrs: self.addrs, store: self.store }
    }

    /// Where its directory is.
    pub fn addr(&self) -> SocketAddr {
        self.addrs[0]
    }

    /// Lines of an `[[acme]]` table.
    pub fn acme(&self) -> String {
        let [server, _] = self.addrs;
        format!(
            "directory_url = 'https://{server}/dir'\nca = '{}'\nterms_of_service_agreed = true\n",
            self.ca().display()
        )
    }

    /// The authority behind its own server, in PEM.
    pub fn ca(&self) -> PathBuf {
        self.store.path().join("ca.pem")
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        self.process.stdout.text()
    }

    /// The root of the certificates that it issues.
    pub fn root(&self) -> CertificateDer<'static> {
        let [_, management] = self.addrs;
        let client = TlsClient::new(&self.store.authority);
        let (mut conn, _) = client.connect(management, &management.ip().to_string()).expect("a handshake with Pebble");
        CertificateDer::from_pem_slice(conn.get("/roots/0").text().as_bytes()).expect("Pebble's root certificate")
    }

    fn start_at(addrs: [SocketAddr; 2], store: Store, settings: &Settings) -> Pebble {
        let [server, management] = addrs;
        store.issue("pebble", &[&server.ip().to_string()]);
        let file = |name: &str| store.path().join(name).display().to_string();
        let config = serde_json::json!({ "pebble": {
            "listenAddress": server.to_string(),
            "managementListenAddress": management.to_string(),
            "certificate": file("pebble.pem"),
            "privateKey": file("pebble.key"),
            "httpPort": settings.http.port(),
            "tlsPort": settings.tls.port(),
            "ocspResponderURL": "",
            "externalAccountBindingRequired": !settings.external_accounts.is_empty(),
            "externalAccountMACKeys": settings.external_accounts,
            "certificateValidityPeriod": settings.validity_s,
        }});
        std::fs::write(file("pebble.json"), config.to_string()).expect("write a file");
        let names = HeldPort::released();
        let mut dns = Command::new("pebble-challtestsrv");
        let (v4, v6) = match loopback() {
            std::net::IpAddr::V4(addr) => (addr.to_string(), String::new()),
            std::net::IpAddr::V6(addr) => (String::new(), addr.to_string()),
        };
        dns.args(["-defaultIPv4", &v4, "-defaultIPv6", &v6, "-dns01", &names.to_string()]);
        dns.args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-management", &HeldPort::released().to_string()]);
        let dns = Process::start(dns);
        let mut command = Command::new("pebble");
        command.args(["-config", &file("pebble.json"), "-dnsserver", &names.to_string()]);
        // No pauses at random, and every order is proven anew.
        command.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_AUTHZREUSE", "0");
        let mut pebble = Pebble { process: Process::start(command), dns, addrs, store };
        for addr in [server, management, names] {
            wait::until_true("Pebble to listen", || {
                for process in [&mut pebble.process, &mut pebble.dns] {
                    let ended = process.exited();
                    assert!(ended.is_none(), "Pebble ended ({ended:?}): {}", process.stdout.text());
                }
                TcpStream::connect(addr).is_ok()
            });
        }
        pebble
    }
}
