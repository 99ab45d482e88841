//! Runs other programs: prints each command as one could type it, and names it in the error when it fails.

use crate::ebpf::OBJECT_OVERRIDE;
use anyhow::{Context, Result, bail};
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

/// A command that runs in the root of the repository.
pub struct Cmd {
    inner: Command,
    shown: String,
}

impl Cmd {
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut inner = Command::new(program.as_ref());
        inner.current_dir(root()).env("PATH", search_path());
        Self { inner, shown: program.as_ref().to_string_lossy().into_owned() }
    }

    /// The cargo that runs this program: a distribution's cargo that comes earlier in `PATH` must not replace it.
    pub fn cargo() -> Self {
        let mut cmd = Self::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cmd.shown = "cargo".into();
        // `build-ebpf` has put that object where the gateway's build script looks anyway; a relative path would be
        // wrong there.
        cmd.without_env(OBJECT_OVERRIDE)
    }

    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.shown.push(' ');
        self.shown.push_str(&quoted(arg.as_ref()));
        self.inner.arg(arg);
        self
    }

    pub fn args<S: AsRef<OsStr>>(self, args: impl IntoIterator<Item = S>) -> Self {
        args.into_iter().fold(self, Self::arg)
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.shown = format!("{name}={} {}", quoted(value.as_ref()), self.shown);
        self.inner.env(name, value);
        self
    }

    pub fn without_env(mut self, name: &str) -> Self {
        self.inner.env_remove(name);
        self
    }

    pub fn dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.inner.current_dir(dir);
        self
    }

    /// Runs it in the foreground; anything but exit status 0 is an error.
    pub fn run(mut self) -> Result<()> {
        self.show();
        let status = self.inner.status().with_context(|| format!("cannot start `{}`", self.shown))?;
        if !status.success() {
            bail!("`{}` failed: {status}", self.shown);
        }
        Ok(())
    }

    /// Runs it without a word and returns what it printed.
    pub fn read(mut self) -> Result<String> {
        let out = self.inner.output().with_context(|| format!("cannot start `{}`", self.shown))?;
        if !out.status.success() {
            bail!("`{}` failed: {}: {}", self.shown, out.status, String::from_utf8_lossy(&out.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
    }

    /// Whether it starts and succeeds.
    pub fn succeeds(self) -> bool {
        self.read().is_ok()
    }

    /// Runs it and hands over each line that it prints; says whether it succeeded.
    pub fn each_line(mut self, mut line: impl FnMut(&str)) -> Result<bool> {
        self.show();
        self.inner.stdout(Stdio::piped());
        let mut child = self.inner.spawn().with_context(|| format!("cannot start `{}`", self.shown))?;
        let out = BufReader::new(child.stdout.take().context("stdout was piped")?);
        // A test may print bytes that are not text: they must not end the reading.
        for bytes in out.split(b'\n') {
            line(&String::from_utf8_lossy(&bytes?));
        }
        Ok(child.wait()?.success())
    }

    /// Becomes the command; returns only when that fails.
    pub fn exec(mut self) -> anyhow::Error {
        self.show();
        let error = self.inner.exec();
        anyhow::Error::new(error).context(format!("cannot start `{}`", self.shown))
    }

    fn show(&self) {
        eprintln!("$ {}", self.shown);
    }
}

/// The root of the repository.
pub fn root() -> PathBuf {
    // `cargo run` names this checkout; the program may have been compiled in another one with the same target directory.
    let package = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&package).parent().map(Path::to_owned).unwrap_or_default()
}

/// Where cargo puts the host's programs.
pub fn target_dir() -> PathBuf {
    // A relative CARGO_TARGET_DIR is relative to the directory cargo runs in, which for our children is the root.
    root().join(env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// The file of the program `name`, searched where the commands we run are searched.
pub fn find(name: &str) -> Option<PathBuf> {
    env::split_paths(&search_path()).map(|dir| dir.join(name)).find(|file| is_executable(file))
}

pub fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// One line nobody overlooks: something is off, and how to turn it on.
pub fn loud(line: &str) {
    eprintln!("\n!!! {line}\n");
}

/// Where packages are unpacked that are not to be installed.
pub const TOOLS: &str = "target/tools";

/// An environment of Python for programs that only PyPI has.
pub const PYTHON: &str = "target/bench/python";

/// `PATH`, then the places that hold what `setup` installs and that are often not in it.
fn search_path() -> OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    let home = env::home_dir().unwrap_or_default();
    let cargo_home = env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from);
    let more = [
        cargo_home.join("bin"),
        home.join(".local/bin"),
        "/usr/local/sbin".into(),
        "/usr/sbin".into(),
        "/sbin".into(),
        root().join(TOOLS).join("usr/sbin"),
        root().join(TOOLS).join("usr/bin"),
        root().join(PYTHON).join("bin"),
    ];
    env::join_paths(env::split_paths(&path).chain(more)).unwrap_or(path)
}

fn is_executable(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.mode() & 0o111 != 0)
}

fn quoted(arg: &OsStr) -> String {
    let arg = arg.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+./:,@%".contains(c);
    if !arg.is_empty() && arg.chars().all(plain) { arg.into_owned() } else { format!("'{arg}'") }
}
