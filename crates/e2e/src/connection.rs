//! A connection to a broadcaster over which any bytes can be sent.

use std::io::{self, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use crate::message::Response;
use crate::patience::PATIENCE;
use crate::random::Filler;
use crate::signer::Asked;

/// A kept-alive connection to a broadcaster.
#[derive(Debug)]
pub struct Connection {
    reader: BufReader<TcpStream>,
    host: String,
}

impl Connection {
    /// Connects.
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            reader: BufReader::new(stream),
            host: address.to_string(),
        })
    }

    /// Sends these bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.reader.get_mut().write_all(bytes)
    }

    /// Gives up on sending after this long.
    ///
    /// # Panics
    ///
    /// If `timeout` is zero.
    pub fn set_write_timeout(&mut self, timeout: Duration) {
        let set = self.reader.get_ref().set_write_timeout(Some(timeout));
        set.expect("the timeout is not zero");
    }

    /// Sends a request whole.
    pub fn post(&mut self, asked: &Asked) -> io::Result<()> {
        let head = asked.head(&self.host, asked.body.len() as u64);
        self.send(&[&head, &asked.body[..]].concat())
    }

    /// Sends a request and `filler` behind its body.
    pub fn post_with(&mut self, asked: &Asked, filler: &Filler) -> io::Result<()> {
        let head = asked.head(&self.host, asked.body.len() as u64 + filler.bytes);
        self.send(&[&head, &asked.body[..]].concat())?;
        filler.write_to(self.reader.get_mut())
    }

    /// Sends the head of a request that announces a body of `body_bytes` bytes, and no body.
    pub fn announce(&mut self, asked: &Asked, body_bytes: u64) -> io::Result<()> {
        let head = asked.head(&self.host, body_bytes);
        self.send(&head)
    }

    /// The next answer; `None` if the connection was closed instead.
    pub fn answer(&mut self) -> io::Result<Option<Response>> {
        Response::read(&mut self.reader)
    }

    /// Sends a request and returns its answer.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[track_caller]
    pub fn ask(&mut self, asked: &Asked) -> Response {
        if let Err(error) = self.post(asked) {
            panic!("{} could not be sent: {error}", asked.path);
        }
        match self.answer() {
            Ok(Some(response)) => response,
            other => panic!("{} was not answered: {other:?}", asked.path),
        }
    }

    /// Asks for a path with GET.
    #[track_caller]
    pub fn get(&mut self, path: &str) -> Response {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.host);
        self.send(request.as_bytes())
            .expect("the connection is open");
        match self.answer() {
            Ok(Some(response)) => response,
            other => panic!("GET {path} was not answered: {other:?}"),
        }
    }

    /// Reads until `end` has come, and says all that was read since, headers and framing included.
    pub fn read_until(&mut self, end: &[u8]) -> io::Result<String> {
        let mut read = Vec::new();
        while !read.windows(end.len()).any(|it| it == end) {
            let mut part = [0; 4096];
            match self.reader.read(&mut part)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                bytes => read.extend_from_slice(&part[..bytes]),
            }
        }
        Ok(String::from_utf8_lossy(&read).into_owned())
    }

    /// Says that nothing more will be sent.
    pub fn finish(&mut self) -> io::Result<()> {
        self.reader.get_ref().shutdown(Shutdown::Write)
    }

    /// Whether the peer closes the connection within `timeout`, or has done so.
    ///
    /// # Panics
    ///
    /// If bytes arrive.
    #[track_caller]
    pub fn is_closed_within(&mut self, timeout: Duration) -> bool {
        let stream = self.reader.get_ref();
        stream
            .set_read_timeout(Some(timeout))
            .expect("the timeout is not zero");
        let mut byte = [0];
        let read = self.reader.read(&mut byte);
        let stream = self.reader.get_ref();
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("the timeout is not zero");
        match read {
            Ok(0) => true,
            Ok(_) => panic!("the peer said something instead of closing"),
            Err(error) => !matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
            ),
        }
    }
}
