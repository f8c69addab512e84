//! The configuration of a client.

mod client;
mod error;
#[cfg(feature = "websocket")]
mod websocket;
#[cfg(not(feature = "websocket"))]
#[path = "no_websocket.rs"]
mod websocket;

pub(crate) use client::check_broadcaster;
pub use client::{Bind, BroadcasterAddress, ClientConfig, ClientConfigBuilder};
pub use error::ConfigError;
#[cfg(not(feature = "websocket"))]
pub(crate) use websocket::WebSocketConfig;
#[cfg(feature = "websocket")]
pub use websocket::{PresetDictionary, WebSocketConfig};
