//! The broadcaster's configuration, from the flags of `httppubsub serve`.
//!
//! One setting of the library has at most one flag, and its default is the library's unless the
//! flag names another. Bounds that belong together are derived here: deliveries from connections,
//! the spread of closing websockets from the grace period.

use std::net::SocketAddr;
use std::num::NonZeroUsize;

use anyhow::Context as _;
use httppubsub_broadcaster::{Config, Preset, QuarantineConfig};
use httppubsub_net::outbound::BreakerConfig;
use httppubsub_proto::paths::{MISSED_FOR_WEBSOCKETS, RECEIVE_FOR_WEBSOCKETS};

use crate::serve::fd_budget::Connections;
use crate::serve::flags::{Advertise, Database, ReplayMemory, Serve, UnsubscribeImmediate};

impl Serve {
    /// The configuration of a broadcaster that listens at `address`. `own` is the metrics listener,
    /// which must not receive posts; `connections` are the limits that file descriptors allow.
    ///
    /// Settings without a flag keep the library's defaults.
    ///
    /// # Errors
    ///
    /// A dictionary that cannot be read, two dictionaries with one id, or a shared replay guard
    /// without a database that is shared.
    pub(super) fn config(
        &self,
        address: SocketAddr,
        own: Option<SocketAddr>,
        connections: Connections,
    ) -> anyhow::Result<Config> {
        let own_url = self.own_url(address)?;
        let is_shared = matches!(self.db, Some(Database::Postgres(_)));
        let replay_shared = match self.replay_guard {
            None => is_shared,
            Some(ReplayMemory::Own) => false,
            Some(ReplayMemory::Shared) if is_shared => true,
            // Taken silently it would be a promise that one authorization is used once, and not be
            // kept.
            Some(ReplayMemory::Shared) => {
                anyhow::bail!("only broadcasters on PostgreSQL can share a replay guard")
            }
        };
        let presets = self.presets()?;
        let mut config = Config::default();
        if let Some(folder) = &self.spool_dir {
            config.spool.folder = folder.clone();
        }
        config.spool.memory_each_max = self.spool_above;
        config.spool.memory_total_max = self.spool_memory_max;
        if let Some(bytes) = self.spool_disk_max {
            config.spool.disk_total_max = bytes;
        }
        config.spool.disk_free_min = self.spool_free_min;
        config.post.answer_timeout = self.answer_timeout;
        // All of them have a connection, and a quarter more with large messages.
        config.post.in_flight_max = self.deliveries_max.min(connections.posted * 4 / 5).max(1);
        config.post.connections_max = connections.posted;
        config.post.in_flight_per_peer_max = self.deliveries_per_peer_max;
        let mut breaker = BreakerConfig::default();
        breaker.unproven = self.egress.unproven();
        config.post.breaker = Some(breaker);
        config.post.egress = self.egress.egress(address, own.into_iter().collect());
        config.notify_timeout = self.notify_timeout;
        config.admission.deliveries_max =
            NonZeroUsize::new(self.deliveries_pending_max).unwrap_or(NonZeroUsize::MIN);
        config.serve.connections_max = connections.served;
        config.serve.grace = self.grace;
        config.drain_delay = self.drain_delay;
        config.busy_poll = self.busy_poll.unwrap_or_default();
        config.quarantine = match self.unsubscribe_immediate {
            UnsubscribeImmediate::Honour => None,
            UnsubscribeImmediate::Quarantine => Some(QuarantineConfig::default()),
        };
        config.message_bytes_max = self.message_bytes_max;
        config.glob_bytes_max = usize::try_from(self.glob_bytes_max).unwrap_or(usize::MAX);
        config.replay_folder = Some(self.data.clone());
        // Both urls are rows in the database, and what other broadcasters post to.
        config.receiver_url = format!("{own_url}{RECEIVE_FOR_WEBSOCKETS}");
        config.missed_url = format!("{own_url}{MISSED_FOR_WEBSOCKETS}");
        config.cluster.replay_shared = replay_shared;
        config.cluster.lease = self.lease;
        config.cluster.forget_after = self.forget_after;
        config.websockets.sessions_max = connections.websockets;
        config.websockets.queue_bytes_max = self.websocket_queue_bytes_max;
        config.websockets.stall_timeout = self.websocket_stall_timeout;
        config.websockets.compression = !self.no_compression;
        config.websockets.training = !self.no_training;
        config.websockets.presets = presets;
        // The second half is for connections that are slow to close.
        config.websockets.close_spread = self.grace / 2;
        Ok(config)
    }

    /// The dictionaries that flags name, read into memory.
    fn presets(&self) -> anyhow::Result<Vec<Preset>> {
        let mut presets = Vec::new();
        for flag in &self.zstd_preset {
            let dictionary = std::fs::read(&flag.path)
                .with_context(|| format!("cannot read the dictionary {}", flag.path.display()))?;
            anyhow::ensure!(
                !presets.iter().any(|it: &Preset| it.id == flag.id),
                "two dictionaries have the id {}",
                flag.id
            );
            presets.push(Preset {
                id: flag.id,
                dictionary: dictionary.into(),
                level: flag.level,
                min_size: flag.min_size,
            });
        }
        Ok(presets)
    }

    /// The URL at which other broadcasters reach this one.
    fn own_url(&self, address: SocketAddr) -> anyhow::Result<String> {
        match &self.advertise {
            Some(Advertise(url)) => Ok(url.clone()),
            None if address.ip().is_unspecified()
                && matches!(self.db, Some(Database::Postgres(_))) =>
            {
                anyhow::bail!(
                    "it listens on all addresses of this machine, so say with --advertise \
                     http://HOST:PORT by which of them other broadcasters reach it"
                )
            }
            None => Ok(format!("http://{address}")),
        }
    }
}
