//! Classes of addresses: who can live there, and who must not be asked for.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The kind of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// All that the internet routes to one host.
    Global,
    /// RFC 1918, and unique local addresses of IPv6 (RFC 4193).
    Private,
    /// 100.64.0.0/10, between a provider and its customers (RFC 6598).
    Shared,
    /// For protocols, benchmarks, documentation and the future.
    Reserved,
    /// This machine: 127.0.0.0/8 and `::1`.
    Loopback,
    /// 169.254.0.0/16 and fe80::/10, where clouds keep their metadata.
    LinkLocal,
    /// The addresses at which clouds hand credentials to whatever runs on a machine: the usual aim
    /// of forged urls (SSRF). Some of them lie among private or public addresses.
    Metadata,
    /// 224.0.0.0/4 and ff00::/8.
    Multicast,
    /// 255.255.255.255.
    Broadcast,
    /// 0.0.0.0/8 and `::`, which many systems take for this machine.
    Unspecified,
    /// An IPv6 address that carries an IPv4 address, which somebody else unpacks: it could be any.
    Tunnel,
}

impl Class {
    /// `true` if no subscriber can live there. Only a rule that names such addresses allows them.
    pub(super) fn is_never_meant(self) -> bool {
        match self {
            Self::LinkLocal
            | Self::Metadata
            | Self::Multicast
            | Self::Broadcast
            | Self::Unspecified
            | Self::Tunnel => true,
            Self::Global | Self::Private | Self::Shared | Self::Reserved | Self::Loopback => false,
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Global => "addresses of the internet",
            Self::Private => "private addresses",
            Self::Shared => "addresses shared behind a provider's NAT",
            Self::Reserved => "reserved addresses",
            Self::Loopback => "loopback addresses",
            Self::LinkLocal => "link-local addresses",
            Self::Metadata => "addresses of cloud metadata",
            Self::Multicast => "multicast addresses",
            Self::Broadcast => "broadcast addresses",
            Self::Unspecified => "unspecified addresses",
            Self::Tunnel => "addresses that stand for others (tunnels and translations)",
        })
    }
}

/// The class of names that mean the same everywhere, whatever they resolve to here; `None` for all
/// others.
pub(super) fn class_of_name(name: &str) -> Option<Class> {
    let is = |known: &str| {
        let below = name.strip_suffix(known);
        below.is_some_and(|below| below.is_empty() || below.ends_with('.'))
    };
    if is("localhost") || name == "localhost.localdomain" {
        Some(Class::Loopback)
    } else if is("metadata.google.internal") {
        Some(Class::Metadata)
    } else {
        None
    }
}

/// The IPv4 address that a translator (NAT64 with the well-known prefix, RFC 6052) makes of it.
pub(super) fn translated(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => match address.segments() {
            [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
            _ => None,
        },
    }
}

/// The IPv4 address in the last two groups of an IPv6 address.
fn v4(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low))
}

/// The class of an address that is not a mapped or translated one.
pub(super) fn class_of(address: IpAddr) -> Class {
    match address {
        IpAddr::V4(address) => class_of_v4(address),
        IpAddr::V6(address) => class_of_v6(address),
    }
}

/// After the special-purpose registry of IANA (RFC 6890) and what clouds document.
fn class_of_v4(address: Ipv4Addr) -> Class {
    match address.octets() {
        // Alibaba, Oracle, Azure.
        [169, 254, 169, 254] | [100, 100, 100, 200] | [192, 0, 0, 192] | [168, 63, 129, 16] => {
            Class::Metadata
        }
        [0, ..] => Class::Unspecified,
        [127, ..] => Class::Loopback,
        [169, 254, ..] => Class::LinkLocal,
        [224..=239, ..] => Class::Multicast,
        [255, 255, 255, 255] => Class::Broadcast,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Class::Private,
        [100, 64..=127, ..] => Class::Shared,
        // Protocol assignments, 6to4 relays, benchmarks, documentation, the future.
        [192, 0, 0, _]
        | [192, 88, 99, _]
        | [198, 18..=19, ..]
        | [192, 0, 2, _]
        | [198, 51, 100, _]
        | [203, 0, 113, _]
        | [240..=255, ..] => Class::Reserved,
        _ => Class::Global,
    }
}

/// The same for addresses that are no mapped IPv4 addresses.
fn class_of_v6(address: Ipv6Addr) -> Class {
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Class::Unspecified,
        [0, 0, 0, 0, 0, 0, 0, 1] => Class::Loopback,
        // Amazon, Google, Scaleway.
        [0xfd00, 0xec2, ..]
        | [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254]
        | [0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42] => Class::Metadata,
        [0xff00..=0xffff, ..] => Class::Multicast,
        [0xfe80..=0xfebf, ..] => Class::LinkLocal,
        // Unique local, and site-local as it once was.
        [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] => Class::Private,
        // IPv4-compatible, IPv4-translated, NAT64 of one's own, Teredo, 6to4.
        [0, 0, 0, 0, 0, 0, _, _]
        | [0, 0, 0, 0, 0xffff, 0, _, _]
        | [0x64, 0xff9b, 1, ..]
        | [0x2001, 0, ..]
        | [0x2002, ..] => Class::Tunnel,
        // Protocol assignments, documentation.
        [0x2001, 1..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Class::Reserved,
        // All that IANA gives out. Everything outside is for a future that may be anything.
        [0x2000..=0x3fff, ..] => Class::Global,
        _ => Class::Reserved,
    }
}
