//! The way of a call to a thread of the store, and of its answer back.
//!
//! ```text
//!   caller                     thread
//!     | Call, ticket free        |
//!     |------------------------->| takes the ticket: the caller now waits for the outcome
//!     |                          | runs, commits
//!     |<-------------------------| answers
//! ```
//!
//! A caller that gives up, or whose future is dropped, takes the ticket itself; the thread then
//! passes the call over. So a call that failed with "waited too long" was not done and will not be.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout_at;

use crate::contract::StoreError;
use crate::sqlite::failure::Failure;

/// A call as a thread of the store sees it.
pub(super) trait Job: Send {
    /// The end of its caller's wait for the database lock.
    fn deadline(&self) -> Instant;

    /// Takes it from its caller, who then waits for the answer however long that takes. `false`:
    /// the caller gave up, so it must not be done.
    fn take(&self) -> bool;

    /// `true` if its caller gave up or it was taken.
    fn is_taken(&self) -> bool;

    /// Does it.
    fn run(&mut self, connection: &Connection) -> Result<(), Failure>;

    /// Answers with what came of it, or with what made that void.
    fn answer(self: Box<Self>, void: Option<Failure>);
}

/// A call and its way back to the caller, of any result type.
struct Call<Work, Done> {
    /// Taken when it is run.
    work: Option<Work>,
    /// The outcome, kept until the transaction is committed.
    done: Option<Result<Done, Failure>>,
    deadline: Instant,
    ticket: Ticket,
    reply: oneshot::Sender<Result<Done, Failure>>,
}

impl<Work, Done> Job for Call<Work, Done>
where
    Work: FnOnce(&Connection) -> Result<Done, Failure> + Send,
    Done: Send,
{
    fn deadline(&self) -> Instant {
        self.deadline
    }

    fn take(&self) -> bool {
        self.ticket.take()
    }

    fn is_taken(&self) -> bool {
        self.ticket.0.load(Ordering::Acquire)
    }

    fn run(&mut self, connection: &Connection) -> Result<(), Failure> {
        let Some(work) = self.work.take() else {
            return Ok(());
        };
        match work(connection) {
            Ok(done) => {
                self.done = Some(Ok(done));
                Ok(())
            }
            Err(failure) => {
                self.done = Some(Err(failure.clone()));
                Err(failure)
            }
        }
    }

    fn answer(self: Box<Self>, void: Option<Failure>) {
        let answer = match void {
            Some(failure) => Err(failure),
            None => self.done.unwrap_or(Err(Failure::Stopped)),
        };
        // A caller that is gone does not care.
        let _ = self.reply.send(answer);
    }
}

/// A call belongs to its caller until somebody takes it, once.
#[derive(Clone, Debug, Default)]
struct Ticket(Arc<AtomicBool>);

impl Ticket {
    fn take(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }
}

/// A caller that goes away takes its call along.
struct Caller(Ticket);

impl Drop for Caller {
    fn drop(&mut self) {
        self.0.take();
    }
}

/// The bounded way to a thread. When it is full, callers wait.
#[derive(Debug)]
pub(super) struct Queue {
    /// Holds [`WAITING_MAX`] calls.
    jobs: mpsc::Sender<Box<dyn Job>>,
    busy_timeout: Duration,
}

impl Queue {
    /// A queue, and its end for the thread. `busy_timeout` is how long a call waits for a lock.
    pub(super) fn new(busy_timeout: Duration) -> (Self, mpsc::Receiver<Box<dyn Job>>) {
        let (jobs, receiver) = mpsc::channel(WAITING_MAX);
        (Self { jobs, busy_timeout }, receiver)
    }

    /// Has the thread do `work`. An error means that it was not done and never will be.
    pub(super) async fn call<Done: Send + 'static>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&Connection) -> Result<Done, Failure> + Send + 'static,
    ) -> Result<Done, StoreError> {
        self.call_since(Instant::now(), doing, work).await
    }

    /// [`Queue::call`] for a caller that waits since `started` already: its deadline counts from
    /// then.
    pub(super) async fn call_since<Done: Send + 'static>(
        &self,
        started: Instant,
        doing: &'static str,
        work: impl FnOnce(&Connection) -> Result<Done, Failure> + Send + 'static,
    ) -> Result<Done, StoreError> {
        let (reply, mut answer) = oneshot::channel();
        let caller = Caller(Ticket::default());
        let job = Box::new(Call {
            work: Some(work),
            done: None,
            deadline: started + self.busy_timeout,
            ticket: caller.0.clone(),
            reply,
        });
        // Two limits: the thread stops waiting for the lock at the deadline and says "locked"; this
        // later one is for a thread that does not answer at all, because it is busy or stuck.
        let patience = self.busy_timeout + GRACE;
        let give_up = tokio::time::Instant::from_std(started + patience);
        match timeout_at(give_up, self.jobs.send(job)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(Failure::Stopped.doing(doing)),
            Err(_) => return Err(Failure::Waited(patience).doing(doing)),
        }
        let answer = match timeout_at(give_up, &mut answer).await {
            Ok(answer) => answer,
            Err(_) if caller.0.take() => return Err(Failure::Waited(patience).doing(doing)),
            // It is being committed: only the thread knows the outcome.
            Err(_) => answer.await,
        };
        answer
            .unwrap_or(Err(Failure::Stopped))
            .map_err(|failure| failure.doing(doing))
    }

    /// A way to have the thread begin a transaction, without any wish for what to do in it.
    pub(super) fn nudge(&self) -> Nudge {
        Nudge(self.jobs.clone())
    }
}

/// Makes the writer begin a transaction, in which it trims the change log.
pub(super) struct Nudge(mpsc::Sender<Box<dyn Job>>);

impl Nudge {
    /// Queues an empty call without waiting.
    pub(super) fn send(&self) {
        let (reply, _) = oneshot::channel();
        // If the queue is full, transactions begin anyway.
        let _ = self.0.try_send(Box::new(Call {
            work: Some(|_: &Connection| Ok(())),
            done: None,
            deadline: Instant::now(),
            ticket: Ticket::default(),
            reply,
        }));
    }
}

/// `error` met while `doing`, as callers of the store see it.
pub(super) fn unavailable(
    doing: &'static str,
    error: impl std::error::Error + Send + Sync + 'static,
) -> StoreError {
    StoreError::Unavailable {
        doing,
        source: Box::new(error),
    }
}

/// The calls that wait in a queue before callers have to wait to get in.
pub(super) const WAITING_MAX: usize = 1024;

/// The time that a call waits for everything else, beyond the wait for the database lock.
pub(super) const GRACE: Duration = Duration::from_secs(2);
