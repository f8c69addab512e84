//! Cases of the feed of changes.

use std::sync::Arc;

use crate::conformance::cases::{
    claim, exact, glob, missed, removed, set_of, settle, subscribe, unsubscribe, url, watch,
};
use crate::contract::{Change, NoticeOutcome, Store, Subscribed};

pub(super) async fn a_watcher_is_told_what_there_is(store: Arc<dyn Store>) {
    let there = [exact("u", "a", None), glob("u", "a*", Some("r"))];
    for it in &there {
        subscribe(&store, it).await;
    }
    let mirror = watch(&store).await;
    assert_eq!(mirror.subscriptions(), there);
    let told = mirror.take_changes();
    assert!(matches!(told.first(), Some(Change::ReloadBegan { .. })));
    assert_eq!(told.last(), Some(&Change::ReloadEnded));
    assert_eq!(told.len(), 4);
}

pub(super) async fn a_watcher_is_told_of_each_change_in_order_before_the_call_returns(
    store: Arc<dyn Store>,
) {
    let mirror = watch(&store).await;
    let (exacts, globs) = (0, 0);
    assert_eq!(
        mirror.take_changes(),
        [Change::ReloadBegan { exacts, globs }, Change::ReloadEnded]
    );
    let (one, other) = (exact("u", "a", Some("r")), glob("u", "a", None));
    for it in [&one, &other] {
        subscribe(&store, it).await;
        assert_eq!(mirror.take_changes(), [Change::Added(it.clone())]);
    }
    unsubscribe(&store, &one).await;
    assert_eq!(mirror.take_changes(), [removed(&one)]);

    let moved = glob("u", "a", Some("r2"));
    store
        .set(url("u"), set_of(&[&moved, &one]))
        .await
        .expect("a set");
    let mut told = mirror.take_changes();
    told.sort_by_key(|change| *change != Change::Added(one.clone()));
    assert_eq!(
        told,
        [Change::Added(one.clone()), Change::Added(moved.clone())]
    );
    assert_eq!(mirror.subscriptions(), [one.clone(), moved.clone()]);

    store.set(url("u"), set_of(&[&moved])).await.expect("a set");
    assert_eq!(mirror.take_changes(), [removed(&one)]);
    assert_eq!(mirror.subscriptions(), [moved]);
}

pub(super) async fn what_changes_nothing_is_not_told(store: Arc<dyn Store>) {
    let it = exact("u", "a", Some("r"));
    subscribe(&store, &it).await;
    let mirror = watch(&store).await;
    mirror.take_changes();
    assert_eq!(
        store.subscribe(it.clone()).await.expect("an answer"),
        Subscribed::Existed
    );
    store
        .unsubscribe(url("u"), glob("u", "a", None).interest)
        .await
        .expect("an answer");
    store.set(url("u"), set_of(&[&it])).await.expect("a set");
    store
        .record_missed(missed(&it, "a", 10.0))
        .await
        .expect("a notice");
    let claimed = claim(&store, 10.0).await;
    settle(&store, &claimed[0], NoticeOutcome::Done).await;
    store.catch_up().await.expect("caught up");
    assert_eq!(mirror.take_changes(), []);
    assert_eq!(mirror.subscriptions(), [it]);
}

pub(super) async fn catching_up_tells_nothing_twice(store: Arc<dyn Store>) {
    store.catch_up().await.expect("nobody watches");
    let mirror = watch(&store).await;
    subscribe(&store, &exact("u", "a", None)).await;
    mirror.take_changes();
    for _ in 0..3 {
        store.catch_up().await.expect("caught up");
    }
    assert_eq!(mirror.take_changes(), []);
}
