//! `POST /v1/topics/{topic}`: publishes the body.
//!
//! The order of steps is that of NOTIFY: admission before anything is read, the token and the
//! headers before the message is, the message before anybody is asked for.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use http::header::CACHE_CONTROL;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use httppubsub_net::body::{FillError, Payload};
use httppubsub_net::random_bytes;
use httppubsub_proto::paths;
use httppubsub_proto::plain::{MessageId, Outcomes, Published, topic_from_path};
use httppubsub_proto::topic::Topic;

use crate::http::endpoints::Endpoints;
use crate::http::plain::digest::Announced;
use crate::http::plain::event;
use crate::http::plain::keys::{Key, UnderWay};
use crate::http::plain::refused::Refused;
use crate::http::plain::token::token_of;
use crate::http::reception::Incoming;
use crate::http::reply::{Asker, Failure, answer_json};
use crate::notify::notify::{IfFull, Notify, NotifyError};
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

/// Takes a publication and answers it.
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
    let token = token_of(headers)?;
    let rights = tokens.judge(token.as_deref(), incoming.now);
    let rights = rights.map_err(Refused::from)?;
    let topic = topic_of(&incoming.parts.uri)?;
    if !rights.may_publish(&topic) {
        let name = rights.name().to_owned();
        return Err(Refused::NotAllowed { name }.into());
    }
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
    let Some(id) = id else {
        // Drawn: nobody can name it, so nothing has to be remembered.
        let id = MessageId::from_bytes(random_bytes());
        let payload = read(notify, &mut incoming, &announced).await?;
        let published = deliver(notify, id, topic, payload).await?;
        return Ok(said(&published, false));
    };
    match door.keys.begin(id) {
        Key::UnderWay => Err(Refused::KeyUnderWay.into()),
        Key::Finished(before) => {
            // Read all the same: only the digest tells if it is the same message.
            let payload = read(notify, &mut incoming, &announced).await?;
            match before.sha512 == *payload.sha512() {
                true => Ok(said(&before, true)),
                false => Err(Refused::KeyReused.into()),
            }
        }
        Key::New(mut under_way) => {
            // One round trip to the store, and only where there are others.
            if !under_way.spend().await? {
                return Err(Refused::KeyTakenElsewhere.into());
            }
            let payload = read(notify, &mut incoming, &announced).await?;
            let published = finish(notify.clone(), under_way, id, topic, payload);
            // A task of its own: a publisher that gives up and asks again is not to publish twice.
            let published = door.tasks.spawn(published).await;
            match published {
                Ok(published) => Ok(said(&published?, false)),
                Err(_) => Err(Failure::Notify(NotifyError::Stopped)),
            }
        }
    }
}

/// Reads the message, and compares it with the digests that were announced.
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

/// Delivers the message of a key, which is then finished.
async fn finish(
    notify: Arc<Notify>,
    under_way: UnderWay,
    id: MessageId,
    topic: Topic,
    payload: Payload,
) -> Result<Published, Failure> {
    let published = deliver(&notify, id, topic, payload).await?;
    under_way.finish(published.clone());
    Ok(published)
}

/// Delivers the message.
async fn deliver(
    notify: &Arc<Notify>,
    id: MessageId,
    topic: Topic,
    payload: Payload,
) -> Result<Published, Failure> {
    let (bytes, sha512) = (payload.len(), *payload.sha512());
    let notified = notify.notify(topic.clone(), payload, IfFull::Fail).await;
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
    match notified {
        Ok(reached) => {
            tracing::debug!(%id, ?topic, bytes, ?reached, "published");
            Ok(published(reached))
        }
        Err(NotifyError::Unrecorded(unrecorded)) => {
            tracing::error!(%id, ?topic, error = %unrecorded, "not accounted for");
            // The publisher gets the counts: it may be able to tell the others by itself.
            let published = Box::new(published(unrecorded.reached));
            Err(Refused::NotAccountedFor(published).into())
        }
        Err(error) => Err(error.into()),
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
    debug_assert!(response.headers().contains_key(CACHE_CONTROL));
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
