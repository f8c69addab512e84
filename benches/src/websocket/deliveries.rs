//! Deliveries a second to websockets, in turns with the echo.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;

use super::Websocket;
use super::echo::{self, Order};
use super::sessions::{Sessions, patience};
use crate::broadcaster::Broadcaster;
use crate::contest::{HEADINGS, check_counts, row};
use crate::keys::Keys;
use crate::machine;
use crate::message::{Label, Message};
use crate::publish::{Notify as _, Published, Publisher};
use crate::report::{Latency, Report, Turn, Turns, table};
use crate::setting::Setting;

pub(super) async fn run(options: &Websocket, setting: &Setting) -> anyhow::Result<Report> {
    let secrets = options.auth.fresh_secrets();
    let broadcaster = Broadcaster::start(&setting.program, &secrets, setting.cores).await?;
    let number = options.sessions as usize;
    let starting = Sessions::start(broadcaster.endpoint(), &secrets, number, ON_THEIR_WAY);
    let sessions = tokio::time::timeout(patience(options.sessions), starting).await;
    let sessions = sessions.context("the subscribers do not get connected");
    let sessions = sessions.flatten().with_context(|| broadcaster.log())?;
    let keys = Keys::of(&secrets);
    let mut publisher = Publisher::connect(broadcaster.endpoint(), keys, options.sessions).await?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for turn in 1..=options.turns {
        let progress = |who: &str, done: &Turn| {
            let (rate, turns) = (done.deliveries_per_second(), options.turns);
            eprintln!("turn {turn} of {turns}: {who} {rate:.0} deliveries a second");
        };
        let patience = Duration::from_secs(options.seconds + 60);
        let done = tokio::time::timeout(
            patience,
            broadcaster_turn(options, &broadcaster, &sessions, &mut publisher),
        );
        let done = done.await.context("the broadcaster's turn does not end");
        let (done, wire_bytes) = done.flatten().with_context(|| broadcaster.log())?;
        progress("broadcaster", &done);
        ours.push(done);
        let (message_bytes, answer_bytes) = wire_bytes;
        let order = Order {
            sessions: number,
            message_bytes,
            answer_bytes,
            in_flight: options.echo_in_flight as usize,
            duration: Duration::from_secs(options.seconds),
        };
        let done = tokio::time::timeout(patience, echo::run(&order, setting.cores));
        let done = done.await.context("the echo's turn does not end");
        let done = done.flatten()?;
        progress("echo", &done);
        theirs.push(done);
    }
    broadcaster.stop().await?;
    Ok(report(options, Turns(&ours), Turns(&theirs), setting))
}

async fn broadcaster_turn(
    options: &Websocket,
    broadcaster: &Broadcaster,
    sessions: &Sessions,
    publisher: &mut Publisher,
) -> anyhow::Result<(Turn, (usize, usize))> {
    let cpu_before = broadcaster.cpu_time()?;
    let cpu_of_sinks_before = machine::cpu_time(std::process::id())?;
    let began = Instant::now();
    let mut published = Published::default();
    while began.elapsed() < Duration::from_secs(options.seconds) {
        let sequence = published.notifications;
        sessions.place(sequence).await?;
        let sent_at = machine::now().unix_nanoseconds();
        let label = Label { sent_at, sequence };
        let message = Message::new(label, options.message_bytes);
        publisher.notify(message).await?;
        published.notifications += 1;
        published.sequences += sequence;
    }
    sessions.all_received(ON_THEIR_WAY).await?;
    let elapsed = began.elapsed();
    let cpu = broadcaster.cpu_time()?.saturating_sub(cpu_before);
    let cpu_of_sinks = machine::cpu_time(std::process::id())?;
    let tally = sessions.take();
    let wanted = vec![published; options.sessions as usize];
    check_counts(&tally.received, &wanted, options.message_bytes)?;
    let turn = Turn {
        deliveries: published.notifications * u64::from(options.sessions),
        elapsed,
        cpu,
        cpu_of_sinks: cpu_of_sinks.saturating_sub(cpu_of_sinks_before),
        memory_max: broadcaster.memory_max()?,
        latency: Latency::of(&tally.latency),
    };
    Ok((turn, tally.wire_bytes))
}

fn report(options: &Websocket, ours: Turns<'_>, theirs: Turns<'_>, setting: &Setting) -> Report {
    let Websocket {
        sessions,
        message_bytes,
        auth,
        echo_in_flight,
        seconds,
        turns,
        ..
    } = options;
    let rows = [
        HEADINGS.map(str::to_owned).to_vec(),
        row(*auth, "broadcaster", ours, ours.ratio_to(theirs)),
        row(*auth, "echo", theirs, 1.0),
    ];
    let text = format!(
        "deliveries to {sessions} websockets, messages of {message_bytes} bytes, at most \
         {echo_in_flight} unanswered at the echo, median of {turns} turns of {seconds} s\n{}\n\n{}",
        setting.describe(),
        table(&rows, 2)
    );
    let json = json!({
        "bench": "websocket deliveries",
        "sessions": sessions,
        "message_bytes": message_bytes,
        "auth": auth.name(),
        "echo_in_flight": echo_in_flight,
        "seconds": seconds,
        "turns": turns,
        "setting": setting.to_json(),
        "broadcaster": ours.to_json(),
        "echo": theirs.to_json(),
        "ratio": ours.ratio_to(theirs),
        "cpu_ratio": ours.cpu_microseconds_per_delivery() / theirs.cpu_microseconds_per_delivery(),
    });
    Report { text, json }
}

/// How many notifications the slowest subscriber may be behind: the broadcaster always has
/// something to send, and less than it cuts sessions off for.
const ON_THEIR_WAY: usize = 64;
