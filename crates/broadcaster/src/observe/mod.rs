//! For operators: metrics and refusals.
//!
//! [`metrics`] has every name that operators see (`docs/operating.md`), and nothing else in this
//! crate names the crate `metrics`. [`refusals`] counts refused requests and keeps the log of them
//! short, because who floods a broadcaster must not fill its disk as well.

pub(crate) mod metrics;
pub(crate) mod refusals;
