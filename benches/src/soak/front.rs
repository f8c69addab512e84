//! What stands between a subscriber and the broadcaster, and fails when it is told to.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// What a front does with its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It hands on what comes.
    Pass,
    /// It takes what comes and hands nothing on until it passes again.
    Hang,
    /// It resets all connections.
    Reset,
    /// It closes all connections.
    Close,
    /// It answers every request with a status of 5xx.
    Refuse,
}

/// A front that is there; dropping it closes it and all its connections.
pub(crate) struct Front {
    pub(crate) mode: watch::Sender<Mode>,
    _serving: AbortOnDropHandle<()>,
}

impl Front {
    /// Hands what comes to `listener` on to `to`.
    pub(crate) fn serve(listener: TcpListener, to: SocketAddr) -> Self {
        let (mode, receiver) = watch::channel(Mode::Pass);
        let serving = AbortOnDropHandle::new(tokio::spawn(accept(listener, to, receiver)));
        Self {
            mode,
            _serving: serving,
        }
    }
}

async fn accept(listener: TcpListener, to: SocketAddr, mode: watch::Receiver<Mode>) {
    // Dropped, and the connections with it, when the front is.
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        connections.spawn(relay(stream, to, mode.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn relay(mut stream: TcpStream, to: SocketAddr, mut mode: watch::Receiver<Mode>) {
    if *mode.borrow() == Mode::Refuse {
        let mut head = [0; 4_096];
        let _ = stream.read(&mut head).await;
        let _ = stream.write_all(REFUSAL).await;
        let _ = stream.shutdown().await;
        return;
    }
    let Ok(mut other) = TcpStream::connect(to).await else {
        return;
    };
    let ended = {
        let (near_reads, near_writes) = stream.split();
        let (far_reads, far_writes) = other.split();
        let there = pump(near_reads, far_writes, mode.clone());
        let back = pump(far_reads, near_writes, mode.clone());
        let both = async { tokio::join!(there, back) };
        tokio::select! {
            _ = both => return,
            ended = ends(&mut mode) => ended,
        }
    };
    if ended == Mode::Reset {
        let _ = stream.set_zero_linger();
        let _ = other.set_zero_linger();
    }
}

/// Hands on what comes, until one of the two ends.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut mode: watch::Receiver<Mode>,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let bytes = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(bytes) => bytes,
        };
        if mode.wait_for(|mode| *mode != Mode::Hang).await.is_err()
            || to.write_all(&buffer[..bytes]).await.is_err()
        {
            return;
        }
    }
    let _ = to.shutdown().await;
}

/// Waits until connections are to be ended, and says how.
async fn ends(mode: &mut watch::Receiver<Mode>) -> Mode {
    let is_it = |mode: &Mode| matches!(mode, Mode::Reset | Mode::Close | Mode::Refuse);
    match mode.wait_for(is_it).await {
        Ok(mode) => *mode,
        Err(_) => Mode::Close,
    }
}

const REFUSAL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
