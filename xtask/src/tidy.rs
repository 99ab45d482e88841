//! `cargo xtask tidy`: formatting, lints, and what ARCHITECTURE.md promises about the tree.
//!
//! The order of the modules is read from that document's `rings` block, so that there is one place to change it.
//! Test code is exempt: it may start a clock or read a sample file.

mod rust;

use crate::shell::{Cmd, root};
use anyhow::{Context, Result, bail};
use rust::Name;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

pub fn run() -> Result<()> {
    let findings = structure()?;
    if !findings.is_empty() {
        bail!("{} findings:\n  {}", findings.len(), findings.join("\n  "));
    }
    for component in ["fmt", "clippy"] {
        if !Cmd::cargo().args([component, "--version"]).succeeds() {
            bail!("cargo {component} is missing: `rustup component add rustfmt clippy`");
        }
    }
    Cmd::cargo().args(["fmt", "--all", "--check"]).run()?;
    Cmd::cargo().args(["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]).run()?;
    println!("tidy: module directions, named paths, formatting and lints are in order");
    Ok(())
}

/// What the tree does against ARCHITECTURE.md.
fn structure() -> Result<Vec<String>> {
    let document = fs::read_to_string(root().join("ARCHITECTURE.md")).context("cannot read ARCHITECTURE.md")?;
    let rings = Rings::parse(&document)?;
    let mut findings = missing_paths(&document, exists);
    let library = root().join("gateway/src");
    for file in rust_files(&library)? {
        let source = fs::read_to_string(&file)?;
        let path = file.strip_prefix(&library).unwrap_or(&file).to_string_lossy();
        findings.extend(violations(&path, &source, &rings));
    }
    Ok(findings)
}

/// The modules in order, each with its rank; siblings share one. Modules up to the end of the first line are pure.
#[derive(Debug)]
struct Rings {
    ranks: Vec<(String, usize)>,
    pure_below: usize,
}

impl Rings {
    /// Reads a block such as
    /// ```text
    /// pure   proto < config < route, filter
    /// io     net < proxy
    /// ```
    fn parse(document: &str) -> Result<Self> {
        let lines = block(document, "rings").context("ARCHITECTURE.md has no ```rings block")?;
        let mut rings = Self { ranks: Vec::new(), pure_below: 0 };
        let mut rank = 0;
        for (index, line) in lines.iter().enumerate() {
            let (_ring, modules) = line.split_once(' ').with_context(|| format!("rings: no modules in `{line}`"))?;
            for siblings in modules.split('<') {
                rings.ranks.extend(siblings.split(',').map(|name| (name.trim().to_owned(), rank)));
                rank += 1;
            }
            if index == 0 {
                rings.pure_below = rank;
            }
        }
        Ok(rings)
    }

    fn rank(&self, module: &str) -> Option<usize> {
        self.ranks.iter().find(|(name, _)| name == module).map(|(_, rank)| *rank)
    }
}

/// Names that only some files may use.
struct Reserved {
    names: &'static [&'static str],
    /// Beginnings of paths under gateway/src.
    only_in: &'static [&'static str],
    why: &'static str,
}

const RESERVED: &[Reserved] = &[
    Reserved {
        names: &["tokio_uring", "io_uring"],
        only_in: &["net"],
        why: "only net/ names the io_uring runtime: its rules on buffers and cancellation are kept in one place",
    },
    Reserved { names: &["aya", "aya_log"], only_in: &["xdp"], why: "only xdp/ names aya" },
    Reserved {
        names: &["fs::read", "fs::read_to_string", "File::open"],
        only_in: &["control/source", "control/store"],
        why: "only control/source and control/store read files (others get bytes), except the kernel's in /proc and /sys",
    },
];

/// What the pure ring must get as a parameter: sockets and files as bytes, time as `now`, randomness as `rng`.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "std::net::TcpStream",
    "std::net::TcpListener",
    "std::net::UdpSocket",
    "std::os::unix::net",
    "Instant::now",
    "SystemTime::now",
    "Rng::new",
    "tokio",
    "socket2",
    "libc",
];

/// What the file `path` (under gateway/src) names against the rules.
fn violations(path: &str, source: &str, rings: &Rings) -> Vec<String> {
    let module = path.split(['/', '.']).next().unwrap_or(path);
    if module == "lib" || module == "main" {
        return Vec::new();
    }
    let Some(own) = rings.rank(module) else {
        return vec![format!("gateway/src/{path}: module `{module}` is not in the rings of ARCHITECTURE.md")];
    };
    let lines: Vec<&str> = source.lines().collect();
    let judge = |name: &Name| {
        let problem = wrong_direction(name, module, own, rings)
            .or_else(|| reserved(name, path, lines.get(name.line - 1)?))
            .or_else(|| (own < rings.pure_below).then(|| impure(name)).flatten())?;
        Some(format!("gateway/src/{path}:{}: `{}`: {problem}", name.line, name.path))
    };
    rust::names(source).iter().filter_map(judge).collect()
}

fn wrong_direction(name: &Name, module: &str, own: usize, rings: &Rings) -> Option<String> {
    let used = name.path.strip_prefix("crate::")?.split("::").next()?;
    // What is not a module of its own is an item of lib.rs, such as an exported macro.
    let rank = rings.rank(used)?;
    (used != module && rank >= own).then(|| format!("{module} is not above {used} in the rings"))
}

fn reserved(name: &Name, path: &str, line: &str) -> Option<String> {
    let rule = RESERVED.iter().find(|rule| rule.names.iter().any(|reserved| name.contains(reserved)))?;
    let kernel_file = line.contains("\"/proc/") || line.contains("\"/sys/");
    let allowed = kernel_file || rule.only_in.iter().any(|start| path.starts_with(start));
    (!allowed).then(|| rule.why.to_owned())
}

fn impure(name: &Name) -> Option<String> {
    let found = IMPURE.iter().find(|impure| name.contains(impure))?;
    Some(format!("the pure ring names no {found}"))
}

/// Paths in backticks and at the starts of the lines of `folders` blocks that do not exist.
fn missing_paths(document: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let tree = block(document, "folders").unwrap_or_default();
    let in_tree = tree.iter().filter_map(|line| line.split_whitespace().next());
    let in_text = document.lines().flat_map(|line| line.split('`').skip(1).step_by(2)).filter(|span| is_path(span));
    let named: BTreeSet<String> = in_tree.chain(in_text).flat_map(expand_braces).collect();
    let missing = named.iter().filter(|path| !exists(path));
    missing.map(|path| format!("ARCHITECTURE.md names {path}, which does not exist")).collect()
}

/// Paths of the tree have a slash inside or at the end; patterns, URLs and absolute paths are something else.
fn is_path(span: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-{},".contains(c);
    span.contains('/') && !span.starts_with('/') && span.chars().all(plain)
}

/// `a/{b,c}.rs` names two files.
fn expand_braces(path: &str) -> Vec<String> {
    let parts = path.split_once('{').and_then(|(head, rest)| Some((head, rest.split_once('}')?)));
    let Some((head, (choices, tail))) = parts else { return vec![path.to_owned()] };
    choices.split(',').map(|choice| format!("{head}{choice}{tail}")).collect()
}

/// Paths are meant from the root or, as most are, from gateway/src.
fn exists(path: &str) -> bool {
    root().join(path).exists() || root().join("gateway/src").join(path).exists()
}

/// The lines of the block fenced with this info string.
fn block<'a>(document: &'a str, info: &str) -> Option<Vec<&'a str>> {
    let mut lines = document.lines().skip_while(|line| line.strip_prefix("```") != Some(info));
    lines.next()?;
    Some(lines.take_while(|line| *line != "```").filter(|line| !line.trim().is_empty()).collect())
}

/// The library's files; `tests.rs` and the folders `tests` are test code.
fn rust_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry?.path();
        if path.file_stem().is_some_and(|stem| stem == "tests") {
            continue;
        }
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests;
