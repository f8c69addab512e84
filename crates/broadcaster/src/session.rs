//! One websocket of a subscriber, from its first byte to its last.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use httppubsub_net::{
    DecompressError, FillError, Payload, PayloadWriter, Socket, SocketError, SocketEvent,
    TrainError, Zstd, chain, random_bytes, train,
};
use httppubsub_proto::auth::Unspent;
use httppubsub_proto::digest::Sha512;
use httppubsub_proto::session::{
    BroadcasterEvent, BroadcasterSession, Compressor, CompressorSizes, Delivery, InterestTicket,
    Nonces, NotifyPart, NotifyTicket, Output, SessionError,
};
use httppubsub_proto::subscription::Interest;
use httppubsub_proto::time::Now;
use httppubsub_proto::topic::{Identifier, Topic};
use httppubsub_proto::ws::BodyHead;
use httppubsub_store::StoreError;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;

use crate::cluster;
use crate::core::Core;
use crate::hub::{ForSession, Member};
use crate::message::Message;
use crate::notify::{self, IfFull, NotifyError};
use crate::training::{Lesson, Training};

/// Serves a websocket that was just accepted, until it ends. `place` is given back when the
/// subscriber has shown who it is.
pub(crate) async fn serve(
    core: Arc<Core>,
    socket: Socket,
    peer: String,
    place: OwnedSemaphorePermit,
) {
    let pending_sends_max = core.config.websockets.pending_sends_max.get();
    let (member, inbox) = core.hub.member(peer.clone(), pending_sends_max);
    let now = core.clock.now();
    let machine = BroadcasterSession::new(core.session.clone(), Nonces::new(random_bytes()), now);
    let mut session = Session {
        core: core.clone(),
        socket,
        machine,
        member,
        inbox,
        place: Some(place),
        interests: Vec::new(),
        stream: None,
        jobs: VecDeque::new(),
        job: None,
        preparing: None,
        compressors: Vec::new(),
        training: None,
        lessons: VecDeque::new(),
        learning: FuturesUnordered::new(),
        closing_at: None,
    };
    let ended = session.run().await;
    match &ended {
        Ended::ByPeer => tracing::debug!(peer, "a websocket was closed by its subscriber"),
        Ended::Lost(error) => {
            tracing::info!(peer, reason = chain(error), "a websocket was lost");
        }
        Ended::Here(reason) if reason.close_code() == GOING_AWAY => {
            tracing::debug!(peer, "a websocket was closed because the broadcaster stops");
        }
        Ended::Here(reason) => {
            tracing::info!(peer, reason = chain(reason), "a websocket was ended");
        }
    }
    session.wind_up(ended).await;
}

/// How a session ended.
#[derive(Debug)]
enum Ended {
    ByPeer,
    Lost(SocketError),
    Here(SessionError),
}

struct Session {
    core: Arc<Core>,
    socket: Socket,
    machine: BroadcasterSession<Payload>,
    member: Arc<Member>,
    inbox: mpsc::Receiver<ForSession>,
    place: Option<OwnedSemaphorePermit>,
    /// What this session has joined the hub for.
    interests: Vec<Interest>,
    /// The notification that arrives in parts.
    stream: Option<(PayloadWriter, Topic, BodyHead)>,
    /// What is to be done after `job`, in the order of the wire.
    jobs: VecDeque<Job>,
    job: Option<Work<Done>>,
    /// A message that is being compressed.
    preparing: Option<Work<std::io::Result<Delivery<Payload>>>>,
    /// Oldest first.
    compressors: Vec<(u32, Zstd)>,
    training: Option<Box<Training>>,
    lessons: VecDeque<Lesson>,
    learning: FuturesUnordered<Work<Learnt>>,
    /// When it closes because the broadcaster stops.
    closing_at: Option<Instant>,
}

/// Something that is waited for beside everything else.
type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What a subscriber asked for.
enum Job {
    Interest(InterestTicket),
    Notify(Box<Notified>),
}

/// A notification that has arrived whole.
struct Notified {
    ticket: NotifyTicket,
    topic: Topic,
    wire: Payload,
    head: BodyHead,
    /// What decompresses it, if it is compressed.
    zstd: Option<Zstd>,
}

/// What came of it.
enum Done {
    Interest(InterestTicket, Result<(), StoreError>),
    Notify(NotifyTicket, Result<(Payload, u32), Undone>),
}

/// Why a notification came to nothing.
#[derive(Debug, thiserror::Error)]
enum Undone {
    #[error(transparent)]
    Decompress(#[from] DecompressError),
    #[error("the notification may not have reached everybody")]
    Notify(#[from] NotifyError),
}

/// A dictionary, and what it is for.
type Learnt = (u32, u16, Result<bytes::Bytes, TrainError>);

const GOING_AWAY: u16 = 1001;
const POLICY: u16 = 1008;
const TOO_LONG: u16 = 1009;
const OUR_FAULT: u16 = 1011;

/// How long a subscriber may take to close as well.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

fn ended(code: u16, reason: impl Into<String>) -> SessionError {
    let reason = reason.into();
    SessionError::Ended { code, reason }
}

impl Session {
    async fn run(&mut self) -> Ended {
        let shutdown = self.core.shutdown.clone();
        let member = self.member.clone();
        loop {
            if let Some(ended) = self.act().await {
                return ended;
            }
            self.take_up_a_job();
            // Whoever asks for more than can be worked on has to wait.
            let unprocessed_max = self.core.config.websockets.unprocessed_max;
            self.socket.hold(self.jobs.len() >= unprocessed_max.get());
            let wants_deliveries = self.wants_delivery();
            let wake_at = self.wake_at();
            tokio::select! {
                biased;
                () = member.cut_off.cancelled() => {
                    self.machine.end(ended(POLICY, "it does not keep up with what it subscribed"));
                }
                () = member.era.cancelled() => {
                    let reason = "the broadcaster was away for so long that it was forgotten: subscribe again";
                    self.machine.end(ended(OUR_FAULT, reason));
                }
                event = self.socket.event() => match event {
                    Ok(SocketEvent::Message(message)) => {
                        self.machine.handle_message(&message, self.core.clock.now());
                    }
                    Ok(SocketEvent::Writable) => {}
                    Ok(SocketEvent::Closed(_)) => return Ended::ByPeer,
                    Err(error) => return Ended::Lost(error),
                },
                done = async { self.job.as_mut().expect("there is one").await },
                    if self.job.is_some() =>
                {
                    self.job = None;
                    self.done(done);
                }
                prepared = async { self.preparing.as_mut().expect("there is one").await },
                    if self.preparing.is_some() =>
                {
                    self.preparing = None;
                    match prepared {
                        Ok(delivery) => self.machine.deliver(delivery, self.core.clock.now()),
                        Err(error) => {
                            let reason = format!("a message cannot be compressed: {error}");
                            self.machine.end(ended(OUR_FAULT, reason));
                        }
                    }
                }
                Some(what) = self.inbox.recv(), if wants_deliveries => self.hand_over(what),
                Some(learnt) = self.learning.next(), if !self.learning.is_empty() => {
                    self.learnt(learnt);
                }
                () = tokio::time::sleep_until(wake_at.unwrap_or_else(Instant::now)),
                    if wake_at.is_some() => self.wake(),
                () = shutdown.cancelled(), if self.closing_at.is_none() => {
                    let spread = self.core.config.websockets.close_spread;
                    let wait = match self.place {
                        // Nobody knows who this is.
                        Some(_) => Duration::ZERO,
                        None => spread.mul_f64(rand::random()),
                    };
                    self.closing_at = Some(Instant::now() + wait);
                }
            }
        }
    }

    /// Does what the machine says.
    async fn act(&mut self) -> Option<Ended> {
        loop {
            if let Some(event) = self.machine.poll_event() {
                if let Err(reason) = self.on(event).await {
                    self.machine.end(reason);
                }
                continue;
            }
            if !self.socket.is_writable() && !self.machine.is_over() {
                return None;
            }
            match self.machine.poll_output() {
                Output::Send(message) => {
                    if let Err(error) = self.socket.send(message).await {
                        return Some(Ended::Lost(error));
                    }
                }
                Output::Event(event) => {
                    if let Err(reason) = self.on(event).await {
                        self.machine.end(reason);
                    }
                }
                Output::Close(reason) => return Some(Ended::Here(reason)),
                Output::Timeout(_) => {
                    if !self.wants_delivery() {
                        return None;
                    }
                    // As many as there are go out together.
                    match self.inbox.try_recv() {
                        Ok(what) => self.hand_over(what),
                        Err(_) => return None,
                    }
                }
            }
        }
    }

    fn wants_delivery(&self) -> bool {
        self.preparing.is_none() && self.machine.is_ready_to_deliver() && self.socket.is_writable()
    }

    fn wake_at(&mut self) -> Option<Instant> {
        let deadline = self
            .place
            .is_some()
            .then(|| self.machine.deadline())
            .flatten();
        let deadline = deadline.map(|deadline| {
            let now = self.core.clock.now().since_unix();
            Instant::now() + deadline.since_unix().saturating_sub(now)
        });
        deadline.into_iter().chain(self.closing_at).min()
    }

    fn wake(&mut self) {
        self.machine.handle_timeout(self.core.clock.now());
        if let Some(at) = self.closing_at
            && at <= Instant::now()
        {
            if self.job.is_none() && self.jobs.is_empty() {
                self.machine.end(ended(GOING_AWAY, "the broadcaster stops"));
            } else {
                // What it asked for is finished first.
                self.closing_at = Some(Instant::now() + Duration::from_millis(20));
            }
        }
    }

    async fn on(&mut self, event: BroadcasterEvent) -> Result<(), SessionError> {
        match event {
            BroadcasterEvent::Configure {
                unspent,
                enable_zstd,
                enable_training,
                initial_dict,
            } => {
                spend(&self.core, "CONFIGURE", unspent).await?;
                self.accept(enable_zstd, enable_training, initial_dict)
            }
            BroadcasterEvent::Interest(ticket) => {
                self.queue(Job::Interest(ticket));
                Ok(())
            }
            BroadcasterEvent::Notify(part) => self.notify(part).await,
            BroadcasterEvent::Delivered(_) => {
                self.compressors
                    .retain(|(id, _)| self.machine.accepts_compressor((*id).into()));
                Ok(())
            }
        }
    }

    fn accept(
        &mut self,
        enable_zstd: bool,
        enable_training: bool,
        initial_dict: u16,
    ) -> Result<(), SessionError> {
        let core = self.core.clone();
        let (config, now) = (&core.config.websockets, core.clock.now());
        self.place = None;
        self.socket.trust();
        self.machine.accept(random_bytes(), now);
        tracing::debug!(peer = self.member.peer(), "a websocket subscriber is here");
        if !(config.compression && enable_zstd) {
            return Ok(());
        }
        self.enable(1, &core.zstd, u64::MAX, PLAIN_LEVEL, {
            u32::try_from(config.compression_trained_max_size).unwrap_or(u32::MAX)
        });
        if initial_dict > 1 {
            let known = core.presets.iter().find(|(it, _)| it.id == initial_dict);
            let Some((preset, zstd)) = known else {
                let reason = format!("it asks for the preset {initial_dict}, which is unknown");
                return Err(ended(POLICY, reason));
            };
            let id = preset.id.into();
            self.enable(id, zstd, u64::MAX, preset.level, preset.min_size);
        }
        if config.training && enable_training {
            let training = Training::new(config, core.sample_room.clone());
            self.training = Some(Box::new(training));
        }
        Ok(())
    }

    fn enable(&mut self, id: u32, zstd: &Zstd, max: u64, level: u16, min: u32) {
        self.compressors.push((id, zstd.clone()));
        let compressor = Compressor {
            id,
            level,
            sizes: CompressorSizes { min, max },
            dictionary: None,
        };
        self.machine.enable(compressor, self.core.clock.now());
    }

    /// Takes a part of a notification in; the last makes a job of it.
    async fn notify(&mut self, part: NotifyPart) -> Result<(), SessionError> {
        let NotifyPart {
            streamed,
            begins,
            bytes,
            unspent,
            ends,
        } = part;
        let what = if streamed { "NOTIFY_STREAM" } else { "NOTIFY" };
        spend(&self.core, what, unspent).await?;
        if let Some((_, head)) = &begins
            && let Some(max) = self.core.config.message_bytes_max
            && head.compressed_length.max(head.decompressed_length) > max
        {
            let reason = format!("its notification is longer than the {max} bytes allowed here");
            return Err(ended(TOO_LONG, reason));
        }
        let cannot_take = |error: FillError| {
            let code = match &error {
                FillError::Spool(_) => OUR_FAULT,
                FillError::Body(_) | FillError::Length { .. } | FillError::Digest { .. } => 1002,
            };
            ended(code, format!("{what}: {}", chain(&error)))
        };
        let (payload, topic, head, ticket) = match (streamed, begins, ends) {
            (false, Some((topic, head)), Some(ticket)) => {
                let payload = Payload::checked(bytes, head.compressed_sha512);
                (payload, topic, head, ticket)
            }
            (_, begins, ends) => {
                if let Some((topic, head)) = begins {
                    let (bytes, sha512) = (head.compressed_length, head.compressed_sha512);
                    let writer = PayloadWriter::new(&self.core.spool, bytes, sha512);
                    let writer = writer.map_err(cannot_take)?;
                    self.stream = Some((writer, topic, head));
                }
                let Some((writer, ..)) = &mut self.stream else {
                    return Ok(());
                };
                writer.push(bytes).await.map_err(cannot_take)?;
                let Some(ticket) = ends else {
                    return Ok(());
                };
                let Some((writer, topic, head)) = self.stream.take() else {
                    return Ok(());
                };
                let payload = writer.finish().await.map_err(cannot_take)?;
                (payload, topic, head, ticket)
            }
        };
        let zstd = self.compressor(head.compressor);
        self.queue(Job::Notify(Box::new(Notified {
            ticket,
            topic,
            wire: payload,
            head,
            zstd,
        })));
        Ok(())
    }

    fn compressor(&self, id: u64) -> Option<Zstd> {
        let found = self.compressors.iter().find(|(it, _)| u64::from(*it) == id);
        found.map(|(_, zstd)| zstd.clone())
    }

    fn queue(&mut self, job: Job) {
        self.jobs.push_back(job);
        self.take_up_a_job();
    }

    fn take_up_a_job(&mut self) {
        if self.job.is_none()
            && let Some(job) = self.jobs.pop_front()
        {
            if let Job::Interest(ticket) = &job {
                if ticket.subscribe {
                    self.interests.push(ticket.interest.clone());
                } else {
                    self.core.hub.end(&self.member, &ticket.interest);
                }
            }
            self.job = Some(Box::pin(job.work(self.core.clone())));
        }
    }

    fn done(&mut self, done: Done) {
        let now = self.core.clock.now();
        match done {
            Done::Interest(ticket, Ok(())) => {
                if ticket.subscribe {
                    // What is handed to it waits behind the confirmation.
                    self.core.hub.begin(&self.member, &ticket.interest);
                } else {
                    self.interests.retain(|it| *it != ticket.interest);
                }
                self.machine.confirm_interest(ticket, now);
            }
            Done::Interest(ticket, Err(error)) => {
                // The hub has counted it off already.
                self.interests.retain(|it| *it != ticket.interest);
                let reason = format!("the subscriptions cannot be changed: {}", chain(&error));
                self.machine.end(ended(OUR_FAULT, reason));
            }
            Done::Notify(ticket, Ok((payload, subscribers))) => {
                self.learn_from(&payload, now);
                let sha512: &Sha512 = payload.sha512();
                self.machine
                    .confirm_notify(ticket, sha512, subscribers, now);
            }
            Done::Notify(_, Err(error)) => {
                let code = match &error {
                    Undone::Decompress(DecompressError::Spool(_)) | Undone::Notify(_) => OUR_FAULT,
                    Undone::Decompress(_) => 1002,
                };
                self.machine
                    .end(ended(code, format!("NOTIFY: {}", chain(&error))));
            }
        }
    }

    /// Gives the machine what was handed to this session.
    fn hand_over(&mut self, what: ForSession) {
        let now = self.core.clock.now();
        let message = match what {
            ForSession::Missed(topic) => return self.machine.missed(&topic, now),
            ForSession::Message(message) => message,
        };
        self.learn_from(&message.payload, now);
        let identifier = Identifier::new(random_bytes::<4>().to_vec()).expect("4 bytes fit");
        let id = self.machine.compressor_for(message.payload.len());
        match self.compressor(id.into()) {
            None => {
                let delivery = plain(identifier, &message);
                self.machine.deliver(delivery, now);
            }
            Some(zstd) => {
                let core = self.core.clone();
                self.preparing = Some(Box::pin(async move {
                    compressed(&core, identifier, &message, id, &zstd).await
                }));
            }
        }
    }

    fn learn_from(&mut self, payload: &Payload, now: Now) {
        if let Some(training) = &mut self.training
            && training.wants(payload.len(), now)
            && let Some(body) = payload.in_memory()
            && let Some(lesson) = training.sample(body, now)
        {
            self.lessons.push_back(lesson);
            self.take_up_a_lesson();
        }
    }

    /// Begins to train. Of two dictionaries that are in use, the older makes place.
    fn take_up_a_lesson(&mut self) {
        if !self.learning.is_empty() {
            return;
        }
        let Some(lesson) = self.lessons.pop_front() else {
            return;
        };
        let mut customs = self
            .compressors
            .iter()
            .map(|(id, _)| *id)
            .filter(|id| *id >= CUSTOM_MIN && self.machine.is_compressor_enabled(*id));
        if let (Some(older), Some(_)) = (customs.next(), customs.next()) {
            self.machine.disable(older, self.core.clock.now());
        }
        let Lesson {
            id,
            level,
            dictionary_bytes,
            samples,
        } = lesson;
        self.learning.push(Box::pin(async move {
            (id, level, train(samples, dictionary_bytes).await)
        }));
    }

    fn learnt(&mut self, (id, level, dictionary): Learnt) {
        match dictionary {
            Ok(dictionary) => {
                let config = &self.core.config.websockets;
                let sizes = CompressorSizes {
                    min: config.compression_min_size,
                    max: config.compression_trained_max_size,
                };
                let zstd = Zstd::with_dictionary(dictionary.clone(), level.into());
                self.compressors.push((id, zstd));
                let compressor = Compressor {
                    id,
                    level,
                    sizes,
                    dictionary: Some((Sha512::of(&dictionary), dictionary)),
                };
                self.machine.enable(compressor, self.core.clock.now());
            }
            Err(error) => {
                let (peer, reason) = (self.member.peer(), chain(&error));
                tracing::info!(peer, reason, "no dictionary was trained; going on without");
            }
        }
        self.take_up_a_lesson();
    }

    /// Tells the peer, and undoes what this session was to the others.
    async fn wind_up(self, ended: Ended) {
        let Self {
            core,
            socket,
            member,
            inbox,
            mut interests,
            jobs,
            job,
            ..
        } = self;
        drop(inbox);
        for interest in &interests {
            core.hub.end(&member, interest);
        }
        let code = match &ended {
            Ended::ByPeer => None,
            Ended::Lost(error) => error.close_code(),
            Ended::Here(reason) => Some(reason.close_code()),
        };
        match code {
            Some(code) => socket.close(code, CLOSE_TIMEOUT).await,
            None => drop(socket),
        }
        // What was begun is finished, so that what it leaves behind is known.
        if let Some(job) = job
            && let Done::Interest(ticket, result) = job.await
            && !(ticket.subscribe && result.is_ok())
        {
            interests.retain(|it| *it != ticket.interest);
        }
        if matches!(ended, Ended::ByPeer) {
            // It said so before it left; it only does not hear of it (§16 D16).
            for job in jobs {
                if let Job::Notify(_) = job {
                    let _ = job.work(core.clone()).await;
                }
            }
        }
        for interest in interests {
            let left = core.hub.leave(&*core.store, &core.receiver_url, &interest);
            if let Err(error) = left.await {
                let reason = chain(&error);
                tracing::error!(%interest, reason, "cannot unsubscribe what no websocket wants");
            }
        }
    }
}

async fn spend(core: &Core, what: &'static str, unspent: Unspent) -> Result<(), SessionError> {
    match cluster::spend(core, unspent, core.clock.now()).await {
        Ok(_) => Ok(()),
        Err(source) => Err(SessionError::Auth { what, source }),
    }
}

/// Of compressor 1 (§11).
pub(crate) const PLAIN_LEVEL: u16 = 3;

/// First id of the dictionaries that were trained for one connection.
const CUSTOM_MIN: u32 = 65_536;

impl Job {
    async fn work(self, core: Arc<Core>) -> Done {
        match self {
            Self::Interest(ticket) => {
                let (store, receiver) = (&*core.store, &core.receiver_url);
                let result = if ticket.subscribe {
                    let recovery = &core.missed_url;
                    core.hub
                        .join(store, receiver, recovery, &ticket.interest)
                        .await
                } else {
                    core.hub.leave(store, receiver, &ticket.interest).await
                };
                Done::Interest(ticket, result)
            }
            Self::Notify(it) => {
                let Notified {
                    ticket,
                    topic,
                    wire,
                    head,
                    zstd,
                } = *it;
                let notified = async {
                    let payload = match &zstd {
                        None => wire,
                        Some(zstd) => {
                            let limits = &core.config.websockets.decompress;
                            let plain_bytes = head.decompressed_length;
                            zstd.decompress(&wire, plain_bytes, limits, &core.spool)
                                .await?
                        }
                    };
                    let reached =
                        notify::notify(&core, topic, payload.clone(), IfFull::Wait).await?;
                    Ok((payload, reached.subscribers))
                };
                let notified = notified.await;
                Done::Notify(ticket, notified)
            }
        }
    }
}

fn plain(identifier: Identifier, message: &Message) -> Delivery<Payload> {
    let payload = &message.payload;
    Delivery {
        identifier,
        topic: message.topic.clone(),
        head: BodyHead {
            compressor: 0,
            compressed_length: payload.len(),
            decompressed_length: payload.len(),
            compressed_sha512: *payload.sha512(),
        },
        body: payload.clone(),
    }
}

async fn compressed(
    core: &Core,
    identifier: Identifier,
    message: &Message,
    id: u32,
    zstd: &Zstd,
) -> std::io::Result<Delivery<Payload>> {
    let wire = if id < CUSTOM_MIN {
        message.compressed(zstd, &core.spool).await?
    } else {
        // Nobody else has this dictionary.
        zstd.compress(&message.payload, &core.spool).await?
    };
    if httppubsub_net::DecompressLimits::default().refuse(wire.len(), message.payload.len()) {
        // So few bytes would not be believed to be so many.
        return Ok(plain(identifier, message));
    }
    Ok(Delivery {
        identifier,
        topic: message.topic.clone(),
        head: BodyHead {
            compressor: id.into(),
            compressed_length: wire.len(),
            decompressed_length: message.payload.len(),
            compressed_sha512: *wire.sha512(),
        },
        body: wire,
    })
}
