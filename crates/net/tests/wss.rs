//! Websockets over TLS: only with those whose certificate is trusted for their name.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::print_stdout, reason = "so one process tells the other")]

use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use httppubsub_net::body::Payload;
use httppubsub_net::websocket::{ConnectError, Socket, SocketConfig, SocketEvent, accept_key};
use httppubsub_proto::session::{Outgoing, OutgoingBody};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const PATIENCE: Duration = Duration::from_secs(180);
const BODY: &[u8] = &[7; 1 << 20];

/// Where the client, which is another process since whom it trusts is said by its environment,
/// finds its url.
const URL: &str = "WSS_TEST_URL";

#[tokio::test]
async fn only_who_is_trusted_for_the_name_is_spoken_with() {
    if let Ok(url) = std::env::var(URL) {
        return client(&url).await;
    }
    let certificate = || rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]);
    let (ours, other) = (certificate().unwrap(), certificate().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let roots = |name: &str, certificate: &rcgen::Certificate| {
        let path = folder.path().join(name);
        std::fs::write(&path, certificate.pem()).unwrap();
        path
    };
    let (trusting, distrusting) = (roots("ours", &ours.cert), roots("other", &other.cert));
    let key = PrivateKeyDer::try_from(ours.signing_key.serialize_der()).unwrap();
    let config =
        ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![ours.cert.der().clone()], key)
            .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(serve(listener, TlsAcceptor::from(Arc::new(config))));
    for (host, roots, answer) in [
        ("localhost", &trusting, "it came back"),
        ("localhost", &distrusting, "not connected: cannot connect"),
        ("127.0.0.1", &trusting, "not connected: cannot connect"),
    ] {
        let mut client = Command::new(std::env::current_exe().unwrap());
        client
            .args(["--nocapture", "--test-threads", "1"])
            .env(URL, format!("wss://{host}:{port}/"))
            .env("SSL_CERT_FILE", roots)
            .env_remove("SSL_CERT_DIR");
        let output = tokio::task::spawn_blocking(move || client.output()).await;
        let Output { stdout, stderr, .. } = output.unwrap().unwrap();
        let (stdout, stderr) = (
            String::from_utf8_lossy(&stdout),
            String::from_utf8_lossy(&stderr),
        );
        assert!(stdout.contains(answer), "{host} {stdout} {stderr}");
    }
}

/// Sends every message back.
async fn serve(listener: TcpListener, acceptor: TlsAcceptor) {
    while let Ok((stream, _)) = listener.accept().await {
        // A client that does not trust the certificate breaks off, which is the point.
        let Ok(mut stream) = acceptor.accept(stream).await else {
            continue;
        };
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        let mut headers = head.lines().filter_map(|line| line.split_once(": "));
        let key = headers.find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"));
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
             sec-websocket-accept: {}\r\n\r\n",
            accept_key(key.unwrap().1.as_bytes())
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
        let mut socket = Socket::accepted(stream, SocketConfig::default()).await;
        socket.trust();
        while let Ok(event) = socket.event().await {
            match event {
                SocketEvent::Message(message) => socket.send(whole(message)).await.unwrap(),
                SocketEvent::Writable => {}
                SocketEvent::Closed(_) => break,
            }
        }
    }
}

fn whole(message: Bytes) -> Outgoing<Payload> {
    Outgoing {
        head: Bytes::new(),
        body: OutgoingBody::Bytes(message),
    }
}

/// Says what came of it.
async fn client(url: &str) {
    let mut socket = match Socket::connect(url, PATIENCE, SocketConfig::default()).await {
        Ok(socket) => socket,
        Err(error @ ConnectError::Connect(_)) => return println!("not connected: {error}"),
        Err(error) => panic!("{error}"),
    };
    socket.send(whole(Bytes::from_static(BODY))).await.unwrap();
    loop {
        match socket.event().await.unwrap() {
            SocketEvent::Message(message) => {
                assert_eq!(message, BODY);
                break;
            }
            SocketEvent::Writable => {}
            SocketEvent::Closed(code) => panic!("closed with {code:?}"),
        }
    }
    socket.close(1000, PATIENCE).await;
    println!("it came back");
}
