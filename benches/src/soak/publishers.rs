//! Who publishes to those that are there.

use std::sync::Arc;
use std::time::Duration;

use httppubsub_client::{Bind, Client, ClientConfig, WebSocketConfig};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::soak::world::{World, count};

/// How many notifications of one publisher may be under way.
const UNDER_WAY_MAX: usize = 128;

/// Topics of subscribers that are processes begin so.
pub(crate) const PROCESS: &str = "process/";

/// Publishes so many notifications a second over HTTP, and a tenth of that over a websocket, until
/// the soak ends; returns when all are answered.
pub(crate) async fn publish(world: Arc<World>, per_second: u32) -> anyhow::Result<()> {
    let by_http = ClientConfig::builder([format!("http://{}", world.address)])
        .secrets(&world.secrets)
        .bind(Bind::Nothing);
    let by_websocket = ClientConfig::builder([format!("ws://{}", world.address)])
        .secrets(&world.secrets)
        .websocket({
            let mut websocket = WebSocketConfig::default();
            websocket.connect_retries = u32::MAX;
            websocket
        });
    let by_http = Client::start(by_http.build()?).await?;
    let by_websocket = Client::start(by_websocket.build()?).await?;
    tokio::join!(
        publish_by(&world, &by_http, f64::from(per_second)),
        publish_by(&world, &by_websocket, f64::from(per_second) / 10.0),
    );
    by_http.close().await?;
    Ok(by_websocket.close().await?)
}

async fn publish_by(world: &Arc<World>, client: &Client, per_second: f64) {
    let places = Arc::new(Semaphore::new(UNDER_WAY_MAX));
    let mut under_way = JoinSet::new();
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / per_second));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = world.ending.cancelled() => break,
        }
        while under_way.try_join_next().is_some() {}
        let Ok(place) = places.clone().try_acquire_owned() else {
            count(&world.counts.skipped);
            continue;
        };
        let Some(topic) = world.oracle.topic(rand::random_range(0..1_000_000)) else {
            continue;
        };
        let bytes = match topic.starts_with(PROCESS) {
            // A process shows no more of a message.
            true => length().min(10_000),
            false => length(),
        };
        let (world, client) = (world.clone(), client.clone());
        under_way.spawn(async move {
            notify(&world, &client, &topic, bytes).await;
            drop(place);
        });
    }
    while under_way.join_next().await.is_some() {}
}

/// Publishes a message of so many bytes, and notes what came of it.
pub(crate) async fn notify(world: &World, client: &Client, topic: &str, bytes: usize) {
    let number = world.oracle.publishes(topic);
    let mut message = format!("{number} ").into_bytes();
    message.resize(bytes.max(message.len()), b'.');
    match client.notify(topic, message).await {
        Ok(_) => count(&world.counts.published),
        Err(error) => {
            eprintln!("soak: {:#}", anyhow::Error::from(error));
            count(&world.counts.not_published);
            world.oracle.not_published(number);
        }
    }
}

/// Most are short.
fn length() -> usize {
    match rand::random_range(0..100) {
        0..80 => rand::random_range(20..400),
        80..99 => rand::random_range(400..16_000),
        _ => rand::random_range(100_000..1_000_000),
    }
}

/// The number that a message begins with.
pub(crate) async fn number_in(mut message: impl AsyncRead + Unpin) -> Option<u64> {
    let mut number = 0_u64;
    loop {
        match message.read_u8().await.ok()? {
            digit @ b'0'..=b'9' => number = number.checked_mul(10)? + u64::from(digit - b'0'),
            b' ' => return Some(number),
            _ => return None,
        }
    }
}
