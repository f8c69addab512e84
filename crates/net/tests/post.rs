//! What a peer may do to a post, and what comes of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use httppubsub_net::{Answer, Payload, Post, PostConfig, PostError, Poster};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A peer that does `serve` with every connection, which it numbers from 0.
async fn peer<F>(
    serve: impl Fn(usize, TcpStream) -> F + Send + 'static,
) -> (String, Arc<AtomicUsize>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let url = format!("http://{}/hook", listener.local_addr().expect("bound"));
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(counted.fetch_add(1, Ordering::SeqCst), stream));
        }
    });
    (url, connections)
}

/// Reads a request with a short body, to its end; `false` when the connection was closed.
async fn read_request(stream: &mut TcpStream) -> bool {
    let mut request = Vec::new();
    loop {
        let mut part = [0; 4096];
        match stream.read(&mut part).await {
            Ok(0) | Err(_) => return false,
            Ok(bytes) => request.extend_from_slice(&part[..bytes]),
        }
        if request.ends_with(BODY) {
            return true;
        }
    }
}

const BODY: &[u8] = b"[the body]";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

async fn answer(stream: &mut TcpStream, bytes: &[u8]) {
    // A peer that is gone already is what some of the tests are about.
    let _ = stream.write_all(bytes).await;
}

async fn answer_all(mut stream: TcpStream, bytes: &'static [u8]) {
    while read_request(&mut stream).await {
        answer(&mut stream, bytes).await;
    }
}

fn small() -> Post {
    Post {
        authorization: None,
        repr_digest: None,
        head: Bytes::from_static(BODY),
        payload: None,
    }
}

async fn post(poster: &Poster, url: &str) -> Result<Answer, PostError> {
    let target = poster.target_str(url).expect("a url");
    poster.post(&target, 0, || Ok(small())).await
}

fn quick() -> PostConfig {
    PostConfig {
        answer_timeout: Duration::from_millis(300),
        stall_timeout: Duration::from_millis(100),
        ..PostConfig::default()
    }
}

#[tokio::test]
async fn one_connection_serves_one_post_after_the_other() {
    let (url, connections) = peer(|_, stream| answer_all(stream, OK)).await;
    let poster = Poster::new(PostConfig::default());
    // Connections are kept for as long as somebody keeps the target.
    let _target = poster.target_str(&url).expect("a url");
    for _ in 0..5 {
        assert_eq!(post(&poster, &url).await.expect("answered").body, "ok");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_a_closed_connection_did_not_answer_is_made_anew_and_posted_once_more() {
    let (url, connections) = peer(|number, mut stream| async move {
        if read_request(&mut stream).await {
            answer(&mut stream, OK).await;
        }
        // The first one takes a second request and says nothing to it.
        if number == 0 {
            read_request(&mut stream).await;
        }
    })
    .await;
    let poster = Poster::new(PostConfig::default());
    let target = poster.target_str(&url).expect("a url");
    let mut made = 0;
    for _ in 0..2 {
        let make = || {
            made += 1;
            Ok(small())
        };
        let answer = poster.post(&target, 0, make).await.expect("answered");
        assert_eq!(answer.body, "ok");
    }
    assert_eq!((made, connections.load(Ordering::SeqCst)), (3, 2));
}

#[tokio::test]
async fn a_fresh_connection_that_breaks_off_is_not_tried_again() {
    let (url, connections) = peer(|_, mut stream| async move {
        read_request(&mut stream).await;
    })
    .await;
    let error = post(&Poster::new(PostConfig::default()), &url)
        .await
        .expect_err("broken off");
    assert!(
        matches!(error, PostError::Broken { .. }) && !error.nothing_sent(),
        "{error}"
    );
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn redirects_are_answers_like_any_other() {
    const MOVED: &[u8] =
        b"HTTP/1.1 307 Moved\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
    let (url, connections) = peer(|_, stream| answer_all(stream, MOVED)).await;
    let answer = post(&Poster::new(PostConfig::default()), &url)
        .await
        .expect("answered");
    assert_eq!(
        (answer.status.as_u16(), connections.load(Ordering::SeqCst)),
        (307, 1)
    );
}

#[tokio::test]
async fn an_endless_answer_is_cut_where_it_is_long_enough() {
    let (url, connections) = peer(|_, mut stream| async move {
        read_request(&mut stream).await;
        answer(
            &mut stream,
            b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n",
        )
        .await;
        while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
    })
    .await;
    let poster = Poster::new(PostConfig {
        answer_bytes_max: 10_000,
        ..PostConfig::default()
    });
    let _target = poster.target_str(&url).expect("a url");
    for number in 1..3 {
        let answer = post(&poster, &url).await.expect("answered");
        assert_eq!(
            (answer.body.len(), connections.load(Ordering::SeqCst)),
            (10_000, number)
        );
    }
}

#[tokio::test]
async fn a_peer_that_never_answers_costs_no_more_than_the_deadline() {
    let (url, _) = peer(|_, stream| async move {
        let _kept = stream;
        std::future::pending().await
    })
    .await;
    let error = post(&Poster::new(quick()), &url)
        .await
        .expect_err("no answer");
    assert!(
        matches!(error, PostError::Timeout { .. }) && !error.nothing_sent(),
        "{error}"
    );
}

#[tokio::test]
async fn a_peer_that_drips_its_answer_costs_no_more_than_the_deadline() {
    let (url, _) = peer(|_, mut stream| async move {
        read_request(&mut stream).await;
        let mut drips = tokio::time::interval(Duration::from_millis(20));
        for byte in std::iter::repeat(b"x: y\r\n").flatten() {
            drips.tick().await;
            if stream.write_all(&[*byte]).await.is_err() {
                return;
            }
        }
    })
    .await;
    assert!(post(&Poster::new(quick()), &url).await.is_err());
}

#[tokio::test]
async fn a_peer_that_takes_nothing_is_given_up_before_the_deadline() {
    let (url, _) = peer(|_, stream| async move {
        let _kept = stream;
        std::future::pending().await
    })
    .await;
    let config = PostConfig {
        answer_timeout: Duration::from_secs(600),
        ..quick()
    };
    let poster = Poster::new(config);
    let payload = Payload::from_bytes(vec![0; 64 * 1024 * 1024]);
    let target = poster.target_str(&url).expect("a url");
    let make = || {
        Ok(Post {
            payload: Some(payload.clone()),
            ..small()
        })
    };
    let error = poster
        .post(&target, payload.len(), make)
        .await
        .expect_err("stalled");
    assert!(matches!(error, PostError::Stalled { .. }), "{error}");
}

#[tokio::test]
async fn who_answers_before_taking_all_is_not_waited_for_by_the_next() {
    let (url, connections) = peer(|_, mut stream| async move {
        let mut some = [0; 100];
        let _ = stream.read(&mut some).await;
        answer(&mut stream, OK).await;
        let _kept = stream;
        std::future::pending().await
    })
    .await;
    let poster = Poster::new(PostConfig::default());
    let payload = Payload::from_bytes(vec![0; 64 * 1024 * 1024]);
    let target = poster.target_str(&url).expect("a url");
    for number in 1..3 {
        let make = || {
            Ok(Post {
                payload: Some(payload.clone()),
                ..small()
            })
        };
        let answer = poster
            .post(&target, payload.len(), make)
            .await
            .expect("answered");
        assert_eq!(
            (&answer.body[..], connections.load(Ordering::SeqCst)),
            (&b"ok"[..], number)
        );
    }
}

#[tokio::test]
async fn nothing_was_sent_where_no_connection_was_made() {
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let url = format!("http://{}/", closed.local_addr().expect("bound"));
    drop(closed);
    let error = post(&Poster::new(PostConfig::default()), &url)
        .await
        .expect_err("refused");
    assert!(
        matches!(error, PostError::Connect { .. }) && error.nothing_sent(),
        "{error}"
    );
}

#[tokio::test]
async fn a_peer_has_its_own_turns_and_those_who_wait_are_bounded() {
    let (hanging, _) = peer(|_, stream| async move {
        let _kept = stream;
        std::future::pending().await
    })
    .await;
    let (other, _) = peer(|_, stream| answer_all(stream, OK)).await;
    let poster = Poster::new(PostConfig {
        in_flight_per_peer_max: 1,
        waiting_per_peer_max: 1,
        answer_timeout: Duration::from_secs(600),
        ..PostConfig::default()
    });
    let mut first = Box::pin(post(&poster, &hanging));
    let mut second = Box::pin(post(&poster, &hanging));
    assert!(futures_util::poll!(&mut first).is_pending());
    assert!(futures_util::poll!(&mut second).is_pending());
    let third = post(&poster, &hanging)
        .await
        .expect_err("nobody may wait any more");
    assert!(
        matches!(third, PostError::Busy { waiting: 1, .. }),
        "{third}"
    );
    assert!(post(&poster, &other).await.is_ok());
}

#[tokio::test]
async fn a_pinned_peer_is_reached_where_it_is_pinned() {
    let (url, _) = peer(|_, stream| answer_all(stream, OK)).await;
    let address = url["http://".len()..url.len() - "/hook".len()]
        .parse()
        .expect("an address");
    let pins = HashMap::from([(("no-such-host.invalid".to_owned(), 80), address)]);
    let poster = Poster::new(PostConfig {
        pins,
        ..PostConfig::default()
    });
    assert!(post(&poster, "http://no-such-host.invalid/").await.is_ok());
}

#[test]
fn a_large_message_is_given_the_time_it_takes() {
    let config = PostConfig::default();
    assert_eq!(config.timeout(100), Duration::from_secs(30));
    // 5 GiB at 20 MB/s take some 270 s (F2).
    let bytes: u64 = 5 * 1024 * 1024 * 1024;
    assert!(config.timeout(bytes) > Duration::from_secs(bytes / 20_000_000));
    assert_eq!(config.timeout(10 * 1024 * 1024), Duration::from_secs(40));
}
