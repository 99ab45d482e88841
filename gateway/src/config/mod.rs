//! The configuration: what the file says ([`raw`]), what is wrong with it ([`check`]) and what it means ([`model`]).
//!
//! Three types on purpose: the file's shape may be kind to people, the model's shape is kind to the code, and none is
//! used for both.
//!
//! ```text
//! text ── toml ──> tree ── decode, value ──> raw ── check ──> model
//!                   └────────── every problem, with its span ──────┘──> report
//! ```

mod check;
mod decode;
mod load;
pub mod model;
pub mod ocsp;
mod pair;
mod raw;
mod reference;
mod report;
mod schema;
mod span;
#[cfg(test)]
mod tests;
mod value;

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use model::Config;
pub use pair::{PairError, PairPart, Refusal};
pub use reference::reference;
pub use report::{Diagnostic, Report, Severity};
pub use schema::schema;
pub use span::Place;

/// Where the configuration's files come from: the disk, or a table in a test.
pub trait Files {
    /// The bytes of a file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// The files whose paths match a shell pattern, sorted.
    fn glob(&self, pattern: &Path) -> io::Result<Vec<PathBuf>>;
}

/// What is known beside the files.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    /// Held against the certificates.
    pub now: SystemTime,
    /// The configuration that runs. What it has read already is not parsed again, and a certificate goes on with the pair
    /// it has there when the new one is bad.
    pub running: Option<&'a Config>,
    /// Says what is wrong with a `user` and its `group`. `None`: whoever reads the configuration does not become them.
    pub find_user: Option<&'a FindUser>,
}

/// Looks for a user, and for a group if there is one; the error says which one the machine does not have.
pub type FindUser = dyn Fn(&str, Option<&str>) -> Result<(), String>;

/// A configuration without errors.
#[derive(Debug)]
pub struct Loaded {
    /// What it means.
    pub config: Config,
    /// What is allowed and probably not meant.
    pub warnings: Report,
    /// Everything that was read: the files a change of which is a reason to load again.
    pub files: Vec<PathBuf>,
    /// Pairs that are not used, although the configuration names them.
    pub refused: Vec<Refused>,
    /// What a reload says of itself in the log: what it has not done although the files look as if it should.
    pub notes: Vec<String>,
    /// When what certificates are good for changes without any file's doing so, in seconds of Unix time: a reason to load
    /// again.
    pub again_at: Option<i64>,
}

/// A pair that is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The certificate it is for.
    pub certificate: String,
    /// What kind of thing is wrong.
    pub refusal: Refusal,
    /// What is wrong, in a sentence.
    pub message: String,
    /// Whether the certificate goes on with the pair it had; if not, there is no such certificate.
    pub kept: bool,
}

/// Reads and checks the configuration in `path` and everything it names, knowing nothing beside. `now` is held against the
/// certificates.
///
/// The error has everything that is wrong, not just the first thing, and the warnings too.
pub fn load(path: &Path, files: &dyn Files, now: SystemTime) -> Result<Loaded, Report> {
    load_knowing(path, files, &Known { now, running: None, find_user: None })
}

/// The same, with what is known beside the files.
pub fn load_knowing(path: &Path, files: &dyn Files, known: &Known<'_>) -> Result<Loaded, Report> {
    let mut loader = load::Loader::new(files);
    let raw = loader.file_tree(path);
    let config = raw.and_then(|raw| check::check(raw, &mut loader, known));
    let load::Loader { diagnostics, mut read, refused, notes, again_at, .. } = loader;
    let mut seen = HashSet::new();
    read.retain(|path| seen.insert(path.clone()));
    match config.filter(|_| !diagnostics.has_errors()) {
        Some(config) => Ok(Loaded { config, warnings: diagnostics.finish(), files: read, refused, notes, again_at }),
        None => Err(diagnostics.finish()),
    }
}
