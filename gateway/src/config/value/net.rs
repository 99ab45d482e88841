//! How addresses are written.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::schema;
use crate::config::decode::{Decode, FromText, Node, Problem, keywords};
use crate::config::model::{AccessAction, Balance, EndpointAddress, TlsVersion, XdpMode};
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
pub fn parse_cidr(text: &str) -> Result<IpNet, Problem> {
    let net = match text.contains('/') {
        true => text.parse().ok(),
        false => text.parse::<IpAddr>().ok().map(IpNet::from),
    };
    let help = "for example \"10.0.0.0/8\", \"2001:db8::/32\" or \"192.0.2.1\"";
    net.ok_or_else(|| Problem::new(format!("{text:?} is not a CIDR block or an address"), help))
}

/// Warns about `10.0.0.1/8`, which means `10.0.0.0/8`, and perhaps was not meant to.
pub fn warn_host_bits(net: IpNet, span: crate::config::span::Span, diagnostics: &mut Diagnostics) {
    if net != net.trunc() {
        let message = format!("{net} has bits set outside its prefix; it means {}", net.trunc());
        diagnostics.warning(span, message);
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

keywords!(TlsVersion { "1.2" => TlsVersion::Tls12, "1.3" => TlsVersion::Tls13 });

keywords!(Balance { "round_robin" => Balance::RoundRobin } later ["least_request", "random", "maglev", "ring_hash"]);

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerProtocol {
    /// HTTP, over TLS when there is a `tls` table.
    Http,
}

keywords!(ListenerProtocol { "http" => ListenerProtocol::Http } later ["tcp", "tls_passthrough", "udp"]);

/// An HTTP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.1, and 1.0.
    H1,
}

keywords!(HttpVersion { "h1" => HttpVersion::H1 } later ["h2", "auto"]);
