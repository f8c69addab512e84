//! Cases of notices that are owed.

use std::sync::Arc;

use httppubsub_proto::subscription::{Subscription, SubscriptionSet};
use httppubsub_proto::topic::Topic;

use crate::conformance::cases::{
    LEASE, at, check_etag, claim, exact, glob, missed, settle, subscribe, topic, unsubscribe, url,
    watch,
};
use crate::contract::{ClaimedNotice, NoticeOutcome, Store};

pub(super) async fn a_notice_is_due_from_its_second_on(store: Arc<dyn Store>) {
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

pub(super) async fn a_notice_says_what_was_missed_and_where_to_say_it(store: Arc<dyn Store>) {
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

pub(super) async fn a_notice_needs_a_subscription_with_a_recovery_url(store: Arc<dyn Store>) {
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

pub(super) async fn notices_are_claimed_earliest_first_up_to_the_limit(store: Arc<dyn Store>) {
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

pub(super) async fn a_held_notice_is_not_claimed_again_before_the_lease_has_passed(
    store: Arc<dyn Store>,
) {
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

pub(super) async fn a_later_miss_replaces_the_notice(store: Arc<dyn Store>) {
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

pub(super) async fn a_notice_that_is_done_is_owed_no_more(store: Arc<dyn Store>) {
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

pub(super) async fn a_notice_that_is_retried_counts_its_attempts(store: Arc<dyn Store>) {
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

pub(super) async fn a_settlement_by_who_does_not_hold_the_notice_does_nothing(
    store: Arc<dyn Store>,
) {
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
    // The claim that was settled no longer holds it.
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

pub(super) async fn a_notice_ends_with_its_subscription(store: Arc<dyn Store>) {
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

pub(super) async fn missed_never_removes_a_subscription(store: Arc<dyn Store>) {
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

pub(super) async fn the_next_notice_is_the_earliest_that_can_be_claimed(store: Arc<dyn Store>) {
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
