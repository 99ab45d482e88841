//! `[[access]]`

use std::ops::RangeInclusive;
use std::time::SystemTime;

use ipnet::IpNet;

use crate::config::decode::{FromText, List, Optional};
use crate::config::load::Loader;
use crate::config::model::AccessRule;
use crate::config::raw;
use crate::config::span::{At, Span};
use crate::config::value::{FilePath, Moment, Ports, parse_cidr, warn_host_bits};

/// Ranges of ports in one rule: a packet is compared with each of them.
const PORTS_MAX: usize = 8;

/// A source, and when it ends.
type Source = (IpNet, Option<SystemTime>);

/// Checks a rule, and reads the files it names.
pub fn check(raw: At<raw::Access>, loader: &mut Loader<'_>) -> Option<AccessRule> {
    let At { value: raw, span } = raw;
    let named_files = raw.source_files.as_ref().is_some_and(|list| !list.value.is_empty());
    let mut sources: Vec<Source> = super::networks(raw.sources).into_iter().map(|network| (network, None)).collect();
    for file in raw.source_files.map_or_else(Vec::new, |list| list.value) {
        read_sources(&file, &mut sources, loader);
    }
    if sources.is_empty() && !named_files {
        let span = raw.name.0.as_ref().map_or(span, |name| name.span);
        loader.diagnostics.hint(span, "this rule has no sources, so it matches nothing");
    }
    let ports = ports(raw.ports, loader);
    let end = raw.expires.map(|expires| expires.value.0);
    let (sources, expiring) = by_end(sources, end);
    Some(AccessRule {
        name: raw.name.0?.value.0,
        action: raw.action.0?.value,
        protocol: raw.protocol.map(|protocol| protocol.value),
        ports: ports?,
        sources,
        expiring,
    })
}

fn ports(raw: Optional<List<Ports>>, loader: &mut Loader<'_>) -> Option<Vec<RangeInclusive<u16>>> {
    let Some(At { value: ports, span }) = raw else { return Some(Vec::new()) };
    if ports.len() > PORTS_MAX {
        let message = format!("{} ports and ranges are more than a rule may have", ports.len());
        loader.diagnostics.error(span, message).help(format!("at most {PORTS_MAX}; use ranges, or a second rule"));
        return None;
    }
    Some(ports.into_iter().map(|ports| ports.value.0).collect())
}

/// Those that never end, and those that do: a source ends with its line or with its rule, whichever is first. Of one that
/// is there twice the later end counts.
fn by_end(sources: Vec<Source>, of_rule: Option<SystemTime>) -> (Vec<IpNet>, Vec<(IpNet, SystemTime)>) {
    let (mut forever, mut expiring) = (Vec::new(), Vec::new());
    for (network, of_line) in sources {
        match of_line.into_iter().chain(of_rule).min() {
            None => forever.push(network),
            Some(end) => expiring.push((network, end)),
        }
    }
    forever.sort();
    forever.dedup();
    expiring.sort_by(|a, b| (a.0, b.1).cmp(&(b.0, a.1)));
    expiring.dedup_by_key(|(network, _)| *network);
    expiring.retain(|(network, _)| forever.binary_search(network).is_err());
    (forever, expiring)
}

/// Reads a network or address from each line, and when it ends; `#` begins a comment.
fn read_sources(file: &At<FilePath>, sources: &mut Vec<Source>, loader: &mut Loader<'_>) {
    let Some(source) = loader.text(file) else { return };
    let text = loader.diagnostics.sources.text(source).to_owned();
    let mut line_start = 0;
    for line in text.split_inclusive('\n') {
        let entry = line.split('#').next().unwrap_or_default();
        let words = words(entry, line_start).map(|(start, word)| (source.span(start..start + word.len()), word));
        line_start += line.len();
        sources.extend(source_of(words, loader));
    }
}

/// The words of a line, with where they begin.
fn words(entry: &str, line_start: usize) -> impl Iterator<Item = (usize, &str)> {
    let offset = move |word: &str| line_start + (word.as_ptr() as usize - entry.as_ptr() as usize);
    entry.split_whitespace().map(move |word| (offset(word), word))
}

fn source_of<'a>(mut words: impl Iterator<Item = (Span, &'a str)>, loader: &mut Loader<'_>) -> Option<Source> {
    let diagnostics = &mut loader.diagnostics;
    let (span, word) = words.next()?;
    let network = parse_cidr(word).map_err(|problem| problem.report(word, span, diagnostics)).ok();
    if let Some(network) = network {
        warn_host_bits(network, span, diagnostics);
    }
    let end = match words.next() {
        None => None,
        Some((span, word)) => match word.strip_prefix("expires=") {
            Some(moment) => match Moment::from_text(moment) {
                Ok(moment) => Some(moment.0),
                Err(problem) => {
                    problem.report(word, span, diagnostics);
                    return None;
                }
            },
            None => {
                let help = "`expires=2026-12-01T00:00:00Z`, or `#` and a comment";
                diagnostics.error(span, format!("{word:?} cannot follow a source")).help(help);
                return None;
            }
        },
    };
    if let Some((span, word)) = words.next() {
        diagnostics.error(span, format!("{word:?} is one word too many")).help("`#` begins a comment");
        return None;
    }
    network.map(|network| (network.trunc(), end))
}
