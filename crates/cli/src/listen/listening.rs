//! Messages and events as `httppubsub listen` shows them.
//!
//! With `--json` each is an object on a line, with a member `event`:
//!
//! | event | other members |
//! |---|---|
//! | `listening` | `receive_url`, null over a websocket |
//! | `message` | `topic`, `topic_base64`, `bytes`, `sha512`, `body`, `body_base64`, `file`, `line`, `number` |
//! | `missed` | none: at this place messages may be missing |
//! | `disconnected` | `reason` |
//! | `connected` | `reason`, always null |
//!
//! `line` and `number` are null over a websocket, and for what is not numbered
//! ([`httppubsub_client::Message::number`]). `body` is null for what is not UTF-8, both bodies for
//! messages of more than 64 KiB. Without
//! `--json` messages are lines on standard output, and everything else is words on standard error.

use std::cell::Cell;
use std::io;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use httppubsub_client::{Client, ConnectionStatus, Interest, Message, Receiving, Subscription};

use crate::console;
use crate::listen::end::{End, Ended};
use crate::listen::save::save;
use crate::output::Printer;
use crate::shown;
use crate::topic::{to_json, to_text};

/// A client that listens, and where it says what it hears.
pub(super) struct Listening<'a> {
    client: &'a Client,
    printer: Printer,
    options: ListeningOptions<'a>,
    /// Messages printed so far.
    received: Cell<u64>,
    /// Number of the file that was saved last; 0 if there is none.
    file_number: Cell<u64>,
    /// The end came while a message was printed or saved, and that took too long.
    is_stuck: Cell<bool>,
}

/// The flags that say how messages are shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct ListeningOptions<'a> {
    /// `true` over a websocket, whose state is shown as well.
    pub(super) websocket: bool,
    /// `true` for JSON objects instead of lines for people.
    pub(super) json: bool,
    /// The number of messages after which the end comes; `None` for no such end.
    pub(super) count: Option<u64>,
    /// The folder in which messages are saved.
    pub(super) save: Option<&'a Path>,
}

impl<'a> Listening<'a> {
    /// Shows by `printer`, or on standard error, what `client` receives from now on.
    pub(super) fn new(client: &'a Client, printer: Printer, options: ListeningOptions<'a>) -> Self {
        Self {
            client,
            printer,
            options,
            received: Cell::new(0),
            file_number: Cell::new(0),
            is_stuck: Cell::new(false),
        }
    }

    /// Listens until the end comes. The subscription is left in `kept`, with messages that were
    /// received and not yet shown.
    pub(super) async fn listen(
        &self,
        interests: Vec<Interest>,
        kept: &mut Option<Subscription>,
        end: &mut End,
    ) -> anyhow::Result<Ended> {
        let mut subscribing = std::pin::pin!(self.client.subscribe(interests));
        let mut still_trying = std::pin::pin!(tokio::time::sleep(STILL_TRYING_AFTER));
        // Over HTTP a subscription fails or succeeds at once; a websocket may try for minutes.
        let mut told = !self.options.websocket;
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
        let printer = self.options.json.then(|| self.printer.clone());
        subscription.on_gap(move |receiving| {
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
                // The end is looked at first, or messages without pause would keep it away.
                biased;
                ended = end.comes() => return Ok(ended),
                Some(status) = statuses.next(), if self.options.websocket => {
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
        let count = self.options.count;
        count.is_none_or(|count| self.received.get() < count)
    }

    /// Prints what was received before the client was closed. Returns `false` if it could not.
    ///
    /// # Errors
    ///
    /// Those of saving and printing. Running out of time is none: it is said at the end, with the
    /// status that the end itself has.
    pub(super) async fn print_rest(&self, subscription: &mut Subscription) -> anyhow::Result<bool> {
        let print = async {
            while self.is_wanted()
                && let Some(message) = subscription.next().await
            {
                self.tell(&message).await?;
            }
            anyhow::Ok(())
        };
        // The reader was given a grace period already, and another would not change anything.
        if self.is_stuck.get() {
            return Ok(false);
        }
        match tokio::time::timeout(REST_PATIENCE, print).await {
            Ok(printed) => printed.map(|()| true),
            Err(_) => Ok(false),
        }
    }

    /// Says that subscriptions are confirmed: what is notified from now on arrives.
    async fn tell_listening(&self) -> io::Result<()> {
        let url = self.client.receive_url();
        if self.options.json {
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
    /// Says how the websocket is now.
    async fn tell_status(&self, status: ConnectionStatus) -> io::Result<bool> {
        let reason = self.client.connection_failure();
        match (status, reason) {
            (ConnectionStatus::Ok, _) => {
                let text = "connected again";
                self.tell_connection("connected", text, None).await?;
            }
            // Over in a moment: the next messages report what was missed.
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

    /// Writes one event about the connection, with a reason if there is one.
    async fn tell_connection(
        &self,
        event: &str,
        text: &str,
        reason: Option<String>,
    ) -> io::Result<()> {
        if self.options.json {
            let event = [("event", event.into()), ("reason", reason.into())];
            return self.printer.json(event).await;
        }
        match reason {
            None => console::say(text),
            Some(reason) => console::say(format_args!("{text} ({reason})")),
        }
        Ok(())
    }

    /// Saves and prints one message. Counted first, so that `--count` holds also if this is cut
    /// short.
    async fn tell(&self, message: &Message) -> anyhow::Result<()> {
        self.received.update(|received| received + 1);
        let file = match self.options.save {
            Some(folder) => Some(save(folder, message, &self.file_number).await?),
            None => None,
        };
        // Read into memory only if it is short: the message itself may be in a file.
        let shown = match message.payload.len() {
            bytes if bytes <= SHOWN_BYTES_MAX => Some(message.bytes().await?),
            _ => None,
        };
        let text = shown
            .as_ref()
            .and_then(|bytes| std::str::from_utf8(bytes).ok());
        if self.options.json {
            let [topic, topic_base64] = to_json(&message.topic);
            let base64 = shown.as_ref().map(|bytes| BASE64_STANDARD.encode(bytes));
            let file = file.map(|file| file.display().to_string());
            let number = message.number;
            let event = [
                ("event", "message".into()),
                topic,
                topic_base64,
                ("bytes", message.payload.len().into()),
                ("sha512", message.sha512().to_string().into()),
                ("body", text.into()),
                ("body_base64", base64.into()),
                ("file", file.into()),
                ("line", number.map(|it| it.line.to_string()).into()),
                ("number", number.map(|it| it.number).into()),
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

/// Longest time for printing messages that were received before the end.
const REST_PATIENCE: Duration = Duration::from_secs(10);

/// Time after which a message says that the websocket is still being opened.
const STILL_TRYING_AFTER: Duration = Duration::from_secs(2);

/// Says that messages may be missing. It cannot fail: a callback of the client has no caller to
/// give an error to.
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
