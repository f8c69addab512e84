//! `POST /v1/topics/{topic}`: publishes the body.
//!
//! The order of steps is that of NOTIFY: admission before anything is read, the token and the
//! headers before the message is, the message before anybody is asked for.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use futures_util::stream::{self, StreamExt as _};
use http::header::ACCEPT;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use httppubsub_net::body::{FillError, Payload};
use httppubsub_net::random_bytes;
use httppubsub_proto::paths;
use httppubsub_proto::plain::{
    MessageId, Outcomes, Published, Receipt, Rights, Tokens, topic_from_path,
};
use httppubsub_proto::topic::Topic;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::http::endpoints::Endpoints;
use crate::http::plain::digest::Announced;
use crate::http::plain::door::PlainDoor;
use crate::http::plain::event;
use crate::http::plain::keys::{Key, UnderWay};
use crate::http::plain::refused::Refused;
use crate::http::plain::token::token_of;
use crate::http::reception::Incoming;
use crate::http::reply::{Asker, Failure, answer_json};
use crate::notify::notify::{IfFull, Notify, NotifyError};
use crate::notify::receipts::{Receipt as Told, Receipts};
use crate::notify::tally::Reached;

/// Publishes the body of the request, and answers what became of it.
pub(crate) async fn publish(State(endpoints): State<Arc<Endpoints>>, request: Request) -> Response {
    let asker = Asker::of("POST /v1/topics", &request);
    let answer = take(&endpoints, request).await;
    asker.answer_plainly(&endpoints.refusals, answer)
}

/// Answers another method.
pub(crate) async fn other_method(
    State(endpoints): State<Arc<Endpoints>>,
    request: Request,
) -> Response {
    let asker = Asker::of("/v1/topics", &request);
    let refused = match endpoints.plain.tokens().is_empty() {
        true => Refused::NoTokens,
        false => Refused::Method(request.method().clone()),
    };
    endpoints.reception.abandon(request);
    asker.answer_plainly(&endpoints.refusals, Err(refused.into()))
}

/// Takes a publication and answers it. What fails before the message is delivered leaves nothing
/// behind: a key that came with it may be used again.
async fn take(endpoints: &Endpoints, request: Request) -> Result<Response, Failure> {
    let (reception, notify, door) = (&endpoints.reception, &endpoints.notify, &endpoints.plain);
    // The tokens of this moment: a request is judged by one file, however long its body takes.
    let tokens = door.tokens();
    let mut incoming = reception.take(request);
    if tokens.is_empty() {
        return Err(Refused::NoTokens.into());
    }
    // It is turned away before anything is read, and under way when somebody vouches for it.
    drop(notify.admit(0)?);
    let headers = &incoming.parts.headers;
    let (topic, rights) = authorize(&tokens, &incoming)?;
    // Its connection makes no room for others before it is answered.
    if let Some(peer) = incoming.peer() {
        peer.vouched();
    }
    // All that can be refused by the head alone is refused before the body is asked for.
    judge_hops(headers)?;
    event::judge(headers)?;
    let announced = Announced::of(headers)?;
    let key = key_of(headers)?;
    let id = key.map(|key| MessageId::of_key(rights.name(), &topic, &key));
    let sees_all = rights.is_admin();
    let wants_receipts = wants_receipts(headers);
    // Drawn if there is no key: nobody can name it, so nothing has to be remembered.
    let drawn = || MessageId::from_bytes(random_bytes());
    let key = id.map(|id| door.keys.begin(id));
    let id = id.unwrap_or_else(drawn);
    let under_way = match key {
        None => None,
        Some(Key::UnderWay) => return Err(Refused::KeyUnderWay.into()),
        Some(Key::Finished(before)) => {
            // Read all the same: only the digest tells if it is the same message.
            let payload = read(notify, &mut incoming, &announced).await?;
            return match before.sha512 == *payload.sha512() {
                true => Ok(said(&before, true)),
                false => Err(Refused::KeyReused.into()),
            };
        }
        Some(Key::New(mut under_way)) => {
            // One round trip to the store, and only where there are others.
            if !under_way.spend().await? {
                return Err(Refused::KeyTakenElsewhere.into());
            }
            Some(under_way)
        }
    };
    let payload = read(notify, &mut incoming, &announced).await?;
    let publication = Publication {
        id,
        topic,
        payload,
        under_way,
    };
    if wants_receipts {
        return tell(door, notify.clone(), publication, sees_all).await;
    }
    // A task of its own: a publisher that gives up and asks again is not to publish twice.
    let published = publication.deliver(notify.clone(), None);
    match door.tasks.spawn(published).await {
        Ok(published) => Ok(said(&published?, false)),
        Err(_) => Err(Failure::Notify(NotifyError::Stopped)),
    }
}

/// Delivers a message, and answers with a line for each outcome as it happens. What fails before it
/// is accepted is answered as without receipts.
async fn tell(
    door: &PlainDoor,
    notify: Arc<Notify>,
    publication: Publication,
    sees_all: bool,
) -> Result<Response, Failure> {
    let (receipts, mut told) = Receipts::new();
    // The message itself goes to the task that delivers it.
    let (id, bytes) = (publication.id.to_string(), publication.payload.len());
    let sha512 = publication.payload.sha512().to_string();
    let accepted = move |matched| {
        let accepted = Receipt::Accepted {
            id,
            matched,
            bytes,
            sha512,
        };
        accepted.to_line()
    };
    let delivering = publication.deliver(notify, Some(receipts.clone()));
    let mut delivering = door.tasks.spawn(delivering);
    let matched = tokio::select! {
        // A message is accepted before it is delivered.
        biased;
        Some(Told::Accepted { matched }) = told.recv() => matched,
        // Nobody is subscribed, or nothing began.
        ended = &mut delivering => {
            let published = ended.map_err(|_| Failure::Notify(NotifyError::Stopped))??;
            let lines = [accepted(0), done(&published, 0)].concat();
            return Ok(answer_json(StatusCode::OK, Receipt::CONTENT_TYPE, lines));
        }
    };
    let lines = Lines {
        told,
        receipts,
        delivering,
        sees_all,
        is_done: false,
    };
    let first = stream::once(async move { Ok::<_, Infallible>(accepted(matched)) });
    let rest = stream::unfold(lines, |mut lines| async move {
        let line = lines.next().await?;
        Some((Ok(line), lines))
    });
    let body = Body::from_stream(first.chain(rest));
    let mut response = answer_json(StatusCode::OK, Receipt::CONTENT_TYPE, String::new());
    *response.body_mut() = body;
    Ok(response)
}

/// The further lines of an answer. They are made as the publisher reads them: what it does not
/// read waits within the bound of the channel, and nothing else waits for it.
struct Lines {
    /// Outcomes, in the order in which they happen.
    told: mpsc::Receiver<Told>,
    /// Has the number of outcomes without a line.
    receipts: Receipts,
    /// Ends with the last line: everything is accounted for then, or the answer is due. It goes on
    /// when this is dropped.
    delivering: JoinHandle<Result<Published, Failure>>,
    /// `true` if the token may know whose deliveries they are.
    sees_all: bool,
    /// `true` after the last line.
    is_done: bool,
}

impl Lines {
    /// The next one; `None` after the last.
    async fn next(&mut self) -> Option<String> {
        if self.is_done {
            return None;
        }
        tokio::select! {
            // What waits comes before the last line. The channel may outlive the answer, which is
            // due at the deadline, so its end is not waited for.
            biased;
            Some(told) = self.told.recv() => Some(self.line(told)),
            ended = &mut self.delivering => {
                self.is_done = true;
                // Outcomes between the two looks. The delivery has ended, so there are no more.
                let mut lines = String::new();
                while let Ok(told) = self.told.try_recv() {
                    lines.push_str(&self.line(told));
                }
                lines.push_str(&match ended {
                    Ok(Ok(published)) => done(&published, self.receipts.left_out()),
                    Ok(Err(failure)) => failed(failure.code()),
                    Err(_) => failed(Failure::Notify(NotifyError::Stopped).code()),
                });
                Some(lines)
            }
        }
    }

    /// The line of one delivery. Whose it is, and why it failed, is not for everybody (T18).
    fn line(&self, told: Told) -> String {
        match told {
            Told::Accepted { .. } => String::new(),
            Told::Delivered {
                outcome,
                after,
                origin,
                why,
            } => {
                let line = Receipt::Delivery {
                    outcome: outcome.to_owned(),
                    ms: u64::try_from(after.as_millis()).unwrap_or(u64::MAX),
                    url: origin.filter(|_| self.sees_all),
                    why: why.filter(|_| self.sees_all),
                };
                line.to_line()
            }
        }
    }
}

/// The last line, when all are accounted for.
fn done(published: &Published, left_out: u64) -> String {
    let done = Receipt::Done {
        subscribers: published.subscribers,
        outcomes: published.outcomes,
        left_out,
    };
    done.to_line()
}

/// The last line, when not.
fn failed(code: &str) -> String {
    let code = code.to_owned();
    Receipt::Failed { code }.to_line()
}

/// `true` if the publisher asks for a line for each outcome. What else it would take, and how much
/// it likes each, makes no difference: nothing else that it can name is here.
fn wants_receipts(headers: &HeaderMap) -> bool {
    let accepted = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|it| it.to_str().ok());
    let mut ranges = accepted.flat_map(|it| it.split(','));
    ranges.any(|range| {
        // A weight may follow.
        let range = range.split(';').next().unwrap_or_default();
        range.trim().eq_ignore_ascii_case(Receipt::CONTENT_TYPE)
    })
}

/// A message that was read, and is to be delivered.
struct Publication {
    /// Drawn, or made of a key.
    id: MessageId,
    /// As the url has it, decoded.
    topic: Topic,
    /// Whole, and of the digests that were announced.
    payload: Payload,
    /// Its idempotency key, which is finished with it.
    under_way: Option<UnderWay>,
}

impl Publication {
    /// Delivers it, to its end, also if nobody waits for the answer any longer.
    async fn deliver(
        self,
        notify: Arc<Notify>,
        receipts: Option<Receipts>,
    ) -> Result<Published, Failure> {
        let Self {
            id,
            topic,
            payload,
            under_way,
        } = self;
        let (bytes, sha512) = (payload.len(), *payload.sha512());
        let published = |reached: Reached| Published {
            id: id.to_string(),
            topic: topic.clone(),
            bytes,
            sha512,
            subscribers: reached.subscribers,
            outcomes: Outcomes {
                confirmed: reached.confirmed,
                unsubscribed: reached.unsubscribed,
                missed: reached.missed,
                dropped: reached.dropped,
                unrecorded: reached.unrecorded,
            },
        };
        let notifying = notify.notify_with_receipts(topic.clone(), payload, IfFull::Fail, receipts);
        let published = match notifying.await {
            Ok(reached) => {
                tracing::debug!(%id, ?topic, bytes, ?reached, "published");
                published(reached)
            }
            Err(NotifyError::Unrecorded(unrecorded)) => {
                tracing::error!(%id, ?topic, error = %unrecorded, "not accounted for");
                // The publisher gets the counts: it may be able to tell the others by itself.
                let published = Box::new(published(unrecorded.reached));
                return Err(Refused::NotAccountedFor(published).into());
            }
            Err(error) => return Err(error.into()),
        };
        if let Some(under_way) = under_way {
            under_way.finish(published.clone());
        }
        Ok(published)
    }
}

/// Reads the message, whose length nobody has to announce, and compares it with the digests that
/// were announced.
async fn read(
    notify: &Notify,
    incoming: &mut Incoming<'_>,
    announced: &Announced,
) -> Result<Payload, Failure> {
    // A chunked body has no length; its bound is looked at while it comes.
    let bytes = incoming.body().bytes_left().unwrap_or(0);
    let _guard = notify.admit(bytes)?;
    let bytes_max = notify.message_bytes_max.unwrap_or(u64::MAX);
    let payload = Payload::take(incoming.body(), bytes_max).await?;
    let verified = announced.verify(&payload).await;
    verified.map_err(FillError::from)??;
    Ok(payload)
}

/// The topic of a request, and the rights of its token, which are good for that topic.
pub(super) fn authorize<'a>(
    tokens: &'a Tokens,
    incoming: &Incoming<'_>,
) -> Result<(Topic, &'a Rights), Refused> {
    let token = token_of(&incoming.parts.headers)?;
    let rights = tokens.judge(token.as_deref(), incoming.now)?;
    let topic = topic_of(&incoming.parts.uri)?;
    match rights.may_publish(&topic) {
        true => Ok((topic, rights)),
        false => {
            let name = rights.name().to_owned();
            Err(Refused::NotAllowed { name })
        }
    }
}

/// The topic that a url names.
fn topic_of(uri: &http::Uri) -> Result<Topic, Refused> {
    if uri.query().is_some() {
        return Err(Refused::Query);
    }
    let topic = uri.path().strip_prefix(paths::TOPICS).unwrap_or_default();
    Ok(topic_from_path(topic)?)
}

/// The idempotency key: a structured field is a text in quotes, and many send it bare.
fn key_of(headers: &HeaderMap) -> Result<Option<Vec<u8>>, Refused> {
    let mut values = headers.get_all(&IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let value = value.as_bytes();
    let quoted = value
        .strip_prefix(b"\"")
        .and_then(|it| it.strip_suffix(b"\""));
    let key = quoted.unwrap_or(value);
    let is_key = (1..=255).contains(&key.len()) && key.iter().all(u8::is_ascii_graphic);
    match is_key && values.next().is_none() {
        true => Ok(Some(key.to_vec())),
        false => Err(Refused::KeyMalformed),
    }
}

/// Refuses a message that has come through many broadcasters, which may publish to each other.
fn judge_hops(headers: &HeaderMap) -> Result<(), Refused> {
    let Some(hops) = headers.get(&HOPS) else {
        return Ok(());
    };
    let hops = hops.to_str().ok().and_then(|it| it.parse().ok());
    match hops.ok_or(Refused::Hops)? {
        hops if hops >= HOPS_MAX => Err(Refused::Loop { hops }),
        _ => Ok(()),
    }
}

/// Of the IETF's draft of that name.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The number of broadcasters that a message has come through.
const HOPS: HeaderName = HeaderName::from_static("httppubsub-hops");

/// Longer chains of broadcasters that publish to each other are loops.
const HOPS_MAX: u64 = 5;

/// The answer to a publication that is accounted for.
fn said(published: &Published, is_replayed: bool) -> Response {
    let mut response = answer_json(StatusCode::OK, "application/json", published.to_text());
    if is_replayed {
        let replayed = HeaderName::from_static("idempotency-replayed");
        response
            .headers_mut()
            .insert(replayed, HeaderValue::from_static("true"));
    }
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    #[test]
    fn a_key_is_quoted_or_bare_and_visible() {
        let key = |value: &[u8]| {
            let value = HeaderValue::from_bytes(value).unwrap();
            key_of(&HeaderMap::from_iter([(IDEMPOTENCY_KEY, value)]))
        };
        assert_eq!(key_of(&HeaderMap::new()).unwrap(), None);
        assert_eq!(key(b"abc-1").unwrap(), Some(b"abc-1".to_vec()));
        assert_eq!(key(b"\"abc-1\"").unwrap(), Some(b"abc-1".to_vec()));
        assert!(key(&[b'a'; 255]).is_ok());
        for wrong in [&b""[..], b"\"\"", b"a b", b"\xe9", &[b'a'; 256]] {
            assert!(key(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_topic_is_all_that_follows_and_has_no_query() {
        let topic = |uri: &str| topic_of(&uri.parse().unwrap());
        assert_eq!(topic("/v1/topics/a/b").unwrap().as_bytes(), b"a/b");
        assert_eq!(topic("/v1/topics/").unwrap().as_bytes(), b"");
        assert_eq!(topic("/v1/topics/a%3Fb").unwrap().as_bytes(), b"a?b");
        assert!(matches!(topic("/v1/topics/a?b"), Err(Refused::Query)));
        assert!(matches!(topic("/v1/topics/%"), Err(Refused::Topic(_))));
    }

    #[test]
    fn what_came_through_five_broadcasters_is_a_loop() {
        let code = |hops: &str| {
            let headers = HeaderMap::from_iter([(HOPS, hops.parse().unwrap())]);
            judge_hops(&headers).err().map(|it| it.code())
        };
        assert_eq!(
            judge_hops(&HeaderMap::new()).err().map(|it| it.code()),
            None
        );
        assert_eq!(
            [code("0"), code("4"), code("5")],
            [None, None, Some("loop")]
        );
        assert_eq!(code("-1"), Some("hops_malformed"));
    }
}
