//! Logs and metrics of the program.

pub(crate) mod logs;
pub(crate) mod metrics;
