//! One line for each finished request.
//!
//! A [`Record`] borrows what the request left behind; a [`LineFormat`] writes it as text or JSON into a buffer of the
//! worker; a [`LogSink`](queue::LogSink) hands full buffers to the thread that writes them. Nothing here allocates
//! once the buffers have grown, waits, or can make two lines out of one: whatever a client sent is escaped (`escape`).

mod escape;
mod format;
mod json;
pub mod queue;
mod record;
mod timestamp;

pub use format::{DEFAULT_FORMAT, Format, FormatError};
pub use record::Record;
#[cfg(test)]
pub(crate) use record::samples;

/// What a line looks like.
#[derive(Clone, Debug)]
pub enum LineFormat {
    /// One JSON object, documented in `json.rs`.
    Json,
    /// An Envoy format string.
    Text(Format),
}

impl LineFormat {
    /// Appends the line and its line feed.
    pub fn write(&self, record: &Record<'_>, out: &mut Vec<u8>) {
        match self {
            LineFormat::Json => json::write(record, out),
            LineFormat::Text(format) => format.write(record, out),
        }
        out.push(b'\n');
    }
}
