//! `gateway check FILE [--json]`: everything that is wrong with a configuration.

use std::path::Path;

use serde_json::json;

use crate::config::model::Config;
use crate::config::{Files, Known, Report, Severity, load_knowing};

/// How the report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// For people; with colours where a terminal shows them.
    Text {
        /// Whether to use them.
        colour: bool,
    },
    /// One JSON object, for machines.
    Json,
}

/// What the command prints, and whether it exits with 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// What to print on standard output.
    pub output: String,
    /// Whether there was no error; then the exit code is 0, else 1.
    pub ok: bool,
}

/// Loads and reports.
pub fn check(path: &Path, files: &dyn Files, known: &Known<'_>, form: Form) -> Checked {
    let loaded = load_knowing(path, files, known);
    let ok = loaded.is_ok();
    let (summary, report) = match &loaded {
        Ok(loaded) => (format!("ok: {}", contents(&loaded.config)), &loaded.warnings),
        Err(report) => ("not usable".to_owned(), report),
    };
    let output = match form {
        Form::Text { colour } => format!("{}{}: {summary}{}\n", report.render(colour), path.display(), counts(report)),
        Form::Json => format!("{:#}\n", json(ok, report)),
    };
    Checked { output, ok }
}

fn json(ok: bool, report: &Report) -> serde_json::Value {
    json!({ "ok": ok, "errors": report.to_json(Severity::Error), "warnings": report.to_json(Severity::Warning) })
}

fn contents(config: &Config) -> String {
    let parts = [
        (config.listeners.len(), "listener"),
        (config.routes.len(), "route"),
        (config.clusters.len(), "cluster"),
        (config.certificates.len(), "certificate"),
        (config.access.len(), "access rule"),
    ];
    parts.map(|(count, what)| counted(count, what)).join(", ")
}

fn counts(report: &Report) -> String {
    let (errors, warnings) = (report.count(Severity::Error), report.count(Severity::Warning));
    match (errors, warnings) {
        (0, 0) => String::new(),
        (0, _) => format!(" ({})", counted(warnings, "warning")),
        (_, 0) => format!(" ({})", counted(errors, "error")),
        _ => format!(" ({}, {})", counted(errors, "error"), counted(warnings, "warning")),
    }
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::PathBuf;
    use std::time::SystemTime;

    use super::*;

    struct OneFile(&'static str);

    impl Files for OneFile {
        fn read(&self, _: &Path) -> io::Result<Vec<u8>> {
            Ok(self.0.into())
        }

        fn glob(&self, _: &Path) -> io::Result<Vec<PathBuf>> {
            Ok(Vec::new())
        }
    }

    fn run(text: &'static str, form: Form) -> Checked {
        let find_user = |user: &str, _: Option<&str>| match user {
            "www" => Ok(()),
            _ => Err(format!("there is no {user}")),
        };
        let known = Known { now: SystemTime::UNIX_EPOCH, running: None, find_user: Some(&find_user) };
        check(Path::new("gateway.toml"), &OneFile(text), &known, form)
    }

    const PLAIN: Form = Form::Text { colour: false };

    #[test]
    fn a_good_file_gets_one_line() {
        let checked = run(
            "[[listener]]\nname = \"a\"\naddress = \"0.0.0.0:80\"\n[[route]]\nname = \"r\"\nrespond = { status = 200 }\n",
            PLAIN,
        );
        let output = "gateway.toml: ok: 1 listener, 1 route, 0 clusters, 0 certificates, 0 access rules\n";
        assert_eq!(checked, Checked { output: output.into(), ok: true });
    }

    #[test]
    fn warnings_do_not_make_it_fail() {
        let checked = run("include = [\"x/*.toml\"]\n", PLAIN);
        assert!(checked.ok && checked.output.starts_with("warning: no file matches x/*.toml\n"), "{}", checked.output);
        assert!(checked.output.ends_with("0 access rules (1 warning)\n"), "{}", checked.output);
    }

    #[test]
    fn errors_make_it_fail() {
        let checked = run("a = 1\nb = 2\n", PLAIN);
        assert!(!checked.ok && checked.output.ends_with("gateway.toml: not usable (2 errors)\n"), "{}", checked.output);
    }

    #[test]
    fn a_user_that_the_machine_does_not_have_is_an_error() {
        let checked = run("[gateway]\nuser = \"nosuch\"\n", PLAIN);
        assert!(!checked.ok && checked.output.starts_with("error: there is no nosuch\n"), "{}", checked.output);
        assert!(run("[gateway]\nuser = \"www\"\n", PLAIN).ok);
    }

    #[test]
    fn machines_get_one_json_object() {
        let checked = run("gatewa = 1\n", Form::Json);
        let output: serde_json::Value = serde_json::from_str(&checked.output).unwrap();
        let error = json!({
            "file": "gateway.toml", "line": 1, "column": 1,
            "message": "unknown key `gatewa` in the file", "help": "did you mean `gateway`?",
        });
        assert_eq!(output, json!({ "ok": false, "errors": [error], "warnings": [] }));
    }
}
