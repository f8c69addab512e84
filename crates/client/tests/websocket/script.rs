//! A broadcaster of which a test says every step.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use httppubsub_client::{
    Client, ClientConfig, ClientConfigBuilder, ConnectionStatus, Interest, Message, Receiving,
    Subscription, Topic, WebSocketConfig,
};
use httppubsub_net::body::{Payload, Zstd};
use httppubsub_net::websocket::{Socket, SocketConfig, SocketEvent, accept_key};
use httppubsub_net::{Clock, random_bytes};
use httppubsub_proto::auth::NoAuthorization;
use httppubsub_proto::digest::Sha512;
use httppubsub_proto::session::{
    BroadcasterConfig, BroadcasterEvent, BroadcasterSession, Compressor, CompressorSizes, Delivery,
    InterestTicket, Nonces, NotifyTicket, Outgoing, Output,
};
use httppubsub_proto::stateful::{BodyHead, ToBroadcaster};
use httppubsub_proto::topic::Identifier;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;

/// How long anything may take that should happen at once.
const PATIENCE: Duration = Duration::from_secs(180);

/// More than the connection of a [`Door`] takes before anything is read of it.
pub(crate) const UNREAD_BYTES: usize = 32 << 20;

/// Fails the test if it does not come.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what)
        .await
        .expect("it should have happened long ago")
}

/// Where the client connects to.
pub(crate) struct Door {
    listener: TcpListener,
}

impl Door {
    pub(crate) async fn open() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        // Connections inherit it: what a kernel takes before anything is read stays far below
        // `UNREAD_BYTES`.
        socket.set_recv_buffer_size(64 * 1024).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(16).unwrap();
        Self { listener }
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://{}", self.listener.local_addr().unwrap())
    }

    /// A client of this broadcaster alone. Every connection it opens is a success, so that it
    /// connects anew at once when it is cut; where none can be opened it gives up at once.
    pub(crate) async fn client(&self) -> Client {
        self.client_with(|_| {}).await
    }

    pub(crate) async fn client_with(&self, change: impl FnOnce(&mut WebSocketConfig)) -> Client {
        start(self.config(), change).await
    }

    pub(crate) fn config(&self) -> ClientConfigBuilder {
        ClientConfig::builder([self.url()])
    }

    /// A connection on which not one byte was said yet.
    pub(crate) async fn connection(&self) -> TcpStream {
        soon(self.listener.accept()).await.unwrap().0
    }

    /// The next connection, as a websocket on which nothing was said yet.
    pub(crate) async fn websocket(&self) -> Socket {
        let mut stream = self.connection().await;
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(soon(stream.read_u8()).await.unwrap());
        }
        let request = String::from_utf8(request).unwrap();
        assert!(request.starts_with("GET /v1/websocket HTTP/1.1\r\n"));
        let key = request.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            let is_it = name.eq_ignore_ascii_case("sec-websocket-key");
            is_it.then(|| value.trim().to_owned())
        });
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Accept: {}\r\n\r\n",
            accept_key(key.unwrap().as_bytes())
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
        Socket::accepted(stream, SocketConfig::default()).await
    }

    /// The next connection, configured.
    pub(crate) async fn peer(&self) -> Peer {
        let scheme = Arc::new(NoAuthorization);
        self.peer_with(BroadcasterConfig::new(scheme.clone(), scheme))
            .await
    }

    pub(crate) async fn peer_with(&self, config: BroadcasterConfig) -> Peer {
        let socket = self.websocket().await;
        let nonces = Nonces::new(random_bytes());
        let mut peer = Peer {
            machine: BroadcasterSession::new(Arc::new(config), nonces, now()),
            socket,
            events: VecDeque::new(),
            closed: None,
            identifiers: VecDeque::new(),
            body: Vec::new(),
            begins: None,
            sent: Vec::new(),
        };
        match peer.event().await {
            Some(BroadcasterEvent::Configure { .. }) => {
                peer.machine.accept(random_bytes(), now());
                peer.socket.trust();
                peer.flush().await;
            }
            other => panic!("{other:?}"),
        }
        peer
    }
}

pub(crate) async fn start(
    config: ClientConfigBuilder,
    change: impl FnOnce(&mut WebSocketConfig),
) -> Client {
    let mut options = WebSocketConfig::default();
    options.reconnect_interval_min = Duration::ZERO;
    options.connect_retries = 0;
    change(&mut options);
    let config = config.websocket(options).build().unwrap();
    Client::start(config).await.unwrap()
}

fn now() -> httppubsub_proto::time::Now {
    Clock::system().now()
}

/// The broadcaster's end of one connection. Dropping it cuts it.
pub(crate) struct Peer {
    machine: BroadcasterSession<Payload>,
    socket: Socket,
    events: VecDeque<BroadcasterEvent>,
    /// Whether the client has closed, and with which code.
    closed: Option<Option<u16>>,
    /// Of the parts of notifications that came and were not looked at yet.
    identifiers: VecDeque<Identifier>,
    body: Vec<u8>,
    begins: Option<(Topic, BodyHead)>,
    /// Heads of all messages sent.
    sent: Vec<Bytes>,
}

/// What the client asked of its broadcaster.
#[derive(Debug)]
pub(crate) enum Asked {
    Interest(InterestTicket),
    Notify(Box<Notified>),
    /// It has acknowledged a message.
    Delivered,
    /// It has closed the connection, with this code.
    Closed(Option<u16>),
}

/// A notification that has come whole.
#[derive(Debug)]
pub(crate) struct Notified {
    pub(crate) identifier: Identifier,
    pub(crate) head: BodyHead,
    /// As it was on the wire.
    pub(crate) wire: Vec<u8>,
    ticket: NotifyTicket,
}

impl Peer {
    /// What the client does next.
    pub(crate) async fn next(&mut self) -> Asked {
        loop {
            match self.event().await {
                None => return Asked::Closed(self.closed.unwrap()),
                Some(BroadcasterEvent::Interest(ticket)) => return Asked::Interest(ticket),
                Some(BroadcasterEvent::Delivered(_)) => return Asked::Delivered,
                Some(BroadcasterEvent::Notify(part)) => {
                    let identifier = self.identifiers.pop_front().unwrap();
                    if part.begins.is_some() {
                        self.begins = part.begins;
                    }
                    self.body.extend_from_slice(&part.bytes);
                    if let Some(ticket) = part.ends {
                        let (_, head) = self.begins.take().unwrap();
                        return Asked::Notify(Box::new(Notified {
                            identifier,
                            head,
                            wire: std::mem::take(&mut self.body),
                            ticket,
                        }));
                    }
                }
                Some(it @ BroadcasterEvent::Configure { .. }) => panic!("{it:?}"),
            }
        }
    }

    /// The request that must come next, as `+topic` or `-glob`, and its ticket.
    pub(crate) async fn interest(&mut self) -> (String, InterestTicket) {
        match self.next().await {
            Asked::Interest(ticket) => {
                let sign = if ticket.subscribe { '+' } else { '-' };
                let name = String::from_utf8(ticket.interest.as_bytes().to_vec()).unwrap();
                (format!("{sign}{name}"), ticket)
            }
            other => panic!("{other:?}"),
        }
    }

    /// Confirms these requests, which must come next.
    pub(crate) async fn confirm_each(&mut self, wants: impl IntoIterator<Item = &str>) {
        for want in wants {
            let (name, ticket) = self.interest().await;
            assert_eq!(name, want);
            self.confirm(ticket).await;
        }
    }

    pub(crate) async fn confirm(&mut self, ticket: InterestTicket) {
        self.machine.confirm_interest(ticket, now());
        self.flush().await;
    }

    /// The notification that must come next.
    pub(crate) async fn notified(&mut self) -> Notified {
        match self.next().await {
            Asked::Notify(notified) => *notified,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until a part of a notification has come that is not the last.
    pub(crate) async fn begun_notification(&mut self) -> Identifier {
        match self.event().await {
            Some(BroadcasterEvent::Notify(part)) if part.ends.is_none() => {
                self.begins = part.begins;
                self.body.extend_from_slice(&part.bytes);
                self.identifiers.pop_front().unwrap()
            }
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn acknowledge(&mut self, notified: Notified, plain: &[u8], reached: u32) {
        let sha512 = Sha512::of(plain);
        self.machine
            .confirm_notify(notified.ticket, &sha512, reached, now());
        self.flush().await;
    }

    /// Sends a message as it is.
    pub(crate) async fn deliver(&mut self, topic: &'static str, body: impl Into<Bytes>) {
        let body = Payload::from_bytes(body);
        self.deliver_wire(topic, 0, body.len(), body).await;
    }

    /// Sends a message that was compressed before.
    pub(crate) async fn deliver_wire(
        &mut self,
        topic: &'static str,
        compressor: u64,
        decompressed_length: u64,
        wire: Payload,
    ) {
        let head = BodyHead {
            compressor,
            compressed_length: wire.len(),
            decompressed_length,
            compressed_sha512: *wire.sha512(),
        };
        self.deliver_as(topic, head, wire).await;
    }

    pub(crate) async fn deliver_as(&mut self, topic: &'static str, head: BodyHead, wire: Payload) {
        let delivery = Delivery {
            identifier: Identifier::new(random_bytes::<4>().to_vec()).unwrap(),
            topic: Topic::new(topic).unwrap(),
            head,
            body: wire,
        };
        self.machine.deliver(delivery, now());
        self.flush().await;
    }

    /// Waits for the acknowledgement of a message, which must come next.
    pub(crate) async fn delivered(&mut self) {
        match self.next().await {
            Asked::Delivered => {}
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn missed(&mut self, topic: &'static str) {
        self.machine.missed(&Topic::new(topic).unwrap(), now());
        self.flush().await;
    }

    /// Announces a compressor for bodies of at least `min` bytes.
    pub(crate) async fn enable(&mut self, id: u32, min: u32, dictionary: Option<Bytes>) -> Zstd {
        let zstd = match &dictionary {
            Some(dictionary) => Zstd::with_dictionary(dictionary.clone(), 3),
            None => Zstd::new(3),
        };
        let announced = dictionary.filter(|_| id >= 65_536);
        let compressor = Compressor {
            id,
            level: 3,
            sizes: CompressorSizes { min, max: u64::MAX },
            dictionary: announced.map(|it| (Sha512::of(&it), it)),
        };
        self.machine.enable(compressor, now());
        self.flush().await;
        zstd
    }

    pub(crate) async fn disable(&mut self, id: u32) {
        self.machine.disable(id, now());
        self.flush().await;
    }

    /// The first message sent: CONFIRM_CONFIGURE.
    pub(crate) fn confirm_configure(&self) -> Bytes {
        self.sent[0].clone()
    }

    /// Says goodbye as a broadcaster that stops.
    pub(crate) async fn close(self, code: u16) {
        self.socket.close(code, PATIENCE).await;
    }

    /// Waits until the client closes, with which code; what it still says does not count.
    pub(crate) async fn closed(mut self) -> Option<u16> {
        while self.event().await.is_some() {}
        self.closed.unwrap()
    }

    /// Does all that can be done without waiting.
    async fn flush(&mut self) {
        loop {
            self.act().await;
            let event = {
                let mut event = std::pin::pin!(self.socket.event());
                let look = |cx: &mut Context<'_>| Poll::Ready(event.as_mut().poll(cx));
                std::future::poll_fn(look).await
            };
            match event {
                Poll::Ready(event) => self.take(event.unwrap()),
                Poll::Pending => return,
            }
        }
    }

    /// The next event; `None` when the client has closed.
    async fn event(&mut self) -> Option<BroadcasterEvent> {
        loop {
            self.act().await;
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            if self.closed.is_some() {
                return None;
            }
            let event = soon(self.socket.event()).await.unwrap();
            self.take(event);
        }
    }

    /// Sends what is to be sent, and keeps what has happened.
    async fn act(&mut self) {
        loop {
            self.events
                .extend(std::iter::from_fn(|| self.machine.poll_event()));
            match self.machine.poll_output() {
                Output::Send(message) => {
                    self.sent.push(message.head.clone());
                    self.socket.send(message).await.unwrap();
                }
                Output::Close(reason) => panic!("{reason}"),
                Output::Timeout(_) => return,
            }
        }
    }

    fn take(&mut self, event: SocketEvent) {
        match event {
            SocketEvent::Message(message) => {
                match ToBroadcaster::decode(&message).unwrap() {
                    ToBroadcaster::Notify(it) => self.identifiers.push_back(it.identifier),
                    ToBroadcaster::NotifyStream(it) => self.identifiers.push_back(it.identifier),
                    _ => {}
                }
                self.machine.handle_message(&message, now());
            }
            SocketEvent::Writable => {}
            SocketEvent::Closed(code) => self.closed = Some(code),
        }
    }
}

/// Waits until the client closes, with which code.
pub(crate) async fn closed(mut socket: Socket) -> Option<u16> {
    loop {
        match soon(socket.event()).await.unwrap() {
            SocketEvent::Closed(code) => return code,
            SocketEvent::Message(_) | SocketEvent::Writable => {}
        }
    }
}

/// Sends bytes that no machine made.
pub(crate) async fn send(socket: &mut Socket, head: Bytes) {
    let body = httppubsub_proto::session::OutgoingBody::Empty;
    socket.send(Outgoing { head, body }).await.unwrap();
}

pub(crate) fn exact(topic: &'static str) -> Interest {
    Interest::Exact(Topic::new(topic).unwrap())
}

pub(crate) fn glob(glob: &str) -> Interest {
    Interest::Glob(httppubsub_client::GlobPattern::parse(glob).unwrap())
}

/// Runs a call of the client while the test plays the broadcaster.
pub(crate) fn meanwhile<T, F>(call: F) -> tokio::task::JoinHandle<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    tokio::spawn(call)
}

/// A subscription to these, confirmed.
pub(crate) async fn subscribed<const N: usize>(
    client: &Client,
    peer: &mut Peer,
    interests: [Interest; N],
) -> Subscription {
    let subscribing = meanwhile({
        let client = client.clone();
        async move { client.subscribe(interests).await.unwrap() }
    });
    for _ in 0..N {
        let (_, ticket) = peer.interest().await;
        peer.confirm(ticket).await;
    }
    soon(subscribing).await.unwrap()
}

/// What a subscription yields, in its order: texts, `!` where it begins to receive, `?` where
/// something may be missing, and `.` at its end.
pub(crate) struct Seen(mpsc::UnboundedReceiver<String>);

impl Seen {
    pub(crate) fn by(mut subscription: Subscription) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        let marks = sender.clone();
        subscription.on_gap(move |receiving| {
            let mark = match receiving {
                Receiving::First => "!",
                Receiving::AfterGap => "?",
            };
            let _ = marks.send(mark.to_owned());
            async {}
        });
        tokio::spawn(async move {
            while let Some(message) = subscription.next().await {
                let _ = sender.send(text(&message).await);
            }
            let _ = sender.send(".".to_owned());
        });
        Self(receiver)
    }

    pub(crate) async fn next(&mut self) -> String {
        soon(self.0.recv()).await.unwrap()
    }
}

pub(crate) async fn text(message: &Message) -> String {
    String::from_utf8(message.bytes().await.unwrap().to_vec()).unwrap()
}

/// Waits until the connection is so.
pub(crate) async fn comes_to_be(client: &Client, status: ConnectionStatus) {
    let mut statuses = client.statuses();
    assert!(soon(statuses.wait_for(status)).await);
}
