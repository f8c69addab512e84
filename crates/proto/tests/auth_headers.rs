//! `auth_headers.json`: which values of the `Authorization` header count, and how often.

mod recorded;

use std::time::Duration;

use httppubsub_proto::auth::{AuthError, Claim, Code, SpendError, SpentCodes, Unspent};
use httppubsub_proto::time::Now;
use recorded::{Fields as _, recorded_now, secrets, vectors};
use serde_json::Value;

#[test]
fn every_value_is_judged_as_expected() {
    let file = vectors("auth_headers.json");
    for case in file.cases("/cases", 48) {
        let value = case.maybe_text("authorization");
        let verdict = judge(&file, case.text("mode"), value.map(str::as_bytes));
        assert_eq!(name(&verdict), case.text("expected"), "{case}: {verdict:?}");
    }
}

#[test]
fn every_value_is_judged_alike_when_its_bytes_are_latin_1() {
    let file = vectors("auth_headers.json");
    for case in file.cases("/cases", 48) {
        let Some(value) = case.maybe_text("authorization") else {
            continue;
        };
        let value: Vec<u8> = value.chars().map(|c| u8::try_from(c).unwrap()).collect();
        let verdict = judge(&file, case.text("mode"), Some(&value));
        assert_eq!(name(&verdict), case.text("expected"), "{case}: {verdict:?}");
    }
}

#[test]
fn a_value_counts_once() {
    let file = vectors("auth_headers.json");
    let now = recorded_now(&file);
    let mut spent = SpentCodes::new(100);
    for (index, step) in file.cases("/replay/steps", 6).iter().enumerate() {
        let value = Some(step.text("authorization").as_bytes());
        let verdict = judge(&file, "hmac", value).and_then(|unspent| {
            let code = unspent.into_code().expect("a signature counts once");
            spent.spend(code, now).map_err(|error| match error {
                SpendError::Replayed => AuthError::Replayed,
                SpendError::Full(_) => AuthError::Unavailable("full"),
            })?;
            Ok(Unspent::reusable())
        });
        assert_eq!(
            name(&verdict),
            step.text("expected"),
            "step {index}: {verdict:?}"
        );
    }
    let rows = file.cases("/replay/rows_afterwards", 2);
    assert_eq!(
        spent.len(),
        rows.len(),
        "only codes that passed the check are remembered"
    );
    for row in rows {
        // At the last moment that the recorded store would have known it, and so at least 180 s.
        let until = Now::from_unix(Duration::from_secs(row.number("expires_at")));
        let again = spent.spend(Code::of_hmac(&row.array("code")), until);
        assert_eq!(again, Err(SpendError::Replayed), "{row}");
    }
}

/// Judges a header of the one request that all values are for, at the recorded time.
fn judge(file: &Value, mode: &str, value: Option<&[u8]>) -> Result<Unspent, AuthError> {
    let request = &file["signed_request"];
    assert_eq!(request.text("type"), "CHECK_SUBSCRIPTIONS");
    let (url, tracing) = (request.hex_text("url"), request.bytes("tracing"));
    let scheme = secrets(file, mode).to_broadcaster.authorization();
    scheme.verify(
        &Claim::Check { url: &url },
        &tracing,
        value,
        recorded_now(file),
    )
}

fn name(verdict: &Result<Unspent, AuthError>) -> &'static str {
    match verdict {
        Ok(_) => "OK",
        Err(AuthError::Missing) => "UNAUTHORIZED",
        Err(AuthError::Wrong(_) | AuthError::Clock { .. } | AuthError::Replayed) => "FORBIDDEN",
        Err(AuthError::Unavailable(_)) => "UNAVAILABLE",
    }
}
