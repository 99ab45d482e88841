//! Files in memory.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::config::load::normal;
use crate::config::{Files, Loaded, Report, load};

/// A path and the bytes there.
#[derive(Clone, Default)]
pub struct MapFiles(pub BTreeMap<PathBuf, Vec<u8>>);

impl MapFiles {
    pub fn add(&mut self, path: &str, bytes: impl Into<Vec<u8>>) {
        self.0.insert(path.into(), bytes.into());
    }

    /// Loads `gateway.toml`.
    pub fn load(&self) -> Result<Loaded, Report> {
        load(Path::new("gateway.toml"), self, now())
    }
}

impl Files for MapFiles {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let path = normal(path);
        let is_directory = || self.0.keys().any(|file| file.starts_with(&path));
        self.0.get(&path).cloned().ok_or_else(|| match is_directory() {
            true => io::Error::new(io::ErrorKind::IsADirectory, "a directory"),
            false => io::Error::new(io::ErrorKind::NotFound, "no such file"),
        })
    }

    fn glob(&self, pattern: &Path) -> io::Result<Vec<PathBuf>> {
        let pattern = glob::Pattern::new(&normal(pattern).to_string_lossy()).map_err(io::Error::other)?;
        let options = glob::MatchOptions { require_literal_separator: true, ..Default::default() };
        Ok(self.0.keys().filter(|path| pattern.matches_path_with(path, options)).cloned().collect())
    }
}

/// 2026-01-01: the day on which the test certificates are looked at.
pub fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600)
}
