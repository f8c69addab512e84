//! When a dictionary is trained for a connection, and on what (`docs/protocol/stateful.md` §12).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use httppubsub_proto::time::Now;

use crate::config::WebSocketConfig;

/// What all connections together may keep of samples.
#[derive(Debug)]
pub(crate) struct SampleRoom {
    used: AtomicU64,
    bytes_max: u64,
}

impl SampleRoom {
    pub(crate) fn new(bytes_max: u64) -> Arc<Self> {
        Arc::new(Self {
            used: AtomicU64::new(0),
            bytes_max,
        })
    }

    fn take(&self, bytes: u64) -> bool {
        let take = |used: u64| used.checked_add(bytes).filter(|it| *it <= self.bytes_max);
        let taken = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        taken.is_ok()
    }
}

/// Samples, and the room they take.
#[derive(Debug)]
struct Samples {
    room: Arc<SampleRoom>,
    bodies: Vec<Bytes>,
    bytes: u64,
}

impl Samples {
    fn new(room: Arc<SampleRoom>) -> Self {
        Self {
            room,
            bodies: Vec::new(),
            bytes: 0,
        }
    }
}

impl Drop for Samples {
    fn drop(&mut self) {
        self.room.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Collects the samples of one connection.
#[derive(Debug)]
pub(crate) struct Training {
    samples: Samples,
    stage: Stage,
    next_id: u32,
    sizes: std::ops::Range<u64>,
    watermarks: [u64; 2],
    retrain_interval: Duration,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    BeforeLow,
    BeforeHigh,
    Waiting { since: Now },
}

/// A dictionary to be trained.
#[derive(Debug)]
pub(crate) struct Lesson {
    /// Of the compressor.
    pub(crate) id: u32,
    pub(crate) level: u16,
    pub(crate) dictionary_bytes: usize,
    pub(crate) samples: Vec<Bytes>,
}

const LOW: (u16, usize) = (3, 16_384);
const HIGH: (u16, usize) = (10, 65_536);

impl Training {
    pub(crate) fn new(config: &WebSocketConfig, room: Arc<SampleRoom>) -> Self {
        Self {
            samples: Samples::new(room),
            stage: Stage::BeforeLow,
            next_id: 65_536,
            sizes: u64::from(config.compression_min_size)..config.compression_trained_max_size,
            watermarks: [
                config.training_low_watermark,
                config.training_high_watermark,
            ],
            retrain_interval: config.retrain_interval,
        }
    }

    /// Whether a body of this length is looked at now.
    pub(crate) fn wants(&self, plain_bytes: u64, now: Now) -> bool {
        let collects = match self.stage {
            Stage::BeforeLow | Stage::BeforeHigh => true,
            Stage::Waiting { since } => since + self.retrain_interval <= now,
        };
        collects && self.sizes.contains(&plain_bytes)
    }

    /// Takes a body that [`Training::wants`], unless all connections together have too many, and
    /// says what to train now.
    pub(crate) fn sample(&mut self, body: &[u8], now: Now) -> Option<Lesson> {
        let bytes = body.len() as u64;
        if !self.samples.room.take(bytes) {
            return None;
        }
        if matches!(self.stage, Stage::Waiting { .. }) {
            self.stage = Stage::BeforeHigh;
        }
        self.samples.bytes += bytes;
        // What the body is part of may be much larger.
        self.samples.bodies.push(Bytes::copy_from_slice(body));
        let [low, high] = self.watermarks;
        match self.stage {
            Stage::BeforeLow | Stage::BeforeHigh if self.samples.bytes >= high => {
                self.stage = Stage::Waiting { since: now };
                let fresh = Samples::new(self.samples.room.clone());
                let mut samples = std::mem::replace(&mut self.samples, fresh);
                let bodies = std::mem::take(&mut samples.bodies);
                Some(self.lesson(HIGH, bodies))
            }
            Stage::BeforeLow if self.samples.bytes >= low => {
                self.stage = Stage::BeforeHigh;
                let bodies = self.samples.bodies.clone();
                Some(self.lesson(LOW, bodies))
            }
            Stage::BeforeLow | Stage::BeforeHigh | Stage::Waiting { .. } => None,
        }
    }

    fn lesson(&mut self, (level, dictionary_bytes): (u16, usize), samples: Vec<Bytes>) -> Lesson {
        let id = self.next_id;
        self.next_id += 1;
        Lesson {
            id,
            level,
            dictionary_bytes,
            samples,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Now {
        Now::from_unix(Duration::from_secs(seconds))
    }

    fn config() -> WebSocketConfig {
        WebSocketConfig {
            compression_min_size: 10,
            compression_trained_max_size: 100,
            training_low_watermark: 100,
            training_high_watermark: 300,
            retrain_interval: Duration::from_secs(60),
            ..WebSocketConfig::default()
        }
    }

    /// Gives bodies of 50 bytes until a dictionary is to be trained, and says how many that took.
    fn until_lesson(training: &mut Training, now: Now) -> (usize, Lesson) {
        for count in 1..100 {
            assert!(training.wants(50, now));
            if let Some(lesson) = training.sample(&[b'a'; 50], now) {
                return (count, lesson);
            }
        }
        panic!("no dictionary was ever trained");
    }

    #[test]
    fn dictionaries_are_trained_at_both_watermarks_and_again_after_the_interval() {
        let room = SampleRoom::new(1_000_000);
        let mut training = Training::new(&config(), room.clone());
        let (count, low) = until_lesson(&mut training, at(0));
        assert_eq!((count, low.id, low.level), (2, 65_536, 3));
        assert_eq!((low.samples.len(), low.dictionary_bytes), (2, 16_384));
        let (count, high) = until_lesson(&mut training, at(1));
        assert_eq!((count, high.id, high.level), (4, 65_537, 10));
        // Those before the low watermark count for the high one as well.
        assert_eq!((high.samples.len(), high.dictionary_bytes), (6, 65_536));
        assert!(!training.wants(50, at(60)));
        assert_eq!(room.used.load(Ordering::Relaxed), 0);
        let (count, again) = until_lesson(&mut training, at(61));
        assert_eq!((count, again.id, again.samples.len()), (6, 65_538, 6));
    }

    #[test]
    fn bodies_of_other_lengths_are_no_samples() {
        let training = Training::new(&config(), SampleRoom::new(1_000));
        assert!(!training.wants(9, at(0)) && training.wants(10, at(0)));
        assert!(training.wants(99, at(0)) && !training.wants(100, at(0)));
    }

    #[test]
    fn all_connections_together_keep_no_more_than_their_room() {
        let room = SampleRoom::new(120);
        let mut one = Training::new(&config(), room.clone());
        let mut other = Training::new(&config(), room.clone());
        assert!(one.sample(&[b'a'; 50], at(0)).is_none());
        assert!(other.sample(&[b'a'; 50], at(0)).is_none());
        // There is no room for it.
        assert!(one.sample(&[b'a'; 50], at(0)).is_none());
        drop(other);
        assert!(one.sample(&[b'a'; 50], at(0)).is_some());
    }
}
