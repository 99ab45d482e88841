//! A directory of this box. Only its owner may look into it, and a value is either the old one or the new one, whenever
//! the power goes.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::{MAX_BYTES, StoreError, segments};

const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Values as files below one directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    root: PathBuf,
}

impl Directory {
    /// Keeps values below `root`, which is made if it is missing. Others' rights to it are taken away.
    pub fn open(root: PathBuf) -> Result<Directory, StoreError> {
        make_directory(&root)?;
        let mode = fs::metadata(&root).map_err(at(&root))?.permissions().mode();
        if mode & 0o077 != 0 {
            fs::set_permissions(&root, Permissions::from_mode(DIRECTORY_MODE)).map_err(at(&root))?;
        }
        Ok(Directory { root })
    }

    /// See [`Store::get`](super::Store::get).
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.path(key)?;
        match read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::Disk { path, error }),
        }
    }

    /// See [`Store::put`](super::Store::put).
    pub fn put(&self, key: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.replace(key, bytes, File::sync_all)?;
        sync_directory(split(&path).0)
    }

    /// The same for what may be lost with the power: the disk is not waited for.
    pub fn put_soon(&self, key: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.replace(key, bytes, |_| Ok(())).map(drop)
    }

    fn replace(&self, key: &str, bytes: &[u8], sync: fn(&File) -> io::Result<()>) -> Result<PathBuf, StoreError> {
        let path = self.path(key)?;
        let (parent, name) = split(&path);
        make_directory(parent)?;
        // The process is in it, because the old gateway may still drain while a new one writes.
        let temporary = parent.join(format!(".{name}.{}", std::process::id()));
        write(&temporary, bytes, sync).map_err(at(&temporary))?;
        fs::rename(&temporary, &path).map_err(at(&path))?;
        Ok(path)
    }

    /// Forgets the value at `key`, if there is one.
    pub fn remove(&self, key: &str) -> Result<(), StoreError> {
        let path = self.path(key)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::Disk { path, error }),
            _ => Ok(()),
        }
    }

    /// See [`Store::list`](super::Store::list).
    pub fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let path = self.path(prefix)?;
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(StoreError::Disk { path, error }),
        };
        let mut keys = Vec::new();
        for entry in entries {
            let entry = entry.map_err(at(&path))?;
            let is_file = entry.file_type().map_err(at(&path))?.is_file();
            let key = entry.file_name().to_str().map(|name| format!("{prefix}/{name}"));
            keys.extend(key.filter(|key| is_file && segments(key).is_ok()));
        }
        keys.sort();
        Ok(keys)
    }

    /// See [`Store::lock`](super::Store::lock).
    pub fn lock(&self, name: &str) -> Result<Option<File>, StoreError> {
        let path = self.path(&format!("locks/{name}"))?;
        make_directory(split(&path).0)?;
        let file = options().create(true).truncate(false).open(&path).map_err(at(&path))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(StoreError::Disk { path, error }),
        }
    }

    fn path(&self, key: &str) -> Result<PathBuf, StoreError> {
        let mut path = self.root.clone();
        path.extend(segments(key)?);
        Ok(path)
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(FILE_MODE);
    options
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > MAX_BYTES {
        true => Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than {} MiB", MAX_BYTES >> 20))),
        false => Ok(bytes),
    }
}

fn write(path: &Path, bytes: &[u8], sync: fn(&File) -> io::Result<()>) -> io::Result<()> {
    // What a process of the same number has left when it ended in the middle.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = options().create_new(true).open(path)?;
    file.write_all(bytes)?;
    sync(&file)
}

/// Makes the directory and those above it, for the owner only.
fn make_directory(path: &Path) -> Result<(), StoreError> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path).map_err(at(path))?;
    sync_directory(split(path).0)
}

/// A rename is on the disk when its directory is.
fn sync_directory(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(at(path))
}

/// The directory and the name of a path below the root; the root itself is in a directory, too, unless it is `/`.
fn split(path: &Path) -> (&Path, &str) {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    (parent, path.file_name().and_then(|name| name.to_str()).unwrap_or_default())
}

fn at(path: &Path) -> impl Fn(io::Error) -> StoreError {
    let path = path.to_owned();
    move |error| StoreError::Disk { path: path.clone(), error }
}

#[cfg(test)]
mod tests;
