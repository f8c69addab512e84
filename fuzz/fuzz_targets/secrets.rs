//! Secrets files: what can be read says the same when it is written again, works, and is never
//! shown.
#![no_main]

use std::time::Duration;

use httppubsub_proto::auth::{Claim, Scheme, Secrets, Stamp};
use httppubsub_proto::stateless::GenericResponse;
use httppubsub_proto::time::Now;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let secrets = match Secrets::parse(text) {
        Ok(secrets) => secrets,
        Err(error) => {
            let _ = error.to_string();
            return;
        }
    };
    let again = secrets.to_text();
    assert!(again.ends_with("}\n"));
    assert_eq!(
        Secrets::parse(&again).expect("it was just written"),
        secrets
    );
    check(&secrets.to_broadcaster);
    check(&secrets.to_subscriber);
});

fn check(scheme: &Scheme) {
    assert!(!format!("{scheme:?}").contains("secret"));
    let authorization = scheme.authorization();
    assert_eq!(authorization.vouches(), *scheme != Scheme::None);
    let claim = Claim::Check {
        url: "http://127.0.0.1:3002/v1/receive",
    };
    let stamp = Stamp {
        now: Now::from_unix(Duration::from_secs(1_800_000_000)),
        nonce: [7; 12],
    };
    let Ok(value) = authorization.authorize(&claim, b"", &stamp) else {
        return;
    };
    assert_eq!(value.is_none(), *scheme == Scheme::None);
    let verdict = authorization.verify(&claim, b"", value.as_deref().map(str::as_bytes), stamp.now);
    assert!(verdict.is_ok(), "{verdict:?}");

    // Whatever a scheme sends fits into an answer.
    let answer = GenericResponse {
        authorization: value,
        tracing: bytes::Bytes::new(),
    };
    assert_eq!(GenericResponse::decode(&answer.encode()), Ok(answer));
}
