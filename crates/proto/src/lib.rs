//! The httppubsub protocol: what is true whatever carries it, without any I/O.

pub mod reason;

pub mod limits;

pub mod time;

pub mod wire;

pub mod digest;

pub mod topic;

pub mod glob;

pub mod url;

pub mod subscription;

pub mod backoff;

pub mod auth;

pub mod http;

pub mod ws;

pub mod session;
