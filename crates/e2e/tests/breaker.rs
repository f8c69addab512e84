//! What a peer gets that fails, that is slow, or that never confirmed anything.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::cell::Cell;
use std::thread;

use httppubsub_e2e::{
    Act, Filler, Gate, Home, Metrics, Server, Subscriber, eventually, exact, http_answer,
};

const MESSAGE: &[u8] = b"a message";

/// Notifies until deliveries are not tried any more, each time reaching so many; says how often.
fn notify_until_open(server: &Server, metrics: &Metrics, reached: u32) -> usize {
    let sent = Cell::new(0);
    eventually("its circuit breaker opens", || {
        assert_eq!(server.door.notify("t", MESSAGE), reached);
        sent.set(sent.get() + 1);
        (metrics.open_breakers() == 1).then_some(())
    });
    assert!(sent.get() >= 5, "{sent:?}");
    sent.get()
}

/// Answers 503 to what is posted to `url` until the gate is open.
fn refuse_until(subscriber: &Subscriber, url: &str, gate: &Gate) {
    let (own, gate) = (subscriber.clone(), gate.clone());
    subscriber.on(url, move |delivery| {
        vec![Act::Say(match gate.is_open() {
            true => own.confirms(delivery, 1),
            false => http_answer(503, "", b""),
        })]
    });
}

#[test]
fn a_peer_that_fails_again_and_again_gets_notices_and_no_messages_until_it_confirms_one() {
    let home = Home::new();
    let (server, metrics) = Metrics::serve(&home, &[]);
    let (failing, good) = (
        Subscriber::start(home.signer()),
        Subscriber::start(home.signer()),
    );
    let (receive, recover) = (failing.url("/a"), failing.recovery("/a"));
    let is_back = Gate::default();
    refuse_until(&failing, &receive, &is_back);
    refuse_until(&failing, &recover, &is_back);
    server.door.subscribe(&receive, exact("t"), Some(&recover));
    server.door.subscribe(&good.url("/"), exact("t"), None);
    // The other has it.
    let tried = notify_until_open(&server, &metrics, 1);
    for _ in 0..20 {
        assert_eq!(server.door.notify("t", MESSAGE), 1);
    }
    assert_eq!(failing.deliveries_to(&receive).len(), tried);
    // It is looked whether it is back: by notices, at pauses that grow.
    let notices = failing.await_deliveries(&recover, 2);
    assert!(notices.iter().all(|notice| notice.is_genuine));
    assert_eq!(server.door.notify("t", MESSAGE), 1);
    assert_eq!(failing.deliveries_to(&receive).len(), tried);
    is_back.open();
    let sent = Cell::new(tried as u64 + 21);
    eventually("it is delivered to again", || {
        sent.set(sent.get() + 1);
        (server.door.notify("t", MESSAGE) == 2).then_some(())
    });
    let sent = sent.get();
    assert_eq!(failing.deliveries_to(&receive).len(), tried + 1);
    let confirmed = failing.deliveries_to(&recover);
    assert!(
        confirmed.last().unwrap().at < failing.deliveries_to(&receive)[tried].at,
        "it confirmed a notice first"
    );
    assert_eq!(metrics.open_breakers(), 0);
    assert_eq!(metrics.matched(), 2 * sent);
    let outcome = |outcome| metrics.deliveries(outcome);
    assert_eq!(outcome("confirmed"), sent + 1);
    assert_eq!(outcome("missed"), sent - 1);
}

/// A subscriber without a recovery url that fails until the gate is open.
fn failing(home: &Home, server: &Server) -> (Subscriber, Gate) {
    let failing = Subscriber::start(home.signer());
    let (url, is_back) = (failing.url("/a"), Gate::default());
    refuse_until(&failing, &url, &is_back);
    server.door.subscribe(&url, exact("t"), None);
    (failing, is_back)
}

#[test]
fn a_peer_without_a_recovery_url_is_tried_with_a_small_message() {
    let home = Home::new();
    let (server, metrics) = Metrics::serve(&home, &[]);
    let (failing, is_back) = failing(&home, &server);
    let tried = notify_until_open(&server, &metrics, 0);
    let large = vec![7; 64 * 1024 + 1];
    eventually("it was tried once more", || {
        assert_eq!(server.door.notify("t", &large), 0);
        assert_eq!(server.door.notify("t", MESSAGE), 0);
        (failing.deliveries().len() > tried).then_some(())
    });
    assert_eq!(failing.deliveries()[tried].message(), MESSAGE);
    is_back.open();
    eventually("it is delivered to again", || {
        (server.door.notify("t", MESSAGE) == 1).then_some(())
    });
    assert_eq!(server.door.notify("t", &large), 1);
    assert_eq!(metrics.open_breakers(), 0);
}

#[test]
fn a_peer_that_asks_for_something_is_delivered_to_at_once() {
    let home = Home::new();
    let (server, metrics) = Metrics::serve(&home, &[]);
    let (failing, is_back) = failing(&home, &server);
    let tried = notify_until_open(&server, &metrics, 0);
    is_back.open();
    server.door.etag(&failing.url("/a"));
    assert_eq!(metrics.open_breakers(), 0);
    assert_eq!(server.door.notify("t", MESSAGE), 1);
    assert_eq!(failing.deliveries().len(), tried + 1);
}

#[test]
fn small_messages_do_not_wait_behind_large_ones_to_the_same_peer() {
    let home = Home::new();
    let server = home.serve(&["--deliveries-per-peer-max", "4"]);
    let peer = Subscriber::start(home.signer());
    let gate = Gate::default();
    let (large, small) = (peer.url("/large"), peer.url("/small"));
    peer.confirm_behind(&large, &gate);
    server.door.subscribe(&large, exact("large"), None);
    server.door.subscribe(&small, exact("small"), None);
    let filler = Filler::new(2 * 1024 * 1024, 1);
    let notifying = [(); 6].map(|()| {
        let (door, filler) = (server.door.clone(), filler.clone());
        thread::spawn(move || door.notify_filler("large", &filler))
    });
    peer.await_deliveries(&large, 1);
    for _ in 0..10 {
        assert_eq!(server.door.notify("small", MESSAGE), 1);
    }
    assert_eq!(
        peer.deliveries_to(&large).len(),
        1,
        "a quarter of its turns is for large ones"
    );
    gate.open();
    for notifying in notifying {
        assert_eq!(notifying.join().unwrap(), 1);
    }
}

/// T4.
#[test]
fn who_never_confirmed_anything_gets_one_delivery_at_a_time_and_no_long_message() {
    let home = Home::new();
    let server = home.serve(&["--egress", "public", "--egress-loopback"]);
    let peer = Subscriber::start(home.signer());
    let gate = Gate::default();
    for index in 0..4 {
        let url = peer.url(&format!("/{index}"));
        peer.confirm_behind(&url, &gate);
        server.door.subscribe(&url, exact("t"), None);
    }
    let long = Filler::new(1024 * 1024 + 1, 1);
    assert_eq!(server.door.notify_filler("t", &long), 0);
    assert_eq!(peer.deliveries().len(), 0);
    let notifying = thread::spawn({
        let door = server.door.clone();
        move || door.notify("t", MESSAGE)
    });
    eventually("the first is under way", || {
        (!peer.deliveries().is_empty()).then_some(())
    });
    // A subscriber of another peer has it meanwhile, and so had those of this one if they might.
    let other = Subscriber::start(home.signer());
    server.door.subscribe(&other.url("/"), exact("other"), None);
    assert_eq!(server.door.notify("other", MESSAGE), 1);
    assert_eq!(peer.deliveries().len(), 1);
    gate.open();
    assert_eq!(notifying.join().unwrap(), 4);
    assert_eq!(server.door.notify_filler("t", &long), 4);
}

/// T4: it may be a victim that somebody else named.
#[test]
fn who_never_confirmed_anything_is_not_tried_again_and_again() {
    let home = Home::new();
    let server = home.serve(&["--egress", "public", "--egress-loopback"]);
    let victim = Subscriber::start(home.signer());
    for index in 0..50 {
        let url = victim.url(&format!("/{index}"));
        victim.on(&url, |_| vec![Act::Say(http_answer(404, "", b""))]);
        server.door.subscribe(&url, exact("t"), None);
    }
    for _ in 0..20 {
        assert_eq!(server.door.notify("t", MESSAGE), 0);
    }
    let seconds = victim.deliveries().first().unwrap().at.elapsed().as_secs();
    let requests = victim.deliveries().len() as u64;
    assert!(
        requests <= 2 + seconds,
        "{requests} requests in {seconds} s to one that knows nothing of it"
    );
}
