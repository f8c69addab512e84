//! Subscribers that check and count every message they receive.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::{Buf as _, Bytes, BytesMut};
use hdrhistogram::Histogram;
use httppubsub_proto::auth::Claim;
use httppubsub_proto::digest::{Sha512, Sha512Hasher, decode_repr_digest};
use httppubsub_proto::stateless::{ConfirmReceive, ReceiveHead};
use httppubsub_proto::time::Now;
use httppubsub_proto::topic::{Identifier, Topic};
use httppubsub_proto::url::SubscriberUrl;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use crate::keys::Keys;
use crate::machine;
use crate::message::{Comparison, Label, Message};

/// What all messages of this program are about.
pub(crate) fn topic() -> Topic {
    Topic::new("bench/fanout").expect("it is short")
}

/// Running subscribers; dropping them stops them.
pub(crate) struct Sinks {
    shared: Arc<Shared>,
    _listeners: Vec<AbortOnDropHandle<()>>,
}

/// How a subscriber behaves. Latencies are only those of subscribers that confirm at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// It confirms at once.
    Confirm,
    /// It confirms after so long.
    Slow(Duration),
    /// It takes the message, says nothing for so long, and closes.
    Hang(Duration),
    /// It answers one byte a second.
    Drip,
    /// It announces more than it answers, and closes.
    Truncate,
    /// Its answer is no HTTP.
    Garbage,
    /// It answers 500.
    BadStatus,
    /// It sends the broadcaster on to the last subscriber.
    Redirect,
    /// It confirms another delivery.
    WrongIdentifier,
    /// It reads nothing of the message and says nothing for so long.
    NoRead(Duration),
    /// It resets the connection.
    Reset,
}

impl Behaviour {
    /// Every way to be hostile.
    pub(crate) const HOSTILE: [Self; 10] = [
        Self::Slow(Duration::from_secs(2)),
        Self::Hang(Duration::from_secs(60)),
        Self::Drip,
        Self::Truncate,
        Self::Garbage,
        Self::BadStatus,
        Self::Redirect,
        Self::WrongIdentifier,
        Self::NoRead(Duration::from_secs(60)),
        Self::Reset,
    ];
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
    /// The latest messages that were hashed: to other subscribers of this machine they come again,
    /// and then they are compared with what they must be, which takes much less time.
    known: Mutex<VecDeque<Known>>,
}

/// A message and its digest.
type Known = (Message, Sha512);

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
            known: Mutex::default(),
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
        self.shared.known().clear();
    }

    /// The same when one message is sent and no other: it is not hashed at all.
    pub(crate) fn begin_with(&self, message: Message, sha512: Sha512) {
        self.begin(SentAt::Message);
        self.shared.known().push_back((message, sha512));
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

    fn known(&self) -> std::sync::MutexGuard<'_, VecDeque<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// HTTP by hand: what serves here must not be what limits.
    async fn serve(self: Arc<Self>, mut stream: TcpStream) {
        // Without it a small answer may wait; that shows in the figures and is no error.
        let _ = stream.set_nodelay(true);
        let (mut input, mut output) = (BytesMut::new(), Vec::new());
        loop {
            match RequestHead::read(&mut stream, &mut input).await {
                Ok(Some(request)) => {
                    let sink = self.sinks.get(request.number);
                    let behaviour = sink.map_or(Behaviour::Confirm, |it| it.behaviour);
                    if behaviour != Behaviour::Confirm {
                        let misbehaves =
                            self.misbehave(behaviour, request, &mut stream, &mut input);
                        match misbehaves.await {
                            Ok(After::GoOn) => continue,
                            // Errors of its connection are what it asks for.
                            Ok(After::Close) | Err(_) => return,
                        }
                    }
                    let done = self.receive(request, &mut stream, &mut input).await;
                    let (status, body) = done.unwrap_or_else(|error| {
                        self.reject(format!("{error:#}"));
                        ("500 Internal Server Error", Bytes::new())
                    });
                    output.clear();
                    write_head(&mut output, status, body.len());
                    output.extend_from_slice(&body);
                    if stream.write_all(&output).await.is_err() {
                        return;
                    }
                }
                // A peer that goes away between requests ends here, one within a request is missed
                // later.
                Ok(None) => return,
                Err(error) => return self.reject(format!("{error:#}")),
            }
        }
    }

    /// Whatever is posted to it, notices included.
    async fn misbehave(
        &self,
        behaviour: Behaviour,
        request: RequestHead,
        stream: &mut TcpStream,
        input: &mut BytesMut,
    ) -> anyhow::Result<After> {
        if let Behaviour::NoRead(duration) = behaviour {
            tokio::time::sleep(duration).await;
            return Ok(After::Close);
        }
        let body = take(stream, input, request.body_bytes).await?;
        self.tally().received[request.number].messages += 1;
        let url = &self.sinks[request.number].url;
        match behaviour {
            Behaviour::Confirm | Behaviour::NoRead(_) => {
                unreachable!("they were looked for before")
            }
            Behaviour::Slow(duration) => {
                tokio::time::sleep(duration).await;
                let identifier = ReceiveHead::decode(&body)?.0.identifier;
                let body = self.confirmation(url, identifier, machine::now())?;
                respond(stream, "200 OK", &body).await?;
                return Ok(After::GoOn);
            }
            Behaviour::Hang(duration) => tokio::time::sleep(duration).await,
            Behaviour::Drip => {
                for byte in b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n"
                    .iter()
                    .chain(&[0; 1000])
                {
                    stream.write_all(&[*byte]).await?;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
            Behaviour::Truncate => {
                let half = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf";
                stream.write_all(half).await?;
            }
            Behaviour::Garbage => stream.write_all(b"\0\xff this is no HTTP\r\n\r\n").await?,
            Behaviour::BadStatus => {
                respond(stream, "500 Internal Server Error", b"").await?;
                return Ok(After::GoOn);
            }
            Behaviour::Redirect => {
                let other = self.sinks.last().context("there is one")?.url.as_str();
                let head = format!(
                    "HTTP/1.1 307 Temporary Redirect\r\nlocation: {other}\r\ncontent-length: 0\r\n\
                     \r\n"
                );
                stream.write_all(head.as_bytes()).await?;
                return Ok(After::GoOn);
            }
            Behaviour::WrongIdentifier => {
                let identifier = Identifier::new(&b"another"[..])?;
                let body = self.confirmation(url, identifier, machine::now())?;
                respond(stream, "200 OK", &body).await?;
                return Ok(After::GoOn);
            }
            Behaviour::Reset => stream.set_zero_linger()?,
        }
        Ok(After::Close)
    }

    fn reject(&self, reason: String) {
        let mut tally = self.tally();
        let (_, count) = tally.rejected.get_or_insert((reason, 0));
        *count += 1;
    }

    async fn receive(
        &self,
        request: RequestHead,
        stream: &mut TcpStream,
        input: &mut BytesMut,
    ) -> anyhow::Result<(&'static str, Bytes)> {
        let RequestHead {
            number,
            authorization,
            repr_digest,
            body_bytes,
        } = request;
        let sink = self
            .sinks
            .get(number)
            .context("there is no such subscriber")?;
        let arrived = self.read(stream, input, body_bytes).await?;
        ensure!(
            arrived.sha512 == repr_digest.context("there is no Repr-Digest")?,
            "the message is not that of the Repr-Digest"
        );
        self.is_known(arrived.message, arrived.sha512);
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
        let tracing = &arrived.head.tracing;
        self.keys
            .to_subscriber
            .verify(&claim, tracing, authorization.as_deref(), arrived.now)?;
        self.count(number, &arrived)?;
        let identifier = arrived.head.identifier;
        Ok((
            "200 OK",
            self.confirmation(&sink.url, identifier, arrived.now)?,
        ))
    }

    fn count(&self, number: usize, arrived: &Arrived) -> anyhow::Result<()> {
        let mut tally = self.tally();
        let sent_at = match tally.sent_at {
            SentAt::Message => arrived.message.label().sent_at,
            SentAt::Identifier => {
                let identifier = arrived.head.identifier.as_bytes();
                u64::from_be_bytes(
                    identifier
                        .try_into()
                        .context("the identifier is not 8 bytes")?,
                )
            }
        };
        if sent_at > 0 {
            let latency = arrived.now.unix_nanoseconds().saturating_sub(sent_at);
            tally.latency.saturating_record(latency);
        }
        let received = &mut tally.received[number];
        received.messages += 1;
        received.sequences += arrived.message.label().sequence;
        received.bytes += arrived.head.message_bytes;
        Ok(())
    }

    fn confirmation(
        &self,
        url: &SubscriberUrl,
        identifier: Identifier,
        now: Now,
    ) -> anyhow::Result<Bytes> {
        let claim = Claim::ConfirmReceive {
            identifier: &identifier,
            subscribers: 1,
            url: url.as_str(),
        };
        let authorization = self.keys.to_broadcaster.authorize(&claim, now)?;
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

/// What becomes of a connection.
enum After {
    GoOn,
    Close,
}

async fn take(
    stream: &mut TcpStream,
    input: &mut BytesMut,
    body_bytes: u64,
) -> anyhow::Result<BytesMut> {
    let body_bytes = usize::try_from(body_bytes)?;
    while input.len() < body_bytes {
        fill(stream, input).await?;
    }
    Ok(input.split_to(body_bytes))
}

async fn respond(stream: &mut TcpStream, status: &str, body: &[u8]) -> anyhow::Result<()> {
    let mut output = Vec::new();
    write_head(&mut output, status, body.len());
    output.extend_from_slice(body);
    Ok(stream.write_all(&output).await?)
}

/// A message that was read whole and checked, and not kept.
struct Arrived {
    head: ReceiveHead,
    message: Message,
    sha512: Sha512,
    now: Now,
}

impl Shared {
    async fn read(
        &self,
        stream: &mut TcpStream,
        input: &mut BytesMut,
        body_bytes: u64,
    ) -> anyhow::Result<Arrived> {
        let mut left = body_bytes;
        let head = loop {
            let here = usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
            match ReceiveHead::decode(&input[..here]) {
                Ok((head, head_bytes)) => {
                    input.advance(head_bytes);
                    left -= head_bytes as u64;
                    break head;
                }
                Err(error) if error.is_short() && (here as u64) < left => {
                    fill(stream, input).await?
                }
                Err(error) => return Err(error).context("the head is not a RECEIVE"),
            }
        };
        ensure!(
            left == head.message_bytes,
            "the head announced {} bytes, the body has {left}",
            head.message_bytes
        );
        while input.len() < Label::BYTES {
            fill(stream, input).await?;
        }
        let label = Label::decode(input.first_chunk().context("the message has no label")?);
        let message = Message::new(label, left);
        let mut check = self.check_of(message);
        while left > 0 {
            if input.is_empty() {
                fill(stream, input).await?;
            }
            let here = usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
            check.update(&input[..here])?;
            input.advance(here);
            left -= here as u64;
        }
        Ok(Arrived {
            head,
            message,
            sha512: check.finish()?,
            now: machine::now(),
        })
    }

    fn check_of(&self, message: Message) -> Check {
        match self.known().iter().find(|(it, _)| *it == message) {
            Some((_, sha512)) => Check::Compare(Comparison::with(message), *sha512),
            None => Check::Hash(Sha512Hasher::default()),
        }
    }

    /// Takes note of the digest of a message that was hashed.
    fn is_known(&self, message: Message, sha512: Sha512) {
        let mut known = self.known();
        if known.iter().any(|(it, _)| *it == message) {
            return;
        }
        if known.len() == KNOWN_MAX {
            known.pop_front();
        }
        known.push_back((message, sha512));
    }
}

/// More publishers than this do not notify at once in most runs.
const KNOWN_MAX: usize = 64;

/// How the digest of what arrives is found.
enum Check {
    Hash(Sha512Hasher),
    Compare(Comparison, Sha512),
}

impl Check {
    fn update(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        match self {
            Self::Hash(hasher) => hasher.update(bytes),
            Self::Compare(comparison, _) => {
                let goes_on = comparison.goes_on_with(bytes);
                ensure!(goes_on, "the message is not the one that was sent");
            }
        }
        Ok(())
    }

    fn finish(self) -> anyhow::Result<Sha512> {
        match self {
            Self::Hash(hasher) => Ok(hasher.finish()),
            Self::Compare(comparison, sha512) => {
                ensure!(comparison.is_complete(), "the message is cut off");
                Ok(sha512)
            }
        }
    }
}

/// What of the head of a request matters here.
struct RequestHead {
    /// Of the subscriber.
    number: usize,
    authorization: Option<Vec<u8>>,
    repr_digest: Option<Sha512>,
    body_bytes: u64,
}

impl RequestHead {
    /// The next one, unless the peer has closed.
    async fn read(stream: &mut TcpStream, input: &mut BytesMut) -> anyhow::Result<Option<Self>> {
        loop {
            if let Some((bytes, head)) = Self::parse(input)? {
                input.advance(bytes);
                return Ok(Some(head));
            }
            if input.is_empty() {
                input.reserve(READ_BYTES);
                if !stream.read_buf(input).await.is_ok_and(|read| read > 0) {
                    return Ok(None);
                }
            } else {
                fill(stream, input).await?;
            }
        }
    }

    fn parse(input: &[u8]) -> anyhow::Result<Option<(usize, Self)>> {
        let mut headers = [httparse::EMPTY_HEADER; 16];
        let mut request = httparse::Request::new(&mut headers);
        let httparse::Status::Complete(bytes) = request.parse(input)? else {
            return Ok(None);
        };
        let path = request.path.context("there is no path")?;
        let number = path.strip_prefix(PATH).and_then(|it| it.parse().ok());
        let number = number.with_context(|| format!("nobody is at {path}"))?;
        let (mut authorization, mut repr_digest, mut body_bytes) = (None, None, None);
        for header in request.headers {
            let (name, value) = (header.name, header.value);
            if name.eq_ignore_ascii_case("authorization") {
                authorization = Some(value.to_vec());
            } else if name.eq_ignore_ascii_case("repr-digest") {
                repr_digest = Some(decode_repr_digest(value)?);
            } else if name.eq_ignore_ascii_case("content-length") {
                body_bytes = Some(std::str::from_utf8(value)?.parse()?);
            }
        }
        let head = Self {
            number,
            authorization,
            repr_digest,
            body_bytes: body_bytes.context("there is no Content-Length")?,
        };
        Ok(Some((bytes, head)))
    }
}

fn write_head(output: &mut Vec<u8>, status: &str, body_bytes: usize) {
    let head = format_args!("HTTP/1.1 {status}\r\ncontent-length: {body_bytes}\r\n\r\n");
    // A `Vec` takes all.
    let _ = std::io::Write::write_fmt(output, head);
}

async fn fill(stream: &mut TcpStream, input: &mut BytesMut) -> anyhow::Result<()> {
    input.reserve(READ_BYTES);
    let read = stream.read_buf(input).await?;
    ensure!(read > 0, "a request was cut off");
    Ok(())
}

/// How much is read at once, in bytes.
const READ_BYTES: usize = 64 * 1024;

/// The subscriber's number follows.
const PATH: &str = "/s/";
