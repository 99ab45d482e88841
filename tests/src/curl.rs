//! `curl`, as a client that we did not write.

use std::process::Command;

use crate::process::Process;
use crate::wait::DEADLINE;

/// Runs `curl --silent --show-error ARGS…` and returns its standard output.
///
/// # Panics
/// When it fails.
pub fn curl(args: &[&str]) -> String {
    let mut command = Command::new("curl");
    // --noproxy and --disable: nothing from this user's environment or ~/.curlrc.
    command.args(["--disable", "--noproxy", "*", "--silent", "--show-error", "--max-time", "30"]).args(args);
    let mut process = Process::start(command);
    let status = process.wait_exit(DEADLINE * 3);
    assert!(status.success(), "curl {args:?}: {status}: {}", process.stderr.text());
    process.stdout.text()
}
