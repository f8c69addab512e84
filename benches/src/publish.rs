//! Publishers: each keeps a connection and has one NOTIFY on its way.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use httppubsub_proto::auth::Claim;
use httppubsub_proto::http::{NOTIFY, NotifyHead, NotifyResponse};
use httppubsub_proto::topic::Identifier;
use httppubsub_proto::url::Endpoint;
use hyper::StatusCode;

use crate::connection::{Connection, path};
use crate::keys::Keys;
use crate::machine;
use crate::message::{Label, Message};
use crate::sinks::topic;

/// One program that notifies.
pub(crate) struct Publisher {
    connection: Connection,
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
        let connection = Connection::open(broadcaster).await?;
        Ok(Self {
            connection,
            keys,
            subscribers,
        })
    }
}

impl Notify for Publisher {
    async fn notify(&mut self, message: Message) -> anyhow::Result<Duration> {
        let sha512 = message.sha512();
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
        let answer = self
            .connection
            .post(&path(NOTIFY), authorization, None, body)
            .await;
        let answer = answer.context("a NOTIFY was not answered")?;
        let took = began.elapsed();
        ensure!(
            answer.status == StatusCode::OK,
            "a NOTIFY was answered {}",
            answer.status
        );
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
        let (confirmed, wanted) = (response.subscribers, self.subscribers);
        ensure!(
            confirmed == wanted,
            "{confirmed} subscribers confirmed, {wanted} there are"
        );
        Ok(took)
    }
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
