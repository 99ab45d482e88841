//! `docs/config.md`, written from the JSON Schema so that it cannot say anything else than the code.

use std::fmt::Write;

use serde_json::{Map, Value};

type Object = Map<String, Value>;

const INTRODUCTION: &str = r#"# Configuration reference

<!-- Written by `config::reference` from the JSON Schema; change the text in `gateway/src/config/raw`. -->

One TOML file, and those it includes. `gateway check FILE` reports everything that is wrong with it, with line and
column; `gateway schema` prints its JSON Schema, which editors use to complete and check it as you type. Samples
are in `gateway/examples/`.

Unknown keys are errors. Tables refer to each other by name, in any order.

How values are written:

| value | written as |
|---|---|
| duration | a string of numbers with units: `"500ms"`, `"5s"`, `"1m30s"`, at most a year |
| size | bytes: an integer, or a string with a unit of `kB` `MB` `GB` `TB` (thousands) or `KiB` `MiB` `GiB` `TiB` (1024s) |
| CIDR | `"10.0.0.0/8"`, `"2001:db8::/32"`, or a single address; IPv4-mapped ones (`"::ffff:10.0.0.0/104"`) are IPv4 |
| address | IP address and port: `"0.0.0.0:80"`, `"[::]:443"`; port 0 takes a free one |
| endpoint address | an address, or a name and a port: `"api.internal:8080"` |
| path | a file, relative to the directory of the file that names it |
| name | 1 to 128 letters, digits and `-` `_` `.` `:` `/` |
| regex | the syntax of the Rust `regex` crate; it must match the whole text |
"#;

/// The text of `docs/config.md`.
pub fn reference() -> String {
    let schema = super::schema().to_value();
    let root = schema.as_object().cloned().unwrap_or_default();
    let defs = root["$defs"].as_object().cloned().unwrap_or_default();
    let mut page = Page { text: INTRODUCTION.to_owned(), defs: &defs };
    let (tables, keys) = properties(&root).partition::<Vec<_>, _>(|(_, schema)| !references(schema).is_empty());
    page.heading(2, "Top level", "");
    page.rows(&root, &keys);
    for (key, schema) in tables {
        page.table(key, schema);
    }
    page.text
}

struct Page<'a> {
    text: String,
    defs: &'a Object,
}

impl Page<'_> {
    /// A section for a table of the file, and one for each table in it.
    fn table(&mut self, key: &str, schema: &Value) {
        let title = if schema["type"] == "array" { format!("`[[{key}]]`") } else { format!("`[{key}]`") };
        self.heading(2, &title, description(schema));
        for reference in references(schema) {
            self.section(&title, reference);
        }
    }

    fn section(&mut self, title: &str, reference: &str) {
        let Some(table) = self.defs.get(reference).and_then(Value::as_object) else { return };
        let keys: Vec<_> = properties(table).collect();
        self.rows(table, &keys);
        let mut inner: Vec<(&str, Vec<&str>)> = Vec::new();
        for (key, schema) in &keys {
            for reference in references(schema) {
                match inner.iter_mut().find(|(seen, _)| *seen == reference) {
                    Some((_, keys)) => keys.push(key),
                    None => inner.push((reference, vec![key])),
                }
            }
        }
        for (reference, keys) in inner {
            let keys = keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
            let title = format!("{keys} of {title}");
            self.heading(3, &title, description(&self.defs[reference]));
            self.section(&title, reference);
        }
    }

    fn heading(&mut self, level: usize, title: &str, text: &str) {
        let text = if text.is_empty() { String::new() } else { format!("{text}\n\n") };
        _ = write!(self.text, "\n{} {title}\n\n{text}", "#".repeat(level));
    }

    fn rows(&mut self, table: &Object, keys: &[(&str, &Value)]) {
        let required: Vec<&Value> = table.get("required").and_then(Value::as_array).into_iter().flatten().collect();
        self.text += "| key | type | default | meaning | example |\n|---|---|---|---|---|\n";
        for (key, schema) in keys {
            let default = match schema.get("default") {
                Some(default) => code(default),
                None if required.iter().any(|name| *name == key) => "**required**".into(),
                None => "none".into(),
            };
            let example = schema["examples"].get(0).map_or_else(String::new, code);
            let meaning = description(schema).replace('\n', " ");
            let cells = [format!("`{key}`"), type_name(schema), default, meaning, example];
            let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
            _ = writeln!(self.text, "| {} |", cells.join(" | "));
        }
    }
}

fn properties(table: &Object) -> impl Iterator<Item = (&str, &Value)> {
    let properties = table.get("properties").and_then(Value::as_object);
    properties.into_iter().flatten().map(|(key, schema)| (key.as_str(), schema))
}

fn description(schema: &Value) -> &str {
    schema["description"].as_str().unwrap_or_default()
}

/// The tables that may stand at this place.
fn references(schema: &Value) -> Vec<&str> {
    let own = schema["$ref"].as_str().and_then(|path| path.strip_prefix("#/$defs/"));
    let choices = schema["anyOf"].as_array().into_iter().flatten();
    let inner = choices.chain(schema.get("items")).chain(schema.get("additionalProperties"));
    own.into_iter().chain(inner.flat_map(references)).collect()
}

fn type_name(schema: &Value) -> String {
    if let Some(title) = schema["title"].as_str() {
        return title.to_owned();
    }
    if let Some(words) = schema["enum"].as_array() {
        return words.iter().map(code).collect::<Vec<_>>().join(", ");
    }
    if let Some(choices) = schema["anyOf"].as_array() {
        return choices.iter().map(type_name).collect::<Vec<_>>().join(" or ");
    }
    match schema["type"].as_str() {
        Some("array") => format!("list of {}", type_name(&schema["items"])),
        Some("object") => format!("table of {}", type_name(&schema["additionalProperties"])),
        Some("integer") => format!("{} to {}", schema["minimum"], schema["maximum"]),
        Some(other) => other.to_owned(),
        None => "table".to_owned(),
    }
}

fn code(value: &Value) -> String {
    format!("`{}`", toml_text(value))
}

/// The value as it is written in the file. Unlike the `toml` crate, on one line.
pub fn toml_text(value: &Value) -> String {
    match value {
        Value::Array(values) => format!("[{}]", values.iter().map(toml_text).collect::<Vec<_>>().join(", ")),
        Value::Object(pairs) if pairs.is_empty() => "{}".to_owned(),
        Value::Object(pairs) => {
            let pairs: Vec<_> = pairs.iter().map(|(key, value)| format!("{key} = {}", toml_text(value))).collect();
            format!("{{ {} }}", pairs.join(", "))
        }
        // Strings, numbers and booleans are written alike in JSON and TOML.
        scalar => scalar.to_string(),
    }
}
