//! The use case NOTIFY.
//!
//! ```text
//!   admit      too much to do, or too long: refused before the message is read
//!     │
//!   notify     let the index catch up, match, reserve places, enter the journal
//!     │
//!   fan_out    each peer in turn, large ones on several threads
//!     │  └─ window         how many deliveries begin before others have ended
//!     │  └─ addressees     the rows of each peer, and its places
//!     │  └─ shared_copies  copies that stand for rows found later as well
//!     ▼
//!   settle     remove, or owe a notice, as the verdict on a delivery asks for
//!     │
//!   receipts   tell the publisher of every outcome, if it asked for that
//!   tally      count the outcome of every row
//! ```
//!
//! Each file uses the ones below it. A notification goes on to its end even if nobody waits for it;
//! the answer to the publisher is due at a deadline, and true even if this process is killed.

mod addressees;
pub(crate) mod admit;
pub(crate) mod explain;
pub(crate) mod fan_out;
pub(crate) mod notify;
pub(crate) mod receipts;
pub(crate) mod settle;
mod shared_copies;
pub(crate) mod tally;
mod window;
