//! The end of a client that has a websocket, and its deadline.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A client is closed as soon as nothing is under way, and when that takes too long.
#[derive(Debug)]
pub(crate) struct Closing {
    begins: CancellationToken,
    timeout: Duration,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    NotBegun,
    Begun { until: Instant },
    Over,
}

impl Closing {
    /// Begins when the token is cancelled, and takes at most so long.
    pub(crate) fn new(begins: CancellationToken, timeout: Duration) -> Self {
        Self {
            begins,
            timeout,
            state: State::NotBegun,
        }
    }

    /// Waits until it has begun, and then until it has taken too long. May be dropped at any time.
    pub(crate) async fn change(&mut self) {
        match self.state {
            State::NotBegun => {
                self.begins.cancelled().await;
                // Counted from when it began, not from when somebody looked.
                let until = Instant::now() + self.timeout;
                self.state = State::Begun { until };
            }
            State::Begun { until } => {
                tokio::time::sleep_until(until).await;
                self.state = State::Over;
            }
            State::Over => std::future::pending().await,
        }
    }

    /// `true` once the client is being closed.
    pub(crate) fn has_begun(&self) -> bool {
        !matches!(self.state, State::NotBegun)
    }

    /// `true` if the client is to end now. `is_under_way` is `true` if something is to be finished.
    pub(crate) fn is_over(&self, is_under_way: bool) -> bool {
        match self.state {
            State::NotBegun => false,
            State::Begun { .. } => !is_under_way,
            State::Over => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_under_way_is_waited_for_and_not_longer_than_said() {
        let token = CancellationToken::new();
        let mut closing = Closing::new(token.clone(), Duration::from_secs(5));
        assert!(!closing.is_over(false));
        token.cancel();
        closing.change().await;
        assert!(closing.is_over(false));
        assert!(!closing.is_over(true));
        let begun = Instant::now();
        closing.change().await;
        assert_eq!(begun.elapsed(), Duration::from_secs(5));
        assert!(closing.is_over(true));
    }
}
