//! Every message of a websocket, in either direction: nothing panics, and what can be read says the
//! same when it is written again, in both styles.
#![no_main]

use bytes::Bytes;
use httppubsub_proto::stateful::{HeaderStyle, ToBroadcaster, ToSubscriber};
use httppubsub_proto::wire::DecodeError;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let bytes = Bytes::copy_from_slice(bytes);
    check(
        &bytes,
        ToBroadcaster::decode,
        ToBroadcaster::encode,
        ToBroadcaster::encode_head,
        ToBroadcaster::body,
    );
    check(
        &bytes,
        ToSubscriber::decode,
        ToSubscriber::encode,
        ToSubscriber::encode_head,
        ToSubscriber::body,
    );
});

fn check<T: std::fmt::Debug + PartialEq>(
    bytes: &Bytes,
    decode: impl Fn(&Bytes) -> Result<T, DecodeError>,
    encode: impl Fn(&T, HeaderStyle) -> Vec<u8>,
    encode_head: impl Fn(&T, HeaderStyle) -> Vec<u8>,
    body: impl Fn(&T) -> Bytes,
) {
    let message = match decode(bytes) {
        Ok(message) => message,
        Err(error) => {
            let _ = error.to_string();
            return;
        }
    };
    let own = body(&message);
    assert!(
        bytes.ends_with(&own),
        "the body is what follows the headers"
    );
    for style in [HeaderStyle::Minimal, HeaderStyle::Expanded] {
        let again = Bytes::from(encode(&message, style));
        assert_eq!([&encode_head(&message, style)[..], &own].concat(), again);
        assert_eq!(decode(&again).as_ref(), Ok(&message));
        // The headers themselves are never whole without their last byte.
        let head = again.slice(..again.len() - own.len() - 1);
        let error = decode(&head).expect_err("cut short");
        assert!(error.is_short(), "{error}");
    }
}
