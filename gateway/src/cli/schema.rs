//! `gateway schema`: the JSON Schema of the configuration file.

/// What the command prints.
pub fn schema() -> String {
    format!("{:#}\n", crate::config::schema().to_value())
}
