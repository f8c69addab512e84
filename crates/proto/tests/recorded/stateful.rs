//! What the tests of the websocket vectors share: long runs of bytes, and messages as `fields`.

use httppubsub_proto::digest::hex;
use httppubsub_proto::stateful::{BodyHead, Part, StreamPart, ToBroadcaster, ToSubscriber};
use httppubsub_proto::subscription::Interest;
use serde_json::{Map, Value};

/// Text that is written as it is, or in pieces where long runs occur
/// (`docs/protocol/stateful.md` §18).
pub(crate) fn joined(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(pieces) => pieces.iter().map(joined).collect(),
        Value::Object(run) => {
            let text = run.get("repeat").or_else(|| run.get("repeat_text"));
            let times = run["times"].as_u64().expect("times");
            let text = text.and_then(Value::as_str).expect("what is repeated");
            text.repeat(usize::try_from(times).expect("a sane count"))
        }
        other => panic!("{other} is no text"),
    }
}

struct Fields(Map<String, Value>);

impl Fields {
    fn new(authorization: Option<&str>, tracing: &[u8]) -> Self {
        Self(Map::new())
            .with("authorization", authorization)
            .with("tracing", hex(tracing))
    }

    fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    fn interest(self, interest: &Interest) -> Self {
        match interest {
            Interest::Exact(topic) => self.with("topic", hex(topic.as_bytes())),
            Interest::Glob(glob) => self.with("glob", glob.as_str()),
        }
    }

    fn head(self, head: &BodyHead) -> Self {
        self.with("compressor_id", head.compressor)
            .with("compressed_length", head.compressed_length)
            .with("decompressed_length", head.decompressed_length)
            .with("compressed_sha512", hex(head.compressed_sha512.as_bytes()))
    }
}

fn of_part(part: &StreamPart) -> Fields {
    let fields = Fields::new(part.authorization.as_deref(), &part.tracing)
        .with("identifier", hex(part.identifier.as_bytes()))
        .with("part_id", part.part.id())
        .with("body", hex(&part.body));
    match &part.part {
        Part::First { topic, head } => fields.with("topic", hex(topic.as_bytes())).head(head),
        Part::Later(_) => fields,
    }
}

fn by_interest(interest: &Interest, exact: u64) -> u64 {
    match interest {
        Interest::Exact(_) => exact,
        Interest::Glob(_) => exact + 1,
    }
}

/// Type and `fields` of what a subscriber says.
pub(crate) fn fields_of_subscriber(message: &ToBroadcaster) -> (u64, Value) {
    use ToBroadcaster::*;
    let (kind, fields) = match message {
        Configure(it) => (
            1,
            Fields::new(it.authorization.as_deref(), &it.tracing)
                .with("subscriber_nonce", hex(&it.subscriber_nonce))
                .with("enable_zstd", it.enable_zstd)
                .with("enable_training", it.enable_training)
                .with("initial_dict", it.initial_dict),
        ),
        Subscribe(it) | Unsubscribe(it) => {
            let first = if matches!(message, Subscribe(_)) {
                2
            } else {
                4
            };
            (
                by_interest(&it.interest, first),
                Fields::new(it.authorization.as_deref(), &it.tracing).interest(&it.interest),
            )
        }
        Notify(it) => (
            6,
            Fields::new(it.authorization.as_deref(), &it.tracing)
                .with("identifier", hex(it.identifier.as_bytes()))
                .with("topic", hex(it.topic.as_bytes()))
                .head(&it.head)
                .with("body", hex(&it.body)),
        ),
        NotifyStream(it) => (7, of_part(it)),
        ContinueReceive(it) => (
            8,
            Fields::new(it.authorization.as_deref(), &it.tracing)
                .with("identifier", hex(it.identifier.as_bytes()))
                .with("part_id", it.part_id),
        ),
        ConfirmReceive(it) => (
            9,
            Fields::new(it.authorization.as_deref(), &it.tracing)
                .with("identifier", hex(it.identifier.as_bytes()))
                .with("num_subscribers", it.num_subscribers),
        ),
    };
    (kind, fields.0.into())
}

/// Type and `fields` of what a broadcaster says.
pub(crate) fn fields_of_broadcaster(message: &ToSubscriber) -> (u64, Value) {
    use ToSubscriber::*;
    let (kind, fields) = match message {
        ConfirmConfigure(it) => (
            1,
            Fields::new(it.authorization.as_deref(), &it.tracing)
                .with("broadcaster_nonce", hex(&it.broadcaster_nonce)),
        ),
        ConfirmSubscribe(it) | ConfirmUnsubscribe(it) => {
            let first = if matches!(message, ConfirmSubscribe(_)) {
                2
            } else {
                4
            };
            (
                by_interest(&it.interest, first),
                Fields::new(it.authorization.as_deref(), &it.tracing).interest(&it.interest),
            )
        }
        ConfirmNotify(it) => (
            6,
            Fields::new(it.authorization.as_deref(), &it.tracing)
                .with("identifier", hex(it.identifier.as_bytes()))
                .with("subscribers", it.subscribers),
        ),
        ContinueNotify(it) => (
            7,
            Fields::new(it.authorization.as_deref(), &it.tracing)
                .with("identifier", hex(it.identifier.as_bytes()))
                .with("part_id", it.part_id),
        ),
        ReceiveStream(it) => (8, of_part(it)),
        EnablePreset(it) => (
            9,
            Fields::new(it.authorization.as_deref(), &it.tracing)
                .with("identifier", it.compressor)
                .with("compression_level", it.compression_level)
                .with("min_size", it.min_size)
                .with("max_size", it.max_size),
        ),
        EnableCustom(it) => (
            10,
            Fields::new(it.authorization.as_deref(), &it.tracing)
                .with("identifier", it.compressor)
                .with("compression_level", it.compression_level)
                .with("min_size", it.min_size)
                .with("max_size", it.max_size)
                .with("sha512", hex(it.sha512.as_bytes()))
                .with("body", hex(&it.dictionary)),
        ),
        DisableCustom(it) => (
            11,
            Fields::new(it.authorization.as_deref(), &it.tracing).with("identifier", it.compressor),
        ),
        Missed(it) => (
            12,
            Fields::new(it.authorization.as_deref(), &it.tracing)
                .with("topic", hex(it.topic.as_bytes())),
        ),
    };
    (kind, fields.0.into())
}
