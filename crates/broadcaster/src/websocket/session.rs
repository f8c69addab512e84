//! One websocket of a subscriber, from its first byte to its last.
//!
//! ```text
//!             ┌───────────────────── Session::run ─────────────────────┐
//!   socket ──▶│ event ─▶ machine ─▶ poll_event ─▶ requests, arrivals   │
//!             │             ▲                         │ one at a time  │
//!   hub ─────▶│ inbox ──────┤                         ▼                │
//!             │ trained, ───┘                     completion           │
//!             │ timer                                                  │
//!   socket ◀──│ poll_output ◀─ machine                                 │
//!             └────────────────────────────────────────────────────────┘
//! ```
//!
//! The machine decides what the protocol says; this file decides when: what is read and for how
//! long, what is worked on beside it, and when a session that is stuck is cut off. Everything that
//! waits for a session is bounded, and nothing here waits for another session.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use httppubsub_net::Place;
use httppubsub_net::body::{Payload, Spool, Zstd};
use httppubsub_net::websocket::{Arrived, Beside, Socket, SocketEvent, wake_at};
use httppubsub_net::{error_chain, random_bytes};
use httppubsub_proto::digest::Sha512;
use httppubsub_proto::session::{
    BroadcasterEvent, BroadcasterSession, CompressorSizes, Delivery, Nonces, NotifyPart, Output,
    SessionError, close_code,
};
use httppubsub_proto::subscription::Interest;
use httppubsub_proto::topic::Identifier;
use tokio::time::Instant;

use crate::hub::member::Member;
use crate::hub::queue::{ForSession, Receiver};
use crate::observe::metrics;
use crate::websocket::arrivals::Arrivals;
use crate::websocket::compressors::{Compressors, Trained};
use crate::websocket::delivery::{compressed, plain};
use crate::websocket::dictionaries::Training;
use crate::websocket::ended::Ended;
use crate::websocket::progress::Progress;
use crate::websocket::requests::{Completion, NotifyRequest, Request};
use crate::websocket::sessions::{PLAIN_LEVEL, Sessions};

/// Serves a websocket that was just accepted, until it ends. `place` is given back when the
/// subscriber has shown who it is.
pub(crate) async fn serve(
    sessions: Arc<Sessions>,
    mut socket: Socket,
    peer: String,
    spool: Spool,
    place: Place,
) {
    socket.take_room_of(&spool);
    let config = &sessions.config;
    let (member, inbox) = sessions
        .hub
        .member(peer.clone(), config.queue_bytes_max.get());
    let now = sessions.clock.now();
    let machine =
        BroadcasterSession::new(sessions.machine.clone(), Nonces::new(random_bytes()), now);
    let arrivals = Arrivals::new(sessions.clone(), member.clone(), spool);
    let mut session = Session {
        sessions: sessions.clone(),
        socket,
        machine,
        member,
        inbox,
        arrivals,
        place: Some(place),
        interests: Vec::new(),
        requests: VecDeque::new(),
        request: Beside::default(),
        preparing: Beside::default(),
        compressors: Compressors::default(),
        closing_at: None,
        refused: None,
        progress: Progress::new(config.stall_timeout),
    };
    let ended = session.run().await;
    ended.log(&peer);
    session.wind_up(ended).await;
}

/// A session, and all that it owns.
struct Session {
    /// The parts that it shares with all others.
    sessions: Arc<Sessions>,
    /// The connection, with deadlines and bounds of its own.
    socket: Socket,
    /// The protocol.
    machine: BroadcasterSession<Payload>,
    /// This session as the hub knows it.
    member: Arc<Member>,
    /// The messages and notices that the hub hands to it.
    inbox: Receiver,
    /// Notifications that come in.
    arrivals: Arrivals,
    /// The place among sessions that have not shown who they are, until it has.
    place: Option<Place>,
    /// The interests for which this session has joined the hub.
    interests: Vec<Interest>,
    /// The requests to be done after `request`, in the order of the wire.
    requests: VecDeque<Request>,
    /// The request that is worked on.
    request: Beside<Completion>,
    /// A message that is being compressed.
    preparing: Beside<Delivery<Payload>>,
    /// The same as the machine knows by their numbers, with their dictionaries.
    compressors: Compressors,
    /// The moment at which it closes because the broadcaster stops.
    closing_at: Option<Instant>,
    /// The reason for which it closes when all that was asked before is done and answered.
    refused: Option<SessionError>,
    /// The time since which nothing went on.
    progress: Progress,
}

/// The most that answers take which a subscriber has not read, or which wait for the answer to
/// something before, in bytes: beyond that no more is read of it.
const ANSWERS_BYTES_MAX: usize = 64 * 1024;

/// The factor by which more may wait to be worked on, and to be answered, while acknowledgements
/// are due.
const READ_FOR_ACKNOWLEDGEMENTS: usize = 16;

/// Longest wait until a subscriber closes as well.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

impl Session {
    /// Runs the session until it ends.
    async fn run(&mut self) -> Ended {
        let shutdown = self.sessions.shutdown.clone();
        let member = self.member.clone();
        let evicted = std::pin::pin!(self.place.as_ref().map(Place::evicted));
        let mut evicted = evicted.as_pin_mut();
        loop {
            if let Some(ended) = self.act().await {
                return ended;
            }
            self.begin_next_request();
            self.socket.hold(self.asks_too_much());
            let waits_for_peer = self.waits_for_peer();
            let wants_deliveries = self.wants_delivery() || self.refused.is_some();
            let wake_at = self.wake_at();
            // In this order: what ends the session, what it sent, what it waits for, what it gets.
            tokio::select! {
                biased;
                () = async { evicted.as_mut().expect("there is one").as_mut().await },
                    if self.place.is_some() && evicted.is_some() =>
                {
                    return Ended::Evicted;
                }
                () = member.cut_off.cancelled() => self.cut_off(),
                () = member.epoch.cancelled() => {
                    let reason = "the broadcaster was away for so long that it was forgotten: \
                                  subscribe again";
                    self.machine.end(SessionError::ended(close_code::OUR_FAULT, reason));
                }
                // An acknowledgement may be in it, which lets the next part go.
                event = self.socket.event() => match event {
                    Ok(SocketEvent::Message(message)) => {
                        self.machine.handle_message(&message, self.sessions.clock.now());
                        self.progress.acknowledged(self.machine.acknowledged());
                    }
                    Ok(SocketEvent::Writable) => {}
                    Ok(SocketEvent::Closed(_)) => return Ended::ByPeer,
                    Err(error) => return Ended::Lost(error),
                },
                completion = self.request.done() => self.complete(completion),
                prepared = self.preparing.done() => {
                    self.progress.made();
                    self.machine.deliver(prepared, self.sessions.clock.now());
                }
                Some(what) = self.inbox.recv(), if wants_deliveries => self.hand_over(what),
                trained = self.compressors.trained() => self.enable_trained(trained),
                () = tokio::time::sleep_until(wake_at.unwrap_or_else(Instant::now)),
                    if wake_at.is_some() => self.wake(),
                () = shutdown.cancelled(), if self.closing_at.is_none() => {
                    let spread = self.sessions.config.close_spread;
                    // A hundred thousand that left at once would come back at once elsewhere.
                    let wait = match self.place {
                        // Nobody knows who this is.
                        Some(_) => Duration::ZERO,
                        None => spread.mul_f64(rand::random()),
                    };
                    self.closing_at = Some(Instant::now() + wait);
                }
                // Behind all that may be progress.
                () = self.progress.is_due(), if waits_for_peer => {
                    if self.progress.is_stalled(self.socket.taken_at()) {
                        self.cut_off();
                    }
                }
            }
        }
    }

    /// `true` if no more is read of it for now. What it has to acknowledge lies behind what it
    /// asked for before, and may be what that waits for: while there is some, more is read.
    fn asks_too_much(&self) -> bool {
        let factor = match self.machine.unacknowledged() {
            0 => 1,
            _ => READ_FOR_ACKNOWLEDGEMENTS,
        };
        let unprocessed_max = self.sessions.config.unprocessed_max.get();
        self.requests.len() >= unprocessed_max.saturating_mul(factor)
            || self.machine.answers_bytes() > ANSWERS_BYTES_MAX * factor
    }

    /// `true` if something waits that only the subscriber can help on.
    fn waits_for_peer(&mut self) -> bool {
        let waits =
            self.machine.has_unsent() || !self.inbox.is_empty() && !self.preparing.is_busy();
        if !waits {
            self.progress.made();
        }
        waits
    }

    /// Ends a session that does not take what it asked for.
    fn cut_off(&mut self) {
        metrics::websocket_cut_off();
        let peer = self.member.peer();
        tracing::warn!(peer, "cutting off a websocket that is too slow");
        let reason = "it does not keep up with what it subscribed or asked for";
        self.machine
            .end(SessionError::ended(close_code::POLICY, reason));
    }

    /// Does what the machine says.
    async fn act(&mut self) -> Option<Ended> {
        loop {
            if let Some(event) = self.machine.poll_event() {
                self.take_in(event).await;
                continue;
            }
            if self.has_answered()
                && let Some(reason) = self.refused.take()
            {
                self.machine.end(reason);
            }
            // What the socket does not take yet would only be held in memory.
            if !self.socket.is_writable() && !self.machine.is_over() {
                return None;
            }
            match self.machine.poll_output() {
                Output::Send(message) => {
                    if let Err(error) = self.socket.send(message).await {
                        return Some(Ended::Lost(error));
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

    /// Takes in what the subscriber says. After what is refused it is not heard any further.
    async fn take_in(&mut self, event: BroadcasterEvent) {
        let is_asked = !matches!(event, BroadcasterEvent::Delivered(_));
        if self.refused.is_some() && is_asked {
            return;
        }
        if let Err(reason) = self.on(event).await {
            self.refused = Some(reason);
        }
    }

    /// Ends the session when all is answered that was done; what was asked later is not.
    fn give_up(&mut self, reason: SessionError) {
        self.requests.clear();
        self.refused.get_or_insert(reason);
    }

    /// `true` if all that was asked for is done and what can be sent of the answers is sent.
    fn has_answered(&self) -> bool {
        // Answers to what was asked after that wait for one that never comes.
        !self.request.is_busy() && self.requests.is_empty() && !self.machine.has_unsent()
    }

    /// `true` if it takes the next message from the hub. One at a time is prepared, so that what
    /// waits is counted in the queue and nowhere else.
    fn wants_delivery(&self) -> bool {
        self.refused.is_none()
            && !self.preparing.is_busy()
            && self.machine.is_ready_to_deliver()
            && self.socket.is_writable()
    }

    /// The next moment at which something is due without anything arriving.
    fn wake_at(&self) -> Option<Instant> {
        let deadline = self
            .place
            .is_some()
            .then(|| self.machine.deadline())
            .flatten();
        let deadline = wake_at(deadline, self.sessions.clock.now());
        deadline.into_iter().chain(self.closing_at).min()
    }

    /// Does what is due by now.
    fn wake(&mut self) {
        self.machine.handle_timeout(self.sessions.clock.now());
        if let Some(at) = self.closing_at
            && at <= Instant::now()
        {
            if !self.request.is_busy() && self.requests.is_empty() {
                self.machine.end(SessionError::ended(
                    close_code::GOING_AWAY,
                    "the broadcaster stops",
                ));
            } else {
                // What it asked for is finished first.
                self.closing_at = Some(Instant::now() + Duration::from_millis(20));
            }
        }
    }

    /// Takes in one event of the machine. A failure ends the session when what was asked before is
    /// answered.
    async fn on(&mut self, event: BroadcasterEvent) -> Result<(), SessionError> {
        match event {
            BroadcasterEvent::Configure {
                unspent,
                enable_zstd,
                enable_training,
                initial_dict,
            } => {
                self.arrivals.spend("CONFIGURE", unspent).await?;
                self.accept(enable_zstd, enable_training, initial_dict)
            }
            BroadcasterEvent::Interest(ticket) => {
                // It cannot be refused in the tracing of its confirmation, as a notification is:
                // published clients do not read that, and would believe that they are subscribed.
                if ticket.subscribe
                    && let Err(why) = self.sessions.glob_limits.judge(&ticket.interest)
                {
                    return Err(SessionError::ended(close_code::POLICY, why.to_string()));
                }
                self.queue(Request::Interest(ticket));
                Ok(())
            }
            BroadcasterEvent::Notify(part) => self.notify(part).await,
            BroadcasterEvent::Delivered(_) => {
                self.compressors.forget_retired(&self.machine);
                Ok(())
            }
        }
    }

    /// Accepts a subscriber that has shown who it is, with the compressors that it asks for.
    fn accept(
        &mut self,
        enable_zstd: bool,
        enable_training: bool,
        initial_dict: u16,
    ) -> Result<(), SessionError> {
        let sessions = self.sessions.clone();
        let (config, compression) = (&sessions.config, &sessions.compression);
        let now = sessions.clock.now();
        self.place = None;
        self.socket.trust();
        self.machine.accept(random_bytes(), now);
        tracing::debug!(peer = self.member.peer(), "a websocket subscriber is here");
        if !(config.compression && enable_zstd) {
            return Ok(());
        }
        // For bodies that are too long for a trained dictionary: a short one hardly gets shorter.
        self.enable(1, &compression.zstd, u64::MAX, PLAIN_LEVEL, {
            u32::try_from(config.compression_trained_max_size).unwrap_or(u32::MAX)
        });
        // 0 asks for none, and 1 is the one just enabled.
        if initial_dict > 1 {
            let mut presets = compression.presets.iter();
            let known = presets.find(|(it, _)| it.id == initial_dict);
            let Some((preset, zstd)) = known else {
                let reason = format!("it asks for the preset {initial_dict}, which is unknown");
                return Err(SessionError::ended(close_code::POLICY, reason));
            };
            let id = preset.id.into();
            self.enable(id, zstd, u64::MAX, preset.level, preset.min_size);
        }
        if config.training && enable_training {
            let training = Training::new(config, compression.sample_room.clone());
            self.compressors.train(training);
        }
        Ok(())
    }

    /// Enables a compressor for bodies of `min` to `max` bytes.
    fn enable(&mut self, id: u32, zstd: &Zstd, max: u64, level: u16, min: u32) {
        let (sizes, now) = (CompressorSizes { min, max }, self.sessions.clock.now());
        self.compressors
            .enable((id, zstd), level, sizes, &mut self.machine, now);
    }

    /// Takes a part of a notification in; the last makes a request of it.
    async fn notify(&mut self, part: NotifyPart) -> Result<(), SessionError> {
        let Some(arrived) = self.arrivals.take(part).await? else {
            return Ok(());
        };
        let Arrived {
            ticket,
            topic,
            head,
            wire,
        } = arrived;
        match wire {
            Ok(wire) => {
                let zstd = self.compressors.get(head.compressor);
                self.queue(Request::Notify(Box::new(NotifyRequest {
                    ticket,
                    topic,
                    wire,
                    head,
                    zstd,
                })));
            }
            Err(refusal) => {
                let now = self.sessions.clock.now();
                self.machine.refuse_notify(ticket, refusal, now);
            }
        }
        Ok(())
    }

    /// Queues a request behind all before it.
    fn queue(&mut self, request: Request) {
        self.requests.push_back(request);
        self.begin_next_request();
    }

    /// Begins the next request, if none is worked on.
    fn begin_next_request(&mut self) {
        if !self.request.is_busy()
            && let Some(request) = self.requests.pop_front()
        {
            if let Request::Interest(ticket) = &request {
                if ticket.subscribe {
                    self.interests.push(ticket.interest.clone());
                } else {
                    // From now on, not from when it is confirmed: it does not want it by now.
                    self.sessions.hub.detach(&self.member, &ticket.interest);
                }
            }
            let (sessions, member) = (self.sessions.clone(), self.member.clone());
            let work = request.work(sessions, member, self.arrivals.spool.clone());
            self.request.begin(work);
        }
    }

    /// Answers a request that was worked on.
    fn complete(&mut self, completion: Completion) {
        let now = self.sessions.clock.now();
        match completion {
            Completion::Interest(ticket, Ok(())) => {
                if ticket.subscribe {
                    // What is handed to it waits behind the confirmation.
                    self.sessions.hub.attach(&self.member, &ticket.interest);
                } else {
                    self.interests.retain(|it| *it != ticket.interest);
                }
                self.machine.confirm_interest(ticket, now);
            }
            Completion::Interest(ticket, Err(error)) => {
                // The hub has counted it off already.
                self.interests.retain(|it| *it != ticket.interest);
                let reason = format!(
                    "the subscriptions cannot be changed: {}",
                    error_chain(&error)
                );
                self.give_up(SessionError::ended(close_code::OUR_FAULT, reason));
            }
            Completion::Notify(ticket, Ok((payload, subscribers))) => {
                self.compressors.sample(&payload, &mut self.machine, now);
                let sha512: &Sha512 = payload.sha512();
                self.machine
                    .confirm_notify(ticket, sha512, subscribers, now);
            }
            Completion::Notify(ticket, Err(error)) => match error.refusal() {
                Some(refusal) => {
                    self.arrivals.log_refusal(&error);
                    self.machine.refuse_notify(ticket, refusal, now);
                }
                None => {
                    let reason = format!("NOTIFY: {}", error_chain(&error));
                    self.give_up(SessionError::ended(close_code::OUR_FAULT, reason));
                }
            },
        }
    }

    /// Gives the machine what was handed to this session.
    fn hand_over(&mut self, what: ForSession) {
        self.progress.made();
        if self.refused.is_some() {
            // It ends, and what was asked before waits only until this is taken out.
            return;
        }
        let now = self.sessions.clock.now();
        let message = match what {
            ForSession::Missed(topic) => return self.machine.missed(&topic, now),
            ForSession::Reached(_) => return,
            ForSession::Message(message) => message,
        };
        self.compressors
            .sample(&message.payload, &mut self.machine, now);
        let identifier = Identifier::new(random_bytes::<4>().to_vec()).expect("4 bytes fit");
        let id = self.machine.compressor_for(message.payload.len());
        match self.compressors.get(id.into()) {
            // Nothing to wait for: most messages of most sessions go this way.
            None => {
                let delivery = plain(identifier, &message);
                self.machine.deliver(delivery, now);
            }
            Some(zstd) => {
                let sessions = self.sessions.clone();
                self.preparing.begin(async move {
                    compressed(&sessions.spool, identifier, &message, id, &zstd).await
                });
            }
        }
    }

    /// Enables a dictionary that was trained from messages of this session. Both ends use it from
    /// then on; older ones stay for messages on their way.
    fn enable_trained(&mut self, trained: Trained) {
        let config = &self.sessions.config;
        let sizes = CompressorSizes {
            min: config.compression_min_size,
            max: config.compression_trained_max_size,
        };
        let to = (&mut self.machine, self.member.peer());
        let now = self.sessions.clock.now();
        self.compressors.enable_trained(trained, sizes, to, now);
    }

    /// Tells the peer, and undoes what this session was to the others.
    async fn wind_up(self, ended: Ended) {
        let Self {
            sessions,
            socket,
            member,
            inbox,
            arrivals,
            mut interests,
            requests,
            mut request,
            ..
        } = self;
        // First of all, so that notifications that wait for room here go on.
        drop(inbox);
        for interest in &interests {
            sessions.hub.detach(&member, interest);
        }
        match ended.close_code() {
            // Before the rows are given up, which may take as long as the store.
            Some(code) => socket.close(code, CLOSE_TIMEOUT).await,
            None => drop(socket),
        }
        // What was begun is finished, so that what it leaves behind is known.
        if request.is_busy()
            && let Completion::Interest(ticket, result) = request.done().await
            && !(ticket.subscribe && result.is_ok())
        {
            interests.retain(|it| *it != ticket.interest);
        }
        if matches!(ended, Ended::ByPeer) {
            // It said so before it left; it only does not hear of it (§16 D16).
            for request in requests {
                if let Request::Notify(_) = request {
                    let (sessions, member) = (sessions.clone(), member.clone());
                    let _ = request.work(sessions, member, arrivals.spool.clone()).await;
                }
            }
        }
        for interest in interests {
            if let Err(error) = sessions.hub.release_row(&interest).await {
                let reason = error_chain(&error);
                tracing::error!(%interest, reason, "cannot unsubscribe what no websocket wants");
            }
        }
    }
}
