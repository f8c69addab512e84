//! Our binary and the published Python packages, in every combination.
//!
//! `published` needs only the packages; the rest needs `cargo build -p httppubsub-cli` first.

/// Makes a module of tests, one for each of these ways to authorize, out of a function that takes
/// one.
macro_rules! for_each_auth {
    ($promise:ident, [$($name:ident = $auth:ident),+], $check:expr) => {
        mod $promise {
            $(
                #[test]
                fn $name() {
                    ($check)(httppubsub_interop::Auth::$auth);
                }
            )+
        }
    };
}

mod authorization;
mod cluster;
mod conversation;
mod large;
mod missed;
mod published;
mod store;
mod subscriptions;
mod websockets;
