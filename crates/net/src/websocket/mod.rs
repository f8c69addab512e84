//! Websockets with bounds on what they hold and on how long they wait.

pub(crate) mod config;
pub(crate) mod driver;
pub(crate) mod error;
pub(crate) mod frames;
pub(crate) mod handshake;
pub(crate) mod metered;
pub(crate) mod socket;

pub use config::SocketConfig;
pub use driver::{Arrived, Beside, Compressors, Incoming, IncomingParts, wake_at};
pub use error::{ConnectError, SocketError};
pub use handshake::accept_key;
pub use socket::{Socket, SocketEvent};
