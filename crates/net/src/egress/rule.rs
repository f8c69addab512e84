//! Rules of the egress policy, as operators write them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use httppubsub_proto::url::Endpoint;
use ipnet::IpNet;

/// A rule that comes before the profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressRule {
    /// The verdict over what matches.
    pub action: EgressAction,
    /// The addresses or hosts that match.
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

/// The verdict of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EgressAction {
    /// It may be posted to.
    Allow,
    /// It may not be posted to.
    Deny,
}

/// The subject of a rule: addresses (`10.0.0.0/8`, `fd00::1`), a host (`hooks.example`), or all
/// hosts below one (`*.example`).
///
/// A rule that allows a host allows what its name resolves to, but not link-local addresses, cloud
/// metadata and the like: the owner of a name must not lead there. Only a rule that names
/// these addresses allows them.
///
/// ```
/// use httppubsub_net::egress::EgressPattern;
///
/// let spelled = |text: &str| text.parse::<EgressPattern>().map(|it| it.to_string());
/// assert_eq!(spelled("10.1.2.3/8").as_deref(), Ok("10.0.0.0/8"));
/// assert_eq!(spelled("[::ffff:10.0.0.7]").as_deref(), Ok("10.0.0.7/32"));
/// assert_eq!(spelled("*.Hooks.example").as_deref(), Ok("*.hooks.example"));
/// assert!(spelled("http://hooks.example").is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressPattern(pub(super) Pattern);

/// The three ways to say what a rule is about. Names are kept as urls spell them: in lower case, in
/// punycode, without a dot at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pattern {
    /// A network, or a single address as one of full length.
    Net(IpNet),
    /// Exactly this name.
    Host(String),
    /// All names that end in a dot and this one.
    Below(String),
}

/// This is neither a CIDR nor a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("use a CIDR (10.0.0.0/8), an address (10.0.0.7), a host (hooks.example) or *.HOST")]
pub struct NotAPattern;

impl FromStr for EgressPattern {
    type Err = NotAPattern;

    fn from_str(text: &str) -> Result<Self, NotAPattern> {
        // As a url spells an IPv6 address, since operators copy from urls.
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
        // `10.1.2.3/8` means its network.
        let net = net.trunc();
        if let (IpAddr::V6(address), prefix @ 96..) = (net.addr(), net.prefix_len())
            && let Some(address) = address.to_ipv4_mapped()
        {
            let net = IpNet::new(address.into(), prefix - 96).expect("it is at most 32");
            return Self(Pattern::Net(net));
        }
        Self(Pattern::Net(net))
    }

    /// `true` if the rule is about this name, which has no dot at its end.
    pub(super) fn matches_name(&self, name: &str) -> bool {
        match &self.0 {
            Pattern::Net(_) => false,
            Pattern::Host(host) => name == host,
            Pattern::Below(host) => name
                .strip_suffix(host.as_str())
                // `*.example` means neither `example` itself nor `badexample`.
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

/// A name without the dot that says that it is whole.
pub(super) fn bare_name(name: &str) -> &str {
    name.trim_end_matches('.')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

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
}
