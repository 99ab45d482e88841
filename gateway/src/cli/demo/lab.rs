//! Two clients in network namespaces of their own, so that the demo's XDP program sees real packets. Root only.
//!
//! ```text
//! namespace gw-demo-<pid>-client-good: eth0 10.98.x.2 ──veth── gwd<pid>g ┐
//!                                                                       ├ 10.98.x.1, the gateway
//! namespace gw-demo-<pid>-client-bad:  eth0 10.98.x.3 ──veth── gwd<pid>b ┘
//! ```
//!
//! And the same with `fd98:0:0:x::`. The bad client's addresses are denied.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::{io, process};

use super::netns::{self, Namespace};

const PREFIX: &str = "gw-demo";

/// The last part of each address.
const GATEWAY: u8 = 1;
const GOOD: u8 = 2;
const BAD: u8 = 3;

/// The lab. Dropping it, in the network namespace it was built in, removes the clients and the interfaces.
#[derive(Debug)]
pub struct Lab {
    subnet: u8,
    good: Client,
    bad: Client,
}

#[derive(Debug)]
struct Client {
    namespace: Namespace,
    /// Our end of the veth pair.
    interface: String,
}

impl Lab {
    /// Builds the lab in the calling thread's network namespace. What was built before an error is removed.
    pub fn build() -> io::Result<Lab> {
        netns::remove_leftovers(PREFIX);
        // Two demos at once need two subnets; a clash costs the second demo its lab and nothing else.
        let subnet = (process::id() % 254) as u8 + 1;
        Ok(Lab {
            subnet,
            good: Client::build("client-good", 'g', subnet, GOOD)?,
            bad: Client::build("client-bad", 'b', subnet, BAD)?,
        })
    }

    /// The part of the demo's configuration that belongs to the lab.
    pub fn config(&self) -> String {
        let [bad_v4, bad_v6] = addresses(self.subnet, BAD);
        format!(
            "[xdp]\n\
             interfaces = [\"{}\", \"{}\"]\n\
             mode = \"auto\"\n\
             pin = \"off\"\n\
             \n\
             [[access]]\n\
             name = \"bad-client\"\n\
             action = \"deny\"\n\
             sources = [\"{bad_v4}/32\", \"{bad_v6}/128\"]\n",
            self.good.interface, self.bad.interface
        )
    }

    /// The gateway's addresses for the clients.
    pub fn gateway(&self) -> [IpAddr; 2] {
        addresses(self.subnet, GATEWAY)
    }

    /// Commands to try on a listener of the gateway, with what each of them shows.
    pub fn commands(&self, port: u16) -> Vec<(String, &'static str)> {
        let [v4, v6] = self.gateway();
        let curl = |client: &Client, url: String| {
            format!("ip netns exec {} curl --globoff --max-time 2 {url}", client.namespace.name())
        };
        vec![
            (curl(&self.good, format!("http://{v4}:{port}/")), "is answered"),
            (curl(&self.good, format!("http://[{v6}]:{port}/")), "is answered"),
            (curl(&self.bad, format!("http://{v4}:{port}/")), "times out: XDP drops its packets"),
            (curl(&self.bad, format!("http://[{v6}]:{port}/")), "times out: XDP drops its packets"),
        ]
    }
}

impl Client {
    fn build(role: &str, letter: char, subnet: u8, host: u8) -> io::Result<Client> {
        let client =
            Client { namespace: Namespace::create(PREFIX, role)?, interface: format!("gwd{}{letter}", process::id()) };
        let interface = client.interface.as_str();
        netns::run(&[
            "ip",
            "link",
            "add",
            interface,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            client.namespace.name(),
        ])?;
        netns::run(&["ip", "link", "set", interface, "up"])?;
        client.namespace.run(&["ip", "link", "set", "eth0", "up"])?;
        for (ours, theirs) in addresses(subnet, GATEWAY).into_iter().zip(addresses(subnet, host)) {
            client.give_addresses(ours, theirs)?;
        }
        Ok(client)
    }

    /// Both clients reach the gateway at one address, so its end of each pair is point to point.
    /// `nodad`: duplicate address detection would keep an IPv6 address unusable for a second; IPv4 ignores the word.
    fn give_addresses(&self, ours: IpAddr, theirs: IpAddr) -> io::Result<()> {
        let (host_bits, subnet_bits) = if ours.is_ipv4() { (32, 24) } else { (128, 64) };
        let (local, peer) = (ours.to_string(), format!("{theirs}/{host_bits}"));
        netns::run(&["ip", "address", "add", &local, "peer", &peer, "dev", &self.interface, "nodad"])?;
        let address = format!("{theirs}/{subnet_bits}");
        self.namespace.run(&["ip", "address", "add", &address, "dev", "eth0", "nodad"])
    }
}

impl Drop for Client {
    /// The kernel removes a namespace's interfaces some time after the namespace; this one is to be gone now. It is not
    /// there when building stopped before it.
    fn drop(&mut self) {
        let _ = netns::run(&["ip", "link", "delete", &self.interface]);
    }
}

fn addresses(subnet: u8, host: u8) -> [IpAddr; 2] {
    let v6 = Ipv6Addr::new(0xfd98, 0, 0, subnet.into(), 0, 0, 0, host.into());
    [Ipv4Addr::new(10, 98, subnet, host).into(), v6.into()]
}
