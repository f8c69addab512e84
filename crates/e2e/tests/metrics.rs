//! `serve --metrics`: what a broadcaster counts, seen from outside.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use httppubsub_e2e::{
    Deaf, Gate, Home, Metrics, Process, Subscriber, eventually, exact, glob, httppubsub, url,
};
use httppubsub_proto::subscription::Subscription;

#[test]
fn every_subscription_that_matched_is_in_one_of_the_counts() {
    let home = Home::new();
    let (server, metrics) = Metrics::serve(&home, &[]);
    let (good, down) = (Subscriber::start(home.signer()), Deaf::closed());
    server.door.subscribe(&good.url("/one"), exact("t"), None);
    server.door.subscribe(&good.url("/two"), glob("t*"), None);
    server.door.subscribe(
        &down.url("/told"),
        exact("t"),
        Some(&good.recovery("/told")),
    );
    server.door.subscribe(&down.url("/not"), exact("t"), None);
    for _ in 0..3 {
        assert_eq!(server.door.notify("t", b"message"), 2);
    }
    assert_eq!(server.door.notify("nobody", b"message"), 0);
    for (name, want) in [
        ("httppubsub_notifications_total", 4),
        ("httppubsub_matched_total", 12),
        ("httppubsub_deliveries_total{outcome=\"confirmed\"}", 6),
        ("httppubsub_deliveries_total{outcome=\"missed\"}", 3),
        ("httppubsub_deliveries_total{outcome=\"dropped\"}", 3),
        ("httppubsub_deliveries_total{outcome=\"unsubscribed\"}", 0),
        ("httppubsub_deliveries_total{outcome=\"unrecorded\"}", 0),
        ("httppubsub_subscriptions", 4),
        ("httppubsub_websockets", 0),
        ("httppubsub_spool_bytes{place=\"memory\"}", 0),
        ("httppubsub_requests_to_subscribers{state=\"waiting\"}", 0),
    ] {
        assert_eq!(metrics.value(name), want, "{name}");
    }
    let text = metrics.text();
    assert!(text.contains("# HELP httppubsub_matched_total "), "{text}");
}

/// Also where the publisher leaves before it is answered: it is accounted for all the same.
#[test]
fn a_notification_over_a_websocket_is_counted_as_one_over_http() {
    let home = Home::new();
    let (server, metrics) = Metrics::serve(&home, &[]);
    let subscriber = Subscriber::start(home.signer());
    let (slow, gate) = (subscriber.url("/slow"), Gate::default());
    server.door.subscribe(&slow, exact("slow"), None);
    subscriber.confirm_behind(&slow, &gate);
    let count = || metrics.value("httppubsub_notifications_total");
    let notify = |topic: &str| {
        let mut command = httppubsub();
        let broadcaster = format!("http://{}", server.door.address);
        command.args([
            "notify",
            topic,
            "--data",
            "x",
            "--ws",
            "--broadcaster",
            &broadcaster,
        ]);
        command
            .arg("--secrets")
            .arg(home.path().join("secrets.json"));
        Process::spawn("notify", command)
    };
    server.door.notify("t", b"x");
    assert_eq!(count(), 1);
    notify("t").end_well();
    assert_eq!(count(), 2);
    let mut leaving = notify("slow");
    subscriber.await_deliveries(&slow, 1);
    leaving.kill();
    gate.open();
    eventually("it is counted", || (count() == 3).then_some(()));
}

/// T20 and T1.
#[test]
fn metrics_are_on_no_other_listener_and_nobody_may_have_them_posted_to() {
    let home = Home::new();
    let (server, metrics) = Metrics::serve(&home, &[]);
    assert_eq!(server.door.get("/metrics").status, 404);
    assert_eq!(metrics.get("/v1/notify").status, 404);
    let refused = server.door.ask(&home.signer().subscribe(&Subscription {
        url: url(&format!("http://{}/metrics", metrics.address)),
        interest: exact("t"),
        recovery: None,
    }));
    assert_eq!(refused.status, 403);
    let why = String::from_utf8(refused.body).unwrap();
    assert!(
        why.contains("the broadcaster listens there for whoever runs it"),
        "{why}"
    );
}
