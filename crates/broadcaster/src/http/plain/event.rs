//! The headers that go with a message: judged when it is published.

use http::header::{CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_TYPE};
use http::{HeaderMap, HeaderName};

use crate::http::plain::refused::Refused;

/// Judges the headers that describe the message. A message with a `ce-specversion` is a CloudEvent,
/// which has an identifier, a source and a type.
pub(super) fn judge(headers: &HeaderMap) -> Result<(), Refused> {
    let content_type = headers.get(CONTENT_TYPE);
    if content_type.is_some_and(|it| it.len() > CONTENT_TYPE_BYTES_MAX) {
        return Err(Refused::ContentType);
    }
    let described = headers.iter().filter(|(name, _)| describes(name));
    // As they would stand in a request, without the separators.
    let bytes = described
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    if bytes > HEADERS_BYTES_MAX {
        return Err(Refused::HeadersTooLong { bytes });
    }
    if headers.get("ce-specversion").is_some_and(|it| it == "1.0") {
        for header in ["ce-id", "ce-source", "ce-type"] {
            if headers.get(header).is_none_or(|it| it.is_empty()) {
                return Err(Refused::NotACloudEvent { header });
            }
        }
    }
    Ok(())
}

/// `true` if a header describes the message, and not the request.
fn describes(name: &HeaderName) -> bool {
    let known = [CONTENT_TYPE, CONTENT_ENCODING, CONTENT_LANGUAGE];
    let name_text = name.as_str();
    known.contains(name)
        || name_text.starts_with("ce-")
        || ["traceparent", "tracestate"].contains(&name_text)
}

/// Longer than any type that is in use.
const CONTENT_TYPE_BYTES_MAX: usize = 255;

/// Most servers take 8 KiB of headers in all.
const HEADERS_BYTES_MAX: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    fn code(headers: &[(&'static str, &str)]) -> Option<&'static str> {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        judge(&headers.collect()).err().map(|it| it.code())
    }

    #[test]
    fn headers_of_a_message_are_judged() {
        assert_eq!(code(&[]), None);
        assert_eq!(code(&[("content-type", &"a".repeat(255))]), None);
        let long = "a".repeat(256);
        assert_eq!(
            code(&[("content-type", &long)]),
            Some("content_type_too_long")
        );
        let long = "a".repeat(8_192);
        assert_eq!(code(&[("ce-x", &long)]), Some("headers_too_large"));
        assert_eq!(
            code(&[("x-own", &long)]),
            None,
            "it does not go with the message"
        );
        let event = [
            ("ce-specversion", "1.0"),
            ("ce-id", "1"),
            ("ce-source", "/"),
            ("ce-type", "t"),
        ];
        assert_eq!(code(&event), None);
        for without in 1..event.len() {
            let mut event = event.to_vec();
            event[without].1 = "";
            assert_eq!(code(&event), Some("not_a_cloudevent"));
            event.remove(without);
            assert_eq!(code(&event), Some("not_a_cloudevent"));
        }
    }
}
