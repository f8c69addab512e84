//! What becomes of an interest that a broadcaster refuses by closing the websocket, as published
//! ones do, which close with 1000 for everything.

use httppubsub_client::{RequestError, SubscribeError};

use crate::script::{Asked, Door, Peer, Seen, exact, glob, meanwhile, soon, subscribed};

/// Confirms what is asked for until it is `refused`, and closes then. Returns what was confirmed.
async fn confirm_until(mut peer: Peer, refused: &str) -> Vec<String> {
    let mut confirmed = Vec::new();
    loop {
        let (name, ticket) = peer.interest().await;
        if name == refused {
            peer.close(1000).await;
            return confirmed;
        }
        peer.confirm(ticket).await;
        confirmed.push(name);
    }
}

#[tokio::test]
async fn glob_refused_fails_that_call_and_everything_else_stays() {
    let door = Door::open().await;
    let client = door
        .client_with(|options| options.connect_retries = u32::MAX)
        .await;
    let mut peer = door.peer().await;
    let mut seen = Seen::by(subscribed(&client, &mut peer, [exact("a")]).await);
    assert_eq!(seen.next().await, "!");
    let [refused, beside] = [
        vec![exact("c"), glob("bad*")],
        vec![exact("d"), glob("good*")],
    ]
    .map(|interests| {
        let client = client.clone();
        // Tasks of this test's one thread begin in the order they were spawned in.
        meanwhile(async move { client.subscribe(interests).await })
    });
    assert_eq!(confirm_until(peer, "+bad*").await, ["+c"]);
    // Now one at a time, or the close would not tell which of the two globs is not wanted.
    let confirmed = confirm_until(door.peer().await, "+bad*").await;
    assert_eq!(confirmed, ["+a", "+c", "+d"]);
    match soon(refused).await.unwrap() {
        Err(SubscribeError::Request(RequestError::Refused { reason, .. })) => {
            assert!(reason.contains("code 1000"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    let mut peer = door.peer().await;
    // What the call wanted beside it is taken back.
    peer.confirm_each(["+a", "+c", "+d", "+good*", "-c"]).await;
    let _beside = soon(beside).await.unwrap().unwrap();
    assert_eq!(seen.next().await, "?");
    peer.deliver("a", "still here").await;
    peer.delivered().await;
    assert_eq!(seen.next().await, "still here");
    // The same may be asked for again, and ends no connection when it is confirmed.
    let again = meanwhile(async move { client.subscribe([glob("bad*")]).await });
    peer.confirm_each(["+bad*"]).await;
    let _again = soon(again).await.unwrap().unwrap();
}

#[tokio::test]
async fn glob_refused_that_was_confirmed_before_ends_its_subscriptions_and_no_others() {
    let door = Door::open().await;
    let client = door
        .client_with(|options| options.connect_retries = u32::MAX)
        .await;
    let mut peer = door.peer().await;
    let mut seen = Seen::by(subscribed(&client, &mut peer, [exact("a")]).await);
    let mut ended = Seen::by(subscribed(&client, &mut peer, [glob("g*")]).await);
    assert_eq!(seen.next().await, "!");
    assert_eq!(ended.next().await, "!");
    // Another broadcaster, say, with another limit.
    drop(peer);
    // The first close only tells that something is refused; and a broadcaster whose database is
    // away closes as well, so that one more does not end what was subscribed before.
    for _ in 0..4 {
        assert_eq!(confirm_until(door.peer().await, "+g*").await, ["+a"]);
    }
    let mut peer = door.peer().await;
    peer.confirm_each(["+a"]).await;
    assert_eq!(ended.next().await, ".");
    assert_eq!(seen.next().await, "?");
    peer.deliver("a", "still here").await;
    peer.delivered().await;
    assert_eq!(seen.next().await, "still here");
    // What the dropped subscription wanted is not there to be ended.
    let closing = meanwhile(async move { client.close().await });
    peer.confirm_each(["-a"]).await;
    match peer.next().await {
        Asked::Closed(code) => assert_eq!(code, Some(1000)),
        other => panic!("{other:?}"),
    }
    drop(peer);
    soon(closing).await.unwrap().unwrap();
}

#[tokio::test]
async fn glob_refused_or_not_answered_holds_up_no_other_call() {
    let door = Door::open().await;
    let client = door.client().await;
    let mut peer = door.peer().await;
    let subscription = subscribed(&client, &mut peer, [exact("a")]).await;
    let slow = meanwhile({
        let client = client.clone();
        async move { client.subscribe([glob("slow*")]).await }
    });
    let (name, unanswered) = peer.interest().await;
    assert_eq!(name, "+slow*");
    // While that is not answered, others are asked.
    let other = meanwhile({
        let client = client.clone();
        async move { client.subscribe([exact("b")]).await }
    });
    let (name, b) = peer.interest().await;
    assert_eq!(name, "+b");
    let closing = meanwhile(subscription.close());
    let (name, a) = peer.interest().await;
    assert_eq!(name, "-a");
    for ticket in [unanswered, b, a] {
        peer.confirm(ticket).await;
    }
    let _slow = soon(slow).await.unwrap().unwrap();
    let _other = soon(other).await.unwrap().unwrap();
    soon(closing).await.unwrap().unwrap();
}
