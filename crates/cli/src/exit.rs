//! Exit statuses of the program, besides 0 for done, 1 for failed and 2 for wrong usage.
//!
//! | status | `notify` | `listen` | `subscriptions`, `check-url`, `cluster status` | `serve` |
//! |---|---|---|---|---|
//! | 0 | accepted | messages counted, or a signal | yes | stopped by a signal |
//! | 1 | refused or failed | given up, or cannot write | no, or failed | cannot start |
//! | 3 | perhaps done | perhaps subscribed | perhaps done | |
//! | 4 | | the time ran out | | |
//!
//! Scripts rely on the difference between 1 and 3: after 1 a repetition is safe, after 3 it may be
//! the second time.

/// The request may have been done: the answer that would tell did not arrive.
pub(crate) const AMBIGUOUS: u8 = 3;

/// The awaited event did not happen in time.
pub(crate) const TIMED_OUT: u8 = 4;

/// The reader of standard output is gone, as after `| head -1`: the status that a shell gives to a
/// program ended by SIGPIPE. It is not 0, because for `subscriptions check` and `check-url` 0 is an
/// answer, which nobody has read.
pub(crate) const NOBODY_READS: u8 = 141;
