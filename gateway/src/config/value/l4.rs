//! How values of the kernel's side of the gateway are written.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};

use super::schema;
use crate::config::decode::{FromText, Problem, keywords};
use crate::config::model::{VipAffinity, VipMode, VipProtocol};

/// An IP address without a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip(pub IpAddr);

schema!(Ip, "IP address", { "type": "string", "pattern": "^[0-9a-fA-F.:]+$" });

impl FromText for Ip {
    fn from_text(text: &str) -> Result<Self, Problem> {
        let help = "for example \"192.0.2.1\" or \"2001:db8::1\"";
        text.parse().map(Ip).map_err(|_| Problem::new(format!("{text:?} is not an IP address"), help))
    }
}

/// `"61000-65535"`, or one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRange(pub RangeInclusive<u16>);

schema!(PortRange, "ports", { "type": "string", "pattern": "^[0-9]+(-[0-9]+)?$" });

impl FromText for PortRange {
    fn from_text(text: &str) -> Result<Self, Problem> {
        range(text).filter(|ports| *ports.start() > 0).map(PortRange).ok_or_else(|| {
            let help = "the first and the last one, such as \"61000-65535\"";
            Problem::new(format!("{text:?} is not a range of ports"), help)
        })
    }
}

/// `"200-299"`, or one status of HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusRange(pub RangeInclusive<u16>);

schema!(StatusRange, "statuses", { "type": "string", "pattern": "^[1-5][0-9]{2}(-[1-5][0-9]{2})?$" });

impl FromText for StatusRange {
    fn from_text(text: &str) -> Result<Self, Problem> {
        // 1xx comes before the answer and is none.
        range(text).filter(|range| *range.start() >= 200 && *range.end() <= 599).map(StatusRange).ok_or_else(|| {
            let help = "from 200 to 599, such as \"200-299\" or \"204\"";
            Problem::new(format!("{text:?} is not a range of HTTP statuses"), help)
        })
    }
}

/// Two numbers with a dash between, the lower one first; or one, which is both.
fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = first.trim().parse().ok()?..=last.trim().parse().ok()?;
    (!range.is_empty()).then_some(range)
}

/// A directory of a BPF file system, or `"off"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinDirectory(pub Option<PathBuf>);

schema!(PinDirectory, "absolute path or \"off\"", { "type": "string", "pattern": "^off$|^/" });

impl FromText for PinDirectory {
    fn from_text(text: &str) -> Result<Self, Problem> {
        let path = Path::new(text);
        let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        match text {
            "off" => Ok(PinDirectory(None)),
            _ if path.is_absolute() && plain && !text.contains('\0') => Ok(PinDirectory(Some(path.into()))),
            _ => {
                let help = "a directory of its own, such as \"/sys/fs/bpf/gateway\", or \"off\"";
                Err(Problem::new(format!("{text:?} is not an absolute path without `..`"), help))
            }
        }
    }
}

/// What a UDP check sends or expects: text, or bytes after `hex:`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload(pub Vec<u8>);

schema!(Payload, "text or \"hex:…\"", { "type": "string", "minLength": 1 });

/// Fits into one packet on every network (RFC 8200 section 5: 1280 bytes, of which 48 are headers).
const PAYLOAD_BYTES: usize = 1232;

impl FromText for Payload {
    fn from_text(text: &str) -> Result<Self, Problem> {
        let bytes = match text.strip_prefix("hex:") {
            None => text.as_bytes().to_vec(),
            Some(digits) => data_encoding::HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).map_err(|error| {
                let at = (error.position + 4).min(text.len());
                Problem::new("not pairs of hexadecimal digits", "such as \"hex:00ff\"").at(at..at + 1)
            })?,
        };
        match bytes.len() {
            1..=PAYLOAD_BYTES => Ok(Payload(bytes)),
            length => Err(Problem::new(
                format!("{length} bytes are not a probe"),
                format!("1 to {PAYLOAD_BYTES}, which fit into one packet on every network"),
            )),
        }
    }
}

/// How a health check asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthProtocol {
    /// By connecting.
    Tcp,
    /// By a datagram.
    Udp,
    /// By a TLS handshake.
    Tls,
    /// By a GET.
    Http,
    /// By gRPC's health service.
    Grpc,
}

keywords!(HealthProtocol {
    "tcp" => HealthProtocol::Tcp,
    "udp" => HealthProtocol::Udp,
    "tls" => HealthProtocol::Tls,
    "http" => HealthProtocol::Http,
    "grpc" => HealthProtocol::Grpc,
});

keywords!(VipProtocol { "tcp" => VipProtocol::Tcp, "udp" => VipProtocol::Udp });

keywords!(VipMode {
    "nat" => VipMode::Nat,
    "dnat" => VipMode::Dnat,
    "dsr" => VipMode::Dsr,
    "ipip" => VipMode::Ipip,
});

keywords!(VipAffinity { "flow" => VipAffinity::Flow, "source" => VipAffinity::Source });
