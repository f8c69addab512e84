//! Writes requests: a head and a payload as HTTP/1.1.

use std::io;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use httppubsub_proto::auth::CannotAuthorize;
use httppubsub_proto::digest::{Sha512, encode_repr_digest};

use crate::body::payload::{Payload, PayloadReader};
use crate::outbound::agent::USER_AGENT;
use crate::outbound::connection::Connection;
use crate::outbound::error::PostError;
use crate::outbound::target::Target;

/// A request to be posted.
#[derive(Debug, Default)]
pub struct Post {
    /// Value of the `Authorization` header.
    pub authorization: Option<String>,
    /// Value of the `Repr-Digest` header, see [`repr_digest`].
    pub repr_digest: Option<HeaderValue>,
    /// Further headers. None may be one that is written anyway: `Host`, `Content-Length`,
    /// `Content-Type`, `User-Agent` or one of the two above.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// First part of the body.
    pub head: Bytes,
    /// Second part of the body.
    pub payload: Option<Payload>,
}

/// The value of the `Repr-Digest` header for a message with this digest.
pub fn repr_digest(digest: &Sha512) -> HeaderValue {
    HeaderValue::try_from(encode_repr_digest(digest)).expect("base64 is visible ASCII")
}

/// Puts what `make` makes into the output of a connection, and gives what of it is still to follow.
pub(crate) fn prepare(
    connection: &mut Connection,
    target: &Target,
    make: &mut impl FnMut() -> Result<Post, CannotAuthorize>,
) -> Result<Option<Box<PayloadReader>>, PostError> {
    // Made for each attempt: a signature that was used once is refused as a replay the next time.
    let post = make()?;
    let streamed =
        write(target, &post, connection.output()).map_err(|source| PostError::Malformed {
            origin: target.origin().clone(),
            source,
        })?;
    Ok(streamed.map(|payload| Box::new(payload.reader())))
}

/// Writes a request into `output`, and gives its payload where that has still to follow.
fn write<'a>(
    target: &Target,
    post: &'a Post,
    output: &mut Vec<u8>,
) -> http::Result<Option<&'a Payload>> {
    let Post {
        authorization,
        repr_digest,
        headers,
        head,
        payload,
    } = post;
    let joined = match payload {
        None => Some(&[][..]),
        Some(payload) => payload
            .in_memory()
            .map(|bytes| &bytes[..])
            .filter(|bytes| bytes.len() <= JOINED_BYTES_MAX)
            // Of an empty file there is nothing to stream.
            .or(payload.is_empty().then_some(&[])),
    };
    let body_bytes = head.len() as u64 + payload.as_ref().map_or(0, Payload::len);
    // Written by hand into one buffer, as this is done for every delivery: a map of headers would
    // cost more than the rest of the head.
    output.reserve(HEADERS_BYTES + target.path.len() + head.len() + joined.map_or(0, <[u8]>::len));
    for part in [
        "POST ",
        &target.path,
        " HTTP/1.1\r\nuser-agent: ",
        USER_AGENT,
        "\r\nhost: ",
        &target.peer.host,
        "\r\ncontent-type: application/octet-stream\r\ncontent-length: ",
    ] {
        output.extend_from_slice(part.as_bytes());
    }
    // A vector takes everything.
    let _ = io::Write::write_fmt(output, format_args!("{body_bytes}"));
    if let Some(authorization) = authorization {
        // Nothing may end the header but we.
        let value = authorization.as_str();
        if value.bytes().any(|byte| byte.is_ascii_control()) {
            HeaderValue::from_str(value)?;
        }
        output.extend_from_slice(b"\r\nauthorization: ");
        output.extend_from_slice(authorization.as_bytes());
    }
    if let Some(digest) = repr_digest {
        output.extend_from_slice(b"\r\nrepr-digest: ");
        output.extend_from_slice(digest.as_bytes());
    }
    for (name, value) in headers {
        output.extend_from_slice(b"\r\n");
        output.extend_from_slice(name.as_str().as_bytes());
        output.extend_from_slice(b": ");
        output.extend_from_slice(value.as_bytes());
    }
    output.extend_from_slice(b"\r\n\r\n");
    output.extend_from_slice(head);
    match joined {
        Some(joined) => {
            output.extend_from_slice(joined);
            Ok(None)
        }
        None => Ok(payload.as_ref()),
    }
}

/// Bytes that the headers of a request take besides its path, about.
const HEADERS_BYTES: usize = 512;

/// Up to this size one copy costs less than a second write.
pub(crate) const JOINED_BYTES_MAX: usize = 16 * 1024;
