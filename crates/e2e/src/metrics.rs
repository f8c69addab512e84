//! What a broadcaster counts, seen from outside.

use std::net::SocketAddr;

use crate::connection::Connection;
use crate::home::{Home, Server};
use crate::message::Response;

/// Where a broadcaster's metrics are.
#[derive(Clone, Copy, Debug)]
pub struct Metrics {
    /// Where it listens for those who read them.
    pub address: SocketAddr,
}

impl Metrics {
    /// A broadcaster of `home` that listens, and its metrics.
    #[track_caller]
    pub fn serve(home: &Home, flags: &[&str]) -> (Server, Self) {
        let server = home.serve(&[flags, &["--metrics", "127.0.0.1:0"]].concat());
        let line = server.process.line();
        let address = line
            .strip_prefix("metrics on http://")
            .and_then(|it| it.strip_suffix("/metrics"))
            .and_then(|it| it.parse().ok());
        let Some(address) = address else {
            server.process.fail(&format!("said {line:?}"))
        };
        (server, Self { address })
    }

    /// What is answered to GET.
    #[track_caller]
    pub fn get(&self, path: &str) -> Response {
        let connection = Connection::open(self.address);
        connection.expect("the broadcaster listens there").get(path)
    }

    /// All of them, as Prometheus reads them.
    #[track_caller]
    pub fn text(&self) -> String {
        let response = self.get("/metrics");
        assert_eq!(response.status, 200);
        String::from_utf8(response.body).expect("metrics are text")
    }

    /// The value by this name, labels included: `name{label="value"}`. What was never counted is 0.
    #[track_caller]
    pub fn value(&self, name: &str) -> u64 {
        let text = self.text();
        let value = text.lines().find_map(|line| {
            let value = line.strip_prefix(name)?.strip_prefix(' ')?;
            value.parse().ok()
        });
        value.unwrap_or(0)
    }

    /// How many deliveries ended so.
    #[track_caller]
    pub fn deliveries(&self, outcome: &str) -> u64 {
        self.value(&format!(
            "httppubsub_deliveries_total{{outcome=\"{outcome}\"}}"
        ))
    }

    /// How many subscriptions notifications went to.
    #[track_caller]
    pub fn matched(&self) -> u64 {
        self.value("httppubsub_matched_total")
    }

    /// How many circuit breakers are open.
    #[track_caller]
    pub fn open_breakers(&self) -> u64 {
        self.value("httppubsub_open_circuit_breakers")
    }
}
