//! The program `httppubsub`.
fn main() {}
