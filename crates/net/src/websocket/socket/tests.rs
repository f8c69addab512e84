//! Tests of a websocket's bounds and deadlines, over connections in memory.

use super::*;
use crate::websocket::frames::IDLE_FRAMES_MAX;

/// A server's end, and a client's.
async fn pair(server: SocketConfig, client: SocketConfig, bytes: usize) -> (Socket, Socket) {
    let (one, other) = tokio::io::duplex(bytes);
    let mut accepted = Socket::accepted(one, server).await;
    accepted.trust();
    let stream = MeteredStream::connected(Box::new(other));
    let config = Some(settings(&client));
    let stream = WebSocketStream::from_raw_socket(stream, Role::Client, config).await;
    (accepted, Socket::new(stream, client))
}

fn small() -> SocketConfig {
    SocketConfig {
        message_bytes_max: 1_000,
        ..SocketConfig::default()
    }
}

fn message(head: impl Into<Bytes>) -> Outgoing<Payload> {
    Outgoing {
        head: head.into(),
        body: OutgoingBody::Empty,
    }
}

async fn next(socket: &mut Socket) -> Bytes {
    loop {
        match socket.event().await.unwrap() {
            SocketEvent::Message(message) => return message,
            SocketEvent::Writable => {}
            SocketEvent::Closed(code) => panic!("closed with {code:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn pings_keep_a_connection_that_says_nothing() {
    let config = SocketConfig::default();
    let (mut server, mut client) = pair(config.clone(), config, 1_024).await;
    tokio::select! {
        event = server.event() => panic!("{event:?}"),
        event = client.event() => panic!("{event:?}"),
        () = tokio::time::sleep(Duration::from_secs(3_600)) => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_answers_no_ping_is_given_up() {
    let (stream, silent) = tokio::io::duplex(1_024);
    let mut server = Socket::accepted(stream, SocketConfig::default()).await;
    let began = Instant::now();
    let error = server.event().await.unwrap_err();
    assert!(matches!(error, SocketError::Silent(_)), "{error}");
    assert_eq!(began.elapsed().as_secs(), 40);
    drop(silent);
}

#[tokio::test(start_paused = true)]
async fn a_socket_that_is_held_reads_nothing_sends_and_gives_nobody_up_for_being_silent() {
    let (config, hour) = (SocketConfig::default(), Duration::from_secs(3_600));
    let (mut server, mut client) = pair(config.clone(), config, 1_024).await;
    client.send(message("up")).await.unwrap();
    server.send(message("down")).await.unwrap();
    server.hold(true);
    let down = async {
        tokio::select! {
            event = server.event() => panic!("{event:?}"),
            message = next(&mut client) => message,
        }
    };
    assert_eq!(down.await, "down");
    let held = tokio::time::timeout(hour, server.event()).await;
    assert!(held.is_err(), "{held:?}");
    server.hold(false);
    assert_eq!(next(&mut server).await, "up");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_is_given_up() {
    let (stream, deaf) = tokio::io::duplex(1_024);
    let mut server = Socket::accepted(stream, SocketConfig::default()).await;
    server.send(message(vec![0; 10_000])).await.unwrap();
    let began = Instant::now();
    let error = server.event().await.unwrap_err();
    assert!(matches!(error, SocketError::NotReading(_)), "{error}");
    assert_eq!(began.elapsed().as_secs(), 15);
    drop(deaf);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_stops_reading_is_given_up_from_then_on() {
    use tokio::io::AsyncReadExt as _;
    let (stream, mut peer) = tokio::io::duplex(1_024);
    let mut server = Socket::accepted(stream, SocketConfig::default()).await;
    server.send(message(vec![0; 10_000])).await.unwrap();
    let began = Instant::now();
    let reading = async {
        tokio::time::sleep(Duration::from_secs(14)).await;
        peer.read_exact(&mut [0; 1_024]).await.unwrap();
        std::future::pending().await
    };
    let error = tokio::select! {
        event = server.event() => event.unwrap_err(),
        () = reading => unreachable!(),
    };
    assert!(matches!(error, SocketError::NotReading(_)), "{error}");
    assert_eq!(began.elapsed().as_secs(), 14 + 15);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_reads_slowly_gets_all_of_it() {
    use tokio::io::AsyncReadExt as _;
    let (stream, mut slow) = tokio::io::duplex(1_024);
    let mut server = Socket::accepted(stream, SocketConfig::default()).await;
    server.send(message(vec![0; 30_000])).await.unwrap();
    let reading = async {
        let mut read = 0;
        while read < 30_000 {
            tokio::time::sleep(Duration::from_secs(5)).await;
            let mut buffer = [0; 512];
            read += slow.read(&mut buffer).await.unwrap();
        }
    };
    tokio::select! {
        event = server.event() => panic!("{event:?}"),
        () = reading => {}
    }
}

#[tokio::test]
async fn what_is_longer_than_allowed_is_not_read() {
    let (mut server, mut client) = pair(small(), SocketConfig::default(), 65_536).await;
    client.send(message(vec![0; 1_000])).await.unwrap();
    let reading = async {
        tokio::select! {
            message = next(&mut server) => message,
            event = client.event() => panic!("{event:?}"),
        }
    };
    assert_eq!(reading.await.len(), 1_000);
    client.send(message(vec![0; 1_001])).await.unwrap();
    let refused = async {
        tokio::select! {
            event = server.event() => event,
            event = client.event() => panic!("{event:?}"),
        }
    };
    let error = refused.await.unwrap_err();
    assert!(
        matches!(error, SocketError::TooLong { max: 1_000 }),
        "{error}"
    );
    assert_eq!(error.close_code(), Some(1009));
}

#[tokio::test]
async fn a_peer_that_is_not_trusted_sends_no_more_than_64_kib() {
    let (one, other) = tokio::io::duplex(1 << 20);
    let config = SocketConfig::default();
    let mut server = Socket::accepted(one, config.clone()).await;
    let stream = MeteredStream::connected(Box::new(other));
    let settings = Some(settings(&config));
    let stream = WebSocketStream::from_raw_socket(stream, Role::Client, settings).await;
    let mut client = Socket::new(stream, config);
    for _ in 0..70 {
        client.send(message(vec![0; 1_000])).await.unwrap();
        // What fits is sent at once.
        tokio::select! {
            biased;
            event = client.event() => assert!(matches!(event, Ok(SocketEvent::Writable))),
            () = std::future::ready(()) => {}
        }
    }
    let mut messages = 0;
    let error = loop {
        match server.event().await {
            Ok(_) => messages += 1,
            Err(error) => break error,
        }
    };
    assert!(
        matches!(error, SocketError::TooLong { max: 65_536 }),
        "{error}"
    );
    assert!((60..=65).contains(&messages), "{messages}");
}

#[tokio::test(start_paused = true)]
async fn exactly_64_kib_are_read_of_a_peer_that_is_not_trusted() {
    use tokio::io::AsyncWriteExt as _;
    // A masked frame with its length in two bytes, that many times.
    let frame = [&[0x82, 0xfe, 0x07, 0xf8, 0, 0, 0, 0][..], &[7; 2_040]].concat();
    for more in [false, true] {
        let (stream, mut peer) = tokio::io::duplex(1 << 20);
        let mut server = Socket::accepted(stream, SocketConfig::default()).await;
        peer.write_all(&frame.repeat(32)).await.unwrap();
        if more {
            peer.write_all(&[0x82]).await.unwrap();
        }
        for _ in 0..32 {
            assert_eq!(next(&mut server).await, vec![7; 2_040]);
        }
        let error = server.event().await.unwrap_err();
        match more {
            true => assert!(matches!(error, SocketError::TooLong { max: 65_536 })),
            false => assert!(matches!(error, SocketError::Silent(_)), "{error}"),
        }
    }
}

/// A server's end, and a peer that writes frames by hand.
async fn by_hand(config: SocketConfig) -> (Socket, tokio::io::DuplexStream) {
    let (stream, peer) = tokio::io::duplex(64 * 1024);
    let mut server = Socket::accepted(stream, config).await;
    server.trust();
    (server, peer)
}

/// The error of a server that is sent `begins`, and then `goes_on` again and again.
async fn flooded(begins: &[u8], goes_on: &[u8]) -> SocketError {
    use tokio::io::AsyncWriteExt as _;
    let (mut server, mut peer) = by_hand(SocketConfig::default()).await;
    peer.write_all(begins).await.unwrap();
    let flooding = async {
        loop {
            peer.write_all(goes_on).await.unwrap();
        }
    };
    tokio::select! {
        biased;
        event = server.event() => event.unwrap_err(),
        () = flooding => unreachable!(),
    }
}

#[tokio::test(start_paused = true)]
async fn empty_frames_and_pings_without_end_end_the_websocket() {
    use tokio::io::AsyncWriteExt as _;
    // Masked with nothing: a message that begins and goes on with nothing; pings; pongs.
    for (begins, goes_on) in [
        (&b"\x02\x81\0\0\0\0x"[..], b"\x00\x80\0\0\0\0"),
        (b"", b"\x89\x80\0\0\0\0"),
        (b"", b"\x8a\x80\0\0\0\0"),
    ] {
        let ended = flooded(begins, goes_on).await;
        assert!(matches!(ended, SocketError::Idle), "{ended}");
    }
    // As many as ever are needed, at a time.
    let (mut server, mut peer) = by_hand(SocketConfig::default()).await;
    let pinging = async {
        for _ in 0..10 * IDLE_FRAMES_MAX {
            peer.write_all(b"\x8a\x80\0\0\0\0").await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::select! {
        event = server.event() => panic!("{event:?}"),
        () = pinging => {}
    }
}

#[tokio::test(start_paused = true)]
async fn an_empty_frame_that_ends_a_message_is_not_one_without_content() {
    use tokio::io::AsyncWriteExt as _;
    let (mut server, mut peer) = by_hand(SocketConfig::default()).await;
    let messages = b"\x02\x81\0\0\0\0x\x80\x80\0\0\0\0".repeat(2);
    for _ in 0..IDLE_FRAMES_MAX {
        peer.write_all(&messages).await.unwrap();
        assert_eq!(next(&mut server).await, "x");
        assert_eq!(next(&mut server).await, "x");
    }
}

fn spool(bytes: u64) -> Spool {
    Spool::new(crate::body::spool::SpoolConfig {
        memory_total_max: bytes,
        ..Default::default()
    })
}

/// The head of a frame that is all of a message of `bytes` bytes.
fn frame_head(bytes: u64) -> Vec<u8> {
    [&b"\x82\xff"[..], &bytes.to_be_bytes(), &[0; 4]].concat()
}

#[tokio::test(start_paused = true)]
async fn memory_beside_a_message_that_comes_is_taken_of_the_spool_and_waited_for() {
    use tokio::io::AsyncWriteExt as _;
    let mib = 1 << 20;
    let spool = spool(16 * mib);
    let (mut first, mut one) = by_hand(SocketConfig::default()).await;
    let (mut second, mut other) = by_hand(SocketConfig::default()).await;
    first.take_room_of(&spool);
    second.take_room_of(&spool);
    one.write_all(&frame_head(10 * mib)).await.unwrap();
    other.write_all(&frame_head(10 * mib)).await.unwrap();
    let a_moment = Duration::from_secs(1);
    assert!(tokio::time::timeout(a_moment, first.event()).await.is_err());
    assert_eq!(spool.memory_used(), 10 * mib);
    assert!(
        tokio::time::timeout(a_moment, second.event())
            .await
            .is_err()
    );
    assert_eq!(spool.memory_used(), 10 * mib);
    // The first is whole and taken: there is room.
    let body = vec![7; 10 << 20];
    let (message, _) = tokio::join!(next(&mut first), one.write_all(&body));
    assert_eq!((message.len(), spool.memory_used()), (10 << 20, 0));
    let (message, _) = tokio::join!(next(&mut second), other.write_all(&body));
    assert_eq!((message.len(), spool.memory_used()), (10 << 20, 0));
    // Nobody waits for ever.
    let _all = spool.reserve(16 * mib).unwrap();
    one.write_all(&frame_head(10 * mib)).await.unwrap();
    let error = first.event().await.unwrap_err();
    assert!(matches!(error, SocketError::NoRoom(_)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn memory_beside_a_message_in_short_frames_is_taken_as_they_come() {
    let spool = spool(64 << 20);
    let config = SocketConfig::default();
    let (mut server, mut client) = pair(config.clone(), config, 4_096).await;
    server.take_room_of(&spool);
    for bytes in [1_000_000, 100, 3_000_000] {
        client.send(message(vec![7; bytes])).await.unwrap();
        let received = async {
            tokio::select! {
                message = next(&mut server) => message,
                event = async { loop { client.event().await.unwrap(); } } => event,
            }
        };
        assert_eq!(received.await.len(), bytes);
        assert_eq!(spool.memory_used(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn memory_beside_a_message_that_its_party_can_never_have_is_not_waited_for() {
    use tokio::io::AsyncWriteExt as _;
    let mib = 1 << 20;
    let party = crate::party::Party::address([192, 0, 2, 1].into()).connection();
    let spool = spool(16 * mib).for_party(&party);
    let began = Instant::now();
    let (mut server, mut peer) = by_hand(SocketConfig::default()).await;
    server.take_room_of(&spool);
    peer.write_all(&frame_head(4 * mib + 1)).await.unwrap();
    let error = server.event().await.unwrap_err();
    assert!(
        matches!(error, SocketError::TooLong { max } if max == 4 << 20),
        "{error}"
    );
    // One that fits is taken, although twice what its first frame takes does not.
    let (mut server, mut peer) = by_hand(SocketConfig::default()).await;
    server.take_room_of(&spool);
    let frame = |first: u8, bytes: usize| {
        let head = [&[first, 0xff][..], &(bytes as u64).to_be_bytes(), &[0; 4]].concat();
        [head, vec![7; bytes]].concat()
    };
    let frames = [frame(0x02, 3 << 20), frame(0x80, 1 << 19)].concat();
    let (message, sent) = tokio::join!(next(&mut server), peer.write_all(&frames));
    sent.unwrap();
    assert_eq!(message.len(), (3 << 20) + (1 << 19));
    assert_eq!((began.elapsed().as_secs(), spool.memory_used()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_comes_after_a_socket_was_held_has_all_its_time() {
    use tokio::io::AsyncWriteExt as _;
    let spool = spool(64 << 20);
    let (mut server, mut peer) = by_hand(SocketConfig::default()).await;
    server.take_room_of(&spool);
    server.hold(true);
    server.hold(false);
    let seconds = Duration::from_secs;
    let silent = tokio::time::timeout(seconds(15), server.event()).await;
    assert!(silent.is_err(), "{silent:?}");
    peer.write_all(&frame_head(1 << 20)).await.unwrap();
    let comes = tokio::time::timeout(seconds(8), server.event()).await;
    assert!(comes.is_err(), "{comes:?}");
    let body = vec![7; 1 << 20];
    let (message, _) = tokio::join!(next(&mut server), peer.write_all(&body));
    assert_eq!(message.len(), 1 << 20);
}

#[tokio::test(start_paused = true)]
async fn a_message_waits_for_memory_no_longer_because_its_socket_is_held() {
    use tokio::io::AsyncWriteExt as _;
    let spool = spool(16 << 20);
    let (mut server, mut peer) = by_hand(SocketConfig::default()).await;
    server.take_room_of(&spool);
    let all = spool.reserve(16 << 20).unwrap();
    peer.write_all(&frame_head(1 << 20)).await.unwrap();
    let seconds = Duration::from_secs;
    let waits = tokio::time::timeout(seconds(5), server.event()).await;
    assert!(waits.is_err(), "{waits:?}");
    server.hold(true);
    let held = tokio::time::timeout(seconds(60), server.event()).await;
    assert!(held.is_err(), "{held:?}");
    server.hold(false);
    let waits = tokio::time::timeout(seconds(4), server.event()).await;
    assert!(waits.is_err(), "{waits:?}");
    drop(all);
    let body = vec![7; 1 << 20];
    let (message, _) = tokio::join!(next(&mut server), peer.write_all(&body));
    assert_eq!(message.len(), 1 << 20);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_does_not_go_on_is_given_up() {
    use tokio::io::AsyncWriteExt as _;
    let spool = spool(64 << 20);
    let (mut server, mut peer) = by_hand(SocketConfig::default()).await;
    server.take_room_of(&spool);
    peer.write_all(&frame_head(1 << 20)).await.unwrap();
    let dripping = async {
        loop {
            peer.write_all(b"x").await.unwrap();
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    };
    let error = tokio::select! {
        event = server.event() => event.unwrap_err(),
        () = dripping => unreachable!(),
    };
    assert!(matches!(error, SocketError::TooSlow { .. }), "{error}");
}

#[tokio::test]
async fn a_text_is_refused_and_a_close_is_told_with_its_code() {
    let config = SocketConfig::default();
    let (mut server, mut client) = pair(config.clone(), config.clone(), 1_024).await;
    client.push(Message::text("text")).unwrap();
    let event = async {
        tokio::select! {
            event = server.event() => event,
            event = client.event() => panic!("{event:?}"),
        }
    };
    let error = event.await.unwrap_err();
    assert!(matches!(error, SocketError::Text), "{error}");
    let (mut server, client) = pair(config.clone(), config, 1_024).await;
    let closing = client.close(1_001, Duration::from_secs(60));
    let closed = async {
        let event = server.event().await.unwrap();
        drop(server);
        event
    };
    let (event, ()) = tokio::join!(closed, closing);
    assert!(
        matches!(event, SocketEvent::Closed(Some(1_001))),
        "{event:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_socket_that_is_held_is_closed_when_its_peer_closes() {
    let config = SocketConfig::default();
    let (mut server, mut client) = pair(config.clone(), config, 1_024).await;
    server.hold(true);
    let began = Instant::now();
    let closed = async {
        let event = client.event().await.unwrap();
        drop(client);
        event
    };
    let closing = server.close(1_001, Duration::from_secs(60));
    let (event, ()) = tokio::join!(closed, closing);
    assert!(
        matches!(event, SocketEvent::Closed(Some(1_001))),
        "{event:?}"
    );
    assert_eq!(began.elapsed().as_secs(), 0);
}
