//! How the parts of filters are written.

use super::{HeaderName, schema};
use crate::config::decode::{Decode, FromText, Node, Problem, keywords};
use crate::config::model::{self, Share};
use crate::config::report::Diagnostics;
use crate::proto::head::{Known, Name as _};

/// What gives requests buckets of their own, where a word says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// The client's address.
    ClientIp,
    /// The address of the connection's other end.
    PeerIp,
    /// The host of the request.
    Host,
    /// The client's connection.
    Connection,
}

keywords!(KeySource {
    "client_ip" => KeySource::ClientIp,
    "peer_ip" => KeySource::PeerIp,
    "host" => KeySource::Host,
    "connection" => KeySource::Connection,
});

/// A percentage, 0 or from `0.0001` to 100, in parts of a million.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percent(pub Share);

schema!(Percent, "percent", { "type": "number", "minimum": 0, "maximum": 100 });

impl Decode for Percent {
    fn decode(node: Node<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        let Some(percent) = node.number() else { return node.mismatch("a number", diagnostics) };
        let millionths = (percent * 10_000.0).round();
        // Not-a-number is in no range.
        if percent != 0.0 && !(1.0..=1_000_000.0).contains(&millionths) {
            diagnostics.error(node.span, "out of range: must be 0, or between 0.0001 and 100");
            return None;
        }
        Some(Percent(Share(millionths as u32)))
    }
}

/// A text that has something in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NonEmpty(pub String);

schema!(NonEmpty, "text", { "type": "string", "minLength": 1 });

impl FromText for NonEmpty {
    fn from_text(text: &str) -> Result<Self, Problem> {
        match text.is_empty() {
            true => Err(Problem::new("this cannot be empty", "rate limit services refuse empty texts")),
            false => Ok(NonEmpty(text.to_owned())),
        }
    }
}

/// `{}`: what has nothing to say about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nothing;

schema!(Nothing, "empty table", { "type": "object", "additionalProperties": false });

impl Decode for Nothing {
    fn decode(node: Node<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        if !node.is_empty_table() {
            return node.mismatch("an empty table", diagnostics);
        }
        Some(Nothing)
    }
}

/// A header field, or one of `:path`, `:method` and `:authority`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldSource(pub model::FieldSource);

schema!(FieldSource, "header name", { "type": "string", "pattern": "^(:path|:method|:authority|[!#$%&'*+.^_`|~0-9A-Za-z-]+)$" });

impl FromText for FieldSource {
    fn from_text(text: &str) -> Result<Self, Problem> {
        let source = match text {
            ":path" => model::FieldSource::Path,
            ":method" => model::FieldSource::Method,
            ":authority" => model::FieldSource::Authority,
            _ if text.starts_with(':') => {
                let help = "`:path`, `:method` and `:authority` are known";
                return Err(Problem::new(format!("there is no pseudo-field {text:?}"), help));
            }
            name => match HeaderName::from_text(name)?.0 {
                // The `host` field is not among the fields (`RequestHead::authority`).
                name if name.known() == Known::Host => model::FieldSource::Authority,
                name => model::FieldSource::Header(name),
            },
        };
        Ok(FieldSource(source))
    }
}
