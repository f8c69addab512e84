//! Calls that wait at the same time, made with one statement.
//!
//! A statement costs a round trip and, if it changes something durably, a wait for the disk of the
//! database. Calls that come while one statement is under way share the next. A call alone waits
//! for nothing.
//!
//! A failure of the statement is that of every call in the group. None is repeated alone: the
//! reasons, such as a server that is away, are the same for all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use httppubsub_proto::error_chain::error_chain;
use httppubsub_proto::subscription::Subscription;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::contract::StoreError;
use crate::postgres::database::{Again, Parameters, Shared};
use crate::postgres::failure::Failure;
use crate::postgres::row::{bytes, kind_of};
use crate::postgres::sql;

/// A subscription that somebody wants to add or to remove.
pub(super) struct Changing {
    pub(super) subscription: Subscription,
    /// Nothing is begun for it later than this.
    pub(super) give_up: Instant,
    /// Gets `true` if there was anything to change.
    pub(super) reply: oneshot::Sender<Result<bool, StoreError>>,
}

/// The change to make. Adding and removing have a task each, so that one never waits for the other.
#[derive(Clone, Copy)]
pub(super) enum Verb {
    Add,
    Remove,
}

/// The most subscriptions added or removed with one statement.
pub(super) const CHANGED_AT_ONCE: usize = 128;

/// Makes all changes that wait with one statement, which becomes durable with one wait for the
/// disk.
pub(super) async fn change_in_groups(
    shared: Arc<Shared>,
    mut waiting: mpsc::Receiver<Changing>,
    verb: Verb,
) {
    // In one order, so that two who do the same wait for each other once.
    let (doing, sql) = match verb {
        Verb::Add => ("adding subscriptions", sql::ADD),
        Verb::Remove => ("removing subscriptions", sql::REMOVE),
    };
    let mut group = Vec::new();
    while waiting.recv_many(&mut group, CHANGED_AT_ONCE).await > 0 {
        for late in group.extract_if(.., |it| it.give_up <= Instant::now()) {
            let _ = late.reply.send(Err(Failure::Busy.doing(doing)));
        }
        if group.is_empty() {
            continue;
        }
        // Owned, like the keys of the rows in the answer, with which they are compared.
        let key = |it: &Changing| {
            let Subscription { url, interest, .. } = &it.subscription;
            (
                bytes(url).to_vec(),
                kind_of(interest),
                interest.as_bytes().to_vec(),
            )
        };
        let mut keys = BTreeSet::new();
        let (mut urls, mut kinds) = (Vec::new(), Vec::new());
        let (mut interests, mut recoveries) = (Vec::new(), Vec::new());
        for it in &group {
            // Of two that ask for the same at once the first does it.
            if keys.insert(key(it)) {
                let Subscription {
                    url,
                    interest,
                    recovery,
                } = &it.subscription;
                urls.push(bytes(url));
                kinds.push(kind_of(interest));
                interests.push(interest.as_bytes());
                recoveries.push(recovery.as_ref().map_or(&b""[..], bytes));
            }
        }
        let parameters: Parameters<'_> = &[&urls, &kinds, &interests, &recoveries];
        // A second time would find the rows there already and tell each caller that nothing
        // changed.
        let done = shared.query(doing, Again::No, sql, parameters).await;
        let mut done = done.map(|rows| {
            let keys = rows.iter().map(|row| (row.get(0), row.get(1), row.get(2)));
            keys.collect::<BTreeSet<(Vec<u8>, i16, Vec<u8>)>>()
        });
        for it in group.drain(..) {
            let answer = match &mut done {
                Ok(done) => Ok(done.remove(&key(&it))),
                Err(error) => Err(again(doing, error)),
            };
            // A caller that is gone does not care.
            let _ = it.reply.send(answer);
        }
    }
}

/// The same failure for another who waited.
fn again(doing: &'static str, error: &StoreError) -> StoreError {
    StoreError::Unavailable {
        doing,
        source: error_chain(error).into(),
    }
}

/// A code that somebody wants to spend.
pub(super) struct Spending {
    /// The first 16 bytes of the code of an authorization, which tell it from all others.
    pub(super) code: [u8; 16],
    /// The time for which it must not be spent again.
    pub(super) memory: Duration,
    /// Nothing is begun for it later than this.
    pub(super) give_up: Instant,
    pub(super) reply: oneshot::Sender<Result<bool, StoreError>>,
}

/// The most codes spent with one statement.
pub(super) const SPENT_AT_ONCE: usize = 1_024;

/// Spends all codes that wait with one statement. It does not wait for the disk: what a crash of
/// the database server may undo are the last moments before it.
pub(super) async fn spend_in_groups(shared: Arc<Shared>, mut spendings: mpsc::Receiver<Spending>) {
    let sql = sql::SPEND;
    let mut group = Vec::new();
    while spendings.recv_many(&mut group, SPENT_AT_ONCE).await > 0 {
        for late in group.extract_if(.., |it| it.give_up <= Instant::now()) {
            let _ = late
                .reply
                .send(Err(Failure::Busy.doing("spending authorizations")));
        }
        // Of two that spend the same the second is refused by its caller, which remembers codes.
        let all: BTreeMap<_, _> = group.iter().map(|it| (&it.code[..], it.memory)).collect();
        let codes: Vec<_> = all.keys().copied().collect();
        let seconds: Vec<_> = all.values().map(Duration::as_secs_f64).collect();
        let doing = "spending authorizations";
        let parameters: Parameters<'_> = &[&codes, &shared.spender, &seconds];
        // This store may spend the same again: it is asked only if the first time came to nothing.
        let spent = shared.query(doing, Again::Harmless, sql, parameters).await;
        let spent = spent.map(|rows| {
            let codes = rows.iter().map(|row| row.get::<_, Vec<u8>>(0));
            codes.collect::<BTreeSet<_>>()
        });
        for Spending { code, reply, .. } in group.drain(..) {
            // A caller that is gone does not care.
            let _ = reply.send(match &spent {
                Ok(spent) => Ok(spent.contains(&code[..])),
                Err(error) => Err(again(doing, error)),
            });
        }
    }
}
