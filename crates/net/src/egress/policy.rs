//! The egress policy, asked of every url and of every address before it is
//! connected to.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use httppubsub_proto::url::Origin;

use crate::egress::class::{Class, class_of, class_of_name, translated};
use crate::egress::rule::{EgressAction, EgressRule, Pattern, bare_name};

/// The policy for connections to peers. Clones share one policy.
///
/// ```
/// use httppubsub_net::egress::Egress;
/// use httppubsub_proto::url::Endpoint;
///
/// let judged = |url| {
///     let endpoint = Endpoint::parse_str(url).expect("a url");
///     Egress::default().judge_url(endpoint.origin())
/// };
/// assert!(judged("http://hooks.example/").is_ok());
/// // Cloud metadata.
/// assert!(judged("http://169.254.169.254/").is_err());
/// ```
///
/// A name is resolved once for each connection, every address it resolves to is judged, and only
/// those are connected to that were allowed.
#[derive(Clone, Debug, Default)]
pub struct Egress(Arc<EgressConfig>);

/// Settings of [`Egress`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EgressConfig {
    /// Asked of the first of these that says something; the profile decides the rest. Default:
    /// none.
    pub rules: Vec<EgressRule>,
    /// Default: [`EgressProfile::Internal`].
    pub profile: EgressProfile,
    /// `true` if the profile allows loopback. Default: yes, since a library does not know who else
    /// reaches the program that it is a part of; `httppubsub serve` allows it if it listens there.
    pub loopback: bool,
    /// The ports that may be posted to, whatever the rules say; none at all means every one.
    /// Default: every one.
    pub ports: Vec<RangeInclusive<u16>>,
    /// Addresses at which this program serves its operator: never posted to, whatever the rules
    /// say. An unspecified address stands for all that are not of the internet. Default: none.
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

/// The verdict where no rule says anything.
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

/// It may be posted to. Shown, it says why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed(Reason);

/// It must not be posted to. Shown, it says why, in words that name neither the url nor the
/// address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forbidden(Against);

/// The ground on which something is allowed or forbidden, for the log and for `httppubsub
/// check-url`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Reason {
    /// The first rule that matched.
    Rule(EgressRule),
    /// No rule matched, so the profile decided over this kind of address.
    Class(Class, EgressProfile),
    /// A name that no rule is about.
    Name(EgressProfile),
}

/// The grounds on which something is forbidden: besides rules and profile, two that no rule can
/// overrule.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Against {
    /// A rule, or the profile.
    Reason(Reason),
    /// Not one of [`EgressConfig::ports`].
    Port,
    /// One of [`EgressConfig::own`].
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

    /// No restriction. For clients, which name their broadcasters themselves; not for a program
    /// that posts to urls of others.
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
        // Otherwise `::ffff:127.0.0.1` would pass where `127.0.0.1` does not.
        let address = address.to_canonical();
        // The address at which the connection ends: NAT64 would lead to an internal one under the
        // cover of a global one.
        let meant = translated(address).map_or(address, IpAddr::V4);
        let class = class_of(meant);
        self.judge_port(origin)?;
        // The port counts as well: a subscriber may well live on the same machine.
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
            // The owner of an allowed name must not lead to cloud metadata by changing what it
            // resolves to.
            (_, EgressAction::Allow) if class.is_never_meant() => false,
            _ => rule.pattern.matches_name(name),
        });
        match rule {
            Some(rule) => ruled(rule),
            None => self.judge_class(class),
        }
    }

    /// Fails for a port that the settings leave out. Comes before the rules: no rule is about
    /// ports.
    fn judge_port(&self, origin: &Origin) -> Result<(), Forbidden> {
        let ports = &self.0.ports;
        let is_allowed = ports.is_empty() || ports.iter().any(|ports| ports.contains(&origin.port));
        is_allowed.then_some(()).ok_or(Forbidden(Against::Port))
    }

    /// The verdict of the profile, where no rule says anything.
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

    /// Those of the addresses that are allowed; an error if there are some and none is.
    pub(crate) fn only_allowed(
        &self,
        origin: &Origin,
        resolved: impl Iterator<Item = SocketAddr>,
    ) -> Result<Vec<SocketAddr>, Forbidden> {
        let mut allowed = Vec::new();
        let mut forbidden = None;
        for address in resolved {
            match self.judge_address(origin, address.ip()) {
                Ok(_) => allowed.push(address),
                // The first reason is returned. A name that also has allowed addresses is used with
                // these.
                Err(error) => drop(forbidden.get_or_insert(error)),
            }
        }
        match forbidden {
            Some(forbidden) if allowed.is_empty() => Err(forbidden),
            _ => Ok(allowed),
        }
    }
}

/// The verdict of this rule, with the rule as its reason.
fn ruled(rule: &EgressRule) -> Result<Allowed, Forbidden> {
    let reason = Reason::Rule(rule.clone());
    match rule.action {
        EgressAction::Allow => Ok(Allowed(reason)),
        EgressAction::Deny => Err(Forbidden(Against::Reason(reason))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use std::net::{Ipv4Addr, Ipv6Addr};

    use httppubsub_proto::url::Endpoint;

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

    /// The reason why a url is refused; `None` if it is not.
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

    /// Urls that only the profile `public` refuses.
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
                    "loopback addresses are posted to only where that is allowed (profile \
                     internal)",
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

    /// The addresses, of the resolved ones, that are connected to.
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
}
