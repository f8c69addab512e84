//! `httppubsub subscriptions`.

use std::process::ExitCode;

use clap::Subcommand;
use httppubsub_client::{Bind, SubscriptionsOf};
use httppubsub_proto::subscription::SubscriptionSet;
use httppubsub_proto::url::SubscriberUrl;

use crate::connection::Connection;
use crate::output;
use crate::topic::Interests;
use crate::usage;

/// Look after the subscriptions of a program that cannot do it itself.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    httppubsub subscriptions add --url http://10.0.0.7/hook --exact builds/ready\n  \
    httppubsub subscriptions check --url http://10.0.0.7/hook --exact builds/ready")]
pub(crate) struct Subscriptions {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Whether the url has exactly these subscriptions. Status 1 if not.
    Check(What),
    /// Give the url exactly these subscriptions; with none, it has none.
    Set(What),
    /// Add these subscriptions.
    Add(What),
    /// Remove these subscriptions.
    Remove(What),
}

#[derive(Debug, clap::Args)]
struct What {
    /// Where messages are posted.
    #[arg(long, value_name = "URL")]
    url: String,

    /// Where it is told that it may have missed something. [default: nowhere]
    #[arg(long, value_name = "URL")]
    recovery: Option<String>,

    #[command(flatten)]
    interests: Interests,

    #[command(flatten)]
    connection: Connection,

    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

impl Subscriptions {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        match self.verb {
            Verb::Check(what) => what.check().await,
            Verb::Set(what) => {
                let (of, set) = what.of()?;
                of.set(&set).await?;
                what.tell("subscriptions", set.len())
            }
            Verb::Add(what) => {
                let (of, set) = what.of()?;
                what.some("add", &set);
                for (interest, _) in set.iter() {
                    of.add(&interest).await?;
                }
                what.tell("added", set.len())
            }
            Verb::Remove(what) => {
                let (of, set) = what.of()?;
                what.some("remove", &set);
                for (interest, _) in set.iter() {
                    of.remove(&interest).await?;
                }
                what.tell("removed", set.len())
            }
        }
    }
}

impl What {
    fn of(&self) -> anyhow::Result<(SubscriptionsOf, SubscriptionSet)> {
        let url = SubscriberUrl::new(self.url.as_str())?;
        let recovery = self.recovery.as_deref().filter(|url| !url.is_empty());
        let recovery = recovery.map(SubscriberUrl::new).transpose()?;
        let interests = self.interests.clone().into_vec().into_iter();
        let set = interests
            .map(|interest| (interest, recovery.clone()))
            .collect();
        let config = self.connection.builder()?.bind(Bind::Nothing).build()?;
        Ok((SubscriptionsOf::new(&config, url, recovery), set))
    }

    fn some(&self, verb: &str, set: &SubscriptionSet) {
        if set.is_empty() {
            let verb = format!("subscriptions {verb}");
            usage::wrong(&verb, "nothing to do: give --exact or --glob");
        }
    }

    async fn check(&self) -> anyhow::Result<ExitCode> {
        let (of, set) = self.of()?;
        let etag = of.etag().await?;
        let matches = etag == set.etag(of.url());
        if self.json {
            output::json([
                ("url", self.url.as_str().into()),
                ("etag", etag.to_string().into()),
                ("matches", matches.into()),
            ])?;
        } else {
            let verdict = if matches {
                "exactly these"
            } else {
                "other subscriptions"
            };
            output::line(&format!("{}: {verdict} (etag {etag})", self.url))?;
        }
        Ok(if matches {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    fn tell(&self, what: &'static str, count: usize) -> anyhow::Result<ExitCode> {
        if self.json {
            output::json([("url", self.url.as_str().into()), (what, count.into())])?;
        } else {
            output::line(&format!("{}: {what}: {count}", self.url))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
