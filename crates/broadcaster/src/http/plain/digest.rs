//! Digests that a publisher announces (RFC 9530).

use http::HeaderMap;
use httppubsub_net::body::Payload;
use sfv::{BareItem, Dictionary, ListEntry, Parser};
use sha2::{Digest as _, Sha256};

use crate::http::plain::refused::Refused;

/// Digests of a message as its publisher announces them: the header, the algorithm and the value.
#[derive(Debug, Default)]
pub(super) struct Announced(Vec<(&'static str, Algorithm, Vec<u8>)>);

/// An algorithm that is verified; others are passed over, as the RFC has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    /// Computed anyway.
    Sha512,
    /// Computed only if it is announced.
    Sha256,
}

impl Algorithm {
    /// The key in the dictionary.
    const fn name(self) -> &'static str {
        match self {
            Self::Sha512 => "sha-512",
            Self::Sha256 => "sha-256",
        }
    }
}

impl Announced {
    /// Reads both headers. One that does not parse is an error: what cannot be compared was not
    /// verified, and its publisher believes that it is.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Refused> {
        let mut announced = Self::default();
        for header in ["Content-Digest", "Repr-Digest"] {
            let malformed = || Refused::DigestMalformed { header };
            // Several headers of one name are one list.
            let mut text = String::new();
            for value in headers.get_all(header) {
                let value = value.to_str().map_err(|_| malformed())?;
                if !text.is_empty() {
                    text.push(',');
                }
                text.push_str(value);
            }
            let digests: Dictionary = Parser::new(&text).parse().map_err(|_| malformed())?;
            for (name, entry) in &digests {
                let algorithm = match name.as_str() {
                    "sha-512" => Algorithm::Sha512,
                    "sha-256" => Algorithm::Sha256,
                    _ => continue,
                };
                let ListEntry::Item(item) = entry else {
                    return Err(malformed());
                };
                let BareItem::ByteSequence(bytes) = &item.bare_item else {
                    return Err(malformed());
                };
                // Of any length: one that is cut short is another digest, and not malformed.
                announced.0.push((header, algorithm, bytes.clone()));
            }
        }
        Ok(announced)
    }

    /// Compares them with those of the message.
    ///
    /// # Errors
    ///
    /// One of them differs, or the message cannot be read from the disk.
    pub(super) async fn verify(&self, payload: &Payload) -> std::io::Result<Result<(), Refused>> {
        let mut sha256 = None;
        for (header, algorithm, announced) in &self.0 {
            let is_same = match algorithm {
                Algorithm::Sha512 => payload.sha512().as_bytes()[..] == announced[..],
                Algorithm::Sha256 => {
                    if sha256.is_none() {
                        sha256 = Some(sha256_of(payload).await?);
                    }
                    sha256.is_some_and(|it| it[..] == announced[..])
                }
            };
            if !is_same {
                let (header, algorithm) = (*header, algorithm.name());
                return Ok(Err(Refused::DigestMismatch { header, algorithm }));
            }
        }
        Ok(Ok(()))
    }
}

/// The SHA-256 of the message, which is read once more for it, on a thread that may wait.
async fn sha256_of(payload: &Payload) -> std::io::Result<[u8; 32]> {
    let payload = payload.clone();
    let hashing = tokio::task::spawn_blocking(move || {
        let (mut hasher, mut at) = (Sha256::new(), 0);
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match payload.read_at(&mut buffer, at)? {
                0 => return Ok(hasher.finalize().into()),
                read => {
                    hasher.update(&buffer[..read]);
                    at += read as u64;
                }
            }
        }
    });
    hashing.await.map_err(std::io::Error::other)?
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD;
    use http::HeaderName;

    use super::*;

    /// The code of the refusal of a message that says `drop it`.
    async fn code(headers: &[(&'static str, String)]) -> Option<&'static str> {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        let announced = match Announced::of(&headers.collect()) {
            Ok(announced) => announced,
            Err(refused) => return Some(refused.code()),
        };
        let payload = Payload::from_bytes(&b"drop it"[..]);
        announced
            .verify(&payload)
            .await
            .unwrap()
            .err()
            .map(|it| it.code())
    }

    #[tokio::test]
    async fn announced_digests_are_verified() {
        let sha256 = BASE64_STANDARD.encode(Sha256::digest(b"drop it"));
        let payload = Payload::from_bytes(&b"drop it"[..]);
        let sha512 = BASE64_STANDARD.encode(payload.sha512().as_bytes());
        let both = format!("sha-256=:{sha256}:, sha-512=:{sha512}:");
        assert_eq!(code(&[]).await, None);
        assert_eq!(code(&[("content-digest", both.clone())]).await, None);
        assert_eq!(code(&[("repr-digest", both)]).await, None);
        assert_eq!(
            code(&[("repr-digest", "md5=:AA==:".to_owned())]).await,
            None
        );
        for wrong in ["sha-256=:AA==:", "sha-512=:AA==:"] {
            let code = code(&[("content-digest", wrong.to_owned())]).await;
            assert_eq!(code, Some("digest_mismatch"), "{wrong}");
        }
        for malformed in [
            "sha-512=AA==",
            "sha-512=1",
            "sha-512=(:AA==:)",
            "sha-512=:A",
            "=",
            "é",
        ] {
            let code = code(&[("content-digest", malformed.to_owned())]).await;
            assert_eq!(code, Some("digest_malformed"), "{malformed}");
        }
    }
}
