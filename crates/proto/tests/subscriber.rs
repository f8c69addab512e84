//! `subscriber.json`: what a subscriber takes, and what it answers.

mod recorded;

use bytes::Bytes;
use httppubsub_proto::auth::{Authorization, Claim, Secrets, Stamp};
use httppubsub_proto::digest::{Sha512, decode_repr_digest, hex};
use httppubsub_proto::paths::{RECEIVE, RECOVER};
use httppubsub_proto::stateless::{
    ConfirmMissed, ConfirmReceive, MissedHead, ReceiveAnswer, ReceiveHead, UNSUBSCRIBE_IMMEDIATE,
};
use httppubsub_proto::time::Now;
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::{ClientUrls, SubscriberUrl};
use recorded::{Fields as _, recorded_now, secrets, unhex, vectors};
use serde_json::Value;

#[test]
fn every_request_is_answered_as_expected() {
    let file = vectors("subscriber.json");
    let (mut confirmed, mut refused) = (0, 0);
    for case in file.cases("/cases", 29) {
        let subscriber = Subscriber::of_case(&file, case);
        let headers = &case["headers"];
        let answer = subscriber.answer(case.text("path"), headers, &case.bytes("body"));
        let expected = &case["expected"];
        assert_eq!(
            answer.status(),
            expected.number::<u16>("status"),
            "{case}: {answer:?}"
        );
        match answer {
            Answer::Refused(_, body) => {
                assert_eq!(hex(body), expected.text("body"), "{case}");
                refused += 1;
            }
            Answer::Receive { head, url } => {
                subscriber.check_confirm_receive(&head, &url, expected);
                confirmed += 1;
            }
            Answer::Missed { topic, url } => {
                subscriber.check_confirm_missed(&topic, &url, expected);
                confirmed += 1;
            }
        }
    }
    assert_eq!((confirmed, refused), (12, 17));
}

#[test]
fn every_digest_header_is_taken_as_expected() {
    let file = vectors("subscriber.json");
    let subscriber = Subscriber {
        secrets: Secrets::NONE,
        urls: ClientUrls::of_host("http://127.0.0.1:3002").unwrap(),
        now: recorded_now(&file),
    };
    let body = file["repr_digest"].bytes("body");
    for case in file.cases("/repr_digest/cases", 15) {
        let headers = serde_json::json!({ "repr-digest": case.text("repr_digest") });
        let answer = subscriber.answer(RECEIVE, &headers, &body);
        assert_eq!(
            answer.status(),
            case["expected"].number::<u16>("status"),
            "{case}: {answer:?}"
        );
    }
}

/// A subscriber as far as it is the protocol's: it checks in the order of
/// `docs/protocol/stateless.md` §6 and §7.
struct Subscriber {
    secrets: Secrets,
    urls: ClientUrls,
    now: Now,
}

#[derive(Debug)]
enum Answer {
    Refused(u16, &'static [u8]),
    /// With the url that the delivery was verified with.
    Receive {
        head: ReceiveHead,
        url: String,
    },
    Missed {
        topic: Topic,
        url: String,
    },
}

impl Answer {
    fn status(&self) -> u16 {
        match self {
            Self::Refused(status, _) => *status,
            Self::Receive { .. } | Self::Missed { .. } => 200,
        }
    }
}

impl Subscriber {
    fn of_case(file: &Value, case: &Value) -> Self {
        let name = case.text("case");
        let host = name
            .split_once("host is ")
            .map_or("http://127.0.0.1:3002", |(_, host)| host);
        Self {
            secrets: secrets(file, case.text("mode")),
            urls: ClientUrls::of_host(host).expect("the urls are short"),
            now: recorded_now(file),
        }
    }

    fn answer(&self, path: &str, headers: &Value, body: &[u8]) -> Answer {
        match path {
            RECEIVE => self.receive(headers, body),
            RECOVER => self.missed(headers, body),
            other => panic!("nothing is posted to {other}"),
        }
    }

    fn receive(&self, headers: &Value, body: &[u8]) -> Answer {
        // As published subscribers do; ours never does (`docs/design/threats.md` §5.1 no. 5).
        let unsubscribe = |status| Answer::Refused(status, &UNSUBSCRIBE_IMMEDIATE);
        let digest = headers.maybe_text("repr-digest").unwrap_or_default();
        let Ok(digest) = decode_repr_digest(digest.as_bytes()) else {
            return unsubscribe(400);
        };
        let Ok((head, used)) = ReceiveHead::decode(body) else {
            return Answer::Refused(400, b"");
        };
        let (topic, identifier, sha512) = (&head.topic, &head.identifier, &digest);
        let claim = |url| Claim::Receive {
            url,
            topic,
            identifier,
            sha512,
        };
        let vouched = self.vouched(&self.urls.receive, claim, &head.tracing, headers);
        let Some(url) = vouched else {
            return unsubscribe(403);
        };
        let message = &body[used..];
        if message.len() as u64 != head.message_bytes {
            return unsubscribe(400);
        }
        if Sha512::of(message) != digest {
            return unsubscribe(403);
        }
        Answer::Receive { head, url }
    }

    fn missed(&self, headers: &Value, body: &[u8]) -> Answer {
        let Ok(head) = MissedHead::decode(body) else {
            return Answer::Refused(400, b"");
        };
        let claim = |recovery| Claim::Missed {
            recovery,
            topic: &head.topic,
        };
        match self.vouched(&self.urls.recovery, claim, &head.tracing, headers) {
            Some(url) => Answer::Missed {
                topic: head.topic,
                url,
            },
            None => Answer::Refused(403, b""),
        }
    }

    /// The spelling of `registered` that the authorization vouches for.
    fn vouched<'a>(
        &self,
        registered: &'a SubscriberUrl,
        claim: impl Fn(&'a str) -> Claim<'a>,
        tracing: &[u8],
        headers: &Value,
    ) -> Option<String> {
        let scheme = self.secrets.to_subscriber.authorization();
        let value = headers.maybe_text("authorization").map(str::as_bytes);
        let spellings = [registered.as_str(), registered.without_fragment()];
        let mut spellings = spellings.into_iter();
        let found =
            spellings.find(|url| scheme.verify(&claim(url), tracing, value, self.now).is_ok());
        found.map(str::to_owned)
    }

    fn check_confirm_receive(&self, head: &ReceiveHead, url: &str, expected: &Value) {
        if let Some(signed_for) = expected.maybe_text("confirm_signed_for_url") {
            assert_eq!(url, signed_for);
            return;
        }
        let (recorded, fields) = (expected.text("body"), &expected["fields"]);
        let Ok(ReceiveAnswer::Confirm(it)) = ReceiveAnswer::decode(&unhex(recorded)) else {
            panic!("{recorded} is no confirmation");
        };
        assert_eq!(hex(&it.encode()), recorded);
        assert_eq!(fields.text("type"), "0008");
        assert_eq!(&it.identifier, &head.identifier);
        assert_eq!(it.identifier, fields.identifier("identifier"));
        assert_eq!(it.subscribers.to_be_bytes(), fields.array("subscribers"));
        let claim = Claim::ConfirmReceive {
            identifier: &head.identifier,
            subscribers: 1,
            url,
        };
        self.check_authorization(&claim, it.authorization.as_ref(), &it.tracing, fields);

        if self.secrets.to_broadcaster.name() != "hmac" {
            let own = ConfirmReceive {
                authorization: self.authorize(&claim),
                tracing: Bytes::new(),
                identifier: head.identifier.clone(),
                subscribers: 1,
            };
            assert_eq!(hex(&own.encode()), recorded);
        }
    }

    fn check_confirm_missed(&self, topic: &Topic, url: &str, expected: &Value) {
        let (recorded, fields) = (expected.text("body"), &expected["fields"]);
        let it = ConfirmMissed::decode(&unhex(recorded)).expect("a confirmation");
        assert_eq!(hex(&it.encode()), recorded);
        assert_eq!(fields.text("type"), "0009");
        let claim = Claim::ConfirmMissed { topic, url };
        self.check_authorization(&claim, it.authorization.as_ref(), &it.tracing, fields);

        if self.secrets.to_broadcaster.name() != "hmac" {
            let own = ConfirmMissed {
                authorization: self.authorize(&claim),
                tracing: Bytes::new(),
            };
            assert_eq!(hex(&own.encode()), recorded);
        }
    }

    fn authorize(&self, claim: &Claim<'_>) -> Option<String> {
        let stamp = Stamp {
            now: self.now,
            nonce: [7; 12],
        };
        let scheme = self.secrets.to_broadcaster.authorization();
        scheme
            .authorize(claim, b"", &stamp)
            .expect("the built-in schemes can authorize")
    }

    fn check_authorization(
        &self,
        claim: &Claim<'_>,
        value: Option<&String>,
        tracing: &[u8],
        fields: &Value,
    ) {
        assert_eq!(
            value.cloned().unwrap_or_default(),
            fields.hex_text("authorization")
        );
        assert_eq!(tracing, fields.bytes("tracing"));
        let value = value.map(String::as_bytes);
        let verify = |scheme: &dyn Authorization| scheme.verify(claim, tracing, value, self.now);
        assert!(verify(&*self.secrets.to_broadcaster.authorization()).is_ok());
        let other = verify(&*self.secrets.to_subscriber.authorization());
        assert_eq!(other.is_ok(), self.secrets == Secrets::NONE);
    }
}
