//! What becomes of deliveries when subscribers fail, lie, hang or leave, and of the notices that
//! are owed then.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use httppubsub_broadcaster::Config;
use httppubsub_e2e::{
    Act, Deaf, Delivery, Door, Filler, Gate, Home, InProcess, Proxy, Random, Row, Subscriber,
    eventually, exact, glob, http_answer,
};
use httppubsub_net::inbound::ServeConfig;
use httppubsub_net::outbound::PostConfig;
use httppubsub_proto::digest::Sha512;
use httppubsub_proto::stateless::UNSUBSCRIBE_IMMEDIATE;

const MESSAGE: &[u8] = b"a message";

/// The rows of one url.
fn rows_of(home: &Home, url: &str) -> Vec<Row> {
    let mut rows = home.rows();
    rows.retain(|row| row.url == url);
    rows
}

/// The only row of a url.
#[track_caller]
fn row_of(home: &Home, url: &str) -> Row {
    let rows = rows_of(home, url);
    assert_eq!(rows.len(), 1, "{rows:?}");
    rows.into_iter().next().unwrap()
}

/// F2: in the end the one that hung has it as well.
#[test]
fn a_subscriber_that_hangs_delays_no_other() {
    let home = Home::new();
    let server = home.serve(&[]);
    let (slow, others) = (
        Subscriber::start(home.signer()),
        Subscriber::start(home.signer()),
    );
    let gate = Gate::default();
    let slow_url = slow.url("/slow");
    slow.confirm_behind(&slow_url, &gate);
    server.door.subscribe(&slow_url, exact("t"), None);
    let urls: Vec<_> = (0..50)
        .map(|index| others.url(&format!("/{index}")))
        .collect();
    for url in &urls {
        server.door.subscribe(url, glob("t*"), None);
    }
    let notifying = thread::spawn({
        let door = server.door.clone();
        move || door.notify("t", MESSAGE)
    });
    slow.await_deliveries(&slow_url, 1);
    for url in &urls {
        let delivery = &others.await_deliveries(url, 1)[0];
        assert!(delivery.is_genuine && delivery.message() == MESSAGE);
    }
    assert!(!notifying.is_finished(), "the answer waits for all");
    // Later notifications are not held up by it either.
    let again = thread::spawn({
        let door = server.door.clone();
        move || door.notify("t", MESSAGE)
    });
    for url in &urls {
        others.await_deliveries(url, 2);
    }
    assert!(!gate.is_open() && !again.is_finished());
    gate.open();
    assert_eq!(notifying.join().unwrap(), 51);
    assert_eq!(again.join().unwrap(), 51);
}

/// F2: a peer with more deliveries under way than it may have makes only its own wait.
#[test]
fn a_peer_that_hangs_takes_only_its_own_turns() {
    let home = Home::new();
    let server = home.serve(&["--deliveries-max", "8", "--deliveries-per-peer-max", "4"]);
    let (slow, good) = (
        Subscriber::start(home.signer()),
        Subscriber::start(home.signer()),
    );
    let gate = Gate::default();
    for index in 0..20 {
        let url = slow.url(&format!("/{index}"));
        slow.confirm_behind(&url, &gate);
        server.door.subscribe(&url, exact("slow"), None);
    }
    server.door.subscribe(&good.url("/"), exact("good"), None);
    let notifying = thread::spawn({
        let door = server.door.clone();
        move || door.notify("slow", MESSAGE)
    });
    eventually("four are under way", || {
        (slow.deliveries().len() == 4).then_some(())
    });
    for _ in 0..10 {
        assert_eq!(server.door.notify("good", MESSAGE), 1);
    }
    assert_eq!(
        slow.deliveries().len(),
        4,
        "no more at once than it may have"
    );
    gate.open();
    assert_eq!(notifying.join().unwrap(), 20);
}

/// F2 within one notification.
#[test]
fn rows_of_a_peer_that_hangs_delay_no_other_row_of_the_same_notification() {
    let home = Home::new();
    let server = home.serve(&["--deliveries-max", "8", "--deliveries-per-peer-max", "4"]);
    let (slow, good) = (
        Subscriber::start(home.signer()),
        Subscriber::start(home.signer()),
    );
    let gate = Gate::default();
    for index in 0..20 {
        let url = slow.url(&format!("/{index}"));
        slow.confirm_behind(&url, &gate);
        server.door.subscribe(&url, exact("t"), None);
    }
    server.door.subscribe(&good.url("/"), exact("t"), None);
    let notifying = thread::spawn({
        let door = server.door.clone();
        move || door.notify("t", MESSAGE)
    });
    good.await_deliveries(&good.url("/"), 1);
    assert!(
        slow.deliveries().len() <= 4,
        "none of the slow ones had to be given up for it"
    );
    gate.open();
    assert_eq!(notifying.join().unwrap(), 21);
}

/// F1.
#[test]
fn a_subscriber_that_was_down_is_told_until_it_accepts_once() {
    let home = Home::new();
    let server = home.serve(&[]);
    let (down, told) = (Deaf::closed(), Subscriber::start(home.signer()));
    let (receive, recover) = (down.url("/receive"), told.recovery("/a"));
    let refusals = Gate::default();
    told.on(&recover, {
        let (told, refusals) = (told.clone(), refusals.clone());
        move |delivery| {
            if refusals.is_open() {
                return vec![Act::Say(told.confirms(delivery, 1))];
            }
            refusals.open();
            vec![Act::Say(http_answer(503, "", b""))]
        }
    });
    server.door.subscribe(&receive, exact("t"), Some(&recover));
    // Without a recovery url it is counted and forgotten.
    server
        .door
        .subscribe(&down.url("/no-recovery"), exact("t"), None);
    assert_eq!(server.door.notify("t", MESSAGE), 0, "refused at once");
    let failed = std::time::Instant::now();
    assert!(row_of(&home, &receive).is_owed_a_notice);
    assert!(!row_of(&home, &down.url("/no-recovery")).is_owed_a_notice);

    let notices = told.await_deliveries(&recover, 2);
    let waits = [notices[0].at - failed, notices[1].at - notices[0].at];
    // Due after 2–4 and 3–5 s, rounded up to whole seconds; no test waits exactly that long.
    assert!(
        waits[0] > Duration::from_secs(1) && waits[1] > Duration::from_secs(2),
        "{waits:?}"
    );
    assert!(
        waits.iter().all(|wait| *wait < Duration::from_secs(20)),
        "{waits:?}"
    );
    for notice in &notices {
        assert!(notice.is_genuine && notice.topic().as_bytes() == b"t");
    }
    eventually("the notice is settled", || {
        (!row_of(&home, &receive).is_owed_a_notice).then_some(())
    });
    // Nothing is owed any more, so nothing will be sent; and the subscription is alive.
    let back = down.come_back(home.signer());
    assert_eq!(server.door.notify("t", b"again"), 2);
    assert_eq!(back.await_deliveries(&receive, 1)[0].message(), b"again");
    assert_eq!(
        told.deliveries().len(),
        2,
        "the accepted notice was the last"
    );
    eprintln!("MISSED came {waits:?} after the failure and after the refusal");
}

/// F1 across a restart; the kill leaves no time for anything.
#[test]
fn a_notice_that_is_owed_survives_a_kill() {
    let home = Home::new();
    let mut server = home.serve(&[]);
    let (down, told) = (Deaf::closed(), Subscriber::start(home.signer()));
    let recover = told.recovery("/a");
    server
        .door
        .subscribe(&down.url("/exact"), exact("some/topic"), Some(&recover));
    server.door.subscribe(
        &down.url("/glob"),
        glob("some/*"),
        Some(&told.recovery("/b")),
    );
    assert_eq!(server.door.notify("some/topic", MESSAGE), 0);
    server.process.kill();
    assert_eq!(told.deliveries().len(), 0);
    let server = home.serve(&[]);
    for recover in [recover, told.recovery("/b")] {
        let notice = &told.await_deliveries(&recover, 1)[0];
        assert!(notice.is_genuine && notice.topic().as_bytes() == b"some/topic");
    }
    eventually("both are settled", || {
        home.rows()
            .iter()
            .all(|row| !row.is_owed_a_notice)
            .then_some(())
    });
    assert_eq!(home.rows().len(), 2, "the subscriptions stay");
    assert_eq!(told.deliveries().len(), 2, "each was told once");
    drop(server);
}

/// F25: a hostile recovery url does not end the sweep.
#[test]
fn a_recovery_url_that_hangs_delays_no_other_notice() {
    let home = Home::new();
    let server = home.serve(&[]);
    let down = Deaf::closed();
    let (hanging, told) = (
        Subscriber::start(home.signer()),
        Subscriber::start(home.signer()),
    );
    let silent = Deaf::never_reading();
    let gate = Gate::default();
    for index in 0..40 {
        let recover = hanging.recovery(&format!("/{index}"));
        hanging.confirm_behind(&recover, &gate);
        // They fail first, so that their notices are due first.
        server.door.subscribe(
            &down.url(&format!("/h{index}")),
            exact("bad"),
            Some(&recover),
        );
        let recover = silent.url(&format!("/{index}"));
        server.door.subscribe(
            &down.url(&format!("/s{index}")),
            exact("bad"),
            Some(&recover),
        );
    }
    assert_eq!(server.door.notify("bad", MESSAGE), 0);
    eventually("its notices are under way", || {
        (hanging.deliveries().len() >= 8).then_some(())
    });
    for index in 0..10 {
        let recover = told.recovery(&format!("/{index}"));
        server.door.subscribe(
            &down.url(&format!("/g{index}")),
            exact("good"),
            Some(&recover),
        );
    }
    assert_eq!(server.door.notify("good", MESSAGE), 0);
    for index in 0..10 {
        told.await_deliveries(&told.recovery(&format!("/{index}")), 1);
    }
    assert!(!gate.is_open());
    assert_eq!(
        hanging.deliveries().len(),
        8,
        "no more at once than a peer may have"
    );
    gate.open();
    assert_eq!(server.door.get("/readyz").status, 200);
}

/// What a row of the table must come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    Counted(u32),
    Missed,
    Removed,
}

use Want::{Counted, Missed, Removed};

/// F3 and F6.
#[test]
fn answers_of_every_kind_are_taken_for_what_they_are() {
    type Script = Box<dyn Fn(&Subscriber, &Delivery) -> Vec<Act> + Send + Sync>;
    fn case(
        name: &'static str,
        want: Want,
        script: impl Fn(&Subscriber, &Delivery) -> Vec<Act> + Send + Sync + 'static,
    ) -> (&'static str, Want, Script) {
        (name, want, Box::new(script))
    }
    fn say(bytes: impl Into<Vec<u8>>) -> Vec<Act> {
        vec![Act::Say(bytes.into())]
    }
    /// A whole answer with the body of a confirmation, changed by `change`.
    fn changed(own: &Subscriber, to: &Delivery, change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
        let mut body = body(own, to);
        change(&mut body);
        http_answer(200, "", &body)
    }
    fn body(own: &Subscriber, to: &Delivery) -> Vec<u8> {
        let answer = own.confirms(to, 1);
        let end_of_head = answer.windows(4).position(|it| it == b"\r\n\r\n").unwrap();
        answer[end_of_head + 4..].to_vec()
    }

    let home = Home::new();
    let server = home.serve(&["--answer-timeout", "3"]);
    let canary = Subscriber::start(home.signer());
    let canary_url = canary.url("/canary");
    // A confirmation of another delivery, genuine in itself.
    let earlier = {
        let subscriber = Subscriber::start(home.signer());
        let url = subscriber.url("/earlier");
        server.door.subscribe(&url, exact("earlier"), None);
        assert_eq!(server.door.notify("earlier", MESSAGE), 1);
        let delivery = subscriber.await_deliveries(&url, 1).remove(0);
        Arc::new(subscriber.confirms(&delivery, 1))
    };

    let mut cases = vec![
        case("a confirmation", Counted(1), |own, to| {
            say(own.confirms(to, 1))
        }),
        case("a confirmation for none", Counted(0), |own, to| {
            say(own.confirms(to, 0))
        }),
        case("a confirmation for many", Counted(70_000), |own, to| {
            say(own.confirms(to, 70_000))
        }),
        case("byte by byte", Counted(1), |own, to| {
            vec![Act::Drip(own.confirms(to, 1), Duration::from_millis(1))]
        }),
        case("head and body apart", Counted(1), |own, to| {
            let body = body(own, to);
            let (head, none) = (http_answer(200, "", &body), Duration::from_millis(50));
            let (head, body) = head.split_at(head.len() - body.len());
            let (first, rest) = body.split_at(10);
            [head, first, rest]
                .map(|part| {
                    [
                        Act::Drip(part[..1].to_vec(), none),
                        Act::Say(part[1..].to_vec()),
                    ]
                })
                .concat()
        }),
        case("in chunks", Counted(1), |own, to| {
            let mut answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            for chunk in body(own, to).chunks(7) {
                answer.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                answer.extend_from_slice(chunk);
                answer.extend_from_slice(b"\r\n");
            }
            answer.extend_from_slice(b"0\r\n\r\n");
            say(answer)
        }),
        case("until the connection closes", Counted(1), |own, to| {
            let answer = [&b"HTTP/1.1 200 OK\r\n\r\n"[..], &body(own, to)].concat();
            vec![Act::Say(answer), Act::Close]
        }),
        case("HTTP/1.0", Counted(1), |own, to| {
            let answer = [&b"HTTP/1.0 200 OK\r\n\r\n"[..], &body(own, to)].concat();
            vec![Act::Say(answer), Act::Close]
        }),
        case("after 100 Continue", Counted(1), |own, to| {
            say([&b"HTTP/1.1 100 Continue\r\n\r\n"[..], &own.confirms(to, 1)].concat())
        }),
        case("status 201", Counted(1), |own, to| {
            say(http_answer(201, "", &body(own, to)))
        }),
        case("bytes behind it", Counted(1), |own, to| {
            say(changed(own, to, |body| body.extend_from_slice(&[7; 1_000])))
        }),
        case("bytes without end behind it", Counted(1), |own, to| {
            let head = b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n";
            let begin = [&head[..], &body(own, to)].concat();
            vec![Act::Say(begin), Act::Endlessly(vec![0; 64 * 1024])]
        }),
        case("closed without a word", Missed, |_, _| vec![Act::Close]),
        case("silence", Missed, |_, _| vec![Act::Hang]),
        case("not HTTP", Missed, |_, _| {
            vec![Act::Say(b"hello\r\n\r\n".to_vec()), Act::Close]
        }),
        case("garbage without end", Missed, |_, _| {
            vec![Act::Endlessly(vec![b'x'; 64 * 1024])]
        }),
        case("a head without end", Missed, |_, _| {
            let begin = b"HTTP/1.1 200 OK\r\n".to_vec();
            vec![Act::Say(begin), Act::Endlessly(b"X: y\r\n".repeat(1_000))]
        }),
        case("a head that drips", Missed, |own, to| {
            vec![Act::Drip(own.confirms(to, 1), Duration::from_millis(500))]
        }),
        case("a body that drips", Missed, |own, to| {
            let answer = own.confirms(to, 1);
            let (head, body) = answer.split_at(answer.len() - 8);
            vec![
                Act::Say(head.to_vec()),
                Act::Drip(body.to_vec(), Duration::from_secs(1)),
            ]
        }),
        case("a body that stops", Missed, |own, to| {
            let answer = own.confirms(to, 1);
            vec![Act::Say(answer[..answer.len() - 1].to_vec()), Act::Hang]
        }),
        case("a body cut short", Missed, |own, to| {
            let answer = own.confirms(to, 1);
            vec![Act::Say(answer[..answer.len() - 1].to_vec()), Act::Close]
        }),
        case("chunks cut short", Missed, |own, to| {
            let mut answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            let body = body(own, to);
            answer.extend_from_slice(format!("{:x}\r\n", body.len()).as_bytes());
            answer.extend_from_slice(&body);
            vec![Act::Say(answer), Act::Close]
        }),
        case("nothing but zeros without end", Missed, |_, _| {
            let head = b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n".to_vec();
            vec![Act::Say(head), Act::Endlessly(vec![0; 64 * 1024])]
        }),
        case("an empty body", Missed, |_, _| {
            say(http_answer(200, "", b""))
        }),
        case("204", Missed, |_, _| {
            say(&b"HTTP/1.1 204 No Content\r\n\r\n"[..])
        }),
        case("text", Missed, |_, _| say(http_answer(200, "", b"OK"))),
        case("one byte of it", Missed, |own, to| {
            say(changed(own, to, |body| body.truncate(1)))
        }),
        case("all but one byte of it", Missed, |own, to| {
            say(changed(own, to, |body| body.truncate(body.len() - 1)))
        }),
        case("another type", Missed, |own, to| {
            say(changed(own, to, |body| body[1] = 9))
        }),
        case("another identifier", Missed, |own, to| {
            say(changed(own, to, |body| {
                let at = body.len() - 5;
                body[at] ^= 1;
            }))
        }),
        case("another count than signed", Missed, |own, to| {
            say(changed(own, to, |body| *body.last_mut().unwrap() = 2))
        }),
        case("a signature with a wrong byte", Missed, |own, to| {
            say(changed(own, to, |body| {
                body[60] = if body[60] == b'A' { b'B' } else { b'A' }
            }))
        }),
        case("no signature", Missed, |own, to| {
            say(changed(own, to, |body| {
                let length = usize::from(u16::from_be_bytes([body[2], body[3]]));
                body.splice(2..4 + length, [0, 0]);
            }))
        }),
        case("a confirmation of an earlier delivery", Missed, {
            let earlier = earlier.clone();
            move |_, _| say(earlier.to_vec())
        }),
        case("unsubscribe, 200", Removed, |_, _| {
            say(http_answer(200, "", &UNSUBSCRIBE_IMMEDIATE))
        }),
        case("unsubscribe, 403", Removed, |_, _| {
            say(http_answer(403, "", &UNSUBSCRIBE_IMMEDIATE))
        }),
        case("unsubscribe, 500", Removed, |_, _| {
            say(http_answer(500, "", &UNSUBSCRIBE_IMMEDIATE))
        }),
        case("half of unsubscribe", Missed, |_, _| {
            say(http_answer(200, "", &[0]))
        }),
    ];
    for status in [301, 302, 303, 307, 308] {
        let location = format!("Location: {canary_url}\r\n");
        cases.push(case("a redirect", Missed, move |own, to| {
            say(http_answer(status, &location, &body(own, to)))
        }));
    }
    for status in [400, 401, 403, 404, 410, 429, 500, 502, 503, 599] {
        cases.push(case(
            "an error with a valid body",
            Missed,
            move |own, to| say(http_answer(status, "", &body(own, to))),
        ));
    }

    // Its notices are refused, so that what is owed stays to be seen.
    let refusing = Subscriber::start(home.signer());
    let run = |(index, (name, want, script)): (usize, (&'static str, Want, Script))| {
        let own = Subscriber::start(home.signer());
        let (url, recover) = (own.url("/receive"), refusing.recovery(&format!("/{index}")));
        refusing.on(&recover, |_| vec![Act::Say(http_answer(500, "", b""))]);
        own.on(&url, {
            let own = own.clone();
            move |delivery| script(&own, delivery)
        });
        let topic = format!("case/{index}");
        server.door.subscribe(&url, exact(&topic), Some(&recover));
        // A second row of the same url shows that only one is judged.
        server
            .door
            .subscribe(&url, exact("another"), Some(&recover));
        let count = server.door.notify(&topic, MESSAGE);
        let rows = rows_of(&home, &url);
        let row = rows.iter().find(|row| row.interest == topic.as_bytes());
        let got = match row {
            None => Removed,
            Some(row) if row.is_owed_a_notice => Missed,
            Some(_) => Counted(count),
        };
        assert_eq!(got, want, "{name}");
        assert_eq!(
            count,
            if let Counted(count) = want { count } else { 0 },
            "{name}"
        );
        assert_eq!(
            rows.len(),
            if want == Removed { 1 } else { 2 },
            "{name}: {rows:?}"
        );
        assert!(
            !rows
                .iter()
                .any(|row| row.interest == b"another" && row.is_owed_a_notice)
        );
        // Nothing is retried: a broken connection may have delivered it.
        (name, own.deliveries().len())
    };
    let posts: Vec<_> = thread::scope(|scope| {
        let running: Vec<_> = cases
            .into_iter()
            .enumerate()
            .map(|it| scope.spawn(|| run(it)))
            .collect();
        running.into_iter().map(|it| it.join().unwrap()).collect()
    });
    for (name, posts) in &posts {
        assert_eq!(*posts, 1, "{name}");
    }
    assert_eq!(canary.deliveries().len(), 0, "redirects are never followed");
    eprintln!("{} answers", posts.len());
}

/// F5, as far as loopback shows it: the broadcaster learns that a kept connection is gone only when
/// it uses it.
#[test]
fn a_kept_connection_that_the_peer_closed_costs_no_delivery() {
    // The subscriber does not know its url before the proxy.
    let home = Home::with(&httppubsub_proto::auth::Secrets::NONE);
    let server = home.serve(&["--db", "memory"]);
    let subscriber = Subscriber::start(home.signer());
    let proxy = Proxy::start(subscriber.address());
    server.door.subscribe(&proxy.url("/"), exact("t"), None);
    for round in 1..=100 {
        assert_eq!(server.door.notify("t", MESSAGE), 1, "round {round}");
        proxy.cut();
    }
    assert_eq!(subscriber.deliveries().len(), 100);
}

/// F4: the peer's kernel takes what its buffers hold, and then nobody reads.
#[test]
fn a_subscriber_that_never_reads_is_given_up_and_holds_up_nobody() {
    let home = Home::new();
    let server = home.serve(&[]);
    let (deaf, good) = (Deaf::never_reading(), Subscriber::start(home.signer()));
    server.door.subscribe(
        &deaf.url("/receive"),
        exact("large"),
        Some(&good.recovery("/")),
    );
    server
        .door
        .subscribe(&good.url("/receive"), exact("large"), None);
    let large = Filler::new(64 * 1024 * 1024, 4);
    let notifying = thread::spawn({
        let (door, large) = (server.door.clone(), large.clone());
        move || {
            // Its answer takes until the deaf one is given up; the test does not wait for that.
            let head = door.signer.notify_head(
                &httppubsub_proto::topic::Topic::new("large").unwrap(),
                large.sha512,
                large.bytes,
            );
            let mut connection = door.connect();
            connection
                .post_with(&door.signer.notify_of(&head, b""), &large)
                .unwrap();
            connection
        }
    });
    let delivery = &good.await_deliveries(&good.url("/receive"), 1)[0];
    assert!(delivery.is_genuine && delivery.sha512 == large.sha512);
    let _connection = notifying.join().unwrap();

    // How long it takes to give up can be set in process only.
    let mut post = PostConfig::default();
    post.stall_timeout = Duration::from_millis(300);
    let server = InProcess::start(
        {
            let mut config = Config::default();
            config.post = post;
            config
        },
        ServeConfig::default(),
    );
    server
        .door
        .subscribe(&deaf.url("/receive"), exact("large"), None);
    assert_eq!(
        server.door.notify_filler("large", &large),
        0,
        "long before any other deadline"
    );
}

#[test]
fn an_immediate_unsubscription_removes_only_its_row() {
    let home = Home::new();
    let server = home.serve(&[]);
    let subscriber = Subscriber::start(home.signer());
    let (url, other) = (subscriber.url("/a"), subscriber.url("/b"));
    for interest in [exact("a"), exact("b"), glob("b*")] {
        for url in [&url, &other] {
            server
                .door
                .subscribe(url, interest.clone(), Some(&subscriber.recovery("/")));
        }
    }
    subscriber.on(&url, |_| {
        vec![Act::Say(http_answer(200, "", &UNSUBSCRIBE_IMMEDIATE))]
    });
    assert_eq!(server.door.notify("a", MESSAGE), 1);
    let left = |url: &str| -> Vec<_> {
        rows_of(&home, url)
            .into_iter()
            .map(|row| row.interest)
            .collect()
    };
    assert_eq!(left(&url), [&b"b"[..], b"b*"]);
    assert_eq!(left(&other).len(), 3);
    assert_eq!(server.door.notify("a", MESSAGE), 1, "it is not asked again");
    assert_eq!(subscriber.deliveries_to(&url).len(), 1);
    assert_eq!(server.door.notify("b", MESSAGE), 2);
    assert_eq!(left(&url), [&b""[..]; 0]);
    assert!(home.rows().iter().all(|row| !row.is_owed_a_notice));
}

/// T24.
#[test]
fn counts_that_lie_are_capped_and_never_an_error() {
    let home = Home::new();
    let server = home.serve(&["--db", "memory"]);
    let subscriber = liars(&server.door);
    assert_eq!(server.door.notify("t", MESSAGE), 3_000_001);
    assert_eq!(subscriber.deliveries().len(), 4);

    let mut config = Config::default();
    config.subscribers_per_confirmation_max = u32::MAX;
    let server = InProcess::start(config, ServeConfig::default());
    liars(&server.door);
    assert_eq!(
        server.door.notify("t", MESSAGE),
        u32::MAX,
        "the sum ends where its field does"
    );
}

/// Three who claim to stand for four billion, and an honest one.
fn liars(door: &Door) -> Subscriber {
    let subscriber = Subscriber::start(&door.signer);
    for index in 0..3 {
        let (own, url) = (subscriber.clone(), subscriber.url(&format!("/{index}")));
        subscriber.on(&url, move |delivery| {
            vec![Act::Say(own.confirms(delivery, u32::MAX))]
        });
        door.subscribe(&url, exact("t"), None);
    }
    door.subscribe(&subscriber.url("/honest"), exact("t"), None);
    subscriber
}

#[test]
fn a_publisher_that_leaves_stops_nothing() {
    let home = Home::new();
    // One at a time, so that most are still to come when the publisher leaves.
    let server = home.serve(&["--deliveries-max", "1"]);
    let subscriber = Subscriber::start(home.signer());
    let gate = Gate::default();
    let urls: Vec<_> = (0..10)
        .map(|index| subscriber.url(&format!("/{index}")))
        .collect();
    for url in &urls {
        subscriber.confirm_behind(url, &gate);
        server.door.subscribe(url, exact("t"), None);
    }
    let down = Deaf::closed();
    let recover = subscriber.recovery("/");
    server
        .door
        .subscribe(&down.url("/"), exact("t"), Some(&recover));
    let topic = httppubsub_proto::topic::Topic::new("t").unwrap();
    let mut connection = server.door.connect();
    connection
        .post(&home.signer().notify(&topic, MESSAGE))
        .unwrap();
    eventually("the first is served", || {
        (subscriber.deliveries().len() == 1).then_some(())
    });
    drop(connection);
    gate.open();
    for url in &urls {
        assert!(subscriber.await_deliveries(url, 1)[0].is_genuine);
    }
    assert!(
        subscriber.await_deliveries(&recover, 1)[0].is_genuine,
        "also who missed it"
    );
}

#[test]
fn a_message_that_its_publisher_cut_off_reaches_nobody() {
    let home = Home::new();
    let server = home.serve(&["--spool-above", "1000"]);
    let subscriber = Subscriber::start(home.signer());
    server
        .door
        .subscribe(&subscriber.url("/"), exact("t"), None);
    let topic = httppubsub_proto::topic::Topic::new("t").unwrap();
    for bytes in [100, 100_000] {
        let mut connection = server.door.connect();
        let message = vec![b'm'; bytes];
        let asked = home.signer().notify(&topic, &message);
        connection
            .announce(&asked, asked.body.len() as u64)
            .unwrap();
        connection
            .send(&asked.body[..asked.body.len() - 1])
            .unwrap();
        connection.finish().unwrap();
        assert!(
            connection
                .answer()
                .unwrap()
                .is_none_or(|response| response.status == 400)
        );
    }
    assert_eq!(server.door.notify("t", MESSAGE), 1);
    assert_eq!(subscriber.deliveries().len(), 1);
}

#[test]
fn a_message_beyond_the_spool_size_goes_to_a_nameless_file_and_arrives_intact() {
    let home = Home::new();
    let spool = home.path().join("spool");
    std::fs::create_dir(&spool).unwrap();
    let spool_text = spool.to_str().unwrap().to_owned();
    let server = home.serve(&["--spool-above", "1000", "--spool-dir", &spool_text]);
    let spooled = || {
        let files = server.process.open_files();
        files
            .into_iter()
            .filter(|file| file.starts_with(&spool_text))
            .count()
    };
    let subscriber = Subscriber::start(home.signer());
    let gate = Gate::default();
    let urls: Vec<_> = (0..3)
        .map(|index| subscriber.url(&format!("/{index}")))
        .collect();
    for url in &urls {
        subscriber.confirm_behind(url, &gate);
        server.door.subscribe(url, exact("t"), None);
    }
    let notifying = thread::spawn({
        let door = server.door.clone();
        let sizes = [0, 1, 999, 1_000, 1_001, 70_000, 3_000_000];
        move || {
            sizes.map(|bytes| {
                let filler = Filler::new(bytes, bytes);
                assert_eq!(door.notify_filler("t", &filler), 3);
                filler
            })
        }
    });
    subscriber.await_deliveries(&urls[0], 1);
    assert_eq!(spooled(), 0, "nothing was that long yet");
    gate.open();
    let sent = notifying.join().unwrap();
    for url in &urls {
        let came = subscriber.await_deliveries(url, sent.len());
        for (delivery, filler) in came.iter().zip(&sent) {
            assert!(
                delivery.is_genuine && delivery.sha512 == filler.sha512,
                "{}",
                filler.bytes
            );
        }
    }

    // While it is being delivered it is a file without a name, and afterwards it is nothing.
    let gate = Gate::default();
    for url in &urls {
        subscriber.confirm_behind(url, &gate);
    }
    let notifying = thread::spawn({
        let door = server.door.clone();
        move || door.notify_filler("t", &Filler::new(100_000, 1))
    });
    for url in &urls {
        subscriber.await_deliveries(url, sent.len() + 1);
    }
    assert_eq!(spooled(), 1);
    assert_eq!(std::fs::read_dir(&spool).unwrap().count(), 0);
    gate.open();
    assert_eq!(notifying.join().unwrap(), 3);
    eventually("the spool is empty", || (spooled() == 0).then_some(()));
}

#[test]
fn a_message_of_256_mib_costs_no_memory() {
    let home = Home::new();
    let spool = home.path().join("spool");
    std::fs::create_dir(&spool).unwrap();
    let spool_text = spool.to_str().unwrap().to_owned();
    let server = home.serve(&["--spool-dir", &spool_text]);
    let subscriber = Subscriber::start(home.signer());
    for path in ["/1", "/2"] {
        server
            .door
            .subscribe(&subscriber.url(path), exact("t"), None);
    }
    assert_eq!(server.door.notify("t", MESSAGE), 2);
    let before = server.process.resident_bytes();
    let filler = Filler::new(256 * 1024 * 1024, 9);
    assert_eq!(server.door.notify_filler("t", &filler), 2);
    for path in ["/1", "/2"] {
        let delivery = subscriber
            .await_deliveries(&subscriber.url(path), 2)
            .remove(1);
        assert!(delivery.is_genuine && delivery.sha512 == filler.sha512);
    }
    let grown = server.process.resident_bytes_max() - before;
    assert!(grown < 64 * 1024 * 1024, "{grown} bytes");
    eventually("the spool is empty", || {
        let files = server.process.open_files();
        (!files.iter().any(|file| file.starts_with(&spool_text))).then_some(())
    });
    eprintln!(
        "256 MiB to two subscribers: {} KiB more at most",
        grown / 1024
    );
}

/// The oracle knows what each row was told to do; the database and the answer must agree.
#[test]
fn every_row_that_matched_is_accounted_for_exactly_once() {
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    enum Fate {
        Confirms,
        Unsubscribes,
        FailsWithRecovery,
        FailsWithout,
    }
    use Fate::*;
    let home = Home::new();
    let server = home.serve(&["--log", "info,httppubsub_broadcaster=debug"]);
    let (subscriber, down) = (Subscriber::start(home.signer()), Deaf::closed());
    let refuse = |_: &Delivery| vec![Act::Say(http_answer(500, "", b""))];
    let mut random = Random::new(7);
    let mut fates = BTreeMap::new();
    for index in 0..300 {
        let fate = *random.pick(&[
            Confirms,
            Confirms,
            Unsubscribes,
            FailsWithRecovery,
            FailsWithout,
        ]);
        let (path, recover) = (
            format!("/{index}"),
            subscriber.recovery(&format!("/{index}")),
        );
        let fails = matches!(fate, FailsWithRecovery | FailsWithout);
        let url = if fails && random.below(2) == 0 {
            down.url(&path)
        } else {
            subscriber.url(&path)
        };
        subscriber.on(&recover, refuse);
        match fate {
            Confirms => {}
            Unsubscribes => {
                let answer = http_answer(200, "", &UNSUBSCRIBE_IMMEDIATE);
                subscriber.on(&url, move |_| vec![Act::Say(answer.clone())]);
            }
            FailsWithRecovery | FailsWithout => {
                subscriber.on(&url, refuse);
            }
        }
        let interest = match random.below(3) {
            0 => exact("some/topic"),
            1 => glob("some/*"),
            _ => glob("*"),
        };
        let recovery = Some(recover.as_str()).filter(|_| fate != FailsWithout);
        server.door.subscribe(&url, interest, recovery);
        fates.insert(url, fate);
    }
    let count = |fate: Fate| fates.values().filter(|it| **it == fate).count();
    let reached = server.door.notify("some/topic", MESSAGE);
    assert_eq!(reached as usize, count(Confirms));
    let rows: BTreeMap<_, _> = home
        .rows()
        .into_iter()
        .map(|row| (row.url.clone(), row))
        .collect();
    for (url, fate) in &fates {
        let row = rows.get(url);
        assert_eq!(row.is_none(), *fate == Unsubscribes, "{url} {fate:?}");
        let is_owed = row.is_some_and(|row| row.is_owed_a_notice);
        assert_eq!(is_owed, *fate == FailsWithRecovery, "{url} {fate:?}");
    }
    // Its own account says the same.
    let said = server.process.log_line("notified");
    let own = format!(
        "Reached {{ subscribers: {reached}, confirmed: {}, unsubscribed: {}, missed: {}, dropped: \
         {}, unrecorded: 0 }}",
        count(Confirms),
        count(Unsubscribes),
        count(FailsWithRecovery),
        count(FailsWithout)
    );
    assert!(said.contains(&own), "{said}: not {own}");
    assert_eq!(
        server.door.notify("some/topic", MESSAGE) as usize,
        count(Confirms)
    );
}

/// The kit's own digest of what it was sent is that of the message alone.
#[test]
fn a_delivery_carries_the_message_as_it_was_published() {
    let home = Home::new();
    let server = home.serve(&["--db", "memory"]);
    let subscriber = Subscriber::start(home.signer());
    server
        .door
        .subscribe(&subscriber.url("/?q=1&r=%20"), exact("t"), None);
    for message in [&b""[..], b"\x00\xff", b"text", &[7; 100_000]] {
        assert_eq!(server.door.notify("t", message), 1);
        let delivery = subscriber.deliveries().pop().unwrap();
        assert!(delivery.is_genuine);
        assert_eq!(delivery.message(), message);
        assert_eq!(delivery.sha512, Sha512::of(message));
    }
}
