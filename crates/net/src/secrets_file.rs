//! Reads the secrets file of either end.

use std::path::{Path, PathBuf};

use httppubsub_proto::auth::Secrets;
use httppubsub_proto::error_chain::error_chain;

/// A secrets file that cannot be read, or is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot use the secrets file {}: {why}", path.display())]
#[non_exhaustive]
pub struct SecretsFileError {
    /// The path, as given.
    pub path: PathBuf,
    /// The reason, without anything that stands in the file.
    pub why: String,
}

/// Reads the secrets file at `path`, which `httppubsub setup` or the first start of
/// `httppubsub serve` wrote. Keys that mean nothing are logged and passed over.
///
/// ```no_run
/// use httppubsub_net::read_secrets;
///
/// let secrets = read_secrets("httppubsub-data/broadcaster-secrets.json")?;
/// # let _ = secrets;
/// # Ok::<(), httppubsub_net::SecretsFileError>(())
/// ```
pub fn read_secrets(path: impl AsRef<Path>) -> Result<Secrets, SecretsFileError> {
    let path = path.as_ref();
    let (secrets, unknown) = read_secrets_with_unknown_keys(path)?;
    if !unknown.is_empty() {
        let file = path.display();
        tracing::warn!(%file, keys = ?unknown, "the secrets file has keys that mean nothing");
    }
    Ok(secrets)
}

/// Reads the secrets file at `path` as [`read_secrets`] does, and returns the keys that mean
/// nothing instead of logging them: for a program without a log, which warns a person.
pub fn read_secrets_with_unknown_keys(
    path: impl AsRef<Path>,
) -> Result<(Secrets, Vec<String>), SecretsFileError> {
    let path = path.as_ref();
    let refused = |error: &dyn std::error::Error| SecretsFileError {
        path: path.to_owned(),
        why: error_chain(error),
    };
    let text = std::fs::read_to_string(path).map_err(|error| refused(&error))?;
    Secrets::parse_with_unknown_keys(&text).map_err(|error| refused(&error))
}
