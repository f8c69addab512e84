//! `httppubsub listen`.

use std::cell::Cell;
use std::fs::Permissions;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use httppubsub_client::{
    Bind, Client, ConnectionStatus, Interest, Message, Receiving, Subscription,
};
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;

use crate::connection::{Connection, WebSocket};
use crate::hints::Receiver;
use crate::misbehave::{Misbehaving, Misbehaviours};
use crate::output::Printer;
use crate::signals::Stop;
use crate::topic::{Interests, to_json, to_text};
use crate::{console, shown, units, usage};

/// Subscribe, and print what arrives.
///
/// Prints a line for each message: its topic, a tab, and what it says, in which a newline is `\n`,
/// a backslash is doubled, and what else acts on a terminal is an escape; for programs there is
/// --json. Unsubscribes when it ends: after --count messages, after --timeout seconds (status 4),
/// or by SIGTERM, SIGINT or, unless it runs under `nohup`, SIGHUP.
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

    /// Save each message as a file in this folder, which is made if need be. A file has its name
    /// when it is whole; until then it is one that begins with a dot and ends in `.part`. Files
    /// that are there already stay as they are.
    #[arg(long, value_name = "DIR", allow_hyphen_values = true)]
    save: Option<PathBuf>,
}

/// Why listening ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Counted,
    TimedOut,
    Stopped,
}

/// What ends listening from outside.
struct End {
    deadline: Option<Instant>,
    stop: Stop,
    is_stopped: bool,
}

impl End {
    /// `timeout` from now, if there is one, or by a signal: from here on none ends the program
    /// before it has unsubscribed.
    fn new(timeout: Option<Duration>) -> io::Result<Self> {
        Ok(Self {
            // One that is too far off to be written down is none.
            deadline: timeout.and_then(|it| Instant::now().checked_add(it)),
            stop: Stop::with_hangup()?,
            is_stopped: false,
        })
    }

    /// Waits for it; returns at once when it has come before. May be dropped at any time.
    async fn comes(&mut self) -> Ended {
        if self.is_stopped {
            return Ended::Stopped;
        }
        let time_is_up = async {
            match self.deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = time_is_up => Ended::TimedOut,
            () = self.stop.signalled() => {
                self.is_stopped = true;
                Ended::Stopped
            }
        }
    }

    /// What comes of `work`, which has a moment more if the end comes before; then it is dropped.
    async fn or<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Ended> {
        let mut work = std::pin::pin!(work);
        tokio::select! {
            biased;
            done = &mut work => Ok(done),
            ended = self.comes() => {
                let done = tokio::time::timeout(MOMENT, work).await;
                done.map_err(|_| ended)
            }
        }
    }
}

/// Far more than a reader needs that reads.
const MOMENT: Duration = Duration::from_secs(1);

/// How long all that was received and not printed yet may take at the end.
const REST_PATIENCE: Duration = Duration::from_secs(10);

/// How long broadcasters have to unsubscribe at the end: longer than closing a websocket takes, and
/// than they take for an answer if they answer at all.
const UNSUBSCRIBE_PATIENCE: Duration = Duration::from_secs(15);

impl Listen {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        self.interests.doubt("listen");
        let interests = self.interests.clone().of("listen");
        if interests.is_empty() {
            usage::wrong("listen", "nothing to listen for: give --exact or --glob");
        }
        if self.bind.ip().is_unspecified() && self.host.is_none() && !self.websocket.ws {
            let problem = format!(
                "--bind {} is all addresses of this machine: give by --host URL how the broadcaster \
                 reaches this program",
                self.bind
            );
            usage::wrong("listen", &problem);
        }
        if let Some(folder) = &self.save {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        }
        let printer = Printer::start().context("cannot start a thread")?;
        let misbehaving = match &self.misbehave {
            Some(how) => {
                let (how, seed) = (how.clone(), self.misbehave_seed);
                let printer = self.json.then(|| printer.clone());
                Some(Misbehaving::listen(self.bind, how, seed, printer).await?)
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
        let config = self.websocket.on(config, u32::MAX)?.build()?;
        let mut end = End::new(self.timeout)?;
        let client = Client::start(config).await?;
        if let Some(front) = misbehaving {
            tokio::spawn(front.serve(client.router()));
        }
        self.connection.say_what_was_found();
        let listening = Listening {
            own: &self,
            client: &client,
            printer,
            received: Cell::new(0),
            file_number: Cell::new(0),
            is_stuck: Cell::new(false),
        };
        let mut subscription = None;
        let ended = listening.listen(interests, &mut subscription, &mut end);
        let ended = ended.await;
        // Unsubscribing comes before any complaint about what was received.
        let closed = tokio::select! {
            closed = client.close() => closed,
            () = end.stop.signalled() => {
                anyhow::bail!("stopped at once by a signal; subscriptions may be left");
            }
            () = tokio::time::sleep(UNSUBSCRIBE_PATIENCE) => {
                let seconds = UNSUBSCRIBE_PATIENCE.as_secs();
                anyhow::bail!("not unsubscribed within {seconds} s; subscriptions may be left");
            }
        };
        let receiver = client.receive_url().map_or(Receiver::None, Receiver::This);
        let ended = ended.map_err(|error| self.connection.explain(error, receiver))?;
        let rest = async {
            match (ended, &mut subscription) {
                (Ended::TimedOut | Ended::Stopped, Some(rest)) => listening.print_rest(rest).await,
                _ => Ok(true),
            }
        };
        let is_all_printed = tokio::select! {
            printed = rest => printed?,
            () = end.stop.signalled() => false,
        };
        closed?;
        if !is_all_printed {
            let problem = match &self.save {
                Some(_) => "not all that was received is saved and printed",
                None => "not all that was received is printed: nobody reads stdout",
            };
            if ended == Ended::Stopped {
                anyhow::bail!(problem);
            }
            console::say(format_args!("httppubsub: {problem}"));
        }
        Ok(match ended {
            Ended::Counted | Ended::Stopped => ExitCode::SUCCESS,
            Ended::TimedOut => {
                console::say("httppubsub: the time ran out");
                ExitCode::from(crate::TIMED_OUT)
            }
        })
    }
}

/// A client that listens, and where it says what it hears.
struct Listening<'a> {
    own: &'a Listen,
    client: &'a Client,
    printer: Printer,
    received: Cell<u64>,
    /// That of the last file.
    file_number: Cell<u64>,
    /// The end came while a message was printed or saved, and that took too long.
    is_stuck: Cell<bool>,
}

impl Listening<'_> {
    /// Listens until the end comes. The subscription is left in `kept`.
    async fn listen(
        &self,
        interests: Vec<Interest>,
        kept: &mut Option<Subscription>,
        end: &mut End,
    ) -> anyhow::Result<Ended> {
        let mut subscribing = std::pin::pin!(self.client.subscribe(interests));
        let mut still_trying = std::pin::pin!(tokio::time::sleep(STILL_TRYING_AFTER));
        let mut told = !self.own.websocket.ws;
        let mut subscription = loop {
            tokio::select! {
                subscription = &mut subscribing => break subscription?,
                ended = end.comes() => return Ok(ended),
                () = &mut still_trying, if !told => {
                    told = true;
                    if let Some(reason) = self.client.connection_failure() {
                        let text = "no connection yet; trying on";
                        let telling = self.tell_connection("disconnected", text, Some(reason));
                        if let Err(ended) = end.or(telling).await {
                            return Ok(ended);
                        }
                    }
                }
            }
        };
        if let Err(ended) = end.or(self.tell_listening()).await {
            return Ok(ended);
        }
        let printer = self.own.json.then(|| self.printer.clone());
        subscription.on_receiving(move |receiving| {
            let printer = printer.clone();
            async move {
                if receiving == Receiving::AfterGap {
                    tell_missed(printer).await;
                }
            }
        });
        let subscription = kept.insert(subscription);
        let mut statuses = self.client.statuses();
        let mut shown = ConnectionStatus::Ok;
        while self.is_wanted() {
            let message = tokio::select! {
                biased;
                ended = end.comes() => return Ok(ended),
                Some(status) = statuses.next(), if self.own.websocket.ws => {
                    if shown != status {
                        match end.or(self.tell_status(status)).await {
                            Ok(is_told) => if is_told? { shown = status },
                            Err(ended) => return Ok(ended),
                        }
                    }
                    continue;
                }
                message = subscription.next() => message,
            };
            let Some(message) = message else {
                let why = self.client.connection_failure();
                anyhow::bail!("the connection is given up ({})", why.unwrap_or_default());
            };
            match end.or(self.tell(&message)).await {
                Ok(told) => told?,
                Err(ended) => {
                    self.is_stuck.set(true);
                    return Ok(ended);
                }
            }
        }
        Ok(Ended::Counted)
    }

    /// `true` if a further message is wanted.
    fn is_wanted(&self) -> bool {
        let count = self.own.count;
        count.is_none_or(|count| self.received.get() < count)
    }

    /// Prints what was received before the client was closed. Returns `false` if it could not.
    async fn print_rest(&self, subscription: &mut Subscription) -> anyhow::Result<bool> {
        let print = async {
            while self.is_wanted()
                && let Some(message) = subscription.next().await
            {
                self.tell(&message).await?;
            }
            anyhow::Ok(())
        };
        if self.is_stuck.get() {
            return Ok(false);
        }
        match tokio::time::timeout(REST_PATIENCE, print).await {
            Ok(printed) => printed.map(|()| true),
            Err(_) => Ok(false),
        }
    }

    async fn tell_listening(&self) -> io::Result<()> {
        let url = self.client.receive_url();
        if self.own.json {
            let event = [("event", "listening".into()), ("receive_url", url.into())];
            return self.printer.json(event).await;
        }
        match url {
            Some(url) => console::say(format_args!("listening at {url}")),
            None => console::say("listening over a websocket"),
        }
        Ok(())
    }

    /// Returns `true` if it was worth telling.
    async fn tell_status(&self, status: ConnectionStatus) -> io::Result<bool> {
        let reason = self.client.connection_failure();
        match (status, reason) {
            (ConnectionStatus::Ok, _) => {
                let text = "connected again";
                self.tell_connection("connected", text, None).await?;
            }
            // Over in a moment: what it means for messages is told with the messages.
            (ConnectionStatus::Lost, None) => return Ok(false),
            (ConnectionStatus::Lost, reason) => {
                let text = "the connection is lost; connecting anew";
                self.tell_connection("disconnected", text, reason).await?;
            }
            // It is what this ends with.
            (ConnectionStatus::Abandoned, _) => return Ok(false),
        }
        Ok(true)
    }

    async fn tell_connection(
        &self,
        event: &str,
        text: &str,
        reason: Option<String>,
    ) -> io::Result<()> {
        if self.own.json {
            let event = [("event", event.into()), ("reason", reason.into())];
            return self.printer.json(event).await;
        }
        match reason {
            None => console::say(text),
            Some(reason) => console::say(format_args!("{text} ({reason})")),
        }
        Ok(())
    }

    async fn tell(&self, message: &Message) -> anyhow::Result<()> {
        self.received.update(|received| received + 1);
        let file = match &self.own.save {
            Some(folder) => Some(save(folder, message, &self.file_number).await?),
            None => None,
        };
        let shown = match message.payload.len() {
            bytes if bytes <= SHOWN_BYTES_MAX => Some(message.bytes().await?),
            _ => None,
        };
        let text = shown
            .as_ref()
            .and_then(|bytes| std::str::from_utf8(bytes).ok());
        if self.own.json {
            let [topic, topic_base64] = to_json(&message.topic);
            let base64 = shown.as_ref().map(|bytes| BASE64_STANDARD.encode(bytes));
            let file = file.map(|file| file.display().to_string());
            let event = [
                ("event", "message".into()),
                topic,
                topic_base64,
                ("bytes", message.payload.len().into()),
                ("sha512", message.sha512().to_string().into()),
                ("body", text.into()),
                ("body_base64", base64.into()),
                ("file", file.into()),
            ];
            return Ok(self.printer.json(event).await?);
        }
        let topic = to_text(&message.topic);
        let body = match (file, text) {
            (Some(file), _) => format!("saved as {}", file.display()),
            (None, Some(text)) => shown::one_line(text.trim_end_matches('\n')),
            (None, None) => {
                format!(
                    "({} bytes, sha512 {})",
                    message.payload.len(),
                    message.sha512()
                )
            }
        };
        Ok(self.printer.line(format!("{topic}\t{body}")).await?)
    }
}

/// When a person wonders whether a websocket is being opened at all.
const STILL_TRYING_AFTER: Duration = Duration::from_secs(2);

async fn tell_missed(printer: Option<Printer>) {
    let Some(printer) = printer else {
        return console::say("some messages may have been missed");
    };
    if let Err(error) = printer.json([("event", "missed".into())]).await {
        console::say(format_args!("httppubsub: cannot write: {error}"));
    }
}

/// Longer messages are described instead of shown.
const SHOWN_BYTES_MAX: u64 = 64 * 1024;

/// Writes a message to a file of its own, named by the next free number and its topic; nothing in
/// the folder is overwritten, and no file has such a name before it is whole.
async fn save(folder: &Path, message: &Message, number: &Cell<u64>) -> anyhow::Result<PathBuf> {
    let topic = String::from_utf8_lossy(message.topic.as_bytes());
    let harmless = |c: char| {
        if c.is_ascii_alphanumeric() || "-_.".contains(c) {
            c
        } else {
            '_'
        }
    };
    let topic: String = topic.chars().map(harmless).take(100).collect();
    let cannot = || format!("cannot save a message in {}", folder.display());
    let write = async {
        let mut part = tempfile::Builder::new();
        part.prefix(".").suffix(".part");
        // As other files are made, and not for their owner's eyes only.
        part.permissions(Permissions::from_mode(0o666));
        let part = part.tempfile_in(folder)?;
        let mut file = tokio::fs::File::from_std(part.as_file().try_clone()?);
        tokio::io::copy(&mut message.reader(), &mut file).await?;
        file.flush().await?;
        io::Result::Ok(part)
    };
    let mut part = write.await.with_context(cannot)?;
    loop {
        number.update(|number| number + 1);
        let path = folder.join(format!("{:06}-{topic}", number.get()));
        match part.persist_noclobber(&path) {
            Ok(_) => return Ok(path),
            // From an earlier run.
            Err(failed) if failed.error.kind() == io::ErrorKind::AlreadyExists => {
                part = failed.file
            }
            Err(failed) => return Err(failed.error).with_context(cannot),
        }
    }
}
