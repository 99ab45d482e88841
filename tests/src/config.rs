//! Configuration text, put together from the few tables every test needs.

use std::fmt::{self, Display, Write};
use std::net::SocketAddr;
use std::path::Path;

use crate::ports::any_port;

/// A `gateway.toml` being written. Everything listens on port 0 unless a test says otherwise.
///
/// The methods take the table's remaining lines as text: a test shows the keys it is about as a user would write them.
#[derive(Clone, Debug, Default)]
pub struct Config {
    gateway: String,
    tables: String,
}

impl Config {
    /// Two workers (whatever the machine has, so that sharing between workers is tested), an admin endpoint, nothing else.
    pub fn new() -> Config {
        Config { gateway: String::new(), tables: "[admin]\naddress = '127.0.0.1:0'\n".into() }
    }

    /// The usual case: listener `web`, and a route `all` that sends everything to the cluster `origin`.
    pub fn proxy_to(endpoint: SocketAddr) -> Config {
        Config::new().listener("web", "").cluster("origin", &[endpoint], "").route("all", "cluster = 'origin'")
    }

    /// Adds lines to `[gateway]`.
    pub fn gateway(mut self, lines: &str) -> Config {
        self.gateway.push_str(lines);
        self.gateway.push('\n');
        self
    }

    /// Adds any text, tables with their heading.
    pub fn tables(mut self, text: &str) -> Config {
        self.tables.push_str(text);
        self.tables.push('\n');
        self
    }

    /// Adds a listener on a port of the loopback address that the kernel chooses.
    pub fn listener(self, name: &str, lines: &str) -> Config {
        self.listener_at(name, any_port(), lines)
    }

    /// Adds a listener.
    pub fn listener_at(self, name: &str, addr: SocketAddr, lines: &str) -> Config {
        self.tables(&format!("[[listener]]\nname = '{name}'\naddress = '{addr}'\n{lines}"))
    }

    /// Adds a cluster.
    pub fn cluster(self, name: &str, endpoints: &[SocketAddr], lines: &str) -> Config {
        let mut list = String::new();
        for endpoint in endpoints {
            let _ = write!(list, "'{endpoint}', ");
        }
        self.tables(&format!("[[cluster]]\nname = '{name}'\nendpoints = [{list}]\n{lines}"))
    }

    /// Adds a route.
    pub fn route(self, name: &str, lines: &str) -> Config {
        self.tables(&format!("[[route]]\nname = '{name}'\n{lines}"))
    }

    /// Adds a route of connections or datagrams.
    pub fn l4_route(self, name: &str, lines: &str) -> Config {
        self.tables(&format!("[[l4_route]]\nname = '{name}'\n{lines}"))
    }

    /// Adds a certificate whose files are `NAME.pem` and `NAME.key` in `dir`.
    pub fn certificate(self, name: &str, dir: &Path) -> Config {
        let dir = dir.display();
        self.tables(&format!("[[certificate]]\nname = '{name}'\nchain = '{dir}/{name}.pem'\nkey = '{dir}/{name}.key'"))
    }
}

impl Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let workers = if self.gateway.contains("workers") { "" } else { "workers = 2\n" };
        write!(f, "[gateway]\n{workers}{}\n{}", self.gateway, self.tables)
    }
}
