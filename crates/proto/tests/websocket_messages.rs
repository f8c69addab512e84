//! `stateful/messages_*.json`, `parse_*.json` and `connection_urls.json`: every message of a
//! websocket, byte for byte.

mod recorded;

use std::num::NonZeroU64;

use bytes::Bytes;
use httppubsub_proto::digest::{Sha512, hex};
use httppubsub_proto::glob::GlobPattern;
use httppubsub_proto::stateful::{
    BodyHead, Configure, ConfirmConfigure, ConfirmNotify, ConfirmReceive, ConnectionNonce,
    Continue, DisableCustom, EnableCustom, EnablePreset, HeaderStyle, InterestMessage,
    MissedMessage, Notify, Part, StreamPart, ToBroadcaster, ToSubscriber,
};
use httppubsub_proto::subscription::Interest;
use httppubsub_proto::topic::{Identifier, Topic};
use httppubsub_proto::wire::DecodeError;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use recorded::stateful::{fields_of_broadcaster, fields_of_subscriber, joined};
use recorded::{Fields as _, vectors};
use serde_json::Value;

/// The fields that the message of a case reads as, and the message written again.
fn read(
    direction: &str,
    bytes: &Bytes,
    style: HeaderStyle,
) -> Result<(Value, u64, String, Vec<u8>), String> {
    match direction {
        "s2b" => {
            let message = ToBroadcaster::decode(bytes).map_err(|error| error.to_string())?;
            let (kind, fields) = fields_of_subscriber(&message);
            Ok((
                fields,
                kind,
                message.name().to_owned(),
                message.encode(style),
            ))
        }
        "b2s" => {
            let message = ToSubscriber::decode(bytes).map_err(|error| error.to_string())?;
            let (kind, fields) = fields_of_broadcaster(&message);
            Ok((
                fields,
                kind,
                message.name().to_owned(),
                message.encode(style),
            ))
        }
        other => panic!("unknown direction {other:?}"),
    }
}

#[track_caller]
fn check_reads(case: &Value, read: &(Value, u64, String, Vec<u8>)) {
    let (fields, kind, name, _) = read;
    let what = case["name"].as_str();
    assert_eq!(*kind, case.number::<u64>("type"), "{what:?}");
    assert_eq!(name, case.text("type_name"), "{what:?}");
    for (field, want) in case["fields"].as_object().expect("fields") {
        let got = &fields[field];
        match want {
            Value::Array(_) => assert_eq!(got.as_str(), Some(&*joined(want)), "{what:?} {field}"),
            Value::Object(text) if text.contains_key("repeat_text") => {
                assert_eq!(got.as_str(), Some(&*joined(want)), "{what:?} {field}");
            }
            _ => assert_eq!(got, want, "{what:?} {field}"),
        }
    }
}

fn check_messages(file: &str, count: usize) {
    let file = vectors(file);
    let direction = file.text("direction");
    for case in file.cases("/vectors", count) {
        let bytes = Bytes::from(hex_bytes(&joined(&case["hex"])));
        assert_eq!(bytes.len() as u64, case.number::<u64>("length"));
        let style = match case.flag("minimal") {
            true => HeaderStyle::Minimal,
            false => HeaderStyle::Expanded,
        };
        let message = read(direction, &bytes, style);
        let message = message.unwrap_or_else(|error| panic!("{}: {error}", case["name"]));
        check_reads(case, &message);
        assert!(message.3 == bytes, "{} {}", case["name"], hex(&message.3));
    }
}

#[test]
fn what_subscribers_say_is_read_and_written_as_recorded() {
    check_messages("stateful/messages_s2b.json", 258);
}

#[test]
fn what_broadcasters_say_is_read_and_written_as_recorded() {
    check_messages("stateful/messages_b2s.json", 244);
}

#[test]
fn what_published_peers_accept_is_accepted() {
    for case in vectors("stateful/parse_accept.json").cases("/vectors", 29) {
        let bytes = Bytes::from(hex_bytes(&joined(&case["hex"])));
        let message = read(case.text("direction"), &bytes, HeaderStyle::Minimal);
        let message = message.unwrap_or_else(|error| panic!("{}: {error}", case["name"]));
        let mut case = case.clone();
        // An accident of the published parser (docs/protocol/stateful.md §16 D19).
        if case.text("name").starts_with("x-initial-dict absent") {
            assert_eq!(case["fields"]["initial_dict"], 48);
            case["fields"]["initial_dict"] = 0.into();
        }
        check_reads(&case, &message);
    }
}

#[test]
fn what_published_peers_refuse_is_refused_with_a_reason() {
    for case in vectors("stateful/parse_reject.json").cases("/vectors", 46) {
        let bytes = Bytes::from(hex_bytes(&joined(&case["hex"])));
        let refused = read(case.text("direction"), &bytes, HeaderStyle::Minimal);
        let reason = refused
            .map(|(fields, ..)| fields)
            .expect_err(case.text("name"));
        assert!(!reason.is_empty());
    }
}

#[test]
fn the_urls_of_a_connection_are_those_recorded() {
    for case in vectors("stateful/connection_urls.json").cases("/vectors", 6) {
        let nonce = ConnectionNonce::new(
            &case.array("subscriber_nonce"),
            &case.array("broadcaster_nonce"),
        );
        assert_eq!(nonce.as_bytes(), &case.array::<32>("connection_nonce"));
        for url in case.list("urls") {
            let counter = url["counter"].as_i64().expect("a counter");
            assert_eq!(nonce.url(counter), url.text("url"));
        }
    }
}

#[test]
fn a_body_shares_the_memory_of_its_message() {
    let file = vectors("stateful/messages_b2s.json");
    let mut bodies = 0;
    for case in file.cases("/vectors", 244) {
        let bytes = Bytes::from(hex_bytes(&joined(&case["hex"])));
        if let Ok(ToSubscriber::ReceiveStream(part)) = ToSubscriber::decode(&bytes)
            && !part.body.is_empty()
        {
            bodies += 1;
            assert!(bytes.as_ptr_range().contains(&part.body.as_ptr()));
        }
    }
    assert!(bodies > 0);
}

#[test]
fn a_refusal_names_the_header_and_its_place() {
    // NOTIFY without authorization and tracing, identifier `id`, topic `t`.
    let start = "00010006 0000 0000 0002 6964 0001 74";
    check_refused(
        start,
        "cut short in x-compressor: 2 more bytes needed at offset 15, 0 left",
    );
    check_refused(
        &format!("{start} 0009 000000000000000000"),
        "x-compressor at offset 17: is a number of too many bytes",
    );
    check_refused(
        &format!("{start} 0001 00 0001 05 0001 06"),
        "x-decompressed-length at offset 23: differs from x-compressed-length without a compressor",
    );
    let head = format!("{start} 0001 00 0001 01 0001 01 0040 {}", "00".repeat(64));
    check_refused(
        &head,
        "body at offset 90: has another length than x-compressed-length",
    );
    check_refused(
        &format!("{head} 61"),
        "body at offset 90: has another digest than x-compressed-sha512",
    );
    check_refused("0001 000a", "message type at offset 2: is unknown");
    check_refused(
        "0000 0002 0001 0001 ff 0000",
        "name of a header at offset 8: is not ASCII",
    );
    check_refused("0000 0002 0000", "authorization at offset 6: is missing");
    // The value that counts is the last.
    check_refused(
        "0000 0002 0002 000d 617574686f72697a6174696f6e 0001 61 000d 617574686f72697a6174696f6e \
         0001 ff",
        "authorization at offset 41 is not UTF-8",
    );
}

#[track_caller]
fn check_refused(message: &str, want: &str) {
    let bytes = Bytes::from(hex_bytes(&message.replace(' ', "")));
    let error = ToBroadcaster::decode(&bytes).expect_err(message);
    assert_eq!(error.to_string(), want);
}

proptest! {
    #[test]
    fn what_a_subscriber_says_reads_back(message in to_broadcaster(), flags: u16, order: u64) {
        check_reads_back(&message, ToBroadcaster::decode, ToBroadcaster::encode);
        for style in [HeaderStyle::Minimal, HeaderStyle::Expanded] {
            let bytes = message.encode(style);
            prop_assert_eq!(&[&message.encode_head(style)[..], &message.body()].concat(), &bytes);
        }
        let expanded = message.encode(HeaderStyle::Expanded);
        let shuffled = shuffled(&expanded, flags, order);
        prop_assert_eq!(ToBroadcaster::decode(&shuffled), Ok(message));
    }

    #[test]
    fn what_a_broadcaster_says_reads_back(message in to_subscriber(), flags: u16, order: u64) {
        check_reads_back(&message, ToSubscriber::decode, ToSubscriber::encode);
        for style in [HeaderStyle::Minimal, HeaderStyle::Expanded] {
            let bytes = message.encode(style);
            prop_assert_eq!(&[&message.encode_head(style)[..], &message.body()].concat(), &bytes);
        }
        let expanded = message.encode(HeaderStyle::Expanded);
        let shuffled = shuffled(&expanded, flags, order);
        prop_assert_eq!(ToSubscriber::decode(&shuffled), Ok(message));
    }

    #[test]
    fn a_changed_message_is_read_or_refused(
        message in to_broadcaster(),
        answer in to_subscriber(),
        expanded: bool,
        at: usize,
        bit in 0_u32..8,
    ) {
        let style = match expanded {
            true => HeaderStyle::Expanded,
            false => HeaderStyle::Minimal,
        };
        let mut bytes = message.encode(style);
        let at_bytes = at % bytes.len();
        bytes[at_bytes] ^= 1_u8 << bit;
        check_any(&bytes.into());
        let mut bytes = answer.encode(style);
        let at_bytes = at % bytes.len();
        bytes[at_bytes] ^= 1_u8 << bit;
        check_any(&bytes.into());
    }

    #[test]
    fn no_bytes_are_too_strange_to_be_read_or_refused(
        bytes: Vec<u8>,
        kind in 0_u8..14,
        minimal: bool,
    ) {
        let mut message = vec![0, u8::from(minimal), 0, kind];
        message.extend_from_slice(&bytes);
        check_any(&message.into());
    }
}

/// Reads back in both styles, and no part of it says the same.
fn check_reads_back<T: std::fmt::Debug + PartialEq>(
    message: &T,
    decode: impl Fn(&Bytes) -> Result<T, DecodeError>,
    encode: impl Fn(&T, HeaderStyle) -> Vec<u8>,
) {
    for style in [HeaderStyle::Minimal, HeaderStyle::Expanded] {
        let bytes = Bytes::from(encode(message, style));
        assert_eq!(decode(&bytes).as_ref(), Ok(message), "{style:?}");
        for end in 0..bytes.len() {
            assert_ne!(
                decode(&bytes.slice(..end)).as_ref(),
                Ok(message),
                "{style:?}"
            );
        }
    }
}

/// What can be read is written, and read as the same again.
fn check_any(bytes: &Bytes) {
    for style in [HeaderStyle::Minimal, HeaderStyle::Expanded] {
        match ToBroadcaster::decode(bytes) {
            Ok(read) => assert_eq!(
                ToBroadcaster::decode(&read.encode(style).into()).as_ref(),
                Ok(&read)
            ),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
        match ToSubscriber::decode(bytes) {
            Ok(read) => assert_eq!(
                ToSubscriber::decode(&read.encode(style).into()).as_ref(),
                Ok(&read)
            ),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

/// An expanded message that says the same: other flags, headers in another order and twice, of
/// which the first are wrong, names in another case, and headers that nobody knows.
fn shuffled(expanded: &[u8], flags: u16, order: u64) -> Bytes {
    let mut rest = &expanded[6..];
    let mut field = || {
        let length = usize::from(u16::from_be_bytes([rest[0], rest[1]]));
        let (field, after) = rest[2..].split_at(length);
        rest = after;
        field.to_vec()
    };
    let count = u16::from_be_bytes([expanded[4], expanded[5]]);
    let mut headers: Vec<_> = (0..count).map(|_| (field(), field())).collect();
    let body = rest;
    headers.rotate_left((order % u64::from(count)) as usize);
    for (at, (name, _)) in headers.iter_mut().enumerate() {
        if order >> (at % 64) & 1 == 1 {
            name.make_ascii_uppercase();
        }
    }
    let wrong = headers
        .iter()
        .map(|(name, _)| (name.clone(), vec![0xff; 70]));
    let unknown = (b"x-unknown".to_vec(), b"\xff".to_vec());
    let all: Vec<_> = wrong
        .chain([unknown])
        .chain(headers.iter().cloned())
        .collect();
    let mut bytes = (flags & !1).to_be_bytes().to_vec();
    bytes.extend_from_slice(&expanded[2..4]);
    bytes.extend_from_slice(&(all.len() as u16).to_be_bytes());
    for (name, value) in &all {
        for field in [name, value] {
            bytes.extend_from_slice(&(field.len() as u16).to_be_bytes());
            bytes.extend_from_slice(field);
        }
    }
    bytes.extend_from_slice(body);
    bytes.into()
}

fn to_broadcaster() -> impl Strategy<Value = ToBroadcaster> {
    prop_oneof![
        (any::<([u8; 32], bool, bool, u16)>(), vouch()).prop_map(
            |(it, (authorization, tracing))| {
                let (subscriber_nonce, enable_zstd, enable_training, initial_dict) = it;
                ToBroadcaster::Configure(Configure {
                    subscriber_nonce,
                    enable_zstd,
                    enable_training,
                    initial_dict,
                    authorization,
                    tracing,
                })
            }
        ),
        interest().prop_map(ToBroadcaster::Subscribe),
        interest().prop_map(ToBroadcaster::Unsubscribe),
        (identifier(), topic(), body(), number(), number(), vouch()).prop_map(
            |(identifier, topic, body, compressor, plain, (authorization, tracing))| {
                let compressed_length = body.len() as u64;
                let decompressed_length = match compressor {
                    0 => compressed_length,
                    _ => plain,
                };
                ToBroadcaster::Notify(Notify {
                    identifier,
                    topic,
                    head: BodyHead {
                        compressor,
                        compressed_length,
                        decompressed_length,
                        compressed_sha512: Sha512::of(&body),
                    },
                    authorization,
                    tracing,
                    body,
                })
            }
        ),
        stream_part().prop_map(ToBroadcaster::NotifyStream),
        part_received().prop_map(ToBroadcaster::ContinueReceive),
        (identifier(), any::<u32>(), vouch()).prop_map(
            |(identifier, num_subscribers, (authorization, tracing))| {
                ToBroadcaster::ConfirmReceive(ConfirmReceive {
                    identifier,
                    num_subscribers,
                    authorization,
                    tracing,
                })
            }
        ),
    ]
}

fn to_subscriber() -> impl Strategy<Value = ToSubscriber> {
    prop_oneof![
        (any::<[u8; 32]>(), vouch()).prop_map(|(broadcaster_nonce, (authorization, tracing))| {
            ToSubscriber::ConfirmConfigure(ConfirmConfigure {
                broadcaster_nonce,
                authorization,
                tracing,
            })
        }),
        interest().prop_map(ToSubscriber::ConfirmSubscribe),
        interest().prop_map(ToSubscriber::ConfirmUnsubscribe),
        (identifier(), number(), vouch()).prop_map(
            |(identifier, subscribers, (authorization, tracing))| {
                ToSubscriber::ConfirmNotify(ConfirmNotify {
                    identifier,
                    subscribers,
                    authorization,
                    tracing,
                })
            }
        ),
        part_received().prop_map(ToSubscriber::ContinueNotify),
        stream_part().prop_map(ToSubscriber::ReceiveStream),
        preset().prop_map(ToSubscriber::EnablePreset),
        (preset(), body(), sha512()).prop_map(|(it, dictionary, sha512)| {
            ToSubscriber::EnableCustom(EnableCustom {
                compressor: it.compressor,
                compression_level: it.compression_level,
                min_size: it.min_size,
                max_size: it.max_size,
                authorization: it.authorization,
                tracing: it.tracing,
                sha512,
                dictionary,
            })
        }),
        (number(), vouch()).prop_map(|(compressor, (authorization, tracing))| {
            ToSubscriber::DisableCustom(DisableCustom {
                compressor,
                authorization,
                tracing,
            })
        }),
        (topic(), vouch()).prop_map(|(topic, (authorization, tracing))| {
            ToSubscriber::Missed(MissedMessage {
                topic,
                authorization,
                tracing,
            })
        }),
    ]
}

fn interest() -> impl Strategy<Value = InterestMessage> {
    let glob = "\\PC{0,20}".prop_map(|text| GlobPattern::parse(text).expect("a short glob"));
    let interest = prop_oneof![
        topic().prop_map(Interest::Exact),
        glob.prop_map(Interest::Glob)
    ];
    (interest, vouch()).prop_map(|(interest, (authorization, tracing))| InterestMessage {
        interest,
        authorization,
        tracing,
    })
}

fn stream_part() -> impl Strategy<Value = StreamPart> {
    let first = (topic(), number(), number(), number(), sha512()).prop_map(
        |(topic, compressor, compressed_length, plain, compressed_sha512)| {
            let decompressed_length = match compressor {
                0 => compressed_length,
                _ => plain,
            };
            Part::First {
                topic,
                head: BodyHead {
                    compressor,
                    compressed_length,
                    decompressed_length,
                    compressed_sha512,
                },
            }
        },
    );
    let later = number().prop_map(|id| Part::Later(NonZeroU64::new(id).unwrap_or(NonZeroU64::MIN)));
    let part = prop_oneof![first, later];
    (identifier(), part, vouch(), body()).prop_map(
        |(identifier, part, (authorization, tracing), body)| StreamPart {
            identifier,
            part,
            authorization,
            tracing,
            body,
        },
    )
}

fn part_received() -> impl Strategy<Value = Continue> {
    (identifier(), number(), vouch()).prop_map(|(identifier, part_id, (authorization, tracing))| {
        Continue {
            identifier,
            part_id,
            authorization,
            tracing,
        }
    })
}

fn preset() -> impl Strategy<Value = EnablePreset> {
    (number(), any::<i16>(), any::<u32>(), number(), vouch()).prop_map(
        |(compressor, compression_level, min_size, max_size, (authorization, tracing))| {
            EnablePreset {
                compressor,
                compression_level,
                min_size,
                max_size,
                authorization,
                tracing,
            }
        },
    )
}

/// Numbers of all lengths alike.
fn number() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0_u32..=64).prop_map(|(number, zeros)| number.checked_shr(zeros).unwrap_or(0))
}

fn vouch() -> impl Strategy<Value = (Option<String>, Bytes)> {
    (option::of("\\PC{1,40}"), body())
}

fn topic() -> impl Strategy<Value = Topic> {
    body().prop_map(|bytes| Topic::new(bytes).expect("a short topic"))
}

fn identifier() -> impl Strategy<Value = Identifier> {
    vec(any::<u8>(), 0..=64).prop_map(|bytes| Identifier::new(bytes).expect("a short identifier"))
}

fn sha512() -> impl Strategy<Value = Sha512> {
    any::<[u8; 8]>().prop_map(|seed| Sha512::of(&seed))
}

fn body() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..20).prop_map(Bytes::from)
}

fn hex_bytes(text: &str) -> Vec<u8> {
    recorded::unhex(text)
}
