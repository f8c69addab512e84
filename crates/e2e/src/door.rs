//! The way into a broadcaster, for subscribers and publishers that mean well.

use std::net::SocketAddr;

use httppubsub_proto::auth::Claim;
use httppubsub_proto::glob::GlobPattern;
use httppubsub_proto::stateless::{CheckResponse, NotifyResponse};
use httppubsub_proto::subscription::{Interest, StrongEtag, Subscription, SubscriptionSet};
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::SubscriberUrl;

use crate::connection::Connection;
use crate::message::Response;
use crate::random::Filler;
use crate::signer::{Asked, Signer};

/// Where a broadcaster is reached, and what vouches for those who do.
#[derive(Clone, Debug)]
pub struct Door {
    /// Where it listens.
    pub address: SocketAddr,
    /// What its paths begin with; empty unless it is mounted somewhere.
    pub prefix: String,
    /// Signs the requests.
    pub signer: Signer,
}

impl Door {
    /// A connection of one's own.
    #[track_caller]
    pub fn connect(&self) -> Connection {
        Connection::open(self.address).expect("the broadcaster listens")
    }

    /// Sends a request over a fresh connection and returns its answer.
    #[track_caller]
    pub fn ask(&self, asked: &Asked) -> Response {
        let path = format!("{}{}", self.prefix, asked.path);
        self.connect().ask(&Asked {
            path,
            ..asked.clone()
        })
    }

    /// Asks for a path with GET.
    #[track_caller]
    pub fn get(&self, path: &str) -> Response {
        self.connect().get(&format!("{}{path}", self.prefix))
    }

    /// Subscribes, which must be granted.
    #[track_caller]
    pub fn subscribe(&self, url: &str, interest: Interest, recovery: Option<&str>) {
        let subscription = Subscription {
            url: self::url(url),
            interest,
            recovery: recovery.map(self::url),
        };
        let response = self.ask(&self.signer.subscribe(&subscription));
        assert_eq!(response.status, 200, "{}", response.text());
    }

    /// Sets all subscriptions of a url, which must be granted.
    #[track_caller]
    pub fn set(&self, url: &str, set: &SubscriptionSet) {
        let response = self.ask(&self.signer.set(&self::url(url), set));
        assert_eq!(response.status, 200, "{}", response.text());
    }

    /// The etag of what a url is subscribed to.
    #[track_caller]
    pub fn etag(&self, url: &str) -> StrongEtag {
        let response = self.ask(&self.signer.check(&self::url(url)));
        assert_eq!(response.status, 200, "{}", response.text());
        CheckResponse::decode(&response.body)
            .expect("it is an answer to CHECK")
            .etag
    }

    /// Notifies, which must be accepted; says how many have confirmed.
    #[track_caller]
    pub fn notify(&self, topic: &str, message: &[u8]) -> u32 {
        let asked = self.signer.notify(&self::topic(topic), message);
        let response = self.ask(&asked);
        self.reached(&asked, &response)
    }

    /// The same with a message too long to be held.
    #[track_caller]
    pub fn notify_filler(&self, topic: &str, filler: &Filler) -> u32 {
        let head = self
            .signer
            .notify_head(&self::topic(topic), filler.sha512, filler.bytes);
        let asked = self.signer.notify_of(&head, b"");
        let mut connection = self.connect();
        connection
            .post_with(&asked, filler)
            .expect("the broadcaster takes the message");
        let response = connection
            .answer()
            .expect("it answers")
            .expect("it answers");
        self.reached(&asked, &response)
    }

    /// How many have confirmed what was asked with `asked`.
    ///
    /// # Panics
    ///
    /// If the answer is not one that published clients accept.
    #[track_caller]
    pub fn reached(&self, asked: &Asked, response: &Response) -> u32 {
        assert_eq!(response.status, 200, "{}", response.text());
        let (head, _) =
            httppubsub_proto::stateless::NotifyHead::decode(&asked.body).expect("it is ours");
        let answer = NotifyResponse::decode(&response.body).expect("it is an answer to NOTIFY");
        assert_eq!(answer.identifier, head.identifier);
        let claim = Claim::ConfirmNotify {
            identifier: &head.identifier,
            subscribers: answer.subscribers,
            topic: &head.topic,
            sha512: &head.sha512,
        };
        let authorization = answer.authorization.as_deref();
        assert!(self.signer.vouches(&claim, &answer.tracing, authorization));
        answer.subscribers
    }
}

fn topic(text: &str) -> Topic {
    Topic::new(text).expect("tests use topics that fit")
}

/// This very topic.
pub fn exact(text: &str) -> Interest {
    Interest::Exact(topic(text))
}

/// All topics that this pattern matches.
pub fn glob(text: &str) -> Interest {
    Interest::Glob(GlobPattern::parse(text).expect("tests use globs that fit"))
}

/// A url of at most 65,535 bytes.
pub fn url(text: &str) -> SubscriberUrl {
    SubscriberUrl::new(text).expect("tests use urls that fit")
}
