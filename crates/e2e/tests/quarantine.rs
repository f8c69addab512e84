//! T22: who says that a subscription is not wanted any more.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::Duration;

use httppubsub_broadcaster::{Config, QuarantineConfig};
use httppubsub_e2e::{
    Act, Gate, Home, InProcess, Metrics, Subscriber, eventually, exact, http_answer,
};
use httppubsub_net::inbound::ServeConfig;
use httppubsub_proto::stateless::UNSUBSCRIBE_IMMEDIATE;

const MESSAGE: &[u8] = b"a message";

/// Answers that it wants nothing to what is posted to `url`, until the gate is open.
fn unwanted_until(subscriber: &Subscriber, url: &str, gate: &Gate) {
    let (own, gate) = (subscriber.clone(), gate.clone());
    subscriber.on(url, move |delivery| {
        vec![Act::Say(match gate.is_open() {
            true => own.confirms(delivery, 1),
            false => http_answer(200, "", &UNSUBSCRIBE_IMMEDIATE),
        })]
    });
}

/// T22.
#[test]
fn a_subscription_in_quarantine_is_paused_asked_about_and_kept() {
    let home = Home::new();
    let quarantine = ["--unsubscribe-immediate", "quarantine"];
    let (server, metrics) = Metrics::serve(&home, &quarantine);
    let subscriber = Subscriber::start(home.signer());
    let (receive, recover) = (subscriber.url("/a"), subscriber.recovery("/a"));
    let (impostor, never) = (Gate::default(), Gate::default());
    unwanted_until(&subscriber, &receive, &impostor);
    server.door.subscribe(&receive, exact("t"), Some(&recover));
    let other = subscriber.url("/without-recovery");
    unwanted_until(&subscriber, &other, &never);
    server.door.subscribe(&other, exact("t"), None);
    assert_eq!(server.door.notify("t", MESSAGE), 0);
    assert_eq!(server.door.notify("t", MESSAGE), 0);
    assert_eq!(subscriber.deliveries_to(&receive).len(), 1, "it is paused");
    assert_eq!(subscriber.deliveries_to(&other).len(), 1);
    assert_eq!(home.rows().len(), 2, "both are kept");
    assert_eq!(metrics.value("httppubsub_quarantined_total"), 2);
    // Whoever answered that is not there any more, and the notice is confirmed.
    impostor.open();
    subscriber.await_deliveries(&recover, 1);
    eventually("it is delivered to again", || {
        (server.door.notify("t", MESSAGE) == 1).then_some(())
    });
    assert_eq!(subscriber.deliveries_to(&other).len(), 1, "it stays paused");
    let outcome = |outcome| metrics.deliveries(outcome);
    assert_eq!((outcome("unsubscribed"), outcome("confirmed")), (0, 1));
    assert_eq!(
        metrics.matched(),
        1 + outcome("missed") + outcome("dropped")
    );
}

/// T22.
#[test]
fn what_is_said_again_and_again_is_believed_in_the_end_by_deliveries_and_by_notices() {
    let mut config = Config::default();
    config.quarantine = Some({
        let mut quarantine = QuarantineConfig::default();
        quarantine.times = 3;
        quarantine.lasting = Duration::from_millis(200);
        quarantine.pause = Duration::from_millis(10);
        quarantine
    });
    let server = InProcess::start(config, ServeConfig::default());
    let subscriber = Subscriber::start(&server.door.signer);
    let never = Gate::default();
    let by_delivery = subscriber.url("/by-delivery");
    unwanted_until(&subscriber, &by_delivery, &never);
    server.door.subscribe(&by_delivery, exact("t"), None);
    let before = server.door.etag(&by_delivery);
    eventually("it is removed", || {
        server.door.notify("t", MESSAGE);
        (server.door.etag(&by_delivery) != before).then_some(())
    });
    assert!(subscriber.deliveries_to(&by_delivery).len() >= 3);

    let (by_notice, recover) = (
        subscriber.url("/by-notice"),
        subscriber.recovery("/by-notice"),
    );
    unwanted_until(&subscriber, &by_notice, &never);
    unwanted_until(&subscriber, &recover, &never);
    server
        .door
        .subscribe(&by_notice, exact("u"), Some(&recover));
    let before = server.door.etag(&by_notice);
    assert_eq!(server.door.notify("u", MESSAGE), 0);
    eventually("it is removed", || {
        (server.door.etag(&by_notice) != before).then_some(())
    });
    assert_eq!(subscriber.deliveries_to(&by_notice).len(), 1);
    assert_eq!(subscriber.deliveries_to(&recover).len(), 2);
}
