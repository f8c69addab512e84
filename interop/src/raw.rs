//! A subscriber without any client: it answers every POST with the same bytes.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use httppubsub_e2e::PATIENCE;

/// What a raw subscriber says to everything.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// The status of HTTP.
    pub status: u16,
    /// The body.
    pub body: &'static [u8],
}

impl Answer {
    /// RESPONSE_UNSUBSCRIBE_IMMEDIATE: this row is to be removed.
    pub const UNSUBSCRIBE_IMMEDIATE: Answer = Answer {
        status: 200,
        body: &[0, 10],
    };
}

/// A request that a raw subscriber got.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The path of the request.
    pub path: String,
    /// The body.
    pub body: Vec<u8>,
}

/// Listens on loopback until the test process ends.
#[derive(Debug)]
pub struct RawSubscriber {
    /// Where it wants to get RECEIVE; every path would do.
    pub url: String,
    deliveries: Receiver<Delivery>,
}

impl RawSubscriber {
    /// Starts to listen on a free port.
    pub fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let (sender, deliveries) = channel();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let sender = sender.clone();
                // A connection that breaks is the broadcaster's to judge, not ours.
                thread::spawn(move || serve(stream, answer, &sender));
            }
        });
        Self {
            url: format!("http://{address}/v1/receive"),
            deliveries,
        }
    }

    /// The next request that nobody has asked for yet.
    ///
    /// # Panics
    ///
    /// If none comes within [`PATIENCE`].
    #[track_caller]
    pub fn delivery(&self) -> Delivery {
        self.deliveries
            .recv_timeout(PATIENCE)
            .expect("the broadcaster delivers in time")
    }

    /// All requests that came and that nobody has asked for yet.
    pub fn deliveries_so_far(&self) -> Vec<Delivery> {
        self.deliveries.try_iter().collect()
    }
}

/// Serves one request and closes the connection.
fn serve(stream: TcpStream, answer: Answer, deliveries: &Sender<Delivery>) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream);
    let path = line(&mut reader)?
        .split(' ')
        .nth(1)
        .unwrap_or_default()
        .to_owned();
    let mut length = 0;
    let mut chunked = false;
    loop {
        let header = line(&mut reader)?.to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        let Some((name, value)) = header.split_once(':') else {
            continue;
        };
        match name {
            "content-length" => length = value.trim().parse().map_err(io::Error::other)?,
            "transfer-encoding" => chunked = value.contains("chunked"),
            _ => {}
        }
    }
    let mut body = Vec::new();
    if chunked {
        loop {
            let size = line(&mut reader)?;
            let size = u64::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
            Read::by_ref(&mut reader)
                .take(size)
                .read_to_end(&mut body)?;
            line(&mut reader)?;
            if size == 0 {
                break;
            }
        }
    } else {
        Read::by_ref(&mut reader)
            .take(length)
            .read_to_end(&mut body)?;
    }
    // Before the answer, so that a test that saw the answer's effect also sees the delivery.
    let _ = deliveries.send(Delivery { path, body });

    let Answer { status, body } = answer;
    let mut stream = reader.into_inner();
    write!(
        stream,
        "HTTP/1.1 {status} Raw\r\nContent-Type: application/octet-stream\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    stream.write_all(body)
}

fn line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}
