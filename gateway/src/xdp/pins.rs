//! What outlives the process: links and maps, pinned in a BPF file system.
//!
//! ```text
//! /sys/fs/bpf/gateway/        `pin` of the configuration
//!   v2/                       the version of the ABI
//!     link-3-native           the program on interface number 3, in native mode
//!     ESTABLISHED_V4 …        maps that the next process goes on with
//! ```
//!
//! The kernel keeps the program, and with it every map it uses, as long as a link lives, and a link as long as its file.
//! So the files of links alone keep packets flowing; those of maps are for the next process and for `gateway vips` and
//! `gateway flows`. Maps that are not here (access lists) are filled anew by each process before its program takes the
//! place of the old one, which exchanges them as a whole.

use std::ffi::CString;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use aya::maps::MapInfo;
use gateway_ebpf::abi::{VERSION, names};

use super::Attached;

/// Maps that the next process goes on with. What they count goes on too.
const KEPT: &[&str] = &[
    names::PACKETS,
    names::SETTINGS,
    names::PORTS,
    names::SERVICES_V4,
    names::SERVICES_V6,
    names::VIPS_V4,
    names::VIPS_V6,
    names::MAGLEV,
    names::BACKENDS,
    names::SNAT,
    names::BACKEND_COUNTS,
    names::SERVICE_COUNTS,
    names::ESTABLISHED_V4,
    names::ESTABLISHED_V6,
    names::HALF_OPEN_V4,
    names::HALF_OPEN_V6,
];

/// The directory of this version.
#[derive(Debug)]
pub(super) struct Pins {
    root: PathBuf,
    directory: PathBuf,
}

/// A pinned link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LinkPin {
    pub path: PathBuf,
    /// The interface's number.
    pub index: u32,
    pub attached: Attached,
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Detached {
    /// Interfaces from which the program was detached.
    pub interfaces: usize,
    /// Maps.
    pub maps: usize,
}

impl Pins {
    /// Makes the directory. The error says what to do.
    pub fn open(root: &Path) -> Result<Pins, String> {
        let existing = root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        if !is_bpf_file_system(existing) {
            return Err(format!(
                "{} is not in a BPF file system; `mount -t bpf bpf /sys/fs/bpf` makes one, and `pin = \"off\"` does \
                 without",
                root.display()
            ));
        }
        let directory = root.join(format!("v{VERSION}"));
        fs::create_dir_all(&directory).map_err(|error| format!("cannot make {}: {error}", directory.display()))?;
        Ok(Pins { root: root.into(), directory })
    }

    /// The maps to keep and where each is pinned. When one is not pinned, or is not what `object` asks for, all are made
    /// anew: they refer to each other. `entries` are sizes in place of the object's.
    pub fn maps(&self, object: &[u8], entries: &[(&str, u32)]) -> Vec<(&'static str, PathBuf)> {
        let maps: Vec<_> = KEPT.iter().map(|&name| (name, self.directory.join(name))).collect();
        if !maps.iter().any(|(_, path)| path.exists()) {
            return maps;
        }
        let Ok(object) = aya_obj::Object::parse(object) else { return maps };
        let misfit = maps.iter().find_map(|(name, path)| {
            let map = object.maps.get(*name)?;
            let entries = entries.iter().find(|(of, _)| of == name).map(|(_, entries)| *entries);
            let wanted = [map.map_type(), map.key_size(), map.value_size(), entries.unwrap_or(map.max_entries())];
            (shape(path) != Some(wanted)).then_some(name)
        });
        if let Some(name) = misfit {
            log::warn!(
                "xdp: {name} is not pinned in the size and type of this configuration; flows and counters begin anew"
            );
            for path in maps.iter().map(|(_, path)| path).filter(|path| path.exists()) {
                if let Err(error) = fs::remove_file(path) {
                    log::warn!("xdp: cannot remove {}: {error}", path.display());
                }
            }
        }
        maps
    }

    /// Where the link to an interface is pinned.
    pub fn link(&self, index: u32, attached: Attached) -> PathBuf {
        self.directory.join(format!("link-{index}-{}", attached.name()))
    }

    /// Every pinned link, those of other versions of the ABI included.
    pub fn links(&self) -> Vec<LinkPin> {
        links_below(&self.root)
    }

    /// Removes what other versions of the ABI have left. Their links are this one's by now.
    pub fn remove_other_versions(&self) {
        for directory in versions(&self.root).iter().filter(|directory| **directory != self.directory) {
            match remove_version(directory) {
                Ok(_) => log::info!("xdp: removed what another version left in {}", directory.display()),
                Err(error) => log::warn!("xdp: cannot remove {}: {error}", directory.display()),
            }
        }
    }
}

/// Detaches the program from every interface whose link is pinned below `root`, and removes everything there. A process
/// that still runs forwards nothing more, and attaches again when it is started anew.
pub fn detach(root: &Path) -> io::Result<Detached> {
    let mut all = Detached::default();
    for directory in versions(root) {
        let Detached { interfaces, maps } = remove_version(&directory)?;
        all = Detached { interfaces: all.interfaces + interfaces, maps: all.maps + maps };
    }
    match fs::remove_dir(root) {
        // It is the mount point, or somebody else has things there.
        Err(error)
            if !matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty | ErrorKind::ResourceBusy
            ) =>
        {
            Err(error)
        }
        _ => Ok(all),
    }
}

/// The links pinned below `root`, of all versions of the ABI.
pub(super) fn links_below(root: &Path) -> Vec<LinkPin> {
    versions(root).iter().flat_map(|directory| files(directory)).filter_map(link_pin).collect()
}

fn remove_version(directory: &Path) -> io::Result<Detached> {
    let mut done = Detached::default();
    let (links, maps): (Vec<_>, Vec<_>) =
        files(directory).into_iter().partition(|path| link_pin(path.clone()).is_some());
    for path in links {
        detach_link(&path)?;
        done.interfaces += 1;
    }
    for path in maps {
        fs::remove_file(path)?;
        done.maps += 1;
    }
    fs::remove_dir(directory)?;
    Ok(done)
}

/// Detaches even when a process holds the link, and removes its file.
pub(super) fn detach_link(path: &Path) -> io::Result<()> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the name ends in a zero byte and lives until the call returns.
    let link = unsafe { libbpf_sys::bpf_obj_get(name.as_ptr()) };
    if link < 0 {
        return Err(io::Error::from_raw_os_error(-link));
    }
    // SAFETY: the kernel has just opened this descriptor for nobody else.
    let link = unsafe { OwnedFd::from_raw_fd(link) };
    // SAFETY: the descriptor is open until the call returns. What it says does not matter: the interface may be gone.
    let _ = unsafe { libbpf_sys::bpf_link_detach(link.as_raw_fd()) };
    fs::remove_file(path)
}

/// Type, key size, value size and entries of a pinned map; `None` when there is none.
fn shape(path: &Path) -> Option<[u32; 4]> {
    let info = MapInfo::from_pin(path).ok()?;
    let map_type = info.map_type().ok()?;
    Some([map_type as u32, info.key_size(), info.value_size(), info.max_entries()])
}

/// The directories of all versions of the ABI.
fn versions(root: &Path) -> Vec<PathBuf> {
    let is_version = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix('v'));
        name.is_some_and(|number| number.parse::<u32>().is_ok())
    };
    files(root).into_iter().filter(|path| is_version(path)).collect()
}

/// What a directory has, in order; nothing when it cannot be read.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    paths
}

fn link_pin(path: PathBuf) -> Option<LinkPin> {
    let (index, mode) = path.file_name()?.to_str()?.strip_prefix("link-")?.split_once('-')?;
    let attached = [Attached::Native, Attached::Generic].into_iter().find(|attached| attached.name() == mode)?;
    Some(LinkPin { index: index.parse().ok()?, attached, path })
}

/// statfs(2)
pub(super) fn is_bpf_file_system(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: all zeros are a value of this struct of integers.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends in a zero byte, and both live until the call returns.
    let result = unsafe { libc::statfs(path.as_ptr(), &mut found) };
    result == 0 && found.f_type == libc::BPF_FS_MAGIC as libc::__fsword_t
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_links_file_says_which_interface_and_mode_it_is() {
        let cases = [
            ("link-3-native", Some((3, Attached::Native))),
            ("link-4294967295-generic", Some((u32::MAX, Attached::Generic))),
            ("link-3-offload", None),
            ("link-eth0-native", None),
            ("PACKETS", None),
        ];
        for (name, expected) in cases {
            let found = link_pin(Path::new("/sys/fs/bpf/gateway/v1").join(name));
            assert_eq!(found.map(|link| (link.index, link.attached)), expected, "{name}");
        }
    }

    #[test]
    fn only_directories_of_versions_are_ours() {
        let root = tempfile::tempdir().unwrap();
        for name in ["v1", "v12", "v", "vx", "other"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        fs::write(root.path().join("v1/PACKETS"), "").unwrap();
        assert_eq!(versions(root.path()), [root.path().join("v1"), root.path().join("v12")]);
        assert_eq!(detach(root.path()).unwrap(), Detached { interfaces: 0, maps: 1 });
        assert_eq!(files(root.path()), ["other", "v", "vx"].map(|name| root.path().join(name)));
        assert_eq!(detach(&root.path().join("missing")).unwrap(), Detached::default());
    }

    #[test]
    fn an_ordinary_directory_cannot_be_pinned_in() {
        let root = tempfile::tempdir().unwrap();
        let error = Pins::open(&root.path().join("gateway")).unwrap_err();
        assert!(error.contains("is not in a BPF file system"), "{error}");
        assert_eq!(files(root.path()), Vec::<PathBuf>::new());
    }
}
