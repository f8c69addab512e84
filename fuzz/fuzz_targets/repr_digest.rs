//! The `Repr-Digest` header: what is found is found again, and the last entry counts.
#![no_main]

use httppubsub_proto::digest::{ReprDigestError, Sha512, decode_repr_digest, encode_repr_digest};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|value: &[u8]| {
    let found = decode_repr_digest(value);
    if let Ok(digest) = found {
        let again = encode_repr_digest(&digest);
        assert_eq!(decode_repr_digest(again.as_bytes()), Ok(digest));
        assert!(spells_the_name(value));
    } else if found == Err(ReprDigestError::NotADigest) {
        assert!(spells_the_name(value));
    }

    // Entries of other algorithms change nothing, wherever they stand.
    let with = |before: &[u8], after: &[u8]| decode_repr_digest(&[before, value, after].concat());
    assert_eq!(with(b"md5=AAAA,", b""), found);
    assert_eq!(with(b"", b",sha-256=:AAAA:"), found);
    assert_eq!(with(b" , ", b" ,"), found);

    // The last entry of ours counts; one before an entry of the value's own does not.
    let other = encode_repr_digest(&Sha512::of(b"other"));
    let last = [b",", other.as_bytes()].concat();
    assert_eq!(with(b"", &last), Ok(Sha512::of(b"other")));
    let first = [other.as_bytes(), b","].concat();
    let want = match found {
        Err(ReprDigestError::NoSha512) => Ok(Sha512::of(b"other")),
        found => found,
    };
    assert_eq!(with(&first, b""), want);
});

/// Whether some entry has the name of SHA-512, in one of its two spellings.
fn spells_the_name(value: &[u8]) -> bool {
    let value = value.to_ascii_lowercase();
    [&b"sha-512"[..], b"sha512"]
        .iter()
        .any(|name| value.windows(name.len()).any(|at| at == *name))
}
