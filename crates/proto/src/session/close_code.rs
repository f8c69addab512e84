//! Codes of close frames (RFC 6455 §7.4.1) that both ends send and understand.

/// The connection has done what it was for.
pub const NORMAL: u16 = 1000;
/// This end stops.
pub const GOING_AWAY: u16 = 1001;
/// The peer broke the protocol.
pub const PROTOCOL: u16 = 1002;
/// The peer sent a kind of message that this end does not read.
pub const UNSUPPORTED: u16 = 1003;
/// The peer is not authorized, too slow, or asks for what this end does not do.
pub const POLICY: u16 = 1008;
/// The peer sent a message that is longer than this end reads.
pub const TOO_LONG: u16 = 1009;
/// This end failed.
pub const OUR_FAULT: u16 = 1011;
/// This end cannot do it now, and may later.
pub const TRY_LATER: u16 = 1013;
