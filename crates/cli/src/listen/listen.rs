//! `httppubsub listen`.
//!
//! It is a subscriber like any other, built on the client library: it listens, confirms, and looks
//! after its subscriptions while it runs. Over a websocket (`--ws`) it needs no address of its own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use httppubsub_client::{Bind, Client};

use crate::connection::{Connection, WebSocket};
use crate::console;
use crate::exit;
use crate::hints::Receiver;
use crate::listen::end::{End, Ended};
use crate::listen::listening::{Listening, ListeningOptions};
use crate::listen::misbehave::{Misbehaving, Misbehaviours};
use crate::output::Printer;
use crate::topic::Interests;
use crate::units;
use crate::usage;

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

    /// Address to listen on for deliveries; port 0 picks a free one. Has no effect with --ws.
    #[arg(
        long,
        value_name = "ADDR:PORT",
        default_value = "127.0.0.1:0",
        env = "HTTPPUBSUB_BIND",
        value_parser = units::listen_address
    )]
    bind: SocketAddr,

    /// URL at which the broadcaster reaches this program. Has no effect with --ws. [default:
    /// http:// and the bound address]
    #[arg(long, value_name = "URL", env = "HTTPPUBSUB_HOST", value_parser = units::http_url)]
    host: Option<String>,

    /// Misbehave, to see how the broadcaster reacts: a list of slow=SECONDS (confirm that much
    /// later), hang (never answer), drip (answer a byte a second), truncate (answer half), garbage,
    /// status=N, redirect=URL, wrong-id (confirm another delivery), no-read (take nothing) and
    /// reset, each with its probability, as in hang@0.1,status=503@0.2, or always. Notices of
    /// missed messages are accepted as usual. Each misbehaviour is reported on stderr, or with
    /// --json as an event.
    #[arg(long, value_name = "LIST", conflicts_with = "ws")]
    misbehave: Option<Misbehaviours>,

    /// Draw the same again as the last time with this number.
    #[arg(long, value_name = "N", requires = "misbehave")]
    misbehave_seed: Option<u64>,

    /// End after N messages.
    #[arg(long, value_name = "N")]
    count: Option<u64>,

    /// End after this many seconds, or a duration such as 500ms.
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

/// Longest wait for broadcasters to unsubscribe at the end: longer than closing a websocket takes,
/// and longer than a working broadcaster takes to answer.
const UNSUBSCRIBE_PATIENCE: Duration = Duration::from_secs(15);

impl Listen {
    /// Subscribes, prints until the end comes, unsubscribes, and prints what was received before
    /// that.
    ///
    /// # Errors
    ///
    /// A refusal, a connection that is given up, output that cannot be written, and subscriptions
    /// that may be left behind because no broadcaster answered in time.
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        self.interests.doubt("listen");
        let interests = self.interests.clone().of("listen");
        if interests.is_empty() {
            usage::wrong("listen", "nothing to listen for: give --exact or --glob");
        }
        // 0.0.0.0 is no address that anybody can post to, and guessing one of several would be
        // silent.
        if self.bind.ip().is_unspecified() && self.host.is_none() && !self.websocket.ws {
            let problem = format!(
                "--bind {} is all addresses of this machine: give by --host URL how the \
                 broadcaster reaches this program",
                self.bind
            );
            usage::wrong("listen", &problem);
        }
        if let Some(folder) = &self.save {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        }
        // Standard output has a thread of its own: a reader that stops must not keep the listener
        // from confirming deliveries and from unsubscribing at the end.
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
        // Before anything is subscribed: a signal that arrives from now on leads to unsubscribing.
        let mut end = End::new(self.timeout)?;
        let client = Client::start(config).await?;
        if let Some(front) = misbehaving {
            tokio::spawn(front.serve(client.router()));
        }
        self.connection.say_what_was_found();
        let options = ListeningOptions {
            websocket: self.websocket.ws,
            json: self.json,
            count: self.count,
            save: self.save.as_deref(),
        };
        let listening = Listening::new(&client, printer, options);
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
        // Messages that were confirmed to the broadcaster are printed even after the end: nobody
        // else has them now.
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
                ExitCode::from(exit::TIMED_OUT)
            }
        })
    }
}
