//! Notifications on their way in over one session, judged by their heads and taken part by part.
//!
//! A notification that is refused still comes: the protocol has no way to stop a publisher in the
//! middle. Its parts are read and thrown away, and the refusal is its answer.

use std::error::Error;
use std::sync::Arc;

use httppubsub_net::body::{FillError, Spool};
use httppubsub_net::error_chain;
use httppubsub_net::websocket::{Arrived, Incoming, IncomingParts};
use httppubsub_proto::auth::{AuthError, Unspent};
use httppubsub_proto::session::{NotifyPart, NotifyTicket, SessionError};
use httppubsub_proto::stateful::{BodyHead, Refusal};

use crate::cluster::replay::Spending;
use crate::hub::member::Member;
use crate::websocket::sessions::Sessions;

/// Takes notifications in.
pub(crate) struct Arrivals {
    /// The use case that judges lengths, the replay guard and the clock.
    sessions: Arc<Sessions>,
    /// For the log.
    member: Arc<Member>,
    /// The share of the spool that its peer's bytes take room of.
    pub(crate) spool: Spool,
    /// The authorizations that this session spent: it has a share of what is remembered.
    spending: Spending,
    /// The notification that arrives in parts.
    parts: IncomingParts<Refusal>,
}

/// A notification of which all is here, or came and was refused.
pub(crate) type Notified = Arrived<NotifyTicket, Refusal>;

/// Authorizations are remembered for a while, and one connection gets a share of the room for that.
#[derive(Debug, thiserror::Error)]
#[error("it spent so many authorizations that there is as little room for those of others")]
struct SpentTooMany;

impl Arrivals {
    /// Nothing has arrived yet.
    pub(crate) fn new(sessions: Arc<Sessions>, member: Arc<Member>, spool: Spool) -> Self {
        Self {
            sessions,
            member,
            spool,
            spending: Spending::default(),
            parts: IncomingParts::default(),
        }
    }

    /// Takes a part of a notification in. Returns the notification with its last part. An error
    /// ends the session; a refusal is inside of what is returned.
    pub(crate) async fn take(
        &mut self,
        part: NotifyPart,
    ) -> Result<Option<Notified>, SessionError> {
        let NotifyPart {
            streamed,
            begins,
            bytes,
            unspent,
            ends,
        } = part;
        let begins = match begins {
            // Only the first part is authorized by a code that is spent; later ones are bound to
            // it.
            Some((topic, head)) => {
                let what = if streamed { "NOTIFY_STREAM" } else { "NOTIFY" };
                let refusal = self.judge(what, unspent, &head).await?;
                Some(match refusal {
                    Some(refusal) => Incoming::refused(topic, head, refusal),
                    None => Incoming::new(topic, head, &self.spool, |error| {
                        Ok(refuse(&self.member, &error))
                    })?,
                })
            }
            None => None,
        };
        let member = &self.member;
        let refuse = |error| Ok(refuse(member, &error));
        self.parts.take(begins, bytes, ends, refuse).await
    }

    /// Judges a notification by its head. Returns the reason why it is refused, if it is.
    async fn judge(
        &mut self,
        what: &'static str,
        unspent: Option<Unspent>,
        head: &BodyHead,
    ) -> Result<Option<Refusal>, SessionError> {
        if let Some(unspent) = unspent {
            let guard = self.sessions.replay.guard();
            if !self.spending.has_share(guard, self.sessions.clock.now()) {
                self.log_refusal(&SpentTooMany);
                return Ok(Some(Refusal::NotNow));
            }
            match self.spend(what, unspent).await {
                Ok(()) => {}
                Err(
                    error @ SessionError::Auth {
                        source: AuthError::Unavailable(_),
                        ..
                    },
                ) => {
                    self.log_refusal(&error);
                    return Ok(Some(Refusal::NotNow));
                }
                Err(error) => return Err(error),
            }
        }
        // Judged before any of it is taken, by what it promises: a body beyond that is refused.
        // Either form may be the longer one, and both are held at once while it is decompressed.
        let longer = head.compressed_length.max(head.decompressed_length);
        if let Err(error) = self.sessions.notify.judge_length(longer) {
            self.log_refusal(&error);
            return Ok(Some(Refusal::TooLong));
        }
        Ok(None)
    }

    /// Spends the authorization of a `what`, and counts it for this session.
    pub(crate) async fn spend(
        &mut self,
        what: &'static str,
        unspent: Unspent,
    ) -> Result<(), SessionError> {
        let now = self.sessions.clock.now();
        let spent = self.sessions.replay.spend(unspent, now).await;
        // A code that was used before ends the session: somebody repeats what another has sent.
        let spent = spent.map_err(|source| SessionError::Auth { what, source })?;
        if spent.code().is_some() {
            self.spending.spent(now);
        }
        Ok(())
    }

    /// Says in the log why a notification is refused.
    pub(crate) fn log_refusal(&self, error: &dyn Error) {
        log_refusal(&self.member, error);
    }
}

/// The refusal of a notification whose body could not be taken.
fn refuse(member: &Member, error: &FillError) -> Refusal {
    log_refusal(member, error);
    match error {
        FillError::Spool(_) => Refusal::NotNow,
        FillError::Body(_) | FillError::Length { .. } | FillError::Digest { .. } => {
            Refusal::NotAsAnnounced
        }
    }
}

/// The publisher hears the reason as a word of [`Refusal`], the operator as it is.
fn log_refusal(member: &Member, error: &dyn Error) {
    let (peer, reason) = (member.peer(), error_chain(error));
    tracing::info!(peer, reason, "a notification over a websocket is not taken");
}
