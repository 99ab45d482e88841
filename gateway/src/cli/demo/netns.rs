//! Network namespaces, made and removed by `ip netns`. Root only.
//!
//! The demo's lab and the tests' lab are built from these. A name is `<prefix>-<pid>-<rest>`, so what a killed process
//! left behind can be told from what is in use.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

/// Where `ip netns` keeps its namespaces.
const FOLDER: &str = "/run/netns";

/// A namespace with its loopback up. Dropping it removes it, and with it the interfaces in it and their peers.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes a namespace for this process.
    pub fn create(prefix: &str, rest: &str) -> io::Result<Namespace> {
        let name = format!("{prefix}-{}-{rest}", process::id());
        run(&["ip", "netns", "add", &name])?;
        let namespace = Namespace { name };
        namespace.run(&["ip", "link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// The name for `ip netns exec`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file to open for `setns(2)`.
    pub fn path(&self) -> PathBuf {
        Path::new(FOLDER).join(&self.name)
    }

    /// Runs a command inside to its end.
    pub fn run(&self, command: &[&str]) -> io::Result<()> {
        run(&[&["ip", "netns", "exec", &self.name], command].concat())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Runs a command to its end. The error has the command and what it wrote.
pub fn run(command: &[&str]) -> io::Result<()> {
    let failed = |why: &str| io::Error::other(format!("`{}` failed: {}", command.join(" "), why.trim()));
    let output = Command::new(command[0]).args(&command[1..]).output().map_err(|error| failed(&error.to_string()))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(failed(&String::from_utf8_lossy(&output.stderr))),
    }
}

/// Removes the namespaces that killed processes left behind.
pub fn remove_leftovers(prefix: &str) {
    let Ok(names) = std::fs::read_dir(FOLDER) else { return };
    for name in names.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        if owner(prefix, &name).is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            remove(&name);
        }
    }
}

/// The process that made a namespace of this name.
fn owner(prefix: &str, name: &str) -> Option<u32> {
    let (pid, _rest) = name.strip_prefix(prefix)?.strip_prefix('-')?.split_once('-')?;
    pid.parse().ok()
}

fn remove(name: &str) {
    if let Err(error) = run(&["ip", "netns", "delete", name]) {
        log::warn!("a network namespace stays behind: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::owner;

    #[test]
    fn only_names_of_the_prefix_with_a_process_id_have_an_owner() {
        let cases = [
            ("gw-demo-77-client-good", Some(77)),
            ("gw-demo-77-x", Some(77)),
            ("gw-demo-77", None),
            ("gw-demo-x-client", None),
            ("gw-demos-77-client", None),
            ("other-77-client", None),
        ];
        for (name, expected) in cases {
            assert_eq!(owner("gw-demo", name), expected, "{name}");
        }
    }
}
