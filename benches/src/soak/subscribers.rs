//! Subscribers that come and go.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use httppubsub_client::{Bind, Client, ClientConfig, Receiving, Subscription, WebSocketConfig};
use httppubsub_proto::subscription::Interest;
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::{Endpoint, SubscriberUrl};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::process::Command;

use crate::broadcaster::{subscribe, unsubscribe};
use crate::connection::Connection;
use crate::keys::Keys;
use crate::soak::faults::signal;
use crate::soak::front::{Front, Mode};
use crate::soak::oracle::Wants;
use crate::soak::publishers::{PROCESS, number_in};
use crate::soak::world::{Victim, World, count};

/// How long a notice may take in the worst case: what failed is tried again up to a minute later.
const PATIENCE: Duration = Duration::from_secs(180);

/// Topics that many subscribe at the same time.
const SHARED_TOPICS: u64 = 4;

/// One subscriber after the other, each new to the broadcaster, until the soak ends.
pub(crate) async fn come_and_go(world: Arc<World>, live: Duration, which: Which) {
    while !world.ending.is_cancelled() {
        let live = live.mul_f64(0.25 + 1.5 * rand::random::<f64>());
        let lived = match which {
            Which::Http => http(&world, live).await,
            Which::WebSocket => websocket(&world, live).await,
            Which::Process => process(&world, live).await,
            Which::Dead => dead(&world, live).await,
        };
        if let Err(error) = lived {
            eprintln!("soak: {error:#}");
            count(&world.counts.not_subscribed);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// What kind of subscriber.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Which {
    Http,
    WebSocket,
    Process,
    /// An url at which nobody listens, which somebody else unsubscribes.
    Dead,
}

fn wants(number: u64) -> Wants {
    match number % 6 {
        0 => Wants::Under(format!("glob/{number}/")),
        1 => Wants::Exact(format!("shared/{}", number / 6 % SHARED_TOPICS)),
        _ => Wants::Exact(format!("own/{number}")),
    }
}

async fn http(world: &World, live: Duration) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let host = format!("http://{}", listener.local_addr()?);
    let config = ClientConfig::builder([format!("http://{}", world.address)])
        .secrets(&world.secrets)
        .bind(Bind::To("127.0.0.1:0".parse()?))
        .host(host);
    let client = Client::start(config.build()?).await?;
    let address = client.local_addr().context("it listens")?;
    let front = Front::serve(listener, address);
    let exposed = world.expose(Victim::Http(front.mode.clone()));
    let wants = wants(world.number());
    let subscription = client.subscribe([wants.interest()?]).await?;
    count(&world.counts.http);
    listen(world, &client, subscription, wants, live).await;
    drop(exposed);
    front.mode.send_replace(Mode::Pass);
    Ok(client.close().await?)
}

async fn websocket(world: &World, live: Duration) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("ws://{}", listener.local_addr()?);
    let front = Front::serve(listener, world.address);
    let exposed = world.expose(Victim::WebSocket(front.mode.clone()));
    let mut options = WebSocketConfig::default();
    options.connect_retries = u32::MAX;
    let config = ClientConfig::builder([url])
        .secrets(&world.secrets)
        .websocket(options);
    let client = Client::start(config.build()?).await?;
    let wants = wants(world.number());
    let subscription = client.subscribe([wants.interest()?]).await?;
    count(&world.counts.websockets);
    listen(world, &client, subscription, wants, live).await;
    drop(exposed);
    front.mode.send_replace(Mode::Pass);
    Ok(client.close().await?)
}

/// Listens for so long, and then until nothing is owed.
async fn listen(
    world: &World,
    client: &Client,
    mut subscription: Subscription,
    wants: Wants,
    live: Duration,
) {
    let subscriber = world.oracle.join(wants);
    let (gaps, mut gap) = tokio::sync::mpsc::unbounded_channel();
    subscription.on_gap(move |receiving| {
        if receiving == Receiving::AfterGap {
            // Nobody looks any more when it leaves.
            let _ = gaps.send(());
        }
        std::future::ready(())
    });
    let listening = async {
        loop {
            let message = tokio::select! {
                biased;
                Some(()) = gap.recv() => {
                    world.oracle.noticed(subscriber);
                    continue;
                }
                message = subscription.next() => message,
            };
            let Some(message) = message else { return };
            let start = message.reader();
            if let Some(number) = number_in(start).await {
                world.oracle.received(subscriber, number);
            }
        }
    };
    let living = async {
        tokio::select! {
            () = tokio::time::sleep(live) => {}
            () = world.ending.cancelled() => {}
        }
        world.oracle.leaves(subscriber);
        world.oracle.settle(subscriber, PATIENCE).await;
    };
    tokio::select! {
        () = listening => {
            // It ended before its time: what it is owed is lost.
            let why = client.connection_failure();
            eprintln!("soak: a subscription ended by itself: {why:?}");
            world.oracle.leaves(subscriber);
            world.oracle.settle(subscriber, Duration::ZERO).await;
        }
        () = living => {}
    }
}

/// A subscriber that is a process, and may be stopped.
async fn process(world: &World, live: Duration) -> anyhow::Result<()> {
    let topic = format!("{PROCESS}{}", world.number());
    let mut process = Command::new(&world.program)
        .args(["listen", "--json", "--exact", &topic, "--broadcaster"])
        .arg(format!("http://{}", world.address))
        .arg("--secrets")
        .arg(&world.secrets_file)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let pid = process.id().context("it has ended")?;
    let stdout = process.stdout.take().context("its stdout is gone")?;
    let mut lines = BufReader::new(stdout).lines();
    lines.next_line().await?.context("it did not listen")?;
    count(&world.counts.processes);
    let subscriber = world.oracle.join(Wants::Exact(topic));
    let exposed = world.expose(Victim::Process(pid));
    let listening = async {
        while let Ok(Some(line)) = lines.next_line().await {
            let event: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            if event["event"] == "missed" {
                world.oracle.noticed(subscriber);
            } else if let Some(body) = event["body"].as_str()
                && let Some(number) = number_in(body.as_bytes()).await
            {
                world.oracle.received(subscriber, number);
            }
        }
    };
    let living = async {
        tokio::select! {
            () = tokio::time::sleep(live * 5) => {}
            () = world.ending.cancelled() => {}
        }
        drop(exposed);
        world.oracle.leaves(subscriber);
        world.oracle.settle(subscriber, PATIENCE).await;
    };
    tokio::join!(listening, async {
        living.await;
        signal(pid, rustix::process::Signal::CONT);
        signal(pid, rustix::process::Signal::TERM);
    });
    process.wait().await?;
    Ok(())
}

/// Nobody is there to hear anything, so nothing is expected of it.
async fn dead(world: &World, live: Duration) -> anyhow::Result<()> {
    let port = TcpListener::bind("127.0.0.1:0").await?.local_addr()?.port();
    let number = world.number();
    let url = SubscriberUrl::new(format!("http://127.0.0.1:{port}/dead/{number}"))?;
    let recovery = number.is_multiple_of(2).then_some(&url);
    let interest = Interest::Exact(Topic::new(format!("shared/{}", number % SHARED_TOPICS))?);
    let keys = Keys::of(&world.secrets);
    let broadcaster = Endpoint::parse_str(&format!("http://{}", world.address))?;
    let mut connection = Connection::open(&broadcaster).await?;
    subscribe(&mut connection, &url, &interest, recovery, &keys).await?;
    count(&world.counts.dead);
    tokio::select! {
        () = tokio::time::sleep(live) => {}
        () = world.ending.cancelled() => {}
    }
    let mut connection = Connection::open(&broadcaster).await?;
    unsubscribe(&mut connection, &url, &interest, &keys).await
}
