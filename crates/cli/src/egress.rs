//! Flags that say where a broadcaster may post.
//!
//! Shared by `serve`, which posts, and `check-url`, which says what `serve` would do: the same
//! flags give the same policy, because both call [`EgressFlags::egress`]. `docs/egress.md` has the
//! rules.

use std::net::SocketAddr;
use std::ops::RangeInclusive;

use clap::error::Error;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, ValueEnum};
use httppubsub_net::egress::{
    Egress, EgressAction, EgressConfig, EgressPattern, EgressProfile, EgressRule,
};
use httppubsub_net::outbound::UnprovenLimits;

/// Flags of the verbs that need to know where a broadcaster may post.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct EgressFlags {
    /// Addresses that may be posted to unless a rule decides otherwise.
    ///
    /// The profile is applied to a url when it is subscribed and to every address before a
    /// connection. Neither profile allows loopback (but see --egress-loopback), link-local
    /// addresses, cloud metadata, multicast, broadcast and unspecified addresses, and tunnels.
    #[arg(
        long = "egress",
        value_enum,
        value_name = "PROFILE",
        default_value_t,
        env = "HTTPPUBSUB_EGRESS"
    )]
    profile: Profile,

    #[command(flatten)]
    rules: Rules,

    /// Loopback may be posted to: everything that listens on this machine. [default: only with
    /// the profile internal, and while it listens on loopback itself]
    #[arg(long = "egress-loopback")]
    loopback: bool,

    /// Post to these ports only, whatever the rules say: one (443) or a range (8000-8999). May be
    /// given more than once. [default: every port]
    #[arg(long = "egress-port", value_name = "PORT", value_parser = ports)]
    ports: Vec<RangeInclusive<u16>>,
}

/// `443` or `8000-8999`, both ends included.
fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| match text.parse() {
        Ok(0) | Err(_) => Err(format!(
            "{text:?} is no port: use 1 to 65535, or a range of them"
        )),
        Ok(port) => Ok(port),
    };
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err(format!("{first} is greater than {last}"));
    }
    Ok(first..=last)
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Profile {
    /// Private addresses and the internet
    #[default]
    Internal,
    /// The internet only; a host that never confirmed anything gets one delivery at a time, no
    /// message of more than 1 MiB, and after a failure none for a second
    Public,
}

impl EgressFlags {
    /// Limits for peers that never confirmed a delivery: with the profile public, a holder of the
    /// subscribers' secret may have named a third party that knows nothing of it.
    pub(crate) fn unproven(&self) -> Option<UnprovenLimits> {
        match self.profile {
            Profile::Internal => None,
            Profile::Public => Some(UnprovenLimits::default()),
        }
    }

    /// The policy of a broadcaster that listens at `listen`; `own` are listeners of its operator,
    /// which receive no posts.
    pub(crate) fn egress(&self, listen: SocketAddr, own: Vec<SocketAddr>) -> Egress {
        // A broadcaster on loopback serves this machine only, whose subscribers are on loopback,
        // too. One that others reach must not let them post to what listens here for itself.
        let listens_on_loopback = listen.ip().to_canonical().is_loopback();
        let (profile, loopback) = match self.profile {
            Profile::Internal => (EgressProfile::Internal, listens_on_loopback),
            Profile::Public => (EgressProfile::Public, false),
        };
        let mut config = EgressConfig::default();
        config.rules = self.rules.0.clone();
        config.profile = profile;
        config.loopback = self.loopback || loopback;
        config.ports = self.ports.clone();
        config.own = own;
        Egress::new(config)
    }
}

/// Rules that allow and deny, in the order of the command line.
#[derive(Clone, Debug)]
struct Rules(Vec<EgressRule>);

/// Name, action and help of the two flags that make rules.
const FLAGS: [(&str, EgressAction, &str); 2] = [
    (
        "egress-allow",
        EgressAction::Allow,
        "Allow these addresses (10.0.0.0/8, fd00::1), this host (hooks.example) or all hosts below \
         one (*.example), whatever the profile says. Of all --egress-allow and --egress-deny the \
         first that matches decides. May be given more than once",
    ),
    (
        "egress-deny",
        EgressAction::Deny,
        "Deny these addresses, this host or all hosts below one. May be given more than once",
    ),
];

// What is derived would not keep the order between the two flags.
impl Args for Rules {
    fn augment_args(command: Command) -> Command {
        command.args(FLAGS.map(|(name, _, help)| {
            Arg::new(name)
                .long(name)
                .value_name("CIDR|HOST")
                .action(ArgAction::Append)
                .value_parser(|text: &str| text.parse::<EgressPattern>())
                .help(help)
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Rules {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut rules = Vec::new();
        // Each flag has its own list; the places on the command line bring the two into one order.
        for (name, action, _) in FLAGS {
            let places = matches.indices_of(name).into_iter().flatten();
            let patterns = matches.get_many(name).into_iter().flatten().cloned();
            let own = patterns.map(|pattern| EgressRule { action, pattern });
            rules.extend(places.zip(own));
        }
        rules.sort_by_key(|(place, _)| *place);
        Ok(Self(rules.into_iter().map(|(_, rule)| rule).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
