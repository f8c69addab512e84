//! The configuration of a client, as Python gives it.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use httppubsub_client::{
    Bind, BroadcasterAddress, ClientConfig, ConfigError, Egress, PostConfig, Scheme, Secrets,
    SpoolConfig, WebSocketConfig, read_secrets,
};
use pyo3::prelude::*;

use crate::failure::{Failure, guarded};

/// The scheme of one direction, with its secret, which is never shown.
#[pyclass(frozen, module = "httppubsub._core")]
pub(crate) struct AuthConfig {
    scheme: Scheme,
}

#[pymethods]
impl AuthConfig {
    /// The scheme called `name` with this secret.
    #[new]
    fn new(py: Python<'_>, name: &str, secret: &str) -> PyResult<Self> {
        guarded(py, || match Scheme::parse(name, secret) {
            Ok(scheme) => Ok(Self { scheme }),
            Err(problem) => Err(Failure::new("ConfigError", problem.to_string())),
        })
    }

    /// The name of the scheme.
    #[getter]
    fn name(&self) -> &'static str {
        self.scheme.name()
    }
}

/// The schemes of a secrets file: of what is sent, and of what is received.
#[pyfunction]
pub(crate) fn auth_from_file(py: Python<'_>, path: PathBuf) -> PyResult<(AuthConfig, AuthConfig)> {
    guarded(py, || {
        let secrets = read_secrets(path).map_err(ConfigError::from)?;
        let send = AuthConfig {
            scheme: secrets.to_broadcaster,
        };
        let receive = AuthConfig {
            scheme: secrets.to_subscriber,
        };
        Ok((send, receive))
    })
}

/// The configuration of a client, checked.
#[pyclass(frozen, module = "httppubsub._core")]
pub(crate) struct Config {
    pub(crate) config: ClientConfig,
}

/// The place where a client listens: an address or a name, and a port.
type Listen = Option<(String, u16)>;

#[pymethods]
impl Config {
    /// Listens at `listen`; is mounted if there is none and `is_mounted`; else only notifies.
    #[new]
    #[pyo3(signature = (
        *, broadcasters, listen, is_mounted, host, send_auth, receive_auth, passes,
        retry_ambiguous, reconcile_interval, gap_patience, queue_max, spool_above, timeout,
        connect_timeout,
        replay_codes_max, websocket
    ))]
    #[allow(clippy::too_many_arguments, reason = "they are named in Python")]
    fn new(
        py: Python<'_>,
        broadcasters: Vec<(String, Option<u32>)>,
        listen: Listen,
        is_mounted: bool,
        host: Option<String>,
        send_auth: &AuthConfig,
        receive_auth: &AuthConfig,
        passes: u32,
        retry_ambiguous: bool,
        reconcile_interval: f64,
        gap_patience: Option<f64>,
        queue_max: usize,
        spool_above: u64,
        timeout: f64,
        connect_timeout: f64,
        replay_codes_max: usize,
        websocket: Option<&WebSocket>,
    ) -> PyResult<Self> {
        guarded(py, || {
            let broadcasters = broadcasters.into_iter().map(|(url, priority)| {
                let address = BroadcasterAddress::new(url);
                match priority {
                    Some(priority) => address.priority(priority),
                    None => address,
                }
            });
            let bind = match listen {
                Some((address, port)) => bind(&address, port),
                None if is_mounted => Bind::Mounted,
                None => Bind::Nothing,
            };
            // As the core has it, apart from the time-outs.
            let mut post = PostConfig::default();
            post.answer_timeout = seconds(timeout);
            post.connect_timeout = seconds(connect_timeout);
            post.rate_min = 512 * 1024;
            post.egress = Egress::anything();
            let mut spool = SpoolConfig::default();
            spool.memory_each_max = spool_above;
            let mut builder = ClientConfig::builder(broadcasters)
                .bind(bind)
                .secrets(&Secrets {
                    to_broadcaster: send_auth.scheme.clone(),
                    to_subscriber: receive_auth.scheme.clone(),
                })
                .passes(passes)
                .reconcile_interval(seconds(reconcile_interval))
                .gap_patience(gap_patience.map(seconds))
                .queue_max(queue_max)
                .replay_codes_max(replay_codes_max)
                .spool(spool)
                .post(post);
            if let Some(host) = host {
                builder = builder.host(host);
            }
            // Otherwise only what may be done twice is repeated: changes of subscriptions.
            if retry_ambiguous {
                builder = builder.retry_ambiguous(true);
            }
            if let Some(websocket) = websocket {
                builder = builder.websocket(websocket.options.clone());
            }
            let config = builder.build()?;
            Ok(Self { config })
        })
    }
}

/// Settings of a websocket.
#[pyclass(frozen, module = "httppubsub._core")]
pub(crate) struct WebSocket {
    options: WebSocketConfig,
}

#[pymethods]
impl WebSocket {
    /// Tries to connect for ever if `connect_retries` is `None`.
    #[new]
    #[pyo3(signature = (
        *, connect_retries, open_timeout, close_timeout, heartbeat_interval, compression, training,
        unsent_notifications_max
    ))]
    fn new(
        connect_retries: Option<u32>,
        open_timeout: f64,
        close_timeout: f64,
        heartbeat_interval: f64,
        compression: bool,
        training: bool,
        unsent_notifications_max: Option<usize>,
    ) -> Self {
        let mut options = WebSocketConfig::default();
        options.connect_retries = connect_retries.unwrap_or(u32::MAX);
        options.open_timeout = seconds(open_timeout);
        options.close_timeout = seconds(close_timeout);
        options.heartbeat_interval = seconds(heartbeat_interval);
        options.compression = compression;
        options.training = training;
        options.unsent_notifications_max = unsent_notifications_max.and_then(NonZeroUsize::new);
        Self { options }
    }
}

fn bind(address: &str, port: u16) -> Bind {
    // As in a url, an IPv6 address may stand in brackets.
    let bare = address
        .strip_prefix('[')
        .and_then(|it| it.strip_suffix(']'))
        .unwrap_or(address);
    match bare.parse::<IpAddr>() {
        Ok(ip) => Bind::To((ip, port).into()),
        Err(_) => Bind::Name(format!("{address}:{port}")),
    }
}

/// A duration of `seconds`; one that cannot be expressed is for ever.
pub(crate) fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}
