//! Names that refer to tables.

use std::cell::Cell;
use std::collections::HashMap;

use crate::config::decode::{Required, did_you_mean};
use crate::config::report::Diagnostics;
use crate::config::span::{At, Span};
use crate::config::value::Name;

/// How many names are compared with wrong ones, all in all: thousands of wrong names and thousands of right ones must
/// not take a minute, and nobody reads the thousandth suggestion.
const COMPARISONS: usize = 100_000;

/// The names of one kind of table, by which others refer to it.
pub struct Names {
    kind: &'static str,
    ids: HashMap<String, u32>,
    entries: Vec<Entry>,
    comparisons_left: Cell<usize>,
}

struct Entry {
    span: Option<Span>,
    used: Cell<bool>,
}

impl Names {
    /// Collects the names in the order of the tables, and reports those that are given twice.
    pub fn new<'a>(
        kind: &'static str,
        names: impl Iterator<Item = &'a Required<Name>>,
        diagnostics: &mut Diagnostics,
    ) -> Names {
        let mut all =
            Names { kind, ids: HashMap::new(), entries: Vec::new(), comparisons_left: Cell::new(COMPARISONS) };
        for name in names {
            let id = all.entries.len() as u32;
            all.entries.push(Entry { span: name.0.as_ref().map(|name| name.span), used: Cell::new(false) });
            let Some(name) = &name.0 else { continue };
            match all.ids.get(&name.value.0) {
                None => _ = all.ids.insert(name.value.0.clone(), id),
                Some(&first) => all.report_duplicate(name, first, diagnostics),
            }
        }
        all
    }

    /// The id of a table; an error when there is none of that name.
    pub fn find(&self, name: &At<Name>, diagnostics: &mut Diagnostics) -> Option<u32> {
        let id = self.ids.get(&name.value.0).copied();
        match id {
            Some(id) => self.entries[id as usize].used.set(true),
            None => {
                let message = format!("there is no {} named `{}`", self.kind, name.value.0);
                let help = self.help(&name.value.0);
                let finding = diagnostics.error(name.span, message);
                help.map(|help| finding.help(help));
            }
        }
        id
    }

    /// Marks tables as used without their being named.
    pub fn use_where(&self, wanted: impl Fn(u32) -> bool) -> impl Iterator<Item = u32> {
        self.entries.iter().zip(0..).filter(move |(_, id)| wanted(*id)).map(|(entry, id)| {
            entry.used.set(true);
            id
        })
    }

    /// Warns about tables that nothing referred to.
    pub fn warn_unused(&self, why: impl Fn(u32) -> &'static str, diagnostics: &mut Diagnostics) {
        for (entry, id) in self.entries.iter().zip(0..).filter(|(entry, _)| !entry.used.get()) {
            if let Some(span) = entry.span {
                diagnostics.hint(span, format!("this {} is not used: {}", self.kind, why(id)));
            }
        }
    }

    fn report_duplicate(&self, name: &At<Name>, first: u32, diagnostics: &mut Diagnostics) {
        let finding = diagnostics.error(name.span, format!("there are two {}s named `{}`", self.kind, name.value.0));
        if let Some(span) = self.entries[first as usize].span {
            finding.related(span, "the first one");
        }
    }

    fn help(&self, name: &str) -> Option<String> {
        if self.ids.is_empty() {
            return Some(format!("there are no {}s", self.kind));
        }
        let left = self.comparisons_left.get().checked_sub(self.ids.len())?;
        self.comparisons_left.set(left);
        did_you_mean(name, self.ids.keys().map(String::as_str))
    }
}
