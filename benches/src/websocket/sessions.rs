//! Subscribers over websockets that check and count every message they receive: the protocol's
//! machine over plain tokio-tungstenite.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use hdrhistogram::Histogram;
use httppubsub_proto::auth::Secrets;
use httppubsub_proto::digest::Sha512;
use httppubsub_proto::paths::WEBSOCKET;
use httppubsub_proto::session::{
    Nonces, Outgoing, OutgoingBody, Output, ReceivePart, SubscriberConfig, SubscriberEvent,
    SubscriberSession,
};
use httppubsub_proto::subscription::Interest;
use httppubsub_proto::url::Endpoint;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::machine;
use crate::message::Label;
use crate::sinks::{Received, latency_histogram, topic};

/// Subscribers that are connected and subscribed; dropping them closes their connections.
pub(crate) struct Sessions {
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

/// What they received since the last look.
pub(crate) struct Tally {
    /// One entry a subscriber.
    pub(crate) received: Vec<Received>,
    /// Nanoseconds from publishing to having received, of all that say when they were sent.
    pub(crate) latency: Histogram<u64>,
    /// Length of the last websocket message with a message, and of what acknowledged it, in bytes.
    pub(crate) wire_bytes: (usize, usize),
    pub(crate) pings: u64,
}

struct Shared {
    config: Arc<SubscriberConfig>,
    tally: Mutex<Tally>,
    /// How many must still receive the message of this number.
    awaited: Mutex<HashMap<u64, usize>>,
    /// A place for each notification that may be on its way.
    places: Semaphore,
    subscribed: Semaphore,
    sessions: usize,
    /// Why the first ended that did; then there are no places any more.
    failed: Mutex<Option<anyhow::Error>>,
}

impl Tally {
    fn new(sessions: usize) -> Self {
        Self {
            received: vec![Received::default(); sessions],
            latency: latency_histogram(),
            wire_bytes: (0, 0),
            pings: 0,
        }
    }
}

impl Sessions {
    /// Connects so many and waits until all are subscribed to [`topic`].
    pub(crate) async fn start(
        broadcaster: &Endpoint,
        secrets: &Secrets,
        sessions: usize,
        on_their_way: usize,
    ) -> anyhow::Result<Self> {
        let mut config = SubscriberConfig::new(
            secrets.to_broadcaster.authorization(),
            secrets.to_subscriber.authorization(),
        );
        config.enable_zstd = false;
        let shared = Arc::new(Shared {
            config: Arc::new(config),
            tally: Mutex::new(Tally::new(sessions)),
            awaited: Mutex::default(),
            places: Semaphore::new(on_their_way),
            subscribed: Semaphore::new(0),
            sessions,
            failed: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        for number in 0..sessions {
            let stream = connect(broadcaster).await?;
            let shared = shared.clone();
            tasks.spawn(async move {
                if let Err(error) = shared.converse(number, stream).await {
                    lock(&shared.failed).get_or_insert(error);
                    shared.places.close();
                    shared.subscribed.close();
                }
            });
        }
        let started = Self {
            shared,
            _tasks: tasks,
        };
        started
            .take_places(&started.shared.subscribed, sessions)
            .await?;
        Ok(started)
    }

    /// Waits for a place for one more notification, with the number in [`Label::sequence`].
    pub(crate) async fn place(&self, sequence: u64) -> anyhow::Result<()> {
        self.take_places(&self.shared.places, 1).await?;
        lock(&self.shared.awaited).insert(sequence, self.shared.sessions);
        Ok(())
    }

    /// Waits until all have received all, of which so many may be on their way.
    pub(crate) async fn all_received(&self, on_their_way: usize) -> anyhow::Result<()> {
        self.take_places(&self.shared.places, on_their_way).await?;
        self.shared.places.add_permits(on_their_way);
        Ok(())
    }

    async fn take_places(&self, places: &Semaphore, number: usize) -> anyhow::Result<()> {
        if let Ok(taken) = places.acquire_many(u32::try_from(number)?).await {
            taken.forget();
        }
        self.check()
    }

    /// Fails if one of them has.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        match lock(&self.shared.failed).take() {
            Some(error) => Err(error.context("a subscriber failed")),
            None => Ok(()),
        }
    }

    /// What was received, and counts from zero.
    pub(crate) fn take(&self) -> Tally {
        let empty = Tally::new(self.shared.sessions);
        std::mem::replace(&mut *lock(&self.shared.tally), empty)
    }
}

async fn connect(broadcaster: &Endpoint) -> anyhow::Result<WebSocketStream<TcpStream>> {
    let origin = broadcaster.origin();
    let stream = TcpStream::connect((origin.host.as_str(), origin.port)).await?;
    stream.set_nodelay(true)?;
    let url = format!("ws://{}{WEBSOCKET}", broadcaster.host_header());
    let mut config = WebSocketConfig::default();
    // So that ten thousand of them fit beside what is measured.
    config.read_buffer_size = 4 * 1024;
    config.write_buffer_size = 4 * 1024;
    let opened = tokio_tungstenite::client_async_with_config(url, stream, Some(config));
    let (socket, _) = opened.await.context("cannot open a websocket")?;
    Ok(socket)
}

impl Shared {
    async fn converse(
        &self,
        number: usize,
        mut socket: WebSocketStream<TcpStream>,
    ) -> anyhow::Result<()> {
        let (nonce, seed) = (rand::random(), rand::random());
        let mut machine: SubscriberSession<Bytes> = SubscriberSession::new(
            self.config.clone(),
            nonce,
            Nonces::new(seed),
            machine::now(),
        );
        let mut wire_bytes = 0;
        loop {
            loop {
                while let Some(event) = machine.poll_event() {
                    self.on(event, number, &mut machine)?;
                }
                match machine.poll_output() {
                    Output::Send(Outgoing { head, body }) => {
                        ensure!(body == OutgoingBody::Empty, "nothing with a body is sent");
                        if wire_bytes > 0 {
                            lock(&self.tally).wire_bytes = (wire_bytes, head.len());
                        }
                        socket.feed(Message::Binary(head)).await?;
                    }
                    Output::Close(reason) => return Err(reason.into()),
                    Output::Timeout(_) => break,
                }
            }
            socket.flush().await?;
            match socket.next().await {
                Some(Ok(Message::Binary(bytes))) => {
                    wire_bytes = bytes.len();
                    machine.handle_message(&bytes, machine::now());
                }
                Some(Ok(Message::Ping(_))) => lock(&self.tally).pings += 1,
                Some(Ok(other)) => anyhow::bail!("the broadcaster sent {other:?}"),
                Some(Err(error)) => return Err(error.into()),
                None => anyhow::bail!("the broadcaster is gone"),
            }
        }
    }

    fn on(
        &self,
        event: SubscriberEvent,
        number: usize,
        machine: &mut SubscriberSession<Bytes>,
    ) -> anyhow::Result<()> {
        match event {
            // A replay would make the counts of the run wrong, which is checked anyway.
            SubscriberEvent::Open { unspent: _ } => {
                machine.subscribe(&Interest::Exact(topic()), machine::now());
                Ok(())
            }
            SubscriberEvent::Subscribed(_) => {
                self.subscribed.add_permits(1);
                Ok(())
            }
            SubscriberEvent::Receive(part) => self.receive(part, number, machine),
            other => anyhow::bail!("unexpected: {other:?}"),
        }
    }

    fn receive(
        &self,
        part: ReceivePart,
        number: usize,
        machine: &mut SubscriberSession<Bytes>,
    ) -> anyhow::Result<()> {
        let ReceivePart {
            begins: Some((about, head)),
            bytes,
            ends: Some(ticket),
        } = part
        else {
            anyhow::bail!("a message comes in several parts");
        };
        ensure!(about == topic(), "the topic is {about}");
        ensure!(
            Sha512::of(&bytes) == head.compressed_sha512,
            "the message is not that of its digest"
        );
        let now = machine::now();
        machine.confirm_receive(ticket, now);
        let label = bytes.first_chunk().context("the message has no label")?;
        let label = Label::decode(label);
        {
            let mut tally = lock(&self.tally);
            let received = &mut tally.received[number];
            received.messages += 1;
            received.sequences += label.sequence;
            received.bytes += bytes.len() as u64;
            if label.sent_at > 0 {
                let latency = now.unix_nanoseconds().saturating_sub(label.sent_at);
                tally.latency.saturating_record(latency);
            }
        }
        let mut awaited = lock(&self.awaited);
        let left = awaited
            .get_mut(&label.sequence)
            .context("a message came too often")?;
        *left -= 1;
        if *left == 0 {
            awaited.remove(&label.sequence);
            self.places.add_permits(1);
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long all of them may take to connect and subscribe.
pub(crate) fn patience(sessions: u32) -> Duration {
    Duration::from_secs(30) + Duration::from_millis(10) * sessions
}
