//! The tokens file: read, changed as a whole, and read again when it changes.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use httppubsub_broadcaster::Broadcaster;
use httppubsub_net::error_chain;
use httppubsub_proto::plain::Tokens;
use tokio::sync::Notify;

use crate::files::{self, NewFile};

/// The name in the data folder.
pub(crate) const FILE: &str = "tokens.json";

/// The tokens in `file`; none if there is no such file.
pub(crate) fn read(file: &Path) -> anyhow::Result<Tokens> {
    match fs::read_to_string(file) {
        Ok(text) => Tokens::parse(&text).with_context(|| file.display().to_string()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Tokens::default()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
    }
}

/// Changes the tokens in `file`, which is made if need be: the file is the old or the new one
/// whenever this ends. Another that changes it meanwhile waits.
pub(crate) fn change(
    file: &Path,
    change: impl FnOnce(&mut Tokens) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let (folder, name) = place(file)?;
    files::create_folder(&folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let lock = File::open(&folder).and_then(|it| it.lock().map(|()| it));
    let _lock = lock.with_context(|| format!("cannot open the folder {}", folder.display()))?;
    let mut tokens = read(file)?;
    change(&mut tokens)?;
    let write = || {
        let mut new = NewFile::within(&folder)?;
        new.as_file_mut().write_all(tokens.to_text().as_bytes())?;
        new.replace(&name)
    };
    write().with_context(|| format!("cannot write {}", file.display()))
}

/// The folder and the name of `file`.
fn place(file: &Path) -> anyhow::Result<(PathBuf, String)> {
    let name = file.file_name().and_then(|it| it.to_str());
    let name = name.with_context(|| format!("{} is no file", file.display()))?;
    let folder = match file.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    Ok((folder.to_owned(), name.to_owned()))
}

/// What tells one state of a file from another, without reading it: when it was changed, and how
/// long it is. `None` if it cannot be told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Version(Option<(SystemTime, u64)>);

impl Version {
    /// That of the file as it is now.
    pub(crate) fn of(file: &Path) -> Self {
        let metadata = fs::metadata(file).ok();
        Self(metadata.and_then(|it| Some((it.modified().ok()?, it.len()))))
    }
}

/// Pause between two looks at the file.
const BETWEEN_LOOKS: Duration = Duration::from_secs(5);

/// Gives `broadcaster` the tokens of `file` whenever that is another one than `version`, and when
/// `now` says so. A file that cannot be used changes nothing; one that is gone leaves no tokens.
/// It goes on until the runtime ends: there is nothing to be finished.
pub(crate) async fn follow(
    file: PathBuf,
    mut version: Version,
    broadcaster: Broadcaster,
    now: Arc<Notify>,
) {
    loop {
        let is_asked = tokio::select! {
            () = tokio::time::sleep(BETWEEN_LOOKS) => false,
            () = now.notified() => true,
        };
        // Before it is read: what changes meanwhile is read again.
        let seen = Version::of(&file);
        if seen == version && !is_asked {
            continue;
        }
        version = seen;
        match read(&file) {
            Ok(tokens) => {
                let names = tokens.iter().count();
                broadcaster.set_tokens(tokens);
                tracing::info!(file = %file.display(), names, "read the tokens file");
            }
            Err(error) => tracing::error!(
                error = error_chain(error.as_ref()),
                "the tokens file cannot be used; the tokens of before go on"
            ),
        }
    }
}
