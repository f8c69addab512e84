//! Every request, delivery and answer: nothing panics, and what can be read is written again as the
//! bytes it was read from.
#![no_main]

use httppubsub_proto::stateless::{
    CheckRequest, CheckResponse, ConfirmMissed, GenericResponse, InterestKind, MissedHead,
    NotifyHead, NotifyResponse, NotifyTrace, ReceiveAnswer, ReceiveHead, SetHead, SubscribeRequest,
    UNSUBSCRIBE_IMMEDIATE, UnsubscribeRequest,
};
use httppubsub_proto::wire::DecodeError;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for kind in [InterestKind::Exact, InterestKind::Glob] {
        check(
            bytes,
            |bytes| SubscribeRequest::decode(kind, bytes),
            SubscribeRequest::encode,
        );
        check(
            bytes,
            |bytes| UnsubscribeRequest::decode(kind, bytes),
            UnsubscribeRequest::encode,
        );
    }
    check(bytes, CheckRequest::decode, CheckRequest::encode);
    check_head(bytes, SetHead::decode, SetHead::encode);
    check_head(bytes, NotifyHead::decode, NotifyHead::encode);
    check_head(bytes, ReceiveHead::decode, ReceiveHead::encode);
    check(bytes, MissedHead::decode, MissedHead::encode);
    check(bytes, GenericResponse::decode, GenericResponse::encode);
    check(bytes, NotifyResponse::decode, NotifyResponse::encode);
    check(bytes, CheckResponse::decode, CheckResponse::encode);
    check(bytes, ConfirmMissed::decode, ConfirmMissed::encode);
    check(bytes, ReceiveAnswer::decode, |answer| match answer {
        ReceiveAnswer::Confirm(it) => it.encode(),
        ReceiveAnswer::UnsubscribeImmediate => UNSUBSCRIBE_IMMEDIATE.to_vec(),
    });
    if let Ok(answer) = NotifyResponse::decode(bytes) {
        let _ = NotifyTrace::entry_names(&answer.tracing);
    }
    let _ = NotifyTrace::entry_names(bytes);
});

fn check<T: std::fmt::Debug + PartialEq>(
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, DecodeError>,
    encode: impl Fn(&T) -> Vec<u8>,
) {
    let message = match decode(bytes) {
        Ok(message) => message,
        Err(error) => {
            let _ = error.to_string();
            return;
        }
    };
    let again = encode(&message);
    assert_eq!(bytes.get(..again.len()), Some(&again[..]));
    assert_eq!(decode(&again).as_ref(), Ok(&message));
    // One byte less is never the whole.
    let error = decode(&again[..again.len() - 1]).expect_err("cut short");
    assert!(error.is_short(), "{error}");
}

fn check_head<T: std::fmt::Debug + PartialEq>(
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> Result<(T, usize), DecodeError>,
    encode: impl Fn(&T) -> Vec<u8>,
) {
    if let Ok((head, used)) = decode(bytes) {
        assert_eq!(used, encode(&head).len());
    }
    check(bytes, |bytes| decode(bytes).map(|(head, _)| head), encode);
}
