//! Policy and means of connecting to others: rules, names and their addresses, TLS.
//!
//! Urls come from subscribers, who are strangers to the operator of a broadcaster. What they may
//! make it connect to is decided here, in this order:
//!
//! 1. the url is judged by what it says ([`Egress::judge_url`]): port, address, rules about names;
//! 2. its name is resolved ([`resolve`]), with threads that names without an answer cannot use up;
//! 3. every address is judged ([`Egress::judge_address`]), and only allowed ones are connected to;
//! 4. TLS verifies the name of the url, if its scheme wants that.
//!
//! Steps 2 to 4 are done for each connection, so a name that changes its answer is judged again.
//! `docs/egress.md` is for the operator who sets the rules.

pub(crate) mod class;
pub(crate) mod dial;
pub(crate) mod names;
pub(crate) mod policy;
pub(crate) mod rule;
#[cfg(feature = "tls")]
pub(crate) mod tls;
#[cfg(not(feature = "tls"))]
#[path = "no_tls.rs"]
pub(crate) mod tls;

pub use names::{LookUps, look_ups, resolve};
pub use policy::{Allowed, Egress, EgressConfig, EgressProfile, Forbidden};
pub use rule::{EgressAction, EgressPattern, EgressRule, NotAPattern};
pub use tls::HAS_TLS;
