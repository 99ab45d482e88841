//! Reading: the file, the files it includes, and the files they name.

use std::collections::HashMap;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use toml::de::DeTable;

use super::decode::{Node, Optional};
use super::raw::File;
use super::report::Diagnostics;
use super::span::{At, SourceId, Span};
use super::value::FilePath;
use super::{Files, Refused};

/// Largest text file. Four times a configuration with 100 000 routes; offsets fit 32 bits.
pub const MAX_TEXT_BYTES: usize = 256 << 20;

/// How deep includes may nest. Also ends a cycle that symbolic links hide from the comparison of paths.
const MAX_DEPTH: usize = 8;

/// How many files may be included.
const MAX_FILES: usize = 10_000;

/// Reads files, and remembers which.
pub struct Loader<'a> {
    files: &'a dyn Files,
    /// What was found wrong so far.
    pub diagnostics: Diagnostics,
    /// Every file that was asked for.
    pub read: Vec<PathBuf>,
    /// Pairs that are not used.
    pub refused: Vec<Refused>,
    /// What a reload says of itself in the log.
    pub notes: Vec<String>,
    /// When to load again without a change of a file, in seconds of Unix time.
    pub again_at: Option<i64>,
    /// Configuration files by their normal path.
    visited: HashMap<PathBuf, Visit>,
    /// How many of them are being read.
    depth: usize,
}

struct Visit {
    /// Where it was included; the root was not.
    from: Option<Span>,
    /// Whether its own includes are still being read.
    open: bool,
}

impl<'a> Loader<'a> {
    /// Reads through `files`.
    pub fn new(files: &'a dyn Files) -> Loader<'a> {
        Loader {
            files,
            diagnostics: Diagnostics::default(),
            read: Vec::new(),
            refused: Vec::new(),
            notes: Vec::new(),
            again_at: None,
            visited: HashMap::new(),
            depth: 0,
        }
    }

    /// The file and all that it includes, as one. `None` when a file could not be read or is no TOML: then nothing is
    /// known about what the rest refers to, and checking it would report errors that are none.
    pub fn file_tree(&mut self, path: &Path) -> Option<File> {
        self.include_file(path, None)
    }

    /// The bytes of a file named in the configuration.
    pub fn bytes(&mut self, path: &At<FilePath>) -> Option<Arc<[u8]>> {
        let resolved = self.diagnostics.sources.resolve(&path.value.0, path.span);
        self.bytes_at(&resolved, path.span)
    }

    /// The bytes of a file; what is wrong is for the caller to report.
    pub fn try_bytes(&mut self, path: &Path) -> io::Result<Vec<u8>> {
        self.read.push(path.to_path_buf());
        self.files.read(path)
    }

    /// The files in a directory, sorted by path. That others come is a reason to load again.
    pub fn list(&mut self, directory: &Path, named: Span) -> Option<Vec<PathBuf>> {
        self.read.push(directory.to_path_buf());
        let pattern = Path::new(&glob::Pattern::escape(&directory.to_string_lossy())).join("*");
        self.matching(&pattern, named)
    }

    /// Notes that something changes at `unix_s`, whatever happens to files.
    pub fn load_again_at(&mut self, unix_s: i64) {
        self.again_at = Some(self.again_at.map_or(unix_s, |earlier| earlier.min(unix_s)));
    }

    /// A text file named in the configuration.
    pub fn text(&mut self, path: &At<FilePath>) -> Option<SourceId> {
        let resolved = self.diagnostics.sources.resolve(&path.value.0, path.span);
        self.text_at(&resolved, path.span)
    }

    /// A text file that a pattern at `named` stands for.
    pub fn text_at(&mut self, path: &Path, named: Span) -> Option<SourceId> {
        let bytes = self.bytes_at(path, named)?;
        match text(&bytes) {
            Ok(text) => Some(self.diagnostics.sources.add(path, text.to_owned())),
            Err(reason) => {
                self.diagnostics.error(named, format!("{}: {reason}", path.display()));
                None
            }
        }
    }

    /// The files that a pattern stands for. Those that come later are a reason to load again, where the pattern's
    /// directory has none of its own.
    pub fn glob(&mut self, pattern: &At<FilePath>) -> Option<Vec<PathBuf>> {
        let resolved = self.diagnostics.sources.resolve(&pattern.value.0, pattern.span);
        let is_pattern = |path: &Path| path.to_string_lossy().contains(['*', '?', '[']);
        if !is_pattern(&resolved) {
            return Some(vec![resolved]);
        }
        if let Some(directory) = resolved.parent().filter(|directory| !is_pattern(directory)) {
            self.read.push(directory.to_path_buf());
        }
        let paths = self.matching(&resolved, pattern.span)?;
        if paths.is_empty() {
            let message = format!("no file matches {}", resolved.display());
            self.diagnostics.error(pattern.span, message).help("correct the pattern, or leave it out");
            return None;
        }
        Some(paths)
    }

    fn bytes_at(&mut self, path: &Path, named: Span) -> Option<Arc<[u8]>> {
        self.read.push(path.to_path_buf());
        match self.files.read(path) {
            Ok(bytes) => Some(bytes.into()),
            Err(error) => {
                self.diagnostics.error(named, format!("cannot read {}: {error}", path.display()));
                None
            }
        }
    }

    fn include_file(&mut self, path: &Path, from: Option<Span>) -> Option<File> {
        let source = self.open(path, from)?;
        let mut file = self.parse(source)?;
        self.visited.insert(normal(path), Visit { from, open: true });
        self.depth += 1;
        let mut complete = true;
        let patterns = file.include.take().map_or(Some(Vec::new()), |list| list.value.0);
        complete &= patterns.is_some();
        for pattern in patterns.into_iter().flatten() {
            for included in self.matches(&pattern) {
                match self.include_file(&included, Some(pattern.span)) {
                    Some(included) => merge(&mut file, included, &mut self.diagnostics),
                    None => complete = false,
                }
            }
        }
        self.depth -= 1;
        self.visited.insert(normal(path), Visit { from, open: false });
        complete.then_some(file)
    }

    /// Reads a configuration file. The root has nobody who named it, so its errors are about the file as a whole.
    fn open(&mut self, path: &Path, from: Option<Span>) -> Option<SourceId> {
        self.read.push(path.to_path_buf());
        let read = self.files.read(path).map_err(|error| error.to_string());
        let text = read.and_then(|bytes| text(&bytes).map(str::to_owned));
        match text {
            Ok(text) => Some(self.diagnostics.sources.add(path, text)),
            Err(reason) => {
                let sources = &mut self.diagnostics.sources;
                let span = from.unwrap_or_else(|| sources.add(path, String::new()).span(0..0));
                self.diagnostics.error(span, format!("cannot read {}: {reason}", path.display()));
                None
            }
        }
    }

    fn parse(&mut self, source: SourceId) -> Option<File> {
        // The tree borrows from the text, and reading it reports to the diagnostics that own the text.
        let text = self.diagnostics.sources.text(source).to_owned();
        let (tree, errors) = DeTable::parse_recoverable(&text);
        for error in &errors {
            let span = source.span(error.span().unwrap_or(0..0));
            self.diagnostics.error(span, error.message());
        }
        if !errors.is_empty() {
            return None;
        }
        let span = tree.span();
        let tree = toml::Spanned::new(span, toml::de::DeValue::Table(tree.into_inner()));
        Node::of(&tree, source).read(&mut self.diagnostics).map(|file| file.value)
    }

    /// The files an `include` pattern stands for, without those that must not be read.
    fn matches(&mut self, pattern: &At<FilePath>) -> Vec<PathBuf> {
        let resolved = self.diagnostics.sources.resolve(&pattern.value.0, pattern.span);
        let Some(mut paths) = self.matching(&resolved, pattern.span) else { return Vec::new() };
        if paths.is_empty() {
            self.diagnostics.warning(pattern.span, format!("no file matches {}", resolved.display()));
        }
        paths.retain(|path| self.may_include(path, pattern.span));
        paths
    }

    /// The files that match; `None` when they cannot be listed.
    fn matching(&mut self, pattern: &Path, named: Span) -> Option<Vec<PathBuf>> {
        match self.files.glob(pattern) {
            Ok(paths) => Some(paths),
            Err(error) => {
                self.diagnostics.error(named, format!("cannot include {}: {error}", pattern.display()));
                None
            }
        }
    }

    fn may_include(&mut self, path: &Path, span: Span) -> bool {
        if let Some(visit) = self.visited.get(&normal(path)) {
            let reason = if visit.open { "includes itself" } else { "is included twice" };
            let finding = self.diagnostics.error(span, format!("{} {reason}", path.display()));
            if let Some(first) = visit.from {
                finding.related(first, "first included here");
            }
            return false;
        }
        if self.depth >= MAX_DEPTH || self.visited.len() >= MAX_FILES {
            let limits = format!("at most {MAX_FILES} files, {MAX_DEPTH} deep");
            self.diagnostics.error(span, format!("{} is one include too many", path.display())).help(limits);
            return false;
        }
        true
    }
}

fn text(bytes: &[u8]) -> Result<&str, String> {
    if bytes.len() > MAX_TEXT_BYTES {
        return Err(format!("it is longer than {} MiB", MAX_TEXT_BYTES >> 20));
    }
    // A report of what is wrong with a text shows its lines.
    if memchr::memmem::find(bytes, b"PRIVATE KEY-----").is_some() {
        return Err("it has a private key in it".into());
    }
    std::str::from_utf8(bytes).map_err(|error| {
        let line = bytes[..error.valid_up_to()].iter().filter(|&&byte| byte == b'\n').count() + 1;
        format!("line {line} is not UTF-8")
    })
}

/// The path without `.` and, where a name precedes them, `..`: enough to see that two spellings are one file.
pub fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir if matches!(normal.components().next_back(), Some(Component::Normal(_))) => {
                normal.pop();
            }
            other => normal.push(other),
        }
    }
    normal
}

fn merge(into: &mut File, from: File, diagnostics: &mut Diagnostics) {
    merge_once("[gateway]", &mut into.gateway, from.gateway, diagnostics);
    merge_once("[admin]", &mut into.admin, from.admin, diagnostics);
    merge_once("[access_log]", &mut into.access_log, from.access_log, diagnostics);
    merge_once("[overload]", &mut into.overload, from.overload, diagnostics);
    merge_once("[xdp]", &mut into.xdp, from.xdp, diagnostics);
    let alerts = from.certificate_alerts;
    merge_once("[certificate_alerts]", &mut into.certificate_alerts, alerts, diagnostics);
    merge_once("[certificate_store]", &mut into.certificate_store, from.certificate_store, diagnostics);
    into.access.extend(from.access);
    into.vip.extend(from.vip);
    into.certificate.extend(from.certificate);
    into.acme.extend(from.acme);
    into.listener.extend(from.listener);
    into.cluster.extend(from.cluster);
    into.limits.extend(from.limits);
    into.route.extend(from.route);
    into.l4_route.extend(from.l4_route);
}

fn merge_once<T>(title: &str, into: &mut Optional<T>, from: Optional<T>, diagnostics: &mut Diagnostics) {
    match (&into, from) {
        (Some(first), Some(second)) => {
            let help = "it is about the whole process, so only one file may have it";
            let finding = diagnostics.error(second.span, format!("{title} is given twice"));
            finding.related(first.span, "first given here").help(help);
        }
        (None, Some(second)) => *into = Some(second),
        (_, None) => {}
    }
}
