//! Which connections are opened and closed, and what is told of them.

use std::sync::Arc;
use std::time::Duration;

use httppubsub_client::{BroadcasterAddress, ClientConfig, ConnectionStatus, EndReason};
use httppubsub_net::websocket::SocketEvent;
use httppubsub_proto::auth::{HmacAuthorization, NoAuthorization};
use httppubsub_proto::session::BroadcasterConfig;

use crate::script::{
    Asked, Door, Seen, closed, comes_to_be, exact, glob, meanwhile, send, soon, start, subscribed,
};

#[tokio::test]
async fn after_a_cut_everything_is_subscribed_again_topics_before_globs() {
    let door = Door::open().await;
    let client = door.client().await;
    let mut peer = door.peer().await;
    let interests = [glob("a*"), exact("b"), exact("c"), exact("gone")];
    let subscription = subscribed(&client, &mut peer, interests).await;
    let removing = meanwhile({
        let interests = subscription.interests();
        async move { interests.remove(&exact("gone")).await }
    });
    peer.confirm_each(["-gone"]).await;
    soon(removing).await.unwrap().unwrap();
    let mut seen = Seen::by(subscription);
    assert_eq!(seen.next().await, "!");
    peer.deliver("b", "1").await;
    assert_eq!(seen.next().await, "1");
    drop(peer);
    let mut peer = door.peer().await;
    peer.confirm_each(["+b", "+c", "+a*"]).await;
    assert_eq!(seen.next().await, "?");
    peer.deliver("abc", "2").await;
    assert_eq!(seen.next().await, "2");
    comes_to_be(&client, ConnectionStatus::Ok).await;
}

#[tokio::test]
async fn what_was_asked_for_when_the_connection_was_lost_is_asked_for_again() {
    let door = Door::open().await;
    let client = door.client().await;
    let mut peer = door.peer().await;
    let subscription = subscribed(&client, &mut peer, [exact("a"), exact("b")]).await;
    let subscribing = meanwhile({
        let client = client.clone();
        async move { client.subscribe_exact("c").await }
    });
    let (name, _never_confirmed) = peer.interest().await;
    assert_eq!(name, "+c");
    drop(peer);
    let mut peer = door.peer().await;
    peer.confirm_each(["+a", "+b", "+c"]).await;
    let _c = soon(subscribing).await.unwrap().unwrap();
    // What was asked to be ended ends with the connection.
    let closing = meanwhile(subscription.close());
    assert!(["-a", "-b"].contains(&&*peer.interest().await.0));
    assert!(["-a", "-b"].contains(&&*peer.interest().await.0));
    drop(peer);
    soon(closing).await.unwrap().unwrap();
    let mut peer = door.peer().await;
    peer.confirm_each(["+c"]).await;
    comes_to_be(&client, ConnectionStatus::Ok).await;
}

#[tokio::test]
async fn the_status_is_ok_while_nothing_waits_to_be_confirmed() {
    use ConnectionStatus::{Abandoned, Lost, Ok};
    let door = Door::open().await;
    let client = door.client().await;
    let mut statuses = client.statuses();
    assert_eq!(soon(statuses.next()).await, Some(Lost));
    let mut peer = door.peer().await;
    assert_eq!(soon(statuses.next()).await, Some(Ok));
    let subscribing = meanwhile({
        let client = client.clone();
        async move { client.subscribe_exact("a").await.unwrap() }
    });
    assert_eq!(soon(statuses.next()).await, Some(Lost));
    peer.confirm_each(["+a"]).await;
    assert_eq!(soon(statuses.next()).await, Some(Ok));
    let subscription = soon(subscribing).await.unwrap();
    drop(peer);
    assert_eq!(soon(statuses.next()).await, Some(Lost));
    let failure = client.connection_failure().unwrap();
    assert!(failure.starts_with("http://127.0.0.1:"), "{failure}");
    let mut peer = door.peer().await;
    let (name, ticket) = peer.interest().await;
    assert_eq!(name, "+a");
    // It is open, and not yet subscribed to what it should be.
    assert_eq!(client.status(), Lost);
    peer.confirm(ticket).await;
    assert_eq!(soon(statuses.next()).await, Some(Ok));
    assert_eq!(client.connection_failure(), None);
    let closing = meanwhile(subscription.close());
    assert_eq!(soon(statuses.next()).await, Some(Lost));
    peer.confirm_each(["-a"]).await;
    soon(closing).await.unwrap().unwrap();
    assert_eq!(soon(statuses.next()).await, Some(Ok));
    drop((door, peer));
    assert!(soon(statuses.wait_for(Abandoned)).await);
    assert_eq!(soon(statuses.next()).await, None);
}

#[tokio::test]
async fn a_subscription_tells_a_websocket_that_was_given_up_from_a_client_that_was_closed() {
    for gives_up in [true, false] {
        let door = Door::open().await;
        let client = door.client().await;
        let mut peer = door.peer().await;
        let mut subscription = subscribed(&client, &mut peer, [exact("a")]).await;
        assert_eq!(subscription.end_reason(), None);
        let want = match gives_up {
            true => {
                drop((door, peer));
                EndReason::Abandoned
            }
            false => {
                soon(client.close()).await.unwrap();
                EndReason::Closed
            }
        };
        assert!(soon(subscription.next()).await.is_none());
        assert_eq!(subscription.end_reason(), Some(want));
    }
}

#[tokio::test]
async fn missed_is_told_at_once() {
    let door = Door::open().await;
    let client = door.client().await;
    let mut peer = door.peer().await;
    let mut seen = Seen::by(subscribed(&client, &mut peer, [exact("a")]).await);
    let mut other = Seen::by(subscribed(&client, &mut peer, [exact("b")]).await);
    assert_eq!(seen.next().await, "!");
    assert_eq!(other.next().await, "!");
    peer.deliver("a", "1").await;
    peer.delivered().await;
    assert_eq!(seen.next().await, "1");
    peer.missed("a").await;
    assert_eq!(seen.next().await, "?");
    // All count as interrupted.
    assert_eq!(other.next().await, "?");
    // Also while something else waits to be confirmed.
    let subscribing = meanwhile({
        let client = client.clone();
        async move { client.subscribe_exact("c").await.unwrap() }
    });
    let (_, ticket) = peer.interest().await;
    peer.missed("a").await;
    assert_eq!(seen.next().await, "?");
    peer.confirm(ticket).await;
    let _c = soon(subscribing).await.unwrap();
}

#[tokio::test]
async fn a_gap_is_not_told_before_everything_is_subscribed_again() {
    let door = Door::open().await;
    let client = door.client().await;
    let mut peer = door.peer().await;
    let subscription = subscribed(&client, &mut peer, [exact("a"), exact("b")]).await;
    let mut seen = Seen::by(subscription);
    assert_eq!(seen.next().await, "!");
    drop(peer);
    let mut peer = door.peer().await;
    let (_, a) = peer.interest().await;
    let (_, b) = peer.interest().await;
    peer.confirm(a).await;
    peer.missed("a").await;
    peer.deliver("a", "1").await;
    assert_eq!(seen.next().await, "1");
    // Whatever was on b until here was missed: what is read anew now is complete.
    peer.confirm(b).await;
    assert_eq!(seen.next().await, "?");
}

/// Two broadcasters, of which the first does not answer CONFIGURE and the second is cut off after
/// it did: whether the first is tried again then.
async fn is_the_first_tried_again(reconnect_interval_min: Duration) -> bool {
    let (first, second) = (Door::open().await, Door::open().await);
    let broadcasters = [
        BroadcasterAddress::new(second.url()).priority(2),
        BroadcasterAddress::new(first.url().replace("ws:", "http:")).priority(1),
    ];
    let client = start(ClientConfig::builder(broadcasters), |options| {
        options.reconnect_interval_min = reconnect_interval_min;
    })
    .await;
    drop(first.websocket().await);
    let peer = second.peer().await;
    comes_to_be(&client, ConnectionStatus::Ok).await;
    drop(peer);
    tokio::select! {
        _ = first.websocket() => true,
        () = comes_to_be(&client, ConnectionStatus::Abandoned) => false,
    }
}

#[tokio::test]
async fn a_connection_that_lasted_is_a_success_and_another_goes_on_with_the_pass() {
    assert!(is_the_first_tried_again(Duration::ZERO).await);
    assert!(!is_the_first_tried_again(Duration::from_secs(3_600)).await);
}

#[tokio::test]
async fn a_broadcaster_that_does_not_say_who_it_is_is_left() {
    let door = Door::open().await;
    let client = door
        .client_with(|options| options.open_timeout = Duration::from_millis(200))
        .await;
    let socket = door.websocket().await;
    assert_eq!(closed(socket).await, Some(1008));
    let error = soon(client.notify("t", "x")).await.unwrap_err();
    let why = "the peer sent no CONFIRM_CONFIGURE in time";
    assert!(error.to_string().ends_with(why), "{error}");
}

#[tokio::test]
async fn a_confirmation_that_was_overheard_opens_no_connection() {
    let scheme = Arc::new(HmacAuthorization::new(&[7; 64]));
    let door = Door::open().await;
    let config = ClientConfig::builder([door.url()]).to_subscriber(scheme.clone());
    let client = start(config, |_| {}).await;
    let peer = door
        .peer_with(BroadcasterConfig::new(Arc::new(NoAuthorization), scheme))
        .await;
    comes_to_be(&client, ConnectionStatus::Ok).await;
    let overheard = peer.confirm_configure();
    drop(peer);
    let mut socket = door.websocket().await;
    let configure = soon(socket.event()).await.unwrap();
    assert!(matches!(configure, SocketEvent::Message(_)));
    send(&mut socket, overheard).await;
    assert_eq!(closed(socket).await, Some(1008));
}

#[tokio::test]
async fn a_goodbye_is_a_loss_like_any_other() {
    let door = Door::open().await;
    let client = door.client().await;
    let mut peer = door.peer().await;
    let _subscription = subscribed(&client, &mut peer, [exact("a")]).await;
    peer.close(1012).await;
    let mut peer = door.peer().await;
    peer.confirm_each(["+a"]).await;
    let closing = meanwhile(async move { client.close().await });
    peer.confirm_each(["-a"]).await;
    match peer.next().await {
        Asked::Closed(code) => assert_eq!(code, Some(1000)),
        other => panic!("{other:?}"),
    }
    drop(peer);
    soon(closing).await.unwrap().unwrap();
}
