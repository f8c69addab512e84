//! Files and folders of ours that are whole and durable, or not there at all.
//!
//! | killed | left behind |
//! |---|---|
//! | while the content is written | a hidden temporary file |
//! | before the rename is durable | the temporary file or the whole one |
//! | later | the whole file |

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// A file that has no name of its own until it is whole: it is written beside its place, and gone
/// if it is dropped. A process that is killed leaves at most `.httppubsub-XXXXXX.tmp` behind.
#[derive(Debug)]
pub(crate) struct NewFile {
    /// Removed when it is dropped, unless it was published.
    file: NamedTempFile,
    /// Where it will be: a rename is atomic only within one file system.
    folder: PathBuf,
}

impl NewFile {
    /// An empty file in `folder` that only its owner can read.
    pub(crate) fn within(folder: &Path) -> io::Result<Self> {
        let mut builder = tempfile::Builder::new();
        let file = builder.prefix(".httppubsub-").suffix(".tmp");
        Ok(Self {
            file: file.tempfile_in(folder)?,
            folder: folder.to_owned(),
        })
    }

    /// The file to write to.
    pub(crate) fn as_file_mut(&mut self) -> &mut File {
        self.file.as_file_mut()
    }

    /// Makes the content durable and then gives the file its `name` in the folder. Nothing is
    /// overwritten: if the name is taken, the error is [`io::ErrorKind::AlreadyExists`] and comes
    /// with the file, which may be given another name.
    ///
    /// # Errors
    ///
    /// Without the file if the disk failed: after a failed `fsync` nothing is known of what it
    /// holds.
    pub(crate) fn publish(self, name: &str) -> Result<PathBuf, (io::Error, Option<Self>)> {
        let Self { file, folder } = self;
        let path = folder.join(name);
        if let Err(error) = file.as_file().sync_all() {
            return Err((error, None));
        }
        // Given back with the file: a long message need not be written a second time for another
        // name.
        if let Err(refused) = file.persist_noclobber(&path) {
            let file = refused.file;
            return Err((refused.error, Some(Self { file, folder })));
        }
        // The name is durable only when the folder is (fsync(2)).
        match sync_folder(&folder) {
            Ok(()) => Ok(path),
            Err(error) => Err((error, None)),
        }
    }
}

impl NewFile {
    /// Makes the content durable and then gives the file its `name` in the folder, in the place of
    /// the one that has it.
    pub(crate) fn replace(self, name: &str) -> io::Result<()> {
        let Self { file, folder } = self;
        file.as_file().sync_all()?;
        file.persist(folder.join(name)).map_err(|it| it.error)?;
        sync_folder(&folder)
    }
}

/// Creates the file `name` in `folder` with `content`, which only its owner can read.
/// [`io::ErrorKind::AlreadyExists`] if there is one by that name.
pub(crate) fn create(folder: &Path, name: &str, content: &[u8]) -> io::Result<PathBuf> {
    let mut file = NewFile::within(folder)?;
    file.as_file_mut().write_all(content)?;
    file.publish(name).map_err(|(error, _)| error)
}

/// Creates `folder` and its parents, as far as they are missing, and makes each of them durable.
///
/// # Errors
///
/// That of the first folder that cannot be made; those before it stay.
pub(crate) fn create_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = match folder.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    create_folder(parent)?;
    match std::fs::create_dir(folder) {
        // By another process, just now.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => {}
        made => made?,
    }
    sync_folder(parent)
}

/// Makes the names in `folder` durable.
fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        // A file system that has no such thing.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        synced => synced,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_is_there_when_it_is_whole_and_overwrites_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let names = || std::fs::read_dir(folder.path()).unwrap().count();
        let path = create(folder.path(), "a", b"first").unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let taken = create(folder.path(), "a", b"second").unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
        assert_eq!(names(), 1, "what was not published is gone");

        let mut file = NewFile::within(folder.path()).unwrap();
        file.as_file_mut().write_all(b"third").unwrap();
        let (_, file) = file.publish("a").unwrap_err();
        let path = file.unwrap().publish("b").unwrap();
        assert_eq!(std::fs::read(path).unwrap(), b"third");
        assert_eq!(names(), 2);
    }

    #[test]
    fn a_folder_is_created_with_its_parents_or_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a/b/c");
        create_folder(&deep).unwrap();
        create_folder(&deep).unwrap();
        assert!(deep.is_dir());
        std::fs::write(deep.join("file"), "").unwrap();
        assert!(create_folder(&deep.join("file/d")).is_err());
    }
}
