//! A test kit that runs the published Python packages and our binary side by side.
//!
//! Start at [`World`]: it holds the secrets of one test and starts its broadcasters, subscribers
//! and notifiers, each by either [`Side`]. The tests are in `tests/`, the Python scripts in
//! `peers/`, and what those had to work around in `peers/workarounds.py`.

mod auth;
mod body;
mod broadcaster;
mod notifier;
mod programs;
mod raw;
mod subscriber;
mod venv;
mod world;

pub use auth::{Auth, Scheme};
pub use body::{Body, random_file, sha512};
pub use broadcaster::Broadcaster;
pub use httppubsub_e2e::{PATIENCE, Process, httppubsub};
pub use notifier::{Notifier, NotifyFailed, Sent};
pub use programs::{Side, peer};
pub use raw::{Answer, Delivery, RawSubscriber};
pub use subscriber::{Message, Subscriber};
pub use venv::python;
pub use world::{Rows, Wants, World};
