//! `httppubsub demo`.
//!
//! Needs no files, flags or network: both ends are in this process and speak over loopback. It
//! shows the four things that a newcomer asks first: how a subscriber is reached, what a publisher
//! learns, what happens to a message that nobody wants, and to one that is larger than memory
//! allows.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use httppubsub_broadcaster::{Broadcaster, Config};
use httppubsub_client::{Bind, Client, ClientConfig, Interest, Message, NotifyBody, Subscription};
use httppubsub_proto::glob::GlobPattern;
use httppubsub_proto::topic::Topic;
use httppubsub_store::SqliteStore;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::output::line;
use crate::secrets;
use crate::topic::to_text;

/// See it work, in a temporary folder: a broadcaster, a subscriber, a few notifications.
#[derive(Debug, clap::Args)]
pub(crate) struct Demo {}

/// A message larger than what is kept in memory.
const FILE_BYTES: usize = 24 * 1024 * 1024;

/// Longest wait for anything; all of it takes about a second.
const PATIENCE: Duration = Duration::from_secs(30);

impl Demo {
    /// Runs both ends in this process, over real connections on loopback, and says what happens. It
    /// is a test of the installation as well: anything unexpected ends it with an error.
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        let [broadcaster_file, subscriber_file] =
            secrets::write(folder.path(), &secrets::fresh_hmac())?;
        line("A broadcaster, its subscriptions in SQLite, every message signed (HMAC-SHA512):")?;
        let (serving, stop, address) = serve(folder.path(), &broadcaster_file).await?;
        line(&format!("  listening on http://{address}"))?;

        let secrets = secrets::read(Some(&subscriber_file))?;
        let url = format!("http://{address}");
        let config = ClientConfig::builder([url.as_str()]).secrets(&secrets);
        let subscriber = Client::start(config.clone().build()?).await?;
        let interests = [
            Interest::Exact(Topic::new("builds/ready")?),
            Interest::Glob(GlobPattern::parse("cache/*")?),
        ];
        let mut subscription = subscriber.subscribe(interests).await?;
        line("\nA subscriber, a program with an HTTP listener of its own:")?;
        line(&format!(
            "  reached at {}",
            subscriber.receive_url().unwrap_or_default()
        ))?;
        line("  wants the topic builds/ready and everything that matches cache/*")?;

        line("\nA publisher, which listens to nothing:")?;
        // A publisher needs no listener; only a subscriber has to be reached.
        let publisher = Client::start(config.bind(Bind::Nothing).build()?).await?;
        for (topic, text) in [
            ("builds/ready", "build 1207 is ready"),
            ("cache/user/7", "drop it"),
            ("weather", "nobody asked"),
        ] {
            let notified = publisher.notify(topic, text).await?;
            line(&format!(
                "  notify {topic:<14} {text:?}: {}",
                confirmed(notified.subscribers)
            ))?;
            // Confirmed means received: the message is in the queue of the subscription by now.
            if notified.subscribers > 0 {
                let message = next(&mut subscription).await?;
                let text = String::from_utf8_lossy(&message.bytes().await?).into_owned();
                let topic = to_text(&message.topic);
                line(&format!("    received on {topic}: {text:?}"))?;
            }
        }
        let file = folder.path().join("logo.raw");
        // Random bytes cannot be compressed or recognized, so what arrives went the whole way.
        std::fs::write(
            &file,
            httppubsub_net::random_bytes::<65_536>().repeat(FILE_BYTES / 65_536),
        )?;
        let began = Instant::now();
        let notified = publisher
            .notify("cache/logo", NotifyBody::path(&file))
            .await?;
        let took = began.elapsed().as_millis();
        let mib = FILE_BYTES / 1024 / 1024;
        let confirmations = confirmed(notified.subscribers);
        line(&format!(
            "  notify cache/logo     a file of {mib} MiB: {confirmations}"
        ))?;
        let message = next(&mut subscription).await?;
        line(&format!(
            "    received on {}: {} bytes in {took} ms, streamed through temporary files\n    \
             sha512 {:.16}…, as it was sent",
            to_text(&message.topic),
            message.payload.len(),
            message.sha512().to_string(),
        ))?;

        // Over HTTP this is one UNSUBSCRIBE for each interest, or one SET.
        subscription.close().await?;
        line("\nThe subscriber unsubscribes:")?;
        let notified = publisher.notify("cache/user/7", "drop it again").await?;
        line(&format!(
            "  notify cache/user/7: {}",
            confirmed(notified.subscribers)
        ))?;

        subscriber.close().await?;
        publisher.close().await?;
        // Ended as `serve` ends: nothing new is taken, then what is under way is waited for.
        drop(stop);
        anyhow::ensure!(serving.await?, "the broadcaster did not stop in time");
        line(
            "\nThat was all. Next: httppubsub serve, httppubsub listen --help, httppubsub notify \
             --help",
        )?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Starts a broadcaster in `folder`, on a free port of loopback. Returns the task that serves it,
/// what stops it when dropped, and its address.
async fn serve(
    folder: &Path,
    secrets_file: &Path,
) -> anyhow::Result<(JoinHandle<bool>, DropGuard, SocketAddr)> {
    let store = Arc::new(SqliteStore::open(&folder.join("subscriptions.db")).await?);
    let mut config = Config::default();
    config.spool.folder = folder.to_owned();
    config.replay_folder = Some(folder.to_owned());
    let builder = Broadcaster::builder(store).secrets_file(secrets_file);
    let broadcaster = builder.config(config).build().await?;
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .context("cannot listen on 127.0.0.1")?;
    let address = listener.local_addr()?;
    let stop = CancellationToken::new();
    let guard = stop.clone().drop_guard();
    let serving = async move { broadcaster.serve_until(listener, stop.cancelled()).await };
    Ok((tokio::spawn(serving), guard, address))
}

/// The next message, within [`PATIENCE`].
async fn next(subscription: &mut Subscription) -> anyhow::Result<Message> {
    let message = tokio::time::timeout(PATIENCE, subscription.next()).await;
    message
        .context("the message did not arrive")?
        .context("the subscription ended")
}

/// A count of confirmations, as a sentence.
fn confirmed(subscribers: u32) -> String {
    match subscribers {
        0 => "no subscriber confirmed".to_owned(),
        1 => "1 subscriber confirmed".to_owned(),
        more => format!("{more} subscribers confirmed"),
    }
}
