//! Reads requests beside the HTTP library, which forgives what others read differently: what is not
//! framed as RFC 9112 has it is found before it is taken for a request.

use std::mem;

/// Reason why a request is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    /// A line ends with LF alone.
    #[error("a line does not end with CRLF")]
    BareLf,
    /// CR that does not end a line.
    #[error("a CR does not end a line")]
    BareCr,
    /// A line of the head that is no header.
    #[error("a header has blanks before it or around its name, or no name")]
    HeaderLine,
    /// A header of which there can be one.
    #[error("the header `{0}` is there twice")]
    Twice(&'static str),
    /// HTTP/1.1 without `Host`.
    #[error("the header `Host` is missing")]
    NoHost,
    /// A `Host` that is none.
    #[error("the header `Host` does not name a host")]
    Host,
    /// The target and `Host` differ.
    #[error("the target is of another host than `Host`")]
    OtherHost,
    /// A length that is none.
    #[error("the header `Content-Length` is not a length")]
    Length,
    /// An encoding other than `chunked`.
    #[error("the header `Transfer-Encoding` is not `chunked`")]
    Encoding,
    /// Two ways to tell where the body ends, or one that HTTP/1.0 does not have.
    #[error("it is not clear where the body ends")]
    TwoLengths,
    /// `Upgrade` in HTTP/1.0.
    #[error("HTTP/1.0 has no websockets")]
    OldUpgrade,
    /// A chunk without a length.
    #[error("a chunk has no length")]
    Chunk,
    /// A line that says how the request is to be read, and is too long to be looked at whole.
    #[error("a line that matters for the framing is longer than {LINE_KEPT_MAX} bytes")]
    LongLine,
}

/// Follows the requests of a connection byte by byte. It holds no body and no whole head: a line at
/// a time, and of a head the few fields that say how the request is framed.
#[derive(Debug, Default)]
pub(crate) struct Framing {
    /// The part of a request to which the next byte belongs.
    at: At,
    /// The beginning of a line that is not whole yet.
    line: Vec<u8>,
    /// `true` if some of that beginning was not kept.
    is_cut: bool,
    /// The head of the present request, until its end is there.
    head: Head,
}

/// A place in a request. What a length promises is skipped without a look at it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    /// Before the first line of a request.
    #[default]
    Start,
    /// In the head, behind its first line.
    Headers,
    /// In a body, this number of bytes before its end.
    Body(u64),
    /// At the line that gives the length of the next chunk.
    ChunkSize,
    /// In a chunk, this number of bytes before its end.
    Chunk(u64),
    /// At the end of a line that has to follow a chunk.
    ChunkEnd,
    /// Behind the last chunk: lines like those of a head, up to an empty one.
    Trailers,
    /// Behind a request for another protocol. What follows is not HTTP, and is not looked at.
    Upgraded,
}

/// The fields of a head that decide where its request ends, and which host it is for.
#[derive(Debug, Default)]
struct Head {
    /// `true` for HTTP/1.0, which has neither chunks nor a duty to name the host.
    is_old: bool,
    /// Host of the target where that is a whole url, in lower case.
    target_host: Option<Vec<u8>>,
    /// Value of `Host`, in lower case.
    host: Option<Vec<u8>>,
    /// Value of `Content-Length`.
    length: Option<u64>,
    /// `true` if `Transfer-Encoding` is `chunked`, the only one that is taken here.
    is_chunked: bool,
    /// `true` if `Upgrade` names a websocket.
    asks_for_upgrade: bool,
    /// By their place in [`SINGLE`].
    seen: [bool; SINGLE.len()],
}

/// Headers of which a request has one at most. Two values of one of these could be told apart only
/// by order, in which proxies and servers differ: one would check the first, and the other act on
/// the second.
const SINGLE: [&str; 8] = [
    "host",
    "content-length",
    "transfer-encoding",
    "authorization",
    "repr-digest",
    "content-type",
    "sec-websocket-key",
    "sec-websocket-version",
];

/// Kept of a line that comes in parts, in bytes. A longer line is malformed if its value matters
/// here: another parser would read what was not kept.
const LINE_KEPT_MAX: usize = 1_024;

impl Framing {
    /// Takes the next bytes; fails with the place of the first one that makes a request malformed.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<(), (usize, Malformed)> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            match &mut self.at {
                At::Upgraded => return Ok(()),
                At::Body(left) | At::Chunk(left) => {
                    let taken = rest.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= taken as u64;
                    at += taken;
                    match self.at {
                        At::Body(0) => self.at = At::Start,
                        At::Chunk(0) => self.at = At::ChunkEnd,
                        _ => {}
                    }
                }
                _ => {
                    let end = memchr::memchr(b'\n', rest);
                    let part = &rest[..end.map_or(rest.len(), |end| end + 1)];
                    let last = at + part.len() - 1;
                    self.part_of_line(part, end.is_some())
                        .map_err(|malformed| (last, malformed))?;
                    at += part.len();
                }
            }
        }
        Ok(())
    }

    /// Takes a part of a line, its last one if it `is_end`. Lines mostly come whole, and are read
    /// where they lie; of one that does not, at most [`LINE_KEPT_MAX`] bytes are kept.
    fn part_of_line(&mut self, part: &[u8], is_end: bool) -> Result<(), Malformed> {
        if !is_end {
            // The last byte tells whether LF follows CR.
            let mut kept = mem::take(&mut self.line);
            let was_cr = kept.last() == Some(&b'\r');
            if was_cr {
                self.line = kept;
                return Err(Malformed::BareCr);
            }
            let room = LINE_KEPT_MAX.saturating_sub(kept.len());
            kept.extend_from_slice(&part[..part.len().min(room)]);
            let ends_with_cr = part.last() == Some(&b'\r');
            let inner = &part[..part.len() - usize::from(ends_with_cr)];
            self.is_cut |= inner.len() > room;
            if memchr::memchr(b'\r', inner).is_some() {
                return Err(Malformed::BareCr);
            }
            if ends_with_cr && kept.last() != Some(&b'\r') {
                kept.push(b'\r');
            }
            self.line = kept;
            return Ok(());
        }
        let is_cut = mem::take(&mut self.is_cut);
        let joined;
        let line = if self.line.is_empty() {
            part
        } else {
            let mut line = mem::take(&mut self.line);
            line.extend_from_slice(part);
            joined = line;
            &joined
        };
        let Some(line) = line.strip_suffix(b"\r\n") else {
            return Err(Malformed::BareLf);
        };
        if memchr::memchr(b'\r', line).is_some() {
            return Err(Malformed::BareCr);
        }
        // However the line came, the same of it counts.
        let is_cut = is_cut || line.len() > LINE_KEPT_MAX;
        self.line(line, is_cut)
    }

    /// Takes a whole line without its CRLF. Of one that `is_cut` the beginning is there.
    fn line(&mut self, line: &[u8], is_cut: bool) -> Result<(), Malformed> {
        self.at = match self.at {
            At::Start if line.is_empty() => At::Start,
            At::Start => {
                self.head = Head::begin(line);
                At::Headers
            }
            At::Headers if line.is_empty() => mem::take(&mut self.head).end()?,
            At::Headers => {
                self.head.header(line, is_cut)?;
                At::Headers
            }
            At::ChunkSize if is_cut => return Err(Malformed::LongLine),
            At::ChunkSize => match chunk_size(line).ok_or(Malformed::Chunk)? {
                0 => At::Trailers,
                size => At::Chunk(size),
            },
            At::ChunkEnd if line.is_empty() => At::ChunkSize,
            At::ChunkEnd => return Err(Malformed::Chunk),
            At::Trailers if line.is_empty() => At::Start,
            At::Trailers => {
                name_and_value(line)?;
                At::Trailers
            }
            At::Body(_) | At::Chunk(_) | At::Upgraded => self.at,
        };
        Ok(())
    }
}

impl Head {
    /// A head that begins with this line. Its method and its target are judged by the HTTP library.
    fn begin(line: &[u8]) -> Self {
        let mut words = line
            .split(|byte| *byte == b' ')
            .filter(|word| !word.is_empty());
        let (_, target) = (words.next(), words.next().unwrap_or_default());
        Self {
            // What is kept of a long line does not reach its end, and such a line is of today.
            is_old: words.next() == Some(b"HTTP/1.0"),
            target_host: host_of_target(target),
            ..Self::default()
        }
    }

    /// Takes a header. Only the ones that say how the request is read are looked at: all others
    /// may hold what they like.
    fn header(&mut self, line: &[u8], is_cut: bool) -> Result<(), Malformed> {
        let (name, value) = name_and_value(line)?;
        let single = SINGLE
            .iter()
            .position(|it| name.eq_ignore_ascii_case(it.as_bytes()));
        if let Some(at) = single
            && mem::replace(&mut self.seen[at], true)
        {
            return Err(Malformed::Twice(SINGLE[at]));
        }
        match single.map(|at| SINGLE[at]) {
            Some("host" | "content-length" | "transfer-encoding") if is_cut => {
                return Err(Malformed::LongLine);
            }
            Some("host") => {
                let is_host = value.len() < LINE_KEPT_MAX / 2
                    && !value.iter().any(|byte| b" \t,/?#@".contains(byte));
                if !is_host {
                    return Err(Malformed::Host);
                }
                self.host = Some(value.to_ascii_lowercase());
            }
            Some("content-length") => self.length = Some(digits(value).ok_or(Malformed::Length)?),
            Some("transfer-encoding") => {
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Malformed::Encoding);
                }
                self.is_chunked = true;
            }
            Some(_) => {}
            None if name.eq_ignore_ascii_case(b"upgrade") => {
                let value = value.to_ascii_lowercase();
                self.asks_for_upgrade |= memchr::memmem::find(&value, b"websocket").is_some();
            }
            None => {}
        }
        Ok(())
    }

    /// The state after the head.
    fn end(self) -> Result<At, Malformed> {
        match (&self.host, &self.target_host) {
            (None, _) if !self.is_old => return Err(Malformed::NoHost),
            (Some(host), Some(target)) if without_port(host) != without_port(target) => {
                return Err(Malformed::OtherHost);
            }
            _ => {}
        }
        if self.is_chunked && (self.length.is_some() || self.is_old) {
            return Err(Malformed::TwoLengths);
        }
        if self.asks_for_upgrade {
            return match self.is_old {
                true => Err(Malformed::OldUpgrade),
                false => Ok(At::Upgraded),
            };
        }
        Ok(match (self.is_chunked, self.length) {
            (true, _) => At::ChunkSize,
            (false, None | Some(0)) => At::Start,
            (false, Some(length)) => At::Body(length),
        })
    }
}

/// A header that begins with a name: no blanks are before it or behind it.
fn name_and_value(line: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let colon = memchr::memchr(b':', line).ok_or(Malformed::HeaderLine)?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if name.is_empty() || name.iter().any(|byte| b" \t".contains(byte)) {
        return Err(Malformed::HeaderLine);
    }
    Ok((name, value.trim_ascii()))
}

/// The number that decimal digits alone make; `parse` would take a sign as well.
fn digits(value: &[u8]) -> Option<u64> {
    if !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// The length of a chunk in hexadecimal digits, before extensions that nobody here knows.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let size = line.split(|byte| *byte == b';').next()?.trim_ascii_end();
    if size.is_empty() || !size.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(size).ok()?, 16).ok()
}

/// The host of a target that is a whole url.
fn host_of_target(target: &[u8]) -> Option<Vec<u8>> {
    let target = target.to_ascii_lowercase();
    let rest = ["http://", "https://"]
        .iter()
        .find_map(|scheme| target.strip_prefix(scheme.as_bytes()))?;
    let end = rest.iter().position(|byte| b"/?#".contains(byte));
    Some(rest[..end.unwrap_or(rest.len())].to_vec())
}

/// The host without the port that its scheme has anyway: `Host` may leave it out.
fn without_port(host: &[u8]) -> &[u8] {
    let host = host.strip_suffix(b":80").unwrap_or(host);
    host.strip_suffix(b":443").unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first malformed thing in these bytes, which must be the same in whatever parts they
    /// come.
    #[track_caller]
    fn found(bytes: &[u8]) -> Option<Malformed> {
        let whole = Framing::default().feed(bytes).err();
        for part in 1..bytes.len() {
            let mut framing = Framing::default();
            let parts = bytes.chunks(part).map(|part| framing.feed(part));
            let in_parts = parts.filter_map(Result::err).next();
            let (whole, in_parts) = (whole.map(|it| it.1), in_parts.map(|it| it.1));
            assert_eq!(in_parts, whole, "in parts of {part}");
        }
        whole.map(|(_, malformed)| malformed)
    }

    #[test]
    fn bare_lf_and_the_like_are_found() {
        use Malformed::*;
        let cases: &[(&str, Malformed)] = &[
            ("GET / HTTP/1.1\nHost: h\r\n\r\n", BareLf),
            ("GET / HTTP/1.1\r\nHost: h\n\r\n", BareLf),
            ("GET / HTTP/1.1\r\nHost: h\r\n\n", BareLf),
            ("\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", BareLf),
            ("GET / HTTP/1.1\r\nHost: h\r\nA: b\rc\r\n\r\n", BareCr),
            ("GET / HTTP/1.1\r\nHost: h\r\r\n\r\n", BareCr),
            ("GET / HTTP/1.1\r\nHost: h\r\n folded\r\n\r\n", HeaderLine),
            (
                "GET / HTTP/1.1\r\nHost: h\r\n folded: x\r\n\r\n",
                HeaderLine,
            ),
            ("GET / HTTP/1.1\r\nHost : h\r\n\r\n", HeaderLine),
            ("GET / HTTP/1.1\r\nHost: h\r\n: x\r\n\r\n", HeaderLine),
            (
                "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\n",
                BareLf,
            ),
            (
                "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\nx\r\n0\r\n\r\n",
                BareLf,
            ),
            (
                "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxy\r\n",
                Chunk,
            ),
            (
                "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nx\r\n",
                Chunk,
            ),
        ];
        for (bytes, want) in cases {
            assert_eq!(found(bytes.as_bytes()), Some(*want), "{bytes:?}");
        }
    }

    #[test]
    fn two_hosts_and_the_like_are_found() {
        use Malformed::*;
        let cases: &[(&str, &str, Malformed)] = &[
            ("GET / HTTP/1.1", "", NoHost),
            ("GET / HTTP/1.1", "Host: a\r\nhost: a\r\n", Twice("host")),
            ("GET / HTTP/1.0", "Host: a\r\nHost: b\r\n", Twice("host")),
            ("GET / HTTP/1.1", "Host: a, b\r\n", Host),
            ("GET / HTTP/1.1", "Host: u@a\r\n", Host),
            ("GET http://a/ HTTP/1.1", "Host: b\r\n", OtherHost),
            ("GET http://a?x HTTP/1.1", "Host: b\r\n", OtherHost),
            (
                "GET / HTTP/1.1",
                "Host: a\r\nAuthorization: x\r\nAuthorization: x\r\n",
                Twice("authorization"),
            ),
            (
                "POST / HTTP/1.1",
                "Host: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n",
                Twice("content-length"),
            ),
            (
                "POST / HTTP/1.1",
                "Host: a\r\nContent-Length: 1, 1\r\n",
                Length,
            ),
            (
                "POST / HTTP/1.1",
                "Host: a\r\nContent-Length: +1\r\n",
                Length,
            ),
            ("POST / HTTP/1.1", "Host: a\r\nContent-Length: \r\n", Length),
            (
                "POST / HTTP/1.1",
                "Host: a\r\nContent-Length: 99999999999999999999\r\n",
                Length,
            ),
            (
                "POST / HTTP/1.1",
                "Host: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n",
                TwoLengths,
            ),
            (
                "POST / HTTP/1.0",
                "Host: a\r\nTransfer-Encoding: chunked\r\n",
                TwoLengths,
            ),
            (
                "POST / HTTP/1.1",
                "Host: a\r\nTransfer-Encoding: gzip, chunked\r\n",
                Encoding,
            ),
            (
                "POST / HTTP/1.1",
                "Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                Twice("transfer-encoding"),
            ),
            (
                "GET / HTTP/1.0",
                "Host: a\r\nUpgrade: websocket\r\n",
                OldUpgrade,
            ),
        ];
        for (line, headers, want) in cases {
            let bytes = format!("{line}\r\n{headers}\r\n");
            assert_eq!(found(bytes.as_bytes()), Some(*want), "{bytes:?}");
        }
    }

    /// Another parser reads the digits that are not kept here, and takes what follows for the body.
    #[test]
    fn two_lengths_by_a_line_that_is_too_long_to_be_looked_at_are_found() {
        let zeros = "0".repeat(2 * LINE_KEPT_MAX);
        for headers in [
            format!("Host: h\r\nContent-Length: {zeros}57\r\n\r\n"),
            format!("Content-Length: 1\r\nHost: h{zeros}\r\n\r\n"),
            format!("Host: h\r\nTransfer-Encoding: {zeros}, chunked\r\n\r\n"),
            format!("Host: h\r\nTransfer-Encoding: chunked\r\n\r\n{zeros}9\r\n"),
            format!("Host: h\r\nTransfer-Encoding: chunked\r\n\r\n1;{zeros}\r\n"),
        ] {
            let request = format!("POST / HTTP/1.1\r\n{headers}");
            assert_eq!(found(request.as_bytes()), Some(Malformed::LongLine));
        }
        // As long as can be.
        let zeros = "0".repeat(LINE_KEPT_MAX - "Content-Length: 2".len());
        let request = format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {zeros}2\r\n\r\n\n\n");
        assert_eq!(found(request.as_bytes()), None);
    }

    #[test]
    fn what_is_well_formed_passes_and_its_end_is_known() {
        let requests: &[&str] = &[
            "GET / HTTP/1.1\r\nHost: h\r\n\r\n",
            "\r\nGET / HTTP/1.1\r\nhost:h\r\nA:\r\nCookie: a\r\nCookie: b\r\n\r\n",
            "GET / HTTP/1.0\r\n\r\n",
            "GET http://H:80/x HTTP/1.1\r\nHost: h\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nHost: [::1]:3003\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n\n\r\n\n\n",
            "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: Chunked\r\n\r\n\
             2;a=b\r\n\n\n\r\nA \r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n",
        ];
        let all = requests.concat();
        assert_eq!(found(all.as_bytes()), None);
        let mut framing = Framing::default();
        framing.feed(all.as_bytes()).unwrap();
        assert_eq!(framing.at, At::Start);
        let long = format!(
            "GET /{} HTTP/1.1\r\nHost: h\r\nA: {0}\r\n\r\n",
            "x".repeat(3_000)
        );
        assert_eq!(found(long.as_bytes()), None);
        let upgrade = "GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\r\n\n\n\n";
        assert_eq!(found(upgrade.as_bytes()), None);
    }
}
