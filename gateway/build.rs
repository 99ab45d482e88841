//! Embeds the XDP object that `cargo xtask build-ebpf` builds, or an empty file in its place: the gateway builds
//! without any BPF toolchain and then says at start that XDP is off, and why.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// An absolute path to the object. Without it the object is looked for at [`DEFAULT_OBJECT`].
const OBJECT_VARIABLE: &str = "GATEWAY_BPF_OBJECT";

/// Relative to the workspace.
const DEFAULT_OBJECT: &str = "target/bpf/gateway-xdp.o";

fn main() {
    println!("cargo::rerun-if-env-changed={OBJECT_VARIABLE}");
    let embedded = Path::new(&env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("gateway-xdp.o");
    fs::write(embedded, object()).expect("OUT_DIR is writable");
}

/// The object's bytes; none when there is no object at the default place.
fn object() -> Vec<u8> {
    if let Some(path) = env::var_os(OBJECT_VARIABLE).map(PathBuf::from) {
        watch(&path);
        return fs::read(&path).unwrap_or_else(|error| {
            println!("cargo::error={OBJECT_VARIABLE} names {}, which cannot be read: {error}", path.display());
            Vec::new()
        });
    }
    // Asked for when it runs: checkouts that share a target directory share this program.
    let package = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let path = package.parent().expect("the package lies in the workspace").join(DEFAULT_OBJECT);
    match fs::read(&path) {
        Ok(object) => {
            watch(&path);
            object
        }
        Err(_) => {
            // To watch a file that does not exist is to run on every build, so watch the place it will be put in.
            let folder = path.parent().expect("the object lies in a folder");
            if fs::create_dir_all(folder).is_ok() {
                watch(folder);
            }
            Vec::new()
        }
    }
}

fn watch(path: &Path) {
    println!("cargo::rerun-if-changed={}", path.display());
}
