//! How much memory and disk the bodies of messages may take together.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where and from which size on bodies are kept in files.
#[derive(Clone, Debug)]
pub struct SpoolConfig {
    /// Folder of the temporary files. Default: that of the operating system.
    pub folder: PathBuf,
    /// Largest body that is kept in memory, in bytes. Default 10 MiB.
    pub memory_each_max: u64,
    /// How many bytes all bodies in memory may have together; beyond that even small ones go to
    /// files. Default 256 MiB.
    pub memory_total_max: u64,
    /// How many bytes all temporary files may have together; a body for which there is no room is
    /// refused before it is read, if its length is known. Default: no limit.
    pub disk_total_max: u64,
    /// How many bytes stay free on the file system of the temporary files. Default 64 MiB.
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

/// Makes payloads within the bounds of a [`SpoolConfig`]. Clones share the bounds.
#[derive(Clone, Debug)]
pub struct Spool(Arc<SpoolInner>);

#[derive(Debug)]
struct SpoolInner {
    config: SpoolConfig,
    memory_used: AtomicU64,
    /// What is taken of the disk or promised, and what of that is not written yet.
    disk_taken: AtomicU64,
    disk_unwritten: AtomicU64,
}

impl Spool {
    /// A spool with these bounds.
    pub fn new(config: SpoolConfig) -> Self {
        Self(Arc::new(SpoolInner {
            config,
            memory_used: AtomicU64::new(0),
            disk_taken: AtomicU64::new(0),
            disk_unwritten: AtomicU64::new(0),
        }))
    }

    /// How many bytes of memory its payloads take now.
    pub fn memory_used(&self) -> u64 {
        self.0.memory_used.load(Ordering::Relaxed)
    }

    /// How many bytes of disk its payloads take now or are promised.
    pub fn disk_used(&self) -> u64 {
        self.0.disk_taken.load(Ordering::Relaxed)
    }

    pub(crate) fn config(&self) -> &SpoolConfig {
        &self.0.config
    }

    /// Room for nothing yet.
    pub(crate) fn room(&self) -> Room {
        Room {
            spool: self.clone(),
            bytes: 0,
        }
    }
}

impl Default for Spool {
    fn default() -> Self {
        Self::new(SpoolConfig::default())
    }
}

/// Memory that a payload takes of its spool's bound.
#[derive(Debug)]
pub(crate) struct Room {
    pub(crate) spool: Spool,
    bytes: u64,
}

impl Room {
    /// Takes room for `more` bytes, if both bounds allow it.
    pub(crate) fn grow(&mut self, more: u64) -> bool {
        let SpoolInner {
            config,
            memory_used,
            ..
        } = &*self.spool.0;
        if self.bytes + more > config.memory_each_max {
            return false;
        }
        let taken = memory_used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(more)
                .filter(|used| *used <= config.memory_total_max)
        });
        if taken.is_ok() {
            self.bytes += more;
        }
        taken.is_ok()
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.spool
            .0
            .memory_used
            .fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Disk that a payload takes of its spool's bounds.
#[derive(Debug)]
pub(crate) struct DiskRoom {
    spool: Spool,
    taken: u64,
    unwritten: u64,
}

impl DiskRoom {
    pub(crate) fn none(spool: Spool) -> Self {
        Self {
            spool,
            taken: 0,
            unwritten: 0,
        }
    }

    /// Takes room for `more` bytes, if both bounds allow it.
    pub(crate) fn take(&mut self, more: u64) -> io::Result<()> {
        if more == 0 {
            return Ok(());
        }
        let SpoolInner {
            config,
            disk_taken,
            disk_unwritten,
            ..
        } = &*self.spool.0;
        let full = |problem: String| Err(io::Error::new(io::ErrorKind::StorageFull, problem));
        let (relaxed, max) = (Ordering::Relaxed, config.disk_total_max);
        let taken = disk_taken.fetch_update(relaxed, relaxed, |taken| {
            taken.checked_add(more).filter(|taken| *taken <= max)
        });
        if let Err(taken) = taken {
            return full(format!(
                "no room for {more} bytes: temporary files may have {max} together and have {taken}"
            ));
        }
        self.taken += more;
        let unwritten = disk_unwritten.fetch_add(more, relaxed) + more;
        self.unwritten += more;
        let disk = rustix::fs::statvfs(&config.folder)?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if unwritten.saturating_add(config.disk_free_min) > free {
            return full(format!(
                "no room for {more} bytes: {free} are free in the folder of temporary files, and {} \
                 have to stay free",
                config.disk_free_min
            ));
        }
        Ok(())
    }

    /// So many bytes are about to be written, room for which may have been taken.
    pub(crate) fn write(&mut self, bytes: u64) -> io::Result<()> {
        self.take(bytes.saturating_sub(self.unwritten))?;
        self.unwritten -= bytes;
        let unwritten = &self.spool.0.disk_unwritten;
        unwritten.fetch_sub(bytes, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for DiskRoom {
    fn drop(&mut self) {
        let spool = &self.spool.0;
        spool.disk_taken.fetch_sub(self.taken, Ordering::Relaxed);
        spool
            .disk_unwritten
            .fetch_sub(self.unwritten, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::{FillError, PayloadWriter};
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
        // What is not announced is refused where there is no room any more.
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
        assert_eq!(spool.0.disk_unwritten.load(Ordering::Relaxed), 0);
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
