//! Authorization of messages: everything that is signed, the schemes that sign it, and the files
//! that hold their secrets.

mod claim;
mod hmac;
mod none;
mod replay;
mod scheme;
mod secrets;
mod token;

pub use claim::Claim;
pub use hmac::{HMAC_LIFETIME, HmacAuthorization};
pub use none::NoAuthorization;
pub use replay::{Code, GuardFull, REPLAY_MEMORY, SpendError, SpentCodes};
pub use scheme::{AuthError, Authorization, CannotAuthorize, Stamp, Unspent};
pub use secrets::{Direction, Scheme, SecretProblem, Secrets, SecretsError};
pub use token::{EmptyToken, TokenAuthorization};
