//! Topics of notifications, and the identifiers of single ones.

use std::sync::Arc;

use bytes::Bytes;

use crate::limits::{FIELD_BYTES_MAX, IDENTIFIER_BYTES_MAX};

/// The topic of a notification: any bytes, at most [`FIELD_BYTES_MAX`] of them.
///
/// Clones share the bytes.
///
/// ```
/// use httppubsub_proto::topic::Topic;
///
/// let topic = Topic::new("jobs/7")?;
/// assert_eq!(topic.as_str(), Some("jobs/7"));
///
/// let not_text = Topic::new([0xff, 0x00])?;
/// assert_eq!(not_text.as_str(), None);
///
/// assert!(Topic::new(vec![b'a'; 65_536]).is_err());
/// # Ok::<(), httppubsub_proto::topic::TopicTooLong>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic(Arc<[u8]>);

/// The error of a topic with more bytes than the wire can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the topic has {bytes} bytes, {FIELD_BYTES_MAX} are allowed")]
pub struct TopicTooLong {
    /// Number of bytes.
    pub bytes: usize,
}

impl Topic {
    /// The topic of these bytes.
    pub fn new(bytes: impl AsRef<[u8]>) -> Result<Self, TopicTooLong> {
        let bytes = bytes.as_ref();
        if bytes.len() > FIELD_BYTES_MAX {
            return Err(TopicTooLong { bytes: bytes.len() });
        }
        Ok(Self(bytes.into()))
    }

    /// A copy of the bytes of a field of the wire, which cannot be too long.
    pub(crate) fn from_field(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The text, if the bytes are UTF-8. Only such topics match globs.
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

/// Shows the text of a topic, with control characters and bytes that are not UTF-8 escaped.
impl std::fmt::Display for Topic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.as_str() {
            Some(text) => show_text(text, f),
            None => write!(f, "{}", self.0.escape_ascii()),
        }
    }
}

/// Shows a topic for a line of a log: quoted, escaped, cut where it is too long.
impl std::fmt::Debug for Topic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.as_str() {
            Some(text) => show_quoted(text, f),
            None => {
                // A topic may have 65,535 bytes, and others choose it: a log line shows enough to
                // know it by.
                let shown = &self.0[..self.0.len().min(SHOWN_BYTES_MAX)];
                write!(f, "b\"{}\"", shown.escape_ascii())?;
                show_cut(shown.len(), self.0.len(), f)
            }
        }
    }
}

/// Longest part of a topic or glob that a line of a log shows, in bytes.
const SHOWN_BYTES_MAX: usize = 200;

/// Shows text that somebody else chose as it stands, except for control characters, which could
/// upset a terminal.
pub(crate) fn show_text(text: &str, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
    let mut rest = text;
    // Escaped one by one, as everything between two of them is written without a copy.
    while let Some(at) = rest.find(char::is_control) {
        f.write_str(&rest[..at])?;
        let mut chars = rest[at..].chars();
        chars
            .next()
            .map_or(Ok(()), |control| write!(f, "{}", control.escape_debug()))?;
        rest = chars.as_str();
    }
    f.write_str(rest)
}

/// Shows text that somebody else chose for a line of a log: quoted, escaped, and cut where it is
/// too long.
pub(crate) fn show_quoted(text: &str, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
    let shown = &text[..text.floor_char_boundary(SHOWN_BYTES_MAX)];
    write!(f, "{shown:?}")?;
    show_cut(shown.len(), text.len(), f)
}

fn show_cut(shown: usize, bytes: usize, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
    if shown < bytes {
        write!(f, "… ({bytes} bytes)")?;
    }
    Ok(())
}

/// Tells one notification, or one delivery of it, from another: at most
/// [`IDENTIFIER_BYTES_MAX`] bytes, chosen by the sender.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Identifier(Bytes);

/// The error of an identifier with more bytes than the wire can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the identifier has {bytes} bytes, {IDENTIFIER_BYTES_MAX} are allowed")]
pub struct IdentifierTooLong {
    /// Number of bytes.
    pub bytes: usize,
}

impl Identifier {
    /// The identifier of these bytes.
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, IdentifierTooLong> {
        let bytes = bytes.into();
        if bytes.len() > IDENTIFIER_BYTES_MAX {
            return Err(IdentifierTooLong { bytes: bytes.len() });
        }
        Ok(Self(bytes))
    }

    /// A copy of the bytes of a field of the wire, which cannot be too long.
    pub(crate) fn from_field(bytes: &[u8]) -> Self {
        Self(Bytes::copy_from_slice(bytes))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Identifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identifier({})", crate::digest::hex(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_holds_exactly_what_the_wire_can_say() {
        assert!(Topic::new(vec![0; FIELD_BYTES_MAX]).is_ok());
        assert_eq!(
            Topic::new(vec![0; 65_536]),
            Err(TopicTooLong { bytes: 65_536 })
        );
    }

    #[test]
    fn topic_display_is_the_text_itself_and_debug_is_for_logs() {
        for (topic, display, debug) in [
            (&b"jobs/7 \"x\""[..], r#"jobs/7 "x""#, r#""jobs/7 \"x\"""#),
            (
                b"a\r\n\x1b[2J\xc2\x9b",
                r"a\r\n\u{1b}[2J\u{9b}",
                r#""a\r\n\u{1b}[2J\u{9b}""#,
            ),
            (b"\xff\x00", r"\xff\x00", r#"b"\xff\x00""#),
        ] {
            let topic = Topic::new(topic).unwrap();
            assert_eq!(topic.to_string(), display);
            assert_eq!(format!("{topic:?}"), debug);
        }
        let long = Topic::new("é".repeat(1_000)).unwrap();
        assert_eq!(long.to_string(), "é".repeat(1_000));
        let cut = format!("\"{}\"… (2000 bytes)", "é".repeat(100));
        assert_eq!(format!("{long:?}"), cut);
    }
}
