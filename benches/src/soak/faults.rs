//! What goes wrong during a soak.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use httppubsub_client::{Bind, Client, ClientConfig};
use rustix::process::{Pid, Signal, kill_process};
use tokio::task::JoinSet;

use crate::soak::front::Mode;
use crate::soak::publishers::{PROCESS, notify};
use crate::soak::world::{Victim, World, count};

/// How long a fault lasts.
const LASTS: Duration = Duration::from_secs(4);

/// For how long the database is locked: not so long that anything fails.
const LOCK_LASTS: Duration = Duration::from_millis(1_500);

/// So long is a message of which a few fill the memory that messages may take.
const HEAVY_BYTES: usize = 24 * 1024 * 1024;

/// What happens, one after the other.
const FAULTS: [Fault; 8] = [
    Fault::Subscribers(Mode::Hang),
    Fault::WebSockets(Mode::Reset),
    Fault::Subscribers(Mode::Reset),
    Fault::Stop,
    Fault::Subscribers(Mode::Refuse),
    Fault::HeavyMessage,
    Fault::LockDatabase,
    Fault::Subscribers(Mode::Close),
];

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Half of the subscribers that are posted to.
    Subscribers(Mode),
    WebSockets(Mode),
    /// A process is stopped and goes on later.
    Stop,
    HeavyMessage,
    LockDatabase,
}

/// Lets one fault happen in each `interval` until the soak ends; all are over when it returns.
pub(crate) async fn happen(world: Arc<World>, interval: Duration) {
    let mut under_way = JoinSet::new();
    for fault in FAULTS.into_iter().cycle() {
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = world.ending.cancelled() => break,
        }
        while under_way.try_join_next().is_some() {}
        let world = world.clone();
        under_way.spawn(async move {
            count(&world.counts.faults);
            if let Err(error) = fault.happens(&world).await {
                eprintln!("soak: {fault:?}: {error:#}");
            }
        });
    }
    while under_way.join_next().await.is_some() {}
}

impl Fault {
    async fn happens(self, world: &Arc<World>) -> anyhow::Result<()> {
        match self {
            Self::Subscribers(mode) => {
                afflict(world, mode, |it| matches!(it, Victim::Http(_))).await;
            }
            Self::WebSockets(mode) => {
                afflict(world, mode, |it| matches!(it, Victim::WebSocket(_))).await;
            }
            Self::Stop => {
                let random = rand::random_range(0..1_000);
                let victim = world.victim(random, |it| matches!(it, Victim::Process(_)));
                if let Some(Victim::Process(pid)) = victim {
                    signal(pid, Signal::STOP);
                    tokio::time::sleep(LASTS).await;
                    signal(pid, Signal::CONT);
                }
            }
            Self::HeavyMessage => {
                let config = ClientConfig::builder([format!("http://{}", world.address)])
                    .secrets(&world.secrets)
                    .bind(Bind::Nothing);
                let client = Client::start(config.build()?).await?;
                for _ in 0..2 {
                    let topic = world.oracle.topic(rand::random_range(0..1_000_000));
                    if let Some(topic) = topic.filter(|it| !it.starts_with(PROCESS)) {
                        notify(world, &client, &topic, HEAVY_BYTES).await;
                    }
                }
                client.close().await?;
            }
            Self::LockDatabase => {
                let path = world.database.clone();
                let locked = tokio::task::spawn_blocking(move || {
                    let database = rusqlite::Connection::open(path)?;
                    database.busy_timeout(Duration::from_secs(10))?;
                    database.execute_batch("BEGIN IMMEDIATE")?;
                    std::thread::sleep(LOCK_LASTS);
                    database.execute_batch("ROLLBACK")
                });
                locked.await?.context("the database cannot be locked")?;
            }
        }
        Ok(())
    }
}

/// Some of the victims fail in this way for a while.
async fn afflict(world: &World, mode: Mode, is_it: fn(&Victim) -> bool) {
    let mut afflicted = Vec::new();
    for _ in 0..8 {
        let victim = world.victim(rand::random_range(0..1_000), is_it);
        if let Some(Victim::Http(front) | Victim::WebSocket(front)) = victim {
            front.send_replace(mode);
            afflicted.push(front);
        }
    }
    tokio::time::sleep(LASTS).await;
    for front in afflicted {
        front.send_replace(Mode::Pass);
    }
}

/// Sends a signal to a process of ours, if it is still there.
pub(crate) fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}
