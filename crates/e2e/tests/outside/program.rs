//! Faults of `httppubsub serve` as a process.
//!
//! | fault | test |
//! |---|---|
//! | secrets-typo | crates/proto/tests/secrets.rs | secrets_typo_is_no_wish_to_go_without_authorization |
