//! The core of the Python package `httppubsub`: the client, and the bridge to event loops.
//!
//! This crate is the module `httppubsub._core`, which only the package in `python/httppubsub` uses.
//! `docs/python.md` is the manual of the package.
//!
//! ```text
//!  thread of the event loop                      threads of tokio
//!
//!  _client.py, _bridge.py
//!    |  client.notify(operation, ...)   spawn
//!    |--------------------------------------------> work of httppubsub-client
//!    |                                                |
//!    |  await future of the operation                 | push(Done(operation, result))
//!    |                                                v
//!    |  one byte in a socket pair       wake       Queue of the loop
//!    | <----------------------------------------------|
//!    |  Bridge.drain(): all results at once           |
//!    | <----------------------------------------------+
//!    v
//!  objects are made, futures are set
//! ```
//!
//! # Rules
//!
//! - No thread of tokio touches Python: it would wait for the interpreter, and the interpreter
//!   might be ending. What it has to say goes into the [`queue`] of an event loop, which is woken
//!   through a socket and takes everything at once. Python objects are made there, by the thread of
//!   the loop.
//! - Nothing of Python's lives in the core, so no reference is dropped by one of its threads.
//! - A message is taken out of a subscription by the thread of the loop ([`subscription`]), without
//!   a step in between at which a task could be cancelled: cancelling loses nothing.
//! - An operation that is given up in Python is given up in the core.
//! - Threads do not survive a fork. The [`runtime`] is that of a process id, and every object knows
//!   the process that made it ([`fork`]): in a child it neither works nor is dropped.
//! - A [`failure`] names a class of `httppubsub._errors`, which is looked up when the exception is
//!   made. A panic becomes one of them too, since PyO3's own is no `Exception`.
//! - What the core logs goes to `logging` by the same queue ([`log`]), bounded, with the level
//!   checked before a record is made.
//!
//! # Building
//!
//! `cargo xtask test --only python` builds the wheel and tests it, `cargo xtask wheel` builds the
//! one for release. No Python is needed to compile: see `.cargo/config.toml`.

mod module;

mod client;
mod statuses;
mod subscription;

mod body;
mod config;
mod message;

mod bridge;
mod runtime;

mod log;
mod queue;

mod failure;
mod fork;
