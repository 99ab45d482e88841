//! As much of Rust's syntax as it takes to list the paths that a source file names.

/// A path as the source names it, `use` groups expanded: `crate::proto::head`.
#[derive(Debug, PartialEq)]
pub struct Name {
    pub line: usize,
    pub path: String,
}

impl Name {
    /// Whether the segments of `part` follow each other in this path.
    pub fn contains(&self, part: &str) -> bool {
        format!("::{}::", self.path).contains(&format!("::{part}::"))
    }
}

/// The paths of two segments and more, outside of comments, strings and test modules.
pub fn names(source: &str) -> Vec<Name> {
    let code = without_tests(&without_comments(source));
    let mut names = Vec::new();
    let mut scan = Scan { rest: &code, line: 1, names: &mut names };
    while !scan.rest.is_empty() {
        scan.path("");
        scan.skip();
    }
    names.retain(|name| name.path.contains("::"));
    names
}

struct Scan<'a> {
    rest: &'a str,
    line: usize,
    names: &'a mut Vec<Name>,
}

impl<'a> Scan<'a> {
    /// Reads `a::b::{c, d::e}` at this place, if there is one, and records each path with `prefix` before it.
    fn path(&mut self, prefix: &str) {
        let mut path = prefix.to_owned();
        let line = self.line;
        loop {
            if self.rest.starts_with('{') && path.ends_with("::") {
                return self.group(&path);
            }
            let segment = self.segment();
            if segment.is_empty() {
                break;
            }
            path.push_str(segment);
            if !self.take("::") {
                break;
            }
            path.push_str("::");
        }
        if path != prefix {
            self.names.push(Name { line, path: path.trim_end_matches("::").to_owned() });
        }
    }

    fn group(&mut self, prefix: &str) {
        self.take("{");
        while !self.rest.is_empty() && !self.take("}") {
            let before = self.rest.len();
            self.path(prefix);
            if self.rest.len() == before {
                self.skip();
            }
        }
    }

    fn segment(&mut self) -> &'a str {
        let end = self.rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(self.rest.len());
        let (segment, rest) = self.rest.split_at(end);
        self.rest = rest;
        segment
    }

    fn take(&mut self, token: &str) -> bool {
        self.rest.strip_prefix(token).map(|rest| self.rest = rest).is_some()
    }

    fn skip(&mut self) {
        let mut chars = self.rest.chars();
        if chars.next() == Some('\n') {
            self.line += 1;
        }
        self.rest = chars.as_str();
    }
}

/// The source with comments and the insides of literals blanked; lines stay where they are.
fn without_comments(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let hidden = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            '"' => string_end(rest),
            'r' if !ends_in_word(&code) => raw_string_end(rest),
            '\'' => char_end(rest),
            _ => 0,
        };
        if hidden == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            code.extend(rest[..hidden].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[hidden..];
        }
    }
    code
}

fn ends_in_word(code: &str) -> bool {
    // `br"…"` is a raw string too.
    code.strip_suffix('b').unwrap_or(code).ends_with(|c: char| c.is_alphanumeric() || c == '_')
}

fn string_end(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

fn raw_string_end(rest: &str) -> usize {
    let body = rest[1..].trim_start_matches('#');
    if !body.starts_with('"') {
        return 0;
    }
    let hashes = rest.len() - 1 - body.len();
    let close = format!("\"{}", "#".repeat(hashes));
    let start = hashes + 2;
    rest[start..].find(&close).map_or(rest.len(), |end| start + end + close.len())
}

/// A character, or 0 for a lifetime.
fn char_end(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => rest[3..].find('\'').map_or(0, |end| end + 4),
        Some(_) => chars.next().filter(|(_, c)| *c == '\'').map_or(0, |(at, _)| at + 1),
        None => 0,
    }
}

/// The code with the bodies of `#[cfg(test)]` items blanked.
fn without_tests(code: &str) -> String {
    let mut kept = code.to_owned();
    while let Some(start) = kept.find("#[cfg(test)]") {
        let end = item_end(&kept, start + "#[cfg(test)]".len());
        let blank: String = kept[start..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        kept.replace_range(start..end, &blank);
    }
    kept
}

/// Where the item that starts at `start` ends: at its `;`, or at the brace that closes its body.
fn item_end(code: &str, start: usize) -> usize {
    let mut depth = 0;
    for (at, c) in code[start..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 && matches!(c, '}' | ';') {
            return start + at + 1;
        }
    }
    code.len()
}
