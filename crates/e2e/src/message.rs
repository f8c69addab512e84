//! The framing of HTTP/1.1, read by hand: what arrives is reported as it is.

use std::io::{self, BufRead};

/// The lines before a body.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) first_line: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
}

impl Head {
    /// The next head; `None` if the peer has closed the connection before it.
    pub(crate) fn read(reader: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut lines = Vec::new();
        loop {
            let mut line = Vec::new();
            if reader.read_until(b'\n', &mut line)? == 0 {
                return match lines.len() {
                    0 => Ok(None),
                    _ => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if line.is_empty() {
                break;
            }
            lines.push(line);
        }
        let mut lines = lines.into_iter();
        let first_line = lines.next().unwrap_or_default();
        let header = |line: String| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        };
        let headers = lines.filter_map(header).collect();
        Ok(Some(Self {
            first_line,
            headers,
        }))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(own, _)| own == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Reads the body that follows and hands it on in parts.
    pub(crate) fn read_body(
        &self,
        reader: &mut impl BufRead,
        mut take: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        if self
            .header("transfer-encoding")
            .is_some_and(|it| it.contains("chunked"))
        {
            loop {
                let mut line = String::new();
                reader.read_line(&mut line)?;
                let length = u64::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
                copy(reader, length, &mut take)?;
                reader.read_line(&mut line)?;
                if length == 0 {
                    return Ok(());
                }
            }
        }
        let length = self.header("content-length").unwrap_or("0");
        copy(reader, length.parse().map_err(io::Error::other)?, &mut take)
    }
}

fn copy(reader: &mut impl BufRead, length: u64, take: &mut impl FnMut(&[u8])) -> io::Result<()> {
    let mut left = length;
    let mut part = vec![0; 64 * 1024];
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(part.len());
        let read = reader.read(&mut part[..wanted])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        take(&part[..read]);
        left -= read as u64;
    }
    Ok(())
}

/// What a broadcaster answered.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status of HTTP.
    pub status: u16,
    head: Head,
    /// All of the body.
    pub body: Vec<u8>,
}

impl Response {
    /// The next answer; `None` if the peer has closed the connection instead.
    pub(crate) fn read(reader: &mut impl BufRead) -> io::Result<Option<Self>> {
        let Some(head) = Head::read(reader)? else {
            return Ok(None);
        };
        let status = head
            .first_line
            .split(' ')
            .nth(1)
            .and_then(|it| it.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(head.first_line.clone()))?;
        let mut body = Vec::new();
        if status >= 200 {
            head.read_body(reader, |part| body.extend_from_slice(part))?;
        }
        Ok(Some(Self { status, head, body }))
    }

    /// The value of a header whose name is given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}
