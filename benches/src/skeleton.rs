//! The yardstick of latency: a fan-out with none of a broadcaster's duties, in a process of its
//! own.

use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::{Buf as _, Bytes, BytesMut};
use httppubsub_proto::digest::encode_repr_digest;
use httppubsub_proto::stateless::ReceiveHead;
use httppubsub_proto::topic::Identifier;
use httppubsub_proto::url::{Endpoint, SubscriberUrl};
use hyper::StatusCode;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Child;

use crate::by_hand::ByHand;
use crate::machine::{self, Cores};
use crate::message::Message;
use crate::publish::Notify;
use crate::sinks::topic;

/// A running skeleton; dropping it kills it.
///
/// A body that is posted to it is what follows the request line and the host of a request to each
/// subscriber. It writes that to all of them, waits for all their answers, and answers. It looks at
/// nothing, signs nothing, and serves one publisher.
pub(crate) struct Skeleton {
    _process: Child,
    pid: u32,
    endpoint: Endpoint,
}

impl Skeleton {
    /// Starts it and waits until it listens.
    pub(crate) async fn start<'a>(
        urls: impl Iterator<Item = &'a SubscriberUrl>,
        cores: Option<Cores>,
    ) -> anyhow::Result<Self> {
        let order = json!({ "urls": urls.map(SubscriberUrl::as_str).collect::<Vec<_>>() });
        let mut process = machine::start_yardstick(SUBCOMMAND, &order, cores).await?;
        let stdout = process.stdout.take();
        let mut line = String::new();
        BufReader::new(stdout.context("the skeleton's stdout is gone")?)
            .read_line(&mut line)
            .await?;
        Ok(Self {
            pid: process.id().context("the skeleton has ended")?,
            _process: process,
            endpoint: Endpoint::parse_str(line.trim()).context("the skeleton did not start")?,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}

/// The skeleton itself: reads its order from stdin, says its address, and serves until it is
/// killed.
pub(crate) fn main() -> anyhow::Result<()> {
    let order = machine::order()?;
    let urls = order["urls"].as_array().context("no urls")?;
    let urls = urls
        .iter()
        .map(|url| url.as_str().context("a url is no text"));
    let urls = urls.collect::<anyhow::Result<Vec<_>>>()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut sinks = Vec::new();
        for url in urls {
            sinks.push(ByHand::open(&Endpoint::parse_str(url)?, "").await?);
        }
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        println_flushed(&format!("http://{}/", listener.local_addr()?))?;
        loop {
            let (publisher, _) = listener.accept().await?;
            serve(publisher, &mut sinks).await?;
        }
    })
}

fn println_flushed(line: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

/// Until the publisher closes the connection.
async fn serve(mut publisher: TcpStream, sinks: &mut [ByHand]) -> anyhow::Result<()> {
    publisher.set_nodelay(true)?;
    let mut input = BytesMut::new();
    loop {
        let Some(body_bytes) = head(&input)? else {
            input.reserve(READ_BYTES);
            if publisher.read_buf(&mut input).await? == 0 {
                return Ok(());
            }
            continue;
        };
        let (head_bytes, body_bytes) = body_bytes;
        input.advance(head_bytes);
        while input.len() < body_bytes {
            input.reserve(READ_BYTES);
            let read = publisher.read_buf(&mut input).await?;
            ensure!(read > 0, "the publisher closed the connection");
        }
        let body = input.split_to(body_bytes);
        for sink in &mut *sinks {
            sink.send(&body).await?;
        }
        for sink in &mut *sinks {
            let status = sink.answer().await?.status;
            ensure!(status == StatusCode::OK, "a request was answered {status}");
        }
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        publisher.write_all(answer).await?;
    }
}

/// The lengths of the head and of the body of a request, when its head is there.
fn head(input: &[u8]) -> anyhow::Result<Option<(usize, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(head_bytes) = request.parse(input)? else {
        return Ok(None);
    };
    let mut headers = request.headers.iter();
    let length = headers.find(|it| it.name.eq_ignore_ascii_case("content-length"));
    let length = length.context("a request has no length")?.value;
    Ok(Some((head_bytes, std::str::from_utf8(length)?.parse()?)))
}

/// Makes a skeleton send what a broadcaster would.
pub(crate) struct Forwarder(ByHand);

impl Forwarder {
    pub(crate) async fn connect(skeleton: &Endpoint) -> anyhow::Result<Self> {
        Ok(Self(ByHand::open_to(skeleton, "/", "").await?))
    }
}

impl Notify for Forwarder {
    async fn notify(&mut self, message: Message) -> anyhow::Result<Duration> {
        let head = ReceiveHead {
            tracing: Bytes::new(),
            topic: topic(),
            identifier: Identifier::new(Bytes::copy_from_slice(&rand::random::<[u8; 8]>()))?,
            message_bytes: message.bytes(),
        };
        let head = head.encode();
        let mut rest = format!(
            "content-type: application/octet-stream\r\nrepr-digest: {}\r\ncontent-length: {}\r\n\
             \r\n",
            encode_repr_digest(&message.sha512()),
            head.len() as u64 + message.bytes(),
        )
        .into_bytes();
        rest.extend_from_slice(&head);
        let body = message.behind(&rest);
        let began = Instant::now();
        let answer = self.0.post(None, body).await?;
        let took = began.elapsed();
        ensure!(
            answer.status == StatusCode::OK,
            "the skeleton answered {}",
            answer.status
        );
        Ok(took)
    }
}

/// How this program is told to be the skeleton.
pub(crate) const SUBCOMMAND: &str = "skeleton";

/// How much is read at once, in bytes.
const READ_BYTES: usize = 16 * 1024;
