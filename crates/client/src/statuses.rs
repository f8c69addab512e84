//! The status of a client's connection, and its changes.

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::receive::message::ConnectionStatus;

/// The status of a client's connection, and its changes. Changes that are undone before they are
/// looked at go unnoticed.
#[derive(Clone, Debug)]
pub struct Statuses(StatusesOf);

/// By transport: only a websocket has a status that changes before the end.
#[derive(Clone, Debug)]
enum StatusesOf {
    Link {
        status: watch::Receiver<ConnectionStatus>,
        told: Option<ConnectionStatus>,
    },
    Http {
        stopped: CancellationToken,
        told: Option<ConnectionStatus>,
    },
}

impl Statuses {
    /// Of a client with a websocket, whose status is this.
    pub(crate) fn of_link(status: watch::Receiver<ConnectionStatus>) -> Self {
        Self(StatusesOf::Link { status, told: None })
    }

    /// Of a client without one, which is stopped when `stopped` is cancelled.
    pub(crate) fn of_http(stopped: CancellationToken) -> Self {
        Self(StatusesOf::Http {
            stopped,
            told: None,
        })
    }

    /// The status now, then each change of it; `None` after the last one.
    /// It may be dropped at any time without losing anything.
    pub async fn next(&mut self) -> Option<ConnectionStatus> {
        match &mut self.0 {
            StatusesOf::Link { status, told } => {
                // Without a task that keeps the websocket there will be none.
                let is_abandoned = told.is_some() && status.changed().await.is_err();
                *told = match (is_abandoned, &told) {
                    (true, Some(ConnectionStatus::Abandoned)) => return None,
                    (true, _) => Some(ConnectionStatus::Abandoned),
                    (false, _) => Some(*status.borrow_and_update()),
                };
                *told
            }
            StatusesOf::Http { stopped, told } => {
                match told {
                    None if !stopped.is_cancelled() => *told = Some(ConnectionStatus::Ok),
                    Some(ConnectionStatus::Abandoned) => return None,
                    None | Some(ConnectionStatus::Ok | ConnectionStatus::Lost) => {
                        stopped.cancelled().await;
                        *told = Some(ConnectionStatus::Abandoned);
                    }
                }
                *told
            }
        }
    }

    /// Waits until the connection is so; whether it ever is.
    pub async fn wait_for(&mut self, status: ConnectionStatus) -> bool {
        while let Some(now) = self.next().await {
            if now == status {
                return true;
            }
        }
        false
    }
}
