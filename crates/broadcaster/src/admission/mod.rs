//! Admission of notifications: refusals, and the bounds on what is in progress.
//!
//! Three gates of `docs/design/backpressure.md` are here, in the order in which a notification
//! passes them:
//!
//! 1. [`admission`] answers 503 before a message is read, while many notifications are in progress
//!    and they are late. Late is this process with its own timers (`lag`), or the quickest of its
//!    fan-outs with three quarters of its deliveries: single subscribers that are slow count for
//!    nothing.
//! 2. [`pending`] bounds the deliveries that wait or are in progress, of all notifications together
//!    and of one peer. It answers 503 too, or lets wait what comes over a websocket.
//! 3. [`fan_outs`] lets fewer deliveries begin at once while the process is late: a hundred
//!    fan-outs side by side would each take a hundred times as long.
//!
//! [`busy_poll`] is beside them: it keeps a thread awake for what is about to arrive.
//!
//! Nothing here knows a subscriber, a topic or a message. Limits come from
//! [`AdmissionConfig`](crate::AdmissionConfig).

pub(crate) mod admission;
pub(crate) mod busy_poll;
pub(crate) mod fan_outs;
mod lag;
pub(crate) mod overloaded;
pub(crate) mod pending;
