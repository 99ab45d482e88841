//! `gateway doctor`: what on this machine keeps XDP from working or makes it slow.

mod facts;
mod judge;

use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::print;
use crate::config;
use crate::control::source::DiskFiles;
use facts::Facts;

/// Something that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub grade: Grade,
    /// What it is about: an interface, or a setting.
    pub subject: String,
    /// What was found.
    pub found: String,
    /// What that costs; empty when all is well.
    pub cost: String,
    /// What to do about it.
    pub fix: String,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// As it should be.
    Good,
    /// Works, at a cost.
    Costly,
    /// Does not work.
    Broken,
}

/// Looks, and prints what it finds. Exit code 1 when something does not work, or the configuration cannot be read.
pub fn run(path: Option<&Path>, as_json: bool) -> ExitCode {
    let config = match path.map(|path| config::load(path, &DiskFiles, SystemTime::now())) {
        Some(Err(report)) => {
            log::error!("{report}");
            return ExitCode::FAILURE;
        }
        Some(Ok(loaded)) => Some(loaded.config),
        None => None,
    };
    let findings = judge::judge(&Facts::gather(config.as_ref()), config.as_ref());
    print(&if as_json { format!("{:#}\n", view(&findings)) } else { text(&findings) });
    let broken = findings.iter().any(|finding| finding.grade == Grade::Broken);
    if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

impl Grade {
    fn name(self) -> &'static str {
        match self {
            Grade::Good => "ok",
            Grade::Costly => "costs",
            Grade::Broken => "broken",
        }
    }
}

fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    for Finding { grade, subject, found, cost, fix } in findings {
        text += &format!("{:6}  {subject}: {found}\n", grade.name());
        if !cost.is_empty() {
            text += &format!("        {cost}\n");
        }
        if !fix.is_empty() {
            text += &format!("        fix: {fix}\n");
        }
    }
    text
}

fn view(findings: &[Finding]) -> Value {
    let finding = |Finding { grade, subject, found, cost, fix }: &Finding| json!({ "grade": grade.name(), "subject": subject, "found": found, "cost": cost, "fix": fix });
    json!({ "findings": findings.iter().map(finding).collect::<Vec<_>>() })
}
