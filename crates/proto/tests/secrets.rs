//! `secrets.json`: which secrets files can be read, and what they say.

mod recorded;

use std::time::Duration;

use httppubsub_proto::auth::{Claim, Scheme, Secrets, Stamp};
use httppubsub_proto::time::Now;
use recorded::{Fields as _, vectors};
use serde_json::Value;

#[test]
fn every_file_is_read_as_expected() {
    let file = vectors("secrets.json");
    for case in file.cases("/cases", 17) {
        let secrets = Secrets::parse(case.text("file"));
        if case["expected"] == "error" {
            assert!(secrets.is_err(), "{case}");
            continue;
        }
        let secrets = secrets.unwrap_or_else(|error| panic!("{case}: {error}"));
        check(&secrets.to_broadcaster, &case["expected"]["to_broadcaster"]);
        check(&secrets.to_subscriber, &case["expected"]["to_subscriber"]);
    }
}

#[test]
fn every_file_says_the_same_when_it_is_written_again() {
    let file = vectors("secrets.json");
    let mut written = 0;
    for case in file.cases("/cases", 17) {
        let Ok(secrets) = Secrets::parse(case.text("file")) else {
            continue;
        };
        let text = secrets.to_text();
        assert!(text.ends_with("}\n"), "{case}");
        assert_eq!(Secrets::parse(&text).unwrap(), secrets, "{case}");
        written += 1;
    }
    assert_eq!(written, 7);
}

#[test]
fn no_refusal_shows_the_secret() {
    let file = vectors("secrets.json");
    let mut refused = 0;
    for case in file.cases("/cases", 17) {
        let Err(error) = Secrets::parse(case.text("file")) else {
            continue;
        };
        assert!(!error.to_string().contains("abc"), "{case}: {error}");
        refused += 1;
    }
    assert_eq!(refused, 10);
}

const NONE: &str = r#"{"type": "none"}"#;

#[test]
fn secrets_typo_is_no_wish_to_go_without_authorization() {
    let hmac = format!(r#"{{"type": "hmac", "secret": "{}"}}"#, "A".repeat(86));
    for key in [
        "to_broadcaster",
        "To-Broadcaster",
        "to-broadcasters",
        "to-broadcaster ",
        "tobroadcaster",
    ] {
        let text = format!(r#"{{"version": "2", "{key}": {hmac}, "to-subscriber": {hmac}}}"#);
        let error = Secrets::parse(&text).unwrap_err().to_string();
        let says = format!(r#"no "to-broadcaster", but "{key}", which means nothing"#);
        assert!(error.contains(&says), "{error}");
        let text = format!(
            r#"{{"version": "2", "to-broadcaster": {hmac}, "to-subscriber": {NONE}, "{key}": 1}}"#
        );
        let (_, unknown) = Secrets::parse_with_unknown_keys(&text).unwrap();
        assert_eq!(unknown, [key]);
    }
    let token = |token: &str| {
        let token = serde_json::json!({ "type": "token", "secret": token });
        format!(r#"{{"version": "2", "to-broadcaster": {NONE}, "to-subscriber": {token}}}"#)
    };
    assert!(Secrets::parse(&token("a b")).is_ok());
    for (text, says) in [
        (token("abc\n"), "begins or ends with a space or a newline"),
        (token(" abc"), "begins or ends with a space or a newline"),
        (token("a\u{7f}c"), "control characters"),
        (format!("\u{feff}{}", token("abc")), "byte order mark"),
        (String::new(), "is empty"),
        (token("abc")[..40].to_owned(), "ends too early"),
    ] {
        let error = Secrets::parse(&text).unwrap_err().to_string();
        assert!(error.contains(says), "{text:?}: {error}");
        assert!(!error.contains("abc"), "{error}");
    }
}

#[track_caller]
fn check(scheme: &Scheme, want: &Value) {
    assert_eq!(scheme.name(), want.text("type"));
    match scheme {
        Scheme::None => {}
        Scheme::Token(_) => {
            let stamp = Stamp {
                now: Now::from_unix(Duration::ZERO),
                nonce: [0; 12],
            };
            let claim = Claim::Check { url: "" };
            let value = scheme.authorization().authorize(&claim, b"", &stamp);
            let value = value.expect("a token can always be shown");
            assert_eq!(value.as_deref(), Some(want.text("header")));
        }
        Scheme::Hmac(secret) => assert_eq!(secret, &want.array("secret")),
    }
}
