//! The tracing of RESPONSE_NOTIFY, without which published clients fail
//! (`docs/protocol/stateless.md` §5).

use crate::time::Now;
use crate::wire::{DecodeError, Reader, Writer};

/// The times of a broadcaster's work on a notification, as one entry. The publisher does not learn
/// who was notified (`docs/design/threats.md` T18).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotifyTrace {
    /// The moment at which the request was received.
    pub received: Now,
    /// The moment at which the answer was made.
    pub answered: Now,
}

impl NotifyTrace {
    /// Encodes the tracing field.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::with_capacity(64);
        // Published clients fail without an entry, and this is the smallest that they read (§5).
        out.u8(0)
            .u16(1)
            .field16(b"no_more_subscribers")
            .field16(b"{}")
            .u64(self.answered.since_unix().as_secs_f64().to_bits())
            .u64(self.received.unix_nanoseconds())
            .u64(self.answered.unix_nanoseconds());
        out.into_bytes()
    }

    /// The names of the entries of a tracing field.
    pub fn entry_names(tracing: &[u8]) -> Result<Vec<String>, DecodeError> {
        let mut reader = Reader::new(tracing);
        reader.u8("cut off")?;
        let mut names = Vec::new();
        for _ in 0..reader.u16("number of entries")? {
            names.push(reader.text16("entry name")?.to_owned());
            reader.text16("entry extra")?;
            reader.u64("entry time")?;
        }
        reader.u64("request received")?;
        reader.u64("answer sent")?;
        Ok(names)
    }
}
