//! The httppubsub protocol without any I/O: the part that is the same for every program that speaks
//! it.
//!
//! httppubsub is publish/subscribe over HTTP. A subscriber registers a url for a topic or a glob at
//! a broadcaster. A publisher posts a notification to the broadcaster, which posts it to each
//! subscriber whose interest matches, and answers the publisher with the number of subscribers that
//! confirmed. A subscriber that was not reached gets a notice at its recovery url once it is back.
//! A subscriber that cannot be reached by a url opens a websocket instead, and the same messages
//! travel over it.
//!
//! ```text
//!  publisher                  broadcaster                   subscriber
//!      │                           │                            │
//!      │                           │ ◀─────── SUBSCRIBE ─────── │  url, interest, recovery url
//!      │                           │ ── CONFIRM_SUBSCRIBE ────▶ │
//!      │ ──────── NOTIFY ────────▶ │                            │
//!      │                           │ ───────── RECEIVE ───────▶ │  posted to the url
//!      │                           │ ◀──── CONFIRM_RECEIVE ──── │
//!      │ ◀──── CONFIRM_NOTIFY ──── │                            │
//!      │   number of subscribers   │                            │
//!      │                           │ ───────── MISSED ────────▶ │  if RECEIVE failed, later,
//!      │                           │ ◀──── CONFIRM_MISSED ───── │  posted to the recovery url
//! ```
//!
//! # In scope
//!
//! - Bytes of every message, in both directions, over HTTP and websockets.
//! - Authorization: everything that is signed, the schemes, secrets files, codes that are spent.
//! - Matching of globs, sets of subscriptions and their etags, urls, digests.
//! - State machines for both ends of a websocket.
//! - Waiting times between attempts.
//!
//! # Out of scope
//!
//! - Sockets, HTTP, TLS, files, tasks, `async`: see `httppubsub-net`, and the two shells
//!   `httppubsub-broadcaster` and `httppubsub-client`.
//! - Clocks and random numbers: [`time::Now`] and seeds are arguments.
//! - Compression itself: compressors have numbers and sizes here, and bodies are opaque.
//! - Storage of subscriptions: see `httppubsub-store`.
//! - Logging. Errors say everything a log should say.
//!
//! # Modules
//!
//! | module | content |
//! |---|---|
//! | [`session`] | state machines for both ends of a websocket |
//! | [`stateful`] | messages over websockets, and the urls that number them |
//! | [`stateless`] | heads and answers over HTTP |
//! | [`auth`] | claims, schemes, secrets files, spent codes |
//! | [`subscription`] | interests, sets of them, strong etags |
//! | [`glob`], [`topic`], [`url`], [`paths`] | what is subscribed, and where it is delivered |
//! | [`digest`], [`wire`], [`limits`] | SHA-512 and HMAC, raw bytes, the largest values of fields |
//! | [`time`], [`backoff`], [`error_chain`] | moments, waiting times, errors on one line |
//!
//! A module uses only modules below it. `docs/protocol/` is the law for bytes; comments name its
//! sections as `stateful.md` §8, or as §8 where the file is clear.
//!
//! # Example
//!
//! A publisher makes the body and the authorization of a NOTIFY. The broadcaster decodes the head
//! from the first bytes, and verifies it before it takes the message:
//!
//! ```
//! use std::time::Duration;
//!
//! use bytes::Bytes;
//! use httppubsub_proto::auth::{Authorization, Claim, HmacAuthorization, Stamp};
//! use httppubsub_proto::digest::Sha512;
//! use httppubsub_proto::stateless::NotifyHead;
//! use httppubsub_proto::time::Now;
//! use httppubsub_proto::topic::{Identifier, Topic};
//!
//! let scheme = HmacAuthorization::new(&[7; 64]); // both ends know the secret
//! let now = Now::from_unix(Duration::from_secs(1_700_000_000));
//!
//! let message = b"done";
//! let head = NotifyHead {
//!     topic: Topic::new("jobs/7")?,
//!     sha512: Sha512::of(message),
//!     tracing: Bytes::new(),
//!     identifier: Identifier::new(&b"0001"[..])?,
//!     message_bytes: message.len() as u64,
//! };
//! let claim = Claim::Notify {
//!     topic: &head.topic,
//!     identifier: &head.identifier,
//!     sha512: &head.sha512,
//! };
//! let nonce = [1; 12]; // drawn at random, never used twice
//! let authorization = scheme.authorize(&claim, &head.tracing, &Stamp { now, nonce })?;
//! let body = [&head.encode()[..], message].concat();
//!
//! let (arrived, head_bytes) = NotifyHead::decode(&body)?;
//! assert_eq!(arrived, head);
//! assert_eq!(&body[head_bytes..], message);
//! let value = authorization.as_deref().map(str::as_bytes);
//! let unspent = scheme.verify(&claim, &arrived.tracing, value, now)?;
//! assert!(unspent.into_code().is_some()); // to be spent at a guard against replay
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod error_chain;

pub mod limits;

pub mod paths;

pub mod time;

pub mod wire;

pub mod digest;

pub mod topic;

pub mod number;

pub mod glob;

pub mod url;

pub mod subscription;

pub mod backoff;

pub mod auth;

pub mod plain;

pub mod stateless;

pub mod stateful;

pub mod session;
