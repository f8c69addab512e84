//! Reads the head of an answer.
//!
//! Strictly: where two readings of a head are possible, the connection is given up, since an answer
//! that is taken to end elsewhere would be mixed up with the next one (request smuggling, the other
//! way round).

use std::io;
use std::mem::MaybeUninit;

use bytes::{Buf as _, BytesMut};
use http::StatusCode;
use httparse::{Header, ParserConfig, Response, Status};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Longest head of an answer, and longest head of one of its chunks, in bytes.
pub(crate) const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Largest number of headers of an answer.
pub(crate) const HEADERS_MAX: usize = 100;

/// Bytes read at once.
const READ_BYTES: usize = 4 * 1024;

/// The error of an answer that ends too early.
pub(crate) fn cut_short() -> io::Error {
    let problem = "the peer closed the connection before its answer was whole";
    io::Error::new(io::ErrorKind::UnexpectedEof, problem)
}

/// The error of an answer that breaks the rules of HTTP.
pub(crate) fn invalid(problem: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

/// Reads what is there into `input`; 0 at the end of the stream.
pub(crate) async fn read_some(
    reader: &mut (impl AsyncRead + Unpin),
    input: &mut BytesMut,
) -> io::Result<usize> {
    input.reserve(READ_BYTES);
    reader.read_buf(input).await
}

/// The part of an answer's head that matters here.
pub(crate) struct Head {
    /// Never an informational one.
    pub(crate) status: StatusCode,
    /// Says where the body ends.
    pub(crate) framing: Framing,
    /// `true` if the peer will read another request. Never if the framing leaves a doubt.
    pub(crate) keeps_alive: bool,
}

/// Length of the body of an answer (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// This number of bytes, as `Content-Length` says.
    Length(u64),
    /// In chunks that carry their own lengths.
    Chunked,
    /// Until the peer closes.
    ToEnd,
}

/// The head of the answer; those of interim ones before it are skipped.
pub(crate) async fn read_head(
    reader: &mut (impl AsyncRead + Unpin),
    input: &mut BytesMut,
) -> io::Result<Head> {
    loop {
        while let Some((bytes, head)) = parse_head(input)? {
            input.advance(bytes);
            // 100 and 103 may come unasked, any number of them (RFC 9110 §15.2).
            if !head.status.is_informational() {
                return Ok(head);
            }
            if head.status == StatusCode::SWITCHING_PROTOCOLS {
                return Err(invalid("the peer wants to speak another protocol"));
            }
        }
        if input.len() >= HEAD_BYTES_MAX {
            return Err(invalid("the head of the answer is too long"));
        }
        if read_some(reader, input).await? == 0 {
            return Err(cut_short());
        }
    }
}

/// The head at the start of `input` and its length; `None` if it is not whole.
fn parse_head(input: &[u8]) -> io::Result<Option<(usize, Head)>> {
    if input.is_empty() {
        return Ok(None);
    }
    // Not initialized: a hundred empty headers would be written for an answer that has five.
    let mut headers = [const { MaybeUninit::<Header<'_>>::uninit() }; HEADERS_MAX];
    let mut response = Response::new(&mut []);
    let parsed = ParserConfig::default()
        .parse_response_with_uninit_headers(&mut response, input, &mut headers)
        .map_err(invalid)?;
    let Status::Complete(bytes) = parsed else {
        return Ok(None);
    };
    let status = StatusCode::from_u16(response.code.unwrap_or(0)).map_err(invalid)?;
    let mut length = None;
    let mut chunked = None;
    let mut keeps_alive = response.version == Some(1);
    for Header { name, value } in response.headers {
        if name.eq_ignore_ascii_case("content-length") {
            let said = parse_length(value)?;
            // RFC 9112 §6.3: it cannot be known where the answer ends, nor where the next one
            // begins.
            if length.is_some_and(|it| it != said) {
                return Err(invalid("the answer has two lengths"));
            }
            length = Some(said);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            // Only the last coding may be `chunked` (RFC 9112 §6.1), and only it says where the
            // body ends.
            let last = tokens(value).last();
            chunked = Some(last.is_some_and(|it| it.eq_ignore_ascii_case(b"chunked")));
        } else if name.eq_ignore_ascii_case("connection") {
            for token in tokens(value) {
                if token.eq_ignore_ascii_case(b"close") {
                    keeps_alive = false;
                } else if token.eq_ignore_ascii_case(b"keep-alive") {
                    keeps_alive = true;
                }
            }
        }
    }
    // Whatever their headers say (RFC 9112 §6.3).
    let has_no_body = status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED;
    let framing = match (chunked, length) {
        _ if has_no_body => Framing::Length(0),
        (Some(is_chunked), said) => {
            // With both, somebody on the way may have taken the other for the end.
            keeps_alive &= is_chunked && said.is_none();
            if is_chunked {
                Framing::Chunked
            } else {
                Framing::ToEnd
            }
        }
        (None, Some(length)) => Framing::Length(length),
        (None, None) => Framing::ToEnd,
    };
    let head = Head {
        status,
        framing,
        keeps_alive,
    };
    Ok(Some((bytes, head)))
}

/// The value of `Content-Length`.
fn parse_length(value: &[u8]) -> io::Result<u64> {
    let digits = std::str::from_utf8(value).ok().map(str::trim);
    // `parse` would take a sign, which others on the way may not.
    let digits = digits.filter(|it| it.bytes().all(|byte| byte.is_ascii_digit()));
    let length = digits.and_then(|it| it.parse().ok());
    length.ok_or_else(|| invalid("the answer has a length that is none"))
}

/// The members of a list in a header.
fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii)
}
