//! Bounds on the memory and disk that the bytes of others may take, all and of one party.
//!
//! Memory has two kinds of users. Bodies can go to a file instead: they may take seven eighths of
//! the bound ([`Reservation::grow_unless_file`]). Heads, lists and frames cannot: they may take all
//! of it, and always 16 MiB, so that large bodies never stop small requests.
//!
//! Every amount is counted twice, for all and for the party that it belongs to (an address, and a
//! connection from it), so that one sender cannot take what all share. The counters are atomics:
//! taking is one exchange, and nobody waits for anybody.

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::party::{self, Party, Shared};
use crate::places::{Place, Places, ShareTaken};

/// Bounds on memory and disk for bodies, and the folder of their files. One spool is for all that a
/// process takes from others. Bounds on single messages, such as the longest notification, are set
/// elsewhere.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SpoolConfig {
    /// Folder of the temporary files. Default: that of the operating system.
    pub folder: PathBuf,
    /// Largest body that is kept in memory, in bytes. Default 10 MiB.
    pub memory_each_max: u64,
    /// Bytes of others that may be in memory at once; an eighth of it is for what cannot go to
    /// files (heads, lists, frames), for which there are always 16 MiB. Bodies beyond go to files,
    /// even small ones. A connection may have a quarter of it, and so may all connections from one
    /// address, or three quarters if they come from this machine. Default 256 MiB.
    pub memory_total_max: u64,
    /// Bytes that all temporary files may have together; a body for which there is no room is
    /// refused before it is read, if its length is known. Of that and of what is free, one address
    /// may have a half, or three quarters if it is this machine. Default: no limit.
    pub disk_total_max: u64,
    /// Bytes that stay free on the file system of the temporary files. Default 64 MiB.
    pub disk_free_min: u64,
}

impl Default for SpoolConfig {
    fn default() -> Self {
        Self {
            folder: std::env::temp_dir(),
            memory_each_max: 10 * 1024 * 1024,
            memory_total_max: 256 * 1024 * 1024,
            disk_total_max: u64::MAX,
            disk_free_min: 64 * 1024 * 1024,
        }
    }
}

/// Memory and disk for bytes of others, within the bounds of a [`SpoolConfig`]. Clones share the
/// bounds.
#[derive(Clone, Debug)]
pub struct Spool {
    /// The bounds, and what all clones have taken of them.
    shared: Arc<Total>,
    /// In whose name things are taken; `None` for this process itself, which has no share but all.
    party: Option<Party>,
}

/// Counters that all parties share. Relaxed order is enough: each counts one thing, and nothing
/// else is read by its value.
#[derive(Debug)]
struct Total {
    /// Set once: bounds that change while things are held could not be kept.
    config: SpoolConfig,
    /// Bytes of reservations, whether or not anything is in them yet.
    memory_used: AtomicU64,
    /// Bytes of the disk that are taken or promised, and the part of that not written yet.
    disk_taken: AtomicU64,
    /// Taken, and not in the file system's own count of free bytes yet.
    disk_unwritten: AtomicU64,
    /// The reason why a file could not be made or written last, if that failed.
    trouble: Mutex<Option<String>>,
    /// Places for heads over 16 KiB, shared out by address like connections.
    long_heads: Places,
}

impl Spool {
    /// A spool with these bounds.
    pub fn new(config: SpoolConfig) -> Self {
        let shared = Total {
            config,
            memory_used: AtomicU64::new(0),
            disk_taken: AtomicU64::new(0),
            disk_unwritten: AtomicU64::new(0),
            trouble: Mutex::default(),
            long_heads: Places::new(LONG_HEADS_MAX),
        };
        Self {
            shared: Arc::new(shared),
            party: None,
        }
    }

    /// The same spool, where all that is taken is counted for `party` as well and its share is a
    /// bound.
    pub fn for_party(&self, party: &Party) -> Self {
        Self {
            shared: self.shared.clone(),
            party: Some(party.clone()),
        }
    }

    /// Makes a temporary file in the folder and writes a byte to it: an error says that no large
    /// body could be taken.
    pub async fn check_folder(&self) -> io::Result<()> {
        let folder = self.config().folder.clone();
        let checked = tokio::task::spawn_blocking(move || {
            // A full disk lets a file be made, but not be written.
            io::Write::write_all(&mut tempfile::tempfile_in(folder)?, &[0])
        });
        checked.await.map_err(io::Error::other)?
    }

    /// The reason why no large body can be taken, as the last attempt found it; `None` if it
    /// succeeded.
    pub fn trouble(&self) -> Option<String> {
        self.shared.trouble().clone()
    }

    /// Looks whether the folder is there and has the room that stays free, and after a failure
    /// whether files can be written again, so that [`Spool::trouble`] is true without traffic.
    pub async fn probe(&self) {
        let spool = self.clone();
        let looked = tokio::task::spawn_blocking(move || spool.shared.free()).await;
        let is_troubled = self.trouble().is_some();
        let found = match looked.map_err(io::Error::other).and_then(|free| free) {
            // Said before anything is refused, so that an alert comes first.
            Ok(free) if free < self.config().disk_free_min => Err(self.shared.too_little(free)),
            Ok(_) if is_troubled => self.check_folder().await,
            found => found.map(drop),
        };
        self.note(&found);
    }

    /// Keeps in mind what became of an attempt to use the folder.
    pub(crate) fn note<T>(&self, attempt: &io::Result<T>) {
        let folder = self.config().folder.display();
        let why = attempt.as_ref().err();
        *self.shared.trouble() = why.map(|why| format!("{why} (folder {folder})"));
    }

    /// Memory taken of all, in bytes.
    pub fn memory_used(&self) -> u64 {
        self.shared.memory_used.load(Ordering::Relaxed)
    }

    /// Disk taken or promised of all, in bytes.
    pub fn disk_used(&self) -> u64 {
        self.shared.disk_taken.load(Ordering::Relaxed)
    }

    /// The bounds as they were given.
    pub(crate) fn config(&self) -> &SpoolConfig {
        &self.shared.config
    }

    /// A reservation of nothing yet, for bytes that cannot go to a file.
    pub fn reservation(&self) -> Reservation {
        Reservation {
            spool: self.clone(),
            bytes: 0,
        }
    }

    /// Reserves memory for `bytes` that cannot go to a file.
    pub fn reserve(&self, bytes: u64) -> Result<Reservation, NoRoom> {
        let mut reservation = self.reservation();
        reservation.grow(bytes)?;
        Ok(reservation)
    }

    /// The largest reservation that this party can have, in bytes.
    pub fn reservation_bytes_max(&self) -> u64 {
        let whole = self.memory_max();
        let share = |party: &Party| party.share_of(Shared::Memory, whole);
        self.party.as_ref().map_or(whole, share)
    }

    /// A place for one of the heads that are longer than anybody may make this process hold.
    pub(crate) async fn enter_long_heads(&self) -> Result<Place, ShareTaken> {
        let address = self.party.as_ref().map(Party::ip);
        // A spool without a party is of this process; they all have one address.
        let address = address.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        self.shared.long_heads.enter(address).await
    }

    /// The bound of what cannot go to a file.
    fn memory_max(&self) -> u64 {
        self.config().memory_total_max.max(MEMORY_BYTES_MIN)
    }

    /// Takes memory if it is within `max` of all and within the party's share of `whole`.
    fn take_memory(&self, more: u64, whole: u64, max: u64) -> bool {
        let party = self.party.as_ref();
        if party.is_some_and(|party| !party.take(Shared::Memory, more, whole)) {
            return false;
        }
        let taken = party::take(&self.shared.memory_used, more, max);
        // The party was asked first, so that one that has its share does not touch the counter of
        // all.
        if let (false, Some(party)) = (taken, party) {
            party.give_back(Shared::Memory, more);
        }
        taken
    }

    /// The counterpart of [`Spool::take_memory`], for all and for the party.
    fn give_memory_back(&self, bytes: u64) {
        let used = &self.shared.memory_used;
        used.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(party) = &self.party {
            party.give_back(Shared::Memory, bytes);
        }
    }
}

impl Total {
    /// Free bytes of the file system of the temporary files.
    fn free(&self) -> io::Result<u64> {
        let disk = rustix::fs::statvfs(&self.config.folder)?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// The error of a file system with `free` bytes, which is less than has to stay free.
    fn too_little(&self, free: u64) -> io::Error {
        let min = self.config.disk_free_min;
        let problem = format!("{free} bytes are free for temporary files, {min} have to stay free");
        io::Error::new(io::ErrorKind::StorageFull, problem)
    }

    /// A thread that panicked with the lock has at most lost a note.
    fn trouble(&self) -> MutexGuard<'_, Option<String>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// So much may always be taken for what cannot go to a file, however small the bound on memory.
const MEMORY_BYTES_MIN: u64 = 16 * 1024 * 1024;

/// Heads of more than 16 KiB that may be arriving at once: each has up to 260 KiB.
const LONG_HEADS_MAX: usize = 64;

impl Default for Spool {
    fn default() -> Self {
        Self::new(SpoolConfig::default())
    }
}

/// There is not enough memory left of the bound, or of the party's share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no room for {bytes} bytes: what others send has all the memory that it may have")]
pub struct NoRoom {
    /// The bytes that were wanted.
    pub bytes: u64,
}

/// Memory taken of a [`Spool`]'s bound, given back when it is dropped.
///
/// ```
/// use httppubsub_net::body::Spool;
///
/// let spool = Spool::default();
/// let reservation = spool.reserve(1_000).expect("the bound is 256 MiB");
/// assert_eq!(spool.memory_used(), 1_000);
/// drop(reservation);
/// assert_eq!(spool.memory_used(), 0);
/// ```
#[derive(Debug)]
pub struct Reservation {
    /// Gets it back, and so does the party whose share it was.
    spool: Spool,
    /// Taken so far; [`Reservation::grow`] and [`Reservation::shrink_to`] move it.
    bytes: u64,
}

impl Reservation {
    /// Takes `more` bytes. On failure nothing is taken.
    pub fn grow(&mut self, more: u64) -> Result<(), NoRoom> {
        let max = self.spool.memory_max();
        if !self.spool.take_memory(more, max, max) {
            return Err(NoRoom { bytes: more });
        }
        self.bytes += more;
        Ok(())
    }

    /// Gives back what it has beyond `bytes`.
    pub fn shrink_to(&mut self, bytes: u64) {
        self.spool
            .give_memory_back(self.bytes.saturating_sub(bytes));
        self.bytes = self.bytes.min(bytes);
    }

    /// Bytes taken.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The spool that this is part of, for more of the same party.
    pub(crate) fn spool(&self) -> &Spool {
        &self.spool
    }

    /// Takes `more` bytes for what can go to a file instead: an eighth of the bound is left to
    /// what cannot.
    pub(crate) fn grow_unless_file(&mut self, more: u64) -> bool {
        // The rest is for heads, lists and frames: large bodies, which have the disk, must not be
        // able to stop those.
        let whole = self.spool.config().memory_total_max;
        let taken = self.spool.take_memory(more, whole, whole - whole / 8);
        if taken {
            self.bytes += more;
        }
        taken
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

/// Disk that a payload takes of its spool's bounds.
#[derive(Debug)]
pub(crate) struct DiskRoom {
    /// Gets it back, and so does the party whose share it was.
    spool: Spool,
    /// All of this payload, written or not, in bytes.
    taken: u64,
    /// The part that is still to be written: the file system does not count it as used yet.
    unwritten: u64,
}

impl DiskRoom {
    /// Room for nothing yet.
    pub(crate) fn none(spool: Spool) -> Self {
        Self {
            spool,
            taken: 0,
            unwritten: 0,
        }
    }

    /// The spool that this is part of, for memory while the file is read.
    pub(crate) fn spool(&self) -> &Spool {
        &self.spool
    }

    /// Takes room for `more` bytes, if all bounds allow it. Fails with
    /// [`io::ErrorKind::StorageFull`] if one does not, and has taken nothing then. The file system
    /// is asked each time, since other programs write there as well.
    pub(crate) fn take(&mut self, more: u64) -> io::Result<()> {
        // Not worth a look at the file system.
        if more == 0 {
            return Ok(());
        }
        let Total {
            config,
            disk_taken,
            disk_unwritten,
            ..
        } = &*self.spool.shared;
        let full = |problem: String| Err(io::Error::new(io::ErrorKind::StorageFull, problem));
        let (relaxed, max) = (Ordering::Relaxed, config.disk_total_max);
        let free = self.spool.shared.free();
        if free.is_err() {
            self.spool.note(&free);
        }
        let free = free?;
        // What there is for temporary files, taken or not.
        let written = disk_taken
            .load(relaxed)
            .saturating_sub(disk_unwritten.load(relaxed));
        let whole = written.saturating_add(free.saturating_sub(config.disk_free_min));
        let whole = whole.min(max);
        if !party::take(disk_taken, more, max) {
            let taken = disk_taken.load(relaxed);
            return full(format!(
                "no room for {more} bytes: temporary files may have {max} together and have {taken}"
            ));
        }
        // Promised first and judged then: of two that come at once, both may be refused, but never
        // both be let in.
        let unwritten = disk_unwritten.fetch_add(more, relaxed) + more;
        let problem = if unwritten.saturating_add(config.disk_free_min) > free {
            if free < config.disk_free_min {
                let too_little = self.spool.shared.too_little(free);
                self.spool.note::<()>(&Err(too_little));
            }
            Some(format!(
                "no room for {more} bytes: {free} are free in the folder of temporary files, and \
                 {} have to stay free",
                config.disk_free_min
            ))
        } else {
            let party = self.spool.party.as_ref();
            let refuses = |party: &&Party| !party.take(Shared::Disk, more, whole);
            party.filter(refuses).map(|_| {
                format!(
                    "no room for {more} bytes: one address may have only a share of the {whole} \
                     that there are for temporary files"
                )
            })
        };
        // The party has taken nothing if any of these problems was found.
        if let Some(problem) = problem {
            disk_taken.fetch_sub(more, relaxed);
            disk_unwritten.fetch_sub(more, relaxed);
            return full(problem);
        }
        self.taken += more;
        self.unwritten += more;
        Ok(())
    }

    /// Accounts for bytes about to be written, for which room may have been taken already.
    pub(crate) fn write(&mut self, bytes: u64) -> io::Result<()> {
        // A body without an announced length takes its room as it comes.
        self.take(bytes.saturating_sub(self.unwritten))?;
        self.unwritten -= bytes;
        let unwritten = &self.spool.shared.disk_unwritten;
        unwritten.fetch_sub(bytes, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for DiskRoom {
    fn drop(&mut self) {
        let (spool, relaxed) = (&self.spool.shared, Ordering::Relaxed);
        spool.disk_taken.fetch_sub(self.taken, relaxed);
        spool.disk_unwritten.fetch_sub(self.unwritten, relaxed);
        if let Some(party) = &self.spool.party {
            party.give_back(Shared::Disk, self.taken);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::writer::{FillError, PayloadWriter};
    use bytes::Bytes;
    use httppubsub_proto::digest::Sha512;

    #[tokio::test]
    async fn a_body_without_room_on_disk_is_refused_before_it_comes() {
        let spool = Spool::new(SpoolConfig {
            memory_each_max: 10,
            disk_total_max: 1_000,
            ..SpoolConfig::default()
        });
        let writer = |bytes| PayloadWriter::new(&spool, bytes, Sha512::of(&[7; 600]));
        let mut first = writer(600).unwrap();
        first.push(vec![7; 300].into()).await.unwrap();
        assert_eq!(spool.disk_used(), 600);
        let error = writer(401).unwrap_err();
        let FillError::Spool(error) = error else {
            panic!("{error}");
        };
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(
            error.to_string(),
            "no room for 401 bytes: temporary files may have 1000 together and have 600"
        );
        // What is not announced is refused where there is no room left.
        assert!(spool.read(&[7; 401][..]).await.is_err());
        let small = spool.read(&[7; 400][..]).await.unwrap();
        assert_eq!(spool.disk_used(), 1_000);
        assert_eq!(spool.read(&[7; 10][..]).await.unwrap().len(), 10);
        first.push(vec![7; 300].into()).await.unwrap();
        let first = first.finish().await.unwrap();
        drop((small, writer(401)));
        assert_eq!(spool.disk_used(), 600);
        drop(first);
        assert_eq!(spool.disk_used(), 0);
        assert_eq!(spool.shared.disk_unwritten.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn memory_beside_bodies_comes_of_the_same_budget_and_has_a_share() {
        let mib = 1024 * 1024;
        let spool = Spool::new(SpoolConfig {
            memory_each_max: u64::MAX,
            memory_total_max: 64 * mib,
            ..SpoolConfig::default()
        });
        let address = Party::address([192, 0, 2, 1].into());
        let of_one = spool.for_party(&address.connection());
        assert_eq!(of_one.reservation_bytes_max(), 16 * mib);
        let lists = of_one.reserve(10 * mib).unwrap();
        let body = vec![7; 6 * mib as usize];
        let body = of_one.read(&body[..]).await.unwrap();
        assert!(body.in_memory().is_some());
        assert_eq!(
            (spool.memory_used(), address.memory_used()),
            (16 * mib, 16 * mib)
        );
        // Its share is used up, also for another connection from there: bodies go to files.
        let of_other = spool.for_party(&address.connection());
        assert_eq!(of_other.reserve(1).unwrap_err(), NoRoom { bytes: 1 });
        assert!(of_other.read(&[7][..]).await.unwrap().in_memory().is_none());
        // Somebody else has room, and an eighth is left to what cannot go to a file.
        let mut others = Vec::new();
        for host in 2..5 {
            let address = Party::address([192, 0, 2, host].into());
            let spool = spool.for_party(&address);
            let part = vec![7; mib as usize];
            while let Ok(body) = spool.read(&part[..]).await
                && body.in_memory().is_some()
            {
                others.push(body);
            }
        }
        assert_eq!(spool.memory_used(), 56 * mib);
        let mut heads = spool.reserve(8 * mib).unwrap();
        assert_eq!(heads.grow(1), Err(NoRoom { bytes: 1 }));
        heads.shrink_to(mib);
        assert_eq!((heads.bytes(), spool.memory_used()), (mib, 57 * mib));
        drop((lists, body, heads, others));
        assert_eq!((spool.memory_used(), address.memory_used()), (0, 0));
    }

    #[tokio::test]
    async fn memory_beside_of_parts_of_one_byte_is_that_of_their_bytes() {
        let spool = Spool::default();
        let byte = Bytes::from_static(b"m");
        let buffer = Bytes::from(vec![b'm'; 64 * 1024]);
        let mut writer = PayloadWriter::new(&spool, 100_000, Sha512::of(&[b'm'; 100_000])).unwrap();
        for _ in 0..50_000 {
            writer.push(byte.clone()).await.unwrap();
        }
        for at in 0..50_000 {
            writer.push(buffer.slice(at..at + 1)).await.unwrap();
        }
        assert!(buffer.is_unique(), "a byte keeps the buffer it came in");
        assert_eq!(spool.memory_used(), 100_000);
        writer.finish().await.unwrap();
    }

    #[tokio::test]
    async fn share_of_disk_leaves_room_for_other_addresses() {
        let spool = Spool::new(SpoolConfig {
            memory_each_max: 0,
            disk_total_max: 1_000,
            ..SpoolConfig::default()
        });
        let of = |host| spool.for_party(&Party::address([192, 0, 2, host].into()).connection());
        let of_one = of(1);
        let first = of_one.read(&[7; 500][..]).await.unwrap();
        let error = of_one.read(&[7][..]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        let second = of(2).read(&[7; 500][..]).await.unwrap();
        assert_eq!(spool.disk_used(), 1_000);
        drop(first);
        assert!(of_one.read(&[7; 500][..]).await.is_ok());
        drop(second);
        assert_eq!(spool.disk_used(), 0);
    }

    #[tokio::test]
    async fn some_of_the_disk_stays_free() {
        let spool = Spool::new(SpoolConfig {
            memory_each_max: 10,
            disk_free_min: 1 << 60,
            ..SpoolConfig::default()
        });
        let error = PayloadWriter::new(&spool, 11, Sha512::of(b"")).unwrap_err();
        let FillError::Spool(error) = error else {
            panic!("{error}");
        };
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(spool.disk_used(), 0);
        assert!(PayloadWriter::new(&spool, 10, Sha512::of(b"")).is_ok());
    }
}
