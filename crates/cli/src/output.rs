//! What goes to stdout: data, one thing a line.

use std::io;

use crate::console;

/// Writes a line to stdout at once. A reader that is gone is an error like any other.
pub(crate) fn line(text: &str) -> io::Result<()> {
    console::write(format!("{text}\n").as_bytes())
}

/// Writes a JSON object as a line to stdout at once.
pub(crate) fn json<const N: usize>(fields: [(&str, serde_json::Value); N]) -> io::Result<()> {
    let fields = fields
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value));
    line(&serde_json::Value::Object(fields.collect()).to_string())
}
