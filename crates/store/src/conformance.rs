//! What every backend must do, as tests that any of them can be put through.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use httppubsub_proto::glob::GlobPattern;
use httppubsub_proto::limits::FIELD_BYTES_MAX;
use httppubsub_proto::subscription::{Interest, Subscription, SubscriptionSet};
use httppubsub_proto::time::Now;
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::SubscriberUrl;
use tokio::task::JoinSet;

use crate::store::{
    Change, Changed, ClaimedNotice, InFlight, Missed, NoticeOutcome, Observer, Store, Subscribed,
    Unsubscribed,
};

/// Runs every case against a store of its own, which `make` makes empty and unwatched. Panics
/// where one does not keep a promise of [`Store`]. Needs a tokio runtime.
pub async fn run(make: impl AsyncFn() -> Arc<dyn Store>) {
    macro_rules! cases {
        ($($case:ident,)*) => {$(
            tracing::info!(case = stringify!($case));
            $case(make().await).await;
        )*};
    }
    cases! {
        a_watcher_is_told_what_there_is,
        a_watcher_is_told_of_each_change_in_order_before_the_call_returns,
        what_changes_nothing_is_not_told,
        catching_up_tells_nothing_twice,
        subscribing_again_changes_nothing,
        a_topic_and_a_glob_of_the_same_bytes_are_two_interests,
        urls_are_compared_byte_for_byte,
        fields_hold_all_that_the_wire_can_say,
        an_empty_recovery_url_is_none,
        of_many_who_subscribe_at_once_one_adds,
        unsubscribing_removes_that_one_only,
        the_etag_of_an_unknown_url_is_that_of_no_subscriptions,
        the_etag_is_of_the_rows_in_the_order_of_their_bytes,
        the_etag_changes_with_the_recovery_url,
        a_set_leaves_exactly_what_it_lists,
        a_set_leaves_other_urls_alone,
        a_set_repeated_changes_nothing,
        a_set_keeps_the_notices_of_what_stays,
        a_set_without_a_recovery_url_ends_the_notice,
        a_large_set_is_applied_whole,
        a_notice_is_due_from_its_second_on,
        a_notice_says_what_was_missed_and_where_to_say_it,
        a_notice_needs_a_subscription_with_a_recovery_url,
        notices_are_claimed_earliest_first_up_to_the_limit,
        a_held_notice_is_not_claimed_again_before_the_lease_has_passed,
        a_later_miss_replaces_the_notice,
        a_notice_that_is_done_is_owed_no_more,
        a_notice_that_is_retried_counts_its_attempts,
        a_settlement_by_who_does_not_hold_the_notice_does_nothing,
        a_notice_ends_with_its_subscription,
        missed_never_removes_a_subscription,
        what_is_in_flight_is_found_by_its_broadcaster_and_later_by_anybody,
        the_next_notice_is_the_earliest_that_can_be_claimed,
    }
}

async fn a_watcher_is_told_what_there_is(store: Arc<dyn Store>) {
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

async fn a_watcher_is_told_of_each_change_in_order_before_the_call_returns(store: Arc<dyn Store>) {
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

async fn what_changes_nothing_is_not_told(store: Arc<dyn Store>) {
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

async fn catching_up_tells_nothing_twice(store: Arc<dyn Store>) {
    store.catch_up().await.expect("nobody watches");
    let mirror = watch(&store).await;
    subscribe(&store, &exact("u", "a", None)).await;
    mirror.take_changes();
    for _ in 0..3 {
        store.catch_up().await.expect("caught up");
    }
    assert_eq!(mirror.take_changes(), []);
}

async fn subscribing_again_changes_nothing(store: Arc<dyn Store>) {
    let first = exact("u", "a", Some("r"));
    subscribe(&store, &first).await;
    for again in [
        exact("u", "a", Some("r2")),
        exact("u", "a", None),
        first.clone(),
    ] {
        assert_eq!(
            store.subscribe(again).await.expect("an answer"),
            Subscribed::Existed
        );
    }
    check_etag(&store, "u", &[&first]).await;
}

async fn a_topic_and_a_glob_of_the_same_bytes_are_two_interests(store: Arc<dyn Store>) {
    let (topic, pattern) = (exact("u", "a", None), glob("u", "a", None));
    subscribe(&store, &topic).await;
    subscribe(&store, &pattern).await;
    check_etag(&store, "u", &[&topic, &pattern]).await;
    unsubscribe(&store, &topic).await;
    check_etag(&store, "u", &[&pattern]).await;
}

async fn urls_are_compared_byte_for_byte(store: Arc<dyn Store>) {
    let spellings = [
        "http://host/a",
        "http://HOST/a",
        "http://host/a#1",
        "http://host/%61",
        "",
        "\0",
    ];
    for spelling in spellings {
        subscribe(&store, &exact(spelling, "a", None)).await;
    }
    for spelling in spellings {
        check_etag(&store, spelling, &[&exact(spelling, "a", None)]).await;
    }
}

async fn fields_hold_all_that_the_wire_can_say(store: Arc<dyn Store>) {
    let long = "x".repeat(FIELD_BYTES_MAX);
    let mut all = vec![
        exact("u", "", Some("not a url")),
        exact("u", b"a\0b", Some("\0")),
        exact("u", b"a\0c", None),
        exact("u", b"\xff\xfe", Some("r\u{ffff}")),
        exact("u", &long, Some(&long)),
        glob("u", "", None),
        glob("u", "a\0b", None),
        glob("u", "a\0c", None),
        glob("u", "[", Some("r")),
        glob("u", &long, Some(&long)),
        exact(&long, "a", None),
    ];
    for it in &all {
        subscribe(&store, it).await;
    }
    all.sort();
    assert_eq!(watch(&store).await.subscriptions(), all);
    let of_u: Vec<_> = all.iter().filter(|it| it.url == url("u")).collect();
    check_etag(&store, "u", &of_u).await;
    for it in &all {
        unsubscribe(&store, it).await;
    }
}

async fn an_empty_recovery_url_is_none(store: Arc<dyn Store>) {
    let mirror = watch(&store).await;
    let (empty, none) = (exact("u", "a", Some("")), exact("u", "a", None));
    subscribe(&store, &empty).await;
    assert_eq!(mirror.subscriptions(), std::slice::from_ref(&none));
    let changed = store.set(url("u"), set_of(&[&empty])).await.expect("a set");
    assert_eq!(changed, Changed::default());
    store
        .record_missed(missed(&none, "a", 10.0))
        .await
        .expect("nothing to do");
    assert_eq!(store.next_missed().await.expect("an answer"), None);
}

async fn of_many_who_subscribe_at_once_one_adds(store: Arc<dyn Store>) {
    let mirror = watch(&store).await;
    let mut calls = JoinSet::new();
    for n in 0..100 {
        let store = store.clone();
        calls.spawn(async move {
            store
                .subscribe(exact("u", format!("{}", n % 4), None))
                .await
        });
    }
    let answers = calls.join_all().await;
    let added = answers
        .iter()
        .filter(|it| matches!(it, Ok(Subscribed::Added)))
        .count();
    let existed = answers
        .iter()
        .filter(|it| matches!(it, Ok(Subscribed::Existed)))
        .count();
    assert_eq!((added, existed), (4, 96));
    assert_eq!(mirror.subscriptions().len(), 4);
}

async fn unsubscribing_removes_that_one_only(store: Arc<dyn Store>) {
    let all = [
        exact("u", "a", None),
        exact("u", "b", None),
        exact("v", "a", None),
    ];
    for it in &all {
        subscribe(&store, it).await;
    }
    let mirror = watch(&store).await;
    unsubscribe(&store, &all[0]).await;
    let again = store
        .unsubscribe(url("u"), all[0].interest.clone())
        .await
        .expect("an answer");
    assert_eq!(again, Unsubscribed::Absent);
    assert_eq!(mirror.subscriptions(), all[1..]);
    subscribe(&store, &all[0]).await;
    assert_eq!(mirror.subscriptions(), all);
}

async fn the_etag_of_an_unknown_url_is_that_of_no_subscriptions(store: Arc<dyn Store>) {
    check_etag(&store, "u", &[]).await;
    let it = exact("u", "a", None);
    subscribe(&store, &it).await;
    unsubscribe(&store, &it).await;
    check_etag(&store, "u", &[]).await;
}

async fn the_etag_is_of_the_rows_in_the_order_of_their_bytes(store: Arc<dyn Store>) {
    // In UTF-16 U+10000 comes before U+FFFF, by signed bytes 0x80 before 0x7f.
    let topics: [&[u8]; 7] = [b"\x80", b"ab", b"\x7f", b"", b"a", b"a\0", b"B"];
    let globs = ["\u{10000}", "b", "\u{ffff}", "", "a", "a*", "B"];
    let mut all = Vec::new();
    for (topic, pattern) in topics.into_iter().zip(globs) {
        all.extend([exact("u", topic, None), glob("u", pattern, Some("r"))]);
    }
    for it in &all {
        subscribe(&store, it).await;
    }
    subscribe(&store, &exact("t", "z", None)).await;
    subscribe(&store, &exact("v", "", None)).await;
    check_etag(&store, "u", &all.iter().collect::<Vec<_>>()).await;
}

async fn the_etag_changes_with_the_recovery_url(store: Arc<dyn Store>) {
    for recovery in [None, Some("r"), Some("r2"), None] {
        let it = exact("u", "a", recovery);
        store.set(url("u"), set_of(&[&it])).await.expect("a set");
        check_etag(&store, "u", &[&it]).await;
    }
}

async fn a_set_leaves_exactly_what_it_lists(store: Arc<dyn Store>) {
    let mirror = watch(&store).await;
    let before = [
        exact("u", "gone first", None),
        exact("u", "stays", Some("r")),
        exact("u", "moves", Some("r")),
        exact("u", "zz gone last", None),
        glob("u", "stays*", None),
        glob("u", "gone*", None),
    ];
    let after = [
        exact("u", "comes", None),
        exact("u", "moves", Some("r2")),
        exact("u", "stays", Some("r")),
        glob("u", "comes*", Some("r")),
        glob("u", "stays*", None),
    ];
    for it in &before {
        subscribe(&store, it).await;
    }
    let wanted = set_of(&after.each_ref());
    let changed = store.set(url("u"), wanted).await.expect("a set");
    assert_eq!(
        changed,
        Changed {
            added: 2,
            removed: 3,
            updated: 1
        }
    );
    assert_eq!(mirror.subscriptions(), after);
    check_etag(&store, "u", &after.each_ref()).await;

    let changed = store
        .set(url("u"), SubscriptionSet::default())
        .await
        .expect("a set");
    assert_eq!(
        changed,
        Changed {
            added: 0,
            removed: 5,
            updated: 0
        }
    );
    assert_eq!(mirror.subscriptions(), []);
    check_etag(&store, "u", &[]).await;
}

async fn a_set_leaves_other_urls_alone(store: Arc<dyn Store>) {
    let mirror = watch(&store).await;
    let others = [exact("t", "a", None), glob("u2", "a", None)];
    for it in &others {
        subscribe(&store, it).await;
    }
    store
        .set(url("u"), set_of(&[&exact("u", "a", None)]))
        .await
        .expect("a set");
    store
        .set(url("u"), SubscriptionSet::default())
        .await
        .expect("a set");
    assert_eq!(mirror.subscriptions(), others);
}

async fn a_set_repeated_changes_nothing(store: Arc<dyn Store>) {
    let mirror = watch(&store).await;
    let all = [
        exact("u", "a", None),
        exact("u", "b", Some("r")),
        glob("u", "*", Some("r")),
    ];
    let wanted = set_of(&all.each_ref());
    store.set(url("u"), wanted.clone()).await.expect("a set");
    mirror.take_changes();
    let changed = store.set(url("u"), wanted).await.expect("a set");
    assert_eq!(changed, Changed::default());
    assert_eq!(mirror.take_changes(), []);
}

async fn a_set_keeps_the_notices_of_what_stays(store: Arc<dyn Store>) {
    let (stays, moves) = (exact("u", "a", Some("r")), glob("u", "b*", Some("r")));
    for (it, topic) in [(&stays, "a"), (&moves, "bc")] {
        subscribe(&store, it).await;
        store
            .record_missed(missed(it, topic, 10.0))
            .await
            .expect("a notice");
    }
    let moved = glob("u", "b*", Some("r2"));
    store
        .set(url("u"), set_of(&[&stays, &moved]))
        .await
        .expect("a set");
    let mut claimed = claim(&store, 10.0).await;
    claimed.sort_by(|one, other| one.interest.cmp(&other.interest));
    assert_eq!(claimed.len(), 2);
    assert_eq!(
        (&claimed[0].interest, &claimed[0].recovery),
        (&stays.interest, &url("r"))
    );
    assert_eq!(
        (&claimed[1].interest, &claimed[1].recovery),
        (&moved.interest, &url("r2"))
    );
    assert_eq!(claimed[1].topic, topic("bc"));

    // The hold, too, outlives a set.
    store
        .set(url("u"), set_of(&[&stays, &moves]))
        .await
        .expect("a set");
    settle(&store, &claimed[1], NoticeOutcome::Done).await;
    settle(&store, &claimed[0], NoticeOutcome::Done).await;
    assert_eq!(store.next_missed().await.expect("an answer"), None);
}

async fn a_set_without_a_recovery_url_ends_the_notice(store: Arc<dyn Store>) {
    for it in [exact("u", "a", Some("r")), glob("u", "a", Some("r"))] {
        subscribe(&store, &it).await;
        store
            .record_missed(missed(&it, "a", 10.0))
            .await
            .expect("a notice");
        let silent = Subscription {
            recovery: None,
            ..it.clone()
        };
        store
            .set(url("u"), set_of(&[&silent]))
            .await
            .expect("a set");
        assert_eq!(store.next_missed().await.expect("an answer"), None);
        assert_eq!(claim(&store, 1000.0).await, []);
        store.set(url("u"), set_of(&[&it])).await.expect("a set");
        assert_eq!(store.next_missed().await.expect("an answer"), None);
        unsubscribe(&store, &it).await;
    }
}

async fn a_large_set_is_applied_whole(store: Arc<dyn Store>) {
    let mirror = watch(&store).await;
    let numbered = |step: usize| -> Vec<Subscription> {
        let exacts = (0..3000)
            .step_by(step)
            .map(|n| exact("u", format!("{n:05}"), Some("r")));
        let globs = (0..3000)
            .step_by(step)
            .map(|n| glob("u", &format!("{n:05}*"), None));
        exacts.chain(globs).collect()
    };
    for step in [1, 2, 3, 1] {
        let all = numbered(step);
        let all: Vec<_> = all.iter().collect();
        store.set(url("u"), set_of(&all)).await.expect("a set");
        check_etag(&store, "u", &all).await;
        assert_eq!(mirror.subscriptions().iter().collect::<Vec<_>>(), all);
    }
}

async fn a_notice_is_due_from_its_second_on(store: Arc<dyn Store>) {
    let it = exact("u", "a", Some("r"));
    subscribe(&store, &it).await;
    store
        .record_missed(missed(&it, "a", 10.25))
        .await
        .expect("a notice");
    assert_eq!(
        store.next_missed().await.expect("an answer"),
        Some(at(11.0))
    );
    assert_eq!(claim(&store, 10.75).await, []);
    assert_eq!(claim(&store, 11.0).await.len(), 1);
}

async fn a_notice_says_what_was_missed_and_where_to_say_it(store: Arc<dyn Store>) {
    let (one, other) = (exact("u", b"a\xff", Some("r")), glob("v", "b*", Some("r2")));
    for it in [&one, &other] {
        subscribe(&store, it).await;
        store
            .record_missed(missed(it, b"b\xfe", 10.0))
            .await
            .expect("a notice");
    }
    let mut claimed = claim(&store, 10.0).await;
    claimed.sort_by(|one, other| one.interest.cmp(&other.interest));
    let want = |it: &Subscription, topic: Topic, lock: i64| ClaimedNotice {
        url: it.url.clone(),
        interest: it.interest.clone(),
        recovery: it.recovery.clone().expect("it has one"),
        topic,
        attempts: 0,
        lock,
    };
    // An exact subscription cannot have missed any other topic.
    assert_eq!(claimed[0], want(&one, topic(b"a\xff"), claimed[0].lock));
    assert_eq!(claimed[1], want(&other, topic(b"b\xfe"), claimed[1].lock));
}

async fn a_notice_needs_a_subscription_with_a_recovery_url(store: Arc<dyn Store>) {
    let silent = exact("u", "a", None);
    subscribe(&store, &silent).await;
    for it in [
        silent,
        exact("u", "b", Some("r")),
        glob("u", "a", Some("r")),
    ] {
        store
            .record_missed(missed(&it, "a", 10.0))
            .await
            .expect("nothing to do");
    }
    assert_eq!(store.next_missed().await.expect("an answer"), None);
    assert_eq!(claim(&store, 1000.0).await, []);
}

async fn notices_are_claimed_earliest_first_up_to_the_limit(store: Arc<dyn Store>) {
    let mut want = Vec::new();
    for n in [5_u8, 1, 4, 2, 6, 3] {
        let name = format!("{n}");
        let it = match n % 2 {
            0 => exact("u", &name, Some("r")),
            _ => glob("u", &name, Some("r")),
        };
        subscribe(&store, &it).await;
        store
            .record_missed(missed(&it, &name, f64::from(n)))
            .await
            .expect("a notice");
        want.push((n, it.interest));
    }
    want.sort_by_key(|(n, _)| *n);
    let mut want = want.into_iter().map(|(_, interest)| interest);
    for (limit, count) in [(4, 4), (0, 0), (4, 2)] {
        let got = store
            .claim_missed(at(6.0), LEASE, limit)
            .await
            .expect("claims");
        let got: Vec<_> = got.into_iter().map(|notice| notice.interest).collect();
        assert_eq!(got, want.by_ref().take(count).collect::<Vec<_>>());
    }
}

async fn a_held_notice_is_not_claimed_again_before_the_lease_has_passed(store: Arc<dyn Store>) {
    let it = glob("u", "a", Some("r"));
    subscribe(&store, &it).await;
    store
        .record_missed(missed(&it, "a", 10.0))
        .await
        .expect("a notice");
    let first = claim(&store, 12.5).await;
    assert_eq!(first.len(), 1);
    assert_eq!(claim(&store, 12.5).await, []);
    assert_eq!(claim(&store, 42.25).await, []);
    let second = claim(&store, 42.5).await;
    assert_eq!(second.len(), 1);
    assert_ne!(first[0].lock, second[0].lock);
    settle(&store, &first[0], NoticeOutcome::Done).await;
    assert_eq!(
        store.next_missed().await.expect("an answer"),
        Some(at(72.5))
    );
    settle(&store, &second[0], NoticeOutcome::Done).await;
    assert_eq!(store.next_missed().await.expect("an answer"), None);
}

async fn a_later_miss_replaces_the_notice(store: Arc<dyn Store>) {
    let it = glob("u", "*", Some("r"));
    subscribe(&store, &it).await;
    store
        .record_missed(missed(&it, "one", 10.0))
        .await
        .expect("a notice");
    store
        .record_missed(missed(&it, "two", 20.0))
        .await
        .expect("a notice");
    // What is due already is not put off.
    assert_eq!(claim(&store, 9.0).await, []);
    let old = claim(&store, 10.0).await;
    assert_eq!(old[0].topic, topic("two"));
    settle(
        &store,
        &old[0],
        NoticeOutcome::Retry {
            attempts: 1,
            due: at(25.0),
        },
    )
    .await;
    assert_eq!(claim(&store, 24.0).await, []);
    store
        .record_missed(missed(&it, "earlier", 22.0))
        .await
        .expect("a notice");
    let old = claim(&store, 22.0).await;
    assert_eq!((&old[0].topic, old[0].attempts), (&topic("earlier"), 0));

    // Also while somebody is sending the old one: the news must be sent after it.
    store
        .record_missed(missed(&it, "three", 30.0))
        .await
        .expect("a notice");
    settle(&store, &old[0], NoticeOutcome::Done).await;
    assert_eq!(claim(&store, 29.0).await, []);
    let new = claim(&store, 30.0).await;
    assert_eq!((&new[0].topic, new[0].attempts), (&topic("three"), 0));
}

async fn a_notice_that_is_done_is_owed_no_more(store: Arc<dyn Store>) {
    for it in [exact("u", "a", Some("r")), glob("u", "a", Some("r"))] {
        subscribe(&store, &it).await;
        store
            .record_missed(missed(&it, "a", 10.0))
            .await
            .expect("a notice");
        let claimed = claim(&store, 10.0).await;
        settle(&store, &claimed[0], NoticeOutcome::Done).await;
        assert_eq!(claim(&store, 1000.0).await, []);
        assert_eq!(store.next_missed().await.expect("an answer"), None);
    }
}

async fn a_notice_that_is_retried_counts_its_attempts(store: Arc<dyn Store>) {
    let it = glob("u", "a*", Some("r"));
    subscribe(&store, &it).await;
    store
        .record_missed(missed(&it, "ab", 10.0))
        .await
        .expect("a notice");
    for attempts in 0..5 {
        let now = 10.0 * f64::from(attempts + 1);
        assert_eq!(claim(&store, now - 1.0).await, []);
        let claimed = claim(&store, now).await;
        assert_eq!(
            (claimed[0].attempts, &claimed[0].topic),
            (attempts, &topic("ab"))
        );
        // Kept in whole seconds, rounded up.
        let again = NoticeOutcome::Retry {
            attempts: attempts + 1,
            due: at(now + 9.5),
        };
        settle(&store, &claimed[0], again).await;
    }
    assert_eq!(
        store.next_missed().await.expect("an answer"),
        Some(at(60.0))
    );
}

async fn a_settlement_by_who_does_not_hold_the_notice_does_nothing(store: Arc<dyn Store>) {
    let it = exact("u", "a", Some("r"));
    subscribe(&store, &it).await;
    store
        .record_missed(missed(&it, "a", 10.0))
        .await
        .expect("a notice");
    let claimed = claim(&store, 10.0).await;
    let held_until = Some(at(40.0));
    for stranger in [
        ClaimedNotice {
            lock: claimed[0].lock.wrapping_add(1),
            ..claimed[0].clone()
        },
        ClaimedNotice {
            url: url("v"),
            ..claimed[0].clone()
        },
        ClaimedNotice {
            interest: glob("u", "a", None).interest,
            ..claimed[0].clone()
        },
    ] {
        for outcome in [
            NoticeOutcome::Done,
            NoticeOutcome::Retry {
                attempts: 9,
                due: at(1.0),
            },
        ] {
            settle(&store, &stranger, outcome).await;
            assert_eq!(store.next_missed().await.expect("an answer"), held_until);
        }
    }
    // Who settled does not hold it any more.
    settle(
        &store,
        &claimed[0],
        NoticeOutcome::Retry {
            attempts: 1,
            due: at(50.0),
        },
    )
    .await;
    settle(&store, &claimed[0], NoticeOutcome::Done).await;
    assert_eq!(
        store.next_missed().await.expect("an answer"),
        Some(at(50.0))
    );
}

async fn a_notice_ends_with_its_subscription(store: Arc<dyn Store>) {
    let it = exact("u", "a", Some("r"));
    for end in ["unsubscribe", "set"] {
        subscribe(&store, &it).await;
        store
            .record_missed(missed(&it, "a", 10.0))
            .await
            .expect("a notice");
        let claimed = claim(&store, 10.0).await;
        match end {
            "set" => {
                let none = SubscriptionSet::default();
                store.set(url("u"), none).await.expect("a set");
            }
            _ => unsubscribe(&store, &it).await,
        }
        assert_eq!(store.next_missed().await.expect("an answer"), None);
        subscribe(&store, &it).await;
        settle(
            &store,
            &claimed[0],
            NoticeOutcome::Retry {
                attempts: 1,
                due: at(11.0),
            },
        )
        .await;
        assert_eq!(store.next_missed().await.expect("an answer"), None);
        assert_eq!(claim(&store, 1000.0).await, []);
        unsubscribe(&store, &it).await;
    }
}

async fn missed_never_removes_a_subscription(store: Arc<dyn Store>) {
    let mirror = watch(&store).await;
    let all = [exact("u", "a", Some("r")), glob("u", "a*", Some("r"))];
    for it in &all {
        subscribe(&store, it).await;
    }
    mirror.take_changes();
    for outcome in [
        NoticeOutcome::Done,
        NoticeOutcome::Retry {
            attempts: 100,
            due: at(20.0),
        },
    ] {
        for it in &all {
            store
                .record_missed(missed(it, "a", 10.0))
                .await
                .expect("a notice");
        }
        for notice in claim(&store, 10.0).await {
            settle(&store, &notice, outcome).await;
        }
        for notice in claim(&store, 20.0).await {
            settle(&store, &notice, NoticeOutcome::Done).await;
        }
        check_etag(&store, "u", &all.each_ref()).await;
    }
    store.catch_up().await.expect("caught up");
    assert_eq!(mirror.take_changes(), []);
    assert_eq!(mirror.subscriptions(), all);
}

async fn the_next_notice_is_the_earliest_that_can_be_claimed(store: Arc<dyn Store>) {
    assert_eq!(store.next_missed().await.expect("an answer"), None);
    let (one, other) = (exact("u", "a", Some("r")), glob("u", "b", Some("r")));
    for (it, due) in [(&one, 10.0), (&other, 20.0)] {
        subscribe(&store, it).await;
        store
            .record_missed(missed(it, "b", due))
            .await
            .expect("a notice");
        assert_eq!(
            store.next_missed().await.expect("an answer"),
            Some(at(10.0))
        );
    }
    let first = claim(&store, 15.0).await;
    assert_eq!(
        store.next_missed().await.expect("an answer"),
        Some(at(20.0))
    );
    let second = claim(&store, 22.0).await;
    assert_eq!(
        store.next_missed().await.expect("an answer"),
        Some(at(45.0))
    );
    settle(&store, &first[0], NoticeOutcome::Done).await;
    assert_eq!(
        store.next_missed().await.expect("an answer"),
        Some(at(52.0))
    );
    settle(
        &store,
        &second[0],
        NoticeOutcome::Retry {
            attempts: 1,
            due: at(70.0),
        },
    )
    .await;
    assert_eq!(
        store.next_missed().await.expect("an answer"),
        Some(at(70.0))
    );
}

const LEASE: Duration = Duration::from_secs(30);

async fn watch(store: &Arc<dyn Store>) -> Arc<Mirror> {
    let mirror = Arc::new(Mirror::default());
    store
        .watch(mirror.clone())
        .await
        .expect("the store can be watched");
    mirror
}

async fn subscribe(store: &Arc<dyn Store>, subscription: &Subscription) {
    let done = store
        .subscribe(subscription.clone())
        .await
        .expect("an answer");
    assert_eq!(done, Subscribed::Added, "{subscription:?}");
}

async fn unsubscribe(store: &Arc<dyn Store>, subscription: &Subscription) {
    let Subscription { url, interest, .. } = subscription.clone();
    let done = store.unsubscribe(url, interest).await.expect("an answer");
    assert_eq!(done, Unsubscribed::Removed, "{subscription:?}");
}

async fn claim(store: &Arc<dyn Store>, now: f64) -> Vec<ClaimedNotice> {
    store
        .claim_missed(at(now), LEASE, 100)
        .await
        .expect("claims")
}

async fn settle(store: &Arc<dyn Store>, notice: &ClaimedNotice, outcome: NoticeOutcome) {
    store
        .settle_missed(notice, outcome)
        .await
        .expect("an answer");
}

async fn check_etag(store: &Arc<dyn Store>, of: &str, want: &[&Subscription]) {
    let got = store.etag(url(of)).await.expect("an etag");
    assert_eq!(
        got,
        set_of(want).etag(&url(of)),
        "the etag of {of:?} is not that of {want:?}"
    );
}

fn set_of(subscriptions: &[&Subscription]) -> SubscriptionSet {
    subscriptions
        .iter()
        .map(|it| (it.interest.clone(), it.recovery.clone()))
        .collect()
}

fn exact(of: &str, name: impl AsRef<[u8]>, recovery: Option<&str>) -> Subscription {
    let interest = Interest::Exact(topic(name));
    Subscription {
        url: url(of),
        interest,
        recovery: recovery.map(url),
    }
}

fn glob(of: &str, pattern: &str, recovery: Option<&str>) -> Subscription {
    let interest = Interest::Glob(GlobPattern::parse(pattern).expect("it is short enough"));
    Subscription {
        url: url(of),
        interest,
        recovery: recovery.map(url),
    }
}

fn topic(name: impl AsRef<[u8]>) -> Topic {
    Topic::new(name.as_ref()).expect("it is short enough")
}

fn url(text: &str) -> SubscriberUrl {
    SubscriberUrl::new(text).expect("it is short enough")
}

fn missed(by: &Subscription, what: impl AsRef<[u8]>, due: f64) -> Missed {
    let (url, interest) = (by.url.clone(), by.interest.clone());
    Missed {
        url,
        interest,
        topic: topic(what),
        due: at(due),
    }
}

fn at(seconds: f64) -> Now {
    Now::from_unix(Duration::from_secs_f64(seconds))
}

fn removed(subscription: &Subscription) -> Change {
    let Subscription { url, interest, .. } = subscription.clone();
    Change::Removed { url, interest }
}

/// An observer that keeps what it is told: the copy in memory that a broadcaster has.
#[derive(Debug, Default)]
pub struct Mirror {
    state: Mutex<MirrorState>,
}

#[derive(Debug, Default)]
struct MirrorState {
    known: BTreeMap<(SubscriberUrl, Interest), Option<SubscriberUrl>>,
    /// What came since the last beginning of a reload that has not ended.
    reload: Option<BTreeMap<(SubscriberUrl, Interest), Option<SubscriberUrl>>>,
    changes: Vec<Change>,
}

impl Mirror {
    /// All subscriptions, by url, exact before glob, by bytes.
    pub fn subscriptions(&self) -> Vec<Subscription> {
        let state = self.state();
        let known = state
            .known
            .iter()
            .map(|((url, interest), recovery)| Subscription {
                url: url.clone(),
                interest: interest.clone(),
                recovery: recovery.clone(),
            });
        known.collect()
    }

    /// What it was told since it was asked last.
    pub fn take_changes(&self) -> Vec<Change> {
        std::mem::take(&mut self.state().changes)
    }

    fn state(&self) -> MutexGuard<'_, MirrorState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Mirror {
    fn observe(&self, changes: &[Change]) {
        let mut state = self.state();
        state.changes.extend_from_slice(changes);
        for change in changes.iter().cloned() {
            let MirrorState { known, reload, .. } = &mut *state;
            match change {
                Change::ReloadBegan { .. } => *reload = Some(BTreeMap::new()),
                Change::ReloadEnded => *known = reload.take().expect("a reload began"),
                Change::Added(it) => {
                    let told = reload.as_mut().unwrap_or(known);
                    told.insert((it.url, it.interest), it.recovery);
                }
                Change::Removed { url, interest } => {
                    reload.as_mut().unwrap_or(known).remove(&(url, interest));
                }
            }
        }
    }
}

async fn what_is_in_flight_is_found_by_its_broadcaster_and_later_by_anybody(store: Arc<dyn Store>) {
    let url = |text: &str| SubscriberUrl::new(text).expect("it is short");
    let (one, other) = (url("http://one/"), url("http://other/"));
    let in_flight = |broadcaster: &SubscriberUrl, topic: &'static [u8], until| InFlight {
        broadcaster: broadcaster.clone(),
        topic: Topic::new(topic).expect("it is short"),
        until: at(until),
    };
    let found = async |broadcaster: &SubscriberUrl, now| {
        let found = store.in_flight(broadcaster.clone(), at(now), 10).await;
        let mut found = found.expect("an answer");
        found.sort_by(|a, b| (&a.broadcaster, &a.topic).cmp(&(&b.broadcaster, &b.topic)));
        found
    };
    let (a, b) = (in_flight(&one, b"a", 10.0), in_flight(&one, b"b\xfe", 20.0));
    let c = in_flight(&other, b"a", 30.0);
    for it in [in_flight(&one, b"a", 5.0), a.clone(), b.clone(), c.clone()] {
        store.record_in_flight(it).await.expect("recorded");
    }
    assert_eq!(found(&one, 0.0).await, [a.clone(), b.clone()]);
    assert_eq!(found(&other, 9.0).await, std::slice::from_ref(&c));
    assert_eq!(found(&other, 10.0).await, [a.clone(), c.clone()]);
    let limited = store.in_flight(one.clone(), at(30.0), 2).await;
    assert_eq!(limited.expect("an answer").len(), 2);
    // Of the other broadcaster nothing is forgotten.
    let topics = vec![a.topic.clone(), b.topic.clone()];
    let forgotten = store.forget_in_flight(one.clone(), topics).await;
    forgotten.expect("forgotten");
    assert_eq!(found(&one, 30.0).await, [c]);
    assert_eq!(found(&one, 29.0).await, []);
}
