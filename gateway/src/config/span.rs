//! Where something stands in the configuration's files.

use std::path::{Path, PathBuf};

use super::schema::transparent_schema;

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

transparent_schema!(At);

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
    /// The line's text, unless it is too long to show.
    pub text: Option<String>,
    /// What to underline in `text`, in bytes.
    pub mark: std::ops::Range<usize>,
}

/// Longest line that is shown. A generated file may be one line of megabytes, with a thousand errors in it.
const MAX_SHOWN_BYTES: usize = 4096;

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
        let Source { path, text, lines } = &self.files[span.file as usize];
        if text.is_empty() {
            return Place { path: path.clone(), line: 0, column: 0, text: None, mark: 0..0 };
        }
        let line = lines.partition_point(|&start| start <= span.start);
        let line_start = lines[line - 1] as usize;
        let line_text = text[line_start..].lines().next().unwrap_or_default();
        let in_line = |offset: u32| line_text.floor_char_boundary((offset as usize).saturating_sub(line_start));
        let mark = in_line(span.start)..in_line(span.end);
        let column = line_text[..mark.start].chars().count() + 1;
        let text = (line_text.len() <= MAX_SHOWN_BYTES).then(|| line_text.to_owned());
        Place { path: path.clone(), line, column, text, mark }
    }
}
