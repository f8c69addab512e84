//! `listen --misbehave`: a subscriber that fails as real ones do, to see what a broadcaster makes
//! of it.
//!
//! | misbehaviour | on the wire | a broadcaster should |
//! |---|---|---|
//! | `slow` | a proper answer, late | wait up to its answer time-out |
//! | `hang`, `no-read` | nothing, with the connection open | give up, and count a failure |
//! | `drip` | a proper answer, a byte a second | give up at the same time as for none |
//! | `truncate`, `reset` | half an answer, or RST | count a failure |
//! | `garbage`, `wrong-id` | 200 with no confirmation of this delivery | not count it as confirmed |
//! | `status` | that status | act as `docs/protocol/stateless.md` says of it |
//! | `redirect` | 307 | not follow it |
//!
//! The front accepts connections itself and hands requests to the router of the client, so that a
//! delivery without misbehaviour, and every notice, is handled by the code that users run.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::HeaderValue;
use axum::response::{IntoResponse as _, Response};
use futures_util::{StreamExt as _, stream};
use httppubsub_proto::digest::hex;
use httppubsub_proto::paths::RECEIVE;
use httppubsub_proto::stateless::{ConfirmReceive, HEAD_BYTES_MAX, ReceiveAnswer, ReceiveHead};
use httppubsub_proto::topic::Identifier;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::net::{TcpListener, TcpStream};

use crate::console;
use crate::output::Printer;
use crate::topic::{to_json, to_text};
use crate::units;

/// Misbehaviours and their probabilities.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Misbehaviours(Vec<(Misbehaviour, f64)>);

/// The ways to fail, each a way in which real subscribers have been seen to fail.
#[derive(Clone, Debug, PartialEq)]
enum Misbehaviour {
    /// Confirm this much later.
    Slow(Duration),
    /// Read the message and never answer.
    Hang,
    /// Answer a byte a second.
    Drip,
    /// Announce a whole answer and send half.
    Truncate,
    /// Answer 200 with something that is no confirmation.
    Garbage,
    /// Answer with this status, from 200 to 599, and no body.
    Status(u16),
    /// Answer 307 with this url, which a broadcaster must not follow.
    Redirect(String),
    /// Confirm another delivery.
    WrongId,
    /// Take the head and nothing of the message.
    NoRead,
    /// End the connection with RST.
    Reset,
}

impl FromStr for Misbehaviours {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = Vec::new();
        for part in text.split(',') {
            let (what, probability) = match part.rsplit_once('@') {
                Some((what, probability)) => (what, probability.parse::<f64>().ok()),
                None => (part, Some(1.0)),
            };
            let (what, probability) = match probability {
                // A url may hold an @ as well.
                None if part.starts_with("redirect=") => (part, 1.0),
                Some(probability @ 0.0..=1.0) => (what, probability),
                _ => {
                    return Err(format!(
                        "{part:?}: a probability is between 0 and 1, as in hang@0.1"
                    ));
                }
            };
            all.push((what.parse()?, probability));
        }
        let sum: f64 = all.iter().map(|(_, probability)| probability).sum();
        if sum > 1.0 + 1e-9 {
            return Err(format!(
                "the probabilities sum up to {sum}, which is more than 1; without @ it is 1"
            ));
        }
        Ok(Self(all))
    }
}

impl FromStr for Misbehaviour {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (what, value) = match text.split_once('=') {
            Some((what, value)) => (what, Some(value)),
            None => (text, None),
        };
        let needed = |example| value.ok_or_else(|| format!("{what:?} needs a value: {example}"));
        let misbehaviour = match what {
            "slow" => {
                let duration = units::seconds(needed("slow=2.5 for seconds")?);
                Self::Slow(duration.map_err(|problem| format!("{text:?}: {problem}"))?)
            }
            "status" => match needed("status=503")?.parse() {
                Ok(status @ 200..=599) => Self::Status(status),
                _ => return Err(format!("{text:?}: a status is from 200 to 599")),
            },
            "redirect" => {
                let url = needed("redirect=http://10.0.0.7/")?;
                if url.is_empty() || HeaderValue::from_str(url).is_err() {
                    return Err(format!("{text:?}: no url, as in redirect=http://10.0.0.7/"));
                }
                Self::Redirect(url.to_owned())
            }
            _ if value.is_some() => return Err(unknown(text)),
            "hang" => Self::Hang,
            "drip" => Self::Drip,
            "truncate" => Self::Truncate,
            "garbage" => Self::Garbage,
            "wrong-id" => Self::WrongId,
            "no-read" => Self::NoRead,
            "reset" => Self::Reset,
            _ => return Err(unknown(text)),
        };
        Ok(misbehaviour)
    }
}

/// The complaint about a misbehaviour of no known name.
fn unknown(text: &str) -> String {
    format!(
        "{text:?} is none of slow=SECONDS, hang, drip, truncate, garbage, status=N, redirect=URL, \
         wrong-id, no-read and reset"
    )
}

impl fmt::Display for Misbehaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Slow(_) => "slow",
            Self::Hang => "hang",
            Self::Drip => "drip",
            Self::Truncate => "truncate",
            Self::Garbage => "garbage",
            Self::Status(_) => "status",
            Self::Redirect(_) => "redirect",
            Self::WrongId => "wrong-id",
            Self::NoRead => "no-read",
            Self::Reset => "reset",
        })
    }
}

/// A listener whose deliveries are misbehaved upon.
pub(crate) struct Misbehaving {
    listener: TcpListener,
    pub(crate) address: SocketAddr,
    how: Arc<How>,
}

/// What the connections of one listener share.
struct How {
    misbehaviours: Misbehaviours,
    /// Seeded by `--misbehave-seed`, so that a run can be repeated.
    random: Mutex<StdRng>,
    /// Prints events as JSON; `None` to report them on stderr.
    printer: Option<Printer>,
    /// The confirmation that the last delivery should have got which got another one.
    confirmed: Mutex<Option<Bytes>>,
}

impl How {
    /// The misbehaviour for the next delivery; `None` to handle it as usual.
    ///
    /// Probabilities are stretches of the interval from 0 to 1, in the order of the list; the rest
    /// is proper behaviour.
    fn draw(&self) -> Option<Misbehaviour> {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        let mut left: f64 = random.random();
        let drawn = self.misbehaviours.0.iter().find(|(_, probability)| {
            left -= probability;
            left < 0.0
        });
        drawn.map(|(misbehaviour, _)| misbehaviour.clone())
    }

    /// Says what is done to the delivery that begins so; nothing is known of one that is not read.
    async fn tell(&self, misbehaviour: &Misbehaviour, head: Option<&ReceiveHead>) {
        let how = misbehaviour.to_string();
        let identifier = head.map(|head| hex(head.identifier.as_bytes()));
        let Some(printer) = &self.printer else {
            return match (head, identifier) {
                (Some(head), Some(identifier)) => {
                    let topic = to_text(&head.topic);
                    console::say(format_args!(
                        "misbehaved: {how} upon {topic} ({identifier})"
                    ));
                }
                _ => console::say(format_args!("misbehaved: {how}")),
            };
        };
        let unknown = ["topic", "topic_base64"].map(|name| (name, serde_json::Value::Null));
        let [topic, topic_base64] = head.map_or(unknown, |head| to_json(&head.topic));
        let event = [
            ("event", "misbehaved".into()),
            ("how", how.into()),
            topic,
            topic_base64,
            ("identifier", identifier.into()),
        ];
        if let Err(error) = printer.json(event).await {
            console::say(format_args!("httppubsub: cannot write: {error}"));
        }
    }
}

impl Misbehaving {
    /// Binds `address`. Without a `seed` the draws differ each time.
    pub(crate) async fn listen(
        address: SocketAddr,
        misbehaviours: Misbehaviours,
        seed: Option<u64>,
        printer: Option<Printer>,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address}"))?;
        let seed = seed.unwrap_or_else(rand::random);
        Ok(Self {
            address: listener.local_addr()?,
            listener,
            how: Arc::new(How {
                misbehaviours,
                random: Mutex::new(StdRng::seed_from_u64(seed)),
                printer,
                confirmed: Mutex::default(),
            }),
        })
    }

    /// Serves `router`, more or less, until the program ends.
    pub(crate) async fn serve(self, router: Router) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let (router, how) = (router.clone(), self.how.clone());
                    tokio::spawn(async move {
                        // A misbehaving subscriber does not report errors of its peers.
                        drop(connection(stream, router, how).await);
                    });
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }
}

/// Serves one connection. Requests that are no deliveries, such as MISSED, are handled as usual.
async fn connection(stream: TcpStream, router: Router, how: Arc<How>) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    // It outlives the one that is served, so that how it ends can be said in time.
    let other = std::net::TcpStream::from(stream.as_fd().try_clone_to_owned()?);
    let inner = TowerToHyperService::new(router);
    let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
        let inner = inner.clone();
        let (how, other) = (&how, &other);
        async move {
            // Notices are left alone: a subscriber that misbehaves upon those learns nothing of
            // what it missed.
            let is_delivery = request.uri().path().ends_with(RECEIVE);
            let request = request.map(Body::new);
            let Some(misbehaviour) = is_delivery.then(|| how.draw()).flatten() else {
                return Ok(take(&inner, request).await);
            };
            let (head, request) = match misbehaviour {
                Misbehaviour::NoRead => (None, request),
                _ => beginning(request).await,
            };
            how.tell(&misbehaviour, head.as_ref()).await;
            answer(misbehaviour, how, request, inner, other).await
        }
    });
    hyper::server::conn::http1::Builder::new()
        // Needed for the deadline of heads; without it a connection that says nothing stays for
        // ever.
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .await?;
    Ok(())
}

/// The client's own receiver, which answers properly.
type Inner = TowerToHyperService<Router>;

/// The answer of the client's own receiver.
async fn take(inner: &Inner, request: Request) -> Response {
    let taken = hyper::service::Service::call(inner, request).await;
    taken.unwrap_or_else(|never: Infallible| match never {})
}

/// The head of a delivery, if it can be decoded, and the request with its body as if unread.
async fn beginning(request: Request) -> (Option<ReceiveHead>, Request) {
    let (parts, body) = request.into_parts();
    let mut rest = body.into_data_stream();
    let (mut read, mut head, mut broken) = (Vec::new(), None, None);
    while head.is_none() && read.len() < HEAD_BYTES_MAX {
        match rest.next().await {
            Some(Ok(part)) => read.extend_from_slice(&part),
            Some(Err(error)) => {
                broken = Some(Err(error));
                break;
            }
            None => break,
        }
        // Too little and nonsense look alike here; either way reading ends at the longest head.
        head = ReceiveHead::decode(&read).ok().map(|(head, _)| head);
    }
    let read = stream::iter([Ok(Bytes::from(read))]);
    let body = Body::from_stream(read.chain(stream::iter(broken)).chain(rest));
    (head, Request::from_parts(parts, body))
}

/// Reads a message to its end and forgets it.
async fn ignore(request: Request) {
    let mut parts = request.into_body().into_data_stream();
    while let Some(Ok(_)) = parts.next().await {}
}

/// The answer to a request; an error ends its connection.
///
/// # Errors
///
/// [`io::ErrorKind::TimedOut`] and [`io::ErrorKind::ConnectionReset`] are the misbehaviour itself:
/// hyper ends the connection without an answer.
async fn answer(
    misbehaviour: Misbehaviour,
    how: &How,
    request: Request,
    inner: Inner,
    connection: &std::net::TcpStream,
) -> io::Result<Response> {
    Ok(match misbehaviour {
        Misbehaviour::Slow(delay) => {
            let answer = take(&inner, request).await;
            tokio::time::sleep(delay).await;
            answer
        }
        Misbehaviour::Hang => {
            ignore(request).await;
            std::future::pending().await
        }
        Misbehaviour::NoRead => {
            let _unread = request;
            // That its peer is gone would be behind what is not read.
            tokio::time::sleep(UNREAD_KEPT).await;
            return Err(io::ErrorKind::TimedOut.into());
        }
        Misbehaviour::Drip => {
            let (parts, bytes) = whole(take(&inner, request).await).await?;
            let drops = stream::iter(bytes).then(|byte| async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok::<_, io::Error>(Bytes::copy_from_slice(&[byte]))
            });
            Response::from_parts(parts, Body::from_stream(drops))
        }
        Misbehaviour::Truncate => {
            let (parts, bytes) = whole(take(&inner, request).await).await?;
            let half = bytes.slice(..bytes.len() / 2);
            let cut = stream::once(async {
                // What is ready is sent while there is nothing more, and would be lost otherwise.
                tokio::task::yield_now().await;
                Err(io::Error::other("cut"))
            });
            let cut = stream::iter([Ok(half)]).chain(cut);
            Response::from_parts(parts, Body::from_stream(cut))
        }
        Misbehaviour::Garbage => {
            ignore(request).await;
            "this is not what was asked for".into_response()
        }
        Misbehaviour::Status(status) => {
            ignore(request).await;
            let mut response = Response::new(Body::empty());
            *response.status_mut() = status.try_into().map_err(io::Error::other)?;
            response
        }
        Misbehaviour::Redirect(url) => {
            ignore(request).await;
            let builder = Response::builder().status(307).header("location", url);
            builder.body(Body::empty()).map_err(io::Error::other)?
        }
        Misbehaviour::WrongId => {
            let (mut parts, bytes) = whole(take(&inner, request).await).await?;
            if !parts.status.is_success() {
                return Ok(Response::from_parts(parts, Body::from(bytes)));
            }
            let mut due = how.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
            let earlier = due.replace(bytes.clone());
            drop(due);
            // That of another delivery is vouched for; at first there is none.
            let wrong = earlier.unwrap_or_else(|| of_another_delivery(&bytes));
            // The other confirmation may have another length.
            parts.headers.remove("content-length");
            Response::from_parts(parts, Body::from(wrong))
        }
        Misbehaviour::Reset => {
            let socket = socket2::SockRef::from(connection);
            // Closing with unsent data and no linger sends RST instead of FIN.
            socket.set_linger(Some(Duration::ZERO))?;
            return Err(io::ErrorKind::ConnectionReset.into());
        }
    })
}

/// An answer with its body; its length is still announced.
async fn whole(answer: Response) -> io::Result<(axum::http::response::Parts, Bytes)> {
    let (mut parts, body) = answer.into_parts();
    let bytes = axum::body::to_bytes(body, usize::MAX).await;
    let bytes = bytes.map_err(io::Error::other)?;
    parts.headers.insert("content-length", bytes.len().into());
    Ok((parts, bytes))
}

/// Time for which an unread connection is kept: longer than broadcasters wait.
const UNREAD_KEPT: Duration = Duration::from_secs(300);

/// This confirmation as if it were one of another delivery.
fn of_another_delivery(answer: &[u8]) -> Bytes {
    match ReceiveAnswer::decode(answer) {
        Ok(ReceiveAnswer::Confirm(confirm)) => {
            let mut other = confirm.identifier.as_bytes().to_vec();
            other.iter_mut().for_each(|byte| *byte ^= 1);
            let identifier = Identifier::new(other).unwrap_or(confirm.identifier);
            ConfirmReceive {
                identifier,
                ..confirm
            }
            .encode()
            .into()
        }
        _ => Bytes::copy_from_slice(answer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_says_what_is_done_how_often() {
        let list = "slow=1.5@0.25,status=503@0.25,redirect=http://u@host/,hang@0";
        let error = list.parse::<Misbehaviours>().expect_err("it is too much");
        assert!(error.contains("sum up to 1.5"), "{error}");
        let list = "slow=1500ms@0.25,status=503@0.25,redirect=http://u@host/@0.5,hang@0";
        let parsed: Misbehaviours = list.parse().expect("it is a list");
        let slow = Misbehaviour::Slow(Duration::from_millis(1_500));
        let redirect = Misbehaviour::Redirect("http://u@host/".to_owned());
        let want = [
            (slow, 0.25),
            (Misbehaviour::Status(503), 0.25),
            (redirect, 0.5),
            (Misbehaviour::Hang, 0.0),
        ];
        assert_eq!(parsed.0, want);
        for (list, why) in [
            ("", "is none of slow=SECONDS, hang"),
            ("sulk", "\"sulk\" is none of"),
            ("hang=1", "\"hang=1\" is none of"),
            ("slow", "needs a value: slow=2.5"),
            ("slow=-1", "not a number of seconds"),
            ("status=99", "from 200 to 599"),
            ("slow=soon", "not a number of seconds"),
            ("status=1000", "from 200 to 599"),
            ("status=", "from 200 to 599"),
            ("redirect", "needs a value: redirect=http"),
            ("redirect=", "no url, as in redirect=http"),
            ("redirect=\n@0.1", "no url, as in redirect=http"),
            ("hang@1.5", "a probability is between 0 and 1"),
            ("hang@-0.1", "a probability is between 0 and 1"),
            ("hang@often", "a probability is between 0 and 1"),
            ("hang@NaN", "a probability is between 0 and 1"),
            ("hang@0.5,", "\"\" is none of"),
        ] {
            let error = list.parse::<Misbehaviours>().expect_err(list);
            assert!(error.contains(why), "{list:?}: {error}");
        }
    }

    #[test]
    fn a_seed_repeats_itself() {
        let draw = |seed| {
            let how = How {
                misbehaviours: "hang@0.4,garbage@0.4".parse().expect("it is a list"),
                random: Mutex::new(StdRng::seed_from_u64(seed)),
                printer: None,
                confirmed: Mutex::default(),
            };
            (0..100).map(|_| how.draw()).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        for drawn in [None, Some(Misbehaviour::Hang), Some(Misbehaviour::Garbage)] {
            assert!(draw(1).contains(&drawn), "{drawn:?}");
        }
    }
}
