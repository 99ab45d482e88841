//! What the figures were measured on.

use std::fmt::Write;
use std::fs;
use std::process::Command;
use std::time::SystemTime;

use crate::peer::Peer;

/// Programs beside the proxies whose version matters.
const TOOLS: &[(&str, &str)] =
    &[("rustc", "--version"), ("h2load", "--version"), ("nft", "--version"), ("valgrind", "--version")];

/// `DATE-KERNEL-CPU`, for a directory.
pub fn name() -> String {
    let date = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let day = date.split('T').next().unwrap_or("");
    let plain = |text: &str| -> String {
        let words: Vec<&str> =
            text.split(|c: char| !c.is_ascii_alphanumeric() && c != '.').filter(|word| !word.is_empty()).collect();
        words.join("_")
    };
    format!("{day}-{}-{}", plain(&kernel()), plain(&cpu_model()))
}

/// The text of `machine.txt`.
pub fn describe() -> String {
    let mut text = String::new();
    let memory = field("/proc/meminfo", "MemTotal");
    let cores = read("/sys/devices/system/cpu/online");
    let _ = writeln!(text, "date: {}", humantime::format_rfc3339_seconds(SystemTime::now()));
    let _ = writeln!(text, "kernel: {}", kernel());
    let _ = writeln!(text, "cpu: {}\ncores: {cores}\nmemory: {memory}", cpu_model());
    let _ = writeln!(text, "load before: {}", read("/proc/loadavg"));
    let _ = writeln!(text, "commit: {}", said("git", &["describe", "--always", "--dirty", "--abbrev=12"]));
    for (tool, argument) in TOOLS {
        let _ = writeln!(text, "{tool}: {}", said(tool, &[argument]));
    }
    for peer in Peer::ALL.into_iter().filter(|peer| peer.program().is_some()) {
        let _ = writeln!(text, "{peer}: {}", peer.version());
    }
    let _ = writeln!(text, "\nmitigations:");
    for entry in fs::read_dir("/sys/devices/system/cpu/vulnerabilities").into_iter().flatten().flatten() {
        let state = fs::read_to_string(entry.path()).unwrap_or_default();
        if !state.starts_with("Not affected") {
            let _ = writeln!(text, "  {}: {}", entry.file_name().to_string_lossy(), state.trim());
        }
    }
    text
}

/// The compiler and its version.
pub fn compiler() -> String {
    said("rustc", &["--version"])
}

fn kernel() -> String {
    read("/proc/sys/kernel/osrelease")
}

fn cpu_model() -> String {
    field("/proc/cpuinfo", "model name")
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn field(path: &str, name: &str) -> String {
    let text = read(path);
    let line = text.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.split_once(':')).map_or_else(|| "unknown".into(), |(_, value)| value.trim().to_owned())
}

fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).lines().next().unwrap_or("not there").trim().to_owned()
}
