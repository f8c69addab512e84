//! Accepts connections: those of a peer that has its share cost the others next to nothing.

use std::collections::VecDeque;
use std::io;
use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::log_limit::LogLimit;
use crate::places::{Place, Places, ShareTaken};

/// A connection that has its place among all.
pub(crate) struct Accepted {
    pub(crate) stream: TcpStream,
    pub(crate) address: SocketAddr,
    pub(crate) place: Place,
    /// Moment at which it is served; `None` for at once.
    pub(crate) serve_at: Option<Instant>,
}

/// A listener that hands out connections that have a place, and refuses the others.
pub(crate) struct Acceptor {
    listener: TcpListener,
    places: Places,
    refusals: Refusals,
    /// Connections since other tasks had a turn.
    at_once: usize,
    pace: Pace,
}

impl Acceptor {
    pub(crate) fn new(listener: TcpListener, places: Places) -> Self {
        // The standard library asks for a queue of 128. When a peer makes as many connections at
        // once, the kernel drops those of others, which try again after a second.
        if let Err(error) = SockRef::from(&listener).listen(QUEUE_MAX) {
            tracing::debug!(%error, "the queue of connections stays as long as it is");
        }
        Self {
            listener,
            refusals: Refusals::new(places.max() / PLACES_PER_REFUSED),
            places,
            at_once: 0,
            pace: Pace::default(),
        }
    }

    /// The next connection that has a place.
    pub(crate) async fn next(&mut self) -> Accepted {
        loop {
            // The task of a connection is begun before the next ones are, and what was to be done
            // before they came goes on.
            if self.at_once >= AT_ONCE_MAX {
                self.at_once = 0;
                tokio::task::yield_now().await;
            }
            let release_at = self.refusals.release_at();
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = tokio::time::sleep_until(release_at.unwrap_or_else(Instant::now)),
                    if release_at.is_some() =>
                {
                    self.refusals.release();
                    continue;
                }
            };
            self.at_once += 1;
            match accepted {
                Ok((stream, address)) => match self.places.enter(address.ip()).await {
                    Ok(place) => {
                        let is_one_of_many = place.held_by_address() > HELD_WITHOUT_WAITING;
                        if !is_one_of_many {
                            self.at_once += SERVED_WEIGHT;
                        }
                        return Accepted {
                            stream,
                            address,
                            place,
                            serve_at: is_one_of_many.then(|| self.pace.next(Instant::now())),
                        };
                    }
                    Err(ShareTaken) => self.refusals.refuse(stream, address).await,
                },
                // The peer is gone already.
                Err(error) if is_the_connections_own(&error) => {}
                Err(error) => {
                    // Out of file descriptors or memory: those who are idle give some back, and
                    // those who are served will.
                    tracing::error!(%error, "cannot accept connections; trying again");
                    self.places.make_room();
                    self.refusals.held.clear();
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

/// When connections from addresses that hold many are served: four a millisecond, which takes a
/// fifth of a core. A peer that makes thousands at once delays what others asked for by less than a
/// millisecond at a time, and its own connections by a second. Connections of others, behind these
/// in the kernel's queue, wait for them to be accepted only.
#[derive(Default)]
struct Pace {
    last: Option<Instant>,
}

impl Pace {
    fn next(&mut self, now: Instant) -> Instant {
        let next = self
            .last
            .map_or(now, |last| now.max(last + SERVED_INTERVAL));
        self.last = Some(next);
        next
    }
}

/// Connections of an address that are served as they come.
const HELD_WITHOUT_WAITING: usize = 256;

const SERVED_INTERVAL: Duration = Duration::from_micros(250);

/// Connections that wait in the kernel to be accepted, at most: as many as Linux allows unless
/// `net.core.somaxconn` says otherwise.
const QUEUE_MAX: i32 = 4_096;

/// Connections that are accepted before other tasks have a turn, which takes them a millisecond.
/// One that is served at once counts for eight: its task begins to read, and answers.
const AT_ONCE_MAX: usize = 64;
const SERVED_WEIGHT: usize = 7;

fn is_the_connections_own(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}

/// Answers connections that have no place, as far as there are not too many of them.
struct Refusals {
    /// Connections in `held`, at most.
    held_max: usize,
    /// Answered connections, each with the moment at which it is closed; in this order. They take
    /// none of the runtime: nothing is read of them.
    held: VecDeque<(Instant, std::net::TcpStream)>,
    /// Connections closed without an answer since the last pause.
    unanswered: usize,
    log: LogLimit,
}

impl Refusals {
    fn new(held_max: usize) -> Self {
        Self {
            held_max,
            held: VecDeque::new(),
            unanswered: 0,
            log: LogLimit::default(),
        }
    }

    /// Answers a connection and keeps it for a while, or closes it if enough are kept.
    async fn refuse(&mut self, stream: TcpStream, peer: SocketAddr) {
        if let Some(held_back) = self.log.pass() {
            tracing::warn!(%peer, held_back, "an address has too many connections open");
        }
        if self.held.len() < self.held_max
            && let Ok(mut stream) = stream.into_std()
            // A connection that is new takes so few bytes at once.
            && stream.write_all(TOO_MANY_CONNECTIONS).is_ok()
        {
            let after_the_last = self.held.back().map(|(at, _)| *at + HELD_INTERVAL);
            let at = Instant::now() + HELD_FOR;
            let at = after_the_last.map_or(at, |after| after.max(at));
            self.held.push_back((at, stream));
            return;
        }
        self.unanswered += 1;
        if self.unanswered == UNANSWERED_MAX {
            self.unanswered = 0;
            tokio::time::sleep(UNANSWERED_PAUSE).await;
        }
    }

    fn release_at(&self) -> Option<Instant> {
        self.held.front().map(|(at, _)| *at)
    }

    fn release(&mut self) {
        self.held.pop_front();
    }
}

const TOO_MANY_CONNECTIONS: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n\
    Connection: close\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 42\r\n\r\n\
    your address has too many connections open";

/// Places for each refused connection that is kept: with the three quarters that one address may
/// hold, these are as many as all places, so that a peer which wants all of them gets no further.
pub const PLACES_PER_REFUSED: usize = 4;

/// Time from the answer until a refused connection is closed. Closed before its request is read, a
/// connection is reset and the answer lost; and a peer that makes each closed connection anew at
/// once does that no more often. In the time between two, one more is closed: connections that were
/// refused at once do not come back at once.
const HELD_FOR: Duration = Duration::from_secs(1);
const HELD_INTERVAL: Duration = Duration::from_millis(1);

/// Connections that are closed without an answer before a pause. The kernel's queue is empty again
/// soon enough: at worst connections of others wait for some 0.1 s in it.
const UNANSWERED_MAX: usize = 32;
const UNANSWERED_PAUSE: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpSocket;

    /// Both ends of a connection, that of who accepted it first.
    async fn pair(listener: &TcpListener) -> (TcpStream, TcpStream) {
        let address = listener.local_addr().unwrap();
        let (accepted, connected) = tokio::join!(listener.accept(), TcpStream::connect(address));
        (accepted.unwrap().0, connected.unwrap())
    }

    async fn rest(stream: &mut TcpStream) -> String {
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        rest
    }

    #[test]
    fn connections_that_come_at_once_are_served_one_after_the_other() {
        let (now, mut pace) = (Instant::now(), Pace::default());
        assert_eq!(pace.next(now), now);
        assert_eq!(pace.next(now), now + SERVED_INTERVAL);
        assert_eq!(pace.next(now), now + 2 * SERVED_INTERVAL);
        let later = now + Duration::from_secs(1);
        assert_eq!(pace.next(later), later);
    }

    #[tokio::test]
    async fn one_of_many_of_an_address_waits_and_others_do_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut acceptor = Acceptor::new(listener, Places::new(4_096));
        let mut held = Vec::new();
        for at in 0..=HELD_WITHOUT_WAITING {
            let (accepted, connected) = tokio::join!(acceptor.next(), TcpStream::connect(address));
            assert_eq!(accepted.serve_at.is_some(), at == HELD_WITHOUT_WAITING);
            held.push((accepted, connected.unwrap()));
        }
        let other = TcpSocket::new_v4().unwrap();
        other.bind(([127, 0, 0, 2], 0).into()).unwrap();
        let (accepted, _connected) = tokio::join!(acceptor.next(), other.connect(address));
        assert_eq!(accepted.serve_at, None);
    }

    #[tokio::test]
    async fn a_refused_connection_is_answered_and_kept_unless_enough_are() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = listener.local_addr().unwrap();
        let mut refusals = Refusals::new(1);
        let before = Instant::now();
        let (one, mut kept) = pair(&listener).await;
        refusals.refuse(one, peer).await;
        let (other, mut closed) = pair(&listener).await;
        refusals.refuse(other, peer).await;
        assert_eq!(rest(&mut closed).await, "");
        let mut answer = vec![0; TOO_MANY_CONNECTIONS.len()];
        kept.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, TOO_MANY_CONNECTIONS);
        assert!(refusals.release_at().unwrap() >= before + HELD_FOR);
        refusals.release();
        assert_eq!(rest(&mut kept).await, "");
        assert_eq!(refusals.release_at(), None);
    }

    #[tokio::test]
    async fn connections_that_were_refused_at_once_are_closed_one_after_the_other() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = listener.local_addr().unwrap();
        let mut refusals = Refusals::new(100);
        let before = Instant::now();
        let mut kept = Vec::new();
        for _ in 0..20 {
            let (one, other) = pair(&listener).await;
            refusals.refuse(one, peer).await;
            kept.push(other);
        }
        let last = refusals.held.back().unwrap().0;
        assert!(last >= before + HELD_FOR + 19 * HELD_INTERVAL);
        let mut closed = 0;
        while refusals.release_at().is_some() {
            refusals.release();
            closed += 1;
        }
        assert_eq!(closed, kept.len());
    }
}
