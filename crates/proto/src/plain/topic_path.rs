//! Topics in urls: percent-encoded bytes.

use crate::topic::{Topic, TopicTooLong};

/// The reason why the path of a url is no topic.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicPathError {
    /// A percent sign is not followed by two hexadecimal digits.
    #[error("the `%` at byte {at} of the topic is not followed by two hexadecimal digits")]
    Percent {
        /// Byte of the encoded topic, from 0.
        at: usize,
    },
    /// It has more bytes than a topic may have.
    #[error(transparent)]
    TooLong(#[from] TopicTooLong),
}

/// The topic that a path is, from behind `/v1/topics/` on. Nothing is the empty topic; a `+` is
/// itself.
///
/// ```
/// use httppubsub_proto::plain::topic_from_path;
///
/// assert_eq!(topic_from_path("cache/user/7")?.as_bytes(), b"cache/user/7");
/// assert_eq!(topic_from_path("a%2F%ff%20")?.as_bytes(), b"a/\xff ");
/// # Ok::<(), httppubsub_proto::plain::TopicPathError>(())
/// ```
pub fn topic_from_path(path: &str) -> Result<Topic, TopicPathError> {
    let path = path.as_bytes();
    let mut topic = Vec::with_capacity(path.len());
    let mut at = 0;
    while let Some(byte) = path.get(at) {
        if *byte != b'%' {
            topic.push(*byte);
            at += 1;
            continue;
        }
        let digit = |at: usize| path.get(at).and_then(|it| char::from(*it).to_digit(16));
        let (Some(high), Some(low)) = (digit(at + 1), digit(at + 2)) else {
            return Err(TopicPathError::Percent { at });
        };
        topic.push(u8::try_from(high * 16 + low).expect("two digits are a byte"));
        at += 3;
    }
    Ok(Topic::new(topic)?)
}

/// The path that [`topic_from_path`] reads as this topic. A slash stands for itself except beside
/// an empty segment, `.` or `..`, which clients and proxies rewrite.
///
/// ```
/// use httppubsub_proto::plain::topic_to_path;
/// use httppubsub_proto::topic::Topic;
///
/// let path = |topic: &str| topic_to_path(&Topic::new(topic).expect("it is short"));
/// assert_eq!(path("cache/user 7?"), "cache/user%207%3F");
/// assert_eq!(path("a//b/../c"), "a%2F%2Fb%2F..%2Fc");
/// ```
pub fn topic_to_path(topic: &Topic) -> String {
    let segments: Vec<&[u8]> = topic.as_bytes().split(|byte| *byte == b'/').collect();
    let is_rewritten = |segment: &[u8]| matches!(segment, b"" | b"." | b"..");
    let mut path = String::with_capacity(topic.as_bytes().len());
    for (at, segment) in segments.iter().enumerate() {
        if at > 0 {
            let beside = [segments[at - 1], segment];
            path.push_str(match beside.into_iter().any(is_rewritten) {
                true => "%2F",
                false => "/",
            });
        }
        for byte in *segment {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => path.push(char::from(*byte)),
                byte if ITSELF.contains(byte) => path.push(char::from(*byte)),
                byte => path.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    path
}

/// Besides letters and digits: what RFC 3986 calls unreserved, and what it lets a segment have.
const ITSELF: &[u8] = b"-._~!$&'()*+,;=:@";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_malformed_says_where() {
        for (path, at) in [("%", 0), ("a%2", 1), ("ab%zz", 2), ("%41%4", 3), ("%é", 0)] {
            assert_eq!(
                topic_from_path(path),
                Err(TopicPathError::Percent { at }),
                "{path}"
            );
        }
        let long = "a".repeat(65_536);
        assert!(matches!(
            topic_from_path(&long),
            Err(TopicPathError::TooLong(_))
        ));
        assert_eq!(topic_from_path("").unwrap(), Topic::new("").unwrap());
        // Encoded, it may have three times as many bytes.
        assert!(topic_from_path(&"%00".repeat(65_535)).is_ok());
    }

    proptest! {
        #[test]
        fn every_topic_is_read_as_it_is_written(topic in any::<Vec<u8>>()) {
            let topic = Topic::new(topic).unwrap();
            let path = topic_to_path(&topic);
            prop_assert!(path.is_ascii() && !path.contains(['?', '#', ' ']));
            prop_assert_eq!(topic_from_path(&path).unwrap(), topic);
        }

        #[test]
        fn no_path_panics(path in ".*") {
            let _ = topic_from_path(&path);
        }
    }
}
