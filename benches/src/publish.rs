//! Publishers: each keeps a connection and has one NOTIFY on its way.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use httppubsub_proto::auth::Claim;
use httppubsub_proto::digest::Sha512;
use httppubsub_proto::paths::NOTIFY;
use httppubsub_proto::stateless::{NotifyHead, NotifyResponse};
use httppubsub_proto::topic::Identifier;
use httppubsub_proto::url::Endpoint;
use hyper::StatusCode;

use crate::by_hand::ByHand;
use crate::keys::Keys;
use crate::machine;
use crate::message::{Label, Message};
use crate::sinks::topic;

/// One program that notifies.
pub(crate) struct Publisher {
    /// It shares a core with the subscribers, and must not be what limits.
    connection: ByHand,
    keys: Keys,
    /// How many must confirm each notification.
    subscribers: u32,
}

/// Who notifies, one message after the other.
pub(crate) trait Notify {
    /// Notifies, and fails unless all subscribers confirmed. Gives how long that took, hashing
    /// aside.
    async fn notify(&mut self, message: Message) -> anyhow::Result<Duration>;

    /// Notifies so often without a send time: connections are made, nothing is measured.
    async fn warm_up(
        &mut self,
        notifications: u64,
        message_bytes: u64,
    ) -> anyhow::Result<Published> {
        let mut published = Published::default();
        for _ in 0..notifications {
            self.notify(Message::new(Label::default(), message_bytes))
                .await?;
            published.notifications += 1;
        }
        Ok(published)
    }

    /// Notifies one after the other for so long. Sequence numbers start at `first_sequence`.
    async fn publish(
        &mut self,
        duration: Duration,
        message_bytes: u64,
        first_sequence: u64,
    ) -> anyhow::Result<Published> {
        let began = Instant::now();
        let mut published = Published::default();
        while began.elapsed() < duration && published.notifications < NOTIFICATIONS_MAX {
            let sequence = first_sequence + published.notifications;
            let sent_at = machine::now().unix_nanoseconds();
            self.notify(Message::new(Label { sent_at, sequence }, message_bytes))
                .await?;
            published.notifications += 1;
            published.sequences += sequence;
        }
        Ok(published)
    }
}

/// What publishers have sent and had confirmed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Published {
    pub(crate) notifications: u64,
    /// Sum of their sequence numbers.
    pub(crate) sequences: u64,
}

impl Publisher {
    pub(crate) async fn connect(
        broadcaster: &Endpoint,
        keys: Keys,
        subscribers: u32,
    ) -> anyhow::Result<Self> {
        let content_type = "content-type: application/octet-stream\r\n";
        let connection = ByHand::open_to(broadcaster, NOTIFY, content_type).await?;
        Ok(Self {
            connection,
            keys,
            subscribers,
        })
    }

    /// Notifies. Gives what was answered, and how long that took, hashing aside. Fails if there is
    /// no answer, or one that is not to this or not vouched for.
    pub(crate) async fn ask(&mut self, message: Message) -> anyhow::Result<(Answered, Duration)> {
        self.ask_hashed(message, message.sha512()).await
    }

    async fn ask_hashed(
        &mut self,
        message: Message,
        sha512: Sha512,
    ) -> anyhow::Result<(Answered, Duration)> {
        let topic = topic();
        let identifier = Identifier::new(Bytes::copy_from_slice(&rand::random::<[u8; 4]>()))?;
        let claim = Claim::Notify {
            topic: &topic,
            identifier: &identifier,
            sha512: &sha512,
        };
        let authorization = self.keys.to_broadcaster.authorize(&claim, machine::now())?;
        let head = NotifyHead {
            topic: topic.clone(),
            sha512,
            tracing: Bytes::new(),
            identifier: identifier.clone(),
            message_bytes: message.bytes(),
        };
        let body = message.behind(&head.encode());
        let began = Instant::now();
        let answer = self.connection.post(authorization, body).await;
        let answer = answer.context("a NOTIFY was not answered")?;
        let took = began.elapsed();
        match answer.status {
            StatusCode::OK => {}
            StatusCode::SERVICE_UNAVAILABLE if answer.retry_after => {
                return Ok((Answered::TurnedAway, took));
            }
            status => return Ok((Answered::Failed(status), took)),
        }
        let response = NotifyResponse::decode(&answer.body).context("no answer to a NOTIFY")?;
        ensure!(
            response.identifier == identifier,
            "the answer is to another NOTIFY"
        );
        let claim = Claim::ConfirmNotify {
            identifier: &identifier,
            subscribers: response.subscribers,
            topic: &topic,
            sha512: &sha512,
        };
        let authorization = response.authorization.as_deref().map(str::as_bytes);
        let key = &self.keys.to_subscriber;
        key.verify(&claim, &response.tracing, authorization, machine::now())?;
        let subscribers = response.subscribers;
        Ok((Answered::Accepted { subscribers }, took))
    }

    /// [`Notify::notify`] for a message whose digest is known.
    pub(crate) async fn notify_hashed(
        &mut self,
        message: Message,
        sha512: Sha512,
    ) -> anyhow::Result<Duration> {
        let (answered, took) = self.ask_hashed(message, sha512).await?;
        let wanted = self.subscribers;
        ensure!(
            answered
                == Answered::Accepted {
                    subscribers: wanted
                },
            "a NOTIFY was answered {answered:?}, there are {wanted} subscribers"
        );
        Ok(took)
    }
}

impl Notify for Publisher {
    async fn notify(&mut self, message: Message) -> anyhow::Result<Duration> {
        self.notify_hashed(message, message.sha512()).await
    }
}

/// What a broadcaster answers to a NOTIFY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answered {
    /// So many subscribers confirmed, the others are accounted for.
    Accepted { subscribers: u32 },
    /// 503 with Retry-After.
    TurnedAway,
    /// Anything else.
    Failed(StatusCode),
}

impl std::iter::Sum for Published {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, it| Self {
            notifications: sum.notifications + it.notifications,
            sequences: sum.sequences + it.sequences,
        })
    }
}

/// A turn ends here whatever time is left, for one publisher.
pub(crate) const NOTIFICATIONS_MAX: u64 = 1_000_000;
