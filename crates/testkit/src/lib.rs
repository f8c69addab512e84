//! The vectors recorded from the published packages, for the tests of all crates: loading a file,
//! and the fields that most files have.

use std::time::Duration;

use httppubsub_proto::auth::{Scheme, Secrets};
use httppubsub_proto::time::Now;
use serde_json::Value;

/// The content of one file of `crates/proto/tests/vectors`.
///
/// # Panics
///
/// If the file is missing or not JSON.
#[track_caller]
pub fn vectors(file: &str) -> Value {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../proto/tests/vectors");
    let path = format!("{folder}/{file}");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The list at the JSON pointer `pointer`, of `count` elements: a vectors file that lost its cases
/// must not pass.
///
/// # Panics
///
/// If there is no such list.
#[track_caller]
pub fn cases<'a>(value: &'a Value, pointer: &str, count: usize) -> &'a [Value] {
    let list = value.pointer(pointer).and_then(Value::as_array);
    let list = list.unwrap_or_else(|| panic!("{pointer} is no list"));
    assert_eq!(list.len(), count, "elements of {pointer}");
    list
}

/// The bytes that the hexadecimal `digits` spell.
///
/// # Panics
///
/// If they are none, or an odd number.
#[track_caller]
pub fn unhex(digits: &str) -> Vec<u8> {
    assert!(
        digits.len().is_multiple_of(2),
        "an odd number of digits: {digits}"
    );
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal digits");
    (0..digits.len()).step_by(2).map(byte).collect()
}

/// The time of the clock when `file` was recorded.
///
/// # Panics
///
/// If the file does not say.
#[track_caller]
pub fn recorded_now(file: &Value) -> Now {
    let now = file["auth"]["now"].as_f64().expect("auth.now");
    Now::from_unix(Duration::from_secs_f64(now))
}

/// The secrets of one of the modes `none`, `token` and `hmac`, as `file` was recorded with.
///
/// # Panics
///
/// If there is no such mode, or `file` has no secrets for it.
#[track_caller]
pub fn secrets(file: &Value, mode: &str) -> Secrets {
    let secret = |direction: &str, form: Option<&str>| {
        let value = &file["auth"][mode][direction];
        let value = form.map_or(value, |form| &value[form]);
        value.as_str().expect("a secret of each direction")
    };
    let scheme = |direction| match mode {
        "none" => Scheme::None,
        "token" => Scheme::Token(secret(direction, None).to_owned()),
        "hmac" => {
            let bytes = unhex(secret(direction, Some("hex")));
            Scheme::Hmac(bytes.try_into().expect("64 bytes"))
        }
        other => panic!("unknown mode {other:?}"),
    };
    Secrets {
        to_broadcaster: scheme("to_broadcaster"),
        to_subscriber: scheme("to_subscriber"),
    }
}
