//! A TCP proxy between a broadcaster and a subscriber that makes the network fail.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use socket2::SockRef;

use crate::patience::Gate;
use crate::random::Random;

/// What goes wrong on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Whatever is sent arrives later.
    Delay(Duration),
    /// So many bytes a second pass, in either direction.
    Rate(u64),
    /// Every byte is sent by itself.
    Split,
    /// The connection ends in order when so many bytes have passed in one direction.
    CloseAfter(u64),
    /// It is reset then.
    ResetAfter(u64),
    /// That direction ends then, and the other goes on.
    HalfCloseAfter(u64),
    /// Nothing passes any more then, and the connection stays.
    FreezeAfter(u64),
}

impl Fault {
    /// Some fault, drawn at random; half of the time there is none.
    pub fn draw(random: &mut Random) -> Self {
        // Somewhere in a short request or in its answer.
        let bytes = 1 + random.below(600) as u64;
        match random.below(14) {
            0 => Self::Delay(Duration::from_millis(1 + random.below(50) as u64)),
            1 => Self::Rate(20_000),
            2 => Self::Split,
            3 => Self::CloseAfter(bytes),
            4 => Self::ResetAfter(bytes),
            5 => Self::HalfCloseAfter(bytes),
            6 => Self::FreezeAfter(bytes),
            _ => Self::None,
        }
    }
}

/// Passes what comes to a port of its own on to another, and back, for as long as it is kept.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    to: SocketAddr,
    faults: Mutex<Faults>,
    connections: Mutex<Vec<Weak<Both>>>,
    /// Those through which nothing passes any more.
    frozen: Mutex<Vec<Arc<Both>>>,
    ended: Gate,
}

/// What the next connection suffers.
#[derive(Debug)]
enum Faults {
    Always(Fault),
    Drawn(Random),
}

/// Both sides of a connection.
#[derive(Debug)]
struct Both {
    near: TcpStream,
    far: TcpStream,
    /// It ends by a reset, when both directions have let go of it.
    is_reset: AtomicBool,
    is_frozen: AtomicBool,
}

impl Proxy {
    /// In front of `to`, without any fault.
    pub fn start(to: SocketAddr) -> Self {
        Self::with(to, Faults::Always(Fault::None))
    }

    /// In front of `to`, with a fault drawn for each connection.
    pub fn seeded(to: SocketAddr, random: Random) -> Self {
        Self::with(to, Faults::Drawn(random))
    }

    fn with(to: SocketAddr, faults: Faults) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let inner = Arc::new(Inner {
            to,
            faults: Mutex::new(faults),
            connections: Mutex::default(),
            frozen: Mutex::default(),
            ended: Gate::default(),
        });
        let address = listener.local_addr().expect("it is bound");
        let serving = inner.clone();
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                if serving.ended.is_open() {
                    return;
                }
                // What breaks on the way is what the test is about.
                drop(serving.pass(near));
            }
        });
        Self { address, inner }
    }

    /// A url of `path`, which begins with a slash, that leads through it.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// From now on, this happens to new connections.
    pub fn set(&self, fault: Fault) {
        *self.inner.faults() = Faults::Always(fault);
    }

    /// Cuts all connections there are; new ones are taken.
    pub fn cut(&self) {
        for both in self.inner.connections().drain(..) {
            if let Some(both) = both.upgrade() {
                both.end();
            }
        }
        // Those that were frozen idle still wait for something to pass.
        for both in self.inner.frozen().drain(..) {
            both.end();
        }
    }

    /// From now on, nothing passes over the connections there are, which stay open.
    pub fn freeze(&self) {
        for both in self.inner.connections().drain(..) {
            if let Some(both) = both.upgrade() {
                both.is_frozen.store(true, Ordering::SeqCst);
                self.inner.frozen().push(both);
            }
        }
    }

    /// How many connections it has taken since the last cut or freeze.
    pub fn connections(&self) -> usize {
        self.inner.connections().len()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.inner.ended.open();
        self.cut();
        // Wakes the listener, which ends.
        drop(TcpStream::connect(self.address));
    }
}

impl Inner {
    fn faults(&self) -> std::sync::MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connections(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Both>>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn frozen(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Both>>> {
        self.frozen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pass(self: &Arc<Self>, near: TcpStream) -> io::Result<()> {
        let fault = match &mut *self.faults() {
            Faults::Always(fault) => fault.clone(),
            Faults::Drawn(random) => Fault::draw(random),
        };
        let far = TcpStream::connect(self.to)?;
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        let both = Arc::new(Both {
            near,
            far,
            is_reset: AtomicBool::new(false),
            is_frozen: AtomicBool::new(false),
        });
        self.connections().push(Arc::downgrade(&both));
        for is_back in [false, true] {
            let (own, both, fault) = (self.clone(), both.clone(), fault.clone());
            thread::spawn(move || {
                let ways = match is_back {
                    false => (&both.near, &both.far),
                    true => (&both.far, &both.near),
                };
                if pump(ways.0, ways.1, &fault, &both) == Ended::Frozen {
                    own.frozen().push(both);
                }
            });
        }
        Ok(())
    }
}

impl Both {
    fn end(&self) {
        let _ = self.near.shutdown(Shutdown::Both);
        let _ = self.far.shutdown(Shutdown::Both);
    }

    fn reset(&self) {
        self.is_reset.store(true, Ordering::SeqCst);
        for stream in [&self.near, &self.far] {
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
            // Wakes the other direction.
            let _ = stream.shutdown(Shutdown::Read);
        }
    }
}

/// How a direction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Closed,
    Frozen,
}

/// Passes what `from` says on to `to`, until one of them ends it or the fault does.
fn pump(mut from: &TcpStream, mut to: &TcpStream, fault: &Fault, both: &Both) -> Ended {
    let mut buffer = [0; 16 * 1024];
    let mut passed = 0;
    loop {
        let left = match fault {
            Fault::CloseAfter(max)
            | Fault::ResetAfter(max)
            | Fault::HalfCloseAfter(max)
            | Fault::FreezeAfter(max) => max.saturating_sub(passed),
            _ => u64::MAX,
        };
        if left == 0 {
            match fault {
                Fault::FreezeAfter(_) => return Ended::Frozen,
                Fault::ResetAfter(_) => both.reset(),
                Fault::HalfCloseAfter(_) => drop(to.shutdown(Shutdown::Write)),
                _ => both.end(),
            }
            return Ended::Closed;
        }
        let most = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let Ok(read) = from.read(&mut buffer[..most]) else {
            both.end();
            return Ended::Closed;
        };
        if read == 0 {
            if !both.is_reset.load(Ordering::SeqCst) {
                let _ = to.shutdown(Shutdown::Write);
            }
            return Ended::Closed;
        }
        if both.is_frozen.load(Ordering::SeqCst) {
            return Ended::Frozen;
        }
        let part = &buffer[..read];
        let sent = match fault {
            Fault::Delay(delay) => {
                thread::sleep(*delay);
                to.write_all(part)
            }
            Fault::Rate(bytes_a_second) => {
                let seconds = read as f64 / *bytes_a_second as f64;
                thread::sleep(Duration::from_secs_f64(seconds));
                to.write_all(part)
            }
            Fault::Split => part.iter().try_for_each(|byte| to.write_all(&[*byte])),
            _ => to.write_all(part),
        };
        if sent.is_err() {
            both.end();
            return Ended::Closed;
        }
        passed += read as u64;
    }
}
