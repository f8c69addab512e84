//! The place of a websocket's settings in a build without the feature `websocket`.

use crate::config::error::ConfigError;

/// Settings of a websocket: there are none.
#[derive(Clone, Debug)]
pub(crate) enum WebSocketConfig {}

impl WebSocketConfig {
    pub(crate) fn check(&mut self) -> Result<(), ConfigError> {
        match *self {}
    }
}
