//! The websocket state machines of both ends, without any I/O (`docs/protocol/stateful.md`).
//!
//! # Contract
//!
//! A driver owns the websocket, the clock and the bodies. A machine owns the order of messages,
//! their signatures, counters and deadlines. The driver
//!
//! 1. gives the machine one input: a message that arrived (`handle_message`), the moment of its
//!    deadline (`handle_timeout`), or a request of its own (`subscribe`, `notify`, `deliver`,
//!    `confirm_…`, `end`);
//! 2. polls `poll_event` until it returns `None`, and acts on each event;
//! 3. polls `poll_output` until it returns [`Output::Timeout`]. [`Output::Send`] is one binary
//!    websocket message. While the websocket cannot take more, the driver leaves step 3 out, unless
//!    the session is over: then the [`Output::Close`] that is left says why.
//!
//! Every input carries the time. A message is signed as it leaves, so that the counters in the
//! signatures have the order of the wire. Bodies are a type `B` that the machine never looks into;
//! it says which range of which body to send. Errors of the peer end the session: the machine then
//! ignores every further input, and hands over its reason once.
//!
//! An event that carries an [`Unspent`](crate::auth::Unspent) authorization counts only after the
//! driver has spent that. An event that carries a ticket must be answered with the ticket; answers
//! may be given in any order, and leave in the order of the requests.
//!
//! # The broadcaster's end
//!
//! ```text
//!       new
//!        │
//!        ▼
//! ┌────────────────┐  CONFIGURE    ┌─────────────┐  accept()   ┌──────┐ SUBSCRIBE, UNSUBSCRIBE,
//! │ AwaitConfigure │ ────────────▶ │ AwaitAccept │ ──────────▶ │ Open │ NOTIFY, NOTIFY_STREAM,
//! └────────────────┘  Configure    └─────────────┘  sends      └──────┘ CONTINUE_RECEIVE,
//!        │            event               │     CONFIRM_CONFIGURE │     CONFIRM_RECEIVE
//!        │ deadline, any other message    │ deadline, any message │
//!        ▼                                ▼                       ▼ second CONFIGURE, broken rule
//! ┌─────────────────────────────────────────────────────────────────────┐
//! │ Closed                                                              │ ◀── end()
//! └─────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! # The subscriber's end
//!
//! ```text
//!       new
//!        │ sends CONFIGURE
//!        ▼
//! ┌──────────────┐  CONFIRM_CONFIGURE  ┌──────┐ CONFIRM_SUBSCRIBE, CONFIRM_UNSUBSCRIBE,
//! │ AwaitConfirm │ ──────────────────▶ │ Open │ CONTINUE_NOTIFY, CONFIRM_NOTIFY, RECEIVE_STREAM,
//! └──────────────┘  Open event         └──────┘ ENABLE_ZSTD_…, DISABLE_ZSTD_CUSTOM, MISSED
//!        │ deadline, any other message    │
//!        ▼                                ▼ second CONFIRM_CONFIGURE, broken rule
//! ┌──────────────────────────────────────────┐
//! │ Closed                                   │ ◀── end()
//! └──────────────────────────────────────────┘
//! ```
//!
//! # Example
//!
//! Both machines in one process, with nothing between them. Bodies are `Bytes`:
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use bytes::Bytes;
//! use httppubsub_proto::auth::NoAuthorization;
//! use httppubsub_proto::digest::Sha512;
//! use httppubsub_proto::session::{
//!     BroadcasterConfig, BroadcasterEvent, BroadcasterSession, Delivery, Nonces, Outgoing,
//!     OutgoingBody, Output, SubscriberConfig, SubscriberEvent, SubscriberSession,
//! };
//! use httppubsub_proto::stateful::BodyHead;
//! use httppubsub_proto::subscription::Interest;
//! use httppubsub_proto::time::Now;
//! use httppubsub_proto::topic::{Identifier, Topic};
//!
//! fn on_the_wire(message: Outgoing<Bytes>) -> Bytes {
//!     let body = match message.body {
//!         OutgoingBody::Empty => Bytes::new(),
//!         OutgoingBody::Bytes(bytes) => bytes,
//!         OutgoingBody::Part { of, range } => of.slice(range.start as usize..range.end as usize),
//!     };
//!     [message.head, body].concat().into()
//! }
//!
//! type Ends = (SubscriberSession<Bytes>, BroadcasterSession<Bytes>);
//!
//! fn exchange((subscriber, broadcaster): &mut Ends, now: Now) {
//!     while let Output::Send(message) = subscriber.poll_output() {
//!         broadcaster.handle_message(&on_the_wire(message), now);
//!     }
//!     while let Output::Send(message) = broadcaster.poll_output() {
//!         subscriber.handle_message(&on_the_wire(message), now);
//!     }
//! }
//!
//! let now = Now::from_unix(Duration::from_secs(1_700_000_000));
//! let scheme = Arc::new(NoAuthorization);
//! let config = Arc::new(SubscriberConfig::new(scheme.clone(), scheme.clone()));
//! let subscriber = SubscriberSession::new(config, [1; 32], Nonces::new([1; 12]), now);
//! let config = Arc::new(BroadcasterConfig::new(scheme.clone(), scheme));
//! let broadcaster = BroadcasterSession::new(config, Nonces::new([2; 12]), now);
//! let mut ends = (subscriber, broadcaster);
//!
//! exchange(&mut ends, now);
//! let Some(BroadcasterEvent::Configure { unspent, .. }) = ends.1.poll_event() else {
//!     panic!("CONFIGURE comes first");
//! };
//! assert!(unspent.into_code().is_none()); // this scheme has nothing to spend
//! ends.1.accept([2; 32], now);
//! exchange(&mut ends, now);
//! assert!(matches!(ends.0.poll_event(), Some(SubscriberEvent::Open { .. })));
//!
//! let topic = Topic::new("jobs/7")?;
//! ends.0.subscribe(&Interest::Exact(topic.clone()), now);
//! exchange(&mut ends, now);
//! let Some(BroadcasterEvent::Interest(ticket)) = ends.1.poll_event() else {
//!     panic!("a subscription was asked for");
//! };
//! ends.1.confirm_interest(ticket, now);
//! exchange(&mut ends, now);
//! assert!(matches!(ends.0.poll_event(), Some(SubscriberEvent::Subscribed(_))));
//!
//! let body = Bytes::from_static(b"done");
//! let head = BodyHead {
//!     compressor: 0,
//!     compressed_length: 4,
//!     decompressed_length: 4,
//!     compressed_sha512: Sha512::of(&body),
//! };
//! let identifier = Identifier::new(&b"0001"[..])?;
//! ends.1.deliver(Delivery { identifier, topic, head, body }, now);
//! exchange(&mut ends, now);
//! let Some(SubscriberEvent::Receive(part)) = ends.0.poll_event() else {
//!     panic!("a message was delivered");
//! };
//! assert_eq!(&part.bytes[..], b"done");
//! ends.0.confirm_receive(part.ends.expect("it is the last part"), now);
//! exchange(&mut ends, now);
//! assert!(matches!(ends.1.poll_event(), Some(BroadcasterEvent::Delivered(_))));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod close_code;
mod compressors;
mod error;
mod in_order;
mod incoming;
mod io;
mod nonces;
mod outgoing;
mod signer;

mod broadcaster;
mod subscriber;

pub use broadcaster::{
    BroadcasterConfig, BroadcasterEvent, BroadcasterSession, Compressor, Delivery, InterestTicket,
    NotifyPart, NotifyTicket,
};
pub use compressors::CompressorSizes;
pub use error::SessionError;
pub use io::{Outgoing, OutgoingBody, Output};
pub use nonces::Nonces;
pub use signer::StreamCounters;
pub use subscriber::{
    Notification, ReceivePart, ReceiveTicket, SubscriberConfig, SubscriberEvent, SubscriberSession,
};
