//! The identity of a broadcaster: it stays when the address changes.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::random::random_bytes;

/// The identity kept in `folder`, drawn at the first call. Only one process may use the folder.
pub fn identity(folder: &Path) -> io::Result<[u8; 16]> {
    let path = folder.join("identity");
    match std::fs::read(&path) {
        Ok(bytes) => {
            if let Ok(identity) = bytes.try_into() {
                return Ok(identity);
            }
            let path = path.display();
            tracing::warn!("{path} holds no identity; this broadcaster gets a new one");
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let drawn = random_bytes();
    // Aside, so that a kill or a full disk leaves none rather than a part of one.
    let fresh = path.with_extension("new");
    let mut options = OpenOptions::new();
    options.create(true).truncate(true).write(true).mode(0o600);
    let mut file = options.open(&fresh)?;
    file.write_all(&drawn)?;
    file.sync_all()?;
    std::fs::rename(&fresh, &path)?;
    // The name is to outlast a power cut, as the content does.
    File::open(folder)?.sync_all()?;
    Ok(drawn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_drawn_once_for_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let drawn = identity(folder.path()).unwrap();
        assert_eq!(identity(folder.path()).unwrap(), drawn);
        std::fs::write(folder.path().join("identity"), b"torn").unwrap();
        assert_ne!(identity(folder.path()).unwrap(), drawn);
        let other = tempfile::tempdir().unwrap();
        assert_ne!(identity(other.path()).unwrap(), drawn);
    }
}
