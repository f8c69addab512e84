//! Where may be posted to: one policy, asked of every url and of every address before it is
//! connected to.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use httppubsub_proto::url::{Endpoint, Origin};
use ipnet::IpNet;
use tokio::net::TcpStream;

use crate::names;

/// Where may be posted to. Clones share one policy.
///
/// A name is resolved once for each connection, every address it resolves to is judged, and only
/// those are connected to that were allowed.
#[derive(Clone, Debug, Default)]
pub struct Egress(Arc<EgressConfig>);

/// What can be set about [`Egress`].
#[derive(Clone, Debug)]
pub struct EgressConfig {
    /// Asked of the first of these that says something; the profile decides the rest. Default:
    /// none.
    pub rules: Vec<EgressRule>,
    /// Default: [`EgressProfile::Internal`].
    pub profile: EgressProfile,
    /// Whether the profile allows loopback. Default: yes, since a library does not know who else
    /// reaches the program that it is a part of; `httppubsub serve` allows it if it listens there.
    pub loopback: bool,
    /// The ports that may be posted to, whatever the rules say; none at all means every one. Default:
    /// every one.
    pub ports: Vec<RangeInclusive<u16>>,
    /// Where this program listens for whoever runs it: never posted to, whatever the rules say. An
    /// unspecified address stands for all that are not of the internet. Default: none.
    pub own: Vec<SocketAddr>,
}

impl Default for EgressConfig {
    fn default() -> Self {
        Self {
            rules: Vec::new(),
            profile: EgressProfile::Internal,
            loopback: true,
            ports: Vec::new(),
            own: Vec::new(),
        }
    }
}

/// What is allowed where no rule says anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EgressProfile {
    /// Private addresses and those of the internet; not link-local ones, cloud metadata, multicast,
    /// broadcast, unspecified ones and tunnels.
    Internal,
    /// Only addresses that the whole internet can reach.
    Public,
    /// Everything: for those who alone decide where they post.
    Anything,
}

impl fmt::Display for EgressProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Internal => "internal",
            Self::Public => "public",
            Self::Anything => "anything",
        })
    }
}

/// A rule that comes before the profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressRule {
    /// What becomes of that which matches.
    pub action: EgressAction,
    /// What matches.
    pub pattern: EgressPattern,
}

impl fmt::Display for EgressRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let action = match self.action {
            EgressAction::Allow => "allow",
            EgressAction::Deny => "deny",
        };
        write!(f, "{action} {}", self.pattern)
    }
}

/// What a rule says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EgressAction {
    /// It may be posted to.
    Allow,
    /// It may not be posted to.
    Deny,
}

/// What a rule is about: addresses (`10.0.0.0/8`, `fd00::1`), a host (`hooks.example`), or all hosts
/// below one (`*.example`).
///
/// A rule that allows a host allows what its name resolves to, but not link-local addresses, cloud
/// metadata and the like: whoever answers for a name must not lead there. Only a rule that names
/// these addresses allows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressPattern(Pattern);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    Net(IpNet),
    Host(String),
    Below(String),
}

/// This is neither a CIDR nor a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("use a CIDR (10.0.0.0/8), an address (10.0.0.7), a host (hooks.example) or *.HOST")]
pub struct NotAPattern;

impl FromStr for EgressPattern {
    type Err = NotAPattern;

    fn from_str(text: &str) -> Result<Self, NotAPattern> {
        let bare = text.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(Self::net(address.into()));
        }
        if let Ok(net) = text.parse::<IpNet>() {
            return Ok(Self::net(net));
        }
        let (name, below) = match text.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (text, false),
        };
        if name.contains(['/', ':', '?', '#', '@', '\\', '*']) {
            return Err(NotAPattern);
        }
        // Spelled as the hosts of urls are.
        let endpoint = Endpoint::parse_str(&format!("http://{name}/")).map_err(|_| NotAPattern)?;
        let host = &endpoint.origin().host;
        match (host.parse::<IpAddr>(), below) {
            (Ok(address), false) => Ok(Self::net(address.into())),
            (Ok(_), true) => Err(NotAPattern),
            (Err(_), false) => Ok(Self(Pattern::Host(bare_name(host).to_owned()))),
            (Err(_), true) => Ok(Self(Pattern::Below(bare_name(host).to_owned()))),
        }
    }
}

impl EgressPattern {
    /// Mapped addresses are IPv4 addresses, so nets of them are nets of these.
    fn net(net: IpNet) -> Self {
        let net = net.trunc();
        if let (IpAddr::V6(address), prefix @ 96..) = (net.addr(), net.prefix_len())
            && let Some(address) = address.to_ipv4_mapped()
        {
            let net = IpNet::new(address.into(), prefix - 96).expect("it is at most 32");
            return Self(Pattern::Net(net));
        }
        Self(Pattern::Net(net))
    }

    fn matches_name(&self, name: &str) -> bool {
        match &self.0 {
            Pattern::Net(_) => false,
            Pattern::Host(host) => name == host,
            Pattern::Below(host) => name
                .strip_suffix(host.as_str())
                .is_some_and(|below| below.len() > 1 && below.ends_with('.')),
        }
    }
}

impl fmt::Display for EgressPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Pattern::Net(net) => write!(f, "{net}"),
            Pattern::Host(host) => f.write_str(host),
            Pattern::Below(host) => write!(f, "*.{host}"),
        }
    }
}

/// It may be posted to. Shown, it says why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed(Reason);

/// It must not be posted to. Shown, it says why, in words that name neither the url nor the address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forbidden(Against);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Reason {
    Rule(EgressRule),
    Class(Class, EgressProfile),
    /// A name that no rule is about.
    Name(EgressProfile),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Against {
    Reason(Reason),
    Port,
    Own,
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Reason::Rule(rule) => write!(f, "by the rule \"{rule}\""),
            Reason::Class(class, profile) => {
                write!(f, "{class} are posted to (profile {profile})")
            }
            Reason::Name(profile) => write!(
                f,
                "a name is judged by what it resolves to, at every connection (profile {profile})"
            ),
        }
    }
}

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = match &self.0 {
            Against::Reason(reason) => reason,
            Against::Port => {
                return f.write_str("its port is not one of those that are posted to");
            }
            Against::Own => {
                return f.write_str("the broadcaster listens there for whoever runs it");
            }
        };
        match reason {
            Reason::Rule(rule) => write!(f, "by the rule \"{rule}\""),
            Reason::Class(class, profile) => {
                let how = match class {
                    Class::Loopback => "posted to only where that is allowed",
                    class if class.is_never_meant() => "never posted to",
                    _ => "not posted to",
                };
                write!(f, "{class} are {how} (profile {profile})")
            }
            Reason::Name(profile) => write!(f, "names are not posted to (profile {profile})"),
        }
    }
}

impl std::error::Error for Forbidden {}

impl Egress {
    /// This policy.
    pub fn new(config: EgressConfig) -> Self {
        Self(Arc::new(config))
    }

    /// No restriction.
    pub fn anything() -> Self {
        Self::new(EgressConfig {
            profile: EgressProfile::Anything,
            ..EgressConfig::default()
        })
    }

    /// Judges a url by what it says: without a look at what its name resolves to, which may be
    /// something else the next time.
    pub fn judge_url(&self, origin: &Origin) -> Result<Allowed, Forbidden> {
        if let Ok(address) = origin.host.parse() {
            return self.judge_address(origin, address);
        }
        self.judge_port(origin)?;
        let name = bare_name(&origin.host);
        let mut rules = self.0.rules.iter();
        if let Some(rule) = rules.find(|rule| rule.pattern.matches_name(name)) {
            return ruled(rule);
        }
        match class_of_name(name) {
            Some(class) => self.judge_class(class),
            None => Ok(Allowed(Reason::Name(self.0.profile))),
        }
    }

    /// Judges an address that the host of `origin` is, or resolves to.
    pub fn judge_address(&self, origin: &Origin, address: IpAddr) -> Result<Allowed, Forbidden> {
        let address = address.to_canonical();
        let meant = translated(address).map_or(address, IpAddr::V4);
        let class = class_of(meant);
        self.judge_port(origin)?;
        let is_own = |own: &SocketAddr| {
            let ip = own.ip().to_canonical();
            own.port() == origin.port
                && (ip == meant || ip.is_unspecified() && class != Class::Global)
        };
        if self.0.own.iter().any(is_own) {
            return Err(Forbidden(Against::Own));
        }
        let name = bare_name(&origin.host);
        let mut rules = self.0.rules.iter();
        let rule = rules.find(|rule| match (&rule.pattern.0, rule.action) {
            (Pattern::Net(net), _) => net.contains(&address) || net.contains(&meant),
            (_, EgressAction::Allow) if class.is_never_meant() => false,
            _ => rule.pattern.matches_name(name),
        });
        match rule {
            Some(rule) => ruled(rule),
            None => self.judge_class(class),
        }
    }

    fn judge_port(&self, origin: &Origin) -> Result<(), Forbidden> {
        let ports = &self.0.ports;
        let is_allowed = ports.is_empty() || ports.iter().any(|ports| ports.contains(&origin.port));
        is_allowed.then_some(()).ok_or(Forbidden(Against::Port))
    }

    fn judge_class(&self, class: Class) -> Result<Allowed, Forbidden> {
        let EgressConfig {
            profile, loopback, ..
        } = *self.0;
        let is_allowed = match (profile, class) {
            (EgressProfile::Anything, _) | (_, Class::Global) => true,
            (_, Class::Loopback) => loopback,
            (EgressProfile::Internal, class) => !class.is_never_meant(),
            (EgressProfile::Public, _) => false,
        };
        let reason = Reason::Class(class, profile);
        if is_allowed {
            Ok(Allowed(reason))
        } else {
            Err(Forbidden(Against::Reason(reason)))
        }
    }

    /// Connects to the first of the host's allowed addresses that answers. An error that holds a
    /// [`Forbidden`] says that none is allowed.
    ///
    /// All connections of this workspace to hosts that somebody named are made here: names are
    /// resolved with a share of their own, and what is judged is what is connected to.
    pub(crate) async fn connect(&self, origin: &Origin) -> io::Result<TcpStream> {
        self.judge_url(origin).map_err(io::Error::other)?;
        let resolved = names::resolve(&origin.host).await?;
        let resolved = resolved.into_iter().map(|mut address| {
            address.set_port(origin.port);
            address
        });
        let allowed = self.only_allowed(origin, resolved);
        first_that_answers(allowed.map_err(io::Error::other)?).await
    }

    /// Those of the addresses that are allowed; an error if there are some and none is.
    fn only_allowed(
        &self,
        origin: &Origin,
        resolved: impl Iterator<Item = SocketAddr>,
    ) -> Result<Vec<SocketAddr>, Forbidden> {
        let mut allowed = Vec::new();
        let mut forbidden = None;
        for address in resolved {
            match self.judge_address(origin, address.ip()) {
                Ok(_) => allowed.push(address),
                Err(error) => drop(forbidden.get_or_insert(error)),
            }
        }
        match forbidden {
            Some(forbidden) if allowed.is_empty() => Err(forbidden),
            _ => Ok(allowed),
        }
    }
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
                Err(error) => refused = error,
            },
            () = tokio::time::sleep(NEXT_ATTEMPT_DELAY), if left.len() > 0 => {}
        }
    }
}

/// How long an address is tried alone before the next is tried beside it (RFC 8305 §8).
const NEXT_ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// So many addresses of a name are tried: each may need a socket.
const ATTEMPTS_MAX: usize = 6;

/// In the order of the system, but of both families by turns (RFC 8305 §4): it may be that only one of
/// them reaches anybody.
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

fn ruled(rule: &EgressRule) -> Result<Allowed, Forbidden> {
    let reason = Reason::Rule(rule.clone());
    match rule.action {
        EgressAction::Allow => Ok(Allowed(reason)),
        EgressAction::Deny => Err(Forbidden(Against::Reason(reason))),
    }
}

/// A name without the dot that says that it is whole.
fn bare_name(name: &str) -> &str {
    name.trim_end_matches('.')
}

/// What kind of address it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Global,
    Private,
    Shared,
    Reserved,
    Loopback,
    LinkLocal,
    Metadata,
    Multicast,
    Broadcast,
    Unspecified,
    Tunnel,
}

impl Class {
    /// Whether no subscriber can live there. Only a rule that names such addresses allows them.
    fn is_never_meant(self) -> bool {
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

fn class_of_name(name: &str) -> Option<Class> {
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
fn translated(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => match address.segments() {
            [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
            _ => None,
        },
    }
}

fn v4(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low))
}

fn class_of(address: IpAddr) -> Class {
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
        [0x2000..=0x3fff, ..] => Class::Global,
        _ => Class::Reserved,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    fn strict(profile: EgressProfile) -> Egress {
        Egress::new(EgressConfig {
            profile,
            loopback: false,
            ..EgressConfig::default()
        })
    }

    fn with_rules(profile: EgressProfile, rules: &[(EgressAction, &str)]) -> Egress {
        let rule = |(action, pattern): &(EgressAction, &str)| EgressRule {
            action: *action,
            pattern: pattern.parse().unwrap(),
        };
        Egress::new(EgressConfig {
            rules: rules.iter().map(rule).collect(),
            profile,
            loopback: false,
            ..EgressConfig::default()
        })
    }

    fn origin(url: &str) -> Origin {
        let endpoint = Endpoint::parse_str(url).unwrap_or_else(|error| panic!("{url}: {error}"));
        endpoint.origin().clone()
    }

    /// Why a url is refused; `None` if it is not.
    fn refusal(egress: &Egress, url: &str) -> Option<String> {
        match Endpoint::parse_str(url) {
            Err(error) => Some(error.to_string()),
            Ok(endpoint) => match egress.judge_url(endpoint.origin()) {
                Err(error) => Some(error.to_string()),
                Ok(_) => None,
            },
        }
    }

    /// Urls that no profile allows, and a part of the reason.
    const NEVER: [(&str, &str); 76] = [
        // Not urls to post to.
        ("", "not an absolute url"),
        ("/v1/receive", "not an absolute url"),
        ("//127.0.0.1/", "not an absolute url"),
        ("http://", "not an absolute url"),
        ("http://[::1", "not an absolute url"),
        ("http://1.2.3.4.5/", "not an absolute url"),
        ("http://256.1.1.1/", "not an absolute url"),
        ("http://127.0.0.1:99999/", "not an absolute url"),
        ("http://[fe80::1%25eth0]/", "not an absolute url"),
        ("file:///etc/passwd", "the scheme"),
        ("unix:/run/docker.sock", "the scheme"),
        ("ftp://127.0.0.1/", "the scheme"),
        ("gopher://127.0.0.1:25/", "the scheme"),
        ("ws://127.0.0.1/", "the scheme"),
        ("javascript:alert(1)", "the scheme"),
        ("http://user:pw@127.0.0.1/", "a user name"),
        ("http://hooks.example@127.0.0.1/", "a user name"),
        ("http://127.0.0.1/\r\nX: y", "a control character"),
        ("http://127.0.0.1 /", "a control character"),
        // Loopback, however it is spelled.
        ("http://127.0.0.1/", "loopback"),
        ("http://127.0.0.1:3003/", "loopback"),
        ("http://127.255.255.254/", "loopback"),
        ("http://127.0.0.1./", "loopback"),
        ("http://127.1/", "loopback"),
        ("http://127.0.1/", "loopback"),
        ("http://2130706433/", "loopback"),
        ("http://0x7f000001/", "loopback"),
        ("http://0x7f.1/", "loopback"),
        ("http://017700000001/", "loopback"),
        ("http://0177.0.0.01/", "loopback"),
        ("http://%31%32%37.0.0.1/", "loopback"),
        ("http://\u{ff11}27.0.0.1/", "loopback"),
        ("http:\\\\127.0.0.1\\", "loopback"),
        ("http:127.0.0.1", "loopback"),
        ("HTTP://LOCALHOST/", "loopback"),
        ("http://localhost./", "loopback"),
        ("http://localhost:9/", "loopback"),
        ("http://any.localhost/", "loopback"),
        ("http://localhost.localdomain/", "loopback"),
        ("http://[::1]/", "loopback"),
        ("http://[0:0:0:0:0:0:0:1]/", "loopback"),
        ("http://[::ffff:127.0.0.1]/", "loopback"),
        ("http://[::ffff:7f00:1]/", "loopback"),
        ("http://[64:ff9b::127.0.0.1]/", "loopback"),
        // Nobody in particular.
        ("http://0.0.0.0/", "unspecified"),
        ("http://0/", "unspecified"),
        ("http://0.1.2.3/", "unspecified"),
        ("http://[::]/", "unspecified"),
        ("http://[::ffff:0.0.0.0]/", "unspecified"),
        ("http://[64:ff9b::]/", "unspecified"),
        // This link.
        ("http://169.254.0.1/", "link-local"),
        ("http://169.254.170.2/v2/credentials", "link-local"),
        ("http://[fe80::1]/", "link-local"),
        ("http://[febf::1]/", "link-local"),
        ("http://[::ffff:169.254.1.1]/", "link-local"),
        ("http://[64:ff9b::169.254.1.1]/", "link-local"),
        // The clouds.
        ("http://169.254.169.254/latest/meta-data/", "cloud metadata"),
        ("http://2852039166/", "cloud metadata"),
        ("http://0xa9fea9fe/", "cloud metadata"),
        ("http://0251.0376.0251.0376/", "cloud metadata"),
        ("http://[::ffff:169.254.169.254]/", "cloud metadata"),
        ("http://[64:ff9b::a9fe:a9fe]/", "cloud metadata"),
        ("http://[fd00:ec2::254]/", "cloud metadata"),
        ("http://[fd20:ce::254]/", "cloud metadata"),
        ("http://100.100.100.200/", "cloud metadata"),
        ("http://192.0.0.192/", "cloud metadata"),
        ("http://168.63.129.16/", "cloud metadata"),
        ("http://metadata.google.internal./", "cloud metadata"),
        // Everybody.
        ("http://224.0.0.1/", "multicast"),
        ("http://239.255.255.255/", "multicast"),
        ("http://[ff02::1]/", "multicast"),
        ("http://255.255.255.255/", "broadcast"),
        // Addresses that stand for others.
        ("http://[::127.0.0.1]/", "stand for others"),
        ("http://[2002:7f00:1::]/", "stand for others"),
        ("http://[2001:0:a9fe:a9fe::1]/", "stand for others"),
        ("http://[64:ff9b:1::169.254.169.254]/", "stand for others"),
    ];

    /// What only the profile `public` refuses.
    const NOT_PUBLIC: [(&str, &str); 20] = [
        ("http://10.0.0.1/", "private"),
        ("http://167772161/", "private"),
        ("http://172.16.0.1/", "private"),
        ("http://172.31.255.255/", "private"),
        ("http://192.168.1.1/", "private"),
        ("http://[::ffff:10.0.0.1]/", "private"),
        ("http://[64:ff9b::192.168.0.1]/", "private"),
        ("http://[fc00::1]/", "private"),
        ("http://[fdff::1]/", "private"),
        ("http://[fec0::1]/", "private"),
        ("http://100.64.0.1/", "shared"),
        ("http://100.127.255.255/", "shared"),
        ("http://192.0.0.1/", "reserved"),
        ("http://192.0.2.1/", "reserved"),
        ("http://198.18.0.1/", "reserved"),
        ("http://203.0.113.7/", "reserved"),
        ("http://240.0.0.1/", "reserved"),
        ("http://[2001:db8::1]/", "reserved"),
        ("http://[100::1]/", "reserved"),
        ("http://[4000::1]/", "reserved"),
    ];

    #[test]
    fn what_no_profile_allows_is_refused_and_the_reason_names_no_url() {
        for profile in [EgressProfile::Internal, EgressProfile::Public] {
            let egress = strict(profile);
            for (url, want) in NEVER {
                let why = refusal(&egress, url).unwrap_or_else(|| panic!("{profile}: {url}"));
                assert!(why.contains(want), "{profile}: {url}: {why}");
                assert!(url.is_empty() || !why.contains(url), "{why}");
            }
        }
    }

    #[test]
    fn private_addresses_are_for_internal_broadcasters() {
        let (internal, public) = (
            strict(EgressProfile::Internal),
            strict(EgressProfile::Public),
        );
        for (url, want) in NOT_PUBLIC {
            assert_eq!(refusal(&internal, url), None, "{url}");
            let why = refusal(&public, url).unwrap();
            assert!(why.contains(want), "{url}: {why}");
            assert!(why.ends_with("are not posted to (profile public)"), "{why}");
        }
    }

    #[test]
    fn what_the_internet_reaches_is_allowed_by_every_profile() {
        for profile in [EgressProfile::Internal, EgressProfile::Public] {
            for url in [
                "http://1.1.1.1/",
                "http://16843009/",
                "https://hooks.example/v1/receive",
                "http://[2606:4700:4700::1111]/",
                "http://[2001:4860:4860::8888]/",
                "http://[::ffff:1.1.1.1]/",
                "http://[64:ff9b::1.1.1.1]/",
                "http://172.15.255.255/",
                "http://172.32.0.1/",
                "http://100.63.255.255/",
                "http://notlocalhost/",
                "http://localhost.example/",
            ] {
                assert_eq!(refusal(&strict(profile), url), None, "{profile}: {url}");
            }
        }
    }

    #[test]
    fn every_ipv4_address_is_judged_like_its_other_spellings() {
        let [internal, public] = [EgressProfile::Internal, EgressProfile::Public].map(|profile| {
            with_rules(
                profile,
                &[
                    (EgressAction::Deny, "1.0.0.0/8"),
                    (EgressAction::Allow, "10.0.0.0/9"),
                ],
            )
        });
        let origin = origin("http://hooks.example/");
        for bits in (0..=u32::MAX).step_by(9_973).chain([u32::MAX]) {
            let address = Ipv4Addr::from_bits(bits);
            let [.., high, low] = address.to_ipv6_mapped().segments();
            let nat64 = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low);
            for egress in [&internal, &public] {
                let want = egress.judge_address(&origin, address.into());
                let mapped = address.to_ipv6_mapped().into();
                assert_eq!(egress.judge_address(&origin, mapped), want, "{address}");
                let nat64 = egress.judge_address(&origin, nat64.into());
                assert_eq!(nat64, want, "{address}");
            }
        }
    }

    #[test]
    fn loopback_is_allowed_where_it_is_said_so_and_nothing_else_is() {
        for profile in [EgressProfile::Internal, EgressProfile::Public] {
            let egress = Egress::new(EgressConfig {
                profile,
                ..EgressConfig::default()
            });
            for (url, why) in NEVER {
                let is_allowed = refusal(&egress, url).is_none();
                assert_eq!(is_allowed, why == "loopback", "{profile}: {url}");
            }
        }
    }

    #[test]
    fn what_is_for_whoever_runs_it_and_other_ports_are_refused_whatever_the_rules_say() {
        let egress = |own: &str, ports| {
            Egress::new(EgressConfig {
                rules: vec![EgressRule {
                    action: EgressAction::Allow,
                    pattern: "0.0.0.0/0".parse().unwrap(),
                }],
                own: vec![own.parse().unwrap()],
                ports,
                ..EgressConfig::default()
            })
        };
        let own = Some("the broadcaster listens there for whoever runs it".to_owned());
        let port = Some("its port is not one of those that are posted to".to_owned());
        let one = egress("127.0.0.1:9300", vec![80..=80, 8000..=9999]);
        for (url, want) in [
            ("http://127.0.0.1:9300/", &own),
            ("http://0x7f.1:9300/", &own),
            ("http://[::ffff:127.0.0.1]:9300/", &own),
            ("http://127.0.0.1:9301/", &None),
            ("http://127.0.0.2:9300/", &None),
            ("http://hooks.example/", &None),
            ("https://hooks.example/", &port),
            ("http://hooks.example:7999/", &port),
            ("http://10.0.0.7:10000/", &port),
        ] {
            assert_eq!(refusal(&one, url), *want, "{url}");
        }
        let everywhere = egress("0.0.0.0:9300", vec![]);
        for (url, want) in [
            ("http://127.0.0.1:9300/", &own),
            ("http://10.0.0.7:9300/", &own),
            ("http://1.1.1.1:9300/", &None),
            ("http://10.0.0.7:22/", &None),
        ] {
            assert_eq!(refusal(&everywhere, url), *want, "{url}");
        }
        let leads_there: Result<Allowed, Forbidden> = one.judge_address(
            &origin("http://hooks.example:9300/"),
            Ipv4Addr::LOCALHOST.into(),
        );
        assert_eq!(leads_there, Err(Forbidden(Against::Own)));
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        use EgressAction::{Allow, Deny};
        let egress = with_rules(
            EgressProfile::Internal,
            &[
                (Allow, "10.1.0.0/16"),
                (Deny, "10.0.0.0/8"),
                (Deny, "*.evil.example"),
                (Deny, "Evil.Example."),
                (Allow, "::ffff:169.254.1.0/120"),
                (Allow, "good.localhost"),
                (Deny, "[fd00::7]"),
            ],
        );
        for (url, want) in [
            ("http://10.1.2.3/", None),
            ("http://10.2.2.3/", Some("by the rule \"deny 10.0.0.0/8\"")),
            (
                "http://[::ffff:10.2.2.3]/",
                Some("by the rule \"deny 10.0.0.0/8\""),
            ),
            (
                "http://evil.example./",
                Some("by the rule \"deny evil.example\""),
            ),
            (
                "http://a.b.evil.example/",
                Some("by the rule \"deny *.evil.example\""),
            ),
            ("http://notevil.example/", None),
            ("http://169.254.1.9/", None),
            (
                "http://169.254.2.9/",
                Some("link-local addresses are never posted to (profile internal)"),
            ),
            ("http://good.localhost/", None),
            (
                "http://bad.localhost/",
                Some(
                    "loopback addresses are posted to only where that is allowed (profile internal)",
                ),
            ),
            (
                "http://[fd00::7]/",
                Some("by the rule \"deny fd00::7/128\""),
            ),
        ] {
            assert_eq!(refusal(&egress, url).as_deref(), want, "{url}");
        }
    }

    #[test]
    fn a_pattern_that_says_nothing_is_refused() {
        for text in [
            "",
            "*",
            "*.",
            "a b",
            "http://host/",
            "host:80",
            "10.0.0.0/33",
            "host/path",
            "me@host",
            "*.10.0.0.1",
        ] {
            assert_eq!(text.parse::<EgressPattern>(), Err(NotAPattern), "{text:?}");
        }
        let shown = |text: &str| text.parse::<EgressPattern>().unwrap().to_string();
        assert_eq!(shown("10.1.2.3/8"), "10.0.0.0/8");
        assert_eq!(shown("0x7f.1"), "127.0.0.1/32");
        assert_eq!(shown("*.B\u{fc}cher.example."), "*.xn--bcher-kva.example");
    }

    /// Which of the addresses that a name resolved to are connected to.
    fn connected(egress: &Egress, host: &str, resolved: &[&str]) -> Result<Vec<String>, Forbidden> {
        let origin = origin(&format!("http://{host}/"));
        let address = |text: &&str| SocketAddr::new(text.parse().unwrap(), 80);
        let allowed = egress.only_allowed(&origin, resolved.iter().map(address))?;
        Ok(allowed.iter().map(|it| it.ip().to_string()).collect())
    }

    #[test]
    fn a_name_that_now_leads_elsewhere_leads_nowhere() {
        for profile in [EgressProfile::Internal, EgressProfile::Public] {
            let egress = strict(profile);
            for address in ["127.0.0.1", "::1", "169.254.169.254", "::ffff:127.0.0.1"] {
                connected(&egress, "hooks.example", &[address]).unwrap_err();
                // The rest of what it resolves to is not held against it, but is all that is used.
                let some = connected(&egress, "hooks.example", &[address, "1.1.1.1"]);
                assert_eq!(some.unwrap(), ["1.1.1.1"]);
            }
        }
    }

    #[test]
    fn a_host_that_is_allowed_may_be_private_but_not_lead_to_metadata() {
        let rules = [
            (EgressAction::Allow, "hooks.example"),
            (EgressAction::Deny, "10.9.0.0/16"),
        ];
        let egress = with_rules(EgressProfile::Public, &rules);
        let all = ["10.0.0.1", "127.0.0.1", "169.254.169.254", "fe80::1"];
        let used = connected(&egress, "hooks.example.", &all).unwrap();
        assert_eq!(used, ["10.0.0.1", "127.0.0.1"]);
        connected(&egress, "other.example", &all).unwrap_err();
    }

    #[test]
    fn no_restriction_is_none() {
        for (url, _) in NEVER.into_iter().chain(NOT_PUBLIC) {
            if Endpoint::parse_str(url).is_ok() {
                assert_eq!(refusal(&Egress::anything(), url), None, "{url}");
            }
        }
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

    /// An address at which connections are neither accepted nor refused.
    async fn silent() -> (SocketAddr, Vec<TcpStream>, tokio::net::TcpListener) {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        loop {
            let connecting = TcpStream::connect(address);
            match tokio::time::timeout(Duration::from_millis(500), connecting).await {
                Ok(connected) => waiting.push(connected.unwrap()),
                // There is no room for another that nobody accepts.
                Err(_) => return (address, waiting, listener),
            }
        }
    }

    #[tokio::test]
    async fn dead_address_is_passed_while_it_is_still_being_tried() {
        let (silent, _waiting, _listener) = silent().await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = listener.local_addr().unwrap();
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let refusing = gone.local_addr().unwrap();
        drop(gone);
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
            let error = strict(EgressProfile::Internal).connect(&origin).await;
            let error = error.unwrap_err().downcast::<Forbidden>().unwrap();
            assert!(error.to_string().starts_with("loopback addresses"));
        }
        let nobody = listener.accept().unwrap_err();
        assert_eq!(nobody.kind(), io::ErrorKind::WouldBlock);
        let origin = origin(&format!("http://127.0.0.1:{port}/"));
        Egress::default().connect(&origin).await.unwrap();
    }
}
