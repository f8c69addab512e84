//! The contract as tests that any backend can be put through, a file a subject.

mod mirror;

mod cases;

mod subscriptions;

mod feed;

mod notices;

mod in_flight;

mod run;

pub use mirror::Mirror;
pub use run::run;
