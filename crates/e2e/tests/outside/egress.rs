//! Faults of names, addresses and urls.
//!
//! | fault | test |
//! |---|---|
//! | dead-names | crates/net/src/egress/names.rs | dead_names_hold_up_no_other_and_are_asked_for_once |
//! | dead-address | crates/net/src/egress/dial.rs | dead_address_is_passed_while_it_is_still_being_tried |
//! | dns-changed | dns_changed_is_noticed_as_connections_grow_old |
//! | own-url | own_url_is_subscribed_and_unsubscribed_by_its_broadcaster_alone |
//! | copies | copies_of_stored_spellings_reach_no_websocket |
//! | who-subscribed | who_subscribed_is_told_to_nobody_without_the_secret |
//! | topic-display | crates/proto/src/topic.rs | topic_display_is_the_text_itself_and_debug_is_for_logs |

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use httppubsub_client::{Client, ClientConfig, WebSocketConfig};
use httppubsub_e2e::{Home, Metrics, PATIENCE, Server, exact, url};
use httppubsub_net::outbound::{Post, PostConfig, Poster};
use httppubsub_proto::auth::Secrets;
use httppubsub_proto::paths::{MISSED_FOR_WEBSOCKETS, RECEIVE_FOR_WEBSOCKETS};
use httppubsub_proto::subscription::{Subscription, SubscriptionSet};
use httppubsub_proto::topic::Topic;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const MESSAGE: &[u8] = b"a message";

/// Nobody listens there.
const NOWHERE: &str = "http://127.0.0.1:9/";

/// Answers everything with 200, and counts connections.
async fn counting() -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut request = [0; 4_096];
                while stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                    stream.write_all(answer).await.unwrap();
                }
            });
        }
    });
    (address, connections)
}

#[tokio::test]
async fn dns_changed_is_noticed_as_connections_grow_old() {
    let usual = PostConfig::default();
    assert_eq!(usual.connection_age_max, Duration::from_secs(300));
    let (address, connections) = counting().await;
    let url = url(&format!("http://{address}/"));
    let post = async |poster: &Poster| {
        let target = poster.target(&url).unwrap();
        let make = || {
            Ok(Post {
                authorization: None,
                repr_digest: None,
                headers: Vec::new(),
                head: Bytes::from_static(MESSAGE),
                payload: None,
            })
        };
        assert_eq!(poster.post(&target, 0, make).await.unwrap().status, 200);
    };
    // Steady traffic: a connection is never idle for long.
    let poster = Poster::new({
        let mut post = usual.clone();
        post.connection_age_max = Duration::from_millis(50);
        post
    });
    let kept = poster.target(&url).unwrap();
    let renewed = async {
        while connections.load(Ordering::SeqCst) < 3 {
            post(&poster).await;
        }
    };
    tokio::time::timeout(PATIENCE, renewed).await.unwrap();
    drop((poster, kept));
    let before = connections.load(Ordering::SeqCst);
    let poster = Poster::new(usual);
    let _kept = poster.target(&url).unwrap();
    for _ in 0..100 {
        post(&poster).await;
    }
    assert_eq!(connections.load(Ordering::SeqCst), before + 1);
}

async fn over_websocket(server: &Server) -> Client {
    let config = ClientConfig::builder([format!("http://{}", server.door.address)])
        .secrets(&Secrets::NONE)
        .websocket(WebSocketConfig::default());
    Client::start(config.build().unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn own_url_is_subscribed_and_unsubscribed_by_its_broadcaster_alone() {
    let home = Home::with(&Secrets::NONE);
    let server = home.serve(&[]);
    let door = &server.door;
    let client = over_websocket(&server).await;
    let mut subscription = client.subscribe_exact("t").await.unwrap();
    let port = door.address.port();
    let nothing = SubscriptionSet::default();
    let something: SubscriptionSet = [(exact("t"), None)].into_iter().collect();
    for own in [
        format!("http://127.0.0.1:{port}{RECEIVE_FOR_WEBSOCKETS}"),
        format!("http://127.0.0.1:{port}{RECEIVE_FOR_WEBSOCKETS}#1"),
        format!("HTTP://LOCALHOST.:{port}/v1/%72eceive_for_websockets"),
        format!("http://[::1]:{port}/v1/../v1/receive_for_websockets?x"),
        format!("http://elsewhere.example/pubsub{MISSED_FOR_WEBSOCKETS}"),
    ] {
        let own = url(&own);
        let signer = &door.signer;
        let (interest, recovery) = (exact("t"), None);
        let as_url = Subscription {
            url: own.clone(),
            interest,
            recovery,
        };
        let as_recovery = Subscription {
            url: url(NOWHERE),
            interest: exact("t"),
            recovery: Some(own.clone()),
        };
        for asked in [
            signer.set(&own, &nothing),
            signer.set(&own, &something),
            signer.unsubscribe(&own, &exact("t")),
            signer.subscribe(&as_url),
            signer.subscribe(&as_recovery),
        ] {
            let response = door.ask(&asked);
            assert_eq!(
                response.status,
                403,
                "{} {}: {}",
                own.as_str(),
                asked.path,
                response.text()
            );
        }
    }
    assert_eq!(door.notify("t", MESSAGE), 1);
    let message = tokio::time::timeout(PATIENCE, subscription.next()).await;
    assert_eq!(message.unwrap().unwrap().bytes().await.unwrap(), MESSAGE);
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_of_stored_spellings_reach_no_websocket() {
    let home = Home::with(&Secrets::NONE);
    let (server, metrics) = Metrics::serve(&home, &[]);
    let door = &server.door;
    let client = over_websocket(&server).await;
    let mut subscription = client.subscribe_exact("t").await.unwrap();
    let base = format!("http://{}", door.address);
    // As they were taken before, or as another program may store them.
    let stored = [
        (format!("{base}{RECEIVE_FOR_WEBSOCKETS}#1"), None),
        (format!("{base}{RECEIVE_FOR_WEBSOCKETS}#2"), None),
        (
            format!("HTTP://{}{RECEIVE_FOR_WEBSOCKETS}", door.address),
            None,
        ),
        // All websockets would have been told that they missed something.
        (
            NOWHERE.to_owned(),
            Some(format!("{base}{MISSED_FOR_WEBSOCKETS}")),
        ),
    ];
    let home = tokio::task::spawn_blocking(move || {
        for (url, recovery) in stored {
            home.store(&url, exact("t"), recovery.as_deref());
        }
        home
    });
    let home = home.await.unwrap();
    assert_eq!(door.notify("t", b"first"), 1);
    assert_eq!(door.notify("t", b"last"), 1);
    for want in ["first", "last"] {
        let message = tokio::time::timeout(PATIENCE, subscription.next()).await;
        assert_eq!(message.unwrap().unwrap().bytes().await.unwrap(), want);
    }
    assert_eq!(
        (metrics.deliveries("dropped"), metrics.deliveries("missed")),
        (2, 0)
    );
    server
        .process
        .log_line("a stored subscription is passed over");
    assert!(home.rows().iter().all(|row| !row.is_owed_a_notice));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_subscribed_is_told_to_nobody_without_the_secret() {
    let home = Home::new();
    let secrets = std::fs::read_to_string(home.path().join("secrets.json")).unwrap();
    let server = home.serve(&[]);
    let door = &server.door;
    let config = ClientConfig::builder([format!("http://{}", door.address)])
        .secrets(&Secrets::parse(&secrets).unwrap())
        .websocket(WebSocketConfig::default());
    let client = Client::start(config.build().unwrap()).await.unwrap();
    let _subscription = client.subscribe_exact("subscribed").await.unwrap();
    let base = format!("http://{}", door.address);
    let answers = |topic: &str| {
        let topic = Topic::new(topic).unwrap();
        let signer = &door.signer;
        let receive = signer.receive_for_websockets(
            &format!("{base}{RECEIVE_FOR_WEBSOCKETS}"),
            &topic,
            MESSAGE,
        );
        let missed =
            signer.missed_for_websockets(&format!("{base}{MISSED_FOR_WEBSOCKETS}"), &topic);
        let of_another = Home::new().signer().receive_for_websockets(
            &format!("{base}{RECEIVE_FOR_WEBSOCKETS}"),
            &topic,
            MESSAGE,
        );
        let unsigned = [&receive, &missed].map(|it| it.with_authorization(None));
        let asked = unsigned.into_iter().chain([of_another]);
        let answers = asked.map(|asked| {
            let response = door.ask(&asked);
            (response.status, response.body)
        });
        (answers.collect::<Vec<_>>(), door.ask(&receive).status)
    };
    let (of_subscribed, with_secret) = answers("subscribed");
    let (of_others, of_others_with_secret) = answers("nobody/wants/this");
    assert_eq!(of_subscribed, of_others);
    assert_eq!((with_secret, of_others_with_secret), (200, 400));
}
