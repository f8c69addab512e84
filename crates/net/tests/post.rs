//! What a peer may do to a post, and what comes of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use httppubsub_net::body::Payload;
use httppubsub_net::outbound::{
    BreakerConfig, PeerSignal, Post, PostConfig, PostError, Poster, Probe, Response, Target,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Notify;

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
        headers: Vec::new(),
        head: Bytes::from_static(BODY),
        payload: None,
    }
}

fn copy(post: &Post) -> Post {
    Post {
        authorization: post.authorization.clone(),
        repr_digest: post.repr_digest.clone(),
        headers: post.headers.clone(),
        head: post.head.clone(),
        payload: post.payload.clone(),
    }
}

async fn post(poster: &Poster, url: &str) -> Result<Response, PostError> {
    let target = poster.target_str(url).expect("a url");
    poster.post(&target, 0, || Ok(small())).await
}

fn quick() -> PostConfig {
    {
        let mut post = PostConfig::default();
        post.answer_timeout = Duration::from_millis(300);
        post.stall_timeout = Duration::from_millis(100);
        post
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

/// Posts twice to a peer that closes the connection `after` it has read the second request, for
/// which the connection was idle for `idle`; says what came of it, how often the request was made,
/// and how often it was sent again.
async fn close_after_reading(
    idle: Duration,
    after: Duration,
    second: &Post,
) -> (Result<Response, PostError>, usize, u64) {
    // The time stands still, unless it is advanced, while something blocks.
    let (goes_on, blocked) = std::sync::mpsc::channel::<()>();
    let blocking = tokio::task::spawn_blocking(move || blocked.recv());
    let (read, close) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (has_read, may_close) = (read.clone(), close.clone());
    let (url, _) = peer(move |number, mut stream| {
        let (read, close) = (has_read.clone(), may_close.clone());
        async move {
            if read_request(&mut stream).await {
                answer(&mut stream, OK).await;
            }
            if number == 0 {
                read_request(&mut stream).await;
                read.notify_one();
                close.notified().await;
            }
        }
    })
    .await;
    let poster = Poster::new(PostConfig::default());
    let target = poster.target_str(&url).expect("a url");
    let first = poster.post(&target, 0, || Ok(small())).await;
    first.expect("answered");
    tokio::time::advance(idle).await;
    let mut made = 0;
    let make = || {
        made += 1;
        Ok(copy(second))
    };
    let closing = async {
        read.notified().await;
        tokio::time::advance(after).await;
        close.notify_one();
    };
    let (answer, ()) = tokio::join!(poster.post(&target, 0, make), closing);
    drop(goes_on);
    let _ = blocking.await;
    (answer, made, poster.load().sent_again)
}

#[tokio::test(start_paused = true)]
async fn resend_only_where_the_peer_closed_before_it_can_have_read() {
    let ms = Duration::from_millis;
    let (answer, made, sent_again) = close_after_reading(ms(1_500), ms(10), &small()).await;
    assert_eq!(answer.expect("answered by the next").body, "ok");
    assert_eq!((made, sent_again), (2, 1), "a race that is a peer's right");
    let empty = Payload::from_file(tempfile::tempfile().expect("a file"), 0).await;
    let of_an_empty_file = Post {
        payload: Some(empty.expect("read")),
        ..small()
    };
    for (idle, after, second) in [
        (ms(900), ms(10), small()),
        (ms(1_500), ms(100), small()),
        (ms(0), ms(0), small()),
        (ms(0), ms(0), of_an_empty_file),
    ] {
        let (answer, made, sent_again) = close_after_reading(idle, after, &second).await;
        let error = answer.expect_err("it may have been read");
        assert!(!error.is_incomplete() && !error.nothing_sent(), "{error}");
        assert_eq!((made, sent_again), (1, 0), "idle {idle:?}, after {after:?}");
    }
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

/// What a peer says to two posts, and what of it comes back each time; whether over one connection.
async fn says(said: &'static [u8], status: u16, body: &str, is_kept: bool) {
    let (url, connections) = peer(move |_, mut stream| async move {
        while read_request(&mut stream).await {
            // However it is cut.
            for byte in said {
                if stream.write_all(&[*byte]).await.is_err() {
                    return;
                }
            }
            if !is_kept {
                return;
            }
        }
    })
    .await;
    let poster = Poster::new(PostConfig::default());
    let _target = poster.target_str(&url).expect("a url");
    let shown = String::from_utf8_lossy(said);
    for _ in 0..2 {
        let answer = post(&poster, &url).await.expect(&shown);
        assert_eq!(
            (answer.status.as_u16(), &answer.body[..]),
            (status, body.as_bytes()),
            "{shown}"
        );
    }
    let connections = connections.load(Ordering::SeqCst);
    assert_eq!(connections, if is_kept { 1 } else { 2 }, "{shown}");
}

#[tokio::test]
async fn an_answer_ends_where_http_says() {
    for (said, status, body, is_kept) in [
        (OK, 200, "ok", true),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            200,
            "",
            true,
        ),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, "", true),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok",
            200,
            "ok",
            true,
        ),
        (
            b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
            200,
            "ok",
            false,
        ),
        (
            b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
            200,
            "ok",
            false,
        ),
        (
            b"HTTP/1.0 200 OK\r\nconnection: Keep-Alive\r\ncontent-length: 2\r\n\r\nok",
            200,
            "ok",
            true,
        ),
        (
            b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
            200,
            "until the end",
            false,
        ),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nraw",
            200,
            "raw",
            false,
        ),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3;a=b\r\nabc\r\nA\r\n\
             0123456789\r\n0\r\n\r\n",
            200,
            "abc0123456789",
            true,
        ),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n2\r\nok\r\n0\r\nx-trailer: \
             1\r\n\r\n",
            200,
            "ok",
            true,
        ),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\ntransfer-encoding: chunked\r\n\r\n2\r\n\
             ok\r\n0\r\n\r\n",
            200,
            "ok",
            false,
        ),
        (
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\na: b\r\n\r\nHTTP/1.1 200 OK\r\n\
              content-length: 2\r\n\r\nok",
            200,
            "ok",
            true,
        ),
        (
            b"HTTP/1.1 413 No\r\ncontent-length: 2\r\n\r\nno",
            413,
            "no",
            true,
        ),
    ] as [(&'static [u8], u16, &str, bool); 14]
    {
        says(said, status, body, is_kept).await;
    }
}

#[tokio::test]
async fn what_is_no_answer_is_told_as_such_and_tried_once() {
    for said in [
        &b"SMTP ready\r\n\r\n"[..],
        b"HTTP/2.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 99 Low\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 101 Switching\r\nupgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: two\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2,2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok!",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nokay\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n",
        b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
        b"HTTP/1.1 200",
        b"",
    ] {
        let (url, connections) = peer(move |_, mut stream| async move {
            read_request(&mut stream).await;
            answer(&mut stream, said).await;
        })
        .await;
        let error = post(&Poster::new(PostConfig::default()), &url).await;
        let shown = String::from_utf8_lossy(said);
        let error = error.expect_err(&shown);
        assert!(
            matches!(error, PostError::Broken { .. }),
            "{shown}: {error}"
        );
        assert_eq!(connections.load(Ordering::SeqCst), 1, "{shown}");
    }
    // A head without end is not read to its end.
    let (url, _) = peer(|_, mut stream| async move {
        read_request(&mut stream).await;
        answer(&mut stream, b"HTTP/1.1 200 OK\r\n").await;
        while stream.write_all(b"x: y\r\n").await.is_ok() {}
    })
    .await;
    let error = post(&Poster::new(PostConfig::default()), &url).await;
    assert!(matches!(error, Err(PostError::Broken { .. })));
}

#[tokio::test]
async fn a_connection_with_something_unasked_on_it_is_not_used_again() {
    const TWICE: &[u8] =
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\
         \r\nno";
    let (url, connections) = peer(|_, mut stream| async move {
        read_request(&mut stream).await;
        answer(&mut stream, TWICE).await;
        std::future::pending().await
    })
    .await;
    let poster = Poster::new(PostConfig::default());
    let _target = poster.target_str(&url).expect("a url");
    for number in 1..4 {
        assert_eq!(post(&poster, &url).await.expect("answered").body, "ok");
        assert_eq!(connections.load(Ordering::SeqCst), number);
    }
}

#[tokio::test]
async fn nothing_but_we_ends_a_header() {
    let poster = Poster::new(PostConfig::default());
    let (url, connections) = peer(|_, stream| answer_all(stream, OK)).await;
    let target = poster.target_str(&url).expect("a url");
    let make = || {
        Ok(Post {
            authorization: Some("Bearer a\r\nx: y".to_owned()),
            ..small()
        })
    };
    let error = poster.post(&target, 0, make).await.expect_err("refused");
    assert!(matches!(error, PostError::Malformed { .. }) && error.nothing_sent());
    assert!(connections.load(Ordering::SeqCst) <= 1);
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
    let poster = Poster::new({
        let mut post = PostConfig::default();
        post.answer_bytes_max = 10_000;
        post
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
    let mut config = quick();
    config.answer_timeout = Duration::from_secs(600);
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
async fn a_message_that_cannot_be_read_ends_the_exchange_and_not_the_patience() {
    let (url, _) = peer(|_, mut stream| async move {
        let mut some = [0; 4096];
        while stream.read(&mut some).await.is_ok_and(|read| read > 0) {}
    })
    .await;
    let poster = Poster::new({
        let mut post = PostConfig::default();
        post.answer_timeout = Duration::from_secs(3_600);
        post.stall_timeout = Duration::from_secs(3_600);
        post
    });
    let file = tempfile::tempfile().expect("a file");
    file.set_len(2_000_000).expect("room");
    let same = file.try_clone().expect("another handle");
    let payload = Payload::from_file(file, 0).await.expect("a payload");
    same.set_len(1_000_000).expect("shorter");
    let target = poster.target_str(&url).expect("a url");
    let make = || {
        Ok(Post {
            payload: Some(payload.clone()),
            ..small()
        })
    };
    let posting = poster.post(&target, payload.len(), make);
    let posted = tokio::time::timeout(Duration::from_secs(180), posting).await;
    let error = posted.expect("it does not wait for the peer");
    assert!(matches!(error, Err(PostError::Broken { .. })), "{error:?}");
}

#[tokio::test]
async fn nothing_was_sent_where_no_connection_was_made() {
    // Bound and not listening, it refuses, and no other test is given it.
    let closed = TcpSocket::new_v4().expect("a socket");
    let address = "127.0.0.1:0".parse().expect("an address");
    closed.bind(address).expect("loopback");
    let url = format!("http://{}/", closed.local_addr().expect("bound"));
    let error = post(&Poster::new(PostConfig::default()), &url)
        .await
        .expect_err("refused");
    assert!(
        matches!(error, PostError::Connect { .. }) && error.nothing_sent(),
        "{error}"
    );
}

#[tokio::test]
async fn nothing_was_sent_where_the_time_was_over_before_there_was_a_connection() {
    // Connected to, and silent while TLS is to begin.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let url = format!("https://{}/", silent.local_addr().expect("bound"));
    let mut config = quick();
    config.connect_timeout = Duration::from_secs(60);
    let error = post(&Poster::new(config), &url).await.expect_err("late");
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
    let poster = Poster::new({
        let mut post = PostConfig::default();
        post.in_flight_per_peer_max = 1;
        post.waiting_per_peer_max = 1;
        post.answer_timeout = Duration::from_secs(600);
        post
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
async fn a_peer_with_too_much_to_do_gets_half_as_much_at_once_and_more_again_as_it_answers() {
    let (url, _) = peer(|_, stream| async move {
        let _kept = stream;
        std::future::pending().await
    })
    .await;
    let poster = Poster::new({
        let mut post = PostConfig::default();
        post.in_flight_per_peer_max = 4;
        post.breaker = Some(BreakerConfig::default());
        post
    });
    let target = poster.target_str(&url).expect("it is a url");
    let admit = || poster.admit(&target, 0, || Probe::Message);
    // How many of ten that nobody answers are under way at once.
    let at_once = async || {
        let mut ten: Vec<_> = (0..10).map(|_| Box::pin(post(&poster, &url))).collect();
        for posting in &mut ten {
            assert!(futures_util::poll!(posting).is_pending());
        }
        10 - poster.load().waiting
    };
    let learn = |told| poster.record(&target, &admit().expect("it is tried"), told);
    assert_eq!(at_once().await, 4);
    learn(PeerSignal::TooMuch);
    assert_eq!(at_once().await, 2);
    learn(PeerSignal::TooMuch);
    assert_eq!(at_once().await, 1);
    learn(PeerSignal::Confirmed);
    assert_eq!(at_once().await, 2);
    learn(PeerSignal::Confirmed);
    learn(PeerSignal::Confirmed);
    assert_eq!(at_once().await, 3);
}

#[tokio::test(start_paused = true)]
async fn neighbours_of_a_url_that_fails_are_delivered_to() {
    let poster = Poster::new({
        let mut post = PostConfig::default();
        post.breaker = Some({
            let mut breaker = BreakerConfig::default();
            breaker.pause = Duration::from_secs(60);
            breaker.pause_max = Duration::from_secs(60);
            breaker
        });
        post
    });
    let target = |path| {
        let target = poster.target_str(&format!("http://127.0.0.1:9/{path}"));
        target.expect("it is a url")
    };
    let (good, other) = (&target("good"), &target("other"));
    let admit = |target: &Target| poster.admit(target, 0, || Probe::Message);
    let learn = async |target: &Target, told, times: usize| {
        for _ in 0..times {
            if let Ok(admitted) = admit(target) {
                poster.record(target, &admitted, told);
            }
            tokio::time::advance(Duration::from_millis(400)).await;
        }
    };
    learn(good, PeerSignal::Confirmed, 1).await;
    // Urls that never worked say nothing of others, however quiet those are.
    for (told, bad) in [
        (PeerSignal::NotConfirmed, ["missing", "wrong"]),
        (PeerSignal::TooMuch, ["hangs", "fails"]),
    ] {
        for bad in bad.map(target) {
            learn(&bad, told, 10).await;
            assert!(admit(&bad).is_err() && admit(good).is_ok(), "{told:?}");
        }
    }
    assert_eq!(poster.load().open_breakers, 4);
    let bad = &target("worked");
    for target in [bad, other] {
        learn(target, PeerSignal::Confirmed, 1).await;
    }
    // These have worked: a single one may be broken, several are not by chance.
    learn(bad, PeerSignal::TooMuch, 10).await;
    assert!(admit(bad).is_err() && admit(good).is_ok());
    learn(other, PeerSignal::TooMuch, 5).await;
    assert!(admit(good).is_err(), "it is the origin");
    tokio::time::advance(Duration::from_secs(120)).await;
    learn(good, PeerSignal::Confirmed, 1).await;
    assert!(admit(good).is_ok());
    learn(good, PeerSignal::Unreachable, 5).await;
    assert!(admit(other).is_err(), "no connection, whatever the url");
}

#[tokio::test]
async fn a_pinned_peer_is_reached_where_it_is_pinned() {
    let (url, _) = peer(|_, stream| answer_all(stream, OK)).await;
    let address = url["http://".len()..url.len() - "/hook".len()]
        .parse()
        .expect("an address");
    let pins = HashMap::from([(("no-such-host.invalid".to_owned(), 80), address)]);
    let poster = Poster::new({
        let mut post = PostConfig::default();
        post.pins = pins;
        post
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

#[tokio::test]
async fn a_peer_that_failed_is_in_doubt_until_it_confirms() {
    let mut config = PostConfig::default();
    config.breaker = Some(BreakerConfig::default());
    let poster = Poster::new(config);
    let target = poster.target_str("http://127.0.0.1:9/one").unwrap();
    let neighbour = poster.target_str("http://127.0.0.1:9/other").unwrap();
    assert!(!target.is_in_doubt());
    for signal in [
        PeerSignal::NotConfirmed,
        PeerSignal::TooMuch,
        PeerSignal::NotConfirmed,
    ] {
        let admitted = poster.admit(&target, 0, || Probe::Message).unwrap();
        poster.record(&target, &admitted, signal);
        assert!(
            target.is_in_doubt() && neighbour.is_in_doubt(),
            "{signal:?}"
        );
    }
    let admitted = poster.admit(&target, 0, || Probe::Message).unwrap();
    poster.record(&target, &admitted, PeerSignal::Confirmed);
    assert!(!target.is_in_doubt() && !neighbour.is_in_doubt());
}
