//! Training of dictionaries for a connection: its moments and samples (`docs/protocol/stateful.md`
//! §12).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use httppubsub_proto::time::Now;

use crate::config::WebSocketConfig;

/// Room for the samples of all connections together.
#[derive(Debug)]
pub(crate) struct SampleRoom {
    /// Bytes that all samples have.
    used: AtomicU64,
    /// [`WebSocketConfig::samples_bytes_max`].
    bytes_max: u64,
}

impl SampleRoom {
    /// Room for `bytes_max` bytes.
    pub(crate) fn new(bytes_max: u64) -> Arc<Self> {
        Arc::new(Self {
            used: AtomicU64::new(0),
            bytes_max,
        })
    }

    /// Takes room for a sample; `true` if there was enough.
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
    /// Gets the bytes back when these are dropped.
    room: Arc<SampleRoom>,
    /// Copies: the buffers that bodies come in are longer.
    bodies: Vec<Bytes>,
    /// Length of all of them, as it was taken of the room.
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
    /// The samples since the last dictionary.
    samples: Samples,
    /// Says how many samples are wanted.
    stage: Stage,
    /// The id of the next dictionary.
    next_id: u32,
    /// Lengths of the bodies that are looked at.
    sizes: std::ops::Range<u64>,
    /// Bytes of samples for the first dictionary, and for a better one.
    watermarks: [u64; 2],
    /// The time for which a good dictionary serves.
    retrain_interval: Duration,
}

/// The dictionary that is collected for.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// There is none yet.
    BeforeLow,
    /// There is one of few samples.
    BeforeHigh,
    /// There is a good one; another is trained when the messages may have changed.
    Waiting { since: Now },
}

/// A dictionary to be trained.
#[derive(Debug)]
pub(crate) struct TrainingJob {
    /// The id of the compressor.
    pub(crate) id: u32,
    /// The level at which messages are compressed with it.
    pub(crate) level: u16,
    /// The most that the dictionary may have.
    pub(crate) dictionary_bytes: usize,
    /// The bodies to train it on.
    pub(crate) samples: Vec<Bytes>,
}

/// Level and size of a dictionary of few samples. Soon ready, for connections that do not last.
const LOW: (u16, usize) = (3, 16_384);
/// Level and size of a better one. Slower to train, for connections that last.
const HIGH: (u16, usize) = (10, 65_536);

impl Training {
    /// Collects for the first dictionary of a connection.
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

    /// `true` if a body of this length is looked at now.
    pub(crate) fn wants(&self, plain_bytes: u64, now: Now) -> bool {
        let collects = match self.stage {
            Stage::BeforeLow | Stage::BeforeHigh => true,
            Stage::Waiting { since } => since + self.retrain_interval <= now,
        };
        collects && self.sizes.contains(&plain_bytes)
    }

    /// Takes a body that [`Training::wants`], unless all connections together have too many, and
    /// says what to train now.
    pub(crate) fn sample(&mut self, body: &[u8], now: Now) -> Option<TrainingJob> {
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
                Some(self.training_job(HIGH, bodies))
            }
            Stage::BeforeLow if self.samples.bytes >= low => {
                self.stage = Stage::BeforeHigh;
                // They stay: the better dictionary is trained on them as well.
                let bodies = self.samples.bodies.clone();
                Some(self.training_job(LOW, bodies))
            }
            Stage::BeforeLow | Stage::BeforeHigh | Stage::Waiting { .. } => None,
        }
    }

    /// A job with the next id. Ids are never used again: a message compressed with an older
    /// dictionary may be on its way.
    fn training_job(
        &mut self,
        (level, dictionary_bytes): (u16, usize),
        samples: Vec<Bytes>,
    ) -> TrainingJob {
        let id = self.next_id;
        self.next_id += 1;
        TrainingJob {
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
    fn until_training_job(training: &mut Training, now: Now) -> (usize, TrainingJob) {
        for count in 1..100 {
            assert!(training.wants(50, now));
            if let Some(job) = training.sample(&[b'a'; 50], now) {
                return (count, job);
            }
        }
        panic!("no dictionary was ever trained");
    }

    #[test]
    fn dictionaries_are_trained_at_both_watermarks_and_again_after_the_interval() {
        let room = SampleRoom::new(1_000_000);
        let mut training = Training::new(&config(), room.clone());
        let (count, low) = until_training_job(&mut training, at(0));
        assert_eq!((count, low.id, low.level), (2, 65_536, 3));
        assert_eq!((low.samples.len(), low.dictionary_bytes), (2, 16_384));
        let (count, high) = until_training_job(&mut training, at(1));
        assert_eq!((count, high.id, high.level), (4, 65_537, 10));
        // Those before the low watermark count for the high one as well.
        assert_eq!((high.samples.len(), high.dictionary_bytes), (6, 65_536));
        assert!(!training.wants(50, at(60)));
        assert_eq!(room.used.load(Ordering::Relaxed), 0);
        let (count, again) = until_training_job(&mut training, at(61));
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
