//! The token of a request.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::http::plain::refused::Refused;

/// The token that a request has, as a bearer token or as the password of Basic, for senders that
/// take only a url with user and password.
pub(super) fn token_of(headers: &HeaderMap) -> Result<Option<Vec<u8>>, Refused> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    // Proxies differ in which of two they pass on.
    if values.next().is_some() {
        return Err(Refused::Authorization);
    }
    let value = value.as_bytes();
    let space = value.iter().position(|byte| *byte == b' ');
    let (scheme, credentials) = value.split_at(space.unwrap_or(value.len()));
    let credentials = credentials.trim_ascii();
    let token = if scheme.eq_ignore_ascii_case(b"bearer") {
        credentials.to_vec()
    } else if scheme.eq_ignore_ascii_case(b"basic") {
        let decoded = BASE64_STANDARD.decode(credentials);
        let decoded = decoded.map_err(|_| Refused::Authorization)?;
        // A user name has no colon (RFC 7617), a password may.
        let colon = decoded.iter().position(|byte| *byte == b':');
        let colon = colon.ok_or(Refused::Authorization)?;
        decoded[colon + 1..].to_vec()
    } else {
        return Err(Refused::Authorization);
    };
    match token.is_empty() {
        true => Err(Refused::Authorization),
        false => Ok(Some(token)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    fn token(values: &[&str]) -> Result<Option<Vec<u8>>, Refused> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, value.parse().unwrap());
        }
        token_of(&headers)
    }

    #[test]
    fn a_token_is_a_bearer_token_or_a_password() {
        assert_eq!(token(&[]).unwrap(), None);
        let hps = Some(b"hps_x".to_vec());
        for value in [
            "Bearer hps_x",
            "bearer  hps_x ",
            "Basic Omhwc194",
            "BASIC YTpocHNfeA==",
        ] {
            assert_eq!(token(&[value]).unwrap(), hps, "{value}");
        }
        for wrong in [
            "",
            "hps_x",
            "Bearer",
            "Bearer ",
            "Basic !",
            "Basic eA==",
            "Digest x",
        ] {
            assert!(token(&[wrong]).is_err(), "{wrong}");
        }
        assert!(token(&["Bearer hps_x", "Bearer hps_x"]).is_err());
    }
}
