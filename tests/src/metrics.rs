//! The Prometheus text format, read.

use std::collections::BTreeMap;

/// Every sample of one scrape.
#[derive(Debug)]
pub struct Samples(Vec<Sample>);

#[derive(Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Samples {
    /// Reads a scrape.
    ///
    /// # Panics
    /// When a line is neither a comment nor a sample.
    pub fn parse(text: &str) -> Samples {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        Samples(lines.map(|line| sample(line).unwrap_or_else(|| panic!("not a sample: {line:?}"))).collect())
    }

    /// The sum of the samples called `name` that have all of `labels`.
    ///
    /// # Panics
    /// When there is no sample of that name: a test that looks for a name nobody exports must fail.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        assert!(self.0.iter().any(|s| s.name == name), "no metric {name:?}");
        self.sum_or_none(name, labels)
    }

    /// The same for what has samples only while there is something to tell of.
    pub fn sum_or_none(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let named = self.0.iter().filter(|s| s.name == name);
        let has = |s: &&Sample| labels.iter().all(|(k, v)| s.labels.get(*k).is_some_and(|value| value == v));
        named.filter(has).map(|s| s.value).sum()
    }
}

/// `name{label="value",…} number`
fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, mut rest) = series.split_once('{').unwrap_or((series, "}"));
    let mut labels = BTreeMap::new();
    while rest != "}" {
        let (label, after) = rest.split_once("=\"")?;
        let end = closing_quote(after)?;
        labels.insert(label.to_owned(), after[..end].to_owned());
        rest = after[end + 1..].strip_prefix(',').unwrap_or(&after[end + 1..]);
    }
    Some(Sample { name: name.to_owned(), labels, value: value.parse().ok()? })
}

/// Where the label value that starts `text` ends: the first quote that no backslash precedes.
fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|b| {
        let end = b == b'"' && !escaped;
        escaped = b == b'\\' && !escaped;
        end
    })
}
