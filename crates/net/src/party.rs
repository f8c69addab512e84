//! Parties that shares are counted for: an address, or one connection from it.
//!
//! | | memory | disk |
//! |---|---|---|
//! | a connection | a quarter | all of its address's |
//! | an address (of IPv6, a /64) | a quarter | a half |
//! | an address of this machine | three quarters | three quarters |

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A part of something that all share, as a fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fraction {
    /// Parts that are taken.
    numerator: u64,
    /// Parts that the whole has; not 0.
    denominator: u64,
}

impl Fraction {
    pub(crate) const QUARTER: Self = Self::new(1, 4);
    pub(crate) const HALF: Self = Self::new(1, 2);
    pub(crate) const THREE_QUARTERS: Self = Self::new(3, 4);
    pub(crate) const ALL: Self = Self::new(1, 1);

    /// `numerator` of `denominator` equal parts.
    const fn new(numerator: u64, denominator: u64) -> Self {
        Self {
            numerator,
            denominator,
        }
    }

    /// This part of `whole`, rounded down.
    pub(crate) fn of(self, whole: u64) -> u64 {
        // In 128 bits: the whole may be a disk without a limit, which is `u64::MAX` bytes.
        let part = u128::from(whole) * u128::from(self.numerator) / u128::from(self.denominator);
        u64::try_from(part).unwrap_or(u64::MAX)
    }
}

/// An address or a connection, and what is taken in its name of what all share. Clones are the same
/// party.
///
/// Everything that a [`Spool`](crate::body::Spool) hands out [in the name of a
/// party](crate::body::Spool::for_party) counts for it, so that one peer that sends much finds its
/// own share used up, and not that of the others.
///
/// ```
/// use httppubsub_net::Party;
/// use httppubsub_net::body::Spool;
///
/// let address = Party::address([192, 0, 2, 7].into());
/// let spool = Spool::default().for_party(&address.connection());
/// let held = spool.reserve(1_000).expect("a quarter of 256 MiB is its own");
/// assert_eq!(address.memory_used(), 1_000);
/// drop(held);
/// assert_eq!(address.memory_used(), 0);
/// ```
#[derive(Clone, Debug)]
pub struct Party(Arc<Inner>);

/// Shared by all handles of one party.
#[derive(Debug)]
struct Inner {
    /// Decides over its share.
    kind: Kind,
    /// The address, as it connected: shares are counted by [`AddressKey`].
    ip: IpAddr,
    /// Bytes of memory taken in its name, those of its connections included.
    memory: AtomicU64,
    /// Bytes of disk taken in its name, those of its connections included.
    disk: AtomicU64,
    /// The address of a connection.
    address: Option<Party>,
}

/// The kind of a party decides over its share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A connection, whose bytes count for its address as well.
    Connection,
    /// All connections of an address together.
    Address,
    /// An address of this machine. Proxies are there, behind which all others come, so it may have
    /// more.
    Loopback,
}

/// A resource that parties share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shared {
    /// Bytes held in memory ([`Reservation`](crate::body::Reservation)).
    Memory,
    /// Bytes in temporary files.
    Disk,
}

impl Party {
    /// All that comes from `address`, of which nothing is taken yet.
    pub fn address(address: IpAddr) -> Self {
        let kind = match AddressKey::of(address).is_loopback() {
            true => Kind::Loopback,
            false => Kind::Address,
        };
        Self::new(kind, address, None)
    }

    /// A connection from this address.
    pub fn connection(&self) -> Self {
        Self::new(Kind::Connection, self.0.ip, Some(self.clone()))
    }

    /// `true` if there are other handles of it, or connections from it.
    pub(crate) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    #[cfg(test)]
    pub(crate) fn is_of_one_address_with(&self, other: &Self) -> bool {
        match (&self.0.address, &other.0.address) {
            (Some(own), Some(other)) => Arc::ptr_eq(&own.0, &other.0),
            _ => false,
        }
    }

    /// A party that has taken nothing.
    fn new(kind: Kind, ip: IpAddr, address: Option<Self>) -> Self {
        Self(Arc::new(Inner {
            kind,
            ip,
            memory: AtomicU64::new(0),
            disk: AtomicU64::new(0),
            address,
        }))
    }

    /// Its address.
    pub(crate) fn ip(&self) -> IpAddr {
        self.0.ip
    }

    /// Bytes of memory taken in its name.
    pub fn memory_used(&self) -> u64 {
        self.0.memory.load(Ordering::Relaxed)
    }

    /// The part of `shared` it may take.
    fn share(&self, shared: Shared) -> Fraction {
        match (self.0.kind, shared) {
            (Kind::Loopback, _) => Fraction::THREE_QUARTERS,
            // Its address bounds it already.
            (Kind::Connection, Shared::Disk) => Fraction::ALL,
            (Kind::Address, Shared::Disk) => Fraction::HALF,
            (Kind::Connection | Kind::Address, Shared::Memory) => Fraction::QUARTER,
        }
    }

    /// The counter of `shared`, in bytes.
    fn used(&self, shared: Shared) -> &AtomicU64 {
        match shared {
            Shared::Memory => &self.0.memory,
            Shared::Disk => &self.0.disk,
        }
    }

    /// The largest amount of `whole` that it may have.
    pub(crate) fn share_of(&self, shared: Shared, whole: u64) -> u64 {
        let own = self.share(shared).of(whole);
        match &self.0.address {
            Some(address) => own.min(address.share_of(shared, whole)),
            None => own,
        }
    }

    /// Takes `more` for it if its share of `whole` allows it, and that of its address.
    pub(crate) fn take(&self, shared: Shared, more: u64, whole: u64) -> bool {
        // Its own share first and that of its address then, which is given back if the second one
        // fails.
        let max = self.share(shared).of(whole);
        if !take(self.used(shared), more, max) {
            return false;
        }
        match &self.0.address {
            Some(address) if !address.take(shared, more, whole) => {
                self.used(shared).fetch_sub(more, Ordering::Relaxed);
                false
            }
            _ => true,
        }
    }

    /// Gives `bytes` back.
    pub(crate) fn give_back(&self, shared: Shared, bytes: u64) {
        self.used(shared).fetch_sub(bytes, Ordering::Relaxed);
        if let Some(address) = &self.0.address {
            address.give_back(shared, bytes);
        }
    }
}

/// Adds `more` to `used` unless that makes it more than `max`.
pub(crate) fn take(used: &AtomicU64, more: u64, max: u64) -> bool {
    // In one step: added first and compared then, a large demand would make small ones of others
    // fail.
    let added = used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
        used.checked_add(more).filter(|used| *used <= max)
    });
    added.is_ok()
}

/// The key of an address: of IPv6 the network, since a host has a whole one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct AddressKey(IpAddr);

impl AddressKey {
    /// The key of `address`. A mapped IPv4 address has that of the IPv4 address.
    pub(crate) fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) if !address.is_loopback() => {
                // A host can use any address of its /64, and would have a share for each.
                let network = u128::from(address) >> 64 << 64;
                Ipv6Addr::from(network).into()
            }
            address => address,
        })
    }

    /// The address, or of IPv6 the network.
    pub(crate) fn network(self) -> IpAddr {
        self.0
    }

    /// `true` for this machine.
    pub(crate) fn is_loopback(self) -> bool {
        self.0.is_loopback()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_ipv6_host_is_its_network_and_a_mapped_address_is_the_ipv4_one() {
        let key = |text| AddressKey::of(address(text));
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:1"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
        assert!(key("::1").is_loopback() && key("127.0.0.2").is_loopback());
        assert!(!key("::2").is_loopback());
    }

    #[test]
    fn a_share_bounds_a_connection_and_all_of_its_address() {
        let remote = Party::address(address("192.0.2.1"));
        let (one, other) = (remote.connection(), remote.connection());
        assert!(one.take(Shared::Memory, 20, 100));
        assert!(!other.take(Shared::Memory, 6, 100));
        assert!(other.take(Shared::Memory, 5, 100));
        assert_eq!((other.memory_used(), remote.memory_used()), (5, 25));
        one.give_back(Shared::Memory, 20);
        assert!(!other.take(Shared::Memory, 21, 100));
        assert!(other.take(Shared::Memory, 20, 100));
        assert_eq!(remote.share_of(Shared::Disk, 100), 50);

        let own = Party::address(address("127.0.0.1"));
        for _ in 0..3 {
            assert!(own.connection().take(Shared::Memory, 25, 100));
        }
        assert!(!own.connection().take(Shared::Memory, 1, 100));
        assert_eq!(
            own.connection().share_of(Shared::Memory, u64::MAX),
            u64::MAX / 4
        );
    }
}
