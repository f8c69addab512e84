//! `httppubsub check-url`.

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

use anyhow::Context as _;
use httppubsub_net::{Allowed, Egress, Forbidden};
use httppubsub_proto::url::{Endpoint, Origin};
use serde_json::Value;

use crate::egress::EgressFlags;
use crate::{output, units};

/// Say whether a broadcaster may post to a url, and why.
///
/// Give it the flags of the broadcaster. A name is resolved, and each of its addresses is judged as
/// it would be at a delivery: only those that are allowed are connected to, and the url is forbidden
/// if there are none. Nothing is sent anywhere. Status 0 if it is allowed, 1 if not.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    httppubsub check-url http://10.0.0.7/hook\n  \
    httppubsub check-url --egress public --egress-allow 10.0.0.0/24 http://10.0.0.7/hook\n  \
    httppubsub check-url --listen 0.0.0.0:3003 http://localhost:8080/hook --json")]
pub(crate) struct CheckUrl {
    /// What is to be subscribed.
    url: String,

    #[command(flatten)]
    egress: EgressFlags,

    /// Where the broadcaster listens; on loopback, it may post to loopback.
    #[arg(
        long,
        value_name = "ADDR:PORT",
        default_value = "127.0.0.1:3003",
        env = "HTTPPUBSUB_LISTEN",
        value_parser = units::listen_address
    )]
    listen: SocketAddr,

    /// Where the broadcaster answers with its metrics: nothing is posted there.
    #[arg(long, value_name = "ADDR:PORT", env = "HTTPPUBSUB_METRICS", value_parser = units::listen_address)]
    metrics: Option<SocketAddr>,

    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

/// What is said of the url, or of one of its addresses.
struct Verdict {
    word: &'static str,
    why: String,
}

impl From<Result<Allowed, Forbidden>> for Verdict {
    fn from(judged: Result<Allowed, Forbidden>) -> Self {
        match judged {
            Ok(allowed) => Self {
                word: ALLOWED,
                why: allowed.to_string(),
            },
            Err(forbidden) => Self {
                word: FORBIDDEN,
                why: forbidden.to_string(),
            },
        }
    }
}

const ALLOWED: &str = "allowed";
const FORBIDDEN: &str = "forbidden";

/// A broadcaster answers 400 to it.
const UNUSABLE: &str = "unusable";

impl CheckUrl {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let endpoint = match Endpoint::parse_str(&self.url) {
            Ok(endpoint) => endpoint,
            Err(error) => {
                let why = error.to_string();
                let word = UNUSABLE;
                return self.tell(&Verdict { word, why }, &[]);
            }
        };
        let egress = self
            .egress
            .egress(self.listen, self.metrics.into_iter().collect());
        let origin = endpoint.origin();
        let judged = egress.judge_url(origin);
        if judged.is_err() || origin.host.parse::<IpAddr>().is_ok() {
            return self.tell(&judged.into(), &[]);
        }
        let addresses = addresses(&egress, origin).await?;
        let of_any = |word| addresses.iter().find(|(_, verdict)| verdict.word == word);
        match of_any(ALLOWED).or(of_any(FORBIDDEN)) {
            Some((_, verdict)) => self.tell(verdict, &addresses),
            None => anyhow::bail!("the name resolves to nothing"),
        }
    }

    fn tell(&self, verdict: &Verdict, addresses: &[(IpAddr, Verdict)]) -> anyhow::Result<ExitCode> {
        if self.json {
            let address = |(address, verdict): &(IpAddr, Verdict)| {
                serde_json::json!({
                    "address": address.to_string(),
                    "verdict": verdict.word,
                    "rule": verdict.why,
                })
            };
            output::json([
                ("verdict", verdict.word.into()),
                ("rule", verdict.why.as_str().into()),
                (
                    "addresses",
                    addresses.iter().map(address).collect::<Value>(),
                ),
            ])?;
        } else {
            output::line(&format!("{}: {}", verdict.word, verdict.why))?;
            for (address, verdict) in addresses {
                output::line(&format!("  {address} {}: {}", verdict.word, verdict.why))?;
            }
        }
        Ok(match verdict.word {
            ALLOWED => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        })
    }
}

/// What a name resolves to, judged.
async fn addresses(egress: &Egress, origin: &Origin) -> anyhow::Result<Vec<(IpAddr, Verdict)>> {
    let resolved = httppubsub_net::resolve(&origin.host).await;
    let mut addresses: Vec<_> = resolved
        .context("the name does not resolve")?
        .into_iter()
        .map(|it| it.ip())
        .collect();
    addresses.dedup();
    let judge = |address| (address, egress.judge_address(origin, address).into());
    Ok(addresses.into_iter().map(judge).collect())
}
