//! HTTP/1.1 written by hand: what a delivery costs when nothing is general.

use std::io::Write as _;

use anyhow::{Context as _, ensure};
use bytes::{Bytes, BytesMut};
use httppubsub_proto::url::Endpoint;
use hyper::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::connection::Answer;
use crate::message::Outgoing;

/// A connection for which HTTP is written by hand.
pub(crate) struct ByHand {
    stream: TcpStream,
    /// Request line and headers that are always the same.
    first: Vec<u8>,
    output: Vec<u8>,
    input: BytesMut,
}

impl ByHand {
    /// `always` are headers that all requests have.
    pub(crate) async fn open(peer: &Endpoint, always: &str) -> anyhow::Result<Self> {
        Self::open_to(peer, peer.path_and_query(), always).await
    }

    /// The same for another path there.
    pub(crate) async fn open_to(peer: &Endpoint, path: &str, always: &str) -> anyhow::Result<Self> {
        let origin = peer.origin();
        let stream = TcpStream::connect((origin.host.as_str(), origin.port)).await?;
        stream.set_nodelay(true)?;
        let first = format!(
            "POST {path} HTTP/1.1\r\nhost: {}\r\n{always}",
            peer.host_header(),
        );
        Ok(Self {
            stream,
            first: first.into(),
            output: Vec::new(),
            input: BytesMut::new(),
        })
    }

    /// Posts a body and reads the whole answer.
    pub(crate) async fn post(
        &mut self,
        authorization: Option<String>,
        mut body: Outgoing,
    ) -> anyhow::Result<Answer> {
        let output = &mut self.output;
        output.clear();
        output.extend_from_slice(&self.first);
        if let Some(value) = authorization {
            write!(output, "authorization: {value}\r\n")?;
        }
        write!(output, "content-length: {}\r\n\r\n", body.bytes())?;
        output.extend_from_slice(&body.next_part().unwrap_or_default());
        self.stream.write_all(output).await?;
        while let Some(part) = body.next_part() {
            self.stream.write_all(&part).await?;
        }
        self.answer().await
    }

    /// Sends what follows the headers that all requests have: further ones, and the body.
    pub(crate) async fn send(&mut self, rest: &[u8]) -> anyhow::Result<()> {
        self.output.clear();
        self.output.extend_from_slice(&self.first);
        self.output.extend_from_slice(rest);
        Ok(self.stream.write_all(&self.output).await?)
    }

    /// Reads the answer to what was sent.
    pub(crate) async fn answer(&mut self) -> anyhow::Result<Answer> {
        loop {
            self.input.reserve(READ_BYTES);
            let read = self.stream.read_buf(&mut self.input).await?;
            ensure!(read > 0, "a peer closed the connection");
            let mut headers = [httparse::EMPTY_HEADER; 16];
            let mut response = httparse::Response::new(&mut headers);
            let httparse::Status::Complete(bytes) = response.parse(&self.input)? else {
                continue;
            };
            let named = |name: &str| {
                let mut headers = response.headers.iter();
                headers.find(|it| it.name.eq_ignore_ascii_case(name))
            };
            let length = named("content-length");
            let length = length.context("an answer has no length")?.value;
            let length: usize = std::str::from_utf8(length)?.parse()?;
            if self.input.len() < bytes + length {
                continue;
            }
            let status = StatusCode::from_u16(response.code.unwrap_or(0))?;
            let body = Bytes::copy_from_slice(&self.input[bytes..bytes + length]);
            let retry_after = named("retry-after").is_some();
            self.input.clear();
            return Ok(Answer {
                status,
                retry_after,
                body,
            });
        }
    }
}

/// How much is read at once, in bytes.
const READ_BYTES: usize = 4 * 1024;
