//! The address of a database, and the way to it.
//!
//! The library parses urls and speaks the protocol, but has no TLS, and tries several hosts one
//! after the other. Both are added here: certificates by the parameters that libpq has for them,
//! and hosts side by side, a second apart.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::{Host, LoadBalanceHosts, SslMode, TargetSessionAttrs};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, Connection, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::lock;
use crate::postgres::failure::{CONNECT_TIMEOUT, Failure};

/// The reason for which the url of a database cannot be used. No part of the url is quoted that may
/// be a password.
#[derive(Debug, thiserror::Error)]
pub(super) enum AddressError {
    /// It is not what libpq takes as a url or as keywords and values.
    #[error(
        "this is not the url of a PostgreSQL database, such as postgres://user@host/database{}",
        .0.as_ref().map(|why| format!(": {why}")).unwrap_or_default()
    )]
    Url(Option<String>),
    /// It has a parameter of another name than those in [`PARAMETERS`] and those of TLS.
    #[error(
        "the url has a parameter that is not supported; in a password, `?` and `&` are written as \
         %3F and %26"
    )]
    Parameter,
    /// A `%` is not followed by two hexadecimal digits, or they make no text.
    #[error("the url has a `%` that is not followed by two hexadecimal digits; write %25 for it")]
    Percent,
    /// `sslmode` has a value that is not taken.
    #[error(
        "this sslmode is not supported: use disable, or verify-full to have the server's \
         certificate checked"
    )]
    SslMode,
    /// A file that the url names cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The part in question.
        path: PathBuf,
        /// The cause.
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
    /// The same for each host by itself.
    hosts: Vec<Config>,
    /// Verifies the server against the trusted certificates; unused if `sslmode` is `disable`.
    tls: MakeRustlsConnect,
}

/// An open session and what drives it.
type Connected = (
    Client,
    Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>,
);

/// The time for which a host may say nothing before the next is tried beside it.
const NEXT_HOST_AFTER: Duration = Duration::from_secs(1);

/// Parameters of a url besides those of TLS.
/// Others are refused and not ignored: a mistyped one, or a password with a `?` in it, would
/// otherwise change where or how safely this connects, without a word.
const PARAMETERS: [&str; 18] = [
    "user",
    "password",
    "dbname",
    "options",
    "application_name",
    "host",
    "hostaddr",
    "port",
    "connect_timeout",
    "tcp_user_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "target_session_attrs",
    "channel_binding",
    "load_balance_hosts",
    "sslnegotiation",
];

/// The use of a session: whether it has to be able to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// It has, unless the url says otherwise: of several hosts only one may take writes.
    Write,
    /// Any will do, and nothing is written.
    Look,
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name())
    }
}

impl Address {
    /// Takes what libpq takes as a url, with `sslmode`, `sslrootcert`, `sslcert` and `sslkey`.
    /// Without a mode the way to this machine is plain and any other is verified.
    ///
    /// # Errors
    ///
    /// See [`AddressError`]. None of them quotes a part that may be a password.
    pub(super) fn parse(url: &str, purpose: Purpose) -> Result<Self, AddressError> {
        // TLS parameters are taken out here, because the library knows only some of them and has no
        // way to load certificates.
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let mut mode = None;
        let (mut root, mut cert, mut key) = (None, None, None);
        let mut rest = Vec::new();
        for parameter in query.split('&').filter(|it| !it.is_empty()) {
            let (name, value) = parameter.split_once('=').ok_or(AddressError::Parameter)?;
            let (name, value) = (percent_decoded(name)?, percent_decoded(value)?);
            match name.as_str() {
                "sslmode" => mode = Some(value),
                // As libpq takes it from users of JDBC.
                "ssl" if value == "true" => mode = Some("require".to_owned()),
                "sslrootcert" if value == "system" => root = None,
                "sslrootcert" => root = Some(PathBuf::from(value)),
                "sslcert" => cert = Some(PathBuf::from(value)),
                "sslkey" => key = Some(PathBuf::from(value)),
                name if PARAMETERS.contains(&name) => rest.push(parameter),
                _ => return Err(AddressError::Parameter),
            }
        }
        let plain = match rest.is_empty() {
            true => base.to_owned(),
            false => format!("{base}?{}", rest.join("&")),
        };
        let is_url = ["postgres://", "postgresql://"]
            .iter()
            .any(|scheme| url.starts_with(scheme));
        let mut config: Config = plain.parse().map_err(|error: tokio_postgres::Error| {
            // Of keywords and values the reason may quote a part of a password.
            let why = std::error::Error::source(&error).filter(|_| is_url);
            AddressError::Url(why.map(ToString::to_string))
        })?;
        let is_verified = match mode.as_deref() {
            None => !config.get_hosts().iter().all(is_this_machine),
            Some("disable") => false,
            // Who asks for the less is given the more.
            Some("require" | "verify-ca" | "verify-full") => true,
            Some(_) => return Err(AddressError::SslMode),
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
        // For each host; all together have CONNECT_TIMEOUT.
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(Duration::from_secs(5));
        }
        // A server that fell silent is given up.
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(Duration::from_secs(10));
        }
        // Finds a server that is gone while nothing is asked, as the listening session is most of
        // the time.
        config.keepalives_idle(Duration::from_secs(10));
        match purpose {
            Purpose::Write if config.get_target_session_attrs() == TargetSessionAttrs::Any => {
                config.target_session_attrs(TargetSessionAttrs::ReadWrite);
            }
            Purpose::Write | Purpose::Look => {}
        }
        let hosts = one_by_one(&config);
        Ok(Self { config, hosts, tls })
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

    /// A new session, within [`CONNECT_TIMEOUT`].
    ///
    /// # Errors
    ///
    /// [`Failure::Silent`] if no host let us in by then, otherwise that of the last host tried.
    pub(super) async fn connect(&self) -> Result<Connected, Failure> {
        match timeout(CONNECT_TIMEOUT, self.first_that_answers()).await {
            Ok(connected) => Ok(connected?),
            Err(_) => Err(Failure::Silent(CONNECT_TIMEOUT)),
        }
    }

    /// A new session with the first host that lets us in. Each next one is tried when one before it
    /// failed, or said nothing for a while.
    async fn first_that_answers(&self) -> Result<Connected, tokio_postgres::Error> {
        let mut untried = self.hosts.iter();
        let mut under_way = FuturesUnordered::new();
        let mut failed = None;
        loop {
            let next = untried.next();
            under_way.extend(next.map(|host| host.connect(self.tls.clone())));
            // With no host left there is nothing to begin beside the waiting; the caller's timeout
            // ends it.
            let patience = match untried.len() {
                0 => CONNECT_TIMEOUT,
                _ => NEXT_HOST_AFTER,
            };
            match timeout(patience, under_way.next()).await {
                Ok(Some(Ok(connected))) => return Ok(connected),
                Ok(Some(Err(error))) => failed = Some(error),
                Ok(None) => return Err(failed.expect("there is one host at least")),
                Err(_) => {}
            }
        }
    }
}

/// The way in which the pool connects. It gives up by itself after [`CONNECT_TIMEOUT`].
impl deadpool_postgres::Connect for Address {
    fn connect(
        &self,
        _: &Config,
    ) -> BoxFuture<'_, Result<(Client, JoinHandle<()>), tokio_postgres::Error>> {
        Box::pin(async {
            let (client, connection) = self.first_that_answers().await?;
            let driver = tokio::spawn(async move {
                if let Err(error) = connection.await {
                    let error = Failure::Sql(error);
                    tracing::debug!(%error, "a connection to the database ended");
                }
            });
            // Plans are kept, and made while tables were small: plans that read all of one grow
            // with it. A startup parameter would say the same, but poolers refuse those.
            let set = client.batch_execute("SET enable_seqscan = off").await;
            if let Err(error) = set {
                driver.abort();
                return Err(error);
            }
            Ok((client, driver))
        })
    }
}

/// The same configuration for each of its hosts.
///
/// The library tries its hosts one after the other, each for its whole time-out; a stopped first
/// host would delay every connection. Each setting is copied by hand, as a `Config` cannot replace
/// its list of hosts.
fn one_by_one(config: &Config) -> Vec<Config> {
    let (names, addresses) = (config.get_hosts(), config.get_hostaddrs());
    let hosts = names.len().max(addresses.len());
    if hosts < 2 {
        return vec![config.clone()];
    }
    let ports = config.get_ports();
    let one = |at: usize| {
        let mut one = Config::new();
        match names.get(at) {
            Some(Host::Tcp(name)) => drop(one.host(name)),
            Some(Host::Unix(path)) => drop(one.host_path(path)),
            None => {}
        }
        if let Some(address) = addresses.get(at) {
            one.hostaddr(*address);
        }
        if let Some(port) = ports.get(at).or(ports.first()) {
            one.port(*port);
        }
        if let Some(user) = config.get_user() {
            one.user(user);
        }
        if let Some(password) = config.get_password() {
            one.password(password);
        }
        if let Some(database) = config.get_dbname() {
            one.dbname(database);
        }
        if let Some(options) = config.get_options() {
            one.options(options);
        }
        if let Some(name) = config.get_application_name() {
            one.application_name(name);
        }
        if let Some(timeout) = config.get_connect_timeout() {
            one.connect_timeout(*timeout);
        }
        if let Some(timeout) = config.get_tcp_user_timeout() {
            one.tcp_user_timeout(*timeout);
        }
        if let Some(interval) = config.get_keepalives_interval() {
            one.keepalives_interval(interval);
        }
        if let Some(retries) = config.get_keepalives_retries() {
            one.keepalives_retries(retries);
        }
        one.keepalives(config.get_keepalives())
            .keepalives_idle(config.get_keepalives_idle())
            .ssl_mode(config.get_ssl_mode())
            .target_session_attrs(config.get_target_session_attrs())
            .ssl_negotiation(config.get_ssl_negotiation())
            .channel_binding(config.get_channel_binding());
        one
    };
    let mut all: Vec<_> = (0..hosts).map(one).collect();
    if config.get_load_balance_hosts() == LoadBalanceHosts::Random {
        all.sort_by_cached_key(|_| lock::random());
    }
    all
}

/// As libpq decodes the names and values of parameters.
fn percent_decoded(text: &str) -> Result<String, AddressError> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let mut digit = || bytes.next().and_then(|it| char::from(it).to_digit(16));
                let (high, low) = (digit(), digit());
                let byte = high.zip(low).map(|(high, low)| 16 * high + low);
                // A zero would end the text for those who take it as one of C.
                let byte = byte.and_then(|it| u8::try_from(it).ok());
                byte.filter(|it| *it != 0).ok_or(AddressError::Percent)?
            }
            byte => byte,
        });
    }
    String::from_utf8(decoded).map_err(|_| AddressError::Percent)
}

/// `true` if nobody on a network can listen: plain text is then no risk.
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

/// The certificates to trust: those of `file`, or of the system.
///
/// # Errors
///
/// [`AddressError::NoRoots`] if there are none: no server could be verified then.
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

/// The certificates of a PEM file, in its order.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, AddressError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    read.map_err(|source| AddressError::File {
        path: path.to_owned(),
        source,
    })
}

/// TLS with these trusted `roots`, and with the certificate and key of `identity` for servers that
/// ask who connects.
fn tls(
    roots: RootCertStore,
    identity: Option<(&Path, &Path)>,
) -> Result<MakeRustlsConnect, AddressError> {
    // Named, because the process may have installed another one, or several may be compiled in.
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

    fn parse(url: &str) -> Result<Address, AddressError> {
        Address::parse(url, Purpose::Write)
    }

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
            let address = parse(url).unwrap();
            assert_eq!(address.config.get_ssl_mode(), want, "{url}");
        }
        let folder = tempfile::tempdir().unwrap();
        let nowhere = folder.path().join("none.pem");
        for mode in ["", "sslmode=verify-full&", "sslmode=require&"] {
            let url = format!(
                "postgres://u@db.example/d?{mode}sslrootcert={}",
                nowhere.display()
            );
            let error = parse(&url).unwrap_err();
            assert!(matches!(error, AddressError::File { .. }), "{error}");
        }
        let error = parse("postgres://u@h/d?sslmode=prefer").unwrap_err();
        assert!(error.to_string().contains("verify-full"), "{error}");
        assert!(matches!(
            parse("postgres://u@h:port/d"),
            Err(AddressError::Url(_))
        ));
    }

    #[test]
    fn the_name_of_a_database_has_no_password() {
        let address = parse("postgres://u:secret@localhost:5/d").unwrap();
        assert_eq!(address.name(), "localhost/d");
        assert_eq!(format!("{address:?}"), "localhost/d");
    }

    #[test]
    fn pg_url_parameters_are_decoded_as_libpq_does_and_mistakes_are_said_once() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("a root+1.pem");
        let encoded = root
            .display()
            .to_string()
            .replace('/', "%2F")
            .replace(' ', "%20");
        let error = parse(&format!("postgres://u@db.example/d?sslrootcert={encoded}")).unwrap_err();
        let AddressError::File { path, .. } = error else {
            panic!("{error}");
        };
        assert_eq!(path, root);
        let address = parse("postgres://u@localhost/d?sslm%6Fde=disable&application_name=a%20b");
        let address = address.unwrap().config;
        assert_eq!(address.get_ssl_mode(), SslMode::Disable);
        assert_eq!(address.get_application_name(), Some("a b"));

        // The password of each is `pass?word=1&x`, or a part of it.
        for (url, said) in [
            ("postgres://u:pass?word=1&x@localhost/d", "%3F"),
            ("postgres://u:pass@localhost/d?word=1", "not supported"),
            ("postgres://u:pass@localhost/d?sslmode=word", "verify-full"),
            ("postgres://u:pass@localhost/d?sslrootcert=%2", "%25"),
            ("postgres://u:pass@localhost/d?sslrootcert=%00", "%25"),
            ("postgres://u:pass@localhost:word/d", "postgres://user@host"),
            ("host=localhost password=pass word", "postgres://user@host"),
        ] {
            let error = crate::StoreError::Address(Box::new(parse(url).unwrap_err()));
            let mut told = error.to_string();
            let mut source = std::error::Error::source(&error);
            while let Some(error) = source {
                told = format!("{told}: {error}");
                source = error.source();
            }
            assert!(told.contains(said), "{url}: {told}");
            for secret in ["pass?", "pass@", "word=", "word/", "=word"] {
                assert!(!told.contains(secret), "{url}: {told}");
            }
            let parts: Vec<_> = told.split(": ").collect();
            let mut once = parts.clone();
            once.dedup();
            assert_eq!(parts, once, "{url}");
        }
    }

    #[test]
    fn each_host_is_asked_by_itself_and_for_a_session_that_can_write() {
        let url = "postgres://u:p@one:1,two:2/d?application_name=me&sslmode=disable";
        let address = parse(url).unwrap();
        let hosts: Vec<_> = address.hosts.iter().map(|it| it.get_hosts()).collect();
        assert_eq!(
            hosts,
            [[Host::Tcp("one".into())], [Host::Tcp("two".into())]]
        );
        for (host, port) in address.hosts.iter().zip([1, 2]) {
            assert_eq!(host.get_ports(), [port]);
            assert_eq!(host.get_user(), Some("u"));
            assert_eq!(host.get_password(), Some(&b"p"[..]));
            assert_eq!(host.get_dbname(), Some("d"));
            assert_eq!(host.get_application_name(), Some("me"));
            assert_eq!(host.get_ssl_mode(), SslMode::Disable);
            let wanted = host.get_target_session_attrs();
            assert_eq!(wanted, TargetSessionAttrs::ReadWrite);
        }
        let look = Address::parse("postgres://u@localhost/d", Purpose::Look).unwrap();
        let wanted = look.config.get_target_session_attrs();
        assert_eq!(wanted, TargetSessionAttrs::Any);
    }
}
