//! The name by which requests say what sends them.

/// Value of the header `User-Agent` of every request, also of the handshake of a websocket:
/// firewalls turn away what has none.
pub(crate) const USER_AGENT: &str = concat!("httppubsub/", env!("CARGO_PKG_VERSION"));
