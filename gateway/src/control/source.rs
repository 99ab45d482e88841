//! The only reader of configuration files.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::config::Files;

/// Files on the disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiskFiles;

/// Largest file that is read: a path to `/dev/zero` or to a log is a mistake that must not take all memory.
const MAX_BYTES: u64 = 512 << 20;

impl Files for DiskFiles {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        // To open a pipe is to wait for somebody who writes to it, which may be never.
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        fcntl(&file, FcntlArg::F_SETFL(OFlag::empty()))?;
        // Room for all of it: a vector that grows leaves what it had, which may be a key, where it was.
        let mut bytes = Vec::with_capacity(file.metadata()?.len().min(MAX_BYTES) as usize + 1);
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than {} MiB", MAX_BYTES >> 20)));
        }
        Ok(bytes)
    }

    fn glob(&self, pattern: &Path) -> io::Result<Vec<PathBuf>> {
        let pattern = pattern.to_str().ok_or_else(|| io::Error::other("the path is not UTF-8"))?;
        // As in a shell: a star does not match the dot of a hidden file, such as an editor's backup.
        let options = glob::MatchOptions { require_literal_leading_dot: true, ..Default::default() };
        let paths = glob::glob_with(pattern, options).map_err(io::Error::other)?;
        paths.map(|path| path.map_err(io::Error::from)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_pattern_matches_in_order_and_without_hidden_files_and_a_pipe_makes_nobody_wait() {
        let directory = std::env::temp_dir().join(format!("gateway-source-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        nix::unistd::mkfifo(&directory.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        for name in ["b.toml", "a.toml", ".a.toml", "c.txt"] {
            fs::write(directory.join(name), name).unwrap();
        }
        let found = DiskFiles.glob(&directory.join("*.toml"));
        let bytes = DiskFiles.read(&directory.join("a.toml"));
        let piped = DiskFiles.read(&directory.join("pipe"));
        fs::remove_dir_all(&directory).unwrap();
        assert_eq!(found.unwrap(), [directory.join("a.toml"), directory.join("b.toml")]);
        assert_eq!(bytes.unwrap(), b"a.toml");
        assert_eq!(piped.unwrap(), b"", "nobody writes to it");
    }
}
