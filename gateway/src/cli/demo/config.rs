//! The demo's configuration and certificate, as files that exist only here.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, KeyPair};

use super::Addresses;
use super::lab::Lab;
use super::origin::Origins;
use crate::config::Files;

/// The configuration's path. Below a file there are no files, so nobody can make one that the gateway takes for it.
pub(super) const PATH: &str = "/dev/null/demo.toml";

/// Green's share of the canary route, in percent: the first, and one more step with every reload.
pub(super) const GREEN_SHARES: [u8; 3] = [10, 50, 100];

/// What the demo's certificate is good for.
const HOSTS: [&str; 3] = ["localhost", "demo.localhost", "*.demo.localhost"];

/// The files of the demo. Each time the configuration is read it is different, so that a reload has something to do.
pub(super) struct DemoFiles {
    template: String,
    certificate_pem: String,
    key_pem: String,
    times_read: Cell<usize>,
}

impl DemoFiles {
    pub fn new(addresses: &Addresses, origins: &Origins, lab: Option<&Lab>) -> io::Result<DemoFiles> {
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let params = CertificateParams::new(HOSTS.map(String::from)).map_err(io::Error::other)?;
        let certificate = params.self_signed(&key).map_err(io::Error::other)?;
        let mut template = include_str!("demo.toml").to_owned();
        for (word, value) in [
            ("<http>", addresses.http.to_string()),
            ("<https>", addresses.https.to_string()),
            ("<https-port>", addresses.https.port().to_string()),
            ("<tcp>", addresses.tcp.to_string()),
            ("<admin>", addresses.admin.to_string()),
            ("<blue>", origins.blue.to_string()),
            ("<green>", origins.green.to_string()),
        ] {
            template = template.replace(word, &value);
        }
        if let Some(lab) = lab {
            template.push_str(&lab_config(lab, addresses.http.port()));
        }
        Ok(DemoFiles {
            template,
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            times_read: Cell::new(0),
        })
    }

    fn next_config(&self) -> String {
        let times = self.times_read.replace(self.times_read.get().wrapping_add(1));
        let green = GREEN_SHARES[times % GREEN_SHARES.len()];
        self.template.replace("<green-share>", &green.to_string()).replace("<blue-share>", &(100 - green).to_string())
    }
}

impl Files for DemoFiles {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        match path.file_name().and_then(|name| name.to_str()) {
            Some("demo.toml") => Ok(self.next_config().into()),
            Some("demo.pem") => Ok(self.certificate_pem.clone().into()),
            Some("demo.key") => Ok(self.key_pem.clone().into()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn glob(&self, _: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }
}

/// The clients of the lab cannot reach loopback, so there is a listener on each address they know the gateway by.
fn lab_config(lab: &Lab, port: u16) -> String {
    let listener = |(name, address)| {
        let address = SocketAddr::new(address, port);
        format!("\n[[listener]]\nname = \"{name}\"\naddress = \"{address}\"\nlimits = {{ connections = 1024 }}\n")
    };
    let listeners: String = ["lab-v4", "lab-v6"].into_iter().zip(lab.gateway()).map(listener).collect();
    format!("{listeners}\n{}", lab.config())
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::config::load;
    use crate::config::model::{Action, Config};

    fn files() -> DemoFiles {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let addresses = Addresses { http: address(1), https: address(2), tcp: address(6), admin: address(3) };
        DemoFiles::new(&addresses, &Origins { blue: address(4), green: address(5) }, None).unwrap()
    }

    fn load_demo(files: &DemoFiles) -> Config {
        let loaded = load(Path::new(PATH), files, SystemTime::now()).unwrap_or_else(|report| panic!("{report}"));
        assert!(loaded.warnings.diagnostics.is_empty(), "{}", loaded.warnings);
        loaded.config
    }

    #[test]
    fn the_configuration_loads_without_warnings() {
        let config = load_demo(&files());
        assert!(config.listeners.iter().all(|listener| listener.address.ip().is_loopback()));
        assert!(config.admin.is_some_and(|admin| admin.address.ip().is_loopback()));
    }

    #[test]
    fn each_reload_gives_green_its_next_share() {
        let files = files();
        let shares = [(); 4].map(|()| green_share(&load_demo(&files)));
        assert_eq!(shares, [10, 50, 100, 10]);
    }

    fn green_share(config: &Config) -> u32 {
        let canary = config.routes.iter().find(|route| route.name == "canary").unwrap();
        let Action::Forward(forward) = &canary.action else { panic!("{:?}", canary.action) };
        forward.clusters[1].weight
    }
}
