//! Requests as an honest subscriber would send them, as values that a test may maim.

use std::sync::Arc;
use std::time::Duration;

use httppubsub_net::{Clock, stamp};
use httppubsub_proto::auth::{Authorization, Claim, Secrets};
use httppubsub_proto::digest::{Sha512, encode_repr_digest};
use httppubsub_proto::paths;
use httppubsub_proto::stateless::{
    CheckRequest, MissedHead, NotifyHead, ReceiveHead, SetHead, SubscribeRequest,
    UnsubscribeRequest, encode_set_lists,
};
use httppubsub_proto::subscription::{Interest, Subscription, SubscriptionSet};
use httppubsub_proto::time::Now;
use httppubsub_proto::topic::{Identifier, Topic};
use httppubsub_proto::url::SubscriberUrl;

/// A request that can be sent any number of times, whole or maimed.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Where it is posted.
    pub path: String,
    /// Value of the `Authorization` header.
    pub authorization: Option<Vec<u8>>,
    /// Other header lines, each with its line end.
    pub headers: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Asked {
    fn new(path: &str, authorization: Option<String>, body: Vec<u8>) -> Self {
        Self {
            path: path.to_owned(),
            authorization: authorization.map(String::into_bytes),
            headers: String::new(),
            body,
        }
    }

    /// The same with another body.
    pub fn with_body(&self, body: impl Into<Vec<u8>>) -> Self {
        Self {
            body: body.into(),
            ..self.clone()
        }
    }

    /// The same with another `Authorization` header, or none.
    pub fn with_authorization(&self, authorization: Option<&[u8]>) -> Self {
        Self {
            authorization: authorization.map(<[u8]>::to_vec),
            ..self.clone()
        }
    }

    /// The lines before the body, for a body of `body_bytes` bytes, to the server named `host`.
    pub fn head(&self, host: &str, body_bytes: u64) -> Vec<u8> {
        let Self { path, headers, .. } = self;
        let mut head = format!("POST {path} HTTP/1.1\r\nHost: {host}\r\n{headers}").into_bytes();
        if let Some(value) = &self.authorization {
            head.extend_from_slice(b"Authorization: ");
            head.extend_from_slice(value);
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(format!("Content-Length: {body_bytes}\r\n\r\n").as_bytes());
        head
    }
}

/// Signs what subscribers say and verifies what broadcasters say.
#[derive(Clone, Debug)]
pub struct Signer {
    to_broadcaster: Arc<dyn Authorization>,
    to_subscriber: Arc<dyn Authorization>,
    skew_seconds: i64,
}

impl From<&Secrets> for Signer {
    fn from(secrets: &Secrets) -> Self {
        Self {
            to_broadcaster: secrets.to_broadcaster.authorization(),
            to_subscriber: secrets.to_subscriber.authorization(),
            skew_seconds: 0,
        }
    }
}

impl Signer {
    /// The same with a clock that is ahead by so many seconds, or behind.
    pub fn with_skew(&self, skew_seconds: i64) -> Self {
        Self {
            skew_seconds,
            ..self.clone()
        }
    }

    fn now(&self) -> Now {
        let skew = Duration::from_secs(self.skew_seconds.unsigned_abs());
        let now = Clock::system().now().since_unix();
        Now::from_unix(if self.skew_seconds < 0 {
            now - skew
        } else {
            now + skew
        })
    }

    /// A fresh authorization of what a subscriber says.
    pub fn sign(&self, claim: &Claim<'_>) -> Option<String> {
        let value = self
            .to_broadcaster
            .authorize(claim, &[], &stamp(self.now()));
        value.expect("the schemes of tests can authorize")
    }

    /// A fresh authorization of what a broadcaster says.
    pub fn sign_as_broadcaster(&self, claim: &Claim<'_>) -> Option<String> {
        let value = self.to_subscriber.authorize(claim, &[], &stamp(self.now()));
        value.expect("the schemes of tests can authorize")
    }

    /// Whether a broadcaster has said this.
    pub fn vouches(&self, claim: &Claim<'_>, tracing: &[u8], value: Option<&str>) -> bool {
        let value = value.map(str::as_bytes);
        self.to_subscriber
            .verify(claim, tracing, value, Clock::system().now())
            .is_ok()
    }

    /// SUBSCRIBE.
    pub fn subscribe(&self, subscription: &Subscription) -> Asked {
        let Subscription {
            url,
            interest,
            recovery,
        } = subscription.clone();
        let authorization = self.sign(&Claim::Subscribe {
            url: url.as_str(),
            recovery: recovery.as_ref().map(SubscriberUrl::as_str),
            interest: &interest,
        });
        let path = match interest {
            Interest::Exact(_) => paths::SUBSCRIBE_EXACT,
            Interest::Glob(_) => paths::SUBSCRIBE_GLOB,
        };
        let request = SubscribeRequest {
            url,
            interest,
            recovery,
            tracing: Default::default(),
        };
        Asked::new(path, authorization, request.encode())
    }

    /// UNSUBSCRIBE.
    pub fn unsubscribe(&self, url: &SubscriberUrl, interest: &Interest) -> Asked {
        let claim = Claim::Subscribe {
            url: url.as_str(),
            recovery: None,
            interest,
        };
        let authorization = self.sign(&claim);
        let path = match interest {
            Interest::Exact(_) => paths::UNSUBSCRIBE_EXACT,
            Interest::Glob(_) => paths::UNSUBSCRIBE_GLOB,
        };
        let (url, interest) = (url.clone(), interest.clone());
        let request = UnsubscribeRequest {
            url,
            interest,
            tracing: Default::default(),
        };
        Asked::new(path, authorization, request.encode())
    }

    /// CHECK_SUBSCRIPTIONS.
    pub fn check(&self, url: &SubscriberUrl) -> Asked {
        let authorization = self.sign(&Claim::Check { url: url.as_str() });
        let request = CheckRequest {
            tracing: Default::default(),
            url: url.clone(),
        };
        Asked::new(paths::CHECK_SUBSCRIPTIONS, authorization, request.encode())
    }

    /// SET_SUBSCRIPTIONS.
    pub fn set(&self, url: &SubscriberUrl, set: &SubscriptionSet) -> Asked {
        let head = SetHead {
            tracing: Default::default(),
            url: url.clone(),
            etag: set.etag(url),
        };
        self.set_of(&head, &encode_set_lists(set))
    }

    /// SET_SUBSCRIPTIONS of lists that need not be what the head announces.
    pub fn set_of(&self, head: &SetHead, lists: &[u8]) -> Asked {
        let authorization = self.sign(&Claim::Set {
            url: head.url.as_str(),
            etag: &head.etag,
        });
        let body = [&head.encode(), lists].concat();
        Asked::new(paths::SET_SUBSCRIPTIONS, authorization, body)
    }

    /// NOTIFY.
    pub fn notify(&self, topic: &Topic, message: &[u8]) -> Asked {
        let head = self.notify_head(topic, Sha512::of(message), message.len() as u64);
        self.notify_of(&head, message)
    }

    /// The head of a NOTIFY with a fresh identifier.
    pub fn notify_head(&self, topic: &Topic, sha512: Sha512, message_bytes: u64) -> NotifyHead {
        let identifier = httppubsub_net::random_bytes::<4>().to_vec();
        NotifyHead {
            topic: topic.clone(),
            sha512,
            tracing: Default::default(),
            identifier: Identifier::new(identifier).expect("four bytes fit"),
            message_bytes,
        }
    }

    /// NOTIFY of a message that need not be what the head announces.
    pub fn notify_of(&self, head: &NotifyHead, message: &[u8]) -> Asked {
        let NotifyHead {
            topic,
            sha512,
            identifier,
            ..
        } = head;
        let authorization = self.sign(&Claim::Notify {
            topic,
            identifier,
            sha512,
        });
        let body = [&head.encode(), message].concat();
        Asked::new(paths::NOTIFY, authorization, body)
    }

    /// RECEIVE, as another broadcaster would post it for websocket subscribers.
    pub fn receive_for_websockets(&self, url: &str, topic: &Topic, message: &[u8]) -> Asked {
        let identifier = httppubsub_net::random_bytes::<8>().to_vec();
        let identifier = Identifier::new(identifier).expect("eight bytes fit");
        let sha512 = Sha512::of(message);
        let claim = Claim::Receive {
            url,
            topic,
            identifier: &identifier,
            sha512: &sha512,
        };
        let authorization = self.sign_as_broadcaster(&claim);
        let head = ReceiveHead {
            tracing: Default::default(),
            topic: topic.clone(),
            identifier,
            message_bytes: message.len() as u64,
        };
        let body = [&head.encode(), message].concat();
        Asked {
            headers: format!("Repr-Digest: {}\r\n", encode_repr_digest(&sha512)),
            ..Asked::new(paths::RECEIVE_FOR_WEBSOCKETS, authorization, body)
        }
    }

    /// MISSED, as another broadcaster would post it for websocket subscribers.
    pub fn missed_for_websockets(&self, url: &str, topic: &Topic) -> Asked {
        let authorization = self.sign_as_broadcaster(&Claim::Missed {
            recovery: url,
            topic,
        });
        let head = MissedHead {
            tracing: Default::default(),
            topic: topic.clone(),
        };
        Asked::new(paths::MISSED_FOR_WEBSOCKETS, authorization, head.encode())
    }
}
