//! What is wrong with a configuration, for people and for machines.

use std::fmt;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use serde_json::{Value, json};

use super::span::{Place, Sources, Span};

/// Collects what is wrong while the files are read and checked: an error never stops the search for the next one.
#[derive(Debug, Default)]
pub struct Diagnostics {
    /// The files the findings are about.
    pub sources: Sources,
    findings: Vec<Finding>,
}

/// One thing that is wrong, before its place is looked up.
#[derive(Debug)]
pub struct Finding {
    severity: Severity,
    span: Span,
    message: String,
    help: Option<String>,
    related: Option<(Span, &'static str)>,
    is_hint: bool,
}

impl Diagnostics {
    /// Something that makes the configuration unusable.
    pub fn error(&mut self, span: Span, message: impl Into<String>) -> &mut Finding {
        self.push(Severity::Error, span, message.into())
    }

    /// Something that is allowed and probably not meant.
    pub fn warning(&mut self, span: Span, message: impl Into<String>) -> &mut Finding {
        self.push(Severity::Warning, span, message.into())
    }

    /// A warning about what is missing or not used. When there are errors it is left out: it is likely to come from one.
    pub fn hint(&mut self, span: Span, message: impl Into<String>) -> &mut Finding {
        let finding = self.push(Severity::Warning, span, message.into());
        finding.is_hint = true;
        finding
    }

    /// Whether there has been an error.
    pub fn has_errors(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Error)
    }

    /// Everything found, in the order of the files.
    pub fn finish(mut self) -> Report {
        let has_errors = self.has_errors();
        self.findings.retain(|finding| !(has_errors && finding.is_hint));
        self.findings.sort_by_key(|finding| finding.span);
        let sources = &self.sources;
        Report { diagnostics: self.findings.into_iter().map(|finding| finding.locate(sources)).collect() }
    }

    fn push(&mut self, severity: Severity, span: Span, message: String) -> &mut Finding {
        self.findings.push(Finding { severity, span, message, help: None, related: None, is_hint: false });
        self.findings.last_mut().expect("one was pushed")
    }
}

impl Finding {
    /// Adds what to do about it.
    pub fn help(&mut self, help: impl Into<String>) -> &mut Finding {
        self.help = Some(help.into());
        self
    }

    /// Adds the other place that has to do with it.
    pub fn related(&mut self, span: Span, label: &'static str) -> &mut Finding {
        self.related = Some((span, label));
        self
    }

    fn locate(self, sources: &Sources) -> Diagnostic {
        Diagnostic {
            severity: self.severity,
            message: self.message,
            place: sources.place(self.span),
            help: self.help,
            related: self.related.map(|(span, label)| (sources.place(span), label)),
        }
    }
}

/// What was found in a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Each finding, in the order of the files.
    pub diagnostics: Vec<Diagnostic>,
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub message: String,
    /// Where.
    pub place: Place,
    /// What to do about it.
    pub help: Option<String>,
    /// Another place that has to do with it, and how.
    pub related: Option<(Place, &'static str)>,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// The configuration works, and probably not as meant.
    Warning,
}

impl Report {
    /// How many findings of that severity there are.
    pub fn count(&self, severity: Severity) -> usize {
        self.of(severity).count()
    }

    /// The report as text; `colour` for a terminal.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        self.diagnostics.iter().map(|diagnostic| diagnostic.render(&renderer) + "\n\n").collect()
    }

    /// The findings of that severity, as a JSON array.
    pub fn to_json(&self, severity: Severity) -> Value {
        self.of(severity).map(Diagnostic::to_json).collect()
    }

    fn of(&self, severity: Severity) -> impl Iterator<Item = &Diagnostic> {
        self.diagnostics.iter().filter(move |diagnostic| diagnostic.severity == severity)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl Diagnostic {
    fn render(&self, renderer: &Renderer) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = show(Group::with_title(level.primary_title(&self.message)), &self.place, None);
        if let Some((place, label)) = &self.related {
            group = show(group, place, Some(label));
        }
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(help));
        }
        renderer.render(&[group])
    }

    fn to_json(&self) -> Value {
        let mut json = place_json(&self.place);
        json["message"] = self.message.as_str().into();
        json["help"] = self.help.as_deref().into();
        if let Some((place, label)) = &self.related {
            json["related"] = place_json(place);
            json["related"]["message"] = (*label).into();
        }
        json
    }
}

fn show<'a>(group: Group<'a>, place: &'a Place, label: Option<&'a str>) -> Group<'a> {
    let path = place.path.to_string_lossy();
    let Some(text) = &place.text else {
        let origin = Origin::path(path);
        let known = place.line != 0;
        return group.element(if known { origin.line(place.line).char_column(place.column) } else { origin });
    };
    let kind = if label.is_some() { AnnotationKind::Context } else { AnnotationKind::Primary };
    let mark = kind.span(place.mark.clone()).label(label);
    group.element(Snippet::source(text).path(path).line_start(place.line).fold(false).annotation(mark))
}

fn place_json(place: &Place) -> Value {
    json!({ "file": place.path.to_string_lossy(), "line": place.line, "column": place.column })
}
