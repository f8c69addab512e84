//! Every request of the stateless protocol behind one door.

use httppubsub_proto::auth::Claim;
use httppubsub_proto::digest::Sha512;
use httppubsub_proto::paths::{
    CHECK_SUBSCRIPTIONS, MISSED_FOR_WEBSOCKETS, NOTIFY, RECEIVE, RECEIVE_FOR_WEBSOCKETS, RECOVER,
    SET_SUBSCRIPTIONS, SUBSCRIBE_EXACT, SUBSCRIBE_GLOB, UNSUBSCRIBE_EXACT, UNSUBSCRIBE_GLOB,
};
use httppubsub_proto::stateless::{
    CheckRequest, InterestKind, MissedHead, NotifyHead, ReceiveHead, SetHead, SubscribeRequest,
    UnsubscribeRequest, decode_set_lists, encode_set_lists,
};
use httppubsub_proto::subscription::SubscriptionSet;

/// A request whose body is whole, its message and lists included.
#[derive(Debug)]
pub(crate) enum Request {
    Subscribe(SubscribeRequest),
    Unsubscribe(UnsubscribeRequest),
    Check(CheckRequest),
    Set(SetHead, SubscriptionSet),
    Notify(NotifyHead, Vec<u8>),
    /// The digest of its message is in a header and not looked at here.
    Receive(ReceiveHead, Vec<u8>),
    Missed(MissedHead),
}

impl Request {
    /// What is said by `body` posted to `path`; `None` where nothing is posted to.
    pub(crate) fn decode(path: &str, body: &[u8]) -> Option<Result<Self, String>> {
        use InterestKind::{Exact, Glob};
        let subscribe = |kind| {
            Ok(Self::Subscribe(
                SubscribeRequest::decode(kind, body).map_err(refused)?,
            ))
        };
        let unsubscribe = |kind| {
            Ok(Self::Unsubscribe(
                UnsubscribeRequest::decode(kind, body).map_err(refused)?,
            ))
        };
        Some(match path {
            SUBSCRIBE_EXACT => subscribe(Exact),
            SUBSCRIBE_GLOB => subscribe(Glob),
            UNSUBSCRIBE_EXACT => unsubscribe(Exact),
            UNSUBSCRIBE_GLOB => unsubscribe(Glob),
            CHECK_SUBSCRIPTIONS => CheckRequest::decode(body).map(Self::Check).map_err(refused),
            SET_SUBSCRIPTIONS => Self::decode_set(body),
            NOTIFY => Self::decode_notify(body),
            RECEIVE | RECEIVE_FOR_WEBSOCKETS => Self::decode_receive(body),
            RECOVER | MISSED_FOR_WEBSOCKETS => {
                MissedHead::decode(body).map(Self::Missed).map_err(refused)
            }
            _ => return None,
        })
    }

    fn decode_set(body: &[u8]) -> Result<Self, String> {
        let (head, used) = SetHead::decode(body).map_err(refused)?;
        let set = decode_set_lists(&body[used..]).map_err(refused)?;
        if set.etag(&head.url) != head.etag {
            return Err("the etag is not that of the lists".to_owned());
        }
        Ok(Self::Set(head, set))
    }

    fn decode_notify(body: &[u8]) -> Result<Self, String> {
        let (head, used) = NotifyHead::decode(body).map_err(refused)?;
        let message = whole(&body[used..], head.message_bytes)?;
        if Sha512::of(&message) != head.sha512 {
            return Err("the message has another digest".to_owned());
        }
        Ok(Self::Notify(head, message))
    }

    fn decode_receive(body: &[u8]) -> Result<Self, String> {
        let (head, used) = ReceiveHead::decode(body).map_err(refused)?;
        let message = whole(&body[used..], head.message_bytes)?;
        Ok(Self::Receive(head, message))
    }

    /// The body that says this.
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Subscribe(it) => it.encode(),
            Self::Unsubscribe(it) => it.encode(),
            Self::Check(it) => it.encode(),
            Self::Set(head, set) => [head.encode(), encode_set_lists(set)].concat(),
            Self::Notify(head, message) => [&head.encode()[..], message].concat(),
            Self::Receive(head, message) => [&head.encode()[..], message].concat(),
            Self::Missed(it) => it.encode(),
        }
    }

    /// What a subscriber's request says, as far as it is signed.
    pub(crate) fn claim(&self) -> Claim<'_> {
        match self {
            Self::Subscribe(it) => Claim::Subscribe {
                url: it.url.as_str(),
                recovery: it.recovery.as_ref().map(|url| url.as_str()),
                interest: &it.interest,
            },
            Self::Unsubscribe(it) => Claim::Subscribe {
                url: it.url.as_str(),
                recovery: None,
                interest: &it.interest,
            },
            Self::Check(it) => Claim::Check {
                url: it.url.as_str(),
            },
            Self::Set(it, _) => Claim::Set {
                url: it.url.as_str(),
                etag: &it.etag,
            },
            Self::Notify(it, _) => Claim::Notify {
                topic: &it.topic,
                identifier: &it.identifier,
                sha512: &it.sha512,
            },
            Self::Receive(..) | Self::Missed(_) => {
                panic!("what is signed of a delivery depends on where it is posted")
            }
        }
    }

    pub(crate) fn tracing(&self) -> &[u8] {
        match self {
            Self::Subscribe(it) => &it.tracing,
            Self::Unsubscribe(it) => &it.tracing,
            Self::Check(it) => &it.tracing,
            Self::Set(it, _) => &it.tracing,
            Self::Notify(it, _) => &it.tracing,
            Self::Receive(it, _) => &it.tracing,
            Self::Missed(it) => &it.tracing,
        }
    }
}

/// The message, if it is exactly as long as the head says.
fn whole(message: &[u8], announced: u64) -> Result<Vec<u8>, String> {
    if message.len() as u64 != announced {
        return Err(format!(
            "{announced} bytes announced, {} there",
            message.len()
        ));
    }
    Ok(message.to_vec())
}

fn refused(error: impl std::fmt::Display) -> String {
    error.to_string()
}
