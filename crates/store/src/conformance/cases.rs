//! Steps and values that cases have in common.

use std::sync::Arc;
use std::time::Duration;

use httppubsub_proto::glob::GlobPattern;
use httppubsub_proto::subscription::{Interest, Subscription, SubscriptionSet};
use httppubsub_proto::time::Now;
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::SubscriberUrl;

use crate::conformance::mirror::Mirror;
use crate::contract::{
    Change, ClaimedNotice, Missed, NoticeOutcome, Store, Subscribed, Unsubscribed,
};

pub(super) const LEASE: Duration = Duration::from_secs(30);

pub(super) async fn watch(store: &Arc<dyn Store>) -> Arc<Mirror> {
    let mirror = Arc::new(Mirror::default());
    store
        .watch(mirror.clone())
        .await
        .expect("the store can be watched");
    mirror
}

pub(super) async fn subscribe(store: &Arc<dyn Store>, subscription: &Subscription) {
    let done = store
        .subscribe(subscription.clone())
        .await
        .expect("an answer");
    assert_eq!(done, Subscribed::Added, "{subscription:?}");
}

pub(super) async fn unsubscribe(store: &Arc<dyn Store>, subscription: &Subscription) {
    let Subscription { url, interest, .. } = subscription.clone();
    let done = store.unsubscribe(url, interest).await.expect("an answer");
    assert_eq!(done, Unsubscribed::Removed, "{subscription:?}");
}

pub(super) async fn claim(store: &Arc<dyn Store>, now: f64) -> Vec<ClaimedNotice> {
    store
        .claim_missed(at(now), LEASE, 100)
        .await
        .expect("claims")
}

pub(super) async fn settle(store: &Arc<dyn Store>, notice: &ClaimedNotice, outcome: NoticeOutcome) {
    store
        .settle_missed(notice, outcome)
        .await
        .expect("an answer");
}

pub(super) async fn check_etag(store: &Arc<dyn Store>, of: &str, want: &[&Subscription]) {
    let got = store.etag(url(of)).await.expect("an etag");
    assert_eq!(
        got,
        set_of(want).etag(&url(of)),
        "the etag of {of:?} is not that of {want:?}"
    );
}

pub(super) fn set_of(subscriptions: &[&Subscription]) -> SubscriptionSet {
    subscriptions
        .iter()
        .map(|it| (it.interest.clone(), it.recovery.clone()))
        .collect()
}

pub(super) fn exact(of: &str, name: impl AsRef<[u8]>, recovery: Option<&str>) -> Subscription {
    let interest = Interest::Exact(topic(name));
    Subscription {
        url: url(of),
        interest,
        recovery: recovery.map(url),
    }
}

pub(super) fn glob(of: &str, pattern: &str, recovery: Option<&str>) -> Subscription {
    let interest = Interest::Glob(GlobPattern::parse(pattern).expect("it is short enough"));
    Subscription {
        url: url(of),
        interest,
        recovery: recovery.map(url),
    }
}

pub(super) fn topic(name: impl AsRef<[u8]>) -> Topic {
    Topic::new(name.as_ref()).expect("it is short enough")
}

pub(super) fn url(text: &str) -> SubscriberUrl {
    SubscriberUrl::new(text).expect("it is short enough")
}

pub(super) fn missed(by: &Subscription, what: impl AsRef<[u8]>, due: f64) -> Missed {
    let (url, interest) = (by.url.clone(), by.interest.clone());
    Missed {
        url,
        interest,
        topic: topic(what),
        due: at(due),
    }
}

pub(super) fn at(seconds: f64) -> Now {
    Now::from_unix(Duration::from_secs_f64(seconds))
}

pub(super) fn removed(subscription: &Subscription) -> Change {
    let Subscription { url, interest, .. } = subscription.clone();
    Change::Removed { url, interest }
}
