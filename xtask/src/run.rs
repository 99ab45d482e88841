//! `cargo xtask run`: from a fresh checkout to a running gateway.

use crate::ebpf;
use crate::setup::{self, Set};
use crate::shell::{Cmd, is_root, loud, target_dir};
use anyhow::Result;
use std::env;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    /// The configuration to run; without it the gateway starts its demo
    #[arg(long)]
    config: Option<PathBuf>,
    /// More arguments for `gateway run`
    #[arg(last = true)]
    more: Vec<String>,
}

pub fn run(args: Args) -> Result<()> {
    setup::ensure(&[Set::Build, Set::Bpf])?;
    if let Err(error) = ebpf::build() {
        loud(&format!("XDP is off: {error:#}"));
    }
    Cmd::cargo().args(["build", "--release", "--package", "gateway"]).run()?;

    let program = target_dir().join("release/gateway");
    if !is_root() {
        // Never through sudo by ourselves: nobody asked for a server that runs as root.
        loud(&format!(
            "XDP is off: it needs privileges. To turn it on: sudo setcap \
             cap_net_admin,cap_bpf,cap_perfmon,cap_net_bind_service+ep {} and run again",
            program.display()
        ));
    }
    let gateway = Cmd::new(program).dir(env::current_dir()?).arg("run");
    let gateway = match &args.config {
        Some(file) => gateway.arg("--config").arg(file),
        None => gateway.arg("--demo"),
    };
    Err(gateway.args(&args.more).exec())
}
