//! One websocket of a subscriber, from its first byte to its last.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use httppubsub_net::{
    DecompressError, FillError, Payload, PayloadWriter, Place, Socket, SocketError, SocketEvent,
    Spool, TrainError, Zstd, chain, random_bytes, train,
};
use httppubsub_proto::auth::{AuthError, Unspent};
use httppubsub_proto::digest::Sha512;
use httppubsub_proto::session::{
    BroadcasterEvent, BroadcasterSession, Compressor, CompressorSizes, Delivery, InterestTicket,
    Nonces, NotifyPart, NotifyTicket, Output, SessionError,
};
use httppubsub_proto::subscription::Interest;
use httppubsub_proto::time::Now;
use httppubsub_proto::topic::{Identifier, Topic};
use httppubsub_proto::ws::{BodyHead, Refusal};
use httppubsub_store::StoreError;
use tokio::time::{Instant, Sleep};

use crate::cluster;
use crate::core::Core;
use crate::hub::Member;
use crate::measures;
use crate::message::Message;
use crate::notify::{self, IfFull, NotifyError};
use crate::queue::{ForSession, Receiver};
use crate::spending::Spending;
use crate::training::{Lesson, Training};

/// Serves a websocket that was just accepted, until it ends. `place` is given back when the
/// subscriber has shown who it is.
pub(crate) async fn serve(
    core: Arc<Core>,
    mut socket: Socket,
    peer: String,
    spool: Spool,
    place: Place,
) {
    socket.take_room_of(&spool);
    let config = &core.config.websockets;
    let (member, inbox) = core.hub.member(peer.clone(), config.queue_bytes_max.get());
    let began = Instant::now();
    let look_for_progress = Box::pin(tokio::time::sleep_until(began + config.stall_timeout));
    let now = core.clock.now();
    let machine = BroadcasterSession::new(core.session.clone(), Nonces::new(random_bytes()), now);
    let mut session = Session {
        core: core.clone(),
        socket,
        machine,
        member,
        inbox,
        spool,
        spending: Spending::default(),
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
        progress_at: began,
        acknowledged: 0,
        look_for_progress,
    };
    let ended = session.run().await;
    match &ended {
        Ended::ByPeer => tracing::debug!(peer, "a websocket was closed by its subscriber"),
        Ended::Lost(error) => {
            tracing::info!(peer, reason = chain(error), "a websocket was lost");
        }
        Ended::Evicted => {
            tracing::debug!(
                peer,
                "a websocket that did not show who it is made room for others"
            );
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
    /// Its place is needed, and it has not shown who it is.
    Evicted,
}

struct Session {
    core: Arc<Core>,
    socket: Socket,
    machine: BroadcasterSession<Payload>,
    member: Arc<Member>,
    inbox: Receiver,
    /// Where what its peer sends takes room.
    spool: Spool,
    spending: Spending,
    place: Option<Place>,
    /// What this session has joined the hub for.
    interests: Vec<Interest>,
    /// The notification that arrives in parts.
    stream: Option<Box<Arriving>>,
    /// What is to be done after `job`, in the order of the wire.
    jobs: VecDeque<Job>,
    job: Option<Work<Done>>,
    /// A message that is being compressed.
    preparing: Option<Work<Delivery<Payload>>>,
    /// Oldest first.
    compressors: Vec<(u32, Zstd)>,
    training: Option<Box<Training>>,
    lessons: VecDeque<Lesson>,
    learning: FuturesUnordered<Work<Learnt>>,
    /// When it closes because the broadcaster stops.
    closing_at: Option<Instant>,
    /// When something last went on of what waits for the subscriber, or nothing waited.
    progress_at: Instant,
    /// How many acknowledgements had come by then.
    acknowledged: u64,
    look_for_progress: Pin<Box<Sleep>>,
}

/// A notification of which not all is here.
struct Arriving {
    topic: Topic,
    head: BodyHead,
    /// Of one that is refused nothing is kept, but all of it still comes.
    body: Result<PayloadWriter, Refusal>,
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

/// A notification is longer than may be.
#[derive(Debug, thiserror::Error)]
#[error("it is longer than the {bytes_max} bytes allowed here")]
struct TooLong {
    bytes_max: u64,
}

/// Authorizations are remembered for a while, and one connection gets a share of the room for that.
#[derive(Debug, thiserror::Error)]
#[error("it spent so many authorizations that there is as little room for those of others")]
struct SpentTooMany;

/// A dictionary, and what it is for.
type Learnt = (u32, u16, Result<bytes::Bytes, TrainError>);

impl Undone {
    /// Why it is not taken, if nobody has it and the connection may go on.
    fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Decompress(DecompressError::Spool(_)) => Some(Refusal::NotNow),
            Self::Decompress(DecompressError::Zstd(_) | DecompressError::Length { .. }) => {
                Some(Refusal::NotDecompressed)
            }
            Self::Notify(_) => None,
        }
    }
}

const GOING_AWAY: u16 = 1001;
const POLICY: u16 = 1008;
const OUR_FAULT: u16 = 1011;

/// What the answers may take that a subscriber has not read, or that wait for the answer to something
/// before, in bytes: no more is read of it then.
const ANSWERS_BYTES_MAX: usize = 64 * 1024;

/// How many times as much may wait to be worked on, and to be answered, while acknowledgements are
/// due.
const READ_FOR_ACKNOWLEDGEMENTS: usize = 16;

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
        let evicted = std::pin::pin!(self.place.as_ref().map(Place::evicted));
        let mut evicted = evicted.as_pin_mut();
        loop {
            if let Some(ended) = self.act().await {
                return ended;
            }
            self.take_up_a_job();
            self.socket.hold(self.asks_too_much());
            let waits_for_peer = self.waits_for_peer();
            let wants_deliveries = self.wants_delivery();
            let wake_at = self.wake_at();
            tokio::select! {
                biased;
                () = async { evicted.as_mut().expect("there is one").as_mut().await },
                    if self.place.is_some() && evicted.is_some() =>
                {
                    return Ended::Evicted;
                }
                () = member.cut_off.cancelled() => self.cut_off(),
                () = member.era.cancelled() => {
                    let reason = "the broadcaster was away for so long that it was forgotten: subscribe again";
                    self.machine.end(ended(OUR_FAULT, reason));
                }
                event = self.socket.event() => match event {
                    Ok(SocketEvent::Message(message)) => {
                        self.machine.handle_message(&message, self.core.clock.now());
                        if self.acknowledged != self.machine.acknowledged() {
                            self.acknowledged = self.machine.acknowledged();
                            self.progress_at = Instant::now();
                        }
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
                    self.progress_at = Instant::now();
                    self.machine.deliver(prepared, self.core.clock.now());
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
                // Behind all that may be progress.
                () = self.look_for_progress.as_mut(), if waits_for_peer => self.look_for_progress(),
            }
        }
    }

    /// Whether no more is read of it for now. What it has to acknowledge lies behind what it asked
    /// for before, and may be what that waits for: while there is some, more is read.
    fn asks_too_much(&self) -> bool {
        let factor = match self.machine.unacknowledged() {
            0 => 1,
            _ => READ_FOR_ACKNOWLEDGEMENTS,
        };
        let unprocessed_max = self.core.config.websockets.unprocessed_max.get();
        self.jobs.len() >= unprocessed_max.saturating_mul(factor)
            || self.machine.answers_bytes() > ANSWERS_BYTES_MAX * factor
    }

    /// Whether something waits that only the subscriber can help on.
    fn waits_for_peer(&mut self) -> bool {
        let waits = self.machine.has_unsent() || !self.inbox.is_empty() && self.preparing.is_none();
        if !waits {
            self.progress_at = Instant::now();
        }
        waits
    }

    fn look_for_progress(&mut self) {
        let stall_timeout = self.core.config.websockets.stall_timeout;
        let progress_at = self.progress_at.max(self.socket.taken_at());
        if progress_at.elapsed() >= stall_timeout {
            self.cut_off();
        } else {
            let look = progress_at + stall_timeout;
            self.look_for_progress.as_mut().reset(look);
        }
    }

    fn cut_off(&mut self) {
        measures::websocket_cut_off();
        let peer = self.member.peer();
        tracing::warn!(peer, "cutting off a websocket that is too slow");
        let reason = "it does not keep up with what it subscribed or asked for";
        self.machine.end(ended(POLICY, reason));
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
                        Some(what) => self.hand_over(what),
                        None => return None,
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
                self.spend("CONFIGURE", unspent).await?;
                self.accept(enable_zstd, enable_training, initial_dict)
            }
            BroadcasterEvent::Interest(ticket) => {
                if ticket.subscribe
                    && let Err(why) = self.core.glob_limits.judge(&ticket.interest)
                {
                    return Err(ended(POLICY, why.to_string()));
                }
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
        // A NOTIFY may come between the parts of a NOTIFY_STREAM.
        let mut arriving = match begins {
            Some((topic, head)) => {
                let what = if streamed { "NOTIFY_STREAM" } else { "NOTIFY" };
                let body = self.begin(what, unspent, &head).await?;
                Box::new(Arriving { topic, head, body })
            }
            None => match self.stream.take() {
                Some(arriving) => arriving,
                None => return Ok(()),
            },
        };
        if let Ok(writer) = &mut arriving.body
            && let Err(error) = writer.push(bytes).await
        {
            arriving.body = Err(self.refuse(&error));
        }
        let Some(ticket) = ends else {
            self.stream = Some(arriving);
            return Ok(());
        };
        let Arriving { topic, head, body } = *arriving;
        let wire = match body {
            Ok(writer) => writer.finish().await.map_err(|error| self.refuse(&error)),
            Err(refusal) => Err(refusal),
        };
        match wire {
            Ok(wire) => {
                let zstd = self.compressor(head.compressor);
                self.queue(Job::Notify(Box::new(Notified {
                    ticket,
                    topic,
                    wire,
                    head,
                    zstd,
                })));
            }
            Err(refusal) => {
                let now = self.core.clock.now();
                self.machine.refuse_notify(ticket, refusal, now);
            }
        }
        Ok(())
    }

    /// Judges a notification by its head, and makes ready to take its body.
    async fn begin(
        &mut self,
        what: &'static str,
        unspent: Option<Unspent>,
        head: &BodyHead,
    ) -> Result<Result<PayloadWriter, Refusal>, SessionError> {
        if let Some(unspent) = unspent {
            if !self
                .spending
                .has_share(&self.core.guard, self.core.clock.now())
            {
                self.tell_of_refusal(&SpentTooMany);
                return Ok(Err(Refusal::NotNow));
            }
            match self.spend(what, unspent).await {
                Ok(()) => {}
                Err(
                    error @ SessionError::Auth {
                        source: AuthError::Unavailable(_),
                        ..
                    },
                ) => {
                    self.tell_of_refusal(&error);
                    return Ok(Err(Refusal::NotNow));
                }
                Err(error) => return Err(error),
            }
        }
        if let Some(bytes_max) = self.core.config.message_bytes_max
            && head.compressed_length.max(head.decompressed_length) > bytes_max
        {
            self.tell_of_refusal(&TooLong { bytes_max });
            return Ok(Err(Refusal::TooLong));
        }
        let (bytes, sha512) = (head.compressed_length, head.compressed_sha512);
        let writer = PayloadWriter::new(&self.spool, bytes, sha512);
        Ok(writer.map_err(|error| self.refuse(&error)))
    }

    /// Why a notification is not taken of which the body could not be.
    fn refuse(&self, error: &FillError) -> Refusal {
        self.tell_of_refusal(error);
        match error {
            FillError::Spool(_) => Refusal::NotNow,
            FillError::Body(_) | FillError::Length { .. } | FillError::Digest { .. } => {
                Refusal::NotAsAnnounced
            }
        }
    }

    async fn spend(&mut self, what: &'static str, unspent: Unspent) -> Result<(), SessionError> {
        let now = self.core.clock.now();
        let spent = cluster::spend(&self.core, unspent, now).await;
        let spent = spent.map_err(|source| SessionError::Auth { what, source })?;
        if spent.code().is_some() {
            self.spending.spent(now);
        }
        Ok(())
    }

    fn tell_of_refusal(&self, error: &dyn std::error::Error) {
        let (peer, reason) = (self.member.peer(), chain(error));
        tracing::info!(peer, reason, "a notification over a websocket is not taken");
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
            let work = job.work(self.core.clone(), self.spool.clone());
            self.job = Some(Box::pin(work));
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
                measures::notified();
                self.learn_from(&payload, now);
                let sha512: &Sha512 = payload.sha512();
                self.machine
                    .confirm_notify(ticket, sha512, subscribers, now);
            }
            Done::Notify(ticket, Err(error)) => match error.refusal() {
                Some(refusal) => {
                    self.tell_of_refusal(&error);
                    self.machine.refuse_notify(ticket, refusal, now);
                }
                None => {
                    let reason = format!("NOTIFY: {}", chain(&error));
                    self.machine.end(ended(OUR_FAULT, reason));
                }
            },
        }
    }

    /// Gives the machine what was handed to this session.
    fn hand_over(&mut self, what: ForSession) {
        self.progress_at = Instant::now();
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
            spool,
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
            Ended::ByPeer | Ended::Evicted => None,
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
                    let _ = job.work(core.clone(), spool.clone()).await;
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

/// Of compressor 1 (§11).
pub(crate) const PLAIN_LEVEL: u16 = 3;

/// First id of the dictionaries that were trained for one connection.
const CUSTOM_MIN: u32 = 65_536;

impl Job {
    async fn work(self, core: Arc<Core>, spool: Spool) -> Done {
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
                            zstd.decompress(&wire, plain_bytes, limits, &spool).await?
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

/// The message as `zstd` makes it; as it is, if there is no room for that.
async fn compressed(
    core: &Core,
    identifier: Identifier,
    message: &Message,
    id: u32,
    zstd: &Zstd,
) -> Delivery<Payload> {
    let wire = if id < CUSTOM_MIN {
        message.compressed(zstd, &core.spool).await
    } else {
        // Nobody else has this dictionary.
        zstd.compress(&message.payload, &core.spool).await
    };
    let wire = match wire {
        Ok(wire) => wire,
        Err(error) => {
            tracing::warn!(%error, "a message cannot be compressed; sending it as it is");
            return plain(identifier, message);
        }
    };
    Delivery {
        identifier,
        topic: message.topic.clone(),
        head: BodyHead {
            compressor: id.into(),
            compressed_length: wire.len(),
            decompressed_length: message.payload.len(),
            compressed_sha512: *wire.sha512(),
        },
        body: wire,
    }
}
