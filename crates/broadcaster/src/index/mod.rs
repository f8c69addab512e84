//! All subscriptions in memory: who wants a topic.
//!
//! The store tells [`index`] of every change, so that a notification is matched without a database.
//!
//! - [`globs`] finds the few globs that may match a topic by a piece of text that every such topic
//!   has, and matches them within a share of the processor; `matching_threads` match the rest.
//! - `tables` holds the rows by topic, by glob and by subscriber.
//! - [`row`] is one subscription. Its [`route`] is decided when its url enters the index: to this
//!   broadcaster's own websockets, to another broadcaster, to a subscriber, or nowhere.
//! - [`groups`] sorts the rows that match into the order in which they are delivered to.
//! - [`reserved_urls`] knows the urls of broadcasters however they are spelled.
//!
//! What matching costs is bounded whatever is subscribed: some hundred microseconds at once, and
//! slices by turns beside the runtime for what takes longer.

pub(crate) mod globs;
pub(crate) mod groups;
pub(crate) mod index;
pub(crate) mod matching_threads;
pub(crate) mod reserved_urls;
pub(crate) mod route;
pub(crate) mod row;
mod tables;
