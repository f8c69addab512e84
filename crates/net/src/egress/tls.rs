//! TLS towards peers whose urls begin with `https`.

use std::io;
use std::sync::{Arc, OnceLock};

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// `true` if this build can connect to urls that begin with `https` or `wss`.
pub const HAS_TLS: bool = true;

/// A connection with TLS.
pub(crate) type TlsStream = Box<tokio_rustls::client::TlsStream<TcpStream>>;

/// A connector that trusts the authorities of the operating system, and those in the file that the
/// environment variable `SSL_CERT_FILE` names. Made when it is first needed.
pub(crate) struct Tls(OnceLock<TlsConnector>);

impl Tls {
    /// Reads nothing yet: a program that never meets `https` loads no certificates.
    pub(crate) fn new() -> Self {
        Self(OnceLock::new())
    }

    /// Speaks TLS over `stream` with the server called `host`. The certificate must be valid for
    /// that name, or for that address if the url has one; nothing turns that off.
    pub(crate) async fn connect(&self, host: &str, stream: TcpStream) -> io::Result<TlsStream> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let stream = self.connector().connect(name, stream).await?;
        Ok(Box::new(stream))
    }

    /// The connector, made at the first call: only then are the certificates of the system read.
    fn connector(&self) -> &TlsConnector {
        self.0.get_or_init(|| {
            let mut roots = rustls::RootCertStore::empty();
            let found = rustls_native_certs::load_native_certs();
            // One that cannot be read is no reason to trust none of the others.
            for error in found.errors {
                tracing::warn!(%error, "a trusted certificate cannot be read");
            }
            let (_, ignored) = roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                tracing::error!(
                    ignored,
                    "no trusted certificates: https will fail; install ca-certificates or set \
                     SSL_CERT_FILE"
                );
            }
            // Named, as a program that this is a library of may have installed another one for
            // itself.
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let mut config = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .expect("the provider supports the protocol versions it was built with")
                .with_root_certificates(roots)
                .with_no_client_auth();
            // A server that speaks only HTTP/2 refuses in the handshake then (RFC 7301 §3.2).
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            TlsConnector::from(Arc::new(config))
        })
    }
}

/// The socket below `stream`.
pub(crate) fn socket(stream: &TlsStream) -> &TcpStream {
    stream.get_ref().0
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}
