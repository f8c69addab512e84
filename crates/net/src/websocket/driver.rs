//! Parts of a driver that both ends of a session have: each drives a state machine of
//! [`httppubsub_proto::session`] over a [`Socket`](crate::websocket::Socket).

use bytes::Bytes;
use futures_util::future::BoxFuture;
use httppubsub_proto::session::SessionError;
use httppubsub_proto::stateful::BodyHead;
use httppubsub_proto::time::Now;
use httppubsub_proto::topic::Topic;
use tokio::time::Instant;

use crate::body::payload::Payload;
use crate::body::spool::Spool;
use crate::body::writer::{FillError, PayloadWriter};
use crate::body::zstd::Zstd;

/// The moment of a machine's `deadline` for the runtime's clock, if it is `now` for the machine.
pub fn wake_at(deadline: Option<Now>, now: Now) -> Option<Instant> {
    let left = deadline?.since_unix().saturating_sub(now.since_unix());
    Some(Instant::now() + left)
}

/// Work that a driver waits for beside everything else, one at a time.
pub struct Beside<T>(Option<BoxFuture<'static, T>>);

impl<T> Default for Beside<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Beside<T> {
    /// Begins `work`, in place of what was begun before.
    pub fn begin(&mut self, work: impl Future<Output = T> + Send + 'static) {
        self.0 = Some(Box::pin(work));
    }

    /// `true` if there is work.
    pub fn is_busy(&self) -> bool {
        self.0.is_some()
    }

    /// The result of the work; pending while there is none. May be dropped at any time.
    pub async fn done(&mut self) -> T {
        let Some(work) = &mut self.0 else {
            return std::future::pending().await;
        };
        let result = work.await;
        self.0 = None;
        result
    }
}

/// The compressors of a session by their numbers, oldest first. The machine knows the same.
#[derive(Debug, Default)]
pub struct Compressors(Vec<(u32, Zstd)>);

impl Compressors {
    /// The compressor `id`, if the session has it.
    pub fn get(&self, id: u64) -> Option<Zstd> {
        let found = self.0.iter().find(|(it, _)| u64::from(*it) == id);
        found.map(|(_, zstd)| zstd.clone())
    }

    /// Adds the compressor `id`.
    pub fn add(&mut self, id: u32, zstd: Zstd) {
        self.0.push((id, zstd));
    }

    /// Forgets the compressors for which `is_kept` returns `false`.
    pub fn retain(&mut self, is_kept: impl Fn(u32) -> bool) {
        self.0.retain(|(id, _)| is_kept(*id));
    }

    /// Their numbers.
    pub fn ids(&self) -> impl Iterator<Item = u32> {
        self.0.iter().map(|(id, _)| *id)
    }
}

/// A message of which not all is here. Nothing is kept of one that is refused, for the reason `R`,
/// but all of it still comes.
#[derive(Debug)]
pub struct Incoming<R> {
    /// Topic of the first part; the others belong to it by their place.
    topic: Topic,
    /// Length and digest of the wire form, and of what it unfolds to.
    head: BodyHead,
    /// Collects the parts; after a refusal they are counted by the machine and dropped here.
    body: Result<PayloadWriter, R>,
}

impl<R> Incoming<R> {
    /// A message that begins, to be kept in `spool`. `refuse` says what a failure to keep it is: a
    /// reason to refuse it, or to end the session.
    pub fn new(
        topic: Topic,
        head: BodyHead,
        spool: &Spool,
        refuse: impl FnOnce(FillError) -> Result<R, SessionError>,
    ) -> Result<Self, SessionError> {
        let writer = PayloadWriter::new(spool, head.compressed_length, head.compressed_sha512);
        let body = kept_or_refused(writer, refuse)?;
        Ok(Self { topic, head, body })
    }

    /// A message that begins and is refused.
    pub fn refused(topic: Topic, head: BodyHead, why: R) -> Self {
        let body = Err(why);
        Self { topic, head, body }
    }
}

/// A message of which all is here, or came and was refused for the reason `R`.
#[derive(Debug)]
pub struct Arrived<T, R> {
    /// The machine's ticket, for the answer.
    pub ticket: T,
    /// The topic.
    pub topic: Topic,
    /// The head, as it was announced.
    pub head: BodyHead,
    /// The wire form, which has the length and digest that were announced.
    pub wire: Result<Payload, R>,
}

/// Puts messages together that arrive in parts.
#[derive(Debug)]
pub struct IncomingParts<R>(Option<Box<Incoming<R>>>);

impl<R> Default for IncomingParts<R> {
    fn default() -> Self {
        Self(None)
    }
}

impl<R> IncomingParts<R> {
    /// Takes the part `bytes` in: the first of the message `begins`, or the next of the one under
    /// way. Returns the message with its last part, which comes with the ticket `ends`. `refuse` is
    /// that of [`Incoming::new`].
    pub async fn take<T>(
        &mut self,
        begins: Option<Incoming<R>>,
        bytes: Bytes,
        ends: Option<T>,
        refuse: impl Fn(FillError) -> Result<R, SessionError>,
    ) -> Result<Option<Arrived<T, R>>, SessionError> {
        let mut incoming = match begins {
            // It may come whole between the parts of another, which stays under way.
            Some(incoming) => Box::new(incoming),
            None => match self.0.take() {
                Some(incoming) => incoming,
                None => return Ok(None),
            },
        };
        if let Ok(writer) = &mut incoming.body
            && let Err(error) = writer.push(bytes).await
        {
            incoming.body = Err(refuse(error)?);
        }
        let Some(ticket) = ends else {
            self.0 = Some(incoming);
            return Ok(None);
        };
        let Incoming { topic, head, body } = *incoming;
        let wire = match body {
            Ok(writer) => kept_or_refused(writer.finish().await, refuse)?,
            Err(why) => Err(why),
        };
        Ok(Some(Arrived {
            ticket,
            topic,
            head,
            wire,
        }))
    }
}

/// Sorts a failure to keep a message: what `refuse` turns into an error ends the session, the rest
/// only the message.
fn kept_or_refused<T, R>(
    kept: Result<T, FillError>,
    refuse: impl FnOnce(FillError) -> Result<R, SessionError>,
) -> Result<Result<T, R>, SessionError> {
    match kept {
        Ok(kept) => Ok(Ok(kept)),
        Err(error) => refuse(error).map(Err),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use httppubsub_proto::digest::Sha512;
    use httppubsub_proto::session::close_code;
    use std::time::Duration;

    fn head(body: &[u8]) -> BodyHead {
        BodyHead {
            compressor: 0,
            compressed_length: body.len() as u64,
            decompressed_length: body.len() as u64,
            compressed_sha512: Sha512::of(body),
        }
    }

    fn incoming(topic: &'static str, body: &[u8]) -> Incoming<String> {
        let topic = Topic::new(topic).unwrap();
        Incoming::new(topic, head(body), &Spool::default(), refuse).unwrap()
    }

    /// A wrong digest is a reason to refuse, everything else to end the session.
    fn refuse(error: FillError) -> Result<String, SessionError> {
        match error {
            FillError::Digest { .. } => Ok(error.to_string()),
            error => Err(SessionError::ended(close_code::PROTOCOL, error.to_string())),
        }
    }

    #[tokio::test]
    async fn a_message_that_comes_whole_between_the_parts_of_another_changes_nothing_there() {
        let mut parts = IncomingParts::default();
        let begins = Some(incoming("stream", b"hello"));
        let more = parts.take(begins, "hel".into(), None::<u8>, refuse).await;
        assert!(more.unwrap().is_none());
        let begins = Some(incoming("whole", b"one"));
        let one = parts.take(begins, "one".into(), Some(1), refuse).await;
        let one = one.unwrap().unwrap();
        assert_eq!(one.wire.unwrap().to_bytes().await.unwrap(), "one");
        let hello = parts.take(None, "lo".into(), Some(2), refuse).await;
        let hello = hello.unwrap().unwrap();
        assert_eq!((hello.ticket, hello.topic.as_bytes()), (2, &b"stream"[..]));
        assert_eq!(hello.wire.unwrap().to_bytes().await.unwrap(), "hello");
        let nothing = parts.take(None, "?".into(), Some(3), refuse).await;
        assert!(nothing.unwrap().is_none(), "none is under way");
    }

    #[tokio::test]
    async fn a_message_that_is_not_what_was_announced_is_refused_or_ends_the_session() {
        let mut parts = IncomingParts::default();
        let begins = Some(incoming("t", b"hello"));
        let wrong = parts.take(begins, "jello".into(), Some(1), refuse).await;
        assert!(wrong.unwrap().unwrap().wire.is_err());
        let begins = Some(incoming("t", b"hello"));
        let longer = parts.take(begins, "hello!".into(), Some(2), refuse).await;
        assert_eq!(longer.unwrap_err().close_code(), close_code::PROTOCOL);
        let refused = Incoming::refused(Topic::new("t").unwrap(), head(b"hello"), "no".into());
        let refused = parts
            .take(Some(refused), "hello".into(), Some(3), refuse)
            .await;
        assert_eq!(refused.unwrap().unwrap().wire.unwrap_err(), "no");
    }

    #[tokio::test(start_paused = true)]
    async fn work_beside_goes_on_where_it_was_left() {
        let mut beside = Beside::default();
        let second = Duration::from_secs(1);
        beside.begin(async move {
            tokio::time::sleep(second).await;
            "done"
        });
        let began = Instant::now();
        tokio::time::timeout(second / 2, beside.done())
            .await
            .unwrap_err();
        assert!(beside.is_busy());
        assert_eq!(beside.done().await, "done");
        assert_eq!(began.elapsed(), second);
        assert!(!beside.is_busy());
        tokio::time::timeout(second, beside.done())
            .await
            .unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_is_over_is_now() {
        let now = Now::from_unix(Duration::from_secs(100));
        let second = Duration::from_secs(1);
        assert_eq!(wake_at(None, now), None);
        assert_eq!(
            wake_at(Some(now + second), now),
            Some(Instant::now() + second)
        );
        assert_eq!(wake_at(Some(now), now + second), Some(Instant::now()));
    }
}
