//! The two secrets files: made once, for their owner's eyes only, and read.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use httppubsub_net::random_bytes;
use httppubsub_proto::auth::{Scheme, Secrets};

use crate::{console, files};

const BROADCASTER_FILE: &str = "broadcaster-secrets.json";
const SUBSCRIBER_FILE: &str = "subscriber-secrets.json";

/// The secrets in a file; without one, none.
pub(crate) fn read(file: Option<&Path>) -> anyhow::Result<Secrets> {
    match file {
        Some(file) => read_file(file),
        None => Ok(Secrets::NONE),
    }
}

fn read_file(file: &Path) -> anyhow::Result<Secrets> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read the secrets file {}", file.display()))?;
    let (secrets, unknown) =
        Secrets::parse_with_unknown_keys(&text).with_context(|| file.display().to_string())?;
    if !unknown.is_empty() {
        let file = file.display();
        if tracing::dispatcher::has_been_set() {
            tracing::warn!(%file, keys = ?unknown, "the secrets file has keys that mean nothing");
        } else {
            console::say(format_args!(
                "httppubsub: {file} has keys that mean nothing: {unknown:?}"
            ));
        }
    }
    Ok(secrets)
}

/// The secrets in the data folder, made if there are none yet.
pub(crate) fn read_or_create(data: &Path) -> anyhow::Result<Secrets> {
    let broadcaster = data.join(BROADCASTER_FILE);
    if !broadcaster.exists() {
        let subscribers = data.join(SUBSCRIBER_FILE);
        let fresh = fresh_hmac();
        // The broadcaster's file is the last to appear. A start that was cut short before, or another
        // that is as far as this one, leaves the subscribers' file, which says the same.
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

fn cannot_write(path: &Path, error: std::io::Error) -> anyhow::Error {
    anyhow::Error::new(error).context(format!("cannot write {}", path.display()))
}
