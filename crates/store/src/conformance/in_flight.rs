//! Cases of topics in flight.

use std::sync::Arc;

use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::SubscriberUrl;

use crate::conformance::cases::at;
use crate::contract::{Store, TopicInFlight};

pub(super) async fn what_is_in_flight_is_found_by_its_broadcaster_and_later_by_anybody(
    store: Arc<dyn Store>,
) {
    let url = |text: &str| SubscriberUrl::new(text).expect("it is short");
    let (one, other) = (url("http://one/"), url("http://other/"));
    let in_flight = |broadcaster: &SubscriberUrl, topic: &'static [u8], until| TopicInFlight {
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
