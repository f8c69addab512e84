//! The place of TLS in a build without the feature `tls`: connections that need it are refused.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// `true` if this build can connect to urls that begin with `https` or `wss`.
pub const HAS_TLS: bool = false;

/// A connection with TLS: there is none.
#[derive(Debug)]
pub(crate) enum TlsStream {}

/// A connector that refuses.
#[derive(Debug)]
pub(crate) struct Tls;

impl Tls {
    /// The counterpart of the connector that a build with TLS has.
    pub(crate) fn new() -> Self {
        Self
    }

    /// Refuses, because the peer would not understand a request that is not encrypted.
    pub(crate) async fn connect(&self, host: &str, _: TcpStream) -> io::Result<TlsStream> {
        let why = format!("{host} wants TLS, and this program was built without it");
        Err(io::Error::new(io::ErrorKind::Unsupported, why))
    }
}

/// The socket below `stream`.
pub(crate) fn socket(stream: &TlsStream) -> &TcpStream {
    match *stream {}
}

impl AsyncRead for TlsStream {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match *self {}
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        match *self {}
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match *self {}
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match *self {}
    }
}
