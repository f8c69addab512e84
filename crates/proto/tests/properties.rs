//! What holds for every message, not only for the recorded ones.

use std::fmt::Debug;
use std::time::Duration;

use bytes::Bytes;
use httppubsub_proto::auth::{
    AuthError, Authorization as _, Claim, HmacAuthorization, Stamp, TokenAuthorization,
};
use httppubsub_proto::digest::{Sha512, decode_repr_digest, encode_repr_digest};
use httppubsub_proto::glob::GlobPattern;
use httppubsub_proto::limits::{FIELD_BYTES_MAX, IDENTIFIER_BYTES_MAX};
use httppubsub_proto::stateless::{
    CheckRequest, CheckResponse, ConfirmMissed, ConfirmReceive, GenericResponse, HEAD_BYTES_MAX,
    InterestKind, MissedHead, NotifyHead, NotifyResponse, NotifyTrace, ReceiveAnswer, ReceiveHead,
    SetHead, SetListsError, SubscribeRequest, UNSUBSCRIBE_IMMEDIATE, UnsubscribeRequest,
    decode_set_lists, encode_set_lists,
};
use httppubsub_proto::subscription::{Interest, StrongEtag, StrongEtagHasher, SubscriptionSet};
use httppubsub_proto::time::Now;
use httppubsub_proto::topic::{Identifier, Topic};
use httppubsub_proto::url::{Endpoint, SubscriberUrl};
use httppubsub_proto::wire::DecodeError;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

proptest! {
    #[test]
    fn a_subscribe_reads_back(
        url in url(), interest in interest(), recovery in recovery(), tracing in tracing(),
    ) {
        let it = SubscribeRequest { url, interest, recovery, tracing };
        let kind = kind(&it.interest);
        check_body(&it, &it.encode(), |bytes| SubscribeRequest::decode(kind, bytes));
    }

    #[test]
    fn an_unsubscribe_reads_back(url in url(), interest in interest(), tracing in tracing()) {
        let it = UnsubscribeRequest { url, interest, tracing };
        let kind = kind(&it.interest);
        check_body(&it, &it.encode(), |bytes| UnsubscribeRequest::decode(kind, bytes));
    }

    #[test]
    fn a_check_reads_back(tracing in tracing(), url in url()) {
        let it = CheckRequest { tracing, url };
        check_body(&it, &it.encode(), CheckRequest::decode);
    }

    #[test]
    fn the_head_of_a_set_reads_back(tracing in tracing(), url in url(), etag in etag()) {
        let it = SetHead { tracing, url, etag };
        check_head(&it, &it.encode(), SetHead::decode);
    }

    #[test]
    fn the_lists_of_a_set_read_back(set in set()) {
        let decode = |bytes: &[u8]| decode_set_lists(bytes).map_err(|error| match error {
            SetListsError::Decode(error) => error,
            SetListsError::NotAscending(error) => panic!("a set is ascending: {error}"),
        });
        check_body(&set, &encode_set_lists(&set), decode);
    }

    #[test]
    fn the_head_of_a_notify_reads_back(
        topic in topic(), sha512 in sha512(), tracing in tracing(), identifier in identifier(),
        message_bytes: u64,
    ) {
        let it = NotifyHead { topic, sha512, tracing, identifier, message_bytes };
        check_head(&it, &it.encode(), NotifyHead::decode);
    }

    #[test]
    fn the_head_of_a_receive_reads_back(
        tracing in tracing(), topic in topic(), identifier in identifier(), message_bytes: u64,
    ) {
        let it = ReceiveHead { tracing, topic, identifier, message_bytes };
        check_head(&it, &it.encode(), ReceiveHead::decode);
    }

    #[test]
    fn a_missed_reads_back(tracing in tracing(), topic in topic()) {
        let it = MissedHead { tracing, topic };
        check_body(&it, &it.encode(), MissedHead::decode);
    }

    #[test]
    fn a_generic_answer_reads_back(authorization in authorization(), tracing in tracing()) {
        let it = GenericResponse { authorization, tracing };
        check_body(&it, &it.encode(), GenericResponse::decode);
    }

    #[test]
    fn an_answer_to_notify_reads_back(
        authorization in authorization(), tracing in tracing(), subscribers: u32,
        identifier in identifier(),
    ) {
        let it = NotifyResponse { authorization, tracing, subscribers, identifier };
        check_body(&it, &it.encode(), NotifyResponse::decode);
    }

    #[test]
    fn an_answer_to_check_reads_back(
        authorization in authorization(), tracing in tracing(), etag in etag(),
    ) {
        let it = CheckResponse { authorization, tracing, etag };
        check_body(&it, &it.encode(), CheckResponse::decode);
    }

    #[test]
    fn a_confirmed_receive_reads_back(
        authorization in authorization(), tracing in tracing(), identifier in identifier(),
        subscribers: u32,
    ) {
        let it = ConfirmReceive { authorization, tracing, identifier, subscribers };
        let bytes = it.encode();
        check_body(&ReceiveAnswer::Confirm(it), &bytes, ReceiveAnswer::decode);
    }

    #[test]
    fn a_confirmed_missed_reads_back(authorization in authorization(), tracing in tracing()) {
        let it = ConfirmMissed { authorization, tracing };
        check_body(&it, &it.encode(), ConfirmMissed::decode);
    }

    #[test]
    fn a_trace_has_its_one_entry(received in now(), answered in now()) {
        let bytes = NotifyTrace { received, answered }.encode();
        let names = vec!["no_more_subscribers".to_owned()];
        check_body(&names, &bytes, NotifyTrace::entry_names);
    }

    #[test]
    fn a_digest_header_reads_back_wherever_its_entry_stands(
        sha512 in sha512(), other in sha512(), colons: bool,
    ) {
        let value = encode_repr_digest(&sha512);
        let value = if colons { format!("{}:", value.replacen('=', "=:", 1)) } else { value };
        let other = encode_repr_digest(&other).replacen("512", "256", 1);
        let last = format!("{other}, {value}");
        let first = format!("{value},{other}");
        prop_assert_eq!(decode_repr_digest(value.as_bytes()), Ok(sha512));
        prop_assert_eq!(decode_repr_digest(last.as_bytes()), Ok(sha512));
        prop_assert_eq!(decode_repr_digest(first.as_bytes()), Ok(sha512));
    }

    #[test]
    fn rows_one_by_one_have_the_etag_of_their_set(url in url(), set in set()) {
        let mut rows = StrongEtagHasher::new(&url);
        for (topic, recovery) in set.exacts() {
            rows.exact(topic.as_bytes(), recovery.as_ref().map(SubscriberUrl::as_str));
        }
        for (glob, recovery) in set.globs() {
            rows.glob(glob.as_str(), recovery.as_ref().map(SubscriberUrl::as_str));
        }
        prop_assert_eq!(rows.finish(), set.etag(&url));
    }

    #[test]
    fn different_subscriptions_have_different_etags(
        url in url(), other_url in url(), set in set(), other in set(),
    ) {
        prop_assert_eq!(set.etag(&url) == other.etag(&url), set == other);
        prop_assert_eq!(set.etag(&url) == set.etag(&other_url), url == other_url);
    }

    #[test]
    fn a_set_is_the_same_from_entries_in_any_order(set in set(), seed: usize) {
        let mut entries: Vec<_> = set.iter().map(|(it, to)| (it, to.cloned())).collect();
        prop_assert_eq!(entries.len(), set.len());
        let middle = seed % (entries.len() + 1);
        entries.rotate_left(middle);
        prop_assert_eq!(SubscriptionSet::from_iter(entries), set);
    }

    #[test]
    fn lists_that_are_not_strictly_ascending_are_no_set(
        mut topics in vec(topic(), 2..6), last: prop::sample::Index,
    ) {
        topics.sort();
        topics.dedup();
        topics.push(topics[last.index(topics.len())].clone());
        let at = topics.len() - 1;
        let entries = topics.into_iter().map(|topic| (topic, None)).collect();
        let error = SubscriptionSet::from_ascending(entries, vec![]).unwrap_err();
        prop_assert_eq!(error.index, at);
    }

    #[test]
    fn a_signature_vouches_for_its_claim_and_no_other(
        secret in vec(any::<u8>(), 64), stamp in stamp(), url in url(), other in url(),
        tracing in tracing(), late in 0u64..=119,
    ) {
        let scheme = HmacAuthorization::new(&secret.try_into().expect("64 bytes"));
        let claim = Claim::Check { url: url.as_str() };
        let value = scheme.authorize(&claim, &tracing, &stamp).unwrap().unwrap();
        let verify = |url: &SubscriberUrl, tracing: &[u8], now| {
            let claim = Claim::Check { url: url.as_str() };
            scheme.verify(&claim, tracing, Some(value.as_bytes()), now)
        };
        let now = stamp.now;
        prop_assert!(verify(&url, &tracing, now).is_ok());
        prop_assert!(verify(&url, &tracing, now + Duration::from_secs(late)).is_ok());
        prop_assert_eq!(verify(&other, &tracing, now).is_ok(), url == other);
        prop_assert!(verify(&url, &[&tracing[..], b"x"].concat(), now).is_err());
        let too_late = verify(&url, &tracing, now + Duration::from_secs(121));
        prop_assert!(matches!(too_late, Err(AuthError::Clock { .. })), "{:?}", too_late);
    }

    #[test]
    fn a_token_vouches_and_another_does_not(
        token in "[!-~]{1,40}", other in "[!-~]{1,40}", stamp in stamp(),
    ) {
        let scheme = TokenAuthorization::new(&token).unwrap();
        let value = TokenAuthorization::new(&other).unwrap();
        let claim = Claim::Check { url: "" };
        let value = value.authorize(&claim, b"", &stamp).unwrap().unwrap();
        let verdict = scheme.verify(&claim, b"", Some(value.as_bytes()), stamp.now);
        prop_assert_eq!(verdict.is_ok(), token == other);
    }

    #[test]
    fn a_url_without_its_fragment_reaches_the_same_endpoint(
        url in "https?://[a-z]{1,5}(:[1-9][0-9]{0,3})?(/[ -~é]{0,5}){0,3}(#.{0,9})?",
    ) {
        let url = SubscriberUrl::new(url).unwrap();
        let bare = url.without_fragment();
        prop_assert!(url.as_str().starts_with(bare) && !bare.contains('#'));
        // A fragment may spoil a url, it never makes it another one.
        if let Ok(endpoint) = Endpoint::parse(&url) {
            prop_assert_eq!(Endpoint::parse_str(bare), Ok(endpoint));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    #[test]
    fn whatever_can_be_read_says_the_bytes_it_was_read_from(bytes in vec(any::<u8>(), 0..200)) {
        check_decoders(&bytes);
    }

    #[test]
    fn whatever_can_be_read_of_short_fields_says_the_bytes_it_was_read_from(
        bytes in vec(prop_oneof![5 => 0u8..6, 1 => any::<u8>()], 0..200),
    ) {
        check_decoders(&bytes);
    }
}

#[test]
fn the_two_bytes_that_unsubscribe_read_back() {
    let answer = ReceiveAnswer::UnsubscribeImmediate;
    check_body(&answer, &UNSUBSCRIBE_IMMEDIATE, ReceiveAnswer::decode);
}

#[test]
fn the_longest_fields_read_back_and_no_head_is_longer_than_said() {
    let text = "u".repeat(FIELD_BYTES_MAX);
    let tracing = Bytes::from(vec![0xff; FIELD_BYTES_MAX]);
    let url = SubscriberUrl::new(text.as_str()).unwrap();
    let topic = Topic::new(vec![0xff; FIELD_BYTES_MAX]).unwrap();
    let glob = GlobPattern::parse(text).unwrap();
    let identifier = Identifier::new(vec![0xff; IDENTIFIER_BYTES_MAX]).unwrap();
    let etag = StrongEtag(Sha512::of(b""));
    let message_bytes = u64::MAX;

    for interest in [Interest::Exact(topic.clone()), Interest::Glob(glob)] {
        let (kind, recovery) = (kind(&interest), Some(url.clone()));
        let (url, tracing) = (url.clone(), tracing.clone());
        let it = SubscribeRequest {
            url,
            interest,
            recovery,
            tracing,
        };
        let bytes = it.encode();
        assert_eq!(SubscribeRequest::decode(kind, &bytes), Ok(it));
        assert!(bytes.len() <= HEAD_BYTES_MAX);
        assert!(
            SubscribeRequest::decode(kind, &bytes[..bytes.len() - 1])
                .unwrap_err()
                .is_short()
        );
    }
    let it = SetHead {
        tracing: tracing.clone(),
        url,
        etag,
    };
    let bytes = it.encode();
    assert_eq!(SetHead::decode(&bytes), Ok((it, bytes.len())));
    assert!(bytes.len() <= HEAD_BYTES_MAX);
    let it = NotifyHead {
        topic: topic.clone(),
        sha512: Sha512::of(b""),
        tracing: tracing.clone(),
        identifier: identifier.clone(),
        message_bytes,
    };
    let bytes = it.encode();
    assert_eq!(NotifyHead::decode(&bytes), Ok((it, bytes.len())));
    assert!(bytes.len() <= HEAD_BYTES_MAX);
    let it = ReceiveHead {
        tracing,
        topic,
        identifier,
        message_bytes,
    };
    let bytes = it.encode();
    assert_eq!(ReceiveHead::decode(&bytes), Ok((it, bytes.len())));
    assert!(bytes.len() <= HEAD_BYTES_MAX);
}

#[test]
fn claimed_counts_cost_nothing() {
    let error = decode_set_lists(&[0xff; 4]).unwrap_err();
    assert!(matches!(error, SetListsError::Decode(error) if error.is_short()));
}

/// The body says the message, whatever comes after it, and no part of the body does.
#[track_caller]
fn check_body<T: Debug + PartialEq>(
    message: &T,
    body: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, DecodeError>,
) {
    assert_eq!(decode(body).as_ref(), Ok(message));
    assert_eq!(decode(&[body, b"\xff\x00"].concat()).as_ref(), Ok(message));
    for end in 0..body.len() {
        let error = decode(&body[..end]).expect_err("a part is not the whole");
        assert!(error.is_short(), "{end} of {} bytes: {error}", body.len());
    }
}

/// The same for a head, which also tells where it ends.
#[track_caller]
fn check_head<T: Debug + PartialEq>(
    head: &T,
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> Result<(T, usize), DecodeError>,
) {
    check_body(head, bytes, |bytes| decode(bytes).map(|(head, _)| head));
    let with_message = [bytes, b"a message"].concat();
    assert_eq!(decode(&with_message).map(|(_, used)| used), Ok(bytes.len()));
}

/// Reads `bytes` as every message there is; what can be read must be written as it was.
fn check_decoders(bytes: &[u8]) {
    fn same<T>(bytes: &[u8], decoded: Result<T, DecodeError>, encode: impl Fn(&T) -> Vec<u8>) {
        if let Ok(message) = decoded {
            let again = encode(&message);
            assert_eq!(bytes.get(..again.len()), Some(&again[..]));
        }
    }
    fn head<T>(decoded: Result<(T, usize), DecodeError>) -> Result<T, DecodeError> {
        decoded.map(|(head, _)| head)
    }
    for kind in [InterestKind::Exact, InterestKind::Glob] {
        same(
            bytes,
            SubscribeRequest::decode(kind, bytes),
            SubscribeRequest::encode,
        );
        same(
            bytes,
            UnsubscribeRequest::decode(kind, bytes),
            UnsubscribeRequest::encode,
        );
    }
    same(bytes, CheckRequest::decode(bytes), CheckRequest::encode);
    same(bytes, head(SetHead::decode(bytes)), SetHead::encode);
    same(bytes, head(NotifyHead::decode(bytes)), NotifyHead::encode);
    same(bytes, head(ReceiveHead::decode(bytes)), ReceiveHead::encode);
    same(bytes, MissedHead::decode(bytes), MissedHead::encode);
    same(
        bytes,
        GenericResponse::decode(bytes),
        GenericResponse::encode,
    );
    same(bytes, NotifyResponse::decode(bytes), NotifyResponse::encode);
    same(bytes, CheckResponse::decode(bytes), CheckResponse::encode);
    same(bytes, ConfirmMissed::decode(bytes), ConfirmMissed::encode);
    same(bytes, ReceiveAnswer::decode(bytes), |answer| match answer {
        ReceiveAnswer::Confirm(it) => it.encode(),
        ReceiveAnswer::UnsubscribeImmediate => UNSUBSCRIBE_IMMEDIATE.to_vec(),
    });
    if let Ok(set) = decode_set_lists(bytes) {
        let again = encode_set_lists(&set);
        assert_eq!(bytes.get(..again.len()), Some(&again[..]));
    }
    let _ = NotifyTrace::entry_names(bytes);
    let _ = decode_repr_digest(bytes);
}

fn kind(interest: &Interest) -> InterestKind {
    match interest {
        Interest::Exact(_) => InterestKind::Exact,
        Interest::Glob(_) => InterestKind::Glob,
    }
}

fn url() -> impl Strategy<Value = SubscriberUrl> {
    "\\PC{0,20}".prop_map(|text| SubscriberUrl::new(text).expect("a short url"))
}

/// Nothing and an empty url are the same on the wire, so the latter is never made.
fn recovery() -> impl Strategy<Value = Option<SubscriberUrl>> {
    option::of("\\PC{1,20}".prop_map(|text| SubscriberUrl::new(text).expect("a short url")))
}

fn authorization() -> impl Strategy<Value = Option<String>> {
    option::of("\\PC{1,40}")
}

fn tracing() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..20).prop_map(Bytes::from)
}

fn topic() -> impl Strategy<Value = Topic> {
    vec(any::<u8>(), 0..20).prop_map(|bytes| Topic::new(bytes).expect("a short topic"))
}

fn glob() -> impl Strategy<Value = GlobPattern> {
    "\\PC{0,20}".prop_map(|text| GlobPattern::parse(text).expect("a short glob"))
}

fn interest() -> impl Strategy<Value = Interest> {
    prop_oneof![
        topic().prop_map(Interest::Exact),
        glob().prop_map(Interest::Glob)
    ]
}

fn identifier() -> impl Strategy<Value = Identifier> {
    vec(any::<u8>(), 0..20).prop_map(|bytes| Identifier::new(bytes).expect("a short identifier"))
}

fn sha512() -> impl Strategy<Value = Sha512> {
    any::<[u8; 8]>().prop_map(|seed| Sha512::of(&seed))
}

fn etag() -> impl Strategy<Value = StrongEtag> {
    sha512().prop_map(StrongEtag)
}

fn set() -> impl Strategy<Value = SubscriptionSet> {
    vec((interest(), recovery()), 0..6).prop_map(SubscriptionSet::from_iter)
}

fn now() -> impl Strategy<Value = Now> {
    (0u64..4_000_000_000, 0u32..1_000_000_000)
        .prop_map(|(seconds, nanoseconds)| Now::from_unix(Duration::new(seconds, nanoseconds)))
}

fn stamp() -> impl Strategy<Value = Stamp> {
    (now(), any::<[u8; 12]>()).prop_map(|(now, nonce)| Stamp { now, nonce })
}
