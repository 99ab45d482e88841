//! `[[access]]`

use ipnet::IpNet;

use crate::config::load::Loader;
use crate::config::model::AccessRule;
use crate::config::raw;
use crate::config::span::At;
use crate::config::value::{FilePath, parse_cidr, warn_host_bits};

/// Checks a rule, and reads the files it names.
pub fn check(raw: At<raw::Access>, loader: &mut Loader<'_>) -> Option<AccessRule> {
    let At { value: raw, span } = raw;
    let named_files = raw.source_files.as_ref().is_some_and(|list| !list.value.is_empty());
    let mut sources = super::networks(raw.sources);
    for file in raw.source_files.map_or_else(Vec::new, |list| list.value) {
        read_sources(&file, &mut sources, loader);
    }
    if sources.is_empty() && !named_files {
        let span = raw.name.0.as_ref().map_or(span, |name| name.span);
        loader.diagnostics.hint(span, "this rule has no sources, so it matches nothing");
    }
    sources.sort();
    sources.dedup();
    Some(AccessRule { name: raw.name.0?.value.0, action: raw.action.0?.value, sources })
}

/// Reads one network or address from each line; `#` begins a comment.
fn read_sources(file: &At<FilePath>, sources: &mut Vec<IpNet>, loader: &mut Loader<'_>) {
    let Some(source) = loader.text(file) else { return };
    let text = loader.diagnostics.sources.text(source).to_owned();
    let mut line_start = 0;
    for line in text.split_inclusive('\n') {
        let entry = line.split('#').next().unwrap_or_default();
        let word = entry.trim();
        let start = line_start + (entry.len() - entry.trim_start().len());
        line_start += line.len();
        if word.is_empty() {
            continue;
        }
        let span = source.span(start..start + word.len());
        match parse_cidr(word) {
            Ok(net) => {
                warn_host_bits(net, span, &mut loader.diagnostics);
                sources.push(net.trunc());
            }
            Err(problem) => problem.report(word, span, &mut loader.diagnostics),
        }
    }
}
