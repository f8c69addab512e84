//! The composition root: makes the parts of a broadcaster, and hands each the others that it may
//! touch.
//!
//! There is no struct of all parts. A function of a part can touch what the fields of the part are,
//! so a reader of one file knows what it may do, and a test makes only what it needs. What several
//! parts share is an `Arc`, or a clone that is one.

use std::sync::Arc;
use std::time::Duration;

use httppubsub_net::body::Spool;
use httppubsub_net::inbound::{ReplayGuard, ServeConfig, ServeCounts};
use httppubsub_net::outbound::Poster;
use httppubsub_proto::url::SubscriberUrl;
use httppubsub_store::Store;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::admission::admission::Admission;
use crate::admission::busy_poll::BusyPoll;
use crate::admission::overloaded::Rejections;
use crate::admission::pending::PendingDeliveries;
use crate::background::Background;
use crate::cluster::heartbeat::Heartbeats;
use crate::cluster::membership::Membership;
use crate::cluster::replay::Replay;
use crate::cluster::shared_clock::SharedClock;
use crate::config::{Authorizations, Config};
use crate::delivery::deliver::Deliveries;
use crate::delivery::egress_log::EgressLog;
use crate::delivery::forwarded::Forwarded;
use crate::delivery::quarantine::Quarantine;
use crate::http::{Endpoints, PlainDoor, Reception};
use crate::hub::hub::Hub;
use crate::hub::rows::RowCheck;
use crate::hub::session_places::SessionPlaces;
use crate::index::globs::GlobLimits;
use crate::index::index::Index;
use crate::index::route::Routes;
use crate::journal::journal::Journal;
use crate::notices::HeldNotices;
use crate::notices::notices::Notices;
use crate::notices::send::NoticeSender;
use crate::notices::sweep::{Sweep, SweepTiming};
use crate::notify::fan_out::{Dispatcher, FanOutLimits};
use crate::notify::notify::Notify;
use crate::notify::settle::Settlement;
use crate::observe::metrics::Levels;
use crate::observe::refusals::Refusals;
use crate::readiness::Readiness;
use crate::subscriptions::subscriptions::Subscriptions;
use crate::websocket::sessions::{Compression, Sessions, machine_config};

/// What was opened and read before any part is made.
#[derive(Debug)]
pub(crate) struct Foundation {
    /// Open, and read by nobody yet.
    pub(crate) store: Arc<dyn Store>,
    /// The schemes of both directions.
    pub(crate) authorizations: Authorizations,
    /// Remembers used authorizations, in memory or in its folder.
    pub(crate) guard: ReplayGuard,
    /// Tells this broadcaster from others, after a restart as well if it is kept.
    pub(crate) identity: [u8; 16],
    /// Has its folder.
    pub(crate) spool: Spool,
    /// The url at which this broadcaster is subscribed on behalf of its websockets.
    pub(crate) own_url: SubscriberUrl,
    /// The recovery url of these subscriptions.
    pub(crate) missed_url: SubscriberUrl,
}

/// The parts of a broadcaster that it is asked for from outside.
#[derive(Debug)]
pub(crate) struct Running {
    /// The use cases that its routers call.
    pub(crate) endpoints: Arc<Endpoints>,
    /// Read when somebody asks for metrics.
    pub(crate) gauges: Gauges,
    /// Ended when nothing is in progress any longer.
    pub(crate) journal: Arc<Journal>,
    /// Told when this broadcaster leaves.
    pub(crate) heartbeats: Arc<Heartbeats>,
    /// Waited for when it stops.
    pub(crate) background: Background,
    /// For its own server, whose counts are among the metrics.
    pub(crate) serve: ServeConfig,
    /// Time for which it serves on after it was asked to stop.
    pub(crate) drain_delay: Duration,
}

/// The parts that gauges are read from.
#[derive(Debug)]
pub(crate) struct Gauges {
    /// Has the number of subscriptions.
    pub(crate) index: Arc<Index>,
    /// Has the number of websockets.
    places: Arc<SessionPlaces>,
    /// Has the number of deliveries that wait or are under way.
    pending: Arc<PendingDeliveries>,
    /// Has its load, and the open circuit breakers.
    poster: Poster,
    /// Has the memory and the disk that are taken.
    spool: Spool,
    /// Has the number of other broadcasters.
    membership: Arc<Membership>,
    /// Counts connections where the broadcaster serves itself.
    serve: ServeCounts,
}

impl Gauges {
    /// Sets the gauges to what they are now.
    pub(crate) fn update(&self) {
        let levels = Levels {
            subscriptions: self.index.len(),
            websockets: self.places.taken(),
            deliveries: self.pending.len(),
            requests: self.poster.load(),
            look_ups: httppubsub_net::egress::look_ups(),
            spool_memory: self.spool.memory_used(),
            spool_disk: self.spool.disk_used(),
            broadcasters: self.membership.alive(),
            serve: &self.serve,
            unauthenticated: self.places.unauthenticated(),
        };
        levels.record();
    }
}

/// The work of a broadcaster that comes again and again beside requests. They are begun last, when
/// all that they touch is loaded.
#[derive(Debug)]
pub(crate) struct Rounds {
    /// Say that this broadcaster lives.
    heartbeats: Arc<Heartbeats>,
    /// Renews and forgets records, and takes over those of others.
    journal: Arc<Journal>,
    /// Sends notices that are due.
    sweep: Arc<Sweep>,
    /// Looks whether what failed works again.
    readiness: Arc<Readiness>,
    /// Makes the rows of this broadcaster's own websockets agree with the store.
    rows: RowCheck,
    /// Pause between two checks of rows.
    rows_interval: Duration,
    /// Measures how late everything is.
    admission: Arc<Admission>,
    /// Counted in the warning about refusals.
    pending: Arc<PendingDeliveries>,
    /// Runs only if it is turned on.
    busy_poll: Arc<BusyPoll>,
}

impl Rounds {
    /// Begins all of it; it ends when the broadcaster is to stop.
    pub(crate) fn begin(self, background: &Background) {
        let Background { tasks, shutdown } = background;
        tasks.spawn(self.heartbeats.run());
        tasks.spawn(self.journal.run());
        tasks.spawn(self.rows.run(self.rows_interval, background.clone()));
        tasks.spawn(self.sweep.run());
        tasks.spawn(self.readiness.run(background.clone()));
        let (admission, pending) = (self.admission, self.pending);
        let watching = async move { admission.watch(&pending).await };
        tasks.spawn(shutdown.clone().run_until_cancelled_owned(watching));
        if self.busy_poll.is_on() {
            let busy_poll = self.busy_poll;
            let polling = async move { busy_poll.run().await };
            tasks.spawn(shutdown.clone().run_until_cancelled_owned(polling));
        }
    }
}

/// Makes all parts, from the ones that everything stands on to the doors. Nothing runs yet.
pub(crate) fn compose(config: &Config, foundation: Foundation) -> (Running, Rounds) {
    let Foundation {
        store,
        authorizations,
        guard,
        identity,
        spool,
        own_url,
        missed_url,
    } = foundation;
    let clock = &config.clock;
    let background = Background::default();
    let tasks = &background.tasks;

    // What everything else is about: who is subscribed, and how a message gets there.
    let poster = Poster::new(config.post.clone());
    let bytes_max = config.glob_bytes_max;
    let glob_limits = GlobLimits { bytes_max };
    let routes = Routes::new(poster.clone(), own_url.clone());
    let index = Arc::new(Index::new(routes, glob_limits));

    // How much at once.
    let rejections = Arc::<Rejections>::default();
    let admission = Arc::new(Admission::new(config.admission, rejections.clone()));
    let pending = PendingDeliveries::new(config.admission.deliveries_max, rejections);
    let pending = Arc::new(pending);
    let busy_poll = Arc::new(BusyPoll::new(config.busy_poll));

    // The websockets of this process.
    let hub = Arc::new(Hub::new(store.clone(), own_url.clone(), missed_url));
    let places = Arc::new(SessionPlaces::new(&config.websockets));
    let rows = RowCheck {
        store: store.clone(),
        index: index.clone(),
        hub: hub.clone(),
    };

    // Other broadcasters on the store.
    let membership = Arc::new(Membership::new(identity));
    let shared_clock = Arc::new(SharedClock::new(clock.clone(), membership.clone()));
    let heartbeats = Arc::new(Heartbeats {
        store: store.clone(),
        membership: membership.clone(),
        clock: shared_clock.clone(),
        hub: hub.clone(),
        places: places.clone(),
        config: config.cluster,
        background: background.clone(),
    });
    let is_shared = config.cluster.replay_shared;
    let replay = Replay::new(guard, store.clone(), is_shared, tasks.clone());
    let replay = Arc::new(replay);

    let subscriptions = Subscriptions {
        store: store.clone(),
        poster: poster.clone(),
        egress: config.post.egress.clone(),
        glob_limits,
        tasks: tasks.clone(),
    };

    // One delivery. Its quarantine and its log of forbidden peers are those of notices, too.
    let egress_log = Arc::<EgressLog>::default();
    let quarantine = config.quarantine.map(Quarantine::new).map(Arc::new);
    let deliveries = Deliveries {
        hub: hub.clone(),
        membership: membership.clone(),
        quarantine: quarantine.clone(),
        poster: poster.clone(),
        egress_log: egress_log.clone(),
        authorizations: authorizations.clone(),
        clock: clock.clone(),
        subscribers_max: config.subscribers_per_confirmation_max,
    };

    // What is missed, and what would be if this process were killed.
    let notices = Notices::new(store.clone(), shared_clock.clone(), config.missed);
    let notices = Arc::new(notices);
    let sender = NoticeSender {
        poster: poster.clone(),
        authorizations: authorizations.clone(),
        replay: replay.clone(),
        clock: clock.clone(),
        egress_log,
    };
    let sweep = Arc::new(Sweep {
        notices: notices.clone(),
        sender,
        held: Arc::new(HeldNotices::new(
            config.missed_in_flight_max,
            config.missed_in_flight_per_peer_max,
        )),
        membership: membership.clone(),
        quarantine,
        timing: SweepTiming {
            interval: config.sweep_interval,
            // A notice may be sent once more when the connection that was kept turns out to be
            // closed.
            lease: config.post.connect_timeout + 2 * config.post.answer_timeout,
            silence: config.cluster.lease,
        },
        background: background.clone(),
    });

    let journal = Arc::new(Journal::new(
        store.clone(),
        index.clone(),
        notices.clone(),
        shared_clock,
        own_url,
        background.clone(),
    ));

    // The use case.
    let dispatcher = Dispatcher {
        deliveries,
        settlement: Settlement {
            store: store.clone(),
            hub: hub.clone(),
            notices: notices.clone(),
        },
        busy_poll: busy_poll.clone(),
        limits: FanOutLimits {
            in_flight_max: config.post.in_flight_max,
            in_flight_per_peer_max: config.post.in_flight_per_peer_max,
            // To sign and to send is work for processors, and the runtime has a thread for each.
            threads: Handle::current().metrics().num_workers(),
        },
        background: background.clone(),
    };
    let notify = Arc::new(Notify {
        admission: admission.clone(),
        pending: pending.clone(),
        store: store.clone(),
        index: index.clone(),
        journal: journal.clone(),
        dispatcher: Arc::new(dispatcher),
        timeouts: config.timeouts(),
        message_bytes_max: config.message_bytes_max,
    });

    // The doors.
    let readiness = Arc::new(Readiness {
        store: store.clone(),
        membership: membership.clone(),
        replay: replay.clone(),
        spool: spool.clone(),
        notices,
        // A look at a slow store may take as long as its time-outs.
        sweep_silence_max: 3 * config.sweep_interval + Duration::from_secs(30),
        clock: clock.clone(),
        withdrawn: CancellationToken::new(),
    });
    let sessions = Arc::new(Sessions {
        machine: Arc::new(machine_config(&config.websockets, &authorizations)),
        compression: Compression::new(&config.websockets),
        config: config.websockets.clone(),
        hub: hub.clone(),
        notify: notify.clone(),
        glob_limits,
        replay: replay.clone(),
        spool: spool.clone(),
        clock: clock.clone(),
        shutdown: background.shutdown.clone(),
    });
    let endpoints = Arc::new(Endpoints {
        reception: Reception {
            spool: spool.clone(),
            limits: config.body,
            set_bytes_max: config.set_bytes_max,
            authorizations,
            replay,
            clock: clock.clone(),
        },
        notify,
        plain: PlainDoor::new(config.tokens.clone(), store.clone(), tasks.clone()),
        subscriptions,
        forwarded: Forwarded { hub },
        sessions,
        places: places.clone(),
        readiness: readiness.clone(),
        tasks: tasks.clone(),
        refusals: Refusals::default(),
    });

    let mut serve = config.serve.clone();
    // The ones given may be those of another broadcaster that was made of the same configuration.
    serve.counts = ServeCounts::default();
    let running = Running {
        endpoints,
        gauges: Gauges {
            index,
            places,
            pending: pending.clone(),
            poster,
            spool,
            membership,
            serve: serve.counts.clone(),
        },
        journal: journal.clone(),
        heartbeats: heartbeats.clone(),
        background,
        serve,
        drain_delay: config.drain_delay,
    };
    let rounds = Rounds {
        heartbeats,
        journal,
        sweep,
        readiness,
        rows,
        rows_interval: config.sweep_interval,
        admission,
        pending,
        busy_poll,
    };
    (running, rounds)
}
