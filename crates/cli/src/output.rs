//! Standard output: data, one item a line.
//!
//! JSON objects have a name for everything that a program may want, in the same words as the
//! library. A topic comes twice, as text (null if it is not UTF-8) and as base64. Members are added
//! in later versions and never renamed, so a reader has to pass over those it does not know.

use std::io::{self, ErrorKind};
use std::thread;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use crate::console;
use crate::shown;

/// Writes a line to stdout at once, in which nothing acts on a terminal. A reader that is gone is
/// an error like any other.
pub(crate) fn line(text: &str) -> io::Result<()> {
    let text = shown::harmless(text);
    console::write(format!("{text}\n").as_bytes())
}

/// Writes a JSON object as a line to stdout at once.
pub(crate) fn json<const N: usize>(fields: [(&str, Value); N]) -> io::Result<()> {
    line(&object(fields))
}

/// A JSON object on one line.
fn object<const N: usize>(fields: [(&str, Value); N]) -> String {
    let fields = fields
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value));
    shown::json(&Value::Object(fields.collect()).to_string())
}

/// Stdout, written to by a thread of its own: while its reader is stopped, only who waits for a
/// line waits. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Printer(mpsc::Sender<Line>);

/// A line for the thread, and how its caller learns that it was written.
#[derive(Debug)]
struct Line {
    text: String,
    written: oneshot::Sender<io::Result<()>>,
}

impl Printer {
    /// The printer, whose thread ends with its last clone.
    pub(crate) fn start() -> io::Result<Self> {
        // More would only be another queue before the reader.
        let (sender, mut lines) = mpsc::channel(1);
        let print = move || {
            while let Some(Line { text, written }) = lines.blocking_recv() {
                // Who does not wait any longer does not ask.
                let _ = written.send(line(&text));
            }
        };
        thread::Builder::new()
            .name("stdout".to_owned())
            .spawn(print)?;
        Ok(Self(sender))
    }

    /// Returns when the line was written. If it is dropped before, the line may still be written.
    ///
    /// # Errors
    ///
    /// Those of the write; [`ErrorKind::BrokenPipe`] if the thread has ended.
    pub(crate) async fn line(&self, text: String) -> io::Result<()> {
        let (written, done) = oneshot::channel();
        let gone = || io::Error::from(ErrorKind::BrokenPipe);
        let sent = self.0.send(Line { text, written }).await;
        sent.map_err(|_| gone())?;
        done.await.unwrap_or_else(|_| Err(gone()))
    }

    /// The same with a JSON object.
    pub(crate) async fn json<const N: usize>(&self, fields: [(&str, Value); N]) -> io::Result<()> {
        self.line(object(fields)).await
    }
}
