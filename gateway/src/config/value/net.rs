//! How addresses are written.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use ipnet::{IpNet, Ipv4Net};

use super::{Count, Host, schema};
use crate::config::decode::{Decode, FromText, Node, Problem, keywords};
use crate::config::model::{
    AccessAction, EndpointAddress, HostPattern, ListenerProtocol, ProxyProtocol, ProxyVersion, XdpMode,
};
use crate::config::report::Diagnostics;

/// `"10.0.0.0/8"`, `"2001:db8::/32"`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr(pub IpNet);

schema!(Cidr, "CIDR", { "type": "string", "pattern": "^[0-9a-fA-F.:]+(/[0-9]{1,3})?$" });

impl Decode for Cidr {
    fn decode(node: Node<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        let text = node.string(diagnostics)?;
        match parse_cidr(text) {
            Ok(net) => {
                warn_host_bits(net, node.span, diagnostics);
                Some(Cidr(net.trunc()))
            }
            Err(problem) => {
                problem.report(text, node.span, diagnostics);
                None
            }
        }
    }
}

/// Reads a network or an address. It may have host bits, see [`warn_host_bits`].
///
/// A network of IPv4-mapped IPv6 addresses (RFC 4291 section 2.5.5.2) is the IPv4 network it stands for: a dual-stack
/// socket shows IPv4 peers as such addresses, and a rule has to mean the same whichever way it is written.
pub fn parse_cidr(text: &str) -> Result<IpNet, Problem> {
    let net = match text.contains('/') {
        true => text.parse().ok(),
        false => text.parse::<IpAddr>().ok().map(IpNet::from),
    };
    let help = "for example \"10.0.0.0/8\", \"2001:db8::/32\" or \"192.0.2.1\"";
    let net = net.ok_or_else(|| Problem::new(format!("{text:?} is not a CIDR block or an address"), help))?;
    let IpNet::V6(v6) = net else { return Ok(net) };
    let Some(ip) = v6.addr().to_ipv4_mapped() else { return Ok(net) };
    let v4 = v6.prefix_len().checked_sub(MAPPED_PREFIX_LEN).and_then(|len| Ipv4Net::new(ip, len).ok());
    v4.map(IpNet::V4).ok_or_else(|| {
        let message = format!("{text} is wider than all IPv4-mapped addresses, which are a /{MAPPED_PREFIX_LEN}");
        Problem::new(message, "write the IPv4 network; \"0.0.0.0/0\" is all of IPv4")
    })
}

/// `::ffff:0:0/96` is IPv4 written as IPv6.
const MAPPED_PREFIX_LEN: u8 = 96;

/// Warns about `10.0.0.1/8`, which means `10.0.0.0/8`, and perhaps was not meant to.
pub fn warn_host_bits(net: IpNet, span: crate::config::span::Span, diagnostics: &mut Diagnostics) {
    if net != net.trunc() {
        let message = format!("{net} has bits set outside its prefix; it means {}", net.trunc());
        diagnostics.warning(span, message);
    }
}

/// A port, `22`, or a range of them, `"8000-8100"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports(pub RangeInclusive<u16>);

schema!(Ports, "port or range", {
    "anyOf": [{ "type": "integer", "minimum": 1, "maximum": 65535 }, { "type": "string", "pattern": "^[0-9]+-[0-9]+$" }]
});

impl Decode for Ports {
    fn decode(node: Node<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        if !node.is_string() {
            return Count::<u16, 1, 65_535>::decode(node, diagnostics).map(|port| Ports(port.0..=port.0));
        }
        let text = node.string(diagnostics)?;
        let range = text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
        match range {
            Some((first @ 1.., last)) if first <= last => Some(Ports(first..=last)),
            _ => {
                let help = "the first and the last port, such as \"8000-8100\"; a single port is a number";
                Problem::new(format!("{text:?} is not a range of ports"), help).report(text, node.span, diagnostics);
                None
            }
        }
    }
}

/// `"0.0.0.0:80"`, `"[::]:443"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub SocketAddr);

schema!(Address, "address", { "type": "string", "pattern": ":[0-9]{1,5}$" });

impl FromText for Address {
    fn from_text(text: &str) -> Result<Self, Problem> {
        let help = "an IP address and a port, such as \"0.0.0.0:80\" or \"[::]:443\"";
        text.parse().map(Address).map_err(|_| Problem::new(format!("{text:?} is not an address"), help))
    }
}

/// An [`Address`], or `"off"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressOrOff(pub Option<SocketAddr>);

schema!(AddressOrOff, "address or \"off\"", { "type": "string", "pattern": "^off$|:[0-9]{1,5}$" });

impl FromText for AddressOrOff {
    fn from_text(text: &str) -> Result<Self, Problem> {
        match text {
            "off" => Ok(AddressOrOff(None)),
            _ => Address::from_text(text).map(|address| AddressOrOff(Some(address.0))),
        }
    }
}

/// `"10.0.0.1:8080"`, `"[::1]:80"`, `"name:port"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream(pub EndpointAddress);

schema!(Upstream, "endpoint address", { "type": "string", "pattern": ":[0-9]{1,5}$" });

impl FromText for Upstream {
    fn from_text(text: &str) -> Result<Self, Problem> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return match address.port() {
                0 => Err(not_an_endpoint(text)),
                _ => Ok(Upstream(EndpointAddress::Socket(address))),
            };
        }
        let (name, port) = text.rsplit_once(':').ok_or_else(|| not_an_endpoint(text))?;
        match port.parse() {
            Ok(port @ 1..) if is_dns_name(name) => Ok(Upstream(EndpointAddress::Name(name.to_ascii_lowercase(), port))),
            _ => Err(not_an_endpoint(text)),
        }
    }
}

fn not_an_endpoint(text: &str) -> Problem {
    let help = "an address or a name, and a port: \"10.0.0.1:8080\", \"[::1]:80\" or \"api.internal:80\"";
    Problem::new(format!("{text:?} is not an endpoint"), help)
}

/// Whether `text` can be looked up: RFC 1123 §2.1, with underscores, which DNS itself allows.
///
/// A name whose last label is a number would be taken for an address by the resolver, and is a mistyped one here.
pub fn is_dns_name(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last_is_number = text.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    text.len() <= 253 && text.split('.').all(label) && !last_is_number
}

/// A network interface's name, as the kernel's `dev_valid_name` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface(pub String);

schema!(Interface, "interface", { "type": "string", "pattern": "^[^ /:]{1,15}$" });

impl FromText for Interface {
    fn from_text(text: &str) -> Result<Self, Problem> {
        let fits = |c: char| c.is_ascii_graphic() && c != '/' && c != ':';
        if (1..=15).contains(&text.len()) && text != "." && text != ".." && text.chars().all(fits) {
            return Ok(Interface(text.to_owned()));
        }
        Err(Problem::new(format!("{text:?} is not the name of an interface"), "`ip link` lists them"))
    }
}

keywords!(XdpMode {
    "auto" => XdpMode::Auto,
    "native" => XdpMode::Native,
    "generic" => XdpMode::Generic,
    "off" => XdpMode::Off,
});

keywords!(AccessAction { "deny" => AccessAction::Deny, "allow" => AccessAction::Allow });

keywords!(ListenerProtocol {
    "http" => ListenerProtocol::Http,
    "tcp" => ListenerProtocol::Tcp,
    "tls_passthrough" => ListenerProtocol::TlsPassthrough,
    "udp" => ListenerProtocol::Udp,
});

keywords!(ProxyProtocol {
    "off" => ProxyProtocol::Off,
    "accept" => ProxyProtocol::Accept,
    "require" => ProxyProtocol::Require,
});

/// The PROXY header that endpoints get, or `"off"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyHeader(pub Option<ProxyVersion>);

keywords!(ProxyHeader {
    "off" => ProxyHeader(None),
    "v1" => ProxyHeader(Some(ProxyVersion::V1)),
    "v2" => ProxyHeader(Some(ProxyVersion::V2)),
});

/// A server name of TLS: `"db.example.com"`, `"*.example.com"`, `"*"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerName(pub HostPattern);

schema!(ServerName, "server name", { "type": "string", "minLength": 1 });

impl FromText for ServerName {
    fn from_text(text: &str) -> Result<Self, Problem> {
        match Host::from_text(text)?.0 {
            HostPattern::Exact(host) if !is_dns_name(&host) => {
                let help =
                    "clients ask for names only (RFC 6066 section 3); `without_server_name` has those that do not";
                Err(Problem::new(format!("{text:?} is an address, not a server name"), help))
            }
            pattern => Ok(ServerName(pattern)),
        }
    }
}

/// A protocol's name in ALPN (RFC 7301).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alpn(pub String);

schema!(Alpn, "ALPN name", { "type": "string", "minLength": 1, "maxLength": 255 });

impl FromText for Alpn {
    fn from_text(text: &str) -> Result<Self, Problem> {
        if text == "h1" {
            return Err(Problem::new("\"h1\" is not the name of a protocol", "HTTP/1.1 is \"http/1.1\" in ALPN"));
        }
        // A name may be any bytes (RFC 7301 section 3.1); all that are registered are these.
        if !(1..=255).contains(&text.len()) || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            let message = format!("{text:?} is not the name of a protocol");
            return Err(Problem::new(message, "1 to 255 visible ASCII characters, such as \"h2\" or \"http/1.1\""));
        }
        Ok(Alpn(text.to_owned()))
    }
}
