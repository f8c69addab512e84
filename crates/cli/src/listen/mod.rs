//! The verb `listen`.

mod end;
mod listening;
mod misbehave;
mod save;

pub(crate) mod listen;
