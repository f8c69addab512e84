//! The compressors of one session: enabled when it opens, or trained from its messages.

use std::collections::VecDeque;

use httppubsub_net::body::{Payload, TrainError, Zstd, train};
use httppubsub_net::error_chain;
use httppubsub_net::websocket::{self, Beside};
use httppubsub_proto::digest::Sha512;
use httppubsub_proto::session::{BroadcasterSession, Compressor, CompressorSizes};
use httppubsub_proto::time::Now;

use crate::websocket::delivery::CUSTOM_MIN;
use crate::websocket::dictionaries::{Training, TrainingJob};

/// The compressors of a session. The state machine knows the same by their numbers.
#[derive(Default)]
pub(crate) struct Compressors {
    /// All that a message may come in or go out by, retired ones included.
    all: websocket::Compressors,
    /// Collects samples, if the subscriber wants dictionaries to be trained.
    training: Option<Box<Training>>,
    /// Dictionaries that are trained after the one that is.
    waiting: VecDeque<TrainingJob>,
    /// The training under way, one at a time.
    running: Beside<Trained>,
}

/// The id and level of a dictionary, and the dictionary if there was enough to make one.
pub(crate) type Trained = (u32, u16, Result<bytes::Bytes, TrainError>);

/// The state machine of a session.
type Machine = BroadcasterSession<Payload>;

impl Compressors {
    /// The compressor `id`, if the session has it.
    pub(crate) fn get(&self, id: u64) -> Option<Zstd> {
        self.all.get(id)
    }

    /// Enables a compressor that both ends know without a dictionary being sent.
    pub(crate) fn enable(
        &mut self,
        (id, zstd): (u32, &Zstd),
        level: u16,
        sizes: CompressorSizes,
        machine: &mut Machine,
        now: Now,
    ) {
        self.all.add(id, zstd.clone());
        let compressor = Compressor {
            id,
            level,
            sizes,
            dictionary: None,
        };
        machine.enable(compressor, now);
    }

    /// From now on messages are samples to train dictionaries of.
    pub(crate) fn train(&mut self, training: Training) {
        self.training = Some(Box::new(training));
    }

    /// Forgets compressors that `machine` accepts nothing of.
    pub(crate) fn forget_retired(&mut self, machine: &Machine) {
        // One that was disabled may still be that of a message on its way in.
        self.all.retain(|id| machine.accepts_compressor(id.into()));
    }

    /// Takes a message as a sample, and begins to train when there are enough.
    pub(crate) fn sample(&mut self, payload: &Payload, machine: &mut Machine, now: Now) {
        if let Some(training) = &mut self.training
            && training.wants(payload.len(), now)
            && let Some(body) = payload.in_memory()
            && let Some(job) = training.sample(body, now)
        {
            self.waiting.push_back(job);
            self.begin_training(machine, now);
        }
    }

    /// Begins the next training, if none is running. Of two dictionaries that are in use, the older
    /// makes place.
    fn begin_training(&mut self, machine: &mut Machine, now: Now) {
        if self.running.is_busy() {
            return;
        }
        let Some(job) = self.waiting.pop_front() else {
            return;
        };
        let mut customs = self
            .all
            .ids()
            .filter(|id| *id >= CUSTOM_MIN && machine.is_compressor_enabled(*id));
        if let (Some(older), Some(_)) = (customs.next(), customs.next()) {
            machine.disable(older, now);
        }
        let TrainingJob {
            id,
            level,
            dictionary_bytes,
            samples,
        } = job;
        // Beside everything else: training takes long.
        self.running
            .begin(async move { (id, level, train(samples, dictionary_bytes).await) });
    }

    /// The training that ends next; pending for as long as none is running.
    pub(crate) async fn trained(&mut self) -> Trained {
        self.running.done().await
    }

    /// Enables the dictionary that was trained for messages of `sizes`, and begins the next
    /// training.
    pub(crate) fn enable_trained(
        &mut self,
        (id, level, dictionary): Trained,
        sizes: CompressorSizes,
        (machine, peer): (&mut Machine, &str),
        now: Now,
    ) {
        match dictionary {
            Ok(dictionary) => {
                let zstd = Zstd::with_dictionary(dictionary.clone(), level.into());
                self.all.add(id, zstd);
                let compressor = Compressor {
                    id,
                    level,
                    sizes,
                    dictionary: Some((Sha512::of(&dictionary), dictionary)),
                };
                machine.enable(compressor, now);
            }
            Err(error) => {
                let reason = error_chain(&error);
                tracing::info!(peer, reason, "no dictionary was trained; going on without");
            }
        }
        self.begin_training(machine, now);
    }
}
