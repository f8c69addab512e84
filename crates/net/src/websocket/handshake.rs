//! The handshake of a websocket, and everything before it: its url, the connection, TLS.

use std::sync::OnceLock;
use std::time::Duration;

use http::{HeaderValue, header};
use httppubsub_proto::url::{Endpoint, Scheme, redacted};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::error::Error;
use tokio_tungstenite::tungstenite::handshake;

use crate::egress::dial::dial;
use crate::egress::tls::Tls;
use crate::outbound::agent::USER_AGENT;
use crate::websocket::config::SocketConfig;
use crate::websocket::error::ConnectError;
use crate::websocket::metered::MeteredStream;
use crate::websocket::socket::{Socket, settings};

impl Socket {
    /// Opens one at `url` (`ws://…` or `wss://…`, with its path), within `timeout` for connection,
    /// TLS and handshake together.
    pub async fn connect(
        url: &str,
        timeout: Duration,
        config: SocketConfig,
    ) -> Result<Self, ConnectError> {
        let endpoint = endpoint(url)?;
        match tokio::time::timeout(timeout, open(&endpoint, config)).await {
            Ok(opened) => opened,
            Err(_) => Err(ConnectError::TooLate(timeout)),
        }
    }
}

/// The endpoint that the url of a websocket names.
fn endpoint(url: &str) -> Result<Endpoint, ConnectError> {
    let wrong = |problem: String| ConnectError::Url {
        url: redacted(url),
        problem,
    };
    let as_http = match url.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("ws") => format!("http://{rest}"),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("wss") => format!("https://{rest}"),
        _ => return Err(wrong("it begins with neither ws:// nor wss://".to_owned())),
    };
    if url.contains('#') {
        return Err(wrong("it has a fragment".to_owned()));
    }
    Endpoint::parse_str(&as_http).map_err(|error| wrong(error.to_string()))
}

/// Connection, TLS and handshake, without a time-out.
async fn open(endpoint: &Endpoint, config: SocketConfig) -> Result<Socket, ConnectError> {
    static TLS: OnceLock<Tls> = OnceLock::new();
    let origin = endpoint.origin();
    let tls = TLS.get_or_init(Tls::new);
    let stream = dial(origin, &config.egress, None, tls).await;
    let stream = Box::new(stream.map_err(ConnectError::Connect)?);
    let stream = MeteredStream::connected(stream);
    let settings = Some(settings(&config));
    let scheme = match origin.scheme {
        Scheme::Http => "ws",
        Scheme::Https => "wss",
    };
    let (host, path) = (endpoint.host_header(), endpoint.path_and_query());
    let url = format!("{scheme}://{host}{path}");
    let failed = |error: Error| ConnectError::Handshake(error.to_string());
    let mut request = url.into_client_request().map_err(failed)?;
    let agent = HeaderValue::from_static(USER_AGENT);
    request.headers_mut().insert(header::USER_AGENT, agent);
    match tokio_tungstenite::client_async_with_config(request, stream, settings).await {
        Ok((stream, _)) => Ok(Socket::new(stream, config)),
        Err(Error::Http(response)) => Err(ConnectError::Refused(response.status())),
        Err(error) => Err(failed(error)),
    }
}

/// The value of `Sec-WebSocket-Accept` for this value of `Sec-WebSocket-Key` (RFC 6455 §4.2.2).
///
/// ```
/// use httppubsub_net::websocket::accept_key;
///
/// // The example of RFC 6455 §1.3.
/// assert_eq!(accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
/// ```
pub fn accept_key(key: &[u8]) -> String {
    handshake::derive_accept_key(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_url_that_is_none_of_a_websocket_is_told_apart() {
        for url in [
            "http://h/",
            "h:1",
            "ws://",
            "ws://u@h/",
            "ws://me:canary@h/",
            "wss://h/?token=canary#f",
            "h/?token=canary",
            "ws://h/#f",
            "ftp://h/",
        ] {
            let timeout = Duration::from_secs(1);
            let error = Socket::connect(url, timeout, SocketConfig::default()).await;
            let error = error.unwrap_err();
            assert!(matches!(error, ConnectError::Url { .. }), "{url}: {error}");
            assert!(!error.to_string().contains("canary"), "{error}");
        }
    }
}
