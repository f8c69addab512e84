//! Publishing by the plain door: a token in place of secrets, one request, and what became of the
//! message in detail.
//!
//! It is for programs that only publish. A [`Client`](crate::Client) that holds secrets notifies by
//! the protocol, which signs every message and asks several broadcasters in turn.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use http::{HeaderName, HeaderValue, StatusCode};
use httppubsub_net::body::{Spool, SpoolConfig};
use httppubsub_net::outbound::{Post, PostConfig, Poster, Response};
use httppubsub_proto::paths;
use httppubsub_proto::plain::{Problem, topic_to_path};
use httppubsub_proto::topic::Topic;

pub use httppubsub_proto::plain::{Outcomes, Published};

use crate::config::{ConfigError, check_broadcaster};
use crate::error::{AttemptError, NotifyError, RequestError};
use crate::requests::body::NotifyBody;
use crate::requests::outcome::{Operation, Outcome, outcome};
use crate::requests::progress::with_progress;
use crate::requests::requests::reason;

/// A broadcaster at which a token may publish.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use httppubsub_client::plain::Plain;
///
/// let plain = Plain::new("http://127.0.0.1:3003", std::env::var("TOKEN")?)?;
/// let published = plain.publish("cache/user/7", "drop it").await?;
/// println!("{} of {} confirmed", published.outcomes.confirmed, published.outcomes.matched());
/// # Ok(())
/// # }
/// ```
pub struct Plain {
    poster: Poster,
    spool: Spool,
    memory_each_max: u64,
    /// Without a slash at the end.
    broadcaster: String,
    /// `Bearer` and the token.
    authorization: String,
}

/// Shows no token.
impl std::fmt::Debug for Plain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plain").finish_non_exhaustive()
    }
}

impl Plain {
    /// The broadcaster at `url`, of `http` or `https`, which may have a path as a prefix. Nothing
    /// is asked of it yet. Must be called inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// A url that nothing can be posted to, or a token that no header can carry.
    pub fn new(url: impl Into<String>, token: impl Into<String>) -> Result<Self, ConfigError> {
        let (mut url, token) = (url.into(), token.into());
        check_broadcaster(&url)?;
        url.truncate(url.trim_end_matches('/').len());
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ConfigError::Token);
        }
        let mut post = PostConfig::default();
        // A second for each MiB to be sent, and one to be delivered, as for a client.
        post.rate_min = 512 * 1024;
        post.egress = httppubsub_net::egress::Egress::anything();
        let spool = SpoolConfig::default();
        Ok(Self {
            poster: Poster::new(post),
            memory_each_max: spool.memory_each_max,
            spool: Spool::new(spool),
            broadcaster: url,
            authorization: format!("Bearer {token}"),
        })
    }

    /// Publishes a message, once: a request whose answer is lost is
    /// [ambiguous](NotifyError::is_ambiguous), and not sent again.
    ///
    /// # Errors
    ///
    /// [`NotifyError::Request`] for what the broadcaster refuses or cannot do; other variants if
    /// nothing was sent.
    pub async fn publish(
        &self,
        topic: impl AsRef<[u8]>,
        body: impl Into<NotifyBody>,
    ) -> Result<Published, NotifyError> {
        self.ask(topic.as_ref(), body.into(), None, |_, _| {}).await
    }

    /// The same under an idempotency key of 1 to 255 visible ASCII characters: if the answer is
    /// lost, it may be asked again with the same key within ten minutes, and nothing is delivered
    /// twice.
    ///
    /// ```no_run
    /// # use httppubsub_client::NotifyError;
    /// # async fn example(plain: httppubsub_client::plain::Plain) -> Result<(), NotifyError> {
    /// let published = loop {
    ///     match plain.publish_once("build-1208", "builds/ready", "1208").await {
    ///         Err(error) if error.is_ambiguous() => continue,
    ///         ended => break ended?,
    ///     }
    /// };
    /// println!("{}", published.id);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn publish_once(
        &self,
        key: &str,
        topic: impl AsRef<[u8]>,
        body: impl Into<NotifyBody>,
    ) -> Result<Published, NotifyError> {
        let (topic, body) = (topic.as_ref(), body.into());
        self.ask(topic, body, Some(key), |_, _| {}).await
    }

    /// Like [`Plain::publish`], or [`Plain::publish_once`] if there is a key, calling `progress`
    /// from time to time with the number of bytes that are on their way, and of all bytes.
    pub async fn publish_with_progress(
        &self,
        key: Option<&str>,
        topic: impl AsRef<[u8]>,
        body: impl Into<NotifyBody>,
        progress: impl FnMut(u64, u64),
    ) -> Result<Published, NotifyError> {
        self.ask(topic.as_ref(), body.into(), key, progress).await
    }

    async fn ask(
        &self,
        topic: &[u8],
        body: NotifyBody,
        key: Option<&str>,
        progress: impl FnMut(u64, u64),
    ) -> Result<Published, NotifyError> {
        let topic = Topic::new(topic)?;
        let mut headers = Vec::new();
        if let Some(key) = key {
            let is_key =
                (1..=255).contains(&key.len()) && key.bytes().all(|it| it.is_ascii_graphic());
            let value = HeaderValue::from_str(&format!("\"{key}\""));
            let value = value.ok().filter(|_| is_key).ok_or(NotifyError::Key)?;
            headers.push((HeaderName::from_static("idempotency-key"), value));
        }
        let payload = body.read(&self.spool, self.memory_each_max).await?;
        let path = topic_to_path(&topic);
        let url = format!("{}{}{path}", self.broadcaster, paths::TOPICS);
        // The url of the broadcaster was checked, and a topic in it is a path.
        let target = self.poster.target_str(&url).expect("it can be posted to");
        let sent = Arc::new(AtomicU64::new(0));
        let make = || {
            Ok(Post {
                authorization: Some(self.authorization.clone()),
                headers: headers.clone(),
                payload: Some(payload.clone()),
                ..Post::default()
            })
        };
        let posting = self
            .poster
            .post_counting(&target, payload.len(), &sent, make);
        let posted = with_progress(posting, &sent, payload.len(), progress).await;
        let broadcaster = self.broadcaster.clone();
        let answer = match posted {
            Ok(answer) => answer,
            Err(error) => {
                return Err(match outcome(Operation::Notify, Err(&error)) {
                    Outcome::NotSent => RequestError::NotSent {
                        broadcaster,
                        source: error,
                    },
                    Outcome::Ambiguous => RequestError::Ambiguous {
                        broadcaster,
                        cause: error.into(),
                    },
                    _ => RequestError::RetriesExhausted {
                        attempts: 1,
                        broadcaster,
                        last: error.into(),
                    },
                }
                .into());
            }
        };
        Ok(judge(broadcaster, &answer)?)
    }
}

/// What an answer says of the request.
fn judge(broadcaster: String, answer: &Response) -> Result<Published, RequestError> {
    let status = answer.status;
    if status.is_success() {
        let published = Published::parse(&answer.body);
        return published.map_err(|error| RequestError::Ambiguous {
            broadcaster,
            cause: AttemptError::Plain(error),
        });
    }
    let (code, reason) = match Problem::words(&answer.body) {
        Some((code, detail)) => (code, detail),
        None => (String::new(), reason(answer)),
    };
    let failed = |status, reason| AttemptError::Status { status, reason };
    // 409: the first request with the key is not finished, or its answer is known elsewhere.
    if code == "not_accounted_for" || status == StatusCode::CONFLICT {
        return Err(RequestError::Ambiguous {
            broadcaster,
            cause: failed(status, reason),
        });
    }
    Err(match outcome(Operation::Notify, Ok(status)) {
        Outcome::Later => RequestError::RetriesExhausted {
            attempts: 1,
            broadcaster,
            last: failed(status, reason),
        },
        _ => RequestError::Refused {
            broadcaster,
            status,
            reason,
        },
    })
}
