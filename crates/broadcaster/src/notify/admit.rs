//! Admission of a notification, before its message is read.

use crate::admission::admission::NotificationGuard;
use crate::admission::overloaded::Overloaded;
use crate::notify::notify::Notify;

/// The reason for which a notification is refused, whatever its message is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotAdmitted {
    /// There is too much to do; later it may be admitted.
    #[error(transparent)]
    Overloaded(#[from] Overloaded),
    /// It will never be admitted.
    #[error(transparent)]
    TooLong(#[from] TooLong),
}

/// A message is longer than may be.
#[derive(Debug, thiserror::Error)]
#[error("the message has {bytes} bytes, {bytes_max} are allowed here")]
pub(crate) struct TooLong {
    /// Length as its head announces it.
    bytes: u64,
    /// [`Config::message_bytes_max`](crate::Config::message_bytes_max).
    bytes_max: u64,
}

impl Notify {
    /// Admits a notification of `bytes` bytes that is not to wait; it is in progress while the
    /// guard is held.
    pub(crate) fn admit(&self, bytes: u64) -> Result<NotificationGuard<'_>, NotAdmitted> {
        let guard = self.admission.admit()?;
        self.judge_length(bytes)?;
        Ok(guard)
    }

    /// Judges the length of a message, alone where it is held back by the session that it comes
    /// over.
    pub(crate) fn judge_length(&self, bytes: u64) -> Result<(), TooLong> {
        match self.message_bytes_max {
            Some(bytes_max) if bytes > bytes_max => Err(TooLong { bytes, bytes_max }),
            Some(_) | None => Ok(()),
        }
    }
}
