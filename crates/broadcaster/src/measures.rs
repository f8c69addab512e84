//! What a broadcaster counts and measures, by the names that whoever runs it sees.

use httppubsub_net::PostLoad;
use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

const NOTIFICATIONS: &str = "httppubsub_notifications_total";
const MATCHED: &str = "httppubsub_matched_total";
const DELIVERIES: &str = "httppubsub_deliveries_total";
const NOTICES_GIVEN_UP: &str = "httppubsub_notices_given_up_total";
const REJECTED: &str = "httppubsub_notifications_rejected_total";
const QUARANTINED: &str = "httppubsub_quarantined_total";
const WEBSOCKETS_CUT_OFF: &str = "httppubsub_websockets_cut_off_total";
const SUBSCRIPTIONS: &str = "httppubsub_subscriptions";
const WEBSOCKETS: &str = "httppubsub_websockets";
const PENDING: &str = "httppubsub_deliveries_pending";
const REQUESTS: &str = "httppubsub_requests_to_subscribers";
const OPEN_BREAKERS: &str = "httppubsub_open_circuit_breakers";
const NO_PLACE: &str = "httppubsub_deliveries_without_place_total";
const SENT_AGAIN: &str = "httppubsub_requests_sent_again_total";
const BROADCASTERS: &str = "httppubsub_other_broadcasters";
const NOT_READY: &str = "httppubsub_not_ready";
const SPOOL: &str = "httppubsub_spool_bytes";

/// Says what each name means, to the recorder that is there.
pub(crate) fn describe() {
    describe_counter!(NOTIFICATIONS, "Notifications that were accounted for");
    describe_counter!(
        MATCHED,
        "Subscriptions that notifications went to; when none is under way it is the sum of all \
         deliveries"
    );
    describe_counter!(
        DELIVERIES,
        "What became of those: confirmed, unsubscribed, missed (a notice is owed), dropped (missed \
         without a recovery url), unrecorded (missed, and the database did not take it: the \
         publisher got a 503)"
    );
    describe_counter!(
        REJECTED,
        "Notifications that were answered 503 because there was too much to do"
    );
    describe_counter!(
        QUARANTINED,
        "Answers that a subscription is not wanted any more which put it into quarantine"
    );
    describe_counter!(
        NOTICES_GIVEN_UP,
        "Notices that no subscriber took until the end of their schedule"
    );
    describe_counter!(
        WEBSOCKETS_CUT_OFF,
        "Websockets that did not take their messages and were closed"
    );
    describe_counter!(
        NO_PLACE,
        "Deliveries that were missed at once, because their peer had its share of all places"
    );
    describe_counter!(
        SENT_AGAIN,
        "Requests to subscribers that were sent once more because the kept connection had been closed \
         before they can have been read"
    );
    describe_gauge!(SUBSCRIPTIONS, "Subscriptions that are matched");
    describe_gauge!(WEBSOCKETS, "Websockets that are open");
    describe_gauge!(PENDING, "Deliveries that wait or are under way");
    describe_gauge!(
        REQUESTS,
        "Requests to subscribers: under way, or waiting for a turn at their peer"
    );
    describe_gauge!(
        OPEN_BREAKERS,
        "Peers (scheme, host and port), and single urls of others, that get no deliveries until they \
         confirm one"
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
        "What messages that are being taken or delivered need: memory, or disk"
    );
}

pub(crate) fn notified() {
    counter!(NOTIFICATIONS).increment(1);
}

/// Notifications went to so many rows.
pub(crate) fn matched(rows: u64) {
    counter!(MATCHED).increment(rows);
}

/// That became of so many of them.
pub(crate) fn delivered(outcome: &'static str, rows: u64) {
    counter!(DELIVERIES, "outcome" => outcome).increment(rows);
}

/// A delivery was missed as its peer had its share of all places.
pub(crate) fn no_place() {
    counter!(NO_PLACE).increment(1);
}

pub(crate) fn rejected() {
    counter!(REJECTED).increment(1);
}

pub(crate) fn quarantined() {
    counter!(QUARANTINED).increment(1);
}

pub(crate) fn notice_given_up() {
    counter!(NOTICES_GIVEN_UP).increment(1);
}

pub(crate) fn websocket_cut_off() {
    counter!(WEBSOCKETS_CUT_OFF).increment(1);
}

/// Whether `reason` speaks against sending requests here.
pub(crate) fn not_ready(reason: &'static str, is_so: bool) {
    gauge!(NOT_READY, "reason" => reason).set(u8::from(is_so));
}

/// What there is at a moment.
pub(crate) struct Levels {
    pub(crate) subscriptions: usize,
    pub(crate) websockets: usize,
    pub(crate) deliveries: usize,
    pub(crate) requests: PostLoad,
    pub(crate) spool_memory: u64,
    pub(crate) spool_disk: u64,
    pub(crate) broadcasters: u64,
}

impl Levels {
    /// Sets the gauges.
    pub(crate) fn record(&self) {
        gauge!(SUBSCRIPTIONS).set(self.subscriptions as f64);
        gauge!(WEBSOCKETS).set(self.websockets as f64);
        gauge!(PENDING).set(self.deliveries as f64);
        gauge!(REQUESTS, "state" => "under_way").set(self.requests.under_way as f64);
        gauge!(REQUESTS, "state" => "waiting").set(self.requests.waiting as f64);
        gauge!(OPEN_BREAKERS).set(self.requests.open_breakers as f64);
        counter!(SENT_AGAIN).absolute(self.requests.sent_again);
        gauge!(BROADCASTERS).set(self.broadcasters as f64);
        gauge!(SPOOL, "place" => "memory").set(self.spool_memory as f64);
        gauge!(SPOOL, "place" => "disk").set(self.spool_disk as f64);
    }
}
