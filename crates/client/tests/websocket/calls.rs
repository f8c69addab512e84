//! What becomes of what a program asks for.

use std::io::Write as _;
use std::num::NonZeroUsize;
use std::time::Duration;

use futures_util::poll;
use httppubsub_client::{
    Client, ConnectionStatus, NotifyError, RequestError, SubscribeError, UnsubscribeError,
};
use httppubsub_net::body::Payload;
use httppubsub_proto::digest::Sha512;

use crate::script::{
    Asked, Door, Seen, UNREAD_BYTES, comes_to_be, exact, glob, meanwhile, soon, start, subscribed,
};

/// Makes notifications of these messages in this order, at once, and tells what became of them.
fn notifying<const N: usize>(
    client: &Client,
    messages: [Vec<u8>; N],
) -> [tokio::task::JoinHandle<Result<u32, NotifyError>>; N] {
    messages.map(|message| {
        let client = client.clone();
        // Tasks of this test's one thread begin in the order they were spawned in.
        meanwhile(async move { Ok(client.notify("t", message).await?.subscribers) })
    })
}

async fn reached(notifying: tokio::task::JoinHandle<Result<u32, NotifyError>>) -> u32 {
    soon(notifying).await.unwrap().unwrap()
}

async fn failed(notifying: tokio::task::JoinHandle<Result<u32, NotifyError>>) -> RequestError {
    match soon(notifying).await.unwrap().unwrap_err() {
        NotifyError::Request(error) => error,
        other => panic!("{other:?}"),
    }
}

fn exhausted(error: &RequestError) -> bool {
    matches!(error, RequestError::RetriesExhausted { .. })
}

#[tokio::test]
async fn if_wanted_what_was_not_acknowledged_is_sent_again_whole_in_order_and_under_its_name() {
    let door = Door::open().await;
    let client = start(door.config().retry_ambiguous(true), |options| {
        options.message_bytes_max = 1_024;
        options.sent_notifications_max = NonZeroUsize::new(3);
    })
    .await;
    let long: Vec<u8> = (0..=u8::MAX).cycle().take(5_000).collect();
    let messages = [b"1".to_vec(), b"2".to_vec(), long.clone(), b"4".to_vec()];
    // All are made before there is a connection.
    let [first, second, third, fourth] = notifying(&client, messages);
    let mut peer = door.peer().await;
    let mut identifiers = Vec::new();
    for _ in 0..2 {
        identifiers.push(peer.notified().await.identifier);
    }
    identifiers.push(peer.begun_notification().await);
    drop(peer);
    let mut peer = door.peer().await;
    for (identifier, plain) in identifiers.into_iter().zip([b"1", b"2", &*long]) {
        let notified = peer.notified().await;
        assert_eq!(notified.identifier, identifier);
        assert_eq!(notified.wire, plain);
        peer.acknowledge(notified, plain, u32::from(plain[0])).await;
    }
    let last = peer.notified().await;
    assert_eq!(last.wire, b"4");
    peer.acknowledge(last, b"4", 4).await;
    assert_eq!(reached(first).await, u32::from(b'1'));
    assert_eq!(reached(second).await, u32::from(b'2'));
    assert_eq!(reached(third).await, u32::from(long[0]));
    assert_eq!(reached(fourth).await, 4);
}

const PART_BYTES: u64 = 256 * 1_024;

#[tokio::test]
async fn what_was_sent_whole_is_not_sent_again_by_itself_and_what_was_begun_is() {
    let door = Door::open().await;
    let client = door
        .client_with(|options| options.message_bytes_max = PART_BYTES)
        .await;
    let long = vec![7; UNREAD_BYTES];
    let [whole, begun] = notifying(&client, [b"1".to_vec(), long.clone()]);
    let mut peer = door.peer().await;
    assert_eq!(peer.notified().await.wire, b"1");
    peer.begun_notification().await;
    drop(peer);
    let error = failed(whole).await;
    assert!(error.is_ambiguous(), "{error:?}");
    let mut peer = door.peer().await;
    let notified = peer.notified().await;
    assert!(notified.wire == long);
    peer.acknowledge(notified, &long, 1).await;
    assert_eq!(reached(begun).await, 1);
}

/// `poison`, where the broadcaster is a published one, which can only close.
#[tokio::test]
async fn poison_is_not_sent_for_ever_and_ends_nothing_but_its_own_call() {
    let door = Door::open().await;
    let client = door
        .client_with(|options| {
            options.message_bytes_max = PART_BYTES;
            options.connect_retries = u32::MAX;
        })
        .await;
    let mut peer = door.peer().await;
    let subscription = subscribed(&client, &mut peer, [exact("a")]).await;
    let mut seen = Seen::by(subscription);
    assert_eq!(seen.next().await, "!");
    // One of a length that is not taken.
    let [long] = notifying(&client, [vec![0; UNREAD_BYTES]]);
    peer.begun_notification().await;
    peer.close(1009).await;
    match failed(long).await {
        RequestError::Refused { status, .. } => assert_eq!(status, 413),
        // All of it had left before the close was read.
        RequestError::Ambiguous { .. } => {}
        error => panic!("{error:?}"),
    }
    let mut peer = door.peer().await;
    peer.confirm_each(["+a"]).await;
    let [other] = notifying(&client, [b"x".to_vec()]);
    let notified = peer.notified().await;
    peer.acknowledge(notified, b"x", 1).await;
    assert_eq!(reached(other).await, 1);
    // One that ends the connection each time, whatever the reason.
    let [poison] = notifying(&client, [vec![0; UNREAD_BYTES]]);
    for _ in 0..2 {
        peer.begun_notification().await;
        drop(peer);
        peer = door.peer().await;
        peer.confirm_each(["+a"]).await;
    }
    let error = failed(poison).await;
    assert!(exhausted(&error), "{error:?}");
    peer.deliver("a", "still here").await;
    peer.delivered().await;
    while seen.next().await != "still here" {}
}

#[tokio::test]
async fn poison_that_cannot_be_read_any_more_fails_alone_on_a_connection_that_goes_on() {
    let door = Door::open().await;
    let client = door
        .client_with(|options| options.message_bytes_max = PART_BYTES)
        .await;
    let mut peer = door.peer().await;
    let mut seen = Seen::by(subscribed(&client, &mut peer, [exact("a")]).await);
    assert_eq!(seen.next().await, "!");
    let file = async |bytes: usize| {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![1; bytes]).unwrap();
        let payload = Payload::from_file(file.try_clone().unwrap(), 0).await;
        (file, payload.unwrap())
    };
    // It has shrunk before anything of it is sent: nothing is.
    let (shrunk, payload) = file(5_000).await;
    shrunk.set_len(10).unwrap();
    let error = soon(client.notify("t", payload)).await.unwrap_err();
    assert!(matches!(error, NotifyError::Body(_)), "{error:?}");
    // It shrinks while it is sent, of which no connection takes all at once: what comes in place of
    // the rest is not what was announced.
    let (shrinks, payload) = file(UNREAD_BYTES).await;
    let notifying_during = meanwhile({
        let client = client.clone();
        async move { client.notify("t", payload).await }
    });
    peer.begun_notification().await;
    shrinks.set_len(10).unwrap();
    let spoilt = peer.notified().await;
    let error = soon(notifying_during).await.unwrap().unwrap_err();
    assert!(matches!(error, NotifyError::Body(_)), "{error:?}");
    assert_ne!(Sha512::of(&spoilt.wire), spoilt.head.compressed_sha512);
    peer.acknowledge(spoilt, b"nothing", 0).await;
    let [after] = notifying(&client, [b"y".to_vec()]);
    let notified = peer.notified().await;
    peer.acknowledge(notified, b"y", 1).await;
    assert_eq!(reached(after).await, 1);
    peer.deliver("a", "the same connection").await;
    peer.delivered().await;
    assert_eq!(seen.next().await, "the same connection");
}

#[tokio::test]
async fn requests_go_before_notifications_and_are_not_waited_for_one_by_one() {
    let door = Door::open().await;
    let client = door.client().await;
    let [notifying] = notifying(&client, [b"x".to_vec()]);
    let subscribing = meanwhile({
        let client = client.clone();
        let interests = [exact("a"), exact("b"), glob("c*")];
        async move { client.subscribe(interests).await }
    });
    tokio::task::yield_now().await;
    let mut peer = door.peer().await;
    let mut tickets = Vec::new();
    for want in ["+a", "+b", "+c*"] {
        let (name, ticket) = peer.interest().await;
        assert_eq!(name, want);
        tickets.push(ticket);
    }
    let notified = peer.notified().await;
    assert!(!subscribing.is_finished());
    for ticket in tickets {
        peer.confirm(ticket).await;
    }
    let _subscription = soon(subscribing).await.unwrap().unwrap();
    peer.acknowledge(notified, b"x", 3).await;
    assert_eq!(reached(notifying).await, 3);
}

#[tokio::test]
async fn when_all_is_tried_everybody_is_told_what_may_have_been_done() {
    let door = Door::open().await;
    let client = door
        .client_with(|options| options.sent_notifications_max = NonZeroUsize::new(1))
        .await;
    let mut peer = door.peer().await;
    let mut seen = Seen::by(subscribed(&client, &mut peer, [exact("a")]).await);
    assert_eq!(seen.next().await, "!");
    let subscribing = meanwhile({
        let client = client.clone();
        async move { client.subscribe_exact("b").await }
    });
    let (_, _never_confirmed) = peer.interest().await;
    let [sent, unsent] = notifying(&client, [b"1".to_vec(), b"2".to_vec()]);
    assert_eq!(peer.notified().await.wire, b"1");
    drop(door);
    drop(peer);
    let error = failed(sent).await;
    assert!(error.is_ambiguous(), "{error:?}");
    let error = failed(unsent).await;
    assert!(exhausted(&error), "{error:?}");
    match soon(subscribing).await.unwrap() {
        Err(SubscribeError::Request(error)) => assert!(exhausted(&error), "{error:?}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(seen.next().await, ".");
    comes_to_be(&client, ConnectionStatus::Abandoned).await;
    // It stays so.
    let [late] = notifying(&client, [b"3".to_vec()]);
    assert!(exhausted(&failed(late).await));
    let late = soon(client.subscribe_exact("c")).await.unwrap_err();
    assert!(matches!(late, SubscribeError::Request(error) if exhausted(&error)));
    soon(client.close()).await.unwrap();
}

#[tokio::test]
async fn closing_finishes_what_is_under_way_and_says_goodbye() {
    let door = Door::open().await;
    let client = door
        .client_with(|options| options.close_timeout = Duration::from_secs(3_600))
        .await;
    let mut peer = door.peer().await;
    let mut seen = Seen::by(subscribed(&client, &mut peer, [exact("a")]).await);
    let [notifying] = notifying(&client, [b"x".to_vec()]);
    let notified = peer.notified().await;
    let closing = meanwhile({
        let client = client.clone();
        async move { client.close().await }
    });
    peer.acknowledge(notified, b"x", 1).await;
    assert_eq!(reached(notifying).await, 1);
    let (wanted, ticket) = peer.interest().await;
    assert_eq!(wanted, "-a");
    // What waited for the client comes before the answer.
    peer.deliver("a", "late").await;
    peer.confirm(ticket).await;
    peer.delivered().await;
    match peer.next().await {
        Asked::Closed(code) => assert_eq!(code, Some(1000)),
        other => panic!("{other:?}"),
    }
    drop(peer);
    soon(closing).await.unwrap().unwrap();
    assert_eq!(seen.next().await, "!");
    assert_eq!(seen.next().await, "late");
    assert_eq!(seen.next().await, ".");
    assert_eq!(client.status(), ConnectionStatus::Abandoned);
    let error = soon(client.notify("t", "x")).await.unwrap_err();
    assert!(matches!(error, NotifyError::Closed));
}

#[tokio::test]
async fn closing_waits_for_no_answer_longer_than_said() {
    let door = Door::open().await;
    let client = door
        .client_with(|options| options.close_timeout = Duration::from_millis(200))
        .await;
    let [notifying] = notifying(&client, [b"x".to_vec()]);
    let mut peer = door.peer().await;
    let _never_acknowledged = peer.notified().await;
    let closing = meanwhile({
        let client = client.clone();
        async move { client.close().await }
    });
    let error = failed(notifying).await;
    assert!(error.is_ambiguous(), "{error:?}");
    soon(closing).await.unwrap().unwrap();
    assert_eq!(peer.closed().await, Some(1000));
}

#[tokio::test]
async fn closing_waits_for_no_connection_longer_than_said() {
    let door = Door::open().await;
    let client = door
        .client_with(|options| {
            options.open_timeout = Duration::from_secs(3_600);
            options.close_timeout = Duration::from_millis(200);
        })
        .await;
    let [notifying] = notifying(&client, [b"x".to_vec()]);
    let _never_answered = door.connection().await;
    soon(client.close()).await.unwrap();
    let error = failed(notifying).await;
    assert!(exhausted(&error), "{error:?}");
}

#[tokio::test]
async fn closing_does_not_wait_for_what_it_ends_anyway() {
    let door = Door::open().await;
    let client = door
        .client_with(|options| {
            options.open_timeout = Duration::MAX;
            options.close_timeout = Duration::MAX;
            options.heartbeat_interval = Duration::MAX;
        })
        .await;
    let mut peer = door.peer().await;
    let subscription = subscribed(&client, &mut peer, [exact("a")]).await;
    drop(peer);
    // Nobody answers any more.
    let _connection = door.connection().await;
    let unsubscribing = meanwhile(subscription.close());
    tokio::task::yield_now().await;
    let subscribing = meanwhile({
        let client = client.clone();
        async move { client.subscribe_exact("b").await }
    });
    tokio::task::yield_now().await;
    soon(client.close()).await.unwrap();
    match soon(unsubscribing).await.unwrap() {
        Ok(()) | Err(UnsubscribeError::Closed) => {}
        other => panic!("{other:?}"),
    }
    assert!(soon(subscribing).await.unwrap().is_err());
}

#[tokio::test]
async fn more_than_may_wait_fails_at_once() {
    let door = Door::open().await;
    let client = door
        .client_with(|options| options.unsent_notifications_max = NonZeroUsize::new(1))
        .await;
    let [first, second] = notifying(&client, [b"1".to_vec(), b"2".to_vec()]);
    let error = failed(second).await;
    assert!(matches!(error, RequestError::TooMany { .. }), "{error:?}");
    let mut peer = door.peer().await;
    let notified = peer.notified().await;
    peer.acknowledge(notified, b"1", 1).await;
    assert_eq!(reached(first).await, 1);
}

#[tokio::test]
async fn no_more_is_sent_than_may_be_unacknowledged() {
    let door = Door::open().await;
    let client = door
        .client_with(|options| options.expected_acknowledgements_max = NonZeroUsize::new(1))
        .await;
    let mut peer = door.peer().await;
    let mut seen = Seen::by(subscribed(&client, &mut peer, [exact("a"), exact("b")]).await);
    assert_eq!(seen.next().await, "!");
    let [first, second] = notifying(&client, [b"1".to_vec(), b"2".to_vec()]);
    let notified = peer.notified().await;
    // Were there a second one, it would have been sent before this is acknowledged.
    peer.deliver("a", "x").await;
    peer.delivered().await;
    peer.acknowledge(notified, b"1", 1).await;
    assert_eq!(reached(first).await, 1);
    let notified = peer.notified().await;
    peer.acknowledge(notified, b"2", 2).await;
    assert_eq!(reached(second).await, 2);
    drop(peer);
    let mut peer = door.peer().await;
    let (_, a) = peer.interest().await;
    peer.deliver("a", "y").await;
    peer.delivered().await;
    peer.confirm(a).await;
    peer.confirm_each(["+b"]).await;
}

#[tokio::test]
async fn what_nobody_waits_for_any_more_is_not_sent() {
    let door = Door::open().await;
    let client = door.client().await;
    let mut dropped = Box::pin(client.notify("t", "dropped"));
    assert!(poll!(dropped.as_mut()).is_pending());
    drop(dropped);
    let [kept] = notifying(&client, [b"kept".to_vec()]);
    let mut peer = door.peer().await;
    let notified = peer.notified().await;
    assert_eq!(notified.wire, b"kept");
    peer.acknowledge(notified, b"kept", 0).await;
    assert_eq!(reached(kept).await, 0);
}

#[tokio::test]
async fn whoever_notifies_may_watch_it_go() {
    let door = Door::open().await;
    let client = door
        .client_with(|options| options.message_bytes_max = 1_024)
        .await;
    let message = vec![0; 100_000];
    let notifying = meanwhile({
        let message = message.clone();
        async move {
            let mut told = Vec::new();
            let progress = |sent, all| told.push((sent, all));
            let notified = client.notify_with_progress("t", message, progress).await;
            (notified.unwrap().subscribers, told)
        }
    });
    let mut peer = door.peer().await;
    let notified = peer.notified().await;
    peer.acknowledge(notified, &message, 1).await;
    let (subscribers, told) = soon(notifying).await.unwrap();
    assert_eq!(subscribers, 1);
    assert_eq!(told.last(), Some(&(100_000, 100_000)));
    assert!(told.is_sorted());
}
