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

    /// Whether there has been an error.
    pub fn has_errors(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Error)
    }

    /// Everything found, in the order of the files.
    pub fn finish(mut self) -> Report {
        self.findings.sort_by_key(|finding| finding.span);
        let sources = &self.sources;
        Report { diagnostics: self.findings.into_iter().map(|finding| finding.locate(sources)).collect() }
    }

    fn push(&mut self, severity: Severity, span: Span, message: String) -> &mut Finding {
        self.findings.push(Finding { severity, span, message, help: None, related: None });
        self.findings.last_mut().expect("one was pushed")
    }
}

impl Finding {
    /// Adds what to do about it.
    pub fn help(&mut self, help: impl Into<Option<String>>) -> &mut Finding {
        self.help = help.into();
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
        self.diagnostics.iter().filter(|diagnostic| diagnostic.severity == severity).count()
    }

    /// The report as text; `colour` for a terminal.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        self.diagnostics.iter().map(|diagnostic| diagnostic.render(&renderer) + "\n\n").collect()
    }

    /// The report as a JSON array.
    pub fn to_json(&self) -> Value {
        self.diagnostics.iter().map(Diagnostic::to_json).collect()
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
        let mut group = show(level.primary_title(&self.message).elements([origin(&self.place)]), &self.place, None);
        if let Some((place, label)) = &self.related {
            group = show(group.element(origin(place)), place, Some(label));
        }
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(help));
        }
        renderer.render(&[group])
    }

    fn to_json(&self) -> Value {
        let mut json = place_json(&self.place);
        json["severity"] = match self.severity {
            Severity::Error => "error".into(),
            Severity::Warning => "warning".into(),
        };
        json["message"] = self.message.as_str().into();
        json["help"] = self.help.as_deref().into();
        if let Some((place, label)) = &self.related {
            json["related"] = place_json(place);
            json["related"]["message"] = (*label).into();
        }
        json
    }
}

fn origin(place: &Place) -> Origin<'_> {
    let origin = Origin::path(place.path.to_string_lossy());
    if place.line == 0 { origin } else { origin.line(place.line).char_column(place.column) }
}

fn show<'a>(group: Group<'a>, place: &'a Place, label: Option<&'a str>) -> Group<'a> {
    if place.line == 0 {
        return group;
    }
    let kind = if label.is_some() { AnnotationKind::Context } else { AnnotationKind::Primary };
    let mark = kind.span(place.mark.clone()).label(label);
    group.element(Snippet::source(&place.excerpt).line_start(place.line).fold(false).annotation(mark))
}

fn place_json(place: &Place) -> Value {
    json!({ "file": place.path.to_string_lossy(), "line": place.line, "column": place.column })
}
