//! `httppubsub notify`.
//!
//! The message comes from a flag, a file or standard input. Its length and digest go before it on
//! the wire, so standard input is read to its end first, into a temporary file if it is long.

use std::path::PathBuf;
use std::process::ExitCode;

use httppubsub_client::plain::Plain;
use httppubsub_client::{Bind, Client, Notified, NotifyBody};
use httppubsub_proto::topic::Topic;
use indicatif::{ProgressBar, ProgressStyle};

use crate::connection::{Connection, WebSocket};
use crate::console;
use crate::hints::Receiver;
use crate::output;
use crate::shown;
use crate::topic::{parse_hex, parse_topic, to_json};
use crate::usage;

/// Notify all subscribers of a topic.
///
/// Ends with status 0 only when the broadcaster accepted the notification, and says how many
/// subscribers confirmed it: nobody being subscribed is no failure.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "httppubsub notify [OPTIONS] <TOPIC> <--data <TEXT>|--file <PATH>|->",
    after_help = "Examples:\n  \
    httppubsub notify cache/user/7 --data 'drop it'\n  \
    httppubsub notify builds/ready --file build.tar --json\n  \
    httppubsub notify builds/ready --data 1208 --token \"$TOKEN\"\n  \
    date | httppubsub notify time -"
)]
pub(crate) struct Notify {
    /// Topic of the message; `-` behind it reads the message from stdin.
    #[arg(value_name = "TOPIC", num_args = 0..=2)]
    words: Vec<String>,

    /// Topic as bytes in hexadecimal, in place of TOPIC.
    #[arg(long, value_name = "HEX", value_parser = parse_hex)]
    topic_hex: Option<Topic>,

    /// The message; may be empty.
    #[arg(
        long,
        value_name = "TEXT",
        conflicts_with = "file",
        allow_hyphen_values = true
    )]
    data: Option<String>,

    /// The message is what this file holds.
    #[arg(long, value_name = "PATH", allow_hyphen_values = true)]
    file: Option<PathBuf>,

    /// Publish by this token, as `httppubsub token add` prints it, in place of secrets: one request
    /// to the first broadcaster, by its plain door. A token is safer in the environment.
    #[arg(
        long,
        value_name = "TOKEN",
        env = "HTTPPUBSUB_TOKEN",
        hide_env_values = true
    )]
    token: Option<String>,

    /// With --token: publish once, however often it is asked for with this key within ten minutes.
    #[arg(long, value_name = "KEY", requires = "token")]
    idempotency_key: Option<String>,

    #[command(flatten)]
    connection: Connection,

    #[command(flatten)]
    websocket: WebSocket,

    /// Print a JSON object instead of a sentence.
    #[arg(long)]
    json: bool,
}

/// Source of the message.
enum Source {
    /// From `--data`.
    Data(String),
    /// From `--file`; a long one is read twice, for the digest and for sending.
    File(PathBuf),
    /// From standard input, for a lone `-`.
    Stdin,
}

impl Notify {
    /// Notifies once. The client repeats only what is certainly not done; what is perhaps done ends
    /// in status 3, and the caller decides.
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let (topic, source) = self
            .understand()
            .unwrap_or_else(|problem| usage::wrong("notify", &problem));
        let notified = self.notify(topic, source).await;
        notified.map_err(|error| self.connection.explain(error, Receiver::None))
    }

    /// Sends the message and prints the outcome.
    async fn notify(&self, topic: Topic, source: Source) -> anyhow::Result<ExitCode> {
        // Standard input has no length, and text has no duration worth a bar.
        let bar = match source {
            Source::File(_) if console::stderr_is_terminal() => progress_bar(),
            _ => ProgressBar::hidden(),
        };
        let body = match source {
            Source::Data(text) => NotifyBody::from(text),
            Source::File(path) => NotifyBody::path(path),
            Source::Stdin => NotifyBody::reader(tokio::io::stdin()),
        };
        let progress = |sent, all| {
            bar.set_length(all);
            bar.set_position(sent);
        };
        if let Some(token) = &self.token {
            let plain = Plain::new(self.connection.first_broadcaster(), token.as_str())?;
            let key = self.idempotency_key.as_deref();
            let published = plain.publish_with_progress(key, topic.as_bytes(), body, progress);
            let published = published.await;
            bar.finish_and_clear();
            let published = published?;
            let notified = Notified {
                subscribers: published.subscribers,
                bytes: published.bytes,
                sha512: published.sha512,
            };
            self.tell(&topic, &notified)?;
            return Ok(ExitCode::SUCCESS);
        }
        let builder = self.connection.builder()?.bind(Bind::Nothing);
        // As often as published subscribers try.
        let config = self.websocket.on(builder, 2)?.build()?;
        let client = Client::start(config).await?;
        let notified = client
            .notify_with_progress(topic.as_bytes(), body, progress)
            .await;
        bar.finish_and_clear();
        self.tell(&topic, &notified?)?;
        client.close().await?;
        Ok(ExitCode::SUCCESS)
    }

    /// The topic and the source of the message. clap cannot say this: with `--topic-hex`, the only
    /// word is the `-` and not a topic.
    fn understand(&self) -> Result<(Topic, Source), String> {
        let mut words = self.words.iter().map(String::as_str);
        let topic = match &self.topic_hex {
            Some(topic) => topic.clone(),
            None => {
                let topic = words.next().ok_or("give a TOPIC or --topic-hex")?;
                parse_topic(topic)?
            }
        };
        let stdin = match (words.next(), words.next()) {
            (None, _) => false,
            (Some("-"), None) => true,
            (Some(word), _) => {
                return Err(format!(
                    "'{}' belongs to no flag: give the message by --data",
                    shown::one_line(word)
                ));
            }
        };
        match (stdin, &self.data, &self.file) {
            (true, None, None) => Ok((topic, Source::Stdin)),
            (false, Some(data), None) => Ok((topic, Source::Data(data.clone()))),
            (false, None, Some(file)) => Ok((topic, Source::File(file.clone()))),
            _ => Err("give the message by one of --data TEXT, --file PATH, or -".to_owned()),
        }
    }

    /// Prints the outcome on standard output.
    fn tell(&self, topic: &Topic, notified: &Notified) -> std::io::Result<()> {
        let subscribers = notified.subscribers;
        if self.json {
            let [text, base64] = to_json(topic);
            return output::json([
                text,
                base64,
                ("bytes", notified.bytes.into()),
                ("sha512", notified.sha512.to_string().into()),
                ("subscribers", subscribers.into()),
            ]);
        }
        output::line(&match subscribers {
            0 => "accepted; no subscriber confirmed".to_owned(),
            1 => "1 subscriber confirmed".to_owned(),
            more => format!("{more} subscribers confirmed"),
        })
    }
}

/// Shown for files on a terminal only: nothing else has a length that is worth waiting for.
fn progress_bar() -> ProgressBar {
    let style =
        ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} left");
    ProgressBar::new(0).with_style(style.expect("the template is well-formed"))
}
