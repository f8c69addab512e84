//! What a peer may do on a websocket over a real connection, and what comes of it.

use std::time::Duration;

use bytes::Bytes;
use httppubsub_net::body::Payload;
use httppubsub_net::websocket::{
    ConnectError, Socket, SocketConfig, SocketError, SocketEvent, accept_key,
};
use httppubsub_proto::session::{Outgoing, OutgoingBody};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

const PATIENCE: Duration = Duration::from_secs(180);

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("bound");
    (listener, format!("ws://{address}/below/v1/websocket"))
}

/// Reads up to the end of a head.
async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a head"));
    }
    String::from_utf8(head).expect("a head is ASCII")
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
    let found = lines.find(|(it, _)| it.eq_ignore_ascii_case(name))?;
    Some(found.1)
}

/// The server's end of the next connection, which it trusts, and the head of its request.
async fn accept(listener: &TcpListener, config: SocketConfig) -> (Socket, String) {
    let (mut stream, _) = listener.accept().await.expect("a connection");
    stream.set_nodelay(true).expect("TCP can");
    let head = read_head(&mut stream).await;
    let key = header(&head, "sec-websocket-key").expect("a key");
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
         sec-websocket-accept: {}\r\n\r\n",
        accept_key(key.as_bytes())
    );
    let sent = stream.write_all(answer.as_bytes()).await;
    sent.expect("the client reads");
    let mut socket = Socket::accepted(stream, config).await;
    socket.trust();
    (socket, head)
}

/// A server's end and a client's.
async fn pair(server: SocketConfig, client: SocketConfig) -> (Socket, Socket) {
    let (listener, url) = listen().await;
    let connecting = Socket::connect(&url, PATIENCE, client);
    let ((server, _), client) = tokio::join!(accept(&listener, server), connecting);
    (server, client.expect("it is accepted"))
}

/// A server's end, and a client that is no websocket but writes and reads its bytes.
async fn raw_pair(server: SocketConfig) -> (Socket, TcpStream) {
    let (listener, _) = listen().await;
    let address = listener.local_addr().expect("bound");
    let connecting = async {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        let request = b"GET / HTTP/1.1\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(request).await.expect("it reads");
        let head = read_head(&mut stream).await;
        let accept = header(&head, "sec-websocket-accept");
        assert_eq!(accept, Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "RFC 6455");
        stream
    };
    let ((server, _), stream) = tokio::join!(accept(&listener, server), connecting);
    (server, stream)
}

/// A frame as clients send it, with a mask that changes nothing.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        short @ ..126 => frame.push(0x80 | short as u8),
        long => {
            frame.push(0x80 | 127);
            frame.extend((long as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

const FINAL: u8 = 0x80;
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const PING: u8 = 9;

fn part(body: &Payload) -> Outgoing<Payload> {
    Outgoing {
        head: Bytes::from_static(b"head"),
        body: OutgoingBody::Part {
            of: body.clone(),
            range: 0..body.len(),
        },
    }
}

async fn next(socket: &mut Socket) -> Result<Bytes, SocketError> {
    loop {
        match socket.event().await? {
            SocketEvent::Message(message) => return Ok(message),
            SocketEvent::Writable => {}
            SocketEvent::Closed(code) => panic!("closed with {code:?}"),
        }
    }
}

#[tokio::test]
async fn both_ends_may_send_64_mib_to_each_other_at_once() {
    let longest = 16 << 20;
    let mut config = SocketConfig::default();
    config.message_bytes_max = longest + 4;
    let (server, client) = pair(config.clone(), config).await;
    let body = Payload::from_bytes(vec![7; longest]);
    let mut ends = Vec::new();
    for mut socket in [server, client] {
        let body = body.clone();
        ends.push(tokio::spawn(async move {
            let (mut to_send, mut got) = (4, 0);
            while to_send > 0 || got < 4 {
                if to_send > 0 && socket.is_writable() {
                    socket.send(part(&body)).await.unwrap();
                    assert!(!socket.is_writable());
                    to_send -= 1;
                }
                match socket.event().await.unwrap() {
                    SocketEvent::Message(message) => {
                        assert_eq!(message.len(), 4 + longest);
                        assert!(message.starts_with(b"head\x07") && message.ends_with(b"\x07"));
                        got += 1;
                    }
                    SocketEvent::Writable => assert!(socket.is_writable()),
                    SocketEvent::Closed(code) => panic!("closed with {code:?}"),
                }
            }
            // What is still waiting is sent while closing.
            socket.close(1000, PATIENCE).await;
        }));
    }
    for end in ends {
        end.await.unwrap();
    }
}

#[tokio::test]
async fn who_sends_too_much_is_told_so_however_much_it_is() {
    let mut config = SocketConfig::default();
    config.message_bytes_max = 100_000;
    // In many frames, and more than fits into the buffers on the way.
    let body = Payload::from_bytes(vec![7; 20 << 20]);
    let (mut server, mut client) = pair(config.clone(), SocketConfig::default()).await;
    client.send(part(&body)).await.unwrap();
    let refusing = tokio::spawn(async move {
        let error = next(&mut server).await.unwrap_err();
        assert!(matches!(error, SocketError::TooLong { max: 100_000 }));
        server.close(error.close_code().unwrap(), PATIENCE).await;
    });
    let closed = client.event().await.unwrap();
    assert!(
        matches!(closed, SocketEvent::Closed(Some(1009))),
        "{closed:?}"
    );
    drop(client);
    refusing.await.unwrap();

    // In one frame, whose length alone is too much.
    let (mut server, mut client) = raw_pair(config).await;
    let refusing = tokio::spawn(async move {
        let error = next(&mut server).await.unwrap_err();
        assert!(matches!(error, SocketError::TooLong { max: 100_000 }));
        server.close(error.close_code().unwrap(), PATIENCE).await;
    });
    let message = frame(FINAL | BINARY, &vec![7; 20 << 20]);
    client.write_all(&message).await.unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"\x88\x02\x03\xf1");
    drop(client);
    refusing.await.unwrap();
}

#[tokio::test]
async fn fragments_are_joined_and_pings_between_them_are_answered() {
    let mut config = SocketConfig::default();
    config.message_bytes_max = 100_000;
    let (mut server, mut client) = raw_pair(config).await;
    let long = vec![7; 50_000];
    let frames = [
        frame(BINARY, b"he"),
        frame(CONTINUATION, b""),
        frame(FINAL | PING, b"?"),
        frame(CONTINUATION, &long),
        frame(FINAL | CONTINUATION, b"llo"),
        frame(FINAL | BINARY, b""),
    ];
    client.write_all(&frames.concat()).await.unwrap();
    let joined = [b"he", &long[..], b"llo"].concat();
    assert_eq!(next(&mut server).await.unwrap(), joined);
    assert_eq!(next(&mut server).await.unwrap(), "");
    let mut answer = [0; 3];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"\x8a\x01?");

    let half = frame(CONTINUATION, &long);
    let frames = [frame(BINARY, &long), half, frame(CONTINUATION, b"!")];
    client.write_all(&frames.concat()).await.unwrap();
    let error = next(&mut server).await.unwrap_err();
    assert!(matches!(error, SocketError::TooLong { max: 100_000 }));
}

#[tokio::test]
async fn a_text_is_refused_with_its_code() {
    for text in [&b"text"[..], b"not UTF-8: \xff"] {
        let (mut server, mut client) = raw_pair(SocketConfig::default()).await;
        let refusing = tokio::spawn(async move {
            let error = next(&mut server).await.unwrap_err();
            assert!(matches!(error, SocketError::Text), "{error}");
            server.close(error.close_code().unwrap(), PATIENCE).await;
        });
        // What comes after it changes nothing.
        let frames = [frame(FINAL | TEXT, text), frame(FINAL | TEXT, text)].concat();
        client.write_all(&frames).await.unwrap();
        let mut close = [0; 4];
        client.read_exact(&mut close).await.unwrap();
        assert_eq!(close, *b"\x88\x02\x03\xeb");
        drop(client);
        refusing.await.unwrap();
    }
}

#[tokio::test]
async fn a_message_keeps_no_memory_but_its_own() {
    let (mut server, mut client) = raw_pair(SocketConfig::default()).await;
    let sizes = [10, 4_096, 16_384, 16_385, 32_000, 64_000, 125_000, 250_000];
    for bytes in sizes
        .into_iter()
        .chain([10, 1 << 20, 100_000, 4_097, 1 << 20])
    {
        let frames = [
            frame(FINAL | BINARY, &vec![7; bytes]),
            frame(FINAL | BINARY, b"more"),
        ];
        let frames = frames.concat();
        let sending = async {
            client.write_all(&frames).await.unwrap();
            std::future::pending().await
        };
        let received = async { (next(&mut server).await, next(&mut server).await) };
        let (long, more) = tokio::select! {
            received = received => received,
            () = sending => unreachable!(),
        };
        let (long, more) = (long.unwrap(), more.unwrap());
        assert_eq!((long.len(), &more[..]), (bytes, &b"more"[..]));
        // One turn, in which nothing happens.
        tokio::select! {
            biased;
            event = server.event() => panic!("{event:?}"),
            () = std::future::ready(()) => {}
        }
        if !(4_097..=16_384).contains(&bytes) {
            assert!(long.is_unique(), "{bytes}");
        }
        assert!(more.is_unique(), "{bytes}");
    }
}

#[tokio::test]
async fn a_client_asks_for_the_path_and_for_no_extension() {
    let (listener, url) = listen().await;
    let connecting = Socket::connect(&url, PATIENCE, SocketConfig::default());
    let accepting = accept(&listener, SocketConfig::default());
    let ((_, head), connected) = tokio::join!(accepting, connecting);
    connected.unwrap();
    assert!(head.starts_with("GET /below/v1/websocket HTTP/1.1\r\n"));
    let address = listener.local_addr().unwrap().to_string();
    assert_eq!(header(&head, "host"), Some(&address[..]));
    assert_eq!(header(&head, "sec-websocket-version"), Some("13"));
    assert_eq!(header(&head, "sec-websocket-extensions"), None);
    assert_eq!(header(&head, "sec-websocket-protocol"), None);
    // However it is spelled.
    let url = url.replace("ws://", "WS://");
    let connecting = Socket::connect(&url, PATIENCE, SocketConfig::default());
    let accepting = accept(&listener, SocketConfig::default());
    let ((_, again), connected) = tokio::join!(accepting, connecting);
    connected.unwrap();
    assert_eq!(header(&again, "host"), header(&head, "host"));
}

#[tokio::test]
async fn an_answer_that_is_no_websocket_is_told_with_its_status() {
    let (listener, url) = listen().await;
    let answering = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await;
        let answer = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        stream
    };
    let connecting = Socket::connect(&url, PATIENCE, SocketConfig::default());
    let (_, connected) = tokio::join!(answering, connecting);
    let error = connected.unwrap_err();
    assert!(matches!(error, ConnectError::Refused(_)), "{error}");
    assert_eq!(
        error.to_string(),
        "the websocket handshake failed: the answer is 503 Service Unavailable"
    );
}

#[tokio::test]
async fn a_peer_that_is_not_there_and_one_that_speaks_no_tls_are_told_apart() {
    let (listener, url) = listen().await;
    let url = url.replace("ws://", "wss://");
    let answering = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad\r\n\r\n").await.unwrap();
        stream
    };
    let connecting = Socket::connect(&url, PATIENCE, SocketConfig::default());
    let (_, connected) = tokio::join!(answering, connecting);
    let error = connected.unwrap_err();
    assert!(matches!(error, ConnectError::Connect(_)), "{error}");
    // A port that is bound belongs to nobody else, and one that is not listened on refuses.
    let nobody = TcpSocket::new_v4().unwrap();
    nobody.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("ws://{}/", nobody.local_addr().unwrap());
    let error = Socket::connect(&url, PATIENCE, SocketConfig::default()).await;
    let error = error.unwrap_err();
    let ConnectError::Connect(source) = error else {
        panic!("{error}")
    };
    assert_eq!(source.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_answers_no_handshake_is_given_up() {
    let (listener, url) = listen().await;
    let connecting = Socket::connect(&url, PATIENCE, SocketConfig::default());
    let error = connecting.await.unwrap_err();
    assert!(matches!(error, ConnectError::TooLate(PATIENCE)), "{error}");
    drop(listener);
}
