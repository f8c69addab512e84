//! What the tests of recorded vectors share: loading a file and reading its fields.
#![allow(
    dead_code,
    unused_imports,
    reason = "every test file uses a part of it"
)]

pub(crate) mod request;
pub(crate) mod stateful;

use httppubsub_proto::digest::Sha512;
use httppubsub_proto::glob::GlobPattern;
use httppubsub_proto::subscription::{Interest, StrongEtag, SubscriptionSet};
use httppubsub_proto::topic::{Identifier, Topic};
use httppubsub_proto::url::SubscriberUrl;
pub(crate) use httppubsub_testkit::{recorded_now, secrets, unhex, vectors};
use serde_json::Value;

/// The fields of an object of a vectors file. Whatever is missing or of another type fails the
/// test.
pub(crate) trait Fields {
    /// The list at this JSON pointer, which must have this many elements: a vectors file that lost
    /// its cases must not pass.
    fn cases(&self, pointer: &str, count: usize) -> &[Value];
    fn list(&self, name: &str) -> &[Value];
    fn text(&self, name: &str) -> &str;
    /// `None` if it is null or missing.
    fn maybe_text(&self, name: &str) -> Option<&str>;
    fn number<T: TryFrom<u64>>(&self, name: &str) -> T;
    fn flag(&self, name: &str) -> bool;
    /// Bytes, written as hex.
    fn bytes(&self, name: &str) -> Vec<u8>;
    fn array<const N: usize>(&self, name: &str) -> [u8; N];
    /// Text, written as the hex of its UTF-8.
    fn hex_text(&self, name: &str) -> String;
    fn maybe_hex_text(&self, name: &str) -> Option<String>;
    fn topic(&self, name: &str) -> Topic;
    fn identifier(&self, name: &str) -> Identifier;
    fn sha512(&self, name: &str) -> Sha512;
    fn etag(&self, name: &str) -> StrongEtag;
}

impl Fields for Value {
    #[track_caller]
    fn cases(&self, pointer: &str, count: usize) -> &[Value] {
        httppubsub_testkit::cases(self, pointer, count)
    }

    #[track_caller]
    fn list(&self, name: &str) -> &[Value] {
        self[name]
            .as_array()
            .unwrap_or_else(|| panic!("no list {name} in {self}"))
    }

    #[track_caller]
    fn text(&self, name: &str) -> &str {
        self[name]
            .as_str()
            .unwrap_or_else(|| panic!("no text {name} in {self}"))
    }

    #[track_caller]
    fn maybe_text(&self, name: &str) -> Option<&str> {
        if self[name].is_null() {
            None
        } else {
            Some(self.text(name))
        }
    }

    #[track_caller]
    fn number<T: TryFrom<u64>>(&self, name: &str) -> T {
        let number = self[name]
            .as_u64()
            .and_then(|number| T::try_from(number).ok());
        number.unwrap_or_else(|| panic!("no fitting number {name} in {self}"))
    }

    #[track_caller]
    fn flag(&self, name: &str) -> bool {
        self[name]
            .as_bool()
            .unwrap_or_else(|| panic!("no flag {name} in {self}"))
    }

    #[track_caller]
    fn bytes(&self, name: &str) -> Vec<u8> {
        unhex(self.text(name))
    }

    #[track_caller]
    fn array<const N: usize>(&self, name: &str) -> [u8; N] {
        self.bytes(name)
            .try_into()
            .unwrap_or_else(|_| panic!("{name} is not {N} bytes in {self}"))
    }

    #[track_caller]
    fn hex_text(&self, name: &str) -> String {
        String::from_utf8(self.bytes(name)).unwrap_or_else(|_| panic!("{name} is not text"))
    }

    #[track_caller]
    fn maybe_hex_text(&self, name: &str) -> Option<String> {
        if self[name].is_null() {
            None
        } else {
            Some(self.hex_text(name))
        }
    }

    #[track_caller]
    fn topic(&self, name: &str) -> Topic {
        Topic::new(self.bytes(name)).expect("a recorded topic fits its field")
    }

    #[track_caller]
    fn identifier(&self, name: &str) -> Identifier {
        Identifier::new(self.bytes(name)).expect("a recorded identifier fits its field")
    }

    #[track_caller]
    fn sha512(&self, name: &str) -> Sha512 {
        Sha512::from_bytes(self.array(name))
    }

    #[track_caller]
    fn etag(&self, name: &str) -> StrongEtag {
        StrongEtag(self.sha512(name))
    }
}

pub(crate) fn url(text: impl AsRef<str>) -> SubscriberUrl {
    SubscriberUrl::new(text.as_ref()).expect("a recorded url fits its field")
}

pub(crate) fn glob(text: impl Into<String>) -> GlobPattern {
    let text: String = text.into();
    GlobPattern::parse(text).expect("a recorded glob fits its field")
}

/// The set in the lists `exact` and `globs`, in which globs and recovery urls are hex.
#[track_caller]
pub(crate) fn set_in_hex(lists: &Value) -> SubscriptionSet {
    let recovery = |entry: &Value| entry.maybe_hex_text("recovery").map(url);
    let exacts = lists
        .list("exact")
        .iter()
        .map(|it| (it.topic("topic"), recovery(it)))
        .collect();
    let globs = lists.list("globs").iter();
    let globs = globs
        .map(|it| (glob(it.hex_text("glob")), recovery(it)))
        .collect();
    SubscriptionSet::from_ascending(exacts, globs).expect("recorded lists are ascending")
}

/// Rows of a store as `exact` and `globs`, in which urls and globs are text.
#[track_caller]
pub(crate) fn rows_in_text(rows: &Value) -> Vec<(SubscriberUrl, Interest, Option<SubscriberUrl>)> {
    let exacts = rows
        .list("exact")
        .iter()
        .map(|row| (row, Interest::Exact(row.topic("topic"))));
    let globs = rows
        .list("globs")
        .iter()
        .map(|row| (row, Interest::Glob(glob(row.text("glob")))));
    exacts
        .chain(globs)
        .map(|(row, interest)| {
            (
                url(row.text("url")),
                interest,
                row.maybe_text("recovery").map(url),
            )
        })
        .collect()
}
