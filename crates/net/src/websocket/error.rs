//! Errors of websockets.

use std::io;
use std::time::Duration;

use http::StatusCode;
use httppubsub_proto::error_chain::error_chain;
use httppubsub_proto::session::close_code;

/// Failure of a websocket. It is closed as far as can be; nothing more comes.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The connection, or what came over it.
    #[error("the websocket failed: {0}")]
    Broken(String),
    /// A text message.
    #[error("the peer sent a text message")]
    Text,
    /// More than this end reads.
    #[error("the peer sent a message of more than {max} bytes")]
    TooLong {
        /// The bound, in bytes.
        max: usize,
    },
    /// A message of which some is here comes too slowly.
    #[error("the peer sent {bytes} bytes of a message in {within:?}")]
    TooSlow {
        /// The bytes of it that came.
        bytes: u64,
        /// In which time.
        within: Duration,
    },
    /// Frames that carry nothing: empty ones, pings and pongs.
    #[error("the peer sends nothing but frames without content")]
    Idle,
    /// For a message of which some is here there is no memory.
    #[error("there was no memory for a message for {0:?}")]
    NoRoom(Duration),
    /// Nothing came, not even the answer to a ping.
    #[error("the peer answered no ping for {0:?}")]
    Silent(Duration),
    /// The peer does not read.
    #[error("the peer took nothing for {0:?}")]
    NotReading(Duration),
    /// The body of what was to be sent cannot be read.
    #[error("cannot read what is to be sent: {0}")]
    Body(io::Error),
}

/// Failure to open a websocket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Not `ws://…` or `wss://…` of a host.
    #[error("{url:?} is not the url of a websocket: {problem}")]
    Url {
        /// The url as given, without what may be secret of it.
        url: String,
        /// The problem with it.
        problem: String,
    },
    /// No connection, or no TLS over it.
    #[error("cannot connect: {}", error_chain(.0))]
    Connect(io::Error),
    /// The peer does not speak websocket here.
    #[error("the websocket handshake failed: {0}")]
    Handshake(String),
    /// The peer answers as one that does not open a websocket.
    #[error("the websocket handshake failed: the answer is {0}")]
    Refused(StatusCode),
    /// It took too long.
    #[error("no websocket within {0:?}")]
    TooLate(Duration),
}

impl SocketError {
    /// Code of the close frame that tells the peer, where one can.
    pub fn close_code(&self) -> Option<u16> {
        match self {
            Self::Text => Some(close_code::UNSUPPORTED),
            Self::TooSlow { .. } | Self::Idle => Some(close_code::POLICY),
            Self::TooLong { .. } => Some(close_code::TOO_LONG),
            Self::NoRoom(_) => Some(close_code::TRY_LATER),
            Self::Body(_) => Some(close_code::OUR_FAULT),
            Self::Broken(_) | Self::Silent(_) | Self::NotReading(_) => None,
        }
    }
}
