//! The yardsticks: the same requests to the same subscribers, from bare hyper connections and from
//! HTTP written by hand, in a process of their own.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use futures_util::future::try_join_all;
use httppubsub_proto::auth::{Claim, Secrets};
use httppubsub_proto::digest::{Sha512, encode_repr_digest};
use httppubsub_proto::stateless::{ReceiveAnswer, ReceiveHead};
use httppubsub_proto::topic::{Identifier, Topic};
use httppubsub_proto::url::{Endpoint, SubscriberUrl};
use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue};
use hyper::http::uri::PathAndQuery;
use serde_json::json;
use tokio::task::JoinSet;

use crate::by_hand::ByHand;
use crate::connection::Connection;
use crate::keys::Keys;
use crate::machine::{self, Cores};
use crate::message::{Label, Message};
use crate::sinks::topic;

/// What the yardstick is to do.
pub(crate) struct Order {
    pub(crate) urls: Vec<SubscriberUrl>,
    pub(crate) secrets: Secrets,
    pub(crate) message_bytes: u64,
    /// Whether HTTP is written by hand, not by hyper.
    pub(crate) by_hand: bool,
    /// Whether the next message is sent when all subscribers have confirmed the one before, as a
    /// publisher with one NOTIFY in flight makes a broadcaster do.
    pub(crate) lockstep: bool,
    pub(crate) warm_up: u64,
    pub(crate) duration: Duration,
}

/// What it did.
pub(crate) struct Done {
    /// Confirmed deliveries a subscriber, those of the warm-up included.
    pub(crate) delivered: Vec<u64>,
    /// From the end of the warm-up to the last answer.
    pub(crate) elapsed: Duration,
    /// Computing in that time.
    pub(crate) cpu: Duration,
    pub(crate) memory_max: u64,
}

/// Runs the yardstick in a process of its own.
pub(crate) async fn run(order: &Order, cores: Option<Cores>) -> anyhow::Result<Done> {
    let process = machine::start_yardstick(SUBCOMMAND, &order.to_json(), cores).await?;
    let output = process.wait_with_output().await?;
    ensure!(output.status.success(), "the yardstick failed");
    Done::from_json(&serde_json::from_slice(&output.stdout)?).context("the yardstick's answer")
}

/// The yardstick itself: reads its order from stdin, gives what it did to stdout.
pub(crate) fn main() -> anyhow::Result<serde_json::Value> {
    let order = Order::from_json(&machine::order()?).context("the order")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(order.carry_out())?.to_json())
}

impl Order {
    async fn carry_out(self) -> anyhow::Result<Done> {
        let keys = Keys::of(&self.secrets);
        let message = Message::new(Label::default(), self.message_bytes);
        let sha512 = message.sha512();
        let mut deliverers = Vec::new();
        for url in self.urls {
            let endpoint = Endpoint::parse(&url)?;
            let wire = if self.by_hand {
                let always = format!(
                    "content-type: application/octet-stream\r\nrepr-digest: {}\r\n",
                    encode_repr_digest(&sha512)
                );
                Wire::Hand(ByHand::open(&endpoint, &always).await?)
            } else {
                Wire::Hyper(Connection::open(&endpoint).await?)
            };
            deliverers.push(Deliverer {
                wire,
                path: PathAndQuery::try_from(endpoint.path_and_query())?,
                url,
                keys: keys.clone(),
                topic: topic(),
                message,
                sha512,
                repr_digest: HeaderValue::try_from(encode_repr_digest(&sha512))?,
            });
        }
        for deliverer in &mut deliverers {
            for _ in 0..self.warm_up {
                deliverer.deliver(0).await?;
            }
        }
        let (began, cpu_before) = (Instant::now(), machine::cpu_time(std::process::id())?);
        let mut delivered = vec![self.warm_up; deliverers.len()];
        if self.lockstep {
            let deliveries = deliver_in_lockstep(&mut deliverers, self.duration).await?;
            delivered.iter_mut().for_each(|it| *it += deliveries);
        } else {
            let mut running = JoinSet::new();
            for (number, mut deliverer) in deliverers.into_iter().enumerate() {
                let duration = self.duration;
                running.spawn(async move { (number, deliverer.deliver_for(duration).await) });
            }
            while let Some(done) = running.join_next().await {
                let (number, count) = done?;
                delivered[number] += count?;
            }
        }
        Ok(Done {
            delivered,
            elapsed: began.elapsed(),
            cpu: machine::cpu_time(std::process::id())?.saturating_sub(cpu_before),
            memory_max: machine::memory_max(std::process::id())?,
        })
    }
}

/// How many each of them delivered.
async fn deliver_in_lockstep(
    deliverers: &mut [Deliverer],
    duration: Duration,
) -> anyhow::Result<u64> {
    let began = Instant::now();
    let mut deliveries = 0;
    while began.elapsed() < duration && deliveries < DELIVERIES_MAX {
        let sent_at = machine::now().unix_nanoseconds();
        try_join_all(deliverers.iter_mut().map(|it| it.deliver(sent_at))).await?;
        deliveries += 1;
    }
    Ok(deliveries)
}

/// One connection to one subscriber.
struct Deliverer {
    wire: Wire,
    path: PathAndQuery,
    url: SubscriberUrl,
    keys: Keys,
    topic: Topic,
    message: Message,
    sha512: Sha512,
    repr_digest: HeaderValue,
}

impl Deliverer {
    async fn deliver_for(&mut self, duration: Duration) -> anyhow::Result<u64> {
        let began = Instant::now();
        let mut deliveries = 0;
        while began.elapsed() < duration && deliveries < DELIVERIES_MAX {
            self.deliver(machine::now().unix_nanoseconds()).await?;
            deliveries += 1;
        }
        Ok(deliveries)
    }

    /// One RECEIVE; it carries `sent_at` in its identifier, see
    /// [`SentAt::Identifier`](crate::sinks::SentAt::Identifier).
    async fn deliver(&mut self, sent_at: u64) -> anyhow::Result<()> {
        let identifier = Identifier::new(Bytes::copy_from_slice(&sent_at.to_be_bytes()))?;
        let claim = Claim::Receive {
            url: self.url.as_str(),
            topic: &self.topic,
            identifier: &identifier,
            sha512: &self.sha512,
        };
        let authorization = self.keys.to_subscriber.authorize(&claim, machine::now())?;
        let head = ReceiveHead {
            tracing: Bytes::new(),
            topic: self.topic.clone(),
            identifier: identifier.clone(),
            message_bytes: self.message.bytes(),
        };
        let answer = match &mut self.wire {
            Wire::Hyper(connection) => {
                let name = HeaderName::from_static("repr-digest");
                let digest = (name, self.repr_digest.clone());
                let body = self.message.behind(&head.encode());
                connection
                    .post(&self.path, authorization, Some(digest), body)
                    .await?
            }
            Wire::Hand(by_hand) => {
                let body = self.message.behind(&head.encode());
                by_hand.post(authorization, body).await?
            }
        };
        ensure!(
            answer.status == StatusCode::OK,
            "a RECEIVE was answered {}",
            answer.status
        );
        let ReceiveAnswer::Confirm(confirmation) = ReceiveAnswer::decode(&answer.body)? else {
            anyhow::bail!("a subscriber does not want its subscription any more");
        };
        ensure!(
            confirmation.identifier == identifier,
            "the answer is to another RECEIVE"
        );
        let claim = Claim::ConfirmReceive {
            identifier: &identifier,
            subscribers: confirmation.subscribers,
            url: self.url.as_str(),
        };
        let authorization = confirmation.authorization.as_deref().map(str::as_bytes);
        let key = &self.keys.to_broadcaster;
        key.verify(&claim, &confirmation.tracing, authorization, machine::now())
    }
}

/// How a deliverer speaks.
enum Wire {
    Hyper(Connection),
    Hand(ByHand),
}

impl Order {
    fn to_json(&self) -> serde_json::Value {
        json!({
            "urls": self.urls.iter().map(SubscriberUrl::as_str).collect::<Vec<_>>(),
            "secrets": self.secrets.to_text(),
            "message_bytes": self.message_bytes,
            "by_hand": self.by_hand,
            "lockstep": self.lockstep,
            "warm_up": self.warm_up,
            "duration_ns": nanoseconds(self.duration),
        })
    }

    fn from_json(order: &serde_json::Value) -> anyhow::Result<Self> {
        let urls = order["urls"].as_array().context("no urls")?;
        let url = |url: &serde_json::Value| {
            Ok(SubscriberUrl::new(
                url.as_str().context("a url is no text")?,
            )?)
        };
        Ok(Self {
            urls: urls.iter().map(url).collect::<anyhow::Result<_>>()?,
            secrets: Secrets::parse(order["secrets"].as_str().context("no secrets")?)?,
            message_bytes: number(order, "message_bytes")?,
            by_hand: flag(order, "by_hand")?,
            lockstep: flag(order, "lockstep")?,
            warm_up: number(order, "warm_up")?,
            duration: Duration::from_nanos(number(order, "duration_ns")?),
        })
    }
}

impl Done {
    fn to_json(&self) -> serde_json::Value {
        json!({
            "delivered": self.delivered,
            "elapsed_ns": nanoseconds(self.elapsed),
            "cpu_ns": nanoseconds(self.cpu),
            "memory_max": self.memory_max,
        })
    }

    fn from_json(done: &serde_json::Value) -> anyhow::Result<Self> {
        let delivered = done["delivered"].as_array().context("no deliveries")?;
        let count = |count: &serde_json::Value| count.as_u64().context("a count is no number");
        Ok(Self {
            delivered: delivered.iter().map(count).collect::<anyhow::Result<_>>()?,
            elapsed: Duration::from_nanos(number(done, "elapsed_ns")?),
            cpu: Duration::from_nanos(number(done, "cpu_ns")?),
            memory_max: number(done, "memory_max")?,
        })
    }
}

fn number(object: &serde_json::Value, name: &str) -> anyhow::Result<u64> {
    object[name]
        .as_u64()
        .with_context(|| format!("{name} is missing"))
}

fn flag(object: &serde_json::Value, name: &str) -> anyhow::Result<bool> {
    object[name]
        .as_bool()
        .with_context(|| format!("{name} is missing"))
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// How this program is told to be the yardstick.
pub(crate) const SUBCOMMAND: &str = "bare";

/// A turn ends here whatever time is left, for one subscriber.
const DELIVERIES_MAX: u64 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Auth;
    use crate::sinks::{Behaviour, SentAt, Sinks};

    #[tokio::test]
    async fn what_the_yardstick_says_it_delivered_was_received() {
        let secrets = Auth::Hmac.fresh_secrets();
        for (by_hand, lockstep) in [(false, false), (false, true), (true, false), (true, true)] {
            let sinks = sinks(&secrets).await;
            let order = Order {
                lockstep,
                ..order(&sinks, secrets.clone(), by_hand)
            };
            let done = order.carry_out().await.unwrap();
            let received = sinks.finish().unwrap().received;
            let received: Vec<_> = received.iter().map(|it| it.messages).collect();
            assert_eq!(done.delivered, received);
            assert!(received.iter().all(|messages| *messages > 2));
        }
    }

    #[tokio::test]
    async fn a_delivery_that_is_not_authorized_fails_both_sides() {
        let sinks = sinks(&Auth::Hmac.fresh_secrets()).await;
        let other_secrets = Auth::Hmac.fresh_secrets();
        assert!(
            order(&sinks, other_secrets, false)
                .carry_out()
                .await
                .is_err()
        );
        let error = sinks.finish().err().unwrap().to_string();
        assert!(
            error.contains("the signature does not fit the message"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn an_order_and_its_outcome_survive_the_pipe() {
        let sinks = sinks(&Secrets::NONE).await;
        let order = order(&sinks, Secrets::NONE, true);
        let read = Order::from_json(&order.to_json()).unwrap();
        assert_eq!(read.to_json(), order.to_json());
        let done = order.carry_out().await.unwrap();
        let read = Done::from_json(&done.to_json()).unwrap();
        assert_eq!(read.to_json(), done.to_json());
    }

    async fn sinks(secrets: &Secrets) -> Sinks {
        let behaviours = [Behaviour::Confirm; 3];
        let sinks = Sinks::start(&behaviours, 2, Keys::of(secrets))
            .await
            .unwrap();
        sinks.begin(SentAt::Identifier);
        sinks
    }

    fn order(sinks: &Sinks, secrets: Secrets, by_hand: bool) -> Order {
        Order {
            urls: sinks.urls().cloned().collect(),
            secrets,
            message_bytes: 100,
            by_hand,
            lockstep: false,
            warm_up: 2,
            duration: Duration::from_millis(20),
        }
    }
}
