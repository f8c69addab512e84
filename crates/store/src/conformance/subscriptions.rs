//! Cases of subscriptions, their etags and sets.

use std::sync::Arc;

use httppubsub_proto::limits::FIELD_BYTES_MAX;
use httppubsub_proto::subscription::{Subscription, SubscriptionSet};
use tokio::task::JoinSet;

use crate::conformance::cases::{
    check_etag, claim, exact, glob, missed, set_of, settle, subscribe, topic, unsubscribe, url,
    watch,
};
use crate::contract::{Changed, NoticeOutcome, Store, Subscribed, Unsubscribed};

pub(super) async fn subscribing_again_changes_nothing(store: Arc<dyn Store>) {
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

pub(super) async fn a_topic_and_a_glob_of_the_same_bytes_are_two_interests(store: Arc<dyn Store>) {
    let (topic, pattern) = (exact("u", "a", None), glob("u", "a", None));
    subscribe(&store, &topic).await;
    subscribe(&store, &pattern).await;
    check_etag(&store, "u", &[&topic, &pattern]).await;
    unsubscribe(&store, &topic).await;
    check_etag(&store, "u", &[&pattern]).await;
}

pub(super) async fn urls_are_compared_byte_for_byte(store: Arc<dyn Store>) {
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

pub(super) async fn fields_hold_all_that_the_wire_can_say(store: Arc<dyn Store>) {
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

pub(super) async fn an_empty_recovery_url_is_none(store: Arc<dyn Store>) {
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

pub(super) async fn of_many_who_subscribe_at_once_one_adds(store: Arc<dyn Store>) {
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

pub(super) async fn unsubscribing_removes_that_one_only(store: Arc<dyn Store>) {
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

pub(super) async fn the_etag_of_an_unknown_url_is_that_of_no_subscriptions(store: Arc<dyn Store>) {
    check_etag(&store, "u", &[]).await;
    let it = exact("u", "a", None);
    subscribe(&store, &it).await;
    unsubscribe(&store, &it).await;
    check_etag(&store, "u", &[]).await;
}

pub(super) async fn the_etag_is_of_the_rows_in_the_order_of_their_bytes(store: Arc<dyn Store>) {
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

pub(super) async fn the_etag_changes_with_the_recovery_url(store: Arc<dyn Store>) {
    for recovery in [None, Some("r"), Some("r2"), None] {
        let it = exact("u", "a", recovery);
        store.set(url("u"), set_of(&[&it])).await.expect("a set");
        check_etag(&store, "u", &[&it]).await;
    }
}

pub(super) async fn a_set_leaves_exactly_what_it_lists(store: Arc<dyn Store>) {
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

pub(super) async fn a_set_leaves_other_urls_alone(store: Arc<dyn Store>) {
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

pub(super) async fn a_set_repeated_changes_nothing(store: Arc<dyn Store>) {
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

pub(super) async fn a_set_keeps_the_notices_of_what_stays(store: Arc<dyn Store>) {
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

pub(super) async fn a_set_without_a_recovery_url_ends_the_notice(store: Arc<dyn Store>) {
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

pub(super) async fn a_large_set_is_applied_whole(store: Arc<dyn Store>) {
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
