//! The replay guard: an authorization counts once, also across a restart.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use httppubsub_proto::auth::{AuthError, Code, REPLAY_MEMORY, SpendError, SpentCodes, Unspent};
use httppubsub_proto::time::Now;

/// Remembers which authorizations were used, for as long as they could be used again, at most a
/// given number of them. With a folder it survives a restart: each code is in the operating
/// system's hands before it counts.
#[derive(Debug)]
pub struct ReplayGuard {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    spent: SpentCodes,
    tail: Option<Tail>,
    /// Why the last write to the files failed, if it did.
    trouble: Option<String>,
    /// That the file which is written has lost its name, and none could be made in its place.
    gone: Option<String>,
}

impl Inner {
    /// Writes a record down if there are files, and keeps in mind whether that failed.
    fn write(&mut self, record: &Record, now: Now) -> io::Result<()> {
        let Some(tail) = &mut self.tail else {
            return Ok(());
        };
        let written = tail.write(record, now);
        self.trouble = written.as_ref().err().map(ToString::to_string);
        written
    }
}

/// Why a replay guard cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ReplayGuardError {
    /// Another process has it open.
    #[error("{} is in use by another broadcaster: give each its own data folder", .0.display())]
    InUse(PathBuf),
    /// Its files cannot be read or written.
    #[error("cannot use {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        r#source: io::Error,
    },
}

/// An authorization that was spent and counts now.
#[derive(Debug)]
#[must_use = "release it if nothing comes of the message, so that it can be sent again"]
pub struct Spent(Option<Code>);

impl Spent {
    /// What was spent, if it counts but once.
    pub fn code(&self) -> Option<&Code> {
        self.0.as_ref()
    }
}

impl ReplayGuard {
    /// A guard that forgets all when it is dropped.
    pub fn in_memory(codes_max: usize) -> Self {
        Self {
            inner: Mutex::new(Inner {
                spent: SpentCodes::new(codes_max),
                tail: None,
                trouble: None,
                gone: None,
            }),
        }
    }

    /// A guard that keeps its codes in two files in `folder`. Reads them at once, on this thread.
    pub fn open(folder: &Path, codes_max: usize, now: Now) -> Result<Self, ReplayGuardError> {
        let mut spent = SpentCodes::new(codes_max);
        let tail = Tail::open(folder, &mut spent, now)?;
        Ok(Self {
            inner: Mutex::new(Inner {
                spent,
                tail: Some(tail),
                trouble: None,
                gone: None,
            }),
        })
    }

    /// Spends an authorization: it must not have been spent before.
    pub async fn spend(&self, unspent: Unspent, now: Now) -> Result<Spent, AuthError> {
        let Some(code) = unspent.into_code() else {
            return Ok(Spent(None));
        };
        let mut inner = self.lock();
        inner.spent.spend(code, now).map_err(|error| match error {
            SpendError::Replayed => AuthError::Replayed,
            SpendError::Full(_) => AuthError::Unavailable("the replay guard is full"),
        })?;
        let record = Record {
            kind: SPENT,
            code,
            at: now,
        };
        if let Err(error) = inner.write(&record, now) {
            tracing::error!(%error, "cannot write the replay guard down; refusing authorizations");
            inner.spent.release(&code);
            return Err(AuthError::Unavailable("the replay guard cannot be written"));
        }
        Ok(Spent(Some(code)))
    }

    /// How many more authorizations can be remembered.
    pub fn room(&self, now: Now) -> usize {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.spent.room(now)
    }

    /// Takes back that an authorization was spent, because nothing came of its message: the peer
    /// may send the very same again.
    pub fn release(&self, spent: Spent, now: Now) {
        let Some(code) = spent.0 else { return };
        let mut inner = self.lock();
        inner.spent.release(&code);
        let record = Record {
            kind: RELEASED,
            code,
            at: now,
        };
        if let Err(error) = inner.write(&record, now) {
            tracing::warn!(%error, "cannot write down that an authorization may be used again");
        }
    }

    /// The reason why authorizations cannot be written down, as the last attempt found it; `None` if
    /// it succeeded.
    pub fn trouble(&self) -> Option<String> {
        let inner = self.lock();
        inner.gone.clone().or_else(|| inner.trouble.clone())
    }

    /// Tries again to write after a failure, so that [`ReplayGuard::trouble`] ends without traffic. A
    /// file that was removed is written anew with all that is remembered.
    pub fn probe(&self, now: Now) {
        let mut inner = self.lock();
        let Inner {
            spent, tail, gone, ..
        } = &mut *inner;
        *gone = None;
        if let Some(tail) = tail
            && tail.is_gone()
        {
            let records = spent.remembered().map(|(code, at)| Record {
                kind: SPENT,
                code: *code,
                at,
            });
            let path = tail.paths[tail.current].display().to_string();
            match tail.write_anew(&records.collect::<Vec<_>>(), now) {
                Ok(()) => tracing::warn!("{path} was removed while it was in use: written anew"),
                Err(error) => *gone = Some(format!("{path} was removed: {error}")),
            }
        }
        if inner.trouble.is_some() {
            let record = Record {
                kind: PROBE,
                code: Code::from_bytes([0; 16]),
                at: now,
            };
            // The outcome is kept where `trouble` finds it.
            let _ = inner.write(&record, now);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Two files that take turns: one is written, the other holds what is older.
#[derive(Debug)]
struct Tail {
    paths: [PathBuf; 2],
    current: usize,
    file: File,
    began: Now,
    /// Held for as long as the guard is.
    _lock: File,
}

const SPENT: u8 = 1;
const RELEASED: u8 = 2;
/// Says nothing; written to find out whether writing works.
const PROBE: u8 = 3;

/// The first bytes of a file whose records carry a checksum. A file of an earlier version begins with
/// the kind of its first record.
const MAGIC: &[u8; 8] = b"replay2\n";

/// The kind, the code, the time and the checksum of these.
const RECORD_BYTES: usize = UNSUMMED_BYTES + 8;

/// A record of an earlier version, without a checksum.
const UNSUMMED_BYTES: usize = 25;

struct Record {
    kind: u8,
    code: Code,
    at: Now,
}

impl Record {
    fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[0] = self.kind;
        bytes[1..17].copy_from_slice(self.code.as_bytes());
        bytes[17..UNSUMMED_BYTES].copy_from_slice(&self.at.unix_nanoseconds().to_be_bytes());
        let sum = checksum(&bytes[..UNSUMMED_BYTES]);
        bytes[UNSUMMED_BYTES..].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (unsummed, sum) = bytes.split_at_checked(UNSUMMED_BYTES)?;
        let is_whole = checksum(unsummed).to_be_bytes() == sum;
        is_whole.then(|| Self::decode_unsummed(unsummed)).flatten()
    }

    fn decode_unsummed(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        let (code, at) = rest.split_first_chunk::<16>()?;
        let at = Duration::from_nanos(u64::from_be_bytes(at.try_into().ok()?));
        Some(Self {
            kind: *kind,
            code: Code::from_bytes(*code),
            at: Now::from_unix(at),
        })
    }

    /// All records of a file. One that was written in part, by a disk that was full or by a process
    /// that was killed, is passed over, and the next is looked for behind it byte by byte.
    fn all(file: &[u8]) -> (Vec<Self>, usize) {
        let Some(mut rest) = file.strip_prefix(MAGIC) else {
            let records = file.chunks_exact(UNSUMMED_BYTES);
            return (records.filter_map(Self::decode_unsummed).collect(), 0);
        };
        let (mut records, mut passed_over) = (Vec::new(), 0);
        while !rest.is_empty() {
            let bytes = match rest.get(..RECORD_BYTES).and_then(Self::decode) {
                Some(record) => {
                    records.push(record);
                    RECORD_BYTES
                }
                None => {
                    passed_over += 1;
                    1
                }
            };
            rest = &rest[bytes..];
        }
        (records, passed_over)
    }
}

/// FNV-1a of 64 bits: it finds what was written in part, not what somebody forged.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

impl Tail {
    fn open(folder: &Path, spent: &mut SpentCodes, now: Now) -> Result<Self, ReplayGuardError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| ReplayGuardError::Io { path, source }
        };
        let lock_path = folder.join("replay-guard.lock");
        let lock = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&lock_path);
        let lock = lock.map_err(failed(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(ReplayGuardError::InUse(folder.to_owned()));
            }
            Err(std::fs::TryLockError::Error(source)) => return Err(failed(&lock_path)(source)),
        }
        let paths = [folder.join("replay-guard.0"), folder.join("replay-guard.1")];
        let mut records = Vec::new();
        for path in &paths {
            let mut bytes = Vec::new();
            match File::open(path) {
                Ok(mut file) => file.read_to_end(&mut bytes).map_err(failed(path))?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(path)(error)),
            };
            let (of_file, passed_over) = Record::all(&bytes);
            if passed_over > 0 {
                let path = path.display();
                tracing::info!(%path, bytes = passed_over, "passed over records cut short");
            }
            records.extend(of_file);
        }
        records.sort_by_key(|record| record.at);
        records.retain(|record| record.kind != PROBE && record.at + REPLAY_MEMORY >= now);
        for record in &records {
            match record.kind {
                // A full guard is full for the next request as well, which then says so.
                SPENT => drop(spent.spend(record.code, record.at)),
                RELEASED => spent.release(&record.code),
                _ => {}
            }
        }
        // What still counts goes to one file, so that the other is free.
        let file = replace(&paths[0], &records).map_err(failed(&paths[0]))?;
        match std::fs::remove_file(&paths[1]) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed(&paths[1])(error));
            }
            _ => {}
        }
        Ok(Self {
            paths,
            current: 0,
            file,
            began: now,
            _lock: lock,
        })
    }

    /// Whether the file that is written is not the one that the next start will find.
    fn is_gone(&self) -> bool {
        let named = std::fs::metadata(&self.paths[self.current]);
        match (named, self.file.metadata()) {
            (Ok(named), Ok(open)) => (named.dev(), named.ino()) != (open.dev(), open.ino()),
            _ => true,
        }
    }

    /// Goes on in a file that begins with `records`, in place of the one that is gone.
    fn write_anew(&mut self, records: &[Record], now: Now) -> io::Result<()> {
        self.file = replace(&self.paths[self.current], records)?;
        self.began = now;
        Ok(())
    }

    fn write(&mut self, record: &Record, now: Now) -> io::Result<()> {
        if self.began + REPLAY_MEMORY < now {
            let next = 1 - self.current;
            self.file = replace(&self.paths[next], &[])?;
            self.current = next;
            self.began = now;
        }
        self.file.write_all(&record.encode())
    }
}

/// Writes a file anew, in one step.
fn replace(path: &Path, records: &[Record]) -> io::Result<File> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(records.iter().flat_map(Record::encode));
    let fresh = path.with_extension("new");
    let mut options = OpenOptions::new();
    options.create(true).truncate(true).write(true).mode(0o600);
    options.open(&fresh)?.write_all(&bytes)?;
    std::fs::rename(&fresh, path)?;
    OpenOptions::new().append(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Now {
        Now::from_unix(Duration::from_secs(seconds))
    }

    fn once(byte: u8) -> Unspent {
        Unspent::once(Code::from_bytes([byte; 16]))
    }

    #[tokio::test]
    async fn a_code_spent_before_a_restart_stays_spent() {
        let folder = tempfile::tempdir().unwrap();
        let guard = ReplayGuard::open(folder.path(), 10, at(1_000)).unwrap();
        let _ = guard.spend(once(1), at(1_000)).await.unwrap();
        let two = guard.spend(once(2), at(1_000)).await.unwrap();
        guard.release(two, at(1_001));
        drop(guard);
        let guard = ReplayGuard::open(folder.path(), 10, at(1_010)).unwrap();
        assert_eq!(
            guard.spend(once(1), at(1_010)).await.unwrap_err(),
            AuthError::Replayed
        );
        assert!(guard.spend(once(2), at(1_010)).await.is_ok());
    }

    #[tokio::test]
    async fn the_files_do_not_grow_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let guard = ReplayGuard::open(folder.path(), 1_000, at(0)).unwrap();
        for (byte, seconds) in (0..=250).zip((0..).step_by(30)) {
            let _ = guard.spend(once(byte), at(seconds)).await.unwrap();
        }
        drop(guard);
        for name in ["replay-guard.0", "replay-guard.1"] {
            let bytes = std::fs::metadata(folder.path().join(name)).unwrap().len();
            assert!(
                bytes <= (MAGIC.len() + 12 * RECORD_BYTES) as u64,
                "{name} has {bytes} bytes"
            );
        }
        let guard = ReplayGuard::open(folder.path(), 1_000, at(7_500)).unwrap();
        assert_eq!(
            guard.spend(once(250), at(7_500)).await.unwrap_err(),
            AuthError::Replayed
        );
        assert!(guard.spend(once(0), at(7_500)).await.is_ok());
    }

    #[test]
    fn a_folder_in_use_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let _first = ReplayGuard::open(folder.path(), 10, at(0)).unwrap();
        let second = ReplayGuard::open(folder.path(), 10, at(0)).unwrap_err();
        assert!(matches!(second, ReplayGuardError::InUse(_)), "{second}");
    }

    /// However much of a record the disk took before it was full, what was written before and after it
    /// counts.
    #[tokio::test]
    async fn torn_replay_records_are_passed_over_and_all_others_count() {
        for cut in 0..RECORD_BYTES {
            let folder = tempfile::tempdir().unwrap();
            let guard = ReplayGuard::open(folder.path(), 10, at(0)).unwrap();
            let _ = guard.spend(once(1), at(0)).await.unwrap();
            let torn = Record {
                kind: SPENT,
                code: Code::from_bytes([2; 16]),
                at: at(0),
            };
            OpenOptions::new()
                .append(true)
                .open(folder.path().join("replay-guard.0"))
                .unwrap()
                .write_all(&torn.encode()[..cut])
                .unwrap();
            let _ = guard.spend(once(3), at(0)).await.unwrap();
            drop(guard);
            let guard = ReplayGuard::open(folder.path(), 10, at(1)).unwrap();
            for (byte, is_spent) in [(1, true), (2, false), (3, true)] {
                let again = guard.spend(once(byte), at(1)).await;
                let refused = is_spent.then_some(AuthError::Replayed);
                assert_eq!(again.err(), refused, "{byte} after {cut} bytes");
            }
        }
    }

    #[tokio::test]
    async fn a_file_of_an_earlier_version_still_counts() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = Vec::new();
        for byte in [1, 2] {
            let record = Record {
                kind: SPENT,
                code: Code::from_bytes([byte; 16]),
                at: at(0),
            };
            file.extend_from_slice(&record.encode()[..UNSUMMED_BYTES]);
        }
        std::fs::write(folder.path().join("replay-guard.1"), file).unwrap();
        for _ in 0..2 {
            let guard = ReplayGuard::open(folder.path(), 10, at(1)).unwrap();
            for byte in [1, 2] {
                let again = guard.spend(once(byte), at(1)).await;
                assert_eq!(again.err(), Some(AuthError::Replayed), "{byte}");
            }
        }
    }

    #[tokio::test]
    async fn what_could_not_be_written_is_trouble_until_it_can_be() {
        let folder = tempfile::tempdir().unwrap();
        let guard = ReplayGuard::open(folder.path(), 10, at(0)).unwrap();
        // The first write after this begins the other file, in a folder that is not there.
        let aside = folder.path().with_extension("aside");
        std::fs::rename(folder.path(), &aside).unwrap();
        let later = at(10_000);
        assert_eq!(guard.trouble(), None);
        assert!(guard.spend(once(1), later).await.is_err());
        guard.probe(later);
        assert!(guard.trouble().is_some());
        std::fs::rename(&aside, folder.path()).unwrap();
        guard.probe(later);
        assert_eq!(guard.trouble(), None);
        assert!(guard.spend(once(1), later).await.is_ok());
    }

    #[tokio::test]
    async fn a_file_that_was_removed_is_written_anew_with_all_that_counts() {
        let folder = tempfile::tempdir().unwrap();
        let guard = ReplayGuard::open(folder.path(), 10, at(0)).unwrap();
        let _ = guard.spend(once(1), at(0)).await.unwrap();
        std::fs::remove_file(folder.path().join("replay-guard.0")).unwrap();
        let _ = guard.spend(once(2), at(0)).await.unwrap();
        guard.probe(at(1));
        let _ = guard.spend(once(3), at(1)).await.unwrap();
        drop(guard);
        let guard = ReplayGuard::open(folder.path(), 10, at(2)).unwrap();
        for byte in [1, 2, 3] {
            let again = guard.spend(once(byte), at(2)).await;
            assert_eq!(again.err(), Some(AuthError::Replayed), "{byte}");
        }
    }
}
