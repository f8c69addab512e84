//! What a notification is about, and what it is called on its way.

use std::sync::Arc;

use bytes::Bytes;

use crate::limits::{FIELD_BYTES_MAX, IDENTIFIER_BYTES_MAX};

/// What a notification is about: any bytes, at most [`FIELD_BYTES_MAX`] of them.
///
/// Clones share it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic(Arc<[u8]>);

/// A topic has more bytes than the wire can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the topic has {bytes} bytes, {FIELD_BYTES_MAX} are allowed")]
pub struct TopicTooLong {
    /// How many there are.
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

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its text, if it is UTF-8. Only such topics match globs.
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

/// Shows a topic for people: quoted, control characters and bytes that are not UTF-8 escaped, and
/// cut where it is too long for a line of a log.
impl std::fmt::Display for Topic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.as_str() {
            Some(text) => show_text(text, f),
            None => {
                let shown = &self.0[..self.0.len().min(SHOWN_BYTES_MAX)];
                write!(f, "b\"{}\"", shown.escape_ascii())?;
                show_cut(shown.len(), self.0.len(), f)
            }
        }
    }
}

/// How much of a topic or glob a line of a log shows, in bytes.
const SHOWN_BYTES_MAX: usize = 200;

/// Shows text that somebody else chose: quoted, escaped, and cut where it is too long for a line.
pub(crate) fn show_text(text: &str, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
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

impl std::fmt::Debug for Topic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Topic({self})")
    }
}

/// Tells one notification, or one delivery of it, from another: at most
/// [`IDENTIFIER_BYTES_MAX`] bytes, chosen by whoever sends.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Identifier(Bytes);

/// An identifier has more bytes than the wire can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the identifier has {bytes} bytes, {IDENTIFIER_BYTES_MAX} are allowed")]
pub struct IdentifierTooLong {
    /// How many there are.
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

    /// Its bytes.
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
    fn a_topic_is_shown_without_control_characters() {
        assert_eq!(Topic::new("a\r\nb").unwrap().to_string(), r#""a\r\nb""#);
        assert_eq!(
            Topic::new(&b"\xff\x00"[..]).unwrap().to_string(),
            r#"b"\xff\x00""#
        );
    }
}
