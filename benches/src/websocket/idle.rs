//! Memory of sessions that are subscribed and do nothing.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;

use super::Websocket;
use super::sessions::{Sessions, patience};
use crate::broadcaster::Broadcaster;
use crate::report::{Report, mebibytes, table};
use crate::setting::Setting;

pub(super) async fn run(options: &Websocket, setting: &Setting) -> anyhow::Result<Report> {
    let secrets = options.auth.fresh_secrets();
    let broadcaster = Broadcaster::start(&setting.program, &secrets, setting.cores).await?;
    // What the first ones cost is not multiplied.
    let first = Sessions::start(broadcaster.endpoint(), &secrets, 10, 1).await?;
    let before = broadcaster.memory()?;
    eprintln!("opening {} websockets", options.idle);
    let began = Instant::now();
    let number = options.idle as usize;
    let starting = Sessions::start(broadcaster.endpoint(), &secrets, number, 1);
    let sessions = tokio::time::timeout(patience(options.idle), starting).await;
    let sessions = sessions.context("the subscribers do not get connected");
    let sessions = sessions.flatten().with_context(|| broadcaster.log())?;
    let opening = began.elapsed();
    let subscribed = broadcaster.memory()?;
    eprintln!("idle for {} s", options.idle_seconds);
    let cpu_before = broadcaster.cpu_time()?;
    let mut idle_max = 0;
    let until = Instant::now() + Duration::from_secs(options.idle_seconds);
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(500)).await;
        sessions.check().with_context(|| broadcaster.log())?;
        idle_max = idle_max.max(broadcaster.memory()?);
    }
    let cpu = broadcaster.cpu_time()?.saturating_sub(cpu_before);
    let pings = sessions.take().pings;
    drop((first, sessions));
    broadcaster.stop().await?;

    let each =
        |memory: u64| memory.saturating_sub(before) as f64 / 1024.0 / f64::from(options.idle);
    let figure = |name: &str, value: String| vec![name.to_owned(), value];
    let rows = [
        figure(
            "opened and subscribed in",
            format!("{:.1} s", opening.as_secs_f64()),
        ),
        figure("memory before", format!("{:.1} MiB", mebibytes(before))),
        figure(
            "memory of each, at once",
            format!("{:.1} KiB", each(subscribed)),
        ),
        figure(
            "memory of each, most while idle",
            format!("{:.1} KiB", each(idle_max)),
        ),
        figure("pings that came", pings.to_string()),
        figure(
            "broadcaster's CPU time while idle",
            format!("{:.2} s", cpu.as_secs_f64()),
        ),
    ];
    let text = format!(
        "{} idle websockets for {} s\n{}\n\n{}",
        options.idle,
        options.idle_seconds,
        setting.describe(),
        table(&rows, 1)
    );
    let json = json!({
        "bench": "websocket idle",
        "sessions": options.idle,
        "idle_seconds": options.idle_seconds,
        "setting": setting.to_json(),
        "opening_seconds": opening.as_secs_f64(),
        "memory_before_mib": mebibytes(before),
        "memory_each_kib": each(subscribed),
        "memory_each_idle_max_kib": each(idle_max),
        "pings": pings,
        "cpu_seconds": cpu.as_secs_f64(),
    });
    Ok(Report { text, json })
}
