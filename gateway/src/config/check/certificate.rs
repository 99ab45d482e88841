//! `[[certificate]]`
//!
//! A bad pair is an error the first time. Later, when the files of a certificate that runs have changed, it is no reason to
//! refuse a configuration: the certificate goes on with the pair it had. In a directory a bad pair is never an error, as a
//! pair of one customer must not keep those of all others from being served.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use zeroize::Zeroizing;

use super::names::Names;
use super::{http_versions, only_one, reject_empty};
use crate::config::decode::{Given, List, Optional};
use crate::config::load::Loader;
use crate::config::model::{Certificate, CertificateSource, HostPattern, HttpVersions, Obtained, Pair, PairFiles};
use crate::config::ocsp::Staple;
use crate::config::pair::content;
use crate::config::report::Diagnostics;
use crate::config::span::{At, Span};
use crate::config::value::{FilePath, Host, Name};
use crate::config::{Known, PairError, PairPart, Refusal, Refused, raw};

/// Most pairs in a directory: each is a few KiB, and two files to look at and to read whenever something changes.
const MAX_PAIRS: usize = 100_000;

const NOT_STAPLED: &str = "nothing is stapled to the certificate";

/// Most names of a certificate that is obtained, as with Let's Encrypt.
const MAX_OBTAINED: usize = 100;

/// Checks certificates in the light of those that run.
pub struct Checker<'a> {
    /// Unix time in seconds.
    now: i64,
    by_name: HashMap<&'a str, &'a Certificate>,
    by_content: HashMap<[u8; 32], &'a Arc<Pair>>,
}

/// What of a table is the same for all of its certificates.
struct Table {
    hosts: Option<Vec<(Span, String)>>,
    http: HttpVersions,
}

/// Where a problem with a pair is reported.
struct Spans {
    chain: Span,
    key: Span,
    ocsp: Span,
}

/// What is wrong with a pair.
struct Problem {
    span: Span,
    refusal: Refusal,
    message: String,
    help: String,
}

impl<'a> Checker<'a> {
    /// Looks at what runs.
    pub fn new(known: &Known<'a>) -> Checker<'a> {
        let running = known.running.iter().flat_map(|running| &running.certificates);
        let pairs = running.clone().filter_map(|certificate| certificate.pair.as_ref());
        Checker {
            now: unix(known.now),
            by_name: running.map(|certificate| (certificate.name.as_str(), certificate)).collect(),
            by_content: pairs.map(|pair| (pair.content, pair)).collect(),
        }
    }

    /// The certificates that a table stands for. `names` are those of `[[acme]]` tables.
    pub fn check(&self, raw: At<raw::Certificate>, names: &Names, loader: &mut Loader<'_>) -> Option<Vec<Certificate>> {
        let At { value: raw, span } = raw;
        let diagnostics = &mut loader.diagnostics;
        if let Some(versions) = &raw.http {
            reject_empty(versions, "http", "every version the listener speaks", diagnostics);
        }
        let pair_span = raw.chain.as_ref().or(raw.key.as_ref()).map(|path| path.span);
        let stored = raw.stored.filter(|stored| stored.value).map(|stored| stored.span);
        let (directory, acme) = (raw.directory.as_ref().map(|key| key.span), raw.acme.as_ref().map(|key| key.span));
        let sources = [pair_span, directory, acme, stored];
        only_one(sources, "`chain` with `key`, `directory`, `acme` and `stored`", diagnostics);
        if let (Some(ocsp), None, Some(_)) = (&raw.ocsp, pair_span, sources.iter().flatten().next()) {
            diagnostics.error(ocsp.span, "`ocsp` is for a `chain` and its `key`");
        }
        let name = raw.name.0.map(|name| name.value.0);
        let table = Table { http: http_versions(&raw.http), hosts: raw.hosts.map(hosts) };
        match (raw.chain, raw.key, raw.directory, raw.acme) {
            (_, _, Some(directory), _) => self.directory(name?, &given(directory)?, table, loader),
            (_, _, _, Some(acme)) => self.obtained(name?, given(acme)?, names, table, span, loader).map(|it| vec![it]),
            _ if stored.is_some() => Some(vec![stored_certificate(name?, table)]),
            (Some(chain), Some(key), ..) => self.pair(name, (given(chain), given(key)), raw.ocsp, &table, loader),
            (chain, key, ..) => {
                let missing = match (chain, key) {
                    (Some(_), _) => "`key` is missing",
                    (_, Some(_)) => "`chain` is missing",
                    _ => "it is not said where the certificate comes from",
                };
                let help = "`chain` and `key` are its files; or else give a `directory`, `acme`, or `stored`";
                loader.diagnostics.error(span, missing).help(help);
                None
            }
        }
    }

    /// The certificate of two files.
    fn pair(
        &self,
        name: Option<String>,
        (chain, key): (Option<At<FilePath>>, Option<At<FilePath>>),
        ocsp: Optional<FilePath>,
        table: &Table,
        loader: &mut Loader<'_>,
    ) -> Option<Vec<Certificate>> {
        let (chain, key) = (chain?, key?);
        let resolve = |path: &At<FilePath>| loader.diagnostics.sources.resolve(&path.value.0, path.span);
        let files = PairFiles { chain: resolve(&chain), key: resolve(&key), ocsp: ocsp.as_ref().map(resolve) };
        let spans =
            Spans { chain: chain.span, key: key.span, ocsp: ocsp.as_ref().map_or(chain.span, |path| path.span) };
        let source = CertificateSource::Files(files.clone());
        self.of_files(name?, source, &files, &spans, table, loader).map(|it| vec![it])
    }

    /// Every pair in a directory, by its name there.
    fn directory(
        &self,
        name: String,
        directory: &At<FilePath>,
        mut table: Table,
        loader: &mut Loader<'_>,
    ) -> Option<Vec<Certificate>> {
        let span = directory.span;
        if let Some((span, _)) = table.hosts.take().and_then(|hosts| hosts.into_iter().next()) {
            let help = "each certificate of a directory is used for all that it covers";
            loader.diagnostics.error(span, "`hosts` is not for a `directory`").help(help);
        }
        let path = loader.diagnostics.sources.resolve(&directory.value.0, span);
        let pairs = pairs_in(loader.list(&path, span)?);
        if pairs.len() > MAX_PAIRS {
            let message =
                format!("{} has {} certificates, at most {MAX_PAIRS} are allowed", path.display(), pairs.len());
            loader.diagnostics.error(span, message);
            return None;
        }
        if pairs.is_empty() {
            let running = self.running_of(&name, &path);
            let message = nothing_in(&path, loader.try_bytes(&path).map(Zeroizing::new));
            let help = match running.is_empty() {
                true => "a pair is NAME.crt, or NAME.pem, and NAME.key",
                false => "those that were there are used on; take the table out when they are not wanted any more",
            };
            if !running.is_empty() {
                loader.notes.push(format!("certificate `{name}`: {message}: {help}"));
            }
            loader.diagnostics.warning(span, message).help(help);
            return Some(running);
        }
        let spans = Spans { chain: span, key: span, ocsp: span };
        let certificate = |(of, files): (String, OneOrTwo)| {
            let name = format!("{name}/{of}");
            let files = self.chosen(&name, files, &spans, &table, loader);
            let source = CertificateSource::Directory(files.clone());
            self.of_files(name, source, &files, &spans, &table, loader)
        };
        Some(pairs.into_iter().filter_map(certificate).collect())
    }

    /// Of `NAME.crt` and `NAME.pem` the first that is good with `NAME.key`: one that is put beside the other does not
    /// take away what is shown. Neither does the other when the first runs and is renewed badly: it may be an old one.
    fn chosen(
        &self,
        name: &str,
        (first, other): OneOrTwo,
        spans: &Spans,
        table: &Table,
        loader: &mut Loader<'_>,
    ) -> PairFiles {
        let Some(other) = other else { return first };
        let mut problems = |files: &PairFiles| {
            // What is to be stapled is looked at once, with the one that is used.
            let files = PairFiles { ocsp: None, ..files.clone() };
            let before = self.before(name, &CertificateSource::Directory(files.clone()));
            match self.read(&files, spans, loader) {
                Ok(pair) if pair.chain_not_after < self.now => {
                    let message = format!("{} expired on {}", files.chain.display(), date(pair.chain_not_after));
                    vec![Problem { span: spans.chain, refusal: Refusal::Expired, message, help: String::new() }]
                }
                Ok(pair) => self.problems(&pair, before, &files, spans, table),
                Err(problems) => problems,
            }
        };
        let of_first = problems(&first);
        let is_first = |old: &PairFiles| (&old.chain, &old.key) == (&first.chain, &first.key);
        let first_runs = self.by_name.get(name).and_then(|old| old.source.files()).is_some_and(is_first);
        let has_expired = of_first.iter().any(|problem| problem.refusal == Refusal::Expired);
        let may_be_passed_over = !of_first.is_empty() && (has_expired || !first_runs);
        let passes_over = may_be_passed_over && problems(&other).is_empty();
        let (used, left) = if passes_over { (other, first) } else { (first, other) };
        let (used_path, left_path) = (used.chain.display(), left.chain.display());
        let message = format!("certificate `{name}`: {left_path} is not used, as there is {used_path}");
        loader.diagnostics.warning(spans.chain, message).help("take one of them away");
        for Problem { refusal, message, .. } in of_first.into_iter().filter(|_| passes_over) {
            let message = format!("{left_path} beside {used_path}: {message}");
            loader.refused.push(Refused { certificate: name.to_owned(), refusal, message, kept: true });
        }
        used
    }

    /// What runs of a directory's certificates. A directory that is empty from one moment to the next is being replaced, or
    /// is not mounted.
    fn running_of(&self, name: &str, directory: &Path) -> Vec<Certificate> {
        let is_from_there = |old: &&&Certificate| {
            let of_table = old.name.split_once('/').is_some_and(|(table, _)| table == name);
            of_table && old.source.files().is_some_and(|files| files.chain.parent() == Some(directory))
        };
        let mut running: Vec<_> = self.by_name.values().filter(is_from_there).map(|old| (*old).clone()).collect();
        running.sort_by(|one, other| one.name.cmp(&other.name));
        running
    }

    /// A certificate that is obtained. What is kept of it comes later.
    fn obtained(
        &self,
        name: String,
        by: At<Name>,
        names: &Names,
        table: Table,
        span: Span,
        loader: &mut Loader<'_>,
    ) -> Option<Certificate> {
        let Some(hosts) = table.hosts.filter(|hosts| !hosts.is_empty()) else {
            let help = "`hosts` has the names that it is obtained for";
            loader.diagnostics.error(span, "it is not said what the certificate is for").help(help);
            return None;
        };
        let diagnostics = &mut loader.diagnostics;
        names.find(&by, diagnostics)?;
        if hosts.len() > MAX_OBTAINED {
            let message = format!("{} hosts in one certificate, at most {MAX_OBTAINED} are possible", hosts.len());
            diagnostics.error(hosts[0].0, message).help("use several certificates");
        }
        for (span, host) in hosts.iter().filter(|(_, host)| host.contains('*')) {
            let help = "the challenges http-01 and tls-alpn-01 prove one name each; a wildcard takes a file pair";
            diagnostics.error(*span, format!("{host} cannot be obtained by ACME")).help(help);
        }
        let hosts: Vec<String> = hosts.into_iter().map(|(_, host)| host).collect();
        let source = CertificateSource::Acme(Obtained { by: by.value.0, hosts: hosts.clone() });
        Some(Certificate { name, source, pair: None, hosts, http: table.http })
    }

    fn of_files(
        &self,
        name: String,
        source: CertificateSource,
        files: &PairFiles,
        spans: &Spans,
        table: &Table,
        loader: &mut Loader<'_>,
    ) -> Option<Certificate> {
        let before = self.before(&name, &source);
        let (pair, problems) = match self.read(files, spans, loader) {
            Ok(pair) => {
                let problems = self.problems(&pair, before, files, spans, table);
                (Some(pair), problems)
            }
            Err(problems) => (None, problems),
        };
        let kept = before.filter(|before| misses(table, before).next().is_none() && pair.as_ref() != Some(before));
        let pair = match (problems.is_empty(), kept) {
            (true, _) => {
                let pair = pair?;
                self.warn(&pair, files, spans, &mut loader.diagnostics);
                Some(pair)
            }
            (false, kept) => {
                self.refuse(&name, &source, problems, kept, loader);
                kept.cloned()
            }
        }?;
        let hosts = table.hosts.as_ref().map(|hosts| hosts.iter().map(|(_, host)| host.clone()).collect());
        let hosts = hosts.unwrap_or_else(|| pair.info.names.clone());
        Some(Certificate { name, source, pair: Some(pair), hosts, http: table.http })
    }

    /// The pair that runs, where it is from the same files. In a directory its chain may be from one with the other
    /// ending.
    fn before(&self, name: &str, source: &CertificateSource) -> Option<&'a Arc<Pair>> {
        let running = self.by_name.get(name)?;
        let (old, new) = running.source.files().zip(source.files())?;
        let is_directory = |source: &CertificateSource| matches!(source, CertificateSource::Directory(_));
        let may_differ = is_directory(&running.source) && is_directory(source);
        let is_from_there = old.key == new.key && (may_differ || old.chain == new.chain);
        running.pair.as_ref().filter(|_| is_from_there)
    }

    /// Reads the files of a pair, and parses them unless they are what runs.
    fn read(&self, files: &PairFiles, spans: &Spans, loader: &mut Loader<'_>) -> Result<Arc<Pair>, Vec<Problem>> {
        let mut read = |path: &Path, span| {
            loader.try_bytes(path).map_err(|error| Problem {
                span,
                refusal: Refusal::Unreadable,
                message: format!("cannot read {}: {error}", path.display()),
                help: String::new(),
            })
        };
        let chain = read(&files.chain, spans.chain);
        let key = read(&files.key, spans.key).map(Zeroizing::new);
        let (chain, key) = match (chain, key) {
            (Ok(chain), Ok(key)) => (chain, key),
            (chain, key) => return Err(chain.err().into_iter().chain(key.err()).collect()),
        };
        let ocsp = files.ocsp.as_ref().and_then(|path| self.staple(path, spans.ocsp, loader));
        let pair = match self.by_content.get(&content(&chain, &key, ocsp.as_deref())) {
            Some(same) => Arc::clone(same),
            None => Arc::new(Pair::of(&chain, &key, ocsp.as_deref()).map_err(|errors| named(errors, files, spans))?),
        };
        if pair.chain_not_before > self.now {
            loader.load_again_at(pair.chain_not_before);
        }
        if let (Some(path), true, None) = (&files.ocsp, ocsp.is_some(), &pair.key.ocsp) {
            let message = format!("{} is about another certificate", path.display());
            loader.diagnostics.warning(spans.ocsp, message).help(NOT_STAPLED);
        }
        Ok(pair)
    }

    /// What is to be stapled, if that is worth showing. If not, the certificate does without: clients that want to know
    /// more ask its authority.
    fn staple(&self, path: &Path, span: Span, loader: &mut Loader<'_>) -> Option<Vec<u8>> {
        let shown = path.display();
        let message = match loader.try_bytes(path) {
            Err(error) => format!("cannot read {shown}: {error}"),
            Ok(der) => match Staple::of(&der) {
                None => format!("{shown} has no OCSP response that can be read"),
                Some(Staple { is_good: false, .. }) => format!("{shown} does not say that the certificate is good"),
                Some(Staple { next_update: Some(end), .. }) if end <= self.now => {
                    format!("{shown} expired on {}", date(end))
                }
                Some(Staple { next_update, .. }) => {
                    next_update.iter().for_each(|end| loader.load_again_at(*end));
                    return Some(der);
                }
            },
        };
        loader.diagnostics.warning(span, message).help(NOT_STAPLED);
        None
    }

    /// Why a pair, although it is one, is not used. `before` is what it would take the place of.
    fn problems(
        &self,
        pair: &Pair,
        before: Option<&Arc<Pair>>,
        files: &PairFiles,
        spans: &Spans,
        table: &Table,
    ) -> Vec<Problem> {
        let mut problems = Vec::new();
        let is_new = before.is_none_or(|before| before.info.sha256 != pair.info.sha256);
        let mut validity = |refusal, message: String| {
            let message = format!("{} {message}", files.chain.display());
            problems.push(Problem { span: spans.chain, refusal, message, help: String::new() });
        };
        if is_new && pair.chain_not_before > self.now {
            validity(Refusal::NotYetValid, format!("is not valid before {}", date(pair.chain_not_before)));
        }
        if is_new && before.is_some() && pair.info.not_after < self.now {
            validity(Refusal::Expired, format!("expired on {}", date(pair.info.not_after)));
        }
        let help = format!("it covers {}", pair.info.names.join(", "));
        problems.extend(misses(table, pair).map(|(span, host)| Problem {
            span: *span,
            refusal: Refusal::Hosts,
            message: format!("the certificate does not cover {host}"),
            help: help.clone(),
        }));
        problems
    }

    /// Warns of a pair that is used. It may be renewed at any time, so that it has expired is no reason not to start.
    fn warn(&self, pair: &Pair, files: &PairFiles, spans: &Spans, diagnostics: &mut Diagnostics) {
        let chain = files.chain.display();
        if pair.chain_not_after < self.now {
            diagnostics.warning(spans.chain, format!("{chain} expired on {}", date(pair.chain_not_after)));
        }
        if pair.info.names.is_empty() {
            let message = format!("{chain} has no DNS name in it (subjectAltName), so no server name selects it");
            diagnostics.warning(spans.chain, message);
        }
    }

    fn refuse(
        &self,
        name: &str,
        source: &CertificateSource,
        problems: Vec<Problem>,
        kept: Option<&Arc<Pair>>,
        loader: &mut Loader<'_>,
    ) {
        let help = match (kept, source) {
            (Some(_), _) => Some("the pair that it had is used"),
            (None, CertificateSource::Directory(_)) => Some("it is left out"),
            (None, _) => None,
        };
        for Problem { span, refusal, message, help: what_to_do } in problems {
            let Some(help) = help else {
                let finding = loader.diagnostics.error(span, message);
                if !what_to_do.is_empty() {
                    finding.help(what_to_do);
                }
                continue;
            };
            loader.diagnostics.warning(span, format!("certificate `{name}`: {message}")).help(help);
            let kept = kept.is_some();
            loader.refused.push(Refused { certificate: name.to_owned(), refusal, message, kept });
        }
    }
}

/// What is wrong with a pair, said of its files.
fn named(errors: Vec<PairError>, files: &PairFiles, spans: &Spans) -> Vec<Problem> {
    let problem = |error: PairError| {
        let (path, span) = match error.part {
            PairPart::Chain => (&files.chain, spans.chain),
            PairPart::Key => (&files.key, spans.key),
        };
        let message = format!("{} {}", path.display(), error.message);
        Problem { span, refusal: error.refusal, message, help: error.help.to_owned() }
    };
    errors.into_iter().map(problem).collect()
}

/// A value that is not wrong.
fn given<T>(given: At<Given<T>>) -> Option<At<T>> {
    Some(At { value: given.value.0?, span: given.span })
}

fn unix(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

fn date(unix_s: i64) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(unix_s.max(0) as u64);
    humantime::format_rfc3339_seconds(time).to_string()[..10].to_owned()
}

/// What a directory without a pair is, by what comes of reading it as if it were a file.
fn nothing_in(path: &Path, read: io::Result<Zeroizing<Vec<u8>>>) -> String {
    let path = path.display();
    match read.map_err(|error| error.kind()) {
        Err(io::ErrorKind::NotFound) => format!("there is no directory {path}"),
        Ok(_) | Err(io::ErrorKind::NotADirectory) => format!("{path} is no directory"),
        Err(_) => format!("there is no certificate in {path}"),
    }
}

/// A pair, and that whose chain has the other ending where there are both.
type OneOrTwo = (PairFiles, Option<PairFiles>);

/// The pairs among the files of a directory, by name. Files that belong to none are no business of ours.
fn pairs_in(files: Vec<PathBuf>) -> BTreeMap<String, OneOrTwo> {
    let mut pairs: BTreeMap<String, OneOrTwo> = BTreeMap::new();
    let is = |path: &Path, wanted: &str| path.extension().is_some_and(|extension| extension == wanted);
    for chain in files.iter().filter(|path| is(path, "crt") || is(path, "pem")) {
        // What is no UTF-8 cannot be named in a log.
        let Some(name) = chain.file_stem().and_then(|stem| stem.to_str()) else { continue };
        let ocsp = Some(chain.with_extension("ocsp")).filter(|path| files.binary_search(path).is_ok());
        let files = PairFiles { chain: chain.clone(), key: chain.with_extension("key"), ocsp };
        // Of both extensions, `crt` comes first.
        match pairs.get_mut(name) {
            None => _ = pairs.insert(name.to_owned(), (files, None)),
            Some((_, other)) => *other = Some(files),
        }
    }
    pairs
}

fn hosts(hosts: At<List<Host>>) -> Vec<(Span, String)> {
    let text = |host: At<Host>| match host.value.0 {
        HostPattern::Exact(text) => (host.span, text),
        HostPattern::Suffix(parent) => (host.span, format!("*{parent}")),
        HostPattern::Any => (host.span, "*".to_owned()),
    };
    hosts.value.into_iter().map(text).collect()
}

/// A certificate that is in etcd. What is kept of it comes later.
fn stored_certificate(name: String, table: Table) -> Certificate {
    let hosts: Vec<String> = table.hosts.into_iter().flatten().map(|(_, host)| host).collect();
    Certificate { name, source: CertificateSource::Stored(hosts.clone()), pair: None, hosts, http: table.http }
}

/// The hosts of a table that a pair does not cover.
fn misses<'t>(table: &'t Table, pair: &Pair) -> impl Iterator<Item = &'t (Span, String)> {
    table.hosts.iter().flatten().filter(|(_, host)| !is_covered(host, pair))
}

fn is_covered(host: &str, pair: &Pair) -> bool {
    pair.covers(host)
}
