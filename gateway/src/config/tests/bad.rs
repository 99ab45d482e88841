//! Bad configurations and exactly what is said about them: the cases in `bad/*.txt`.
//!
//! ```text
//! === what is wrong
//! the text of gateway.toml
//! @@ conf.d/other.toml
//! the text of another file
//! ---
//! the report
//! ```
//!
//! `UPDATE=1 cargo test` writes the reports anew; read the difference before committing it.

use std::fmt::Write;
use std::path::Path;

use super::certificates;
use crate::config::Severity;

#[test]
fn every_bad_configuration_gets_exactly_its_report() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/tests/bad");
    let mut files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut cases = 0;
    for file in files {
        let wanted = std::fs::read_to_string(&file).unwrap();
        let mut got = String::new();
        for case in wanted.split("=== ").skip(1) {
            cases += 1;
            let (input, _) = case.split_once("---\n").unwrap_or((case, ""));
            write!(got, "=== {input}---\n{}", report(input)).unwrap();
        }
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&file, &got).unwrap();
        } else {
            assert!(got == wanted, "{} has other reports:\n{got}", file.display());
        }
    }
    assert!(cases >= 90, "{cases}");
}

fn report(input: &str) -> String {
    let (_title, text) = input.split_once('\n').unwrap();
    let mut files = certificates::files();
    let mut parts = text.split("@@ ");
    files.add("gateway.toml", parts.next().unwrap());
    for part in parts {
        let (path, text) = part.split_once('\n').unwrap();
        files.add(path, text);
    }
    match files.load() {
        Ok(loaded) => {
            assert_eq!(loaded.warnings.count(Severity::Error), 0);
            loaded.warnings.to_string()
        }
        Err(report) => {
            assert_ne!(report.count(Severity::Error), 0, "refused without an error");
            report.to_string()
        }
    }
}
