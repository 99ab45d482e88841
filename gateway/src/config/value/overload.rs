//! How values of `[overload]` are written.

use super::{PositiveDuration, Size, schema};
use crate::config::decode::{Decode, FromText, Node, Problem, keywords};
use crate::config::model::{MaxMemory, Priority};
use crate::config::report::Diagnostics;

keywords!(Priority { "normal" => Priority::Normal, "high" => Priority::High });

schema!(MaxMemory, "size, \"auto\" or \"off\"", {
    "anyOf": [{ "type": "integer", "minimum": 1 }, { "type": "string", "pattern": "^(auto|off|[0-9]+ *[kKMGT]?i?B?)$" }]
});

impl Decode for MaxMemory {
    fn decode(node: Node<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        if node.is_string() {
            match node.string(diagnostics)? {
                "auto" => return Some(MaxMemory::Auto),
                "off" => return Some(MaxMemory::Off),
                _ => {}
            }
        }
        match Size::decode(node, diagnostics)? {
            Size(0) => {
                diagnostics.error(node.span, "must be more than zero").help("\"off\" is no limit");
                None
            }
            Size(bytes) => Some(MaxMemory::Bytes(bytes)),
        }
    }
}

/// A [`PositiveDuration`], or `"off"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DurationOrOff(pub Option<std::time::Duration>);

schema!(DurationOrOff, "duration or \"off\"", { "type": "string", "pattern": "^off$|^[0-9]" });

impl FromText for DurationOrOff {
    fn from_text(text: &str) -> Result<Self, Problem> {
        match text {
            "off" => Ok(DurationOrOff(None)),
            _ => PositiveDuration::from_text(text).map(|duration| DurationOrOff(Some(duration.0))),
        }
    }
}
