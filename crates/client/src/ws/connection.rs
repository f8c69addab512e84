//! One connection to one broadcaster, from the first byte to the last.

use std::collections::{BTreeSet, VecDeque};
use std::future::Future;
use std::io;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;
use http::StatusCode;
use httppubsub_net::{
    Clock, ConnectError, DecompressError, DecompressLimits, FillError, Payload, PayloadWriter,
    ReplayGuard, Socket, SocketConfig, SocketError, SocketEvent, Spool, Zstd, chain, random_bytes,
};
use httppubsub_proto::session::{
    Nonces, Notification as ToSend, Outgoing, OutgoingBody, Output, ReceivePart, SessionError,
    SubscriberConfig, SubscriberEvent, SubscriberSession,
};
use httppubsub_proto::subscription::Interest;
use httppubsub_proto::topic::{Identifier, Topic};
use httppubsub_proto::ws::{BodyHead, WEBSOCKET};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::config::{ClientConfig, PresetDictionary, WebSocketOptions};
use crate::dispatch::Dispatch;
use crate::message::{ConnectionStatus, Message};
use crate::ws::closing::Closing;
use crate::ws::passes::Attempt;
use crate::ws::pending::{Command, Pending};

/// What one connection after the other needs.
pub(crate) struct Connection {
    session: Arc<SubscriberConfig>,
    socket: SocketConfig,
    open_timeout: Duration,
    close_timeout: Duration,
    presets: Vec<PresetDictionary>,
    decompress: DecompressLimits,
    sent_notifications_max: Option<NonZeroUsize>,
    expected_acknowledgements_max: Option<NonZeroUsize>,
    guard: Arc<ReplayGuard>,
    spool: Spool,
    clock: Clock,
    dispatch: Arc<Dispatch>,
    told: Told,
}

/// What is told of all connections.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) status: watch::Sender<ConnectionStatus>,
    /// Where and why there is no connection, as far as that was tried.
    pub(crate) failure: watch::Sender<Option<String>>,
}

/// How a connection ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Whether, and for how long, requests could be made.
    pub(crate) attempt: Attempt,
    /// What was wrong; `None` if this client closed it.
    pub(crate) why: Option<String>,
    /// Code of the broadcaster's close frame.
    pub(crate) code: Option<u16>,
}

impl Connection {
    pub(crate) fn new(
        config: &ClientConfig,
        options: &WebSocketOptions,
        guard: Arc<ReplayGuard>,
        spool: Spool,
        dispatch: Arc<Dispatch>,
        told: Told,
    ) -> Self {
        let session = SubscriberConfig {
            headers: options.headers,
            message_bytes_max: options.message_bytes_max,
            configure_timeout: options.open_timeout,
            enable_zstd: options.compression,
            enable_training: options.compression && options.training,
            initial_dict: options.initial_dict,
            presets: options.presets.iter().map(|it| it.id).collect(),
            ..SubscriberConfig::new(config.to_broadcaster.clone(), config.to_subscriber.clone())
        };
        let socket = SocketConfig {
            message_bytes_max: options.received_message_bytes_max,
            ping_interval: options.heartbeat_interval,
            pong_timeout: options.heartbeat_interval / 2,
            ..SocketConfig::default()
        };
        Self {
            session: Arc::new(session),
            socket,
            open_timeout: options.open_timeout,
            close_timeout: options.close_timeout,
            presets: options.presets.clone(),
            decompress: options.decompress,
            sent_notifications_max: options.sent_notifications_max,
            expected_acknowledgements_max: options.expected_acknowledgements_max,
            guard,
            spool,
            clock: config.clock.clone(),
            dispatch,
            told,
        }
    }

    /// Nothing more is tried.
    pub(crate) fn abandoned(&self) {
        self.tell(ConnectionStatus::Abandoned);
    }

    /// Before the status is told: whoever hears of that may ask why.
    fn tell_failure(&self, broadcaster: &str, why: Option<&str>) {
        let failure = why.map(|why| format!("{broadcaster}: {why}"));
        self.told.failure.send_replace(failure);
    }

    fn tell(&self, status: ConnectionStatus) {
        self.told.status.send_if_modified(|it| {
            let before = std::mem::replace(it, status);
            before != status
        });
    }

    /// Connects to the broadcaster at this url, of http or https, and does what is pending and what
    /// is commanded until the connection is lost, or the client is closed.
    pub(crate) async fn run(
        &self,
        broadcaster: &str,
        commands: &mut mpsc::Receiver<Command>,
        pending: &mut Pending,
        closing: &mut Closing,
    ) -> Ended {
        let url = format!("{}{WEBSOCKET}", broadcaster.replacen("http", "ws", 1));
        let socket = {
            let connecting = Socket::connect(&url, self.open_timeout, self.socket.clone());
            let mut connecting = std::pin::pin!(connecting);
            loop {
                tokio::select! {
                    connected = &mut connecting => break connected,
                    Some(command) = commands.recv() => pending.take_in(command),
                    () = closing.change() => {}
                }
                if closing.is_over(pending.is_notifying()) {
                    return Ended {
                        attempt: Attempt::Failed,
                        why: None,
                        code: None,
                    };
                }
            }
        };
        let socket = match socket {
            Ok(socket) => socket,
            Err(error) => {
                let attempt = match &error {
                    ConnectError::Refused(status) if is_final(*status) => Attempt::Refused,
                    _ => Attempt::Failed,
                };
                let why = Some(chain(&error));
                self.tell_failure(broadcaster, why.as_deref());
                return Ended {
                    attempt,
                    why,
                    code: None,
                };
            }
        };
        let now = self.clock.now();
        let nonces = Nonces::new(random_bytes());
        let mut running = Running {
            own: self,
            broadcaster,
            machine: SubscriberSession::new(self.session.clone(), random_bytes(), nonces, now),
            socket,
            pending,
            opened_at: None,
            unconfirmed: BTreeSet::new(),
            resubscribing: VecDeque::new(),
            incoming: None,
            arriving: FuturesOrdered::new(),
            preparing: None,
            compressors: Vec::new(),
        };
        let over = running.run(commands, closing).await;
        // What was acknowledged is handed out, whatever became of the connection.
        while let Some(message) = running.arriving.next().await {
            running.hand(message);
        }
        let attempt = match (running.opened_at, &over) {
            (Some(at), _) => Attempt::Open(at.elapsed()),
            // The others say that the broadcaster is going away.
            (None, Over::Closed(code)) if !matches!(code, Some(1001 | 1012)) => Attempt::Refused,
            (None, Over::Here(SessionError::Auth { .. })) => Attempt::Refused,
            (None, Over::Closed(_) | Over::Lost(_) | Over::Here(_)) => Attempt::Failed,
        };
        let closed = match over {
            Over::Closed(code) => code,
            Over::Lost(_) | Over::Here(_) => None,
        };
        let (code, why) = match over {
            Over::Closed(code) => {
                let code = code.map_or_else(String::new, |code| format!(" with code {code}"));
                let why = match attempt {
                    Attempt::Open(_) => "the broadcaster closed the websocket",
                    Attempt::Refused | Attempt::Failed => {
                        "the broadcaster closed the websocket instead of confirming CONFIGURE \
                        (are the secrets the same?)"
                    }
                };
                (None, Some(format!("{why}{code}")))
            }
            Over::Lost(error) => (error.close_code(), Some(chain(&error))),
            Over::Here(SessionError::Ended {
                code: NORMAL_CLOSURE,
                ..
            }) => (Some(NORMAL_CLOSURE), None),
            Over::Here(reason) => (Some(reason.close_code()), Some(chain(&reason))),
        };
        if !running.pending.subscribed.is_empty() {
            self.dispatch.lost();
        }
        self.tell_failure(broadcaster, why.as_deref());
        self.tell(ConnectionStatus::Lost);
        if let Some(code) = code {
            running.socket.close(code, self.close_timeout).await;
        }
        Ended {
            attempt,
            why,
            code: closed,
        }
    }
}

const NORMAL_CLOSURE: u16 = 1000;

/// `true` if another attempt would be answered the same.
fn is_final(status: StatusCode) -> bool {
    let is_for_now = matches!(
        status,
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS
    );
    status.is_client_error() && !is_for_now
}

/// Why a connection is over.
enum Over {
    /// By the broadcaster, with this code.
    Closed(Option<u16>),
    Lost(SocketError),
    Here(SessionError),
}

/// Something that is waited for beside everything else.
type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Which compressor, and what it made of which notification.
type Prepared = (u32, Identifier, Made);

/// What became of a notification before it is sent.
enum Made {
    Compressed(Payload),
    /// It is sent as it is.
    Plain,
    /// It is in a file, and the file is not what it was.
    Unreadable(io::Error),
}

/// Makes sure that the message is still there, and compresses it.
async fn prepare(zstd: Option<Zstd>, plain: &Payload, spool: &Spool) -> Made {
    let compressed = match zstd {
        Some(zstd) => Some(zstd.compress(plain, spool).await),
        None => None,
    };
    // Whose fault a failure is shows in whether the message can be read.
    if let Err(error) = read_last(plain).await {
        return Made::Unreadable(error);
    }
    match compressed {
        Some(Ok(wire)) => Made::Compressed(wire),
        Some(Err(error)) => {
            tracing::warn!(%error, "a notification cannot be compressed; sending it as it is");
            Made::Plain
        }
        None => Made::Plain,
    }
}

/// Fails if a file has become shorter than the message in it.
async fn read_last(plain: &Payload) -> io::Result<()> {
    let last = plain.len().saturating_sub(1)..plain.len();
    plain.read_range(last).await.map(drop)
}

/// A connection that is there.
struct Running<'a> {
    own: &'a Connection,
    broadcaster: &'a str,
    machine: SubscriberSession<Payload>,
    socket: Socket,
    pending: &'a mut Pending,
    opened_at: Option<Instant>,
    /// What the broadcaster has still to confirm.
    unconfirmed: BTreeSet<Interest>,
    /// Those of them that were subscribed on the connection before and not asked for here yet.
    resubscribing: VecDeque<Interest>,
    /// The message that arrives in parts; `None` in place of what holds it if there is no room.
    incoming: Option<(Option<PayloadWriter>, Topic, BodyHead)>,
    /// Messages that are here whole and acknowledged, while they are decompressed, in their order.
    arriving: FuturesOrdered<Work<Result<Arrived, SessionError>>>,
    /// A notification that is being compressed.
    preparing: Option<Work<Prepared>>,
    /// Oldest first.
    compressors: Vec<(u32, Zstd)>,
}

/// What came of a message that was acknowledged.
enum Arrived {
    Message(Message),
    /// There was no room for it here: what is subscribed to this topic has a gap.
    Missed(Topic),
}

/// How many messages may be decompressed before nothing more is read.
const ARRIVING_MAX: usize = 16;

fn ended(code: u16, reason: impl Into<String>) -> SessionError {
    let reason = reason.into();
    SessionError::Ended { code, reason }
}

/// What was made of a message, or of a part of one; `None` if there was no room for it.
fn with_room<T>(taken: Result<T, FillError>) -> Result<Option<T>, SessionError> {
    match taken {
        Ok(taken) => Ok(Some(taken)),
        Err(FillError::Spool(error)) => {
            tracing::debug!(%error, "no room for what was received");
            Ok(None)
        }
        Err(error @ (FillError::Body(_) | FillError::Length { .. } | FillError::Digest { .. })) => {
            Err(ended(1002, format!("RECEIVE_STREAM: {error}")))
        }
    }
}

impl Running<'_> {
    async fn run(&mut self, commands: &mut mpsc::Receiver<Command>, closing: &mut Closing) -> Over {
        loop {
            while let Ok(command) = commands.try_recv() {
                self.pending.take_in(command);
            }
            if let Some(over) = self.act().await {
                return over;
            }
            if closing.is_over(self.pending.is_notifying()) {
                self.machine
                    .end(ended(NORMAL_CLOSURE, "the client was closed"));
                continue;
            }
            let wake_at = self.wake_at();
            tokio::select! {
                event = self.socket.event(), if self.arriving.len() < ARRIVING_MAX => match event {
                    Ok(SocketEvent::Message(message)) => {
                        self.machine.handle_message(&message, self.own.clock.now());
                    }
                    Ok(SocketEvent::Writable) => {}
                    Ok(SocketEvent::Closed(code)) => return Over::Closed(code),
                    Err(error) => return Over::Lost(error),
                },
                Some(message) = self.arriving.next() => self.hand(message),
                prepared = async { self.preparing.as_mut().expect("there is one").await },
                    if self.preparing.is_some() =>
                {
                    self.preparing = None;
                    self.prepared(prepared);
                }
                Some(command) = commands.recv() => self.pending.take_in(command),
                () = tokio::time::sleep_until(wake_at.unwrap_or_else(Instant::now)),
                    if wake_at.is_some() =>
                {
                    self.machine.handle_timeout(self.own.clock.now());
                }
                () = closing.change() => {}
            }
        }
    }

    fn wake_at(&self) -> Option<Instant> {
        let deadline = self.machine.deadline()?;
        let now = self.own.clock.now().since_unix();
        Some(Instant::now() + deadline.since_unix().saturating_sub(now))
    }

    /// Does what the machine says, and gives it what is pending while there is room.
    async fn act(&mut self) -> Option<Over> {
        loop {
            if let Some(event) = self.machine.poll_event() {
                if let Err(reason) = self.on(event).await {
                    self.machine.end(reason);
                }
                continue;
            }
            if !self.socket.is_writable() && !self.machine.is_over() {
                self.tell();
                return None;
            }
            match self.machine.poll_output() {
                Output::Send(message) => {
                    let message = self.read(message).await;
                    if let Err(error) = self.socket.send(message).await {
                        return Some(Over::Lost(error));
                    }
                    // Whatever else is sent leaves before a notification, or between its parts.
                    if self.machine.is_ready_to_notify() {
                        self.pending.was_sent_whole();
                    }
                }
                Output::Event(event) => {
                    if let Err(reason) = self.on(event).await {
                        self.machine.end(reason);
                    }
                }
                Output::Close(reason) => return Some(Over::Here(reason)),
                Output::Timeout(_) => {
                    if !self.machine.is_open() || !self.give_something_to_do() {
                        self.tell();
                        return None;
                    }
                }
            }
        }
    }

    /// Reads the part of a notification that is to be sent. If it cannot be read any more, something
    /// else takes its place: the call fails, and the connection with all its subscriptions goes on.
    async fn read(&mut self, message: Outgoing<Payload>) -> Outgoing<Payload> {
        let OutgoingBody::Part { of, range } = message.body else {
            return message;
        };
        if let Some(notification) = self.pending.sent.back() {
            notification.sent.store(range.end, Ordering::Relaxed);
        }
        let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let bytes = match of.read_range(range).await {
            Ok(bytes) => bytes,
            Err(error) => {
                self.pending.is_unreadable(error);
                // Neither zeros alone nor any text: in no message are they likely to be what was there.
                random_bytes::<64>().repeat(length.div_ceil(64))[..length]
                    .to_vec()
                    .into()
            }
        };
        Outgoing {
            head: message.head,
            body: OutgoingBody::Bytes(bytes),
        }
    }

    fn tell(&self) {
        let is_ok = self.machine.is_open()
            && self.unconfirmed.is_empty()
            && self.pending.requests.is_empty()
            && self.pending.asked.is_empty();
        if is_ok {
            self.own.dispatch.found();
            self.own.tell(ConnectionStatus::Ok);
        } else {
            self.own.tell(ConnectionStatus::Lost);
        }
    }

    /// Hands the machine what is next; whether there was something.
    fn give_something_to_do(&mut self) -> bool {
        let now = self.own.clock.now();
        let expected_max = self.own.expected_acknowledgements_max;
        if expected_max.is_some_and(|max| self.machine.unacknowledged() >= max.get()) {
            return false;
        }
        if let Some(interest) = self.resubscribing.pop_front() {
            self.machine.subscribe(&interest, now);
            return true;
        }
        if let Some(request) = self.pending.requests.pop_front() {
            let interest = &request.interest;
            if request.subscribe {
                self.pending.subscribed.insert(interest.clone());
                self.machine.subscribe(interest, now);
            } else {
                self.pending.subscribed.remove(interest);
                self.machine.unsubscribe(interest, now);
            }
            self.pending.asked.push_back(request);
            return true;
        }
        if self.preparing.is_some() || !self.machine.is_ready_to_notify() {
            return false;
        }
        let sent_max = self.own.sent_notifications_max;
        if sent_max.is_some_and(|max| self.pending.sent.len() >= max.get()) {
            return false;
        }
        // It stays where it is while it is compressed, so that it is not lost with the connection.
        let Some(notification) = self.pending.next_notification() else {
            return false;
        };
        let (plain, identifier) = (
            notification.payload.clone(),
            notification.identifier.clone(),
        );
        let id = self.machine.compressor_for(plain.len());
        let zstd = self.compressor(id.into());
        if zstd.is_none() && plain.in_memory().is_some() {
            self.notify_next(0, None);
            return true;
        }
        let spool = self.own.spool.clone();
        self.preparing = Some(Box::pin(async move {
            let made = prepare(zstd, &plain, &spool).await;
            (id, identifier, made)
        }));
        true
    }

    fn prepared(&mut self, (id, identifier, made): Prepared) {
        let next = self.pending.notifications.front();
        // Nobody may wait for it any more: then another is the next.
        if next.is_none_or(|it| it.identifier != identifier) {
            return;
        }
        match made {
            Made::Compressed(wire) if self.compressor(id.into()).is_some() => {
                self.notify_next(id, Some(wire));
            }
            // The broadcaster took the dictionary back in the meantime: with another one, then.
            Made::Compressed(_) => {}
            Made::Plain => self.notify_next(0, None),
            Made::Unreadable(error) => self.pending.next_is_unreadable(error),
        }
    }

    fn notify_next(&mut self, compressor: u32, wire: Option<Payload>) {
        let Some(mut notification) = self.pending.notifications.pop_front() else {
            return;
        };
        let plain = notification.payload.clone();
        let wire = wire.unwrap_or_else(|| plain.clone());
        notification.attempts += 1;
        let to_send = ToSend {
            identifier: notification.identifier.clone(),
            topic: notification.topic.clone(),
            head: BodyHead {
                compressor: compressor.into(),
                compressed_length: wire.len(),
                decompressed_length: plain.len(),
                compressed_sha512: *wire.sha512(),
            },
            plain_sha512: *plain.sha512(),
            body: wire,
        };
        self.pending.sent.push_back(notification);
        self.machine.notify(to_send, self.own.clock.now());
    }

    fn compressor(&self, id: u64) -> Option<Zstd> {
        let found = self.compressors.iter().find(|(it, _)| u64::from(*it) == id);
        found.map(|(_, zstd)| zstd.clone())
    }

    async fn on(&mut self, event: SubscriberEvent) -> Result<(), SessionError> {
        let now = self.own.clock.now();
        match event {
            SubscriberEvent::Open { unspent } => {
                let what = "CONFIRM_CONFIGURE";
                let spent = self.own.guard.spend(unspent, now).await;
                let _ = spent.map_err(|source| SessionError::Auth { what, source })?;
                self.opened_at = Some(Instant::now());
                self.own.told.failure.send_replace(None);
                self.unconfirmed = self.pending.subscribed.clone();
                // Topics before globs.
                self.resubscribing = self.unconfirmed.iter().cloned().collect();
            }
            SubscriberEvent::Subscribed(interest) => {
                self.unconfirmed.remove(&interest);
                self.pending.confirmed(&interest, true);
            }
            SubscriberEvent::Unsubscribed(interest) => self.pending.confirmed(&interest, false),
            SubscriberEvent::Continued { .. } => {}
            SubscriberEvent::Notified {
                identifier,
                subscribers,
            } => self.pending.acknowledged(&identifier, subscribers),
            SubscriberEvent::Refused {
                identifier,
                refusal,
            } => self.pending.refused(&identifier, self.broadcaster, refusal),
            SubscriberEvent::Receive(part) => self.receive(part).await?,
            SubscriberEvent::EnablePreset {
                compressor, level, ..
            } => {
                let preset = self.own.presets.iter().find(|it| it.id == compressor);
                let zstd = match preset {
                    Some(preset) => Zstd::with_dictionary(preset.dictionary.clone(), level.into()),
                    None => Zstd::new(level.into()),
                };
                self.compressors.push((compressor.into(), zstd));
            }
            SubscriberEvent::EnableCustom {
                compressor,
                level,
                dictionary,
                ..
            } => {
                let zstd = Zstd::with_dictionary(dictionary, level.into());
                self.compressors.push((compressor, zstd));
            }
            SubscriberEvent::DisableCustom { compressor } => {
                self.compressors.retain(|(id, _)| *id != compressor);
            }
            SubscriberEvent::Missed(topic) => {
                tracing::debug!(?topic, "the broadcaster says that something was missed");
                self.own.tell(ConnectionStatus::Lost);
                self.own.dispatch.interrupted();
            }
        }
        Ok(())
    }

    /// Takes a part of a message in; with the last it is handed on. A message for which there is no
    /// room is acknowledged, too: it is missed, and the connection goes on.
    async fn receive(&mut self, part: ReceivePart) -> Result<(), SessionError> {
        let ReceivePart {
            begins,
            bytes,
            ends,
        } = part;
        if let Some((topic, head)) = begins {
            let (announced, sha512) = (head.compressed_length, head.compressed_sha512);
            let writer = PayloadWriter::new(&self.own.spool, announced, sha512);
            self.incoming = Some((with_room(writer)?, topic, head));
        }
        let Some((writer, ..)) = &mut self.incoming else {
            return Ok(());
        };
        if let Some(there) = writer
            && with_room(there.push(bytes).await)?.is_none()
        {
            *writer = None;
        }
        let Some(ticket) = ends else {
            return Ok(());
        };
        let Some((writer, topic, head)) = self.incoming.take() else {
            return Ok(());
        };
        let wire = match writer {
            Some(writer) => with_room(writer.finish().await)?,
            None => None,
        };
        let received = self.own.clock.now();
        self.machine.confirm_receive(ticket, received);
        let Some(wire) = wire else {
            tracing::warn!("there is no room for a message that was received");
            let missed = async { Ok(Arrived::Missed(topic)) };
            self.arriving.push_back(Box::pin(missed));
            return Ok(());
        };
        let message = move |topic, payload| {
            Arrived::Message(Message {
                topic,
                payload,
                received,
            })
        };
        match self.compressor(head.compressor) {
            None if self.arriving.is_empty() => self.hand(Ok(message(topic, wire))),
            None => {
                let arrived = message(topic, wire);
                self.arriving.push_back(Box::pin(async { Ok(arrived) }));
            }
            Some(zstd) => {
                let (limits, spool) = (self.own.decompress, self.own.spool.clone());
                let decompressing = async move {
                    let plain = zstd.decompress(&wire, head.decompressed_length, &limits, &spool);
                    match plain.await {
                        Ok(payload) => Ok(message(topic, payload)),
                        Err(DecompressError::Spool(error)) => {
                            tracing::warn!(%error, "there is no room for a message that was received");
                            Ok(Arrived::Missed(topic))
                        }
                        Err(error) => Err(ended(1002, format!("RECEIVE_STREAM: {error}"))),
                    }
                };
                self.arriving.push_back(Box::pin(decompressing));
            }
        }
        Ok(())
    }

    /// Hands a message to those who want it.
    fn hand(&mut self, arrived: Result<Arrived, SessionError>) {
        match arrived {
            // One that nobody wants was on its way when that was unsubscribed.
            Ok(Arrived::Message(message)) => {
                self.own.dispatch.hand(&message);
            }
            Ok(Arrived::Missed(topic)) => self.own.dispatch.missed(&topic),
            Err(reason) => self.machine.end(reason),
        }
    }
}
