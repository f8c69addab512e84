//! TLS towards peers whose urls begin with `https`.

use std::sync::{Arc, OnceLock};

use rustls::ClientConfig;
use tokio_rustls::TlsConnector;

/// A connector that trusts whom the operating system trusts, and who is named in the file that the
/// environment variable `SSL_CERT_FILE` names. Made when it is first needed.
#[derive(Default)]
pub(crate) struct Tls(OnceLock<TlsConnector>);

impl Tls {
    pub(crate) fn connector(&self) -> &TlsConnector {
        self.0.get_or_init(|| {
            let mut roots = rustls::RootCertStore::empty();
            let found = rustls_native_certs::load_native_certs();
            for error in found.errors {
                tracing::warn!(%error, "a trusted certificate cannot be read");
            }
            let (_, ignored) = roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                tracing::error!(
                    ignored,
                    "no trusted certificates: https will fail; install ca-certificates or set SSL_CERT_FILE"
                );
            }
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let mut config = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .expect("the provider supports the protocol versions it was built with")
                .with_root_certificates(roots)
                .with_no_client_auth();
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            TlsConnector::from(Arc::new(config))
        })
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}
