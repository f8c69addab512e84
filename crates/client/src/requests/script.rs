//! Broadcasters that answer by a script.

use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use httppubsub_net::inbound::ReplayGuard;
use httppubsub_net::outbound::{Post, PostError, Response};
use httppubsub_proto::auth::CannotAuthorize;
use httppubsub_proto::url::{Origin, Scheme};
use tokio::time::Instant;

use crate::config::ClientConfig;
use crate::requests::network::Posts;
use crate::requests::requests::Requests;

/// What a broadcaster does with one request.
pub(super) enum Act {
    /// Answers with this status and nothing else.
    Status(u16),
    /// Answers with status 200 and what this makes of the request.
    Say(Say),
    /// The connection breaks.
    Break,
    /// It breaks before all of the request was sent.
    CutShort,
    /// Nobody is there.
    Absent,
    /// The name does not resolve, or nobody answers the attempt to connect; not for ever, but
    /// longer than anything else takes.
    Silent,
}

type Say = Box<dyn Fn(&Asked) -> Vec<u8> + Send + Sync>;

impl Act {
    pub(super) fn say(say: impl Fn(&Asked) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::Say(Box::new(say))
    }
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) at: usize,
    pub(super) path: &'static str,
    pub(super) authorization: Option<String>,
    /// All of the body but a message.
    pub(super) head: Bytes,
    pub(super) message: Option<Bytes>,
    pub(super) when: Instant,
}

/// Acts in turn; the last one repeats.
pub(super) struct Script {
    acts: Mutex<VecDeque<Act>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

/// Requests to broadcasters that follow `acts`, and the list of what they were asked. Randomness is
/// always 0.5.
pub(super) fn scripted(
    config: &ClientConfig,
    acts: impl IntoIterator<Item = Act>,
) -> (Requests<Script>, Arc<Mutex<Vec<Asked>>>) {
    let asked = Arc::default();
    let script = Script {
        acts: Mutex::new(acts.into_iter().collect()),
        asked: Arc::clone(&asked),
    };
    let guard = Arc::new(ReplayGuard::in_memory(100));
    (Requests::new(script, config, guard, || 0.5), asked)
}

impl Posts for Script {
    async fn post(
        &self,
        at: usize,
        path: &'static str,
        message_bytes: u64,
        _sent: &Arc<AtomicU64>,
        mut make: impl FnMut() -> Result<Post, CannotAuthorize> + Send,
    ) -> Result<Response, PostError> {
        let is_silent = matches!(self.acts.lock().unwrap().front(), Some(Act::Silent));
        if is_silent {
            tokio::time::sleep(SILENCE).await;
        }
        let post = make()?;
        let message = post
            .payload
            .map(|it| it.in_memory().expect("it is short").clone());
        assert_eq!(
            message_bytes,
            message.as_ref().map_or(0, |it| it.len() as u64)
        );
        let asked = Asked {
            at,
            path,
            authorization: post.authorization,
            head: post.head,
            message,
            when: Instant::now(),
        };
        self.asked.lock().unwrap().push(asked.clone());
        let mut acts = self.acts.lock().unwrap();
        let answer = |status, body: Vec<u8>| {
            let status = StatusCode::from_u16(status).unwrap();
            let body = body.into();
            Ok(Response { status, body })
        };
        let answer = match acts.front().expect("a script has an act") {
            Act::Status(status) => answer(*status, Vec::new()),
            Act::Say(say) => answer(200, say(&asked)),
            Act::Break => Err(PostError::Timeout {
                origin: origin(),
                timeout: Duration::from_secs(30),
                is_whole: true,
            }),
            Act::CutShort => Err(PostError::Broken {
                origin: origin(),
                source: std::io::ErrorKind::ConnectionReset.into(),
                is_whole: false,
            }),
            Act::Absent | Act::Silent => Err(PostError::Connect {
                origin: origin(),
                source: std::io::ErrorKind::ConnectionRefused.into(),
            }),
        };
        if acts.len() > 1 {
            acts.pop_front();
        }
        answer
    }
}

pub(super) const SILENCE: Duration = Duration::from_secs(3_600);

fn origin() -> Origin {
    Origin {
        scheme: Scheme::Http,
        host: "script".to_owned(),
        port: 80,
    }
}
