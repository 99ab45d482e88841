//! How single values are written: durations, sizes, numbers, names.

mod acme;
mod balance;
mod filter;
mod http;
mod l4;
mod net;
mod overload;
#[cfg(test)]
mod tests;
mod tls;

use std::time;

pub use acme::*;
pub use balance::*;
pub use filter::*;
pub use http::*;
pub use l4::*;
pub use net::*;
pub use overload::*;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
pub use tls::*;

use super::decode::{Decode, FromText, Node, Problem};
use super::report::Diagnostics;

/// A value's part of the JSON Schema: what it is called there, and what it looks like.
macro_rules! schema {
    ($type:ty, $name:literal, $schema:tt) => {
        impl schemars::JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let mut schema = schemars::json_schema!($schema);
                schema.insert("title".into(), $name.into());
                schema
            }
        }
    };
}
use schema;

/// `"500ms"`, `"5s"`, `"1m30s"`, `"0s"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Duration(pub time::Duration);

schema!(Duration, "duration", { "type": "string", "pattern": "^[0-9]" });

/// Longest time that may be configured. Adding one to the clock never overflows.
const MAX_DURATION: time::Duration = time::Duration::from_secs(366 * 24 * 60 * 60);

impl FromText for Duration {
    fn from_text(text: &str) -> Result<Self, Problem> {
        const HELP: &str = "a number and a unit, such as \"500ms\", \"5s\" or \"1m30s\"";
        match humantime::parse_duration(text) {
            Ok(duration) if duration <= MAX_DURATION => Ok(Duration(duration)),
            Ok(_) => Err(Problem::new(format!("\"{text}\" is too long"), "at most a year")),
            Err(_) => Err(Problem::new(format!("\"{text}\" is not a duration"), HELP)),
        }
    }
}

/// A [`Duration`] that is not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PositiveDuration(pub time::Duration);

schema!(PositiveDuration, "duration", { "type": "string", "pattern": "^[0-9]" });

impl FromText for PositiveDuration {
    fn from_text(text: &str) -> Result<Self, Problem> {
        match Duration::from_text(text)? {
            Duration(time::Duration::ZERO) => Err(Problem::new("must be more than zero", "for example \"1s\"")),
            Duration(duration) => Ok(PositiveDuration(duration)),
        }
    }
}

/// A moment: `"2026-12-01T00:00:00Z"` (RFC 3339).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment(pub time::SystemTime);

schema!(Moment, "moment", { "type": "string", "format": "date-time" });

impl FromText for Moment {
    fn from_text(text: &str) -> Result<Self, Problem> {
        let help = "date and time of UTC, such as \"2026-12-01T00:00:00Z\"";
        let moment = humantime::parse_rfc3339(text);
        moment.map(Moment).map_err(|_| Problem::new(format!("{text:?} is not a moment"), help))
    }
}

/// A number of bytes: `"64KiB"`, `"10MB"`, `1500`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

schema!(Size, "size", {
    "anyOf": [{ "type": "integer", "minimum": 0 }, { "type": "string", "pattern": "^[0-9]+ *[kKMGT]?i?B?$" }]
});

impl Decode for Size {
    fn decode(node: Node<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        let bytes = match node.integer() {
            Some(bytes) => u64::try_from(bytes).ok(),
            None if node.is_string() => parse_size(node.string(diagnostics)?),
            None => return node.mismatch("a size, such as \"64KiB\" or 1500", diagnostics),
        };
        if bytes.is_none() {
            let help = "a whole number of bytes with or without a unit, such as \"64KiB\", \"10MB\" or 1500";
            diagnostics.error(node.span, "not a size").help(help);
        }
        bytes.map(Size)
    }
}

fn parse_size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit: u64 = match text[digits..].trim_start() {
        "" | "B" => 1,
        "kB" | "KB" => 1000,
        "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "GiB" => 1 << 30,
        "TB" => 1_000_000_000_000,
        "TiB" => 1 << 40,
        _ => return None,
    };
    text[..digits].parse::<u64>().ok()?.checked_mul(unit)
}

/// A whole number between `MIN` and `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count<T, const MIN: u64, const MAX: u64>(pub T);

impl<T: TryFrom<i128>, const MIN: u64, const MAX: u64> Decode for Count<T, MIN, MAX> {
    fn decode(node: Node<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        let Some(number) = node.integer() else { return node.mismatch("an integer", diagnostics) };
        let range = i128::from(MIN)..=i128::from(MAX);
        let count = range.contains(&number).then(|| T::try_from(number).ok()).flatten();
        if count.is_none() {
            diagnostics.error(node.span, format!("out of range: must be between {MIN} and {MAX}"));
        }
        count.map(Count)
    }
}

impl<T, const MIN: u64, const MAX: u64> JsonSchema for Count<T, MIN, MAX> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "integer".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": MIN, "maximum": MAX })
    }
}

/// `"auto"` or a number of threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workers(pub Option<u32>);

schema!(Workers, "\"auto\" or integer", {
    "anyOf": [{ "const": "auto" }, { "type": "integer", "minimum": 1, "maximum": MAX_WORKERS }]
});

/// More threads than any machine has cores, and few enough for a table with a row for each.
const MAX_WORKERS: u64 = 1024;

impl Decode for Workers {
    fn decode(node: Node<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        if !node.is_string() {
            return Count::<u32, 1, MAX_WORKERS>::decode(node, diagnostics).map(|count| Workers(Some(count.0)));
        }
        if node.string(diagnostics)? == "auto" {
            return Some(Workers(None));
        }
        diagnostics.error(node.span, "expected \"auto\" or a number of threads");
        None
    }
}

/// What something is called, in this file, in logs and in metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(pub String);

schema!(Name, "name", { "type": "string", "pattern": "^[A-Za-z0-9._:/-]{1,128}$" });

impl FromText for Name {
    fn from_text(text: &str) -> Result<Self, Problem> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/-".contains(&byte);
        if (1..=128).contains(&text.len()) && text.bytes().all(fits) {
            return Ok(Name(text.to_owned()));
        }
        Err(Problem::new(
            format!("{text:?} cannot be a name"),
            "1 to 128 letters, digits, `-`, `_`, `.`, `:` or `/`: names appear in logs and metrics",
        ))
    }
}

/// A file, relative to the directory of the file that names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePath(pub String);

schema!(FilePath, "path", { "type": "string", "minLength": 1 });

impl FromText for FilePath {
    fn from_text(text: &str) -> Result<Self, Problem> {
        if text.is_empty() || text.contains('\0') {
            return Err(Problem::new("not a path", "for example \"certs/example.pem\""));
        }
        Ok(FilePath(text.to_owned()))
    }
}
