//! `cargo xtask dist`: one tarball that installs on a machine without a compiler.
//!
//! The same checkout gives the same bytes: names are sorted, owners are 0, times are the commit's.

use crate::ebpf;
use crate::setup::{self, Set};
use crate::shell::{Cmd, root, target_dir};
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::{env, fs};

#[derive(clap::Args)]
pub struct Args {
    /// Pack a gateway without the XDP program where it cannot be built
    #[arg(long)]
    without_xdp: bool,
}

/// From where in the tree to where in the tarball.
const FILES: &[(&str, &str)] = &[
    ("gateway/dist/gateway.service", "gateway.service"),
    ("gateway/examples/reverse-proxy.toml", "gateway.toml"),
    ("gateway/dist/INSTALL.md", "INSTALL.md"),
    ("README.md", "README.md"),
    ("CHANGELOG.md", "CHANGELOG.md"),
    ("LICENSE", "LICENSE"),
];

pub fn run(args: Args) -> Result<()> {
    setup::ensure(&[Set::Build, Set::Bpf])?;
    if ebpf::build()?.is_none() && !args.without_xdp {
        bail!("a release has the XDP program in it: set up its toolchain, or say --without-xdp");
    }
    Cmd::cargo().args(["build", "--release", "--locked", "--package", "gateway"]).run()?;

    let name = format!("gateway-{}-{}", env!("CARGO_PKG_VERSION"), env::consts::ARCH);
    let staging = target_dir().join("dist");
    stage(&staging.join(&name))?;
    let tarball = pack(&staging, &name)?;
    println!("{}", Cmd::new("sha256sum").arg(tarball).read()?);
    Ok(())
}

fn stage(dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir)?;
    }
    fs::create_dir_all(dir)?;
    for (from, to) in FILES {
        fs::copy(root().join(from), dir.join(to)).with_context(|| format!("cannot pack {from}"))?;
    }
    let program = target_dir().join("release/gateway");
    Cmd::new("strip").args(["--strip-debug", "-o"]).arg(dir.join("gateway")).arg(program).run()
}

/// Makes dist/NAME.tar.gz; returns its path from the root.
fn pack(staging: &Path, name: &str) -> Result<String> {
    fs::create_dir_all(root().join("dist"))?;
    let tarball = format!("dist/{name}.tar.gz");
    // gzip -n: no time and no name in its header.
    Cmd::new("tar")
        .args(["--create", "--sort=name", "--format=gnu", "--owner=0", "--group=0", "--numeric-owner"])
        .arg("--mode=u=rwX,go=rX")
        .arg(format!("--mtime=@{}", commit_time()?))
        .args(["--use-compress-program=gzip -9n", "--file", &tarball, "--directory"])
        .arg(staging)
        .arg(name)
        .run()?;
    Ok(tarball)
}

/// Seconds since 1970: `SOURCE_DATE_EPOCH` as other packagers use it, or the last commit's.
fn commit_time() -> Result<String> {
    match env::var("SOURCE_DATE_EPOCH") {
        Ok(time) => Ok(time),
        Err(_) => Cmd::new("git").args(["log", "-1", "--format=%ct"]).read().context("set SOURCE_DATE_EPOCH"),
    }
}
