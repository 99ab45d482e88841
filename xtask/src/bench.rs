//! `cargo xtask bench`: the micro-benches of the bench package.

use crate::shell::Cmd;
use anyhow::Result;

#[derive(clap::Args)]
pub struct Args {
    /// Run only the benches whose name contains this
    filter: Option<String>,
}

pub fn run(args: Args) -> Result<()> {
    println!("Micro-benches only: load scenarios against other gateways do not exist yet.");
    Cmd::cargo().args(["bench", "--package", "gateway-bench", "--benches", "--"]).args(args.filter).run()
}
