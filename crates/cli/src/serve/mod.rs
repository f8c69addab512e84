//! The verb `serve`.

mod config;
mod fd_budget;
mod serve;

pub(crate) mod flags;
