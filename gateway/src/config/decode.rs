//! From a TOML tree to the [`raw`](super::raw) types, reporting everything that does not fit.
//!
//! serde stops at the first error of a document; here a value that does not fit is reported, left out, and its
//! neighbours are still looked at. The raw types stay the only description of the file: one [`table!`] declares the
//! struct, how it is read, and (through schemars) its part of the JSON Schema.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::report::Diagnostics;
use super::schema::transparent_schema;
use super::span::{At, SourceId, Span};

/// A value of the tree, and where it stands.
#[derive(Clone, Copy)]
pub struct Node<'a> {
    value: &'a DeValue<'a>,
    source: SourceId,
    /// Where it stands.
    pub span: Span,
}

/// What can be read from a [`Node`].
pub trait Decode: Sized {
    /// Reads it; `None` when an error was reported.
    fn decode(node: Node<'_>, diagnostics: &mut Diagnostics) -> Option<Self>;
}

/// What is written as a string.
pub trait FromText: Sized {
    /// Reads it.
    fn from_text(text: &str) -> Result<Self, Problem>;
}

/// Why a text cannot be read.
#[derive(Debug)]
pub struct Problem {
    message: String,
    help: String,
    at: Option<std::ops::Range<usize>>,
}

impl Problem {
    /// A problem with the whole text.
    pub fn new(message: impl Into<String>, help: impl Into<String>) -> Problem {
        Problem { message: message.into(), help: help.into(), at: None }
    }

    /// The problem is with this part of the text, in bytes.
    pub fn at(self, at: std::ops::Range<usize>) -> Problem {
        Problem { at: Some(at), ..self }
    }

    /// Reports the problem with the text at `span`.
    pub fn report(self, text: &str, span: Span, diagnostics: &mut Diagnostics) {
        let span = self.at.map_or(span, |at| within(span, text, at, diagnostics));
        diagnostics.error(span, self.message).help(self.help);
    }
}

/// Where the bytes `at` of a string stand, if it is written without escapes; else the whole string.
pub fn within(span: Span, text: &str, at: std::ops::Range<usize>, diagnostics: &Diagnostics) -> Span {
    let inner = span.part(1, text.len() + 1);
    if diagnostics.sources.slice(inner) == text { inner.part(at.start, at.end.max(at.start + 1)) } else { span }
}

impl<T: FromText> Decode for T {
    fn decode(node: Node<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        let text = node.string(diagnostics)?;
        T::from_text(text).map_err(|problem| problem.report(text, node.span, diagnostics)).ok()
    }
}

impl Decode for String {
    fn decode(node: Node<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        node.string(diagnostics).map(str::to_owned)
    }
}

impl Decode for bool {
    fn decode(node: Node<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        match node.value {
            DeValue::Boolean(value) => Some(*value),
            _ => node.mismatch("true or false", diagnostics),
        }
    }
}

/// A list, or an array of tables. Every element that does not fit is reported.
pub type List<T> = Vec<At<T>>;

impl<T: Decode> Decode for List<T> {
    fn decode(node: Node<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        let DeValue::Array(elements) = node.value else { return node.mismatch("a list", diagnostics) };
        let elements: Vec<_> =
            elements.iter().map(|element| Node::of(element, node.source).read(diagnostics)).collect();
        elements.into_iter().collect()
    }
}

/// A table whose keys are the user's: header or parameter names. In the order of the file.
#[derive(Debug)]
pub struct Map<T>(pub Vec<(At<String>, At<T>)>);

impl<T: Decode> Decode for Map<T> {
    fn decode(node: Node<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        let DeValue::Table(entries) = node.value else { return node.mismatch("a table", diagnostics) };
        let mut pairs: Vec<_> = entries
            .iter()
            .filter_map(|(key, value)| {
                let key = At { value: key.get_ref().to_string(), span: node.source.span(key.span()) };
                Some((key, Node::of(value, node.source).read(diagnostics)?))
            })
            .collect();
        pairs.sort_by_key(|(key, _)| key.span);
        Some(Map(pairs))
    }
}

impl<T: JsonSchema> JsonSchema for Map<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Map_of_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "additionalProperties": generator.subschema_for::<T>() })
    }
}

impl<'a> Node<'a> {
    /// The root of a file.
    pub fn of(value: &'a Spanned<DeValue<'a>>, source: SourceId) -> Node<'a> {
        Node { value: value.get_ref(), source, span: source.span(value.span()) }
    }

    /// Reads a value and keeps where it stands.
    pub fn read<T: Decode>(self, diagnostics: &mut Diagnostics) -> Option<At<T>> {
        T::decode(self, diagnostics).map(|value| At { value, span: self.span })
    }

    /// The text, or an error.
    pub fn string(self, diagnostics: &mut Diagnostics) -> Option<&'a str> {
        match self.value {
            DeValue::String(text) => Some(text),
            _ => self.mismatch("a string", diagnostics),
        }
    }

    /// The number if it is a whole one; `None` without an error if it is something else.
    pub fn integer(self) -> Option<i128> {
        match self.value {
            // No TOML integer is that long: one that does not fit is out of every range.
            DeValue::Integer(value) => Some(i128::from_str_radix(value.as_str(), value.radix()).unwrap_or(i128::MAX)),
            _ => None,
        }
    }

    /// The number, whole or not; `None` without an error if it is something else.
    pub fn number(self) -> Option<f64> {
        match self.value {
            DeValue::Float(value) => value.as_str().parse().ok(),
            _ => self.integer().map(|whole| whole as f64),
        }
    }

    /// Whether it is a table.
    pub fn is_table(self) -> bool {
        matches!(self.value, DeValue::Table(_))
    }

    /// Whether it is a table without keys.
    pub fn is_empty_table(self) -> bool {
        matches!(self.value, DeValue::Table(entries) if entries.is_empty())
    }

    /// Whether it is a list.
    pub fn is_list(self) -> bool {
        matches!(self.value, DeValue::Array(_))
    }

    /// Whether it is a string.
    pub fn is_string(self) -> bool {
        matches!(self.value, DeValue::String(_))
    }

    /// Reports that something else is wanted here.
    pub fn mismatch<T>(self, wanted: &str, diagnostics: &mut Diagnostics) -> Option<T> {
        let found = match self.value {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        diagnostics.error(self.span, format!("expected {wanted}, found {found}"));
        None
    }
}

/// A table whose keys are ours: what [`table!`] reads a struct from.
pub struct Table<'a, 'd> {
    entries: &'a DeTable<'a>,
    node: Node<'a>,
    title: &'static str,
    diagnostics: &'d mut Diagnostics,
}

impl<'a, 'd> Table<'a, 'd> {
    /// Reports a node that is no table.
    pub fn open(node: Node<'a>, title: &'static str, diagnostics: &'d mut Diagnostics) -> Option<Self> {
        match node.value {
            DeValue::Table(entries) => Some(Table { entries, node, title, diagnostics }),
            _ => node.mismatch("a table", diagnostics),
        }
    }

    /// Reads one key.
    pub fn field<F: Field>(&mut self, key: &'static str) -> F {
        F::read(key, self)
    }

    /// Reports every key that is not in `known`; those in `later` are planned, and the error says so.
    pub fn close(self, known: &[&'static str], later: &[&'static str]) {
        for key in self.entries.keys() {
            let (name, span) = (key.get_ref().as_ref(), self.node.source.span(key.span()));
            if later.contains(&name) {
                self.diagnostics.error(span, format!("`{name}` in {} is not supported yet", self.title));
            } else if !known.contains(&name) {
                let help = did_you_mean(name, known.iter().copied())
                    .unwrap_or_else(|| format!("known keys: {}", known.join(", ")));
                self.diagnostics.error(span, format!("unknown key `{name}` in {}", self.title)).help(help);
            }
        }
    }

    fn get<T: Decode>(&mut self, key: &str) -> Option<At<T>> {
        Node::of(self.entries.get(key)?, self.node.source).read(self.diagnostics)
    }
}

/// What a key of a table may be.
pub trait Field: Sized {
    /// Reads it from `table`.
    fn read(key: &'static str, table: &mut Table<'_, '_>) -> Self;
}

/// A key that may be left out.
pub type Optional<T> = Option<At<T>>;

impl<T: Decode> Field for Optional<T> {
    fn read(key: &'static str, table: &mut Table<'_, '_>) -> Self {
        table.get(key)
    }
}

/// A key that must be there. `None` when it is not, or is wrong, which has been reported: the rest of the table is
/// still worth checking.
#[derive(Debug)]
pub struct Required<T>(pub Option<At<T>>);

impl<T: Decode> Field for Required<T> {
    fn read(key: &'static str, table: &mut Table<'_, '_>) -> Self {
        if !table.entries.contains_key(key) {
            table.diagnostics.error(table.node.span, format!("`{key}` is missing in {}", table.title));
        }
        Required(table.get(key))
    }
}

transparent_schema!(Required);

/// The value of a key, or `None` when it is wrong, which has been reported. For keys of which one has to be there: a
/// wrong one is not a missing one.
#[derive(Debug)]
pub struct Given<T>(pub Option<T>);

impl<T: Decode> Decode for Given<T> {
    fn decode(node: Node<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        Some(Given(T::decode(node, diagnostics)))
    }
}

transparent_schema!(Given);

/// `[[x]]`: there may be none.
impl<T: Decode> Field for List<T> {
    fn read(key: &'static str, table: &mut Table<'_, '_>) -> Self {
        table.get(key).map_or_else(Vec::new, |list: At<List<T>>| list.value)
    }
}

/// The help for a name that does not exist, when one that does is close to it.
pub fn did_you_mean<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let similar = |candidate: &'a str| (strsim::normalized_damerau_levenshtein(name, candidate), candidate);
    let (similarity, best) = known.into_iter().map(similar).max_by(|a, b| a.0.total_cmp(&b.0))?;
    // One slip in three letters, two in five.
    (similarity >= 0.6).then(|| format!("did you mean `{best}`?"))
}

/// Declares a table of the file: the struct, its JSON Schema and how it is read.
///
/// The text is what errors call the table. Keys after `later` are planned, and get an error that says so.
macro_rules! table {
    ($title:literal $(later $later:tt)?
     $(#[$meta:meta])* pub struct $name:ident { $($(#[$field_meta:meta])* pub $field:ident : $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Debug, schemars::JsonSchema)]
        #[schemars(deny_unknown_fields)]
        pub struct $name { $($(#[$field_meta])* pub $field: $type,)* }

        impl $crate::config::decode::Decode for $name {
            fn decode(
                node: $crate::config::decode::Node<'_>,
                diagnostics: &mut $crate::config::report::Diagnostics,
            ) -> Option<Self> {
                // `match` is a keyword, so the field is `r#match`.
                let key = |field: &'static str| field.strip_prefix("r#").unwrap_or(field);
                let mut table = $crate::config::decode::Table::open(node, $title, diagnostics)?;
                let raw = $name { $($field: table.field(key(stringify!($field))),)* };
                table.close(&[$(key(stringify!($field))),*], $crate::config::decode::later!($($later)?));
                Some(raw)
            }
        }
    };
}

macro_rules! later {
    () => { &[] };
    ([$($key:literal),*]) => { &[$($key),*] };
}

macro_rules! never {
    () => {
        None
    };
    ({ $words:tt because $why:literal }) => {
        Some((&$words as &[_], $why))
    };
}

/// Lets an enum be read from one of a few words.
///
/// Words after `later` are planned, and get an error that says so; those after `never` are not, and get the reason.
macro_rules! keywords {
    ($type:ty { $($word:literal => $value:expr),* $(,)? }
        $(later $later:tt)? $(never $never:tt)?) => {
        impl $crate::config::decode::FromText for $type {
            fn from_text(text: &str) -> Result<Self, $crate::config::decode::Problem> {
                match text {
                    $($word => Ok($value),)*
                    _ => Err($crate::config::decode::not_a_keyword(
                        text,
                        &[$($word),*],
                        $crate::config::decode::later!($($later)?),
                        $crate::config::decode::never!($($never)?),
                    )),
                }
            }
        }

        impl schemars::JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "enum": [$($word),*] })
            }
        }
    };
}

pub(super) use {keywords, later, never, table};

/// The problem with a text that is none of `words`. `never` are words that there are elsewhere, and why not here.
pub fn not_a_keyword(
    text: &str,
    words: &[&'static str],
    later: &[&'static str],
    never: Option<(&[&'static str], &str)>,
) -> Problem {
    let list = words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
    if let Some((_, why)) = never.filter(|(never, _)| never.contains(&text)) {
        return Problem::new(format!("\"{text}\" is not offered: {why}"), format!("possible values: {list}"));
    }
    if later.contains(&text) {
        return Problem::new(format!("\"{text}\" is not supported yet"), format!("supported: {list}"));
    }
    let guess = did_you_mean(text, words.iter().copied()).map_or_else(String::new, |guess| guess + " ");
    Problem::new(format!("\"{text}\" is not a possible value"), format!("{guess}possible values: {list}"))
}
