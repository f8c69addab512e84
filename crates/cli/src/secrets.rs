//! The two secrets files: made once, for their owner's eyes only, and read.
//!
//! Both files have the same content: a secret for each direction, as JSON that the published
//! packages read as well. There are two so that one can be handed out without giving away where the
//! broadcaster keeps its own. Both have the mode 0600, and appear whole or not at all.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use httppubsub_net::{random_bytes, read_secrets, read_secrets_with_unknown_keys};
use httppubsub_proto::auth::{Scheme, Secrets};

use crate::console;
use crate::files;

/// The names that the published packages give to the same files.
const BROADCASTER_FILE: &str = "broadcaster-secrets.json";
const SUBSCRIBER_FILE: &str = "subscriber-secrets.json";

/// The secrets in a file; without one, none.
pub(crate) fn read(file: Option<&Path>) -> anyhow::Result<Secrets> {
    match file {
        Some(file) => read_file(file),
        None => Ok(Secrets::NONE),
    }
}

/// The secrets in `file`. Keys that mean nothing are warned of and not refused: a newer version may
/// have written them.
fn read_file(file: &Path) -> anyhow::Result<Secrets> {
    // `serve` logs, in the format that its operator chose; other verbs speak to a person.
    if tracing::dispatcher::has_been_set() {
        return Ok(read_secrets(file)?);
    }
    let (secrets, unknown) = read_secrets_with_unknown_keys(file)?;
    if !unknown.is_empty() {
        let file = file.display();
        console::say(format_args!(
            "httppubsub: {file} has keys that mean nothing: {unknown:?}"
        ));
    }
    Ok(secrets)
}

/// The secrets in the data folder, made if there are none yet.
///
/// Several broadcasters may start in one folder at once: all of them end up with the same secrets.
///
/// # Errors
///
/// A file that cannot be read, parsed or written. Broken secrets are never replaced: subscribers
/// would be refused without anybody having changed anything.
pub(crate) fn read_or_create(data: &Path) -> anyhow::Result<Secrets> {
    let broadcaster = data.join(BROADCASTER_FILE);
    if !broadcaster.exists() {
        let subscribers = data.join(SUBSCRIBER_FILE);
        let fresh = fresh_hmac();
        // The broadcaster's file is the last to appear. A start that was cut short before, or
        // another that is as far as this one, leaves the subscribers' file, which says the same.
        let secrets = match files::create(data, SUBSCRIBER_FILE, fresh.to_text().as_bytes()) {
            Ok(_) => fresh,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => read_file(&subscribers)?,
            Err(error) => return Err(cannot_write(&subscribers, error)),
        };
        match files::create(data, BROADCASTER_FILE, secrets.to_text().as_bytes()) {
            Ok(_) => tracing::info!(
                subscribers = %subscribers.display(),
                "made fresh HMAC secrets; subscribers need this file"
            ),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(cannot_write(&broadcaster, error)),
        }
    }
    read_file(&broadcaster)
}

/// Fresh secrets for HMAC in both directions.
pub(crate) fn fresh_hmac() -> Secrets {
    Secrets {
        to_broadcaster: Scheme::Hmac(random_bytes()),
        to_subscriber: Scheme::Hmac(random_bytes()),
    }
}

/// Writes both files into `folder`, which is made if need be. Neither may exist.
pub(crate) fn write(folder: &Path, secrets: &Secrets) -> anyhow::Result<[PathBuf; 2]> {
    files::create_folder(folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let paths = [folder.join(BROADCASTER_FILE), folder.join(SUBSCRIBER_FILE)];
    if let Some(existing) = paths.iter().find(|file| file.exists()) {
        anyhow::bail!("{} exists already; move it away first", existing.display());
    }
    for name in [SUBSCRIBER_FILE, BROADCASTER_FILE] {
        files::create(folder, name, secrets.to_text().as_bytes())
            .map_err(|error| cannot_write(&folder.join(name), error))?;
    }
    Ok(paths)
}

/// The error for the user, which names the file.
fn cannot_write(path: &Path, error: std::io::Error) -> anyhow::Error {
    anyhow::Error::new(error).context(format!("cannot write {}", path.display()))
}
