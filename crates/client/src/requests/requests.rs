//! Asks broadcasters until one has done it, within the rules of `docs/protocol/stateless.md` §9.
//!
//! ```text
//!  pass 0: broadcaster by broadcaster, by priority     --> done: the answer
//!     |      not done there: the next one              --> refused: an error, at once
//!     |      perhaps done: the next one, or an error   --> not sent: an error, at once
//!     | all of them tried: 1 to 2 s
//!  pass 1: again, in a new order
//!     | ...
//!  no pass left: `Ambiguous` if any attempt was, otherwise `RetriesExhausted`
//! ```
//!
//! An attempt whose answer was lost colours all that come after it: a later refusal does not say
//! that the first one did nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use http::StatusCode;
use httppubsub_net::Clock;
use httppubsub_net::body::Payload;
use httppubsub_net::inbound::ReplayGuard;
use httppubsub_net::outbound::{PostError, Response};
use httppubsub_proto::auth::Authorization;
use httppubsub_proto::backoff::before_pass;
use httppubsub_proto::subscription::{Interest, StrongEtag, SubscriptionSet};
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::ClientUrls;
use tokio_util::sync::CancellationToken;

use crate::config::{BroadcasterAddress, ClientConfig};
use crate::error::{AttemptError, RequestError};
use crate::requests::ask::{Ask, Change, Check, Notify, Set, Subscribe, Unsubscribe};
use crate::requests::network::{Network, Posts};
use crate::requests::order;
use crate::requests::outcome::{Outcome, outcome};

/// All that can be asked of the broadcasters.
#[derive(Debug)]
pub(crate) struct Requests<P = Network> {
    posts: P,
    broadcasters: Vec<BroadcasterAddress>,
    passes: u32,
    /// Unless it is set, what may be done twice is asked again and a notification is not.
    retry_ambiguous: Option<bool>,
    to_broadcaster: Arc<dyn Authorization>,
    to_subscriber: Arc<dyn Authorization>,
    guard: Arc<ReplayGuard>,
    clock: Clock,
    /// Draws from [0, 1).
    random: fn() -> f64,
    /// Cancelled when the client begins to close.
    closing: CancellationToken,
}

/// The end of one attempt.
enum Attempt<T> {
    /// The answer was read, and its authorization was spent.
    Done(T),
    /// The broadcaster had it so already.
    AlreadySo {
        status: StatusCode,
        reason: String,
    },
    /// It was certainly not done there.
    Later(AttemptError),
    /// It was sent whole, and nobody knows whether it was done.
    Ambiguous(AttemptError),
    Refused {
        status: StatusCode,
        reason: String,
    },
    /// It cannot be put into a request for any broadcaster.
    NotSent(PostError),
}

impl<P: Posts> Requests<P> {
    /// Requests by `posts`, as `config` says. `random` draws from [0, 1): tests pass a fixed one.
    pub(crate) fn new(
        posts: P,
        config: &ClientConfig,
        guard: Arc<ReplayGuard>,
        random: fn() -> f64,
    ) -> Self {
        Self {
            posts,
            broadcasters: config.broadcasters.clone(),
            passes: config.passes,
            retry_ambiguous: config.retry_ambiguous,
            to_broadcaster: config.to_broadcaster.clone(),
            to_subscriber: config.to_subscriber.clone(),
            guard,
            clock: config.clock.clone(),
            random,
            closing: CancellationToken::new(),
        }
    }

    /// Changes and checks that began before `closing` is cancelled are tried no further then, and
    /// an attempt of which nothing was sent yet is dropped: a name that does not resolve, or an
    /// address that does not answer, does not hold up the end of a client.
    pub(crate) fn until(mut self, closing: CancellationToken) -> Self {
        self.closing = closing;
        self
    }

    /// Subscribes `urls.receive` to `interest`, with notices to `urls.recovery`.
    pub(crate) async fn subscribe(
        &self,
        urls: &ClientUrls,
        interest: &Interest,
    ) -> Result<Change, RequestError> {
        self.ask(&Subscribe { urls, interest }, &Arc::default())
            .await
    }

    /// Unsubscribes `urls.receive` from `interest`.
    pub(crate) async fn unsubscribe(
        &self,
        urls: &ClientUrls,
        interest: &Interest,
    ) -> Result<Change, RequestError> {
        self.ask(&Unsubscribe { urls, interest }, &Arc::default())
            .await
    }

    /// The etag of the subscriptions that a broadcaster holds for `urls.receive`.
    pub(crate) async fn check(&self, urls: &ClientUrls) -> Result<StrongEtag, RequestError> {
        self.ask(&Check { urls }, &Arc::default()).await
    }

    /// Makes the subscriptions of `urls.receive` exactly `set`.
    pub(crate) async fn set(
        &self,
        urls: &ClientUrls,
        set: &SubscriptionSet,
    ) -> Result<(), RequestError> {
        self.ask(&Set::new(urls, set), &Arc::default()).await
    }

    /// Counts in `sent` how much of the message is on its way in the present attempt. Returns how
    /// many subscribers confirmed.
    pub(crate) async fn notify(
        &self,
        topic: &Topic,
        payload: &Payload,
        sent: &Arc<AtomicU64>,
    ) -> Result<u32, RequestError> {
        self.ask(&Notify { topic, payload }, sent).await
    }

    /// Asks until it is done, refused, or all passes are over.
    ///
    /// # Errors
    ///
    /// See [`RequestError`]. `sent` counts only for a request with a message.
    async fn ask<A: Ask>(&self, ask: &A, sent: &Arc<AtomicU64>) -> Result<A::Output, RequestError> {
        let priorities: Vec<_> = self.broadcasters.iter().map(|it| it.priority).collect();
        let mut attempts = 0;
        let mut last = None;
        let mut ambiguous = None;
        // What is asked while the client closes is how it closes, and a notification is its
        // caller's.
        let closing = (ask.operation().may_be_done_twice() && !self.closing.is_cancelled())
            .then_some(&self.closing);
        'passes: for pass in 0..self.passes {
            if pass > 0 {
                tokio::select! {
                    () = tokio::time::sleep(before_pass(pass, (self.random)())) => {}
                    () = cancelled(closing) => break,
                }
            }
            // Drawn anew for each pass: clients that lost the same broadcaster must not all go to
            // the same next one.
            for at in order::pass(&priorities, self.random) {
                // One attempt is made even by a client that closes, so that what it asks for last
                // has a chance.
                if attempts > 0 && closing.is_some_and(CancellationToken::is_cancelled) {
                    break 'passes;
                }
                attempts += 1;
                let broadcaster = self.broadcasters[at].url.clone();
                match self.attempt(ask, at, sent, closing).await {
                    Attempt::Done(output) => return Ok(output),
                    // Nothing vouches for a 409, so it never counts as more than "as if done".
                    Attempt::AlreadySo { status, reason } => {
                        let unclear = ambiguous.as_ref().map(|(_, cause)| cause);
                        return ask.already_so(unclear).ok_or(RequestError::Refused {
                            broadcaster,
                            status,
                            reason,
                        });
                    }
                    Attempt::Later(error) => {
                        tracing::debug!(broadcaster, %error, "asking the next broadcaster");
                        last = Some((broadcaster, error));
                    }
                    Attempt::Ambiguous(cause) => {
                        tracing::debug!(broadcaster, error = %cause, "perhaps done");
                        let is_retried = ask.operation().may_be_done_twice();
                        if !self.retry_ambiguous.unwrap_or(is_retried) {
                            return Err(RequestError::Ambiguous { broadcaster, cause });
                        }
                        ambiguous = Some((broadcaster, cause));
                    }
                    // A notification that was perhaps made stays so; subscriptions are shared by
                    // all broadcasters, so the last answer is the truth about them.
                    Attempt::Refused { status, reason } => {
                        return Err(match ambiguous {
                            Some((broadcaster, cause)) if ask.operation().stays_ambiguous() => {
                                RequestError::Ambiguous { broadcaster, cause }
                            }
                            _ => RequestError::Refused {
                                broadcaster,
                                status,
                                reason,
                            },
                        });
                    }
                    Attempt::NotSent(source) => {
                        return Err(RequestError::NotSent {
                            broadcaster,
                            source,
                        });
                    }
                }
            }
        }
        match (ambiguous, last) {
            (Some((broadcaster, cause)), _) => Err(RequestError::Ambiguous { broadcaster, cause }),
            (None, Some((broadcaster, last))) => Err(RequestError::RetriesExhausted {
                attempts,
                broadcaster,
                last,
            }),
            (None, None) => unreachable!("there is a broadcaster and a pass: `build` checks it"),
        }
    }

    /// One request to the broadcaster of number `at`, and what its answer means.
    async fn attempt<A: Ask>(
        &self,
        ask: &A,
        at: usize,
        sent: &Arc<AtomicU64>,
        closing: Option<&CancellationToken>,
    ) -> Attempt<A::Output> {
        let compared = ask.draw();
        let was_made = AtomicBool::new(false);
        let make = || {
            was_made.store(true, Ordering::Relaxed);
            ask.make(&compared, &*self.to_broadcaster, self.clock.now())
        };
        let path = ask.path();
        let message_bytes = ask.payload().map_or(0, Payload::len);
        let posting = self.posts.post(at, path, message_bytes, sent, make);
        let mut posting = Box::pin(posting);
        let answer = tokio::select! {
            // An answer that has come counts even if the client was closed at the same moment.
            biased;
            answer = &mut posting => answer,
            () = cancelled(closing) => {
                // A request is made when there is a connection to send it over.
                if !was_made.load(Ordering::Relaxed) {
                    return Attempt::Later(AttemptError::Closed);
                }
                posting.as_mut().await
            }
        };
        drop(posting);
        let status = answer.as_ref().map(|answer| answer.status);
        match (outcome(ask.operation(), status), answer) {
            // A 200 that cannot be read or trusted is no success, and no proof of the opposite
            // either.
            (Outcome::Done, Ok(answer)) => match self.read(ask, &compared, &answer).await {
                Ok(output) => Attempt::Done(output),
                Err(error) => Attempt::Ambiguous(error),
            },
            (Outcome::AlreadySo, Ok(answer)) => Attempt::AlreadySo {
                status: answer.status,
                reason: reason(&answer),
            },
            (Outcome::Later, Ok(answer)) => Attempt::Later(AttemptError::Status {
                status: answer.status,
                reason: reason(&answer),
            }),
            (Outcome::NotSent, Err(error)) => Attempt::NotSent(error),
            (Outcome::Later, Err(error)) => Attempt::Later(error.into()),
            (_, Err(error)) => Attempt::Ambiguous(error.into()),
            (_, Ok(answer)) => refused(&answer),
        }
    }

    /// Reads an answer and spends its authorization, so that a recorded one cannot be played back.
    async fn read<A: Ask>(
        &self,
        ask: &A,
        compared: &A::Sent,
        answer: &Response,
    ) -> Result<A::Output, AttemptError> {
        // Read when the answer came: a long message may have taken longer than a signature is good
        // for.
        let now = self.clock.now();
        let (output, unspent) = ask.read(compared, &answer.body, &*self.to_subscriber, now)?;
        let _spent = self.guard.spend(unspent, now).await?;
        Ok(output)
    }
}

/// Returns when `token` is cancelled; never without one.
async fn cancelled(token: Option<&CancellationToken>) {
    match token {
        Some(token) => token.cancelled().await,
        None => std::future::pending().await,
    }
}

/// The end of an attempt that was refused, with the reason that the broadcaster gives.
fn refused<T>(answer: &Response) -> Attempt<T> {
    Attempt::Refused {
        status: answer.status,
        reason: reason(answer),
    }
}

/// The broadcaster's own words, fit for one line of a log.
pub(crate) fn reason(answer: &Response) -> String {
    // Cut before it is decoded: four bytes are the longest character.
    let start = &answer.body[..answer.body.len().min(4 * REASON_CHARACTERS_MAX)];
    let text = String::from_utf8_lossy(start);
    let plain = text.trim().chars().take(REASON_CHARACTERS_MAX);
    let plain = plain.map(|it| if it.is_control() { ' ' } else { it });
    plain.collect()
}

/// Enough for a sentence. A proxy between the two may answer with a page of HTML.
const REASON_CHARACTERS_MAX: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::sync::Mutex;

    use bytes::Bytes;
    use httppubsub_proto::auth::{Claim, Scheme, Secrets, Stamp};
    use httppubsub_proto::stateless::{GenericResponse, NotifyHead, NotifyResponse};
    use httppubsub_proto::time::Now;
    use httppubsub_proto::topic::Identifier;
    use std::time::Duration;

    use crate::requests::script::{Act, Asked, SILENCE, Script, scripted};

    const SECRET: [u8; 64] = [7; 64];

    fn urls() -> ClientUrls {
        ClientUrls::of_host("http://127.0.0.1:3002").unwrap()
    }

    fn interest() -> Interest {
        Interest::Exact(Topic::new("foo").unwrap())
    }

    fn now() -> Now {
        Now::from_unix(Duration::from_secs(1_800_000_000))
    }

    fn signed(acts: impl IntoIterator<Item = Act>) -> (Requests<Script>, Arc<Mutex<Vec<Asked>>>) {
        let secrets = Secrets {
            to_broadcaster: Scheme::Hmac(SECRET),
            to_subscriber: Scheme::Hmac(SECRET),
        };
        let config = ClientConfig::builder(["http://b:1"])
            .secrets(&secrets)
            .clock(Clock::standing_at(now()));
        scripted(&config.build().unwrap(), acts)
    }

    fn sign(claim: &Claim<'_>, nonce: u8) -> Option<String> {
        let stamp = Stamp {
            now: now(),
            nonce: [nonce; 12],
        };
        let scheme = Scheme::Hmac(SECRET).authorization();
        scheme.authorize(claim, b"", &stamp).unwrap()
    }

    fn generic(authorization: Option<String>) -> Act {
        Act::say(move |_| {
            let answer = GenericResponse {
                authorization: authorization.clone(),
                tracing: Bytes::new(),
            };
            answer.encode()
        })
    }

    fn confirmed(nonce: u8) -> Act {
        let (urls, interest) = (urls(), interest());
        let claim = Claim::ConfirmSubscribe {
            url: urls.receive.as_str(),
            recovery: Some(urls.recovery.as_str()),
            interest: &interest,
        };
        generic(sign(&claim, nonce))
    }

    fn cause(error: RequestError) -> String {
        match error {
            RequestError::Ambiguous { cause, .. } => cause.to_string(),
            other => panic!("not ambiguous: {other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_to_subscribe_that_nobody_vouches_for_does_not_count() {
        let (requests, _) = signed([confirmed(1)]);
        requests.subscribe(&urls(), &interest()).await.unwrap();

        let (requests, asked) = signed([generic(None)]);
        let error = requests.subscribe(&urls(), &interest()).await.unwrap_err();
        assert!(cause(error).ends_with("the authorization is missing"));
        assert_eq!(asked.lock().unwrap().len(), 2);

        let (requests, _) = signed([Act::say(|_| b"garbage".to_vec())]);
        let error = requests.subscribe(&urls(), &interest()).await.unwrap_err();
        assert!(cause(error).contains("message type"));

        // An answer to SET, say, is none to SUBSCRIBE.
        let etag = SubscriptionSet::default().etag(&urls().receive);
        let (requests, _) = signed([generic(sign(&Claim::SetResponse { etag: &etag }, 1))]);
        assert!(requests.subscribe(&urls(), &interest()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn timeout_of_names_nothing_is_waited_for_that_was_not_sent_when_a_client_closes() {
        let ask = async |acts: Vec<Act>, closed_after: Duration| {
            let (requests, asked) = signed(acts);
            let closing = CancellationToken::new();
            let requests = requests.until(closing.clone());
            let began = tokio::time::Instant::now();
            let (urls, interest) = (urls(), interest());
            let close = async {
                tokio::time::sleep(closed_after).await;
                closing.cancel();
            };
            let (told, ()) = tokio::join!(requests.subscribe(&urls, &interest), close);
            (
                told.unwrap_err(),
                began.elapsed(),
                asked.lock().unwrap().len(),
            )
        };
        let second = Duration::from_secs(1);
        let (error, took, asked) = ask(vec![Act::Silent], second).await;
        assert!(!error.is_ambiguous(), "{error:?}");
        assert_eq!((took, asked), (second, 0));
        // Between two attempts, too.
        let moment = Duration::from_millis(1);
        let (error, took, asked) = ask(vec![Act::Absent], moment).await;
        assert!(!error.is_ambiguous(), "{error:?}");
        assert_eq!((took, asked), (moment, 1));
        // What may have been done stays so.
        let (error, took, asked) = ask(vec![Act::Break], moment).await;
        assert!(error.is_ambiguous(), "{error:?}");
        assert_eq!((took, asked), (moment, 1));

        // What is asked while it closes is how it closes.
        let (requests, _) = signed([Act::Silent]);
        let closing = CancellationToken::new();
        closing.cancel();
        let began = tokio::time::Instant::now();
        let requests = requests.until(closing);
        let told = requests.unsubscribe(&urls(), &interest()).await;
        assert!(told.is_err() && began.elapsed() >= SILENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn subscriptions_truth_needs_to_know_who_made_it_so() {
        let (requests, _) = signed([Act::Status(409)]);
        let told = requests.subscribe(&urls(), &interest()).await;
        assert_eq!(told.unwrap(), Change::AlreadySo);
        // The attempt before may have done it.
        let (requests, _) = signed([Act::Break, Act::Status(409)]);
        let told = requests.subscribe(&urls(), &interest()).await;
        assert_eq!(told.unwrap(), Change::BecameSo);
        let (requests, _) = signed([Act::Absent, Act::Status(409)]);
        let told = requests.unsubscribe(&urls(), &interest()).await;
        assert_eq!(told.unwrap(), Change::AlreadySo);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_counts_once() {
        let (requests, _) = signed([confirmed(1)]);
        requests.subscribe(&urls(), &interest()).await.unwrap();
        let error = requests.subscribe(&urls(), &interest()).await.unwrap_err();
        assert!(cause(error).contains("used before"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_forged_etag_is_not_believed() {
        let etag = SubscriptionSet::default().etag(&urls().receive);
        let check = |nonce, signed_etag: StrongEtag| {
            let authorization = sign(&Claim::CheckResponse { etag: &signed_etag }, nonce);
            Act::say(move |_| {
                let answer = httppubsub_proto::stateless::CheckResponse {
                    authorization: authorization.clone(),
                    tracing: Bytes::new(),
                    etag,
                };
                answer.encode()
            })
        };
        let (requests, _) = signed([check(1, etag)]);
        assert_eq!(requests.check(&urls()).await.unwrap(), etag);
        let other = [(interest(), None)]
            .into_iter()
            .collect::<SubscriptionSet>();
        let (requests, _) = signed([check(1, other.etag(&urls().receive))]);
        let error = requests.check(&urls()).await.unwrap_err();
        assert!(cause(error).contains("does not fit"));
    }

    fn notified(own_identifier: bool) -> Act {
        Act::say(move |asked| {
            let (head, _) = NotifyHead::decode(&asked.head).unwrap();
            let identifier = match own_identifier {
                true => head.identifier,
                false => Identifier::new("another").unwrap(),
            };
            let claim = Claim::ConfirmNotify {
                identifier: &identifier,
                subscribers: 2,
                topic: &head.topic,
                sha512: &head.sha512,
            };
            let answer = NotifyResponse {
                authorization: sign(&claim, 1),
                tracing: Bytes::new(),
                subscribers: 2,
                identifier,
            };
            answer.encode()
        })
    }

    #[tokio::test(start_paused = true)]
    async fn every_attempt_is_named_and_signed_anew_and_carries_the_whole_message() {
        let (requests, asked) = signed([Act::Break, Act::Status(503), notified(true)]);
        let requests = Requests {
            passes: 3,
            retry_ambiguous: Some(true),
            ..requests
        };
        let topic = Topic::new("foo").unwrap();
        let payload = Payload::from_bytes("hello");
        let notified = requests.notify(&topic, &payload, &Arc::default()).await;
        assert_eq!(notified.unwrap(), 2);
        let asked = asked.lock().unwrap();
        assert_eq!(asked.len(), 3);
        assert!(
            asked
                .iter()
                .all(|it| it.message.as_deref() == Some(b"hello"))
        );
        let heads: HashSet<_> = asked.iter().map(|it| &it.head).collect();
        let signatures: HashSet<_> = asked.iter().map(|it| &it.authorization).collect();
        assert_eq!((heads.len(), signatures.len()), (3, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_notification_that_may_have_been_delivered_is_not_sent_again_unless_asked_for() {
        let topic = Topic::new("foo").unwrap();
        let payload = Payload::from_bytes("hello");
        let (requests, asked) = signed([Act::Break, notified(true)]);
        let notified = requests.notify(&topic, &payload, &Arc::default()).await;
        assert!(matches!(notified, Err(RequestError::Ambiguous { .. })));
        assert_eq!(asked.lock().unwrap().len(), 1);
        // Not all of it was sent, so it was not delivered.
        let (requests, asked) = signed([Act::CutShort, self::notified(true)]);
        let notified = requests.notify(&topic, &payload, &Arc::default()).await;
        assert_eq!(notified.unwrap(), 2);
        assert_eq!(asked.lock().unwrap().len(), 2);
        // A subscription may be made twice.
        let (requests, asked) = signed([Act::Break, confirmed(1)]);
        requests.subscribe(&urls(), &interest()).await.unwrap();
        assert_eq!(asked.lock().unwrap().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_to_another_notification_does_not_count() {
        let (requests, _) = signed([notified(false)]);
        let topic = Topic::new("foo").unwrap();
        let payload = Payload::from_bytes("hello");
        let notified = requests.notify(&topic, &payload, &Arc::default()).await;
        assert_eq!(
            cause(notified.unwrap_err()),
            "the answer is to another notification"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_broadcaster_that_is_not_there_has_done_nothing() {
        let config = ClientConfig::builder(["http://b:1"]).retry_ambiguous(false);
        let (requests, asked) = scripted(&config.build().unwrap(), [Act::Absent]);
        let error = requests.subscribe(&urls(), &interest()).await.unwrap_err();
        assert!(matches!(
            error,
            RequestError::RetriesExhausted { attempts: 2, .. }
        ));
        assert_eq!(asked.lock().unwrap().len(), 2);
    }

    #[test]
    fn a_reason_fits_into_one_line_of_a_log() {
        let body = format!("no\r\n\x1b[31mroom\u{fffd}{}", "x".repeat(10_000));
        let answer = Response {
            status: StatusCode::BAD_REQUEST,
            body: body.into(),
        };
        let reason = reason(&answer);
        assert!(reason.starts_with("no   [31mroom"), "{reason}");
        assert_eq!(reason.chars().count(), 500);
    }
}
