//! An address that one test has to itself.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU8, Ordering};

/// An address of this machine with a port where nobody listens, and nobody will but for the caller:
/// whoever is restarted there finds it free, whatever is bound to 127.0.0.1 meanwhile. At most 64
/// in a process.
pub fn own_address() -> SocketAddr {
    static DRAWN: AtomicU8 = AtomicU8::new(0);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let number = DRAWN.fetch_add(1, Ordering::SeqCst);
    assert!(number < 64, "a test needs few of them");
    let host = Ipv4Addr::new(127, 16 + number, high, low);
    let listener = TcpListener::bind((host, 0)).expect("all of 127.0.0.0/8 is loopback");
    listener.local_addr().expect("it is bound")
}
