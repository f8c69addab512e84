//! `httppubsub subscriptions`.
//!
//! For programs that receive by their own web framework and cannot speak the protocol: an operator
//! or a deployment script says what their url wants. All verbs name the url, and ask the
//! broadcaster as any subscriber would.
//!
//! | verb | request | status 1 |
//! |---|---|---|
//! | `check` | CHECK_SUBSCRIPTIONS | the url has other subscriptions |
//! | `set` | SET_SUBSCRIPTIONS | never, if it succeeds |
//! | `add` | SUBSCRIBE, one by one | one was there already |
//! | `remove` | UNSUBSCRIBE, one by one | one was not there |

use std::process::ExitCode;

use clap::Subcommand;
use httppubsub_client::{Bind, SubscriptionsAdmin};
use httppubsub_proto::subscription::SubscriptionSet;
use httppubsub_proto::url::SubscriberUrl;

use crate::connection::Connection;
use crate::hints::{Hinted, Receiver};
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
    /// Check that the url has exactly these subscriptions. Status 1 if not.
    Check(What),
    /// Give the url exactly these subscriptions; with none, it has none.
    Set(What),
    /// Add these subscriptions. Status 1 if one was there already, perhaps with another recovery
    /// url: it stays as it is.
    Add(What),
    /// Remove these subscriptions. Status 1 if one was not there.
    Remove(What),
}

#[derive(Debug, clap::Args)]
struct What {
    /// URL that messages are posted to.
    #[arg(long, value_name = "URL")]
    url: String,

    /// URL for notices of missed messages. [default: nowhere]
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

/// A change of each of several subscriptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Add,
    Remove,
}

/// The outcomes, counted.
#[derive(Clone, Copy, Debug, Default)]
struct Changed {
    done: usize,
    /// Of these a broadcaster says that they were so already.
    were_so: usize,
}

impl Subscriptions {
    /// Runs the verb. Requests are authorized as those of a publisher: the holder of the secret may
    /// change the subscriptions of any url.
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let what = match &self.verb {
            Verb::Check(what) | Verb::Set(what) | Verb::Add(what) | Verb::Remove(what) => what,
        };
        let ran = match &self.verb {
            Verb::Check(what) => what.check().await,
            Verb::Set(what) => what.set().await,
            Verb::Add(what) => what.change(Change::Add).await,
            Verb::Remove(what) => what.change(Change::Remove).await,
        };
        ran.map_err(|error| what.connection.explain(error, Receiver::Other(&what.url)))
    }
}

impl What {
    /// An administrator of the url, and the subscriptions that the flags name.
    ///
    /// # Errors
    ///
    /// A url that is too long, or a configuration that cannot be used.
    fn of(&self, verb: &str) -> anyhow::Result<(SubscriptionsAdmin, SubscriptionSet)> {
        let url = SubscriberUrl::new(self.url.as_str())?;
        // An empty recovery url is none on the wire, so a variable that is set to nothing means
        // none.
        let recovery = self.recovery.as_deref().filter(|url| !url.is_empty());
        let recovery = recovery.map(SubscriberUrl::new).transpose()?;
        let interests = self.interests.clone().of(&format!("subscriptions {verb}"));
        let set = interests
            .into_iter()
            .map(|interest| (interest, recovery.clone()))
            .collect();
        let config = self.connection.builder()?.bind(Bind::Nothing).build()?;
        Ok((SubscriptionsAdmin::new(&config, url, recovery), set))
    }

    /// Compares the etag that the broadcaster has for the url with that of the named subscriptions.
    async fn check(&self) -> anyhow::Result<ExitCode> {
        let (of, set) = self.of("check")?;
        // Only the etag travels: a broadcaster does not list the subscriptions of a url.
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

    /// Replaces all subscriptions of the url at once.
    async fn set(&self) -> anyhow::Result<ExitCode> {
        self.interests.doubt("subscriptions set");
        let (of, set) = self.of("set")?;
        of.set(&set).await?;
        if self.json {
            output::json([
                ("url", self.url.as_str().into()),
                ("subscriptions", set.len().into()),
            ])?;
        } else {
            output::line(&format!("{}: subscriptions: {}", self.url, set.len()))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Changes one after the other, and stops at the first that fails; what was done until then is
    /// said all the same.
    async fn change(&self, change: Change) -> anyhow::Result<ExitCode> {
        let verb = match change {
            Change::Add => "add",
            Change::Remove => "remove",
        };
        if change == Change::Add {
            self.interests.doubt("subscriptions add");
        }
        let (of, set) = self.of(verb)?;
        // Likely a forgotten flag; SET with nothing is a real wish and has its own verb.
        if set.is_empty() {
            let verb = format!("subscriptions {verb}");
            usage::wrong(&verb, "nothing to do: give --exact or --glob");
        }
        let mut changed = Changed::default();
        let mut failure = None;
        for (interest, _) in set.iter() {
            let told = match change {
                Change::Add => of.add(&interest).await,
                Change::Remove => of.remove(&interest).await,
            };
            match told {
                Ok(true) => changed.done += 1,
                Ok(false) => changed.were_so += 1,
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        let Changed { done, were_so } = changed;
        // Said before the failure: part of the work is done, and repeating it would count as 409.
        if failure.is_none() || done + were_so > 0 {
            self.tell(change, changed)?;
        }
        match (failure, change) {
            (Some(error), _) => Err(error.into()),
            (None, _) if were_so == 0 => Ok(ExitCode::SUCCESS),
            (None, Change::Add) => Err(Hinted::error(
                anyhow::anyhow!(
                    "{were_so} of {} there already: nothing was changed about it",
                    set.len()
                ),
                "its recovery url may be another, which a broadcaster does not tell: \
                 `subscriptions set` says all subscriptions of a url at once",
            )),
            (None, Change::Remove) => anyhow::bail!("{were_so} of {} not there", set.len()),
        }
    }

    /// Prints the counts.
    fn tell(&self, change: Change, changed: Changed) -> anyhow::Result<()> {
        let Changed { done, were_so } = changed;
        if self.json {
            let (done_is, were_so_is) = match change {
                Change::Add => ("added", "existed"),
                Change::Remove => ("removed", "absent"),
            };
            output::json([
                ("url", self.url.as_str().into()),
                (done_is, done.into()),
                (were_so_is, were_so.into()),
            ])?;
            return Ok(());
        }
        let (done_is, were_so_is) = match change {
            Change::Add => ("added", "there already"),
            Change::Remove => ("removed", "not there"),
        };
        let mut text = format!("{}: {done_is}: {done}", self.url);
        if were_so > 0 {
            text.push_str(&format!(", {were_so_is}: {were_so}"));
        }
        Ok(output::line(&text)?)
    }
}
