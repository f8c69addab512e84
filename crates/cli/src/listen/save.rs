//! Messages as files, for `listen --save`.
//!
//! Names are `000001-TOPIC`, ascending in the order of arrival. The topic is cut at 100 characters,
//! and each that is not a letter, a digit, `-`, `_` or `.` is `_`.

use std::cell::Cell;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use httppubsub_client::Message;
use tokio::io::AsyncWriteExt as _;

/// Writes a message to a file of its own, named by the next free number and its topic; nothing in
/// the folder is overwritten, and no file has such a name before it is whole.
///
/// # Errors
///
/// A folder that cannot be written, or a disk that is full. The message was confirmed by then, so
/// the program ends with an error and does not go on as if it had it.
pub(super) async fn save(
    folder: &Path,
    message: &Message,
    number: &Cell<u64>,
) -> anyhow::Result<PathBuf> {
    let topic = String::from_utf8_lossy(message.topic.as_bytes());
    // A topic may hold slashes, dots and anything else: no name leads out of the folder, and none
    // is taken for a flag by tools.
    let harmless = |c: char| {
        if c.is_ascii_alphanumeric() || "-_.".contains(c) {
            c
        } else {
            '_'
        }
    };
    let topic: String = topic.chars().map(harmless).take(100).collect();
    let cannot = || format!("cannot save a message in {}", folder.display());
    let write = async {
        let mut part = tempfile::Builder::new();
        part.prefix(".").suffix(".part");
        // As other files are made, and not for their owner's eyes only.
        part.permissions(Permissions::from_mode(0o666));
        let part = part.tempfile_in(folder)?;
        let mut file = tokio::fs::File::from_std(part.as_file().try_clone()?);
        tokio::io::copy(&mut message.reader(), &mut file).await?;
        file.flush().await?;
        io::Result::Ok(part)
    };
    let mut part = write.await.with_context(cannot)?;
    loop {
        number.update(|number| number + 1);
        let path = folder.join(format!("{:06}-{topic}", number.get()));
        match part.persist_noclobber(&path) {
            Ok(_) => return Ok(path),
            // From an earlier run.
            Err(failed) if failed.error.kind() == io::ErrorKind::AlreadyExists => {
                part = failed.file
            }
            Err(failed) => return Err(failed.error).with_context(cannot),
        }
    }
}
