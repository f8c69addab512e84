//! A subscriber over raw sockets that answers as it is told, and remembers all it got.

use std::collections::HashMap;
use std::io::{self, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use httppubsub_proto::auth::Claim;
use httppubsub_proto::digest::{Sha512, Sha512Hasher, decode_repr_digest};
use httppubsub_proto::number::Number;
use httppubsub_proto::stateless::{ConfirmMissed, ConfirmReceive, MissedHead, ReceiveHead};
use httppubsub_proto::topic::Topic;
use socket2::{Domain, Socket, Type};

use crate::message::Head;
use crate::patience::{Gate, PATIENCE};
use crate::signer::Signer;

/// What the broadcaster posted.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Where to: the whole url, as it was subscribed.
    pub url: String,
    /// When it had arrived.
    pub at: Instant,
    /// Whether its authorization and its digest fit it.
    pub is_genuine: bool,
    /// How much of the body there was.
    pub bytes: u64,
    /// Digest of the message, which is empty for MISSED.
    pub sha512: Sha512,
    /// The beginning of the body.
    body: Vec<u8>,
}

impl Delivery {
    /// Whether it is MISSED, and not RECEIVE.
    pub fn is_missed(&self) -> bool {
        self.url.contains(RECOVER)
    }

    /// What it is about.
    pub fn topic(&self) -> Topic {
        if self.is_missed() {
            MissedHead::decode(&self.body)
                .expect("it was checked")
                .topic
        } else {
            self.receive().0.topic
        }
    }

    /// The message of a RECEIVE, as far as it is remembered: a megabyte.
    pub fn message(&self) -> Vec<u8> {
        let (_, head_bytes) = self.receive();
        self.body[head_bytes..].to_vec()
    }

    /// The number of a RECEIVE, if it has one.
    pub fn number(&self) -> Option<Number> {
        Number::of(&self.receive().0.identifier)
    }

    fn receive(&self) -> (ReceiveHead, usize) {
        ReceiveHead::decode(&self.body).expect("broadcasters post what can be read")
    }

    /// The body of a confirmation that stands for so many, signed by `signer`.
    pub fn confirmation(&self, signer: &Signer, subscribers: u32) -> Vec<u8> {
        let url = self.url.as_str();
        if self.is_missed() {
            let claim = Claim::ConfirmMissed {
                topic: &self.topic(),
                url,
            };
            let authorization = signer.sign(&claim);
            return ConfirmMissed {
                authorization,
                tracing: Default::default(),
            }
            .encode();
        }
        let identifier = self.receive().0.identifier;
        let claim = Claim::ConfirmReceive {
            identifier: &identifier,
            subscribers,
            url,
        };
        let authorization = signer.sign(&claim);
        ConfirmReceive {
            authorization,
            tracing: Default::default(),
            identifier,
            subscribers,
        }
        .encode()
    }
}

/// What the path of a recovery url begins with.
const RECOVER: &str = "/recover";

/// How much of a body is remembered.
const BODY_BYTES_KEPT: usize = 1024 * 1024;

/// A step of an answer.
#[derive(Clone, Debug)]
pub enum Act {
    /// Sends these bytes.
    Say(Vec<u8>),
    /// Sends these bytes one by one with such a pause before each.
    Drip(Vec<u8>, Duration),
    /// Sends these bytes again and again for as long as they are taken.
    Endlessly(Vec<u8>),
    /// Waits until the test opens the gate.
    Pass(Gate),
    /// Says nothing for as long as the peer keeps the connection.
    Hang,
    /// Closes the connection.
    Close,
}

/// An answer of HTTP with this body, of a length that is told.
pub fn http_answer(status: u16, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status} Told\r\n{headers}Content-Length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

type Script = Arc<dyn Fn(&Delivery) -> Vec<Act> + Send + Sync>;

/// Listens on loopback until the test process ends. It confirms whatever it has no script for.
#[derive(Clone)]
pub struct Subscriber(Arc<Inner>);

struct Inner {
    address: SocketAddr,
    signer: Signer,
    /// By path.
    scripts: Mutex<HashMap<String, Script>>,
    deliveries: Mutex<Vec<Delivery>>,
    came: Condvar,
}

impl Subscriber {
    /// Starts on a free port.
    pub fn start(signer: &Signer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        Self::listen(listener, signer)
    }

    fn listen(listener: TcpListener, signer: &Signer) -> Self {
        let own = Self(Arc::new(Inner {
            address: listener.local_addr().expect("it is bound"),
            signer: signer.clone(),
            scripts: Mutex::default(),
            deliveries: Mutex::default(),
            came: Condvar::new(),
        }));
        let serving = own.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let own = serving.clone();
                // A connection that breaks is the broadcaster's to judge, not ours.
                thread::spawn(move || own.serve(stream));
            }
        });
        own
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// Where it takes RECEIVE at `path`, which begins with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.0.address)
    }

    /// Where it takes MISSED for `path`.
    pub fn recovery(&self, path: &str) -> String {
        format!("http://{}{RECOVER}{path}", self.0.address)
    }

    /// From now on, what is posted to `url` is answered so.
    pub fn on(
        &self,
        url: &str,
        script: impl Fn(&Delivery) -> Vec<Act> + Send + Sync + 'static,
    ) -> &Self {
        let mut scripts = self
            .0
            .scripts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        scripts.insert(url.to_owned(), Arc::new(script));
        self
    }

    /// Its answer that confirms a delivery for so many.
    pub fn confirms(&self, delivery: &Delivery, subscribers: u32) -> Vec<u8> {
        http_answer(200, "", &delivery.confirmation(&self.0.signer, subscribers))
    }

    /// From now on, it confirms what is posted to `url` when the gate is open.
    pub fn confirm_behind(&self, url: &str, gate: &Gate) -> &Self {
        let (own, gate) = (self.clone(), gate.clone());
        self.on(url, move |delivery| {
            vec![Act::Pass(gate.clone()), Act::Say(own.confirms(delivery, 1))]
        })
    }

    /// All that came so far.
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.0
            .deliveries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// What came so far to `url`.
    pub fn deliveries_to(&self, url: &str) -> Vec<Delivery> {
        let all = self.0.deliveries.lock();
        let all = all.unwrap_or_else(PoisonError::into_inner);
        let to_url = all.iter().filter(|delivery| delivery.url == url);
        to_url.cloned().collect()
    }

    /// What came to `url`, once there are `count` of them.
    ///
    /// # Panics
    ///
    /// If fewer come within [`PATIENCE`].
    #[track_caller]
    pub fn await_deliveries(&self, url: &str, count: usize) -> Vec<Delivery> {
        let missing = |deliveries: &mut Vec<Delivery>| {
            deliveries
                .iter()
                .filter(|delivery| delivery.url == url)
                .count()
                < count
        };
        let deliveries = self
            .0
            .deliveries
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .0
            .came
            .wait_timeout_while(deliveries, PATIENCE, missing);
        drop(waited);
        let came = self.deliveries_to(url);
        assert!(
            came.len() >= count,
            "{} of {count} deliveries came to {url}",
            came.len()
        );
        came
    }

    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut writer = stream.try_clone()?;
        let mut reader = BufReader::new(stream);
        while let Some(head) = Head::read(&mut reader)? {
            let delivery = self.read_delivery(&head, &mut reader)?;
            let script = {
                let scripts = self
                    .0
                    .scripts
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                scripts.get(&delivery.url).cloned()
            };
            let acts = match script {
                Some(script) => script(&delivery),
                None => vec![Act::Say(self.confirms(&delivery, 1))],
            };
            // Before the answer, so that a test that saw the answer's effect also sees the
            // delivery.
            let mut deliveries = self
                .0
                .deliveries
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            deliveries.push(delivery);
            drop(deliveries);
            self.0.came.notify_all();
            for act in acts {
                match act {
                    Act::Say(bytes) => writer.write_all(&bytes)?,
                    Act::Drip(bytes, pause) => {
                        for byte in bytes {
                            thread::sleep(pause);
                            writer.write_all(&[byte])?;
                        }
                    }
                    Act::Endlessly(bytes) => loop {
                        writer.write_all(&bytes)?;
                    },
                    Act::Pass(gate) => gate.pass(),
                    Act::Hang => {
                        let _ = reader.read(&mut [0]);
                        return Ok(());
                    }
                    Act::Close => return Ok(()),
                }
            }
        }
        Ok(())
    }

    fn read_delivery(
        &self,
        head: &Head,
        reader: &mut BufReader<TcpStream>,
    ) -> io::Result<Delivery> {
        let path = head.first_line.split(' ').nth(1).unwrap_or_default();
        let url = self.url(path);
        let mut body = Vec::new();
        let mut bytes = 0;
        let mut hasher = Sha512Hasher::default();
        let mut head_bytes = None;
        head.read_body(reader, |part| {
            bytes += part.len() as u64;
            let kept = part.len().min(BODY_BYTES_KEPT.saturating_sub(body.len()));
            body.extend_from_slice(&part[..kept]);
            match head_bytes {
                Some(_) => hasher.update(part),
                None => {
                    head_bytes = ReceiveHead::decode(&body).ok().map(|(_, bytes)| bytes);
                    hasher.update(&body[head_bytes.unwrap_or(body.len())..]);
                }
            }
        })?;
        let sha512 = hasher.finish();
        let mut delivery = Delivery {
            url,
            at: Instant::now(),
            is_genuine: false,
            bytes,
            sha512,
            body,
        };
        delivery.is_genuine = self.is_genuine(head, &delivery);
        Ok(delivery)
    }

    fn is_genuine(&self, head: &Head, delivery: &Delivery) -> bool {
        let value = head.header("authorization");
        let url = delivery.url.as_str();
        if delivery.is_missed() {
            let Ok(missed) = MissedHead::decode(&delivery.body) else {
                return false;
            };
            let claim = Claim::Missed {
                recovery: url,
                topic: &missed.topic,
            };
            return self.0.signer.vouches(&claim, &missed.tracing, value);
        }
        let Ok((receive, head_bytes)) = ReceiveHead::decode(&delivery.body) else {
            return false;
        };
        let digest = head.header("repr-digest").unwrap_or_default();
        let claim = Claim::Receive {
            url,
            topic: &receive.topic,
            identifier: &receive.identifier,
            sha512: &delivery.sha512,
        };
        decode_repr_digest(digest.as_bytes()).is_ok_and(|digest| digest == delivery.sha512)
            && delivery.bytes == head_bytes as u64 + receive.message_bytes
            && self.0.signer.vouches(&claim, &receive.tracing, value)
    }
}

impl std::fmt::Debug for Subscriber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Subscriber({})", self.0.address)
    }
}

/// A port of loopback at which nobody answers: closed, or open with nobody who reads.
#[derive(Debug)]
pub struct Deaf {
    socket: Socket,
    address: SocketAddr,
}

impl Deaf {
    /// A port that refuses connections and belongs to nobody else meanwhile.
    pub fn closed() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("sockets can be made");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(&any.into()).expect("loopback has a free port");
        let address = socket.local_addr().ok().and_then(|it| it.as_socket());
        Self {
            socket,
            address: address.expect("it is bound"),
        }
    }

    /// A port whose connections the kernel takes, and nobody reads.
    pub fn never_reading() -> Self {
        let own = Self::closed();
        own.socket.listen(64).expect("the port is ours");
        own
    }

    /// Where it is, at `path`.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A subscriber begins to listen here.
    pub fn come_back(self, signer: &Signer) -> Subscriber {
        self.socket.listen(64).expect("the port is ours");
        Subscriber::listen(self.socket.into(), signer)
    }
}
