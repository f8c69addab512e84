//! The two secrets files: made once, for their owner's eyes only, and read.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use httppubsub_net::random_bytes;
use httppubsub_proto::auth::{Scheme, Secrets};

pub(crate) const BROADCASTER_FILE: &str = "broadcaster-secrets.json";
pub(crate) const SUBSCRIBER_FILE: &str = "subscriber-secrets.json";

/// The secrets in a file; without one, none.
pub(crate) fn read(file: Option<&Path>) -> anyhow::Result<Secrets> {
    let Some(file) = file else {
        return Ok(Secrets::NONE);
    };
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read the secrets file {}", file.display()))?;
    Secrets::parse(&text).with_context(|| file.display().to_string())
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
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let files = [folder.join(BROADCASTER_FILE), folder.join(SUBSCRIBER_FILE)];
    if let Some(existing) = files.iter().find(|file| file.exists()) {
        anyhow::bail!("{} exists already; move it away first", existing.display());
    }
    for file in &files {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(file)
            .and_then(|mut open| open.write_all(secrets.to_text().as_bytes()))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(files)
}
