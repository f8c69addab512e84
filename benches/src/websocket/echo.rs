//! The yardstick: plain tokio-tungstenite that sends messages to websockets which answer them, in a
//! process of its own.

use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use hdrhistogram::Histogram;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::machine::{self, Cores};
use crate::message::Label;
use crate::report::{Latency, Turn};
use crate::sinks::latency_histogram;

/// What the yardstick is to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    pub(crate) sessions: usize,
    /// Length of each message and of its answer, in bytes.
    pub(crate) message_bytes: usize,
    pub(crate) answer_bytes: usize,
    pub(crate) in_flight: usize,
    pub(crate) duration: Duration,
}

/// Runs the yardstick in a process of its own, and answers it from this one.
pub(crate) async fn run(order: &Order, cores: Option<Cores>) -> anyhow::Result<Turn> {
    let mut process = machine::start_yardstick(SUBCOMMAND, &order.to_json(), cores).await?;
    let stdout = process.stdout.take();
    let mut stdout = BufReader::new(stdout.context("the yardstick's stdout is gone")?);
    let mut address = String::new();
    stdout.read_line(&mut address).await?;
    let latency = Arc::new(Mutex::new(latency_histogram()));
    let cpu_of_sinks_before = machine::cpu_time(std::process::id())?;
    let mut answering = JoinSet::new();
    for _ in 0..order.sessions {
        let stream = TcpStream::connect(address.trim()).await?;
        stream.set_nodelay(true)?;
        let url = format!("ws://{}/", address.trim());
        let (socket, _) = tokio_tungstenite::client_async(url, stream).await?;
        answering.spawn(answer(socket, order.answer_bytes, latency.clone()));
    }
    let mut answered = 0;
    while let Some(done) = answering.join_next().await {
        answered += done??;
    }
    let cpu_of_sinks = machine::cpu_time(std::process::id())?;
    let mut done = String::new();
    stdout.read_to_string(&mut done).await?;
    ensure!(process.wait().await?.success(), "the yardstick failed");
    let done: serde_json::Value = serde_json::from_str(&done)?;
    let number = |name: &str| {
        let number = done[name].as_u64();
        number.with_context(|| format!("{name} is missing"))
    };
    ensure!(
        number("echoed")? == answered,
        "{answered} messages were answered"
    );
    let latency = latency.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(Turn {
        deliveries: answered,
        elapsed: Duration::from_nanos(number("elapsed_ns")?),
        cpu: Duration::from_nanos(number("cpu_ns")?),
        cpu_of_sinks: cpu_of_sinks.saturating_sub(cpu_of_sinks_before),
        memory_max: number("memory_max")?,
        latency: Latency::of(&latency),
    })
}

async fn answer(
    mut socket: WebSocketStream<TcpStream>,
    answer_bytes: usize,
    latency: Arc<Mutex<Histogram<u64>>>,
) -> anyhow::Result<u64> {
    let answer = Bytes::from(vec![7; answer_bytes]);
    let mut answered = 0;
    while let Some(message) = socket.next().await {
        match message? {
            Message::Binary(bytes) => {
                let label = bytes.first_chunk().context("a message has no label")?;
                let sent_at = Label::decode(label).sent_at;
                let took = machine::now().unix_nanoseconds().saturating_sub(sent_at);
                latency
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .saturating_record(took);
                socket.send(Message::Binary(answer.clone())).await?;
                answered += 1;
            }
            Message::Close(_) => {}
            other => anyhow::bail!("the yardstick sent {other:?}"),
        }
    }
    Ok(answered)
}

/// The yardstick itself: reads its order from stdin, gives where it listens and then what it did to
/// stdout.
pub(crate) fn main() -> anyhow::Result<serde_json::Value> {
    let order = Order::from_json(&machine::order()?).context("the order")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(order.carry_out())
}

impl Order {
    async fn carry_out(self) -> anyhow::Result<serde_json::Value> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        {
            let mut stdout = std::io::stdout().lock();
            writeln!(stdout, "{}", listener.local_addr()?)?;
            stdout.flush()?;
        }
        let mut sockets = Vec::new();
        for _ in 0..self.sessions {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            sockets.push(tokio_tungstenite::accept_async(stream).await?);
        }
        let (began, cpu_before) = (Instant::now(), machine::cpu_time(std::process::id())?);
        let mut running = JoinSet::new();
        for socket in sockets {
            running.spawn(self.echo(socket, began));
        }
        let mut echoed = 0;
        while let Some(done) = running.join_next().await {
            echoed += done??;
        }
        let cpu = machine::cpu_time(std::process::id())?.saturating_sub(cpu_before);
        let nanoseconds =
            |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Ok(json!({
            "echoed": echoed,
            "elapsed_ns": nanoseconds(began.elapsed()),
            "cpu_ns": nanoseconds(cpu),
            "memory_max": machine::memory_max(std::process::id())?,
        }))
    }

    async fn echo(
        self,
        mut socket: WebSocketStream<TcpStream>,
        began: Instant,
    ) -> anyhow::Result<u64> {
        let (mut sent, mut echoed) = (0, 0);
        loop {
            let goes_on = began.elapsed() < self.duration;
            while goes_on && sent - echoed < self.in_flight as u64 {
                let label = Label {
                    sent_at: machine::now().unix_nanoseconds(),
                    sequence: sent,
                };
                let mut message = vec![7; self.message_bytes.max(Label::BYTES)];
                message[..Label::BYTES].copy_from_slice(&label.encode());
                socket.send(Message::Binary(message.into())).await?;
                sent += 1;
            }
            if sent == echoed {
                break;
            }
            let answer = socket.next().await.context("a websocket was closed")??;
            ensure!(
                answer.len() == self.answer_bytes,
                "an answer is {} bytes long",
                answer.len()
            );
            echoed += 1;
        }
        socket.close(None).await?;
        // Until the other end has closed as well.
        while socket.next().await.is_some() {}
        Ok(echoed)
    }

    fn to_json(self) -> serde_json::Value {
        json!({
            "sessions": self.sessions,
            "message_bytes": self.message_bytes,
            "answer_bytes": self.answer_bytes,
            "in_flight": self.in_flight,
            "duration_ms": u64::try_from(self.duration.as_millis()).unwrap_or(u64::MAX),
        })
    }

    fn from_json(order: &serde_json::Value) -> anyhow::Result<Self> {
        let number = |name: &str| {
            let number = order[name].as_u64();
            number.with_context(|| format!("{name} is missing"))
        };
        Ok(Self {
            sessions: usize::try_from(number("sessions")?)?,
            message_bytes: usize::try_from(number("message_bytes")?)?,
            answer_bytes: usize::try_from(number("answer_bytes")?)?,
            in_flight: usize::try_from(number("in_flight")?)?,
            duration: Duration::from_millis(number("duration_ms")?),
        })
    }
}

/// How this program is told to be the yardstick.
pub(crate) const SUBCOMMAND: &str = "echo";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_survives_the_pipe() {
        let order = Order {
            sessions: 1,
            message_bytes: 2,
            answer_bytes: 3,
            in_flight: 4,
            duration: Duration::from_secs(5),
        };
        let read = Order::from_json(&order.to_json()).unwrap();
        assert_eq!(read.to_json(), order.to_json());
    }
}
