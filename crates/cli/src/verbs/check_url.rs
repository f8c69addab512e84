//! `httppubsub check-url`.
//!
//! ```text
//! allowed: private addresses are posted to (profile internal)
//!   10.0.0.7 allowed: private addresses are posted to (profile internal)
//!   169.254.1.1 forbidden: link-local addresses are never posted to (profile internal)
//! ```
//!
//! The first line is the decision on the url, the others are its addresses, if it has a name.

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

use anyhow::Context as _;
use httppubsub_net::egress::{Allowed, Egress, Forbidden};
use httppubsub_proto::url::{Endpoint, Origin};
use serde_json::Value;

use crate::egress::EgressFlags;
use crate::output;
use crate::units;

/// Say whether a broadcaster may post to a url, and why.
///
/// Give it the flags of the broadcaster. A name is resolved, and each of its addresses is judged as
/// it would be at a delivery: only allowed addresses are connected to, and the url is forbidden
/// if there are none. Nothing is sent anywhere. Status 0 if it is allowed, 1 if not.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    httppubsub check-url http://10.0.0.7/hook\n  \
    httppubsub check-url --egress public --egress-allow 10.0.0.0/24 http://10.0.0.7/hook\n  \
    httppubsub check-url --listen 0.0.0.0:3003 http://localhost:8080/hook --json")]
pub(crate) struct CheckUrl {
    /// The url that a subscriber would give.
    url: String,

    #[command(flatten)]
    egress: EgressFlags,

    /// Listening address of the broadcaster; one on loopback may post to loopback.
    #[arg(
        long,
        value_name = "ADDR:PORT",
        default_value = "127.0.0.1:3003",
        env = "HTTPPUBSUB_LISTEN",
        value_parser = units::listen_address
    )]
    listen: SocketAddr,

    /// Metrics address of the broadcaster, which receives no posts.
    #[arg(
        long,
        value_name = "ADDR:PORT",
        env = "HTTPPUBSUB_METRICS",
        value_parser = units::listen_address
    )]
    metrics: Option<SocketAddr>,

    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

/// The decision on the url, or on one of its addresses.
struct Verdict {
    /// One of [`ALLOWED`], [`FORBIDDEN`] and [`UNUSABLE`].
    word: &'static str,
    /// The rule, or the reason for which no rule was asked.
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

/// It would be connected to.
const ALLOWED: &str = "allowed";
/// The policy says no.
const FORBIDDEN: &str = "forbidden";

/// A broadcaster answers 400 to it.
const UNUSABLE: &str = "unusable";

impl CheckUrl {
    /// Judges the url as a broadcaster with these flags would, and the addresses of its name as of
    /// now.
    ///
    /// # Errors
    ///
    /// A name that does not resolve: nothing can be said of it.
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let endpoint = match Endpoint::parse_str(&self.url) {
            Ok(endpoint) => endpoint,
            Err(error) => {
                // Not an error of this program: that it is unusable is the answer to the question.
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
        // A name that is denied as such is not resolved, as a broadcaster would not ask for it
        // either.
        if judged.is_err() || origin.host.parse::<IpAddr>().is_ok() {
            return self.tell(&judged.into(), &[]);
        }
        let addresses = addresses(&egress, origin).await?;
        let of_any = |word| addresses.iter().find(|(_, verdict)| verdict.word == word);
        // One address that may be connected to is enough for deliveries.
        match of_any(ALLOWED).or(of_any(FORBIDDEN)) {
            Some((_, verdict)) => self.tell(verdict, &addresses),
            None => anyhow::bail!("the name resolves to nothing"),
        }
    }

    /// Prints the decision, and returns the status that says the same.
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

/// The addresses of a name, each with its decision.
async fn addresses(egress: &Egress, origin: &Origin) -> anyhow::Result<Vec<(IpAddr, Verdict)>> {
    let resolved = httppubsub_net::egress::resolve(&origin.host).await;
    let mut addresses: Vec<_> = resolved
        .context("the name does not resolve")?
        .into_iter()
        .map(|it| it.ip())
        .collect();
    // Each address is listed once for each socket type.
    addresses.dedup();
    let judge = |address| (address, egress.judge_address(origin, address).into());
    Ok(addresses.into_iter().map(judge).collect())
}
