//! The metrics of a broadcaster, by the names that operators see.
//!
//! Every series is there from the start, at zero: an alert on a counter that appears with its first
//! failure would miss that failure. Names and labels are part of what operators rely on
//! (`docs/operating.md`); a test compares the two.

use httppubsub_net::Places;
use httppubsub_net::egress::LookUps;
use httppubsub_net::inbound::ServeCounts;
use httppubsub_net::outbound::PostLoad;
use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

const NOTIFICATIONS: &str = "httppubsub_notifications_total";
/// When nothing is under way, the sum of [`DELIVERIES`] over all outcomes.
const MATCHED: &str = "httppubsub_matched_total";
/// By the label `outcome`: [`OUTCOMES`].
const DELIVERIES: &str = "httppubsub_deliveries_total";
const NOTICES_GIVEN_UP: &str = "httppubsub_notices_given_up_total";
const REJECTED: &str = "httppubsub_notifications_rejected_total";
/// By the label `reason`: [`Reason`], and [`REFUSED_BY_THE_SERVER`].
const REFUSED: &str = "httppubsub_requests_refused_total";
const QUARANTINED: &str = "httppubsub_quarantined_total";
const WEBSOCKETS_CUT_OFF: &str = "httppubsub_websockets_cut_off_total";
/// By the label `place`: [`EVICTED_OF`].
const EVICTED: &str = "httppubsub_evicted_total";
const SUBSCRIPTIONS: &str = "httppubsub_subscriptions";
const WEBSOCKETS: &str = "httppubsub_websockets";
const CONNECTIONS: &str = "httppubsub_connections";
const PENDING: &str = "httppubsub_deliveries_pending";
/// By the label `state`: under way or waiting.
const REQUESTS: &str = "httppubsub_requests_to_subscribers";
const OPEN_BREAKERS: &str = "httppubsub_open_circuit_breakers";
const NO_PLACE: &str = "httppubsub_deliveries_without_place_total";
const SENT_AGAIN: &str = "httppubsub_requests_sent_again_total";
const BROADCASTERS: &str = "httppubsub_other_broadcasters";
/// By the label `reason`: those of `/readyz`.
const NOT_READY: &str = "httppubsub_not_ready";
/// By the label `state`: under way or waiting.
const LOOK_UPS: &str = "httppubsub_look_ups";
const MATCHING: &str = "httppubsub_matching_slices_total";
/// By the label `place`: memory or disk.
const SPOOL: &str = "httppubsub_spool_bytes";

/// The outcomes of a subscription that a notification matched.
const OUTCOMES: [&str; 5] = [
    "confirmed",
    "unsubscribed",
    "missed",
    "dropped",
    "unrecorded",
];

/// Refusals by the HTTP server, before a request is one.
const REFUSED_BY_THE_SERVER: [&str; 2] = [MALFORMED, CONNECTIONS_OF_ADDRESS];
/// Not framed as RFC 9112 has it, so it was never a request.
const MALFORMED: &str = "malformed";
/// One address had its share of all connections.
const CONNECTIONS_OF_ADDRESS: &str = "connections";

/// The kinds of places that were needed.
const EVICTED_OF: [&str; 2] = [EVICTED_CONNECTION, EVICTED_WEBSOCKET];
const EVICTED_CONNECTION: &str = "connection";
const EVICTED_WEBSOCKET: &str = "websocket";

/// Says what each counter means to the recorder that is there, and counts nothing: all series are
/// there from the start. A counter that is missing here is missing until it is first used.
fn describe_counters() {
    let refused: Vec<_> = Reason::ALL.iter().map(|reason| reason.label()).collect();
    let refused = [&refused[..], &REFUSED_BY_THE_SERVER].concat();
    let counters: [(&'static str, Label<'_>, &'static str); 12] = [
        (NOTIFICATIONS, None, "Notifications that were accounted for"),
        (
            MATCHED,
            None,
            "Subscriptions that notifications went to; when none is under way it is the sum of all \
             deliveries",
        ),
        (
            DELIVERIES,
            Some(("outcome", &OUTCOMES)),
            "What became of those: confirmed, unsubscribed, missed (a notice is owed), dropped \
             (missed without a recovery url), unrecorded (missed, and the database did not take \
             it: the publisher got a 503)",
        ),
        (
            REJECTED,
            None,
            "Notifications that were answered 503 because there was too much to do",
        ),
        (
            REFUSED,
            Some(("reason", &refused)),
            "Requests that were refused, by reason",
        ),
        (
            QUARANTINED,
            None,
            "Answers that a subscription is not wanted which put it into quarantine",
        ),
        (
            NOTICES_GIVEN_UP,
            None,
            "Notices that no subscriber took until the end of their schedule",
        ),
        (
            WEBSOCKETS_CUT_OFF,
            None,
            "Websockets that did not take their messages and were closed",
        ),
        (
            MATCHING,
            None,
            "Turns for finding out, beside everything else, which of many or long globs match",
        ),
        (
            NO_PLACE,
            None,
            "Deliveries that were missed at once, because their peer had its share of all places",
        ),
        (
            SENT_AGAIN,
            None,
            "Requests to subscribers that were sent once more because the kept connection had been \
             closed before they can have been read",
        ),
        (
            EVICTED,
            Some(("place", &EVICTED_OF)),
            "Connections that were idle, and websockets that did not show who they are, closed to \
             make room for others",
        ),
    ];
    for (name, label, meaning) in counters {
        describe_counter!(name, meaning);
        match label {
            // From zero on, so that an alert on growth sees the very first.
            None => counter!(name).increment(0),
            Some((label, values)) => {
                for value in values {
                    counter!(name, label => *value).increment(0);
                }
            }
        }
    }
}

/// The name of a label and all of its values.
type Label<'a> = Option<(&'static str, &'a [&'static str])>;

/// Says what each name means, to the recorder that is there.
pub(crate) fn describe() {
    describe_counters();
    describe_gauge!(SUBSCRIPTIONS, "Subscriptions that are matched");
    describe_gauge!(WEBSOCKETS, "Websockets that are open");
    describe_gauge!(CONNECTIONS, "Connections that are served, websockets aside");
    describe_gauge!(PENDING, "Deliveries that wait or are under way");
    describe_gauge!(
        REQUESTS,
        "Requests to subscribers: under way, or waiting for a turn at their peer"
    );
    describe_gauge!(
        LOOK_UPS,
        "Names of peers: being resolved, or waiting for that"
    );
    describe_gauge!(
        OPEN_BREAKERS,
        "Peers (scheme, host and port), and single urls of others, that get no deliveries until \
         they confirm one"
    );
    describe_gauge!(
        BROADCASTERS,
        "Other broadcasters on the same database that say that they live"
    );
    describe_gauge!(
        NOT_READY,
        "1 while this speaks against sending requests here (see GET /readyz)"
    );
    describe_gauge!(
        SPOOL,
        Unit::Bytes,
        "What the bytes of others need that are being taken or delivered: memory, or disk"
    );
}

/// Counts a notification that was accounted for.
pub(crate) fn notified() {
    counter!(NOTIFICATIONS).increment(1);
}

/// Counts `rows` that a notification goes to.
pub(crate) fn matched(rows: u64) {
    counter!(MATCHED).increment(rows);
}

/// Counts `rows` with this outcome.
pub(crate) fn delivered(outcome: &'static str, rows: u64) {
    counter!(DELIVERIES, "outcome" => outcome).increment(rows);
}

/// A delivery was missed as its peer had its share of all places.
pub(crate) fn no_place(rows: u64) {
    counter!(NO_PLACE).increment(rows);
}

/// Counts a notification that was answered 503 because there was too much to do.
pub(crate) fn rejected() {
    counter!(REJECTED).increment(1);
}

/// A request was refused for this reason.
pub(crate) fn refused(reason: Reason) {
    counter!(REFUSED, "reason" => reason.label()).increment(1);
}

/// Counts an answer that put a subscription into quarantine.
pub(crate) fn quarantined() {
    counter!(QUARANTINED).increment(1);
}

/// Counts a notice that came to the end of its schedule.
pub(crate) fn notice_given_up() {
    counter!(NOTICES_GIVEN_UP).increment(1);
}

/// Counts a websocket that did not take its messages.
pub(crate) fn websocket_cut_off() {
    counter!(WEBSOCKETS_CUT_OFF).increment(1);
}

/// Sets the gauge of `reason`, which speaks against sending requests here or does not.
pub(crate) fn not_ready(reason: &'static str, is_so: bool) {
    gauge!(NOT_READY, "reason" => reason).set(u8::from(is_so));
}

/// The reason for which a request was refused, as it is counted. One for each thing that an
/// operator would do about it; `docs/operating.md` says which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The request is not what its path takes.
    BadRequest,
    /// The request has no authorization.
    Unauthorized,
    /// The authorization does not vouch for the request.
    Forbidden,
    /// The authorization is of another time than that here.
    Clock,
    /// The authorization was used before.
    Replayed,
    /// The url may not be posted to.
    Url,
    /// The body is longer than is allowed.
    TooLong,
    /// The body came too slowly.
    TooSlow,
    /// There is too much to do.
    Overloaded,
    /// There is no memory or disk for it.
    NoRoom,
    /// The store, or something else the broadcaster stands on, does not work.
    Unavailable,
    /// There are too many websockets.
    WebSockets,
}

impl Reason {
    /// Every reason, in the order of the variants.
    pub(crate) const ALL: [Self; 12] = [
        Self::BadRequest,
        Self::Unauthorized,
        Self::Forbidden,
        Self::Clock,
        Self::Replayed,
        Self::Url,
        Self::TooLong,
        Self::TooSlow,
        Self::Overloaded,
        Self::NoRoom,
        Self::Unavailable,
        Self::WebSockets,
    ];

    /// The value of the label.
    fn label(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::Clock => "clock",
            Self::Replayed => "replayed",
            Self::Url => "url",
            Self::TooLong => "too_long",
            Self::TooSlow => "too_slow",
            Self::Overloaded => "overloaded",
            Self::NoRoom => "no_room",
            Self::Unavailable => "unavailable",
            Self::WebSockets => "websockets",
        }
    }
}

/// Matching took so much that it had to wait for its turn.
pub(crate) fn matched_in_turn() {
    counter!(MATCHING).increment(1);
}

/// The levels at one moment. Collected by who has the parts, so that this file needs to know none
/// of them.
pub(crate) struct Levels<'a> {
    /// Rows that are matched.
    pub(crate) subscriptions: usize,
    /// Open sessions.
    pub(crate) websockets: usize,
    /// Deliveries that wait or are in progress.
    pub(crate) deliveries: usize,
    /// Requests to subscribers.
    pub(crate) requests: PostLoad,
    /// Names of peers that are being resolved.
    pub(crate) look_ups: LookUps,
    /// Bytes of others that are held in memory.
    pub(crate) spool_memory: u64,
    /// Bytes of others that are held in files.
    pub(crate) spool_disk: u64,
    /// Other broadcasters that live.
    pub(crate) broadcasters: u64,
    /// The counts of the HTTP server.
    pub(crate) serve: &'a ServeCounts,
    /// The places of websockets that have not shown who they are.
    pub(crate) unauthenticated: &'a Places,
}

impl Levels<'_> {
    /// Sets the gauges, and the counters that others count.
    pub(crate) fn record(&self) {
        // Read when somebody asks, instead of being kept true with every change.
        gauge!(SUBSCRIPTIONS).set(self.subscriptions as f64);
        gauge!(WEBSOCKETS).set(self.websockets as f64);
        gauge!(CONNECTIONS).set(self.serve.open() as f64);
        let refused = |reason, count| counter!(REFUSED, "reason" => reason).absolute(count);
        refused(MALFORMED, self.serve.malformed());
        refused(CONNECTIONS_OF_ADDRESS, self.serve.refused());
        let evicted = |place, count| counter!(EVICTED, "place" => place).absolute(count);
        evicted(EVICTED_CONNECTION, self.serve.evicted());
        evicted(EVICTED_WEBSOCKET, self.unauthenticated.evicted());
        gauge!(PENDING).set(self.deliveries as f64);
        gauge!(REQUESTS, "state" => "under_way").set(self.requests.under_way as f64);
        gauge!(REQUESTS, "state" => "waiting").set(self.requests.waiting as f64);
        gauge!(LOOK_UPS, "state" => "under_way").set(self.look_ups.under_way as f64);
        gauge!(LOOK_UPS, "state" => "waiting").set(self.look_ups.waiting as f64);
        gauge!(OPEN_BREAKERS).set(self.requests.open_breakers as f64);
        counter!(SENT_AGAIN).absolute(self.requests.sent_again);
        gauge!(BROADCASTERS).set(self.broadcasters as f64);
        gauge!(SPOOL, "place" => "memory").set(self.spool_memory as f64);
        gauge!(SPOOL, "place" => "disk").set(self.spool_disk as f64);
    }
}
