//! Opens connections: the only place of this workspace that does.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use httppubsub_proto::url::{Origin, Scheme};
use tokio::net::TcpStream;
use tokio_util::either::Either;

use crate::egress::names;
use crate::egress::policy::Egress;
use crate::egress::tls::{Tls, TlsStream};

/// A connection, with TLS if the url begins with `https` or `wss`.
pub(crate) type Dialed = Either<TcpStream, TlsStream>;

/// Connects to `origin` and speaks TLS if its scheme says so. A `pin` is connected to in place of
/// what the name resolves to, and `egress` is not asked of it: the operator named it.
///
/// An error that holds a [`Forbidden`](crate::egress::Forbidden) says that `egress` allows no
/// address. There is no time-out here: the caller has one over all that it waits for.
pub(crate) async fn dial(
    origin: &Origin,
    egress: &Egress,
    pin: Option<SocketAddr>,
    tls: &Tls,
) -> io::Result<Dialed> {
    let stream = match pin {
        Some(address) => TcpStream::connect(address).await?,
        None => connect(origin, egress).await?,
    };
    // Requests and frames are written whole: nothing is gained by waiting for more.
    stream.set_nodelay(true)?;
    match origin.scheme {
        Scheme::Http => Ok(Either::Left(stream)),
        Scheme::Https => Ok(Either::Right(tls.connect(&origin.host, stream).await?)),
    }
}

/// Connects to the first of the host's allowed addresses that answers. Names are resolved with a
/// share of their own, and what is judged is what is connected to.
async fn connect(origin: &Origin, egress: &Egress) -> io::Result<TcpStream> {
    // Before the name is resolved: even the question to a name server tells somebody something.
    egress.judge_url(origin).map_err(io::Error::other)?;
    let resolved = names::resolve(&origin.host).await?;
    let resolved = resolved.into_iter().map(|mut address| {
        address.set_port(origin.port);
        address
    });
    // The addresses that were judged are the ones that are connected to. To resolve once more for
    // the connection would let a name change its answer in between (DNS rebinding).
    let allowed = egress.only_allowed(origin, resolved);
    first_that_answers(allowed.map_err(io::Error::other)?).await
}

/// Tries one address after the other, without waiting for one that is silent (RFC 8305 §5).
async fn first_that_answers(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut left = in_turn_of_families(addresses).into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut refused = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        match left.next() {
            Some(address) => attempts.push(TcpStream::connect(address)),
            None if attempts.is_empty() => return Err(refused),
            None => {}
        }
        tokio::select! {
            Some(connected) = attempts.next() => match connected {
                Ok(stream) => return Ok(stream),
                // The last error is returned: the first ones are often those of a family that is
                // not routed here.
                Err(error) => refused = error,
            },
            // A failure does not wait for this: the next address is tried at once.
            () = tokio::time::sleep(NEXT_ATTEMPT_DELAY), if left.len() > 0 => {}
        }
    }
}

/// The time an address is tried alone before the next is tried beside it (RFC 8305 §8).
const NEXT_ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Addresses of a name that are tried at most: each may need a socket.
const ATTEMPTS_MAX: usize = 6;

/// In the order of the system, but of both families by turns (RFC 8305 §4): it may be that only one
/// of them reaches anybody.
fn in_turn_of_families(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let begins_with_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv6() == begins_with_v6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let pairs = std::iter::from_fn(|| match (first.next(), second.next()) {
        (None, None) => None,
        pair => Some(pair),
    });
    let by_turns = pairs.flat_map(|(one, other)| one.into_iter().chain(other));
    by_turns.take(ATTEMPTS_MAX).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;
    use crate::egress::policy::{EgressConfig, Forbidden};
    use httppubsub_proto::url::Endpoint;

    fn origin(url: &str) -> Origin {
        Endpoint::parse_str(url).unwrap().origin().clone()
    }

    #[test]
    fn the_families_of_addresses_take_turns() {
        let order = |addresses: &[&str]| -> Vec<String> {
            let address = |text: &&str| SocketAddr::new(text.parse().unwrap(), 1);
            let ordered = in_turn_of_families(addresses.iter().map(address).collect());
            ordered.iter().map(|it| it.ip().to_string()).collect()
        };
        let (a, b, c) = ("1.1.1.1", "1.1.1.2", "1.1.1.3");
        assert_eq!(
            order(&["::1", "::2", "::3", a, b]),
            ["::1", a, "::2", b, "::3"]
        );
        assert_eq!(order(&[a, b, c, "::1"]), [a, "::1", b, c]);
        assert_eq!(order(&[a; 20]).len(), ATTEMPTS_MAX);
        assert_eq!(order(&[]), [""; 0]);
    }

    /// An address at which connections are neither accepted nor refused: the queue of
    /// connections to be accepted is full.
    async fn silent() -> (SocketAddr, Vec<TcpStream>, tokio::net::TcpListener) {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        // Room for one, on Linux.
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let waiting = TcpStream::connect(address).await.unwrap();
        (address, vec![waiting], listener)
    }

    #[tokio::test]
    async fn dead_address_is_passed_while_it_is_still_being_tried() {
        let (silent, _waiting, _listener) = silent().await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = listener.local_addr().unwrap();
        // Bound and not listening, it refuses, and no other test is given it.
        let bound = tokio::net::TcpSocket::new_v4().unwrap();
        bound.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let refusing = bound.local_addr().unwrap();
        for addresses in [
            vec![silent, good],
            vec![silent, silent, refusing, good],
            vec![refusing, good],
        ] {
            let began = std::time::Instant::now();
            let stream = first_that_answers(addresses.clone()).await.unwrap();
            assert_eq!(stream.peer_addr().unwrap(), good);
            let delays = addresses.iter().filter(|it| **it == silent).count();
            assert!(began.elapsed() >= NEXT_ATTEMPT_DELAY * u32::try_from(delays).unwrap());
        }
        let error = first_that_answers(vec![refusing]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        let error = first_that_answers(Vec::new()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
    }

    #[tokio::test]
    async fn a_forbidden_address_is_not_connected_to() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "127.1"] {
            let origin = origin(&format!("http://{host}:{port}/"));
            let egress = Egress::new(EgressConfig {
                loopback: false,
                ..EgressConfig::default()
            });
            let error = connect(&origin, &egress).await;
            let error = error.unwrap_err().downcast::<Forbidden>().unwrap();
            assert!(error.to_string().starts_with("loopback addresses"));
        }
        let nobody = listener.accept().unwrap_err();
        assert_eq!(nobody.kind(), io::ErrorKind::WouldBlock);
        let origin = origin(&format!("http://127.0.0.1:{port}/"));
        connect(&origin, &Egress::default()).await.unwrap();
    }
}
