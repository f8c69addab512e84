//! Parties that take all they can of one thing that everybody shares.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context as _;
use httppubsub_e2e::{Connection, Deaf, Door, Signer, exact, glob, url};
use httppubsub_proto::auth::Secrets;
use httppubsub_proto::stateless::{SetHead, encode_set_lists};
use httppubsub_proto::subscription::{Interest, SubscriptionSet};
use socket2::{Domain, Socket, Type};

/// What one party takes of what everybody shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Greed {
    /// 4,096 connections that ask `/healthz` once and are silent, made again as they end
    Connections,
    /// 1,024 websockets that never say who they are, made again as they end
    Handshakes,
    /// SETs of 100,000 topics for one url, one after the other: the database's writer
    Sets,
    /// 100,000 globs without a literal that each topic has to be matched with
    Globs,
    /// 20 SETs of 58 MiB that stop short of their last byte: memory
    Uploads,
    /// 20,000 subscriptions to the topic at one peer that never answers: deliveries that wait
    Rows,
    /// The same with a recovery url: notices that are due
    Notices,
}

impl Greed {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Handshakes => "handshakes",
            Self::Sets => "sets",
            Self::Globs => "globs",
            Self::Uploads => "uploads",
            Self::Rows => "rows",
            Self::Notices => "notices",
        }
    }
}

/// A party at its work; dropping it ends that.
pub(crate) struct Greedy {
    ended: Arc<AtomicBool>,
    worker: Option<JoinHandle<()>>,
    /// Kept for as long as deliveries are to wait for it.
    _deaf: Deaf,
}

impl Greedy {
    /// Takes all that `greed` says from the broadcaster at `address`, and goes on.
    ///
    /// `topic` is what the others are notified of. Returns once everything is taken that is not
    /// taken again and again.
    pub(crate) async fn start(
        greed: Greed,
        address: SocketAddr,
        secrets: &Secrets,
        topic: &str,
    ) -> anyhow::Result<Self> {
        let party = Party {
            door: Door {
                address,
                prefix: String::new(),
                signer: Signer::from(secrets),
            },
            topic: topic.to_owned(),
            ended: Arc::default(),
        };
        let ended = party.ended.clone();
        let deaf = Deaf::never_reading();
        let (taken, is_taken) = tokio::sync::oneshot::channel();
        let peer = deaf.url("/");
        let worker = thread::Builder::new()
            .name(greed.name().to_owned())
            .spawn(move || {
                // It shares a core with subscribers and publishers, whose latency is measured; a
                // party elsewhere would not. On Linux this is the priority of the thread.
                if let Err(error) = rustix::process::setpriority_process(None, LOWEST_PRIORITY) {
                    eprintln!("cannot give way to the subscribers: {error}");
                }
                party.take(greed, &peer, taken);
            })?;
        let greedy = Self {
            ended,
            worker: Some(worker),
            _deaf: deaf,
        };
        is_taken
            .await
            .with_context(|| format!("nothing could be taken by {}", greed.name()))?;
        Ok(greedy)
    }
}

impl Drop for Greedy {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(worker) = self.worker.take() {
            // It fails only with what it would have taken next, which is of no interest.
            drop(worker.join());
        }
    }
}

struct Party {
    door: Door,
    topic: String,
    ended: Arc<AtomicBool>,
}

type Taken = tokio::sync::oneshot::Sender<()>;

impl Party {
    fn take(&self, greed: Greed, peer: &str, taken: Taken) {
        match greed {
            Greed::Connections => self.hold(4_096, GET_HEALTHZ, taken),
            Greed::Handshakes => self.hold(1_024, HANDSHAKE, taken),
            Greed::Sets => self.set_again_and_again(peer, taken),
            Greed::Globs => self.set_and_wait(peer, globs_without_literals(), None, taken),
            Greed::Uploads => self.upload_and_stop(peer, taken),
            Greed::Rows => self.set_and_wait(peer, self.rows(), None, taken),
            Greed::Notices => self.set_and_wait(peer, self.rows(), Some(peer), taken),
        }
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    fn wait(&self) {
        while !self.has_ended() {
            thread::sleep(LOOK);
        }
    }

    /// Holds `count` connections on which `request` was sent, and replaces those that end.
    fn hold(&self, count: usize, request: &str, taken: Taken) {
        let mut held: Vec<_> = (0..count).map(|_| self.open(request).ok()).collect();
        let _ = taken.send(());
        while !self.has_ended() {
            for place in &mut held {
                if place.as_mut().is_none_or(has_closed) {
                    *place = self.open(request).ok();
                    // Its low priority alone does not let the subscribers go first.
                    thread::yield_now();
                }
                if self.has_ended() {
                    return;
                }
            }
            thread::sleep(LOOK);
        }
    }

    fn open(&self, request: &str) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((ADDRESS, 0)).into())?;
        socket.connect_timeout(&self.door.address.into(), CONNECT_TIMEOUT)?;
        let mut stream = TcpStream::from(socket);
        stream.write_all(request.as_bytes())?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    }

    /// Globs that match the topic, each another one: its last character is one of a class.
    fn rows(&self) -> Vec<Interest> {
        let last = self.topic.chars().next_back().unwrap_or('t');
        let begin = self.topic.strip_suffix(last).unwrap_or_default();
        let others = (0..20_000_u32).filter_map(|number| char::from_u32(IDEOGRAPHS + number));
        others
            .map(|other| glob(&format!("{begin}[{last}{other}]")))
            .collect()
    }

    fn set_and_wait(
        &self,
        peer: &str,
        interests: Vec<Interest>,
        recovery: Option<&str>,
        taken: Taken,
    ) {
        let recovery = recovery.map(url);
        let set = interests.into_iter().map(|it| (it, recovery.clone()));
        let asked = self.door.signer.set(&url(peer), &set.collect());
        let mut connection = self.door.connect();
        // The broadcaster may refuse: then nothing is taken.
        if connection.post(&asked).is_ok() {
            drop(connection.answer());
        }
        let _ = taken.send(());
        self.wait();
    }

    fn set_again_and_again(&self, peer: &str, taken: Taken) {
        let peer = url(peer);
        // Encoded once: what it costs the party is taken from the subscribers' core.
        let sets = ["a", "b"].map(|prefix| {
            let topics = (0..100_000).map(|number| exact(&format!("{prefix}/{number}")));
            let set: SubscriptionSet = topics.map(|topic| (topic, None)).collect();
            let head = SetHead {
                tracing: Default::default(),
                url: peer.clone(),
                etag: set.etag(&peer),
            };
            (head, encode_set_lists(&set))
        });
        let _ = taken.send(());
        for (head, lists) in sets.iter().cycle() {
            if self.has_ended() {
                return;
            }
            let asked = self.door.signer.set_of(head, lists);
            let Ok(mut connection) = Connection::open(self.door.address) else {
                thread::sleep(LOOK);
                continue;
            };
            if connection.post(&asked).is_ok() {
                drop(connection.answer());
            }
        }
    }

    fn upload_and_stop(&self, peer: &str, taken: Taken) {
        const BYTES: usize = 58 * 1024 * 1024;
        let peer = url(peer);
        let head = SetHead {
            tracing: Default::default(),
            url: peer.clone(),
            etag: SubscriptionSet::default().etag(&peer),
        };
        let asked = self.door.signer.set_of(&head, &vec![0; BYTES]);
        let held: Vec<_> = (0..20)
            .filter_map(|_| {
                let mut connection = Connection::open(self.door.address).ok()?;
                let bytes = asked.body.len() as u64;
                connection.announce(&asked, bytes).ok()?;
                let sent = connection.send(&asked.body[..asked.body.len() - 1]);
                Some((connection, sent))
            })
            .collect();
        let _ = taken.send(());
        self.wait();
        drop(held);
    }
}

fn globs_without_literals() -> Vec<Interest> {
    let globs = (0..100_000_u32).filter_map(|number| {
        let other = char::from_u32(IDEOGRAPHS + number % 20_000)?;
        let more = "?".repeat(number as usize / 20_000);
        Some(glob(&format!("*[!{other}]{more}*")))
    });
    globs.collect()
}

/// The first of more than 20,000 characters in a row.
const IDEOGRAPHS: u32 = 0x4e00;

/// `true` if the peer closed the connection; what it sent is read and forgotten.
fn has_closed(stream: &mut TcpStream) -> bool {
    let mut bytes = [0; 1_024];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
        }
    }
}

const GET_HEALTHZ: &str = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";

const HANDSHAKE: &str = "GET /v1/websocket HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
                         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Where connections come from: not the address of subscribers and publishers, since addresses are
/// what shares of connections are counted for.
const ADDRESS: [u8; 4] = [127, 0, 0, 2];

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How often a party looks whether it lost something, and whether it is to end.
const LOOK: Duration = Duration::from_millis(50);

/// The largest nice value.
const LOWEST_PRIORITY: i32 = 19;
