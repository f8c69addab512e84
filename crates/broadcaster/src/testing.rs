//! A broadcaster for the tests of a program that publishes or subscribes.
//!
//! It keeps its subscriptions in memory, listens on a free port of this machine, and is gone when
//! it is dropped.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use httppubsub_proto::auth::Secrets;
use httppubsub_store::MemoryStore;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::broadcaster::{Broadcaster, StartError};
use crate::builder::BroadcasterBuilder;

/// A broadcaster that serves on a free port of 127.0.0.1 until it is dropped.
///
/// ```
/// use httppubsub_broadcaster::testing::TestBroadcaster;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let broadcaster = TestBroadcaster::start().await?;
/// assert!(broadcaster.url().starts_with("http://127.0.0.1:"));
/// // ... a program under test uses that url ...
/// assert!(broadcaster.stop().await);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct TestBroadcaster {
    /// Kept for tests that look into it, such as at its metrics.
    broadcaster: Broadcaster,
    /// The port that was free.
    address: SocketAddr,
    /// Ends with `true` if nothing had to be cut off.
    serving: JoinHandle<bool>,
    /// Stops it with this value, also when a test panics.
    stop: DropGuard,
}

impl TestBroadcaster {
    /// Starts one that keeps its subscriptions in memory and lets everybody subscribe and notify.
    /// Must be called inside a tokio runtime.
    pub async fn start() -> Result<Self, StartError> {
        let store = Arc::new(MemoryStore::new());
        Self::start_with(Broadcaster::builder(store).secrets(&Secrets::NONE)).await
    }

    /// Starts the broadcaster of `builder`, which advertises the port that was found. Must be
    /// called inside a tokio runtime.
    pub async fn start_with(builder: BroadcasterBuilder) -> Result<Self, StartError> {
        // The system finds a port that nobody has; two tests that choose could choose the same.
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listening = async {
            let listener = TcpListener::bind(free).await?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        };
        let listening: std::io::Result<_> = listening.await;
        let (listener, address) = listening.map_err(|source| StartError::Listen {
            address: free,
            source,
        })?;
        let builder = builder.advertise(format!("http://{address}"));
        let broadcaster = builder.build().await?;
        let stop = CancellationToken::new();
        let serving = tokio::spawn({
            let (broadcaster, stop) = (broadcaster.clone(), stop.clone());
            async move { broadcaster.serve_until(listener, stop.cancelled()).await }
        });
        Ok(Self {
            broadcaster,
            address,
            serving,
            stop: stop.drop_guard(),
        })
    }

    /// The url for publishers and subscribers.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The broadcaster itself.
    pub fn broadcaster(&self) -> &Broadcaster {
        &self.broadcaster
    }

    /// Stops it as a broadcaster in production stops; `true` if everything ended in time.
    pub async fn stop(self) -> bool {
        drop(self.stop);
        // The task ends by itself; it fails only if it panicked or its runtime ended.
        self.serving.await.unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    #[tokio::test]
    async fn it_serves_until_it_is_stopped() {
        let broadcaster = TestBroadcaster::start().await.unwrap();
        let address = broadcaster.url().replace("http://", "");
        let mut stream = TcpStream::connect(&address).await.unwrap();
        let request = b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(broadcaster.stop().await);
        assert!(TcpStream::connect(&address).await.is_err());
    }

    #[tokio::test]
    async fn a_dropped_one_ends_too() {
        let broadcaster = TestBroadcaster::start().await.unwrap();
        let address = broadcaster.url().replace("http://", "");
        drop(broadcaster);
        let ended = async { while TcpStream::connect(&address).await.is_ok() {} };
        let patience = std::time::Duration::from_secs(180);
        tokio::time::timeout(patience, ended).await.unwrap();
    }
}
