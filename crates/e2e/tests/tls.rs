//! Deliveries to `https` urls, and websockets over TLS: only with those whose certificate is
//! trusted for their name.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use httppubsub_broadcaster::Config;
use httppubsub_e2e::{InProcess, Process, http_answer, httppubsub};
use httppubsub_net::inbound::ServeConfig;
use httppubsub_proto::auth::Secrets;
use httppubsub_proto::stateless::{ConfirmReceive, ReceiveHead, UNSUBSCRIBE_IMMEDIATE};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tokio_rustls::TlsAcceptor;

/// What a subscriber says to a delivery that begins so.
type Answer = fn(ReceiveHead) -> Vec<u8>;

/// A subscriber that answers so over TLS, and the port it listens on.
fn subscriber(certificate: &rcgen::CertifiedKey<rcgen::KeyPair>, answer: Answer) -> u16 {
    let config = server_config(certificate);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = ServerConnection::new(config.clone()).unwrap();
            // A client that does not trust the certificate breaks off, which is the point.
            let _ = serve(StreamOwned::new(connection, stream.unwrap()), answer);
        }
    });
    port
}

fn server_config(certificate: &rcgen::CertifiedKey<rcgen::KeyPair>) -> Arc<ServerConfig> {
    let key = PrivateKeyDer::try_from(certificate.signing_key.serialize_der()).unwrap();
    let config =
        ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.cert.der().clone()], key)
            .unwrap();
    Arc::new(config)
}

fn serve(
    mut stream: StreamOwned<ServerConnection, std::net::TcpStream>,
    answer: Answer,
) -> std::io::Result<()> {
    let mut request = Vec::new();
    let mut part = [0; 4096];
    while !request.ends_with(MESSAGE.as_bytes()) {
        let bytes = stream.read(&mut part)?;
        if bytes == 0 {
            return Ok(());
        }
        request.extend_from_slice(&part[..bytes]);
    }
    let head = request.windows(4).position(|it| it == b"\r\n\r\n").unwrap() + 4;
    let (head, _) = ReceiveHead::decode(&request[head..]).unwrap();
    let answer = http_answer(200, "connection: close\r\n", &answer(head));
    stream.write_all(&answer)?;
    stream.flush()
}

fn confirm(head: ReceiveHead) -> Vec<u8> {
    let confirm = ConfirmReceive {
        authorization: None,
        tracing: Default::default(),
        identifier: head.identifier,
        subscribers: 1,
    };
    confirm.encode()
}

const MESSAGE: &str = "[the message]";

/// What a publisher is told, with the subscriber at `url` and a broadcaster that trusts `roots`.
fn notify(folder: &Path, roots: &Path, url: &str, flags: &[&str]) -> (String, String) {
    let secrets = folder.join("none.json");
    std::fs::write(&secrets, Secrets::NONE.to_text()).unwrap();
    let secrets = secrets.to_str().unwrap();
    let mut command = httppubsub();
    command.args([
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--db",
        "memory",
        "--secrets",
        secrets,
    ]);
    command
        .arg("--data")
        .arg(folder.join("data"))
        .env("SSL_CERT_FILE", roots)
        .args(flags);
    let broadcaster = Process::spawn("the broadcaster", command);
    let at = broadcaster.line().replace("listening on ", "");
    let ask = |arguments: &[&str]| {
        let output = httppubsub()
            .args(arguments)
            .args(["--broadcaster", &at])
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    ask(&["subscriptions", "add", "--url", url, "--exact", "t"]);
    let told = ask(&["notify", "t", "--data", MESSAGE]);
    (told, broadcaster.log())
}

#[test]
fn only_a_certificate_that_is_trusted_for_the_name_is_delivered_to() {
    let folder = tempfile::tempdir().unwrap();
    let certify = |name: &str| rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let (right, other) = (certify("localhost"), certify("localhost"));
    let wrong_name = certify("elsewhere.example");
    let pem = |name: &str, certificates: &[&rcgen::CertifiedKey<rcgen::KeyPair>]| {
        let path = folder.path().join(name);
        let pem: String = certificates.iter().map(|it| it.cert.pem()).collect();
        std::fs::write(&path, pem).unwrap();
        path
    };
    let roots = pem("roots.pem", &[&right, &wrong_name]);
    let url = |certificate| {
        format!(
            "https://localhost:{}/hook",
            subscriber(certificate, confirm)
        )
    };

    let (told, log) = notify(folder.path(), &roots, &url(&right), &[]);
    assert_eq!(told, "1 subscriber confirmed\n", "{log}");
    for certificate in [&other, &wrong_name] {
        let (told, log) = notify(folder.path(), &roots, &url(certificate), &[]);
        assert_eq!(told, "accepted; no subscriber confirmed\n");
        assert!(
            log.contains("a delivery failed") && log.contains("certificate"),
            "{log}"
        );
    }
}

/// T22: over TLS it is known who said so.
#[test]
fn who_says_over_tls_that_it_wants_a_subscription_no_more_is_believed_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let roots = folder.path().join("roots.pem");
    std::fs::write(&roots, certificate.cert.pem()).unwrap();
    let port = subscriber(&certificate, |_| UNSUBSCRIBE_IMMEDIATE.to_vec());
    let url = format!("https://localhost:{port}/hook");
    let quarantine = ["--unsubscribe-immediate", "quarantine"];
    let (told, log) = notify(folder.path(), &roots, &url, &quarantine);
    assert_eq!(told, "accepted; no subscriber confirmed\n");
    let removed = "unsubscribed by its answer to a delivery";
    assert!(
        log.contains(removed) && !log.contains("quarantine"),
        "{log}"
    );
}

/// Ends TLS in front of a broadcaster, as a reverse proxy does, and says at which port.
async fn ending_tls(
    certificate: &rcgen::CertifiedKey<rcgen::KeyPair>,
    broadcaster: SocketAddr,
) -> u16 {
    let acceptor = TlsAcceptor::from(server_config(certificate));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A client that does not trust the certificate breaks off, which is the point.
                let mut outside = acceptor.accept(stream).await?;
                let mut inside = tokio::net::TcpStream::connect(broadcaster).await?;
                tokio::io::copy_bidirectional(&mut outside, &mut inside).await
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_over_tls_is_only_opened_to_whom_is_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let certify = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (right, other) = (certify(), certify());
    let roots = folder.path().join("roots.pem");
    std::fs::write(&roots, right.cert.pem()).unwrap();
    let server = InProcess::start(Config::default(), ServeConfig::default());
    let trusted = ending_tls(&right, server.door.address).await;
    let distrusted = ending_tls(&other, server.door.address).await;
    let program = move |verb: &str, url: String| {
        let mut command = httppubsub();
        command.args([verb, "--ws", "--json", "--broadcaster", &url]);
        command.env("SSL_CERT_FILE", &roots);
        command
    };
    tokio::task::spawn_blocking(move || {
        let mut command = program("listen", format!("wss://localhost:{trusted}"));
        command.args(["--exact", "t", "--count", "1"]);
        let mut listening = Process::spawn("the subscriber", command);
        listening.event("listening");
        let notify = |url| {
            let mut command = program("notify", url);
            command.args(["t", "--data", MESSAGE]).output().unwrap()
        };
        let told = notify(format!("https://localhost:{trusted}"));
        assert!(told.status.success(), "{told:?}");
        assert_eq!(listening.event("message")["bytes"], MESSAGE.len());
        listening.end_well();
        for url in [
            format!("wss://localhost:{distrusted}"),
            format!("wss://127.0.0.1:{trusted}"),
        ] {
            let told = notify(url);
            let log = String::from_utf8(told.stderr).unwrap();
            assert_eq!(told.status.code(), Some(1), "{log}");
            assert!(log.contains("certificate"), "{log}");
        }
    })
    .await
    .unwrap();
}
