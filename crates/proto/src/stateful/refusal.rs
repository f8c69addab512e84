//! The refusal of a notification by a broadcaster.

/// The reason why a broadcaster does not take a notification, on a connection that goes on.
///
/// The published protocol has no such answer, so CONFIRM_NOTIFY carries it: it stands for no
/// subscriber, and its tracing names the reason. Tracing is signed, and published subscribers do
/// not read it: to them the notification reached nobody, which is true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Longer than the broadcaster takes; the same message is refused again.
    #[error("the message is longer than is taken there")]
    TooLong,
    /// Another length or digest than its head says.
    #[error("the message is not the one that was announced")]
    NotAsAnnounced,
    /// The body is not what its compressor writes, or has another length than its head says.
    #[error("the message cannot be decompressed")]
    NotDecompressed,
    /// There is no room for it at the moment, or its authorization cannot be checked: the same
    /// message may be taken later.
    #[error("the message cannot be taken at the moment")]
    NotNow,
    /// A reason that this end does not know.
    #[error("the message is not taken")]
    Other,
}

const PREFIX: &[u8] = b"refused: ";

impl Refusal {
    /// Every reason that has a name on the wire.
    const NAMED: [(Self, &'static [u8]); 4] = [
        (Self::TooLong, b"refused: too-long"),
        (Self::NotAsAnnounced, b"refused: not-as-announced"),
        (Self::NotDecompressed, b"refused: not-decompressed"),
        (Self::NotNow, b"refused: not-now"),
    ];

    /// The tracing of the CONFIRM_NOTIFY that says this.
    pub fn tracing(self) -> &'static [u8] {
        let named = Self::NAMED.into_iter().find(|(it, _)| *it == self);
        named.map_or(PREFIX, |(_, tracing)| tracing)
    }

    /// The refusal that a CONFIRM_NOTIFY for no subscriber with this tracing is; `None` if it is a
    /// confirmation.
    pub fn of_tracing(tracing: &[u8]) -> Option<Self> {
        if !tracing.starts_with(PREFIX) {
            return None;
        }
        let named = Self::NAMED.into_iter().find(|(_, it)| *it == tracing);
        // A newer broadcaster may have reasons that are not known here; it is refused all the same.
        Some(named.map_or(Self::Other, |(it, _)| it))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_is_read_as_it_was_written_and_an_unknown_one_is_still_one() {
        for (refusal, _) in Refusal::NAMED {
            assert_eq!(Refusal::of_tracing(refusal.tracing()), Some(refusal));
        }
        let other = Some(Refusal::Other);
        assert_eq!(Refusal::of_tracing(Refusal::Other.tracing()), other);
        assert_eq!(Refusal::of_tracing(b"refused: by the moon"), other);
        for confirmation in [&b""[..], b"refused", b"\0\x00\x01"] {
            assert_eq!(Refusal::of_tracing(confirmation), None);
        }
    }
}
