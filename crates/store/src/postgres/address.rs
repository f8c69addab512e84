//! Where a database is, and how to get there.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{Client, Config, Connection, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Why the url of a database cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum AddressError {
    /// It is not what libpq takes as a url or as keywords and values.
    #[error("this is not the url of a PostgreSQL database, such as postgres://user@host/database")]
    Url(#[source] tokio_postgres::Error),
    /// `sslmode` has a value that is not taken.
    #[error(
        "sslmode={0} is not supported: use disable, or verify-full to have the server's certificate checked"
    )]
    SslMode(String),
    /// A file that the url names cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// There is nobody whose word for the server's identity would be taken.
    #[error(
        "no trusted certificates: install ca-certificates, or name a file with sslrootcert=FILE"
    )]
    NoRoots,
    /// The certificate and the key with which this end would show who it is do not go together.
    #[error("sslcert and sslkey are of no use together")]
    Identity(#[source] rustls::Error),
    /// One of `sslcert` and `sslkey` is missing.
    #[error("sslcert and sslkey need each other")]
    HalfAnIdentity,
}

/// A database, and how to get there.
#[derive(Clone)]
pub(super) struct Address {
    pub(super) config: Config,
    pub(super) tls: MakeRustlsConnect,
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name())
    }
}

impl Address {
    /// Takes what libpq takes as a url, with `sslmode`, `sslrootcert`, `sslcert` and `sslkey`. Without
    /// a mode the way to this machine is plain and any other is verified.
    pub(super) fn parse(url: &str) -> Result<Self, AddressError> {
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let mut mode = None;
        let (mut root, mut cert, mut key) = (None, None, None);
        let mut rest = Vec::new();
        for parameter in query.split('&').filter(|it| !it.is_empty()) {
            match parameter.split_once('=') {
                Some(("sslmode", value)) => mode = Some(value),
                Some(("sslrootcert", value)) => root = Some(PathBuf::from(value)),
                Some(("sslcert", value)) => cert = Some(PathBuf::from(value)),
                Some(("sslkey", value)) => key = Some(PathBuf::from(value)),
                _ => rest.push(parameter),
            }
        }
        let plain = match rest.is_empty() {
            true => base.to_owned(),
            false => format!("{base}?{}", rest.join("&")),
        };
        let mut config: Config = plain.parse().map_err(AddressError::Url)?;
        let is_verified = match mode {
            None => !config.get_hosts().iter().all(is_this_machine),
            Some("disable") => false,
            // Who asks for the less is given the more.
            Some("require" | "verify-ca" | "verify-full") => true,
            Some(other) => return Err(AddressError::SslMode(other.to_owned())),
        };
        let tls = match is_verified {
            true => {
                config.ssl_mode(SslMode::Require);
                let identity = match (&cert, &key) {
                    (None, None) => None,
                    (Some(cert), Some(key)) => Some((cert.as_path(), key.as_path())),
                    _ => return Err(AddressError::HalfAnIdentity),
                };
                tls(roots(root.as_deref())?, identity)?
            }
            false => {
                config.ssl_mode(SslMode::Disable);
                tls(RootCertStore::empty(), None)?
            }
        };
        if config.get_application_name().is_none() {
            config.application_name("httppubsub");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(Duration::from_secs(5));
        }
        // A server that fell silent is given up.
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(Duration::from_secs(10));
        }
        config.keepalives_idle(Duration::from_secs(10));
        Ok(Self { config, tls })
    }

    /// For the log: without password.
    pub(super) fn name(&self) -> String {
        let hosts = self.config.get_hosts().iter().map(|host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        });
        let hosts: Vec<_> = hosts.collect();
        let database = self.config.get_dbname().or(self.config.get_user());
        format!("{}/{}", hosts.join(","), database.unwrap_or_default())
    }

    pub(super) async fn connect(
        &self,
    ) -> Result<
        (
            Client,
            Connection<
                Socket,
                <MakeRustlsConnect as tokio_postgres::tls::MakeTlsConnect<Socket>>::Stream,
            >,
        ),
        tokio_postgres::Error,
    > {
        self.config.connect(self.tls.clone()).await
    }
}

fn is_this_machine(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            name == "localhost"
                || name
                    .parse::<std::net::IpAddr>()
                    .is_ok_and(|address| address.is_loopback())
        }
    }
}

fn roots(file: Option<&Path>) -> Result<RootCertStore, AddressError> {
    let mut roots = RootCertStore::empty();
    match file {
        Some(path) => {
            roots.add_parsable_certificates(certificates(path)?);
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            for error in found.errors {
                tracing::warn!(%error, "a trusted certificate cannot be read");
            }
            roots.add_parsable_certificates(found.certs);
        }
    }
    if roots.is_empty() {
        return Err(AddressError::NoRoots);
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, AddressError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    read.map_err(|source| AddressError::File {
        path: path.to_owned(),
        source,
    })
}

fn tls(
    roots: RootCertStore,
    identity: Option<(&Path, &Path)>,
) -> Result<MakeRustlsConnect, AddressError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider supports the protocol versions it was built with")
        .with_root_certificates(roots);
    let config = match identity {
        None => config.with_no_client_auth(),
        Some((cert, key)) => {
            let chain = certificates(cert)?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|source| AddressError::File {
                path: key.to_owned(),
                source,
            })?;
            config
                .with_client_auth_cert(chain, key)
                .map_err(AddressError::Identity)?
        }
    };
    Ok(MakeRustlsConnect::new(config))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    #[test]
    fn the_way_to_another_machine_is_verified_unless_that_is_switched_off() {
        for (url, want) in [
            ("postgres://u@localhost/d", SslMode::Disable),
            ("postgres://u@127.0.0.1:5433/d", SslMode::Disable),
            ("postgres:///d?host=/run/postgresql", SslMode::Disable),
            (
                "postgres://u@db.example/d?sslmode=disable",
                SslMode::Disable,
            ),
        ] {
            let address = Address::parse(url).unwrap();
            assert_eq!(address.config.get_ssl_mode(), want, "{url}");
        }
        let folder = tempfile::tempdir().unwrap();
        let nowhere = folder.path().join("none.pem");
        for mode in ["", "sslmode=verify-full&", "sslmode=require&"] {
            let url = format!(
                "postgres://u@db.example/d?{mode}sslrootcert={}",
                nowhere.display()
            );
            let error = Address::parse(&url).unwrap_err();
            assert!(matches!(error, AddressError::File { .. }), "{error}");
        }
        let error = Address::parse("postgres://u@h/d?sslmode=prefer").unwrap_err();
        assert!(error.to_string().contains("verify-full"), "{error}");
        assert!(matches!(
            Address::parse("postgres://u@h:port/d"),
            Err(AddressError::Url(_))
        ));
    }

    #[test]
    fn the_name_of_a_database_has_no_password() {
        let address = Address::parse("postgres://u:secret@localhost:5/d").unwrap();
        assert_eq!(address.name(), "localhost/d");
        assert_eq!(format!("{address:?}"), "localhost/d");
    }
}
