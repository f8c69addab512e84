//! `httppubsub listen`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use httppubsub_client::{Bind, Client, ConnectionStatus, Interest, Message, Receiving};
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;

use crate::connection::{Connection, WebSocket};
use crate::console;
use crate::misbehave::{Misbehaving, Misbehaviours};
use crate::output;
use crate::signals::Stop;
use crate::topic::{Interests, to_json, to_text};
use crate::{units, usage};

/// Subscribe, and print what arrives.
///
/// Unsubscribes when it ends: after --count messages, after --timeout seconds (status 4), or by
/// SIGTERM, SIGINT or, unless it runs under `nohup`, SIGHUP.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    httppubsub listen --exact builds/ready\n  \
    httppubsub listen --glob 'cache/*' --count 1 --timeout 60 --json\n  \
    httppubsub listen --glob '*' --bind 0.0.0.0:3002 --host http://10.0.0.7:3002\n  \
    httppubsub listen --glob '*' --ws")]
pub(crate) struct Listen {
    #[command(flatten)]
    interests: Interests,

    #[command(flatten)]
    connection: Connection,

    #[command(flatten)]
    websocket: WebSocket,

    /// Where to listen for the broadcaster; port 0 picks a free one. Means nothing with --ws.
    #[arg(
        long,
        value_name = "ADDR:PORT",
        default_value = "127.0.0.1:0",
        env = "HTTPPUBSUB_BIND",
        value_parser = units::listen_address
    )]
    bind: SocketAddr,

    /// How the broadcaster reaches this program. Means nothing with --ws. [default: http:// and
    /// the bound address]
    #[arg(long, value_name = "URL", env = "HTTPPUBSUB_HOST", value_parser = units::http_url)]
    host: Option<String>,

    /// Misbehave, to see what the broadcaster makes of it: a list of slow=SECONDS (confirm so much
    /// later), hang (never answer), drip (answer a byte a second), truncate (answer half), garbage,
    /// status=N, redirect=URL, wrong-id (confirm another delivery), no-read (take nothing) and reset,
    /// each with its probability, as in hang@0.1,status=503@0.2, or always. Notices that something
    /// was missed are taken as they should be. What is done to which delivery is told on stderr, or
    /// with --json as an event.
    #[arg(long, value_name = "LIST", conflicts_with = "ws")]
    misbehave: Option<Misbehaviours>,

    /// Draw the same again as the last time with this number.
    #[arg(long, value_name = "N", requires = "misbehave")]
    misbehave_seed: Option<u64>,

    /// End after so many messages.
    #[arg(long, value_name = "N")]
    count: Option<u64>,

    /// End after so many seconds, or a duration such as 500ms.
    #[arg(long, value_name = "SECONDS", value_parser = units::seconds)]
    timeout: Option<Duration>,

    /// Print a JSON object a line.
    #[arg(long)]
    json: bool,

    /// Save each message as a file in this folder, which is made if need be. Files that are there
    /// already stay as they are.
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
}

/// Why listening ended.
enum Ended {
    Counted,
    TimedOut,
    Stopped,
}

impl Listen {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let interests = self.interests.clone().into_vec();
        if interests.is_empty() {
            usage::wrong("listen", "nothing to listen for: give --exact or --glob");
        }
        if let Some(folder) = &self.save {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        }
        let misbehaving = match &self.misbehave {
            Some(how) => {
                let (how, seed) = (how.clone(), self.misbehave_seed);
                Some(Misbehaving::listen(self.bind, how, seed, self.json).await?)
            }
            None => None,
        };
        let mut config = self.connection.builder()?;
        config = match &misbehaving {
            // Of all addresses of the machine, which one leads here is not known.
            Some(front) if front.address.ip().is_unspecified() => config.bind(Bind::Mounted),
            Some(front) => config
                .bind(Bind::Mounted)
                .host(format!("http://{}", front.address)),
            None => config.bind(Bind::To(self.bind)),
        };
        if let Some(host) = &self.host {
            config = config.host(host);
        }
        // It outlasts its broadcaster, as one that is reached by HTTP does.
        let config = self.websocket.on(config, u32::MAX)?;
        // From here on a signal does not end the program before it has unsubscribed.
        let mut stop = Stop::with_hangup()?;
        let client = Client::start(config.build()?).await?;
        if let Some(front) = misbehaving {
            tokio::spawn(front.serve(client.router()));
        }
        let ended = self.listen(&client, interests, &mut stop).await;
        // Unsubscribing comes before any complaint about what was received.
        let closed = tokio::select! {
            closed = client.close() => closed,
            () = stop.signalled() => {
                anyhow::bail!("stopped at once by a signal; subscriptions may be left");
            }
        };
        let ended = ended?;
        closed?;
        Ok(match ended {
            Ended::Counted | Ended::Stopped => ExitCode::SUCCESS,
            Ended::TimedOut => {
                console::say("httppubsub: the time ran out");
                ExitCode::from(crate::TIMED_OUT)
            }
        })
    }

    async fn listen(
        &self,
        client: &Client,
        interests: Vec<Interest>,
        stop: &mut Stop,
    ) -> anyhow::Result<Ended> {
        // One that is too far off to be written down is none.
        let deadline = self.timeout.and_then(|it| Instant::now().checked_add(it));
        let time_is_up = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let mut time_is_up = std::pin::pin!(time_is_up);
        let mut subscribing = std::pin::pin!(client.subscribe(interests));
        let mut still_trying = std::pin::pin!(tokio::time::sleep(STILL_TRYING_AFTER));
        let mut told = !self.websocket.ws;
        let mut subscription = loop {
            tokio::select! {
                subscription = &mut subscribing => break subscription?,
                () = &mut time_is_up => return Ok(Ended::TimedOut),
                () = stop.signalled() => return Ok(Ended::Stopped),
                () = &mut still_trying, if !told => {
                    told = true;
                    if let Some(reason) = client.connection_failure() {
                        let text = "no connection yet; trying on";
                        self.tell_connection("disconnected", text, Some(reason))?;
                    }
                }
            }
        };
        self.tell_listening(client)?;
        let json = self.json;
        subscription.on_receiving(move |receiving| async move {
            if receiving == Receiving::AfterGap {
                tell_missed(json);
            }
        });
        let mut statuses = client.statuses();
        let mut shown = ConnectionStatus::Ok;
        let (mut received, mut file_number) = (0, 0);
        while self.count.is_none_or(|count| received < count) {
            let message = tokio::select! {
                message = subscription.next() => message,
                Some(status) = statuses.next(), if self.websocket.ws => {
                    if shown != status && self.tell_status(client, status)? {
                        shown = status;
                    }
                    continue;
                }
                () = &mut time_is_up => return Ok(Ended::TimedOut),
                () = stop.signalled() => return Ok(Ended::Stopped),
            };
            let Some(message) = message else {
                return Ok(Ended::Stopped);
            };
            received += 1;
            self.tell(&message, &mut file_number).await?;
        }
        Ok(Ended::Counted)
    }

    fn tell_listening(&self, client: &Client) -> std::io::Result<()> {
        let url = client.receive_url();
        if self.json {
            output::json([("event", "listening".into()), ("receive_url", url.into())])
        } else {
            match url {
                Some(url) => console::say(format_args!("listening at {url}")),
                None => console::say("listening over a websocket"),
            }
            Ok(())
        }
    }

    /// Whether it was worth telling.
    fn tell_status(&self, client: &Client, status: ConnectionStatus) -> std::io::Result<bool> {
        let reason = client.connection_failure();
        match (status, reason) {
            (ConnectionStatus::Ok, _) => {
                self.tell_connection("connected", "connected again", None)?;
            }
            // Over in a moment: what it means for messages is told with the messages.
            (ConnectionStatus::Lost, None) => return Ok(false),
            (ConnectionStatus::Lost, reason) => {
                let text = "the connection is lost; connecting anew";
                self.tell_connection("disconnected", text, reason)?;
            }
            (ConnectionStatus::Abandoned, reason) => {
                self.tell_connection("abandoned", "the connection is given up", reason)?;
            }
        }
        Ok(true)
    }

    fn tell_connection(
        &self,
        event: &str,
        text: &str,
        reason: Option<String>,
    ) -> std::io::Result<()> {
        if self.json {
            return output::json([("event", event.into()), ("reason", reason.into())]);
        }
        match reason {
            None => console::say(format_args!("{text}")),
            Some(reason) => console::say(format_args!("{text} ({reason})")),
        }
        Ok(())
    }

    async fn tell(&self, message: &Message, file_number: &mut u64) -> anyhow::Result<()> {
        let file = match &self.save {
            Some(folder) => Some(save(folder, message, file_number).await?),
            None => None,
        };
        let shown = match message.payload.len() {
            bytes if bytes <= SHOWN_BYTES_MAX => Some(message.bytes().await?),
            _ => None,
        };
        let text = shown
            .as_ref()
            .and_then(|bytes| std::str::from_utf8(bytes).ok());
        if self.json {
            let [topic, topic_base64] = to_json(&message.topic);
            let base64 = shown.as_ref().map(|bytes| BASE64_STANDARD.encode(bytes));
            let file = file.map(|file| file.display().to_string());
            return Ok(output::json([
                ("event", "message".into()),
                topic,
                topic_base64,
                ("bytes", message.payload.len().into()),
                ("sha512", message.sha512().to_string().into()),
                ("body", text.into()),
                ("body_base64", base64.into()),
                ("file", file.into()),
            ])?);
        }
        let topic = to_text(&message.topic);
        let body = match (file, text) {
            (Some(file), _) => format!("saved as {}", file.display()),
            (None, Some(text)) => text.trim_end_matches('\n').to_owned(),
            (None, None) => {
                format!(
                    "({} bytes, sha512 {})",
                    message.payload.len(),
                    message.sha512()
                )
            }
        };
        Ok(output::line(&format!("{topic}\t{body}"))?)
    }
}

/// When a person wonders whether a websocket is being opened at all.
const STILL_TRYING_AFTER: Duration = Duration::from_secs(2);

fn tell_missed(json: bool) {
    let told = if json {
        output::json([("event", "missed".into())])
    } else {
        console::say("some messages may have been missed");
        Ok(())
    };
    if let Err(error) = told {
        console::say(format_args!("httppubsub: cannot write: {error}"));
    }
}

/// Longer messages are described instead of shown.
const SHOWN_BYTES_MAX: u64 = 64 * 1024;

/// Writes a message to a file of its own, named by the next free number and its topic; nothing in
/// the folder is overwritten.
async fn save(folder: &Path, message: &Message, number: &mut u64) -> anyhow::Result<PathBuf> {
    let topic = String::from_utf8_lossy(message.topic.as_bytes());
    let harmless = |c: char| {
        if c.is_ascii_alphanumeric() || "-_.".contains(c) {
            c
        } else {
            '_'
        }
    };
    let topic: String = topic.chars().map(harmless).take(100).collect();
    loop {
        *number += 1;
        let path = folder.join(format!("{number:06}-{topic}"));
        let write = async {
            let mut file = tokio::fs::File::create_new(&path).await?;
            tokio::io::copy(&mut message.reader(), &mut file).await?;
            file.flush().await
        };
        match write.await {
            Ok(()) => return Ok(path),
            // From an earlier run.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                let text = format!("cannot save a message as {}", path.display());
                return Err(anyhow::Error::from(error).context(text));
            }
        }
    }
}
