//! Builds the XDP program: `gateway-ebpf` for `bpfel-unknown-none`, into target/bpf/gateway-xdp.o, where the gateway's
//! build script finds it. Without a BPF toolchain that file is absent and the gateway builds without XDP.

use crate::setup::{self, Set};
use crate::shell::{Cmd, find, root};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// Names an object to use instead of building one.
pub const OBJECT_OVERRIDE: &str = "GATEWAY_BPF_OBJECT";

/// Debug information becomes BTF. bpf-linker's default turns every copy above 8 bytes into a call of a byte loop;
/// its disable-expand option keeps them inline. From `target-cpu=v3` on, LLVM moves packet pointers as 32-bit values,
/// which the verifier refuses.
const RUSTFLAGS: &str =
    "-C debuginfo=2 -C link-arg=--btf -C link-arg=--disable-expand-memcpy-in-order -C target-cpu=v2";

/// Crates on the BPF side that use unstable features: a stable compiler accepts them for these only.
const UNSTABLE_CRATES: &str = "aya_ebpf,gateway_ebpf,gateway_xdp";

pub fn run() -> Result<()> {
    setup::ensure(&[Set::Build, Set::Bpf])?;
    match build()? {
        Some(object) => println!("{} ({} bytes)", object.display(), fs::metadata(&object)?.len()),
        None => bail!("the XDP program was not built: no BPF toolchain"),
    }
    Ok(())
}

/// Builds the object; `None` without a toolchain, which `setup` has said. An error means that the program is broken.
pub fn build() -> Result<Option<PathBuf>> {
    let object = root().join("target/bpf/gateway-xdp.o");
    let Some(bytes) = produce().inspect_err(|_| remove_stale(&object))? else {
        remove_stale(&object);
        return Ok(None);
    };
    write_if_changed(&object, &bytes)?;
    Ok(Some(object))
}

/// A compiler that can build for BPF.
pub enum Compiler {
    /// A stable rustc that came with the BPF target's core library, such as Debian's rustc-web.
    Packaged(PathBuf),
    /// rustup's nightly with rust-src: builds core itself.
    Nightly,
}

impl Compiler {
    pub fn find() -> Option<Self> {
        let named = env::var_os("GATEWAY_BPF_RUSTC").map(PathBuf::from);
        let packaged = named.into_iter().chain(["/usr/bin/rustc".into()]).find(|rustc| {
            sysroot(Cmd::new(rustc)).is_some_and(|dir| dir.join("lib/rustlib/bpfel-unknown-none/lib").exists())
        });
        packaged.map(Self::Packaged).or_else(|| {
            let nightly = sysroot(Cmd::new("rustup").args(["run", "nightly", "rustc"]))?;
            nightly.join("lib/rustlib/src/rust/library").exists().then_some(Self::Nightly)
        })
    }

    fn cargo(&self) -> Cmd {
        match self {
            // Any cargo can drive it: the distribution's own may be older than the lock file.
            Self::Packaged(rustc) => {
                Cmd::cargo().arg("build").env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", UNSTABLE_CRATES)
            }
            Self::Nightly => Cmd::new("rustup")
                .args(["run", "nightly", "cargo", "build", "-Z", "build-std=core"])
                .without_env("RUSTC"),
        }
    }
}

fn sysroot(rustc: Cmd) -> Option<PathBuf> {
    rustc.args(["--print", "sysroot"]).read().ok().map(PathBuf::from)
}

fn produce() -> Result<Option<Vec<u8>>> {
    if let Some(path) = env::var_os(OBJECT_OVERRIDE) {
        let path = PathBuf::from(path);
        return fs::read(&path).map(Some).with_context(|| format!("{OBJECT_OVERRIDE}: cannot read {}", path.display()));
    }
    let (Some(compiler), Some(_)) = (Compiler::find(), find("bpf-linker")) else { return Ok(None) };
    // A target directory of its own: the main build must not wait for its lock, nor lose its cache.
    let target = root().join("target/bpf-build");
    compiler
        .cargo()
        .args(["--profile", "bpf", "--target", "bpfel-unknown-none"])
        .args(["--package", "gateway-ebpf", "--bin", "gateway-xdp"])
        .arg("--target-dir")
        .arg(&target)
        .env("RUSTFLAGS", RUSTFLAGS)
        .without_env("CARGO_ENCODED_RUSTFLAGS")
        .run()?;
    let full = target.join("bpfel-unknown-none/bpf/gateway-xdp");
    stripped(&full).map(Some)
}

/// Without DWARF the object is a quarter of the size; aya needs only BTF.
fn stripped(full: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(full).with_context(|| format!("cannot read {}", full.display()))?;
    if !has_btf(&bytes) {
        bail!("{} has no BTF: this bpf-linker cannot have understood `--btf`", full.display());
    }
    let Some(strip) = llvm_strip() else { return Ok(bytes) };
    let small = full.with_extension("stripped");
    Cmd::new(strip).arg("-g").arg(full).arg("-o").arg(&small).run()?;
    let small = fs::read(small)?;
    Ok(if has_btf(&small) { small } else { bytes })
}

/// Whether a section is named `.BTF`. The name may be stored as the end of a longer one, `.rel.BTF`.
fn has_btf(object: &[u8]) -> bool {
    object.windows(5).any(|name| name == b".BTF\0")
}

fn llvm_strip() -> Option<PathBuf> {
    let versioned = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> =
        versioned.map(|dir| dir.path().join("bin/llvm-strip")).filter(|f| f.exists()).collect();
    found.sort();
    found.pop().or_else(|| find("llvm-strip"))
}

/// The gateway is rebuilt when this file's time changes, so an equal object must not be written again.
fn write_if_changed(file: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(file).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let write = || -> io::Result<()> {
        fs::create_dir_all(file.parent().unwrap_or(file))?;
        fs::write(file, bytes)
    };
    write().with_context(|| format!("cannot write {}", file.display()))
}

/// An object of another day must not be embedded as if it were today's.
fn remove_stale(object: &Path) {
    if let Err(error) = fs::remove_file(object)
        && error.kind() != io::ErrorKind::NotFound
    {
        eprintln!("cannot remove {}: {error}", object.display());
    }
}
