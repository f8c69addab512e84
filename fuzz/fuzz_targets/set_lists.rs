//! The lists of SET_SUBSCRIPTIONS: a set is strictly ascending, reads back, and has the etag of its
//! rows.
#![no_main]

use httppubsub_proto::stateless::{SetListsError, decode_set_lists, encode_set_lists};
use httppubsub_proto::subscription::{StrongEtagHasher, SubscriptionSet};
use httppubsub_proto::url::SubscriberUrl;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let set = match decode_set_lists(bytes) {
        Ok(set) => set,
        Err(error) => {
            let _ = error.to_string();
            return;
        }
    };
    let again = encode_set_lists(&set);
    assert_eq!(bytes.get(..again.len()), Some(&again[..]));
    assert_eq!(decode_set_lists(&again).as_ref(), Ok(&set));
    let short = decode_set_lists(&again[..again.len() - 1]);
    assert!(matches!(short, Err(SetListsError::Decode(error)) if error.is_short()));

    assert!(
        set.exacts()
            .is_sorted_by(|a, b| a.0.as_bytes() < b.0.as_bytes())
    );
    assert!(
        set.globs()
            .is_sorted_by(|a, b| a.0.as_str().as_bytes() < b.0.as_str().as_bytes())
    );
    let entries = set
        .iter()
        .map(|(interest, recovery)| (interest, recovery.cloned()));
    assert_eq!(SubscriptionSet::from_iter(entries), set);

    let url = SubscriberUrl::new("http://127.0.0.1:3002/v1/receive").expect("it is short");
    let mut rows = StrongEtagHasher::new(&url);
    for (topic, recovery) in set.exacts() {
        rows.exact(
            topic.as_bytes(),
            recovery.as_ref().map(SubscriberUrl::as_str),
        );
    }
    for (glob, recovery) in set.globs() {
        rows.glob(glob.as_str(), recovery.as_ref().map(SubscriberUrl::as_str));
    }
    assert_eq!(rows.finish(), set.etag(&url));
});
