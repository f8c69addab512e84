//! Both ends of a websocket against each other: whatever they are asked for in whatever order,
//! everything arrives, once and in order, and nothing is reported that is not true.

mod pair;
mod rules;

use std::num::NonZeroUsize;
use std::time::Duration;

use httppubsub_proto::glob::GlobPattern;
use httppubsub_proto::session::{SessionError, StreamCounters};
use httppubsub_proto::stateful::HeaderStyle;
use httppubsub_proto::subscription::Interest;
use httppubsub_proto::topic::{Identifier, Topic};
use pair::{Auth, End, Message, Pair, Settings};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

const AUTHS: [Auth; 3] = [Auth::None, Auth::Token, Auth::Hmac];
const COUNTERS: [StreamCounters; 2] = [StreamCounters::FirstPart, StreamCounters::EachPart];
const STYLES: [HeaderStyle; 2] = [HeaderStyle::Minimal, HeaderStyle::Expanded];

#[test]
fn a_conversation_about_everything_succeeds_with_every_setting() {
    for auth in AUTHS {
        for stream_counters in COUNTERS {
            for style in STYLES {
                let settings = Settings {
                    auth,
                    stream_counters,
                    headers: [style; 2],
                    ..Settings::default()
                };
                let mut talk = Talk::open(&settings);
                for step in everything() {
                    talk.step(&step);
                }
                talk.finish();
                for name in EVERY_NAME {
                    let sent = [&talk.pair.subscriber.sent, &talk.pair.broadcaster.sent];
                    assert!(
                        sent.into_iter().flatten().any(|it| *it == name),
                        "{name} was not sent"
                    );
                }
            }
        }
    }
}

#[test]
fn a_window_of_parts_is_used_and_not_exceeded() {
    for window in [Some(1), Some(3), None] {
        let settings = Settings {
            unacknowledged_max: window.and_then(NonZeroUsize::new),
            ..Settings::default()
        };
        let mut talk = Talk::open(&settings);
        talk.step(&Step::Deliver(0, 2_600));
        talk.finish();
        let broadcaster = &talk.pair.broadcaster;
        let parts = broadcaster
            .sent
            .iter()
            .filter(|it| **it == "RECEIVE_STREAM");
        // Another message of one part ends every talk.
        let most = window.unwrap_or(parts.count() - 1);
        assert!(most < 4 || window.is_none());
        assert_eq!(broadcaster.unacknowledged_most, most, "{window:?}");
    }
}

#[test]
fn what_is_signed_late_is_signed_then() {
    let settings = Settings::default();
    let mut talk = Talk::open(&settings);
    // The third part waits for acknowledgements that take longer than a signature is valid.
    talk.step(&Step::Deliver(0, 2_000));
    talk.step(&Step::Wait(100_000));
    talk.step(&Step::Deliver(1, 10));
    talk.step(&Step::Wait(100_000));
    talk.finish();
}

/// A dictionary stays until nothing can come any more that was compressed with it.
#[test]
fn what_was_compressed_before_its_dictionary_is_disabled_can_be_read_after() {
    for half in [100, 1_900] {
        for blocked in [false, true] {
            let mut talk = Talk::open(&Settings::default());
            for _ in 0..3 {
                talk.step(&Step::Enable);
            }
            talk.settle();
            // On the way to the broadcaster, or not even on it, when the end of the dictionary is
            // announced and a delivery after it is acknowledged.
            talk.step(&Step::Block(End::Subscriber, blocked));
            talk.step(&Step::Notify(0, half));
            talk.step(&Step::Notify(0, half));
            talk.step(&Step::Disable);
            talk.step(&Step::Deliver(1, 10));
            talk.step(&Step::Wait(35));
            talk.step(&Step::Confirm(0));
            talk.step(&Step::Notify(0, half));
            assert!(talk.pair.broadcaster.session.accepts_compressor(65_536));
            talk.finish();
            assert!(!talk.pair.broadcaster.session.accepts_compressor(65_536));
        }
    }
}

/// Every place where a connection can break, and every order in which the ends learn of it.
#[test]
fn a_connection_that_breaks_leaves_what_was_reported_true() {
    for stream_counters in COUNTERS {
        let settings = Settings {
            stream_counters,
            ..Settings::default()
        };
        let mut whole = Talk::new(&settings);
        whole.run_to_the_end(&everything());
        let messages = whole.pair.carried;
        assert!(messages > 50, "only {messages} messages");
        for carries in 0..messages {
            for first in [End::Broadcaster, End::Subscriber] {
                let mut talk = Talk::new(&settings);
                talk.pair.carries = Some(carries);
                talk.run_to_the_end(&everything());
                talk.pair.cut(first);
                // The other end still gets what is on its way, and is used until it knows.
                talk.pair.carries = None;
                for step in [Step::Notify(0, 700), Step::Deliver(1, 700), Step::Missed(0)] {
                    talk.step(&step);
                }
                talk.settle();
                for end in [End::Broadcaster, End::Subscriber] {
                    talk.pair.cut(end);
                }
                // Whatever it is asked for now, it is over.
                talk.run_to_the_end(&everything());
                talk.check_what_was_reported();
                let gone = SessionError::Ended {
                    code: 1006,
                    reason: "the connection is gone".to_owned(),
                };
                let closed = [&talk.pair.broadcaster.closed, &talk.pair.subscriber.closed];
                assert_eq!(
                    closed,
                    [&Some(gone.clone()), &Some(gone)],
                    "{carries} {first:?}"
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn everything_arrives_once_and_in_order(
        settings in settings(), compressors in option::of(0..6), steps in vec(step(), 0..60),
    ) {
        let mut talk = Talk::new(&settings);
        if let Some(compressors) = compressors {
            talk.settle();
            for _ in 0..compressors {
                talk.step(&Step::Enable);
            }
        }
        for step in &steps {
            talk.step(step);
        }
        talk.finish();
    }

    #[test]
    fn no_changed_bit_is_believed(
        settings in settings(), steps in vec(step(), 0..30), before in 0_usize..60, bit: usize,
    ) {
        let settings = Settings { auth: Auth::Hmac, ..settings };
        let mut talk = Talk::new(&settings);
        talk.pair.flips = Some((before, bit));
        for step in [Step::Wait(4_000), Step::Answer(0), Step::Wait(4_000)] {
            talk.step(&step);
        }
        for step in &steps {
            // Which compressor was used is not signed (docs/design/threats.md W8).
            if !matches!(step, Step::Enable) {
                talk.step(step);
            }
        }
        talk.settle();
        talk.check_what_was_reported();
    }
}

/// Something that happens at one of the ends, or to time.
#[derive(Clone, Debug)]
enum Step {
    /// Subscribes to one of a few, or unsubscribes from it.
    Toggle(usize),
    /// On this topic, with a body twice so long.
    Notify(usize, usize),
    Deliver(usize, usize),
    Missed(usize),
    Enable,
    Disable,
    Answer(usize),
    Confirm(usize),
    Block(End, bool),
    /// In milliseconds.
    Wait(u64),
}

const TOPICS: [&str; 3] = ["a", "a/b", ""];

const EVERY_NAME: [&str; 21] = [
    "CONFIGURE",
    "SUBSCRIBE_EXACT",
    "SUBSCRIBE_GLOB",
    "UNSUBSCRIBE_EXACT",
    "UNSUBSCRIBE_GLOB",
    "NOTIFY",
    "NOTIFY_STREAM",
    "CONTINUE_RECEIVE",
    "CONFIRM_RECEIVE",
    "CONFIRM_CONFIGURE",
    "CONFIRM_SUBSCRIBE_EXACT",
    "CONFIRM_SUBSCRIBE_GLOB",
    "CONFIRM_UNSUBSCRIBE_EXACT",
    "CONFIRM_UNSUBSCRIBE_GLOB",
    "CONFIRM_NOTIFY",
    "CONTINUE_NOTIFY",
    "RECEIVE_STREAM",
    "ENABLE_ZSTD_PRESET",
    "ENABLE_ZSTD_CUSTOM",
    "DISABLE_ZSTD_CUSTOM",
    "MISSED",
];

/// A conversation with every message, in which much happens at the same time.
fn everything() -> Vec<Step> {
    use Step::*;
    vec![
        Wait(200),
        Answer(0),
        Wait(200),
        Toggle(0),
        Toggle(1),
        Toggle(2),
        Notify(0, 5),
        Notify(1, 1_500),
        Wait(25),
        Deliver(0, 3),
        Deliver(1, 1_700),
        Answer(2),
        Answer(0),
        Missed(0),
        Toggle(0),
        Wait(40),
        Confirm(0),
        Enable,
        Deliver(2, 800),
        Enable,
        Enable,
        Enable,
        Wait(60),
        Notify(2, 900),
        Deliver(0, 200),
        Notify(0, 100),
        Enable,
        Deliver(0, 100),
        Notify(0, 200),
        Wait(35),
        Toggle(2),
        Answer(0),
        Notify(0, 0),
        Deliver(0, 0),
        Confirm(0),
        Disable,
        Missed(1),
        Wait(500),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let half = || prop_oneof![0_usize..40, 100_usize..600, 600_usize..3_000];
    let topic = || 0..TOPICS.len();
    let end = select(vec![End::Broadcaster, End::Subscriber]);
    prop_oneof![
        2 => (0_usize..4).prop_map(Step::Toggle),
        3 => (topic(), half()).prop_map(|(topic, half)| Step::Notify(topic, half)),
        3 => (topic(), half()).prop_map(|(topic, half)| Step::Deliver(topic, half)),
        1 => topic().prop_map(Step::Missed),
        1 => Just(Step::Enable),
        1 => Just(Step::Disable),
        4 => (0_usize..10).prop_map(Step::Answer),
        4 => (0_usize..10).prop_map(Step::Confirm),
        1 => (end, any::<bool>()).prop_map(|(end, blocked)| Step::Block(end, blocked)),
        8 => (0_u64..300).prop_map(Step::Wait),
    ]
}

fn settings() -> impl Strategy<Value = Settings> {
    let size = || select(vec![100_u64, 700, 900, 1_500, 5_000, 1_000_000]);
    let style = || select(STYLES.to_vec());
    let latency = || prop_oneof![0_u64..100, 0_u64..2_000].prop_map(Duration::from_millis);
    (
        select(AUTHS.to_vec()),
        select(COUNTERS.to_vec()),
        [style(), style()],
        [size(), size()],
        0_usize..5,
        [latency(), latency()],
    )
        .prop_map(
            |(auth, stream_counters, headers, message_bytes_max, window, latency)| Settings {
                auth,
                stream_counters,
                headers,
                message_bytes_max,
                unacknowledged_max: NonZeroUsize::new(window),
                latency,
            },
        )
}

/// A pair, and what it was asked for.
struct Talk {
    pair: Pair,
    wanted: Vec<Interest>,
    requests: Vec<(Interest, bool)>,
    notifications: Vec<(Identifier, Message)>,
    deliveries: Vec<(Identifier, Message)>,
    missed: Vec<Topic>,
}

impl Talk {
    fn new(settings: &Settings) -> Self {
        Self::of(Pair::new(settings))
    }

    fn open(settings: &Settings) -> Self {
        Self::of(Pair::open(settings))
    }

    fn of(pair: Pair) -> Self {
        Self {
            pair,
            wanted: Vec::new(),
            requests: Vec::new(),
            notifications: Vec::new(),
            deliveries: Vec::new(),
            missed: Vec::new(),
        }
    }

    fn step(&mut self, step: &Step) {
        let pair = &mut self.pair;
        // Nothing is asked of an end before it is open; of one that is closed, it comes to nothing.
        let subscriber_can = pair.subscriber.opened;
        let broadcaster_can = pair.broadcaster.sent.contains(&"CONFIRM_CONFIGURE");
        let message =
            |topic: usize, half, seed: usize| Message::new(TOPICS[topic], seed as u8, half);
        match *step {
            Step::Toggle(which) if subscriber_can => {
                let interest = interest(which);
                match self.wanted.iter().position(|it| *it == interest) {
                    None => {
                        pair.subscribe(&interest);
                        self.wanted.push(interest.clone());
                        self.requests.push((interest, true));
                    }
                    Some(at) => {
                        pair.unsubscribe(&interest);
                        self.wanted.remove(at);
                        self.requests.push((interest, false));
                    }
                }
            }
            Step::Notify(topic, half) if subscriber_can => {
                let message = message(topic, half, self.notifications.len());
                self.notifications.push((pair.notify(&message), message));
            }
            Step::Deliver(topic, half) if broadcaster_can => {
                let message = message(topic, half, self.deliveries.len() + 100);
                self.deliveries.push((pair.deliver(&message), message));
            }
            Step::Missed(topic) if broadcaster_can => {
                let topic = Topic::new(TOPICS[topic]).expect("a short topic");
                pair.missed(&topic);
                self.missed.push(topic);
            }
            Step::Enable if broadcaster_can => pair.enable(),
            Step::Disable if broadcaster_can => pair.disable(),
            Step::Answer(which) => pair.answer(which),
            Step::Confirm(which) => pair.confirm(which),
            Step::Block(end, blocked) => pair.block(end, blocked),
            Step::Wait(time) => pair.wait(Duration::from_millis(time)),
            Step::Toggle(_)
            | Step::Notify(..)
            | Step::Deliver(..)
            | Step::Missed(_)
            | Step::Enable
            | Step::Disable => {}
        }
    }

    fn settle(&mut self) {
        self.pair.settle();
    }

    fn run_to_the_end(&mut self, steps: &[Step]) {
        for step in steps {
            self.step(step);
        }
        self.settle();
    }

    /// Everything that was asked for has happened.
    fn finish(&mut self) {
        self.settle();
        // The counters of both ends still agree, and nobody holds a dictionary any longer.
        for which in [0, 2] {
            self.step(&Step::Toggle(which));
        }
        self.step(&Step::Missed(0));
        self.step(&Step::Notify(1, 300));
        self.step(&Step::Deliver(1, 300));
        self.settle();

        self.check_what_was_reported();
        let Pair {
            broadcaster,
            subscriber,
            ..
        } = &self.pair;
        assert_eq!(broadcaster.closed, None);
        assert_eq!(subscriber.closed, None);
        assert_eq!(broadcaster.requested.len(), self.requests.len());
        assert_eq!(subscriber.confirmed.len(), self.requests.len());
        assert_eq!(broadcaster.notified.len(), self.notifications.len());
        assert_eq!(subscriber.notified.len(), self.notifications.len());
        assert_eq!(subscriber.continued, subscriber.parts_sent);
        assert_eq!(subscriber.received.len(), self.deliveries.len());
        assert_eq!(broadcaster.delivered.len(), self.deliveries.len());
        assert_eq!(subscriber.missed.len(), self.missed.len());
        assert!(broadcaster.is_idle() && subscriber.is_idle());
        for plain_bytes in [0, 31, 32, 3_999, 4_000, u64::MAX - 1] {
            assert_eq!(
                broadcaster.session.compressor_for(plain_bytes),
                subscriber.session.compressor_for(plain_bytes)
            );
        }
        for id in 65_536..65_600 {
            let accepted = broadcaster.session.accepts_compressor(id);
            assert_eq!(accepted, broadcaster.enables(id), "dictionary {id}");
        }
    }

    /// Each end has reported only what happened, in the order in which it was asked for.
    fn check_what_was_reported(&self) {
        let Pair {
            broadcaster,
            subscriber,
            ..
        } = &self.pair;
        begins_with(&self.requests, &broadcaster.requested);
        begins_with(&broadcaster.requested, &subscriber.confirmed);
        let (identifiers, messages): (Vec<_>, Vec<_>) = self.notifications.iter().cloned().unzip();
        begins_with(&messages, &broadcaster.notified);
        let confirmed = identifiers
            .into_iter()
            .zip(0..broadcaster.notified.len() as u32);
        begins_with(&confirmed.collect::<Vec<_>>(), &subscriber.notified);
        begins_with(&subscriber.parts_sent, &subscriber.continued);
        begins_with(&self.deliveries, &subscriber.received);
        let (received, _): (Vec<_>, Vec<_>) = subscriber.received.iter().cloned().unzip();
        begins_with(&received, &broadcaster.delivered);
        begins_with(&self.missed, &subscriber.missed);
    }
}

#[track_caller]
fn begins_with<T: std::fmt::Debug + PartialEq>(all: &[T], some: &[T]) {
    assert!(
        all.starts_with(some),
        "{some:?} is not the beginning of {all:?}"
    );
}

fn interest(which: usize) -> Interest {
    match which {
        0 => Interest::Exact(Topic::new("a").expect("a short topic")),
        1 => Interest::Exact(Topic::new(&b"\xff\x00"[..]).expect("a short topic")),
        2 => Interest::Glob(GlobPattern::parse("a*").expect("a short glob")),
        _ => Interest::Glob(GlobPattern::parse("a").expect("a short glob")),
    }
}
