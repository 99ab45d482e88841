//! Noticing that a configuration file has changed.
//!
//! An inotify event is only a reason to look: what counts is whether a file's identity, size or times differ from the
//! last look. So an access log beside the configuration does no harm, and it does not matter how the file was replaced:
//! written in place, renamed over, or reached through symbolic links of which one now points elsewhere (Kubernetes
//! swaps `..data`). For that every directory that has a part of the path in it is watched, not the file.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

/// An editor, a copy or a deployment of several files is over when nothing has happened for this long.
const QUIET: Duration = Duration::from_millis(200);

/// But a directory where something always happens must not put the reload off: a renewed certificate is to be shown within a
/// second. What is read in the middle of a deployment is read again, and of certificates nothing is used that does not belong
/// together.
const AT_MOST: Duration = Duration::from_millis(500);

/// The kernel follows as many symbolic links (path_resolution(7)).
const SYMLINKS: usize = 40;

/// Watches files, and directories as lists of names.
#[derive(Debug)]
pub struct FileWatch {
    inotify: RecommendedWatcher,
    /// One message is enough, however many events there were.
    events: mpsc::Receiver<()>,
    paths: Vec<PathBuf>,
    /// Those that are watched, and what they were then: a directory that was made anew has to be watched anew.
    directories: BTreeMap<PathBuf, Option<(u64, u64)>>,
    /// Those that could not be watched, which is told once.
    failed: BTreeSet<PathBuf>,
    /// Something was removed or moved, which may have been a directory with its watch.
    may_have_lost: Arc<AtomicBool>,
    seen: Vec<Option<Identity>>,
    /// When the events began that have not led to a look yet.
    unrest_since: Option<Instant>,
}

impl FileWatch {
    /// Watches `paths`. A path may be missing: its coming is a change. A directory changes when a name in it does.
    pub fn new(paths: Vec<PathBuf>) -> notify::Result<FileWatch> {
        let (wake, events) = mpsc::channel(1);
        let may_have_lost = Arc::new(AtomicBool::new(false));
        let lost = may_have_lost.clone();
        let inotify = notify::recommended_watcher(move |event| {
            if may_lose_a_watch(&event) {
                lost.store(true, Relaxed);
            }
            if matters(&event) {
                let _ = wake.try_send(());
            }
        })?;
        let mut watch = FileWatch {
            inotify,
            events,
            paths,
            directories: BTreeMap::new(),
            failed: BTreeSet::new(),
            may_have_lost,
            seen: Vec::new(),
            unrest_since: None,
        };
        watch.look();
        Ok(watch)
    }

    /// Watches other paths from now on. A change between reading them and this call is seen if it comes to a path that
    /// was watched before; so the caller passes the list as soon as the configuration is read.
    pub fn replace(&mut self, paths: Vec<PathBuf>) {
        if self.paths == paths {
            return;
        }
        let mut before: HashMap<PathBuf, _> = self.paths.drain(..).zip(self.seen.drain(..)).collect();
        self.paths = paths;
        self.watch_directories();
        let seen = |path: &PathBuf| before.remove(path).unwrap_or_else(|| Identity::of(path));
        self.seen = self.paths.iter().map(seen).collect();
    }

    /// Waits until a file has changed and the changes have come to rest. Nothing is lost when the future is dropped.
    pub async fn changed(&mut self) {
        loop {
            let since = match self.unrest_since {
                Some(since) => since,
                None => {
                    self.next_event().await;
                    *self.unrest_since.insert(Instant::now())
                }
            };
            let end = since + AT_MOST;
            while timeout_at(end.min(Instant::now() + QUIET), self.next_event()).await.is_ok() && Instant::now() < end {
            }
            self.unrest_since = None;
            if self.look() {
                return;
            }
        }
    }

    async fn next_event(&mut self) {
        if self.events.recv().await.is_none() {
            // The sender lives as long as `inotify`; without it nothing will ever change.
            std::future::pending().await
        }
    }

    /// Says whether anything differs from the last look. The watches are set before, so that no change falls between.
    fn look(&mut self) -> bool {
        self.watch_directories();
        let now: Vec<_> = self.paths.iter().map(|path| Identity::of(path)).collect();
        let changed = now != self.seen;
        self.seen = now;
        changed
    }

    /// Watches those directories that are not watched yet. Says how many that were: each costs a turn of the watcher's thread, and
    /// there may be ten thousand.
    fn watch_directories(&mut self) -> usize {
        let directories = directories_of_all(&self.paths);
        self.failed.retain(|failed| directories.contains(failed));
        if self.may_have_lost.swap(false, Relaxed) {
            self.directories.values_mut().for_each(|known| *known = None);
        }
        let mut before = std::mem::take(&mut self.directories);
        let mut set = 0;
        for directory in directories {
            let identity = fs::metadata(&directory).ok().map(|data| (data.dev(), data.ino()));
            let is_watched = before.remove(&directory).is_some_and(|known| known.is_some() && known == identity);
            if !is_watched {
                set += 1;
                if let Err(error) = self.inotify.watch(&directory, RecursiveMode::NonRecursive) {
                    if self.failed.insert(directory.clone()) {
                        log::warn!(
                            "cannot watch {} for changes: {error}; send SIGHUP after changing a file there",
                            directory.display()
                        );
                    }
                    // It is tried again with the next look.
                    continue;
                }
                self.failed.remove(&directory);
            }
            self.directories.insert(directory, identity);
        }
        for gone in before.keys() {
            // It fails if the directory is gone, and then there is nothing to end.
            let _ = self.inotify.unwatch(gone);
        }
        set
    }
}

/// A watch ends with its directory, and goes along with one that is moved.
fn may_lose_a_watch(event: &notify::Result<notify::Event>) -> bool {
    match event {
        // The queue has overflowed: what was lost may have been one of these.
        Ok(event) if event.need_rescan() => true,
        Ok(event) => matches!(event.kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_))),
        Err(_) => true,
    }
}

/// Reading the configuration must not look like a change of it, nor must each write: a log beside the configuration may
/// have thousands in a second. Whoever writes closes the file in the end, which is an event of its own.
fn matters(event: &notify::Result<notify::Event>) -> bool {
    match event {
        Ok(event) => match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
            EventKind::Access(_) | EventKind::Modify(ModifyKind::Data(_)) => false,
            _ => true,
        },
        // Something has gone wrong: look.
        Err(_) => true,
    }
}

/// What tells one state of a file from another without reading it.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    /// Of what the path leads to; `None` when that is nothing.
    fn of(path: &Path) -> Option<Identity> {
        let data = fs::metadata(path).ok()?;
        Some(Identity {
            device: data.dev(),
            inode: data.ino(),
            size: data.size(),
            modified: (data.mtime(), data.mtime_nsec()),
            changed: (data.ctime(), data.ctime_nsec()),
        })
    }
}

/// The directories of all paths. Of the files of one directory it is enough to look at one, unless they are links.
fn directories_of_all(paths: &[PathBuf]) -> BTreeSet<PathBuf> {
    let mut known = HashSet::new();
    let is_plain = |path: &Path| fs::symlink_metadata(path).map_or(true, |data| data.is_file());
    let differ = paths.iter().filter(|path| !is_plain(path) || known.insert(path.parent()));
    differ.flat_map(|path| directories_of(path)).collect()
}

/// The directories in which a name could change so that `path` leads elsewhere or to something else: that of the file,
/// those of the symbolic links on the way, and for what is missing the nearest that is there.
fn directories_of(path: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut target = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for _ in 0..SYMLINKS {
        match first_symlink(&target) {
            Some((link, after)) => {
                let parent = link.parent().unwrap_or(Path::new("/"));
                let leads_to = fs::read_link(&link).unwrap_or_default();
                target = parent.join(leads_to).join(after);
                found.insert(parent.to_owned());
            }
            None => break,
        }
    }
    let is_directory = |path: &Path| fs::symlink_metadata(path).is_ok_and(|data| data.is_dir());
    if is_directory(&target) {
        found.insert(target.clone());
    }
    found.extend(target.ancestors().skip(1).find(|above| is_directory(above)).map(Path::to_owned));
    found
}

/// The first part of `path` that is a symbolic link, and what comes after it.
fn first_symlink(path: &Path) -> Option<(PathBuf, PathBuf)> {
    let mut before = PathBuf::new();
    let mut parts = path.components();
    while let Some(part) = parts.next() {
        match part {
            // All before it is resolved, so the parent by name is the parent.
            Component::ParentDir => drop(before.pop()),
            other => before.push(other),
        }
        if fs::symlink_metadata(&before).is_ok_and(|data| data.is_symlink()) {
            return Some((before, parts.as_path().to_owned()));
        }
    }
    None
}

#[cfg(test)]
mod tests;
