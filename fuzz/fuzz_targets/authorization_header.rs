//! Values of the `Authorization` header: only the token itself and a signature of the very claim
//! count, and no bit of a signature can be changed.
#![no_main]

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use httppubsub_proto::auth::{Authorization, Claim, HmacAuthorization, Stamp, TokenAuthorization};
use httppubsub_proto::time::Now;
use libfuzzer_sys::fuzz_target;

/// The claim, the clock and the secrets that the seeds were recorded with.
const URL: &str = "http://127.0.0.1:3002/v1/receive";
const NOW: Now = Now::from_unix(Duration::from_millis(1_800_000_000_250));
const TOKEN: &str = "token-for-broadcasters";

fuzz_target!(|value: &[u8]| {
    let hmac = HmacAuthorization::new(&std::array::from_fn(|at| at as u8));
    let token = TokenAuthorization::new(TOKEN).expect("it is not empty");

    let claim = Claim::Check { url: URL };
    let verdict = token.verify(&claim, b"", Some(value), NOW);
    assert_eq!(
        verdict.is_ok(),
        value == format!("Bearer {TOKEN}").as_bytes()
    );
    if let Ok(unspent) = hmac.verify(&claim, b"", Some(value), NOW) {
        assert!(unspent.into_code().is_some(), "a signature counts once");
        check_accepted(value);
    }
    check_flipped(&hmac, value);
});

/// A value that counts is spelled as the protocol says.
fn check_accepted(value: &[u8]) {
    let value = std::str::from_utf8(value).expect("every part is text");
    let value = value.strip_prefix("X-HMAC ").expect("the scheme");
    let [timestamp, nonce, code] = value.splitn(3, ':').collect::<Vec<_>>()[..] else {
        panic!("it has three parts");
    };
    assert!(timestamp.bytes().all(|byte| byte.is_ascii_digit()));
    let timestamp: u64 = timestamp.parse().expect("a number");
    assert!((1_799_999_881..=1_800_000_120).contains(&timestamp));
    assert!(nonce.len() <= 255);
    let code = code.trim_end_matches('=');
    assert_eq!(
        STANDARD.decode(format!("{code}==")).expect("base64").len(),
        64
    );
}

/// Signs with what the input says, and then changes the bit that it says.
fn check_flipped(scheme: &impl Authorization, input: &[u8]) {
    let Some((random, url)) = input.split_first_chunk::<16>() else {
        return;
    };
    let (nonce, place) = random
        .split_first_chunk::<12>()
        .expect("16 are more than 12");
    let place = usize::from(u16::from_be_bytes([place[0], place[1]]));
    let Ok(url) = std::str::from_utf8(url) else {
        return;
    };
    let claim = Claim::Check { url };
    let stamp = Stamp {
        now: NOW,
        nonce: *nonce,
    };
    let value = scheme
        .authorize(&claim, nonce, &stamp)
        .expect("it can always sign");
    let mut value = value.expect("it always sends a value").into_bytes();
    assert!(
        value.iter().all(u8::is_ascii_graphic) || value.iter().filter(|b| **b == b' ').count() == 1
    );
    assert!(scheme.verify(&claim, nonce, Some(&value), NOW).is_ok());
    assert!(scheme.verify(&claim, b"", Some(&value), NOW).is_err());
    let place = place % (value.len() * 8);
    value[place / 8] ^= 1 << (place % 8);
    assert!(scheme.verify(&claim, nonce, Some(&value), NOW).is_err());
}
