//! Where something stands in the configuration's files.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator};

/// A range of bytes in one of the [`Sources`]. Ordered as a reader meets them: by file, then by position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    file: u32,
    start: u32,
    end: u32,
}

impl Span {
    /// The part of this span from `start` to `end`, counted from its beginning.
    pub fn part(self, start: usize, end: usize) -> Span {
        let at = |offset: usize| self.end.min(self.start.saturating_add(offset.min(u32::MAX as usize) as u32));
        Span { start: at(start), end: at(end), ..self }
    }
}

/// A value and where it stands.
#[derive(Clone, Copy, Debug)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub span: Span,
}

/// In the schema a value looks the same wherever it stands.
impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// Which of the [`Sources`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceId(u32);

impl SourceId {
    /// The bytes `range` of this file.
    ///
    /// Text files are far smaller than 4 GiB (`load::MAX_TEXT_BYTES`), so that offsets fit.
    pub fn span(self, range: std::ops::Range<usize>) -> Span {
        Span { file: self.0, start: range.start as u32, end: range.end as u32 }
    }
}

/// Every text file that was read, for turning a [`Span`] into file, line and column.
#[derive(Debug, Default)]
pub struct Sources {
    files: Vec<Source>,
}

#[derive(Debug)]
struct Source {
    path: PathBuf,
    text: String,
    /// The offset of each line's first byte, so that finding a line is a binary search.
    lines: Vec<u32>,
}

/// A [`Span`] for people: the line, and what to underline in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// The line, counted from 1; 0 when the file as a whole is meant.
    pub line: usize,
    /// The column in characters, counted from 1; 0 when the file as a whole is meant.
    pub column: usize,
    /// The line's text, or the part of a very long one around the mark.
    pub excerpt: String,
    /// What to underline in `excerpt`, in bytes.
    pub mark: std::ops::Range<usize>,
}

/// How much of a line is shown on each side of where the mark starts: a generated file may be one line of megabytes,
/// and have a thousand errors in it.
const EXCERPT_BYTES: usize = 200;

impl Sources {
    /// Adds a file.
    pub fn add(&mut self, path: &Path, text: String) -> SourceId {
        let newlines = text.bytes().enumerate().filter(|&(_, byte)| byte == b'\n');
        let lines = std::iter::once(0).chain(newlines.map(|(at, _)| at as u32 + 1)).collect();
        self.files.push(Source { path: path.to_path_buf(), text, lines });
        SourceId(self.files.len() as u32 - 1)
    }

    /// The file's text.
    pub fn text(&self, id: SourceId) -> &str {
        &self.files[id.0 as usize].text
    }

    /// The text of `span`.
    pub fn slice(&self, span: Span) -> &str {
        self.files[span.file as usize].text.get(span.start as usize..span.end as usize).unwrap_or_default()
    }

    /// `path` as the file in which `span` stands means it: relative to that file's directory.
    pub fn resolve(&self, path: &str, span: Span) -> PathBuf {
        match self.files[span.file as usize].path.parent() {
            Some(directory) => directory.join(path),
            None => PathBuf::from(path),
        }
    }

    /// The line and column of `span`.
    pub fn place(&self, span: Span) -> Place {
        let source = &self.files[span.file as usize];
        if source.text.is_empty() {
            return Place { path: source.path.clone(), line: 0, column: 0, excerpt: String::new(), mark: 0..0 };
        }
        let (start, end) = (span.start as usize, span.end as usize);
        let line = source.lines.partition_point(|&at| at as usize <= start);
        let text = &source.text;
        let line_start = source.lines[line - 1] as usize;
        let line_end = text[line_start..].find('\n').map_or(text.len(), |length| line_start + length);
        let (start, end) = (start.min(line_end), end.min(line_end));
        let from = text.ceil_char_boundary(line_start.max(start.saturating_sub(EXCERPT_BYTES)));
        let to = text.floor_char_boundary(line_end.min(start + EXCERPT_BYTES));
        Place {
            path: source.path.clone(),
            line,
            column: text[line_start..text.floor_char_boundary(start)].chars().count() + 1,
            excerpt: text[from..to].trim_end_matches('\r').to_owned(),
            mark: start - from..end.min(to) - from,
        }
    }
}
