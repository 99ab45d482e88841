//! The only reader of configuration files.

use std::io;
use std::path::{Path, PathBuf};

use crate::config::Files;

/// Files on the disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiskFiles;

impl Files for DiskFiles {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        std::fs::read(path)
    }

    fn glob(&self, pattern: &Path) -> io::Result<Vec<PathBuf>> {
        let pattern = pattern.to_str().ok_or_else(|| io::Error::other("the pattern is not UTF-8"))?;
        let paths = glob::glob(pattern).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        // Sorted by the crate, so that the order of included files does not depend on the file system.
        paths.map(|path| path.map_err(io::Error::from)).collect()
    }
}
