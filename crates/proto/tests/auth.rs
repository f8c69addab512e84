//! `auth.json`: all that is ever signed, its bytes and codes.

mod recorded;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use httppubsub_proto::auth::{
    AuthError, Authorization as _, Claim, Code, HmacAuthorization, Stamp, Unspent,
};
use httppubsub_proto::digest::{Sha512, hex};
use httppubsub_proto::stateless::{
    CheckResponse, ConfirmMissed, ConfirmReceive, GenericResponse, NotifyResponse,
    UNSUBSCRIBE_IMMEDIATE,
};
use httppubsub_proto::subscription::{Interest, StrongEtag};
use httppubsub_proto::time::Now;
use httppubsub_proto::topic::{Identifier, Topic};
use recorded::{Fields as _, glob, vectors};
use serde_json::Value;

const CASES: usize = 82;

#[test]
fn every_kind_of_signature_has_its_number_and_a_case() {
    let file = vectors("auth.json");
    let numbers = file["message_types"].as_object().unwrap();
    assert_eq!(numbers.len(), 21);
    let mut seen: Vec<u8> = Vec::new();
    for case in cases(&file) {
        assert_eq!(numbers[&case.kind], case.claim().type_id(), "{}", case.name);
        assert_eq!(case.type_id, case.claim().type_id(), "{}", case.name);
        seen.push(case.type_id);
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, (1..=21).collect::<Vec<u8>>());
}

#[test]
fn every_claim_is_signed_over_the_recorded_bytes() {
    let file = vectors("auth.json");
    for case in cases(&file) {
        assert_eq!(
            hex(&case.signed_by(&case)),
            hex(&case.to_sign),
            "{}",
            case.name
        );
    }
}

#[test]
fn every_recorded_authorization_is_accepted_and_spends_its_own_code() {
    let file = vectors("auth.json");
    for case in cases(&file) {
        let unspent = case.verify(&case, case.authorization.as_bytes()).unwrap();
        assert_eq!(
            unspent,
            Unspent::once(Code::of_hmac(&case.hmac)),
            "{}",
            case.name
        );
        let value = format!("X-HMAC {}:{}:", case.timestamp, case.nonce);
        let value = value + &STANDARD.encode(case.hmac);
        assert_eq!(value, case.authorization, "{}", case.name);
    }
}

#[test]
fn no_authorization_vouches_for_any_other_claim() {
    let file = vectors("auth.json");
    let cases = cases(&file);
    let mut refused = 0;
    for case in &cases {
        for other in &cases {
            let same = case.signed_by(case) == case.signed_by(other);
            let result = case.verify(other, case.authorization.as_bytes());
            if same {
                assert!(result.is_ok(), "{} of {}", case.name, other.name);
            } else {
                let wrong = AuthError::Wrong("the signature does not fit the message");
                assert_eq!(result, Err(wrong), "{} of {}", case.name, other.name);
                refused += 1;
            }
        }
    }
    assert!(
        refused > CASES * (CASES - 4),
        "nearly all of them differ: {refused}"
    );
}

#[test]
fn no_authorization_survives_a_flipped_bit() {
    let file = vectors("auth.json");
    for case in cases(&file) {
        let value = case.authorization.as_bytes();
        for at in 0..value.len() {
            for bit in 0..8 {
                let mut value = value.to_vec();
                value[at] ^= 1 << bit;
                let result = case.verify(&case, &value);
                assert!(result.is_err(), "{}: bit {bit} of byte {at}", case.name);
            }
        }
    }
}

#[test]
fn no_authorization_vouches_for_other_tracing() {
    let file = vectors("auth.json");
    for case in cases(&file) {
        let tracing = [&case.tracing[..], b"x"].concat();
        let value = Some(case.authorization.as_bytes());
        let result = case
            .scheme
            .verify(&case.claim(), &tracing, value, case.now());
        assert!(matches!(result, Err(AuthError::Wrong(_))), "{}", case.name);
    }
}

#[test]
fn what_is_signed_here_is_the_recorded_bytes_with_another_nonce() {
    let file = vectors("auth.json");
    for case in cases(&file) {
        let stamp = Stamp {
            now: case.now(),
            nonce: [0xfb; 12],
        };
        let value = case
            .scheme
            .authorize(&case.claim(), &case.tracing, &stamp)
            .unwrap()
            .unwrap();
        let nonce = URL_SAFE_NO_PAD.encode([0xfb; 12]);
        let (head, code) = value.rsplit_once(':').unwrap();
        assert_eq!(
            head,
            format!("X-HMAC {}:{nonce}", case.timestamp),
            "{}",
            case.name
        );
        assert_eq!(code.len(), 88, "{}", case.name);
        assert!(
            case.verify(&case, value.as_bytes()).is_ok(),
            "{}",
            case.name
        );

        let recorded = case.to_sign.clone();
        let nonce_at = 1 + 8;
        let tail = &recorded[nonce_at + 1 + case.nonce.len()..];
        let head = &recorded[..nonce_at];
        let expected = [head, &[16], nonce.as_bytes(), tail].concat();
        let to_sign = case
            .claim()
            .to_sign(&case.tracing, case.timestamp, nonce.as_bytes());
        assert_eq!(hex(&to_sign), hex(&expected), "{}", case.name);
    }
}

#[test]
fn every_answer_begins_with_its_number() {
    let file = vectors("auth.json");
    let numbers = &file["stateless_message_types"];
    let (authorization, tracing) = (None, bytes::Bytes::new());
    let identifier = Identifier::new("").unwrap();
    let etag = StrongEtag(Sha512::of(b""));
    let answer = |direction: &str, name: &str, body: &[u8]| {
        let number: u16 = numbers[direction].number(name);
        assert_eq!(&body[..2], number.to_be_bytes(), "{name}");
    };
    let generic = GenericResponse {
        authorization: authorization.clone(),
        tracing: tracing.clone(),
    };
    answer(
        "broadcaster_to_subscriber",
        "RESPONSE_GENERIC",
        &generic.encode(),
    );
    let notify = NotifyResponse {
        authorization: authorization.clone(),
        tracing: tracing.clone(),
        subscribers: 0,
        identifier: identifier.clone(),
    };
    answer(
        "broadcaster_to_subscriber",
        "RESPONSE_NOTIFY",
        &notify.encode(),
    );
    let check = CheckResponse {
        authorization: authorization.clone(),
        tracing: tracing.clone(),
        etag,
    };
    answer(
        "broadcaster_to_subscriber",
        "RESPONSE_CHECK_SUBSCRIPTIONS",
        &check.encode(),
    );
    let receive = ConfirmReceive {
        authorization: authorization.clone(),
        tracing: tracing.clone(),
        identifier,
        subscribers: 0,
    };
    answer(
        "subscriber_to_broadcaster",
        "RESPONSE_CONFIRM_RECEIVE",
        &receive.encode(),
    );
    let missed = ConfirmMissed {
        authorization,
        tracing,
    };
    answer(
        "subscriber_to_broadcaster",
        "RESPONSE_CONFIRM_MISSED",
        &missed.encode(),
    );
    let unsubscribe = "RESPONSE_UNSUBSCRIBE_IMMEDIATE";
    answer(
        "subscriber_to_broadcaster",
        unsubscribe,
        &UNSUBSCRIBE_IMMEDIATE,
    );
}

/// One recorded signature.
struct Case {
    name: String,
    kind: String,
    type_id: u8,
    scheme: HmacAuthorization,
    timestamp: u64,
    nonce: String,
    tracing: Vec<u8>,
    to_sign: Vec<u8>,
    hmac: [u8; 64],
    authorization: String,
    said: Said,
}

/// Every field that some message has; those that this one has not are empty.
struct Said {
    url: String,
    recovery: Option<String>,
    interest: Interest,
    topic: Topic,
    identifier: Identifier,
    sha512: Sha512,
    etag: StrongEtag,
    nonce: [u8; 32],
    enable_zstd: bool,
    enable_training: bool,
    initial_dict: u16,
    part_id: u32,
    subscribers: u32,
    compressor: u32,
    level: u32,
    min_size: u64,
    max_size: u64,
}

fn cases(file: &Value) -> Vec<Case> {
    file.cases("/cases", CASES)
        .iter()
        .map(|case| Case::read(file, case))
        .collect()
}

impl Case {
    fn read(file: &Value, case: &Value) -> Self {
        let secret = file["secrets"][case.text("signed_with")].array("hex");
        Self {
            name: format!("{}, {}", case.text("type"), case.text("case")),
            kind: case.text("type").to_owned(),
            type_id: case.number("type_id"),
            scheme: HmacAuthorization::new(&secret),
            timestamp: case.number("timestamp"),
            nonce: case.text("nonce").to_owned(),
            tracing: case["fields"].bytes("tracing"),
            to_sign: case.bytes("to_sign"),
            hmac: case.array("hmac"),
            authorization: case.text("authorization").to_owned(),
            said: Said::read(&case["fields"]),
        }
    }

    fn now(&self) -> Now {
        Now::from_unix(Duration::from_secs(self.timestamp))
    }

    fn claim(&self) -> Claim<'_> {
        let said = &self.said;
        let Said {
            ref interest,
            ref topic,
            ref identifier,
            ref sha512,
            ref etag,
            ..
        } = *said;
        let Said {
            subscribers,
            compressor,
            level,
            min_size,
            max_size,
            ..
        } = *said;
        let Said {
            enable_zstd,
            enable_training,
            initial_dict,
            ..
        } = *said;
        let (url, recovery) = (said.url.as_str(), said.recovery.as_deref());
        match self.kind.as_str() {
            "SUBSCRIBE_EXACT" | "SUBSCRIBE_GLOB" => Claim::Subscribe {
                url,
                recovery,
                interest,
            },
            "NOTIFY" => Claim::Notify {
                topic,
                identifier,
                sha512,
            },
            "STATEFUL_CONFIGURE" => Claim::Configure {
                subscriber_nonce: &said.nonce,
                enable_zstd,
                enable_training,
                initial_dict,
            },
            "CHECK_SUBSCRIPTIONS" => Claim::Check { url },
            "SET_SUBSCRIPTIONS" => Claim::Set { url, etag },
            "STATEFUL_CONTINUE_RECEIVE" => Claim::ContinueReceive {
                identifier,
                part_id: said.part_id.into(),
                url,
            },
            "CONFIRM_RECEIVE" => Claim::ConfirmReceive {
                identifier,
                subscribers,
                url,
            },
            "CONFIRM_MISSED" => Claim::ConfirmMissed { topic, url },
            "RECEIVE" => Claim::Receive {
                url,
                topic,
                identifier,
                sha512,
            },
            "MISSED" => Claim::Missed {
                recovery: recovery.unwrap_or_default(),
                topic,
            },
            "CONFIRM_SUBSCRIBE_EXACT" | "CONFIRM_SUBSCRIBE_GLOB" => Claim::ConfirmSubscribe {
                url,
                recovery,
                interest,
            },
            "CONFIRM_NOTIFY" => Claim::ConfirmNotify {
                identifier,
                subscribers,
                topic,
                sha512,
            },
            "CHECK_SUBSCRIPTIONS_RESPONSE" => Claim::CheckResponse { etag },
            "SET_SUBSCRIPTIONS_RESPONSE" => Claim::SetResponse { etag },
            "STATEFUL_CONFIRM_CONFIGURE" => Claim::ConfirmConfigure {
                broadcaster_nonce: &said.nonce,
            },
            "STATEFUL_ENABLE_ZSTD_PRESET" => Claim::EnablePreset {
                url,
                compressor,
                level,
                min_size,
                max_size,
            },
            "STATEFUL_ENABLE_ZSTD_CUSTOM" => Claim::EnableCustom {
                url,
                compressor,
                level,
                min_size,
                max_size,
                sha512,
            },
            "STATEFUL_DISABLE_ZSTD_CUSTOM" => Claim::DisableCustom { compressor, url },
            "STATEFUL_CONTINUE_NOTIFY" => Claim::ContinueNotify {
                identifier,
                part_id: said.part_id,
            },
            other => panic!("unknown kind {other}"),
        }
    }

    /// What would be signed if `other` were said at this time with this nonce.
    fn signed_by(&self, other: &Case) -> Vec<u8> {
        other
            .claim()
            .to_sign(&other.tracing, self.timestamp, self.nonce.as_bytes())
    }

    /// Judges a value with this case's secret at its time, as if it came with what `other` says.
    fn verify(&self, other: &Case, value: &[u8]) -> Result<Unspent, AuthError> {
        self.scheme
            .verify(&other.claim(), &other.tracing, Some(value), self.now())
    }
}

impl Said {
    fn read(fields: &Value) -> Self {
        let has = |name: &str| !fields[name].is_null();
        let topic = |name: &str| {
            let bytes = if has(name) {
                fields.bytes(name)
            } else {
                Vec::new()
            };
            Topic::new(bytes).expect("a recorded topic fits its field")
        };
        let identifier = Identifier::new("").expect("nothing fits any field");
        let number = |name: &str| if has(name) { fields.number(name) } else { 0 };
        let size = |name: &str| if has(name) { fields.number(name) } else { 0 };
        let flag = |name: &str| has(name) && fields.flag(name);
        let sha512 = ["message_sha512", "sha512"]
            .into_iter()
            .find(|name| has(name));
        let nonce = ["subscriber_nonce", "broadcaster_nonce"]
            .into_iter()
            .find(|name| has(name));
        let subscribers = if has("num_subscribers") {
            "num_subscribers"
        } else {
            "subscribers"
        };
        if has("etag_format") {
            assert_eq!(fields.number::<u8>("etag_format"), 0);
        }
        Self {
            url: fields.maybe_hex_text("url").unwrap_or_default(),
            recovery: fields.maybe_hex_text("recovery"),
            interest: match fields.maybe_hex_text("glob") {
                Some(text) => Interest::Glob(glob(text)),
                None => Interest::Exact(topic("exact")),
            },
            topic: topic("topic"),
            identifier: if has("identifier") {
                fields.identifier("identifier")
            } else {
                identifier
            },
            sha512: sha512.map_or(Sha512::of(b""), |name| fields.sha512(name)),
            etag: StrongEtag(if has("etag") {
                fields.sha512("etag")
            } else {
                Sha512::of(b"")
            }),
            nonce: nonce.map_or([0; 32], |name| fields.array(name)),
            enable_zstd: flag("enable_zstd"),
            enable_training: flag("enable_training"),
            initial_dict: if has("initial_dict") {
                fields.number("initial_dict")
            } else {
                0
            },
            part_id: number("part_id"),
            subscribers: number(subscribers),
            compressor: number("compressor_identifier"),
            level: number("compression_level"),
            min_size: size("min_size"),
            max_size: size("max_size"),
        }
    }
}
