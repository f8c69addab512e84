//! Subscribers that check and count every message they receive.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::{Bytes, BytesMut};
use hdrhistogram::Histogram;
use http_body_util::{BodyExt as _, Full};
use httppubsub_proto::auth::Claim;
use httppubsub_proto::digest::{Sha512, Sha512Hasher, decode_repr_digest};
use httppubsub_proto::http::{ConfirmReceive, ReceiveHead};
use httppubsub_proto::time::Now;
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::SubscriberUrl;
use hyper::body::Incoming;
use hyper::header::AUTHORIZATION;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use crate::keys::Keys;
use crate::machine;
use crate::message::Label;

/// What all messages of this program are about.
pub(crate) fn topic() -> Topic {
    Topic::new("bench/fanout").expect("it is short")
}

/// Running subscribers; dropping them stops them.
pub(crate) struct Sinks {
    shared: Arc<Shared>,
    _listeners: Vec<AbortOnDropHandle<()>>,
}

/// How a subscriber behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// It confirms at once.
    Confirm,
    /// It takes the message and says nothing for so long, then fails. Its messages do not count.
    Hang(Duration),
}

/// Where a turn's messages say when they were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SentAt {
    /// At their beginning, see [`Label`].
    Message,
    /// In their identifier of eight bytes: the yardstick signs each delivery but hashes its
    /// message once, as a broadcaster does.
    Identifier,
}

/// What the subscribers received in one turn.
pub(crate) struct Tally {
    /// One entry a subscriber.
    pub(crate) received: Vec<Received>,
    /// Nanoseconds from publishing to having received, of all that say when they were sent.
    pub(crate) latency: Histogram<u64>,
    sent_at: SentAt,
    /// What the first rejected message was rejected for, and how many there were.
    rejected: Option<(String, u64)>,
}

/// What one subscriber received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) messages: u64,
    /// Sum of their sequence numbers: a message that came twice does not hide one that was lost.
    pub(crate) sequences: u64,
    pub(crate) bytes: u64,
}

struct Shared {
    sinks: Vec<Sink>,
    keys: Keys,
    topic: Topic,
    tally: Mutex<Tally>,
}

struct Sink {
    url: SubscriberUrl,
    behaviour: Behaviour,
}

impl Sinks {
    /// Starts a subscriber for each of `behaviours`, so many of them on a port.
    pub(crate) async fn start(
        behaviours: &[Behaviour],
        sinks_per_port: usize,
        keys: Keys,
    ) -> anyhow::Result<Self> {
        let mut sinks = Vec::with_capacity(behaviours.len());
        let mut listeners = Vec::new();
        for group in behaviours.chunks(sinks_per_port.max(1)) {
            let listener = TcpListener::bind(("127.0.0.1", 0))
                .await
                .context("cannot listen")?;
            let address = listener.local_addr()?;
            for &behaviour in group {
                let url = format!("http://{address}{PATH}{}", sinks.len());
                sinks.push(Sink {
                    url: SubscriberUrl::new(url)?,
                    behaviour,
                });
            }
            listeners.push(listener);
        }
        let tally = Mutex::new(Tally::new(sinks.len(), SentAt::Message));
        let shared = Arc::new(Shared {
            sinks,
            keys,
            topic: topic(),
            tally,
        });
        let listen =
            |listener| AbortOnDropHandle::new(tokio::spawn(shared.clone().accept(listener)));
        let listeners = listeners.into_iter().map(listen).collect();
        Ok(Self {
            shared,
            _listeners: listeners,
        })
    }

    pub(crate) fn urls(&self) -> impl Iterator<Item = &SubscriberUrl> {
        self.shared.sinks.iter().map(|sink| &sink.url)
    }

    /// Counts from zero.
    pub(crate) fn begin(&self, sent_at: SentAt) {
        *self.shared.tally() = Tally::new(self.shared.sinks.len(), sent_at);
    }

    /// How many messages the subscriber of this number has received.
    pub(crate) fn messages(&self, sink: usize) -> u64 {
        self.shared.tally().received[sink].messages
    }

    /// What was received since [`Sinks::begin`]. Fails if anything was rejected.
    pub(crate) fn finish(&self) -> anyhow::Result<Tally> {
        let empty = Tally::new(self.shared.sinks.len(), SentAt::Message);
        let tally = std::mem::replace(&mut *self.shared.tally(), empty);
        if let Some((reason, count)) = &tally.rejected {
            anyhow::bail!("subscribers rejected {count} messages, the first because: {reason}");
        }
        Ok(tally)
    }
}

impl Tally {
    fn new(sinks: usize, sent_at: SentAt) -> Self {
        Self {
            received: vec![Received::default(); sinks],
            latency: latency_histogram(),
            sent_at,
            rejected: None,
        }
    }
}

/// For nanoseconds up to ten minutes, on three digits.
pub(crate) fn latency_histogram() -> Histogram<u64> {
    Histogram::new_with_max(600_000_000_000, 3).expect("the bounds are in order")
}

impl Shared {
    fn tally(&self) -> std::sync::MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn accept(self: Arc<Self>, listener: TcpListener) {
        // Dropped, and the connections with it, when the listener is.
        let mut connections = tokio::task::JoinSet::new();
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    connections.spawn(self.clone().serve(stream));
                }
                Err(error) => self.reject(format!("cannot accept a connection: {error}")),
            }
            while connections.try_join_next().is_some() {}
        }
    }

    async fn serve(self: Arc<Self>, stream: TcpStream) {
        // Without it a small answer may wait; that shows in the figures and is no error.
        let _ = stream.set_nodelay(true);
        let service = service_fn(|request| self.answer(request));
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        // A peer that goes away between requests ends here, one within a request is missed later.
        let _ = connection.await;
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let (status, body) = match self.receive(request).await {
            Ok(confirmation) => (StatusCode::OK, confirmation),
            Err(error) => {
                self.reject(format!("{error:#}"));
                (StatusCode::INTERNAL_SERVER_ERROR, Bytes::new())
            }
        };
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = status;
        Ok(response)
    }

    fn reject(&self, reason: String) {
        let mut tally = self.tally();
        let (_, count) = tally.rejected.get_or_insert((reason, 0));
        *count += 1;
    }

    async fn receive(&self, request: Request<Incoming>) -> anyhow::Result<Bytes> {
        let (request, body) = request.into_parts();
        let number = request
            .uri
            .path()
            .strip_prefix(PATH)
            .and_then(|it| it.parse().ok());
        let number: usize = number.with_context(|| format!("nobody is at {}", request.uri))?;
        let sink = self
            .sinks
            .get(number)
            .context("there is no such subscriber")?;
        let arrived = Arrived::read(body).await?;
        let claimed = announced_digest(&request.headers)?;
        ensure!(
            arrived.sha512 == claimed,
            "the message is not that of the Repr-Digest"
        );
        ensure!(
            arrived.head.topic == self.topic,
            "the topic is {}",
            arrived.head.topic
        );
        let claim = Claim::Receive {
            url: sink.url.as_str(),
            topic: &arrived.head.topic,
            identifier: &arrived.head.identifier,
            sha512: &arrived.sha512,
        };
        let authorization = request
            .headers
            .get(AUTHORIZATION)
            .map(|value| value.as_bytes());
        let tracing = &arrived.head.tracing;
        self.keys
            .to_subscriber
            .verify(&claim, tracing, authorization, arrived.now)?;
        self.count(number, &arrived)?;
        if let Behaviour::Hang(duration) = sink.behaviour {
            tokio::time::sleep(duration).await;
            return Ok(Bytes::new());
        }
        self.confirm(sink, &arrived)
    }

    fn count(&self, number: usize, arrived: &Arrived) -> anyhow::Result<()> {
        let mut tally = self.tally();
        let sent_at = match tally.sent_at {
            SentAt::Message => arrived.label.sent_at,
            SentAt::Identifier => {
                let identifier = arrived.head.identifier.as_bytes();
                u64::from_be_bytes(
                    identifier
                        .try_into()
                        .context("the identifier is not 8 bytes")?,
                )
            }
        };
        if sent_at > 0 && self.sinks[number].behaviour == Behaviour::Confirm {
            let latency = arrived.now.unix_nanoseconds().saturating_sub(sent_at);
            tally.latency.saturating_record(latency);
        }
        let received = &mut tally.received[number];
        received.messages += 1;
        received.sequences += arrived.label.sequence;
        received.bytes += arrived.head.message_bytes;
        Ok(())
    }

    fn confirm(&self, sink: &Sink, arrived: &Arrived) -> anyhow::Result<Bytes> {
        let identifier = arrived.head.identifier.clone();
        let claim = Claim::ConfirmReceive {
            identifier: &identifier,
            subscribers: 1,
            url: sink.url.as_str(),
        };
        let authorization = self.keys.to_broadcaster.authorize(&claim, arrived.now)?;
        let tracing = Bytes::new();
        let confirmation = ConfirmReceive {
            authorization,
            tracing,
            identifier,
            subscribers: 1,
        };
        Ok(confirmation.encode().into())
    }
}

/// A message that was read whole and hashed, and not kept.
struct Arrived {
    head: ReceiveHead,
    label: Label,
    sha512: Sha512,
    now: Now,
}

impl Arrived {
    async fn read(mut body: Incoming) -> anyhow::Result<Self> {
        let mut begin = BytesMut::new();
        let (head, mut part) = loop {
            let data = next_data(&mut body)
                .await?
                .context("the body ends within its head")?;
            begin.extend_from_slice(&data);
            match ReceiveHead::decode(&begin) {
                Ok((head, head_bytes)) => break (head, begin.split_off(head_bytes).freeze()),
                Err(error) if error.is_short() => {}
                Err(error) => return Err(error).context("the head is not a RECEIVE"),
            }
        };
        let mut hasher = Sha512Hasher::default();
        let mut label = Vec::with_capacity(Label::BYTES);
        let mut message_bytes = 0;
        loop {
            hasher.update(&part);
            message_bytes += part.len() as u64;
            let missing = Label::BYTES - label.len();
            label.extend_from_slice(&part[..missing.min(part.len())]);
            match next_data(&mut body).await? {
                Some(next) => part = next,
                None => break,
            }
        }
        ensure!(
            message_bytes == head.message_bytes,
            "the head announced {} bytes, the body has {message_bytes}",
            head.message_bytes
        );
        let label = label
            .as_slice()
            .try_into()
            .context("the message has no label")?;
        let label = Label::decode(label);
        Ok(Self {
            head,
            label,
            sha512: hasher.finish(),
            now: machine::now(),
        })
    }
}

async fn next_data(body: &mut Incoming) -> anyhow::Result<Option<Bytes>> {
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.context("the body was cut off")?.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

fn announced_digest(headers: &HeaderMap) -> anyhow::Result<Sha512> {
    let value = headers
        .get("repr-digest")
        .context("there is no Repr-Digest")?;
    Ok(decode_repr_digest(value.as_bytes())?)
}

/// The subscriber's number follows.
const PATH: &str = "/s/";
