//! One kept HTTP/1.1 connection, one request at a time.

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use httppubsub_proto::url::Endpoint;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::http::uri::PathAndQuery;
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

use crate::message::Outgoing;

pub(crate) struct Connection {
    sender: SendRequest<Outgoing>,
    host: HeaderValue,
    _driver: AbortOnDropHandle<()>,
}

/// What came back.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// Whether it says when to ask again.
    pub(crate) retry_after: bool,
    pub(crate) body: Bytes,
}

impl Connection {
    pub(crate) async fn open(peer: &Endpoint) -> anyhow::Result<Self> {
        let origin = peer.origin();
        let stream = TcpStream::connect((origin.host.as_str(), origin.port))
            .await
            .with_context(|| format!("cannot connect to {origin}"))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // Its errors are those of the requests.
        let driver = tokio::spawn(async move { drop(connection.await) });
        Ok(Self {
            sender,
            host: HeaderValue::from_str(peer.host_header())?,
            _driver: AbortOnDropHandle::new(driver),
        })
    }

    /// Posts `body` to `path` and reads the whole answer.
    pub(crate) async fn post(
        &mut self,
        path: &PathAndQuery,
        authorization: Option<String>,
        header: Option<(HeaderName, HeaderValue)>,
        body: Outgoing,
    ) -> anyhow::Result<Answer> {
        self.sender
            .ready()
            .await
            .context("the peer closed the connection")?;
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from(path.clone());
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone());
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        );
        if let Some(value) = authorization {
            headers.insert(AUTHORIZATION, HeaderValue::try_from(value)?);
        }
        headers.extend(header);
        let answer = self
            .sender
            .send_request(request)
            .await
            .context("the request failed")?;
        let (head, body) = answer.into_parts();
        let body = body
            .collect()
            .await
            .context("the answer was cut off")?
            .to_bytes();
        Ok(Answer {
            status: head.status,
            retry_after: head.headers.contains_key(RETRY_AFTER),
            body,
        })
    }
}

/// A path that this program wrote itself.
pub(crate) fn path(path: &'static str) -> PathAndQuery {
    PathAndQuery::from_static(path)
}
