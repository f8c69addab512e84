//! Urls of subscribers: the text as it was registered, and the parts of it that a request needs.

use std::sync::Arc;

use crate::limits::FIELD_BYTES_MAX;
use crate::paths::{RECEIVE, RECEIVE_FOR_WEBSOCKETS, RECOVER};

/// A receive or recovery url exactly as it was registered: UTF-8, at most [`FIELD_BYTES_MAX`]
/// bytes, compared byte for byte and never normalized. It need not be a usable url
/// (`docs/protocol/subscriptions.md` §1); [`Endpoint::parse`] tells.
///
/// ```
/// use httppubsub_proto::url::{Endpoint, SubscriberUrl};
///
/// let url = SubscriberUrl::new("https://hooks.example:8443/in?token=x#part")?;
/// assert_eq!(url.without_fragment(), "https://hooks.example:8443/in?token=x");
///
/// // For logs: the path and the query may hold secrets.
/// assert_eq!(url.to_string(), "https://hooks.example:8443");
///
/// let endpoint = Endpoint::parse(&url)?;
/// assert_eq!(endpoint.host_header(), "hooks.example:8443");
/// assert_eq!(endpoint.path_and_query(), "/in?token=x");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubscriberUrl(Arc<str>);

/// The error of a url with more bytes than the wire can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the url has {bytes} bytes, {FIELD_BYTES_MAX} are allowed")]
pub struct UrlTooLong {
    /// Number of bytes.
    pub bytes: usize,
}

impl SubscriberUrl {
    /// The url with this spelling, whether or not it is usable.
    pub fn new(text: impl Into<Arc<str>>) -> Result<Self, UrlTooLong> {
        let text = text.into();
        if text.len() > FIELD_BYTES_MAX {
            return Err(UrlTooLong { bytes: text.len() });
        }
        Ok(Self(text))
    }

    /// The text of a field of the wire, which cannot be too long.
    pub(crate) fn from_field(text: &str) -> Self {
        Self(text.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text up to the fragment, which is not sent and which signatures of deliveries leave out
    /// (`docs/protocol/auth.md` §6).
    pub fn without_fragment(&self) -> &str {
        self.0.split_once('#').map_or(&self.0, |(before, _)| before)
    }

    /// `true` if a broadcaster receives for its websocket subscribers at this url, as broadcasters
    /// spell it: the text ends with [`RECEIVE_FOR_WEBSOCKETS`]
    /// (`docs/protocol/stateless.md` §8).
    pub fn is_broadcaster_receiver(&self) -> bool {
        self.0.ends_with(RECEIVE_FOR_WEBSOCKETS)
    }
}

/// Shows a url for logs: scheme, host and port only, since paths and queries may hold secrets.
impl std::fmt::Display for SubscriberUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match Endpoint::parse(self) {
            Ok(endpoint) => write!(f, "{}", endpoint.origin()),
            Err(_) => f.write_str("(unusable url)"),
        }
    }
}

impl std::fmt::Debug for SubscriberUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SubscriberUrl({self})")
    }
}

/// The text of a url, or of a mistyped one, as an error may quote it: `***` stands for a user name
/// and password, and a query or fragment is left out. Where the role of a character is not clear,
/// less is shown.
pub fn redacted(text: &str) -> String {
    let start = text.find("://").map_or(0, |at| at + "://".len());
    let (scheme, rest) = text.split_at(start);
    // The last one, and before a query is looked for: a mistyped password may hold any character.
    let (userinfo, rest) = match rest.rsplit_once('@') {
        Some((_, rest)) => ("***@", rest),
        None => ("", rest),
    };
    match rest.split_once(['?', '#']) {
        Some((rest, _)) => format!("{scheme}{userinfo}{rest}?***"),
        None => format!("{scheme}{userinfo}{rest}"),
    }
}

/// The reason why nothing can be posted to a url.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// The text is not an absolute url with a host.
    #[error("not an absolute url: {0}")]
    Syntax(::url::ParseError),
    /// The scheme is neither `http` nor `https`.
    #[error("the scheme is {0:?}, only http and https are posted to")]
    Scheme(String),
    /// The url has no host.
    #[error("the url has no host")]
    NoHost,
    /// The url carries a user name or password, which would have to be sent to be of use.
    #[error("the url carries a user name or a password")]
    UserInfo,
    /// The url holds a control character or a blank.
    #[error("the url holds a control character or blank")]
    Control,
}

/// The scheme of a url that can be posted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain text.
    Http,
    /// TLS.
    Https,
}

/// The peer of a connection: scheme, host and port. Requests to one origin share connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// Plain text or TLS.
    pub scheme: Scheme,
    /// Lower-case name, IPv4 address, or IPv6 address without brackets.
    pub host: String,
    /// The port, the default of the scheme included.
    pub port: u16,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        // Only an IPv6 address has a colon.
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

/// The parts of a url that a request needs: the peer to connect to, and the target there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    origin: Origin,
    host_header: String,
    path_and_query: String,
}

impl Endpoint {
    /// The endpoint of `url`. The fragment is dropped.
    pub fn parse(url: &SubscriberUrl) -> Result<Self, EndpointError> {
        Self::parse_str(url.as_str())
    }

    /// The endpoint of the url with the spelling `text`. The fragment is dropped.
    pub fn parse_str(text: &str) -> Result<Self, EndpointError> {
        if text
            .bytes()
            .any(|byte| byte.is_ascii_control() || byte == b' ')
        {
            return Err(EndpointError::Control);
        }
        // The check above comes first because the parser drops tabs and newlines silently: the url
        // that is judged must be the one that is used.
        let url = ::url::Url::parse(text).map_err(EndpointError::Syntax)?;
        let scheme = match url.scheme() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            other => return Err(EndpointError::Scheme(other.to_owned())),
        };
        // They would travel in `Authorization`, which carries the value of the scheme.
        if !url.username().is_empty() || url.password().is_some() {
            return Err(EndpointError::UserInfo);
        }
        let host = match url.host() {
            Some(::url::Host::Domain(name)) => name.to_owned(),
            Some(::url::Host::Ipv4(address)) => address.to_string(),
            Some(::url::Host::Ipv6(address)) => address.to_string(),
            None => return Err(EndpointError::NoHost),
        };
        let port = url.port_or_known_default().ok_or(EndpointError::NoHost)?;
        // `Host` has brackets around an IPv6 address and leaves the scheme's own port out (RFC 9110
        // §7.2); the resolver wants the address bare.
        let bracketed = url.host_str().ok_or(EndpointError::NoHost)?;
        let host_header = match url.port() {
            Some(port) => format!("{bracketed}:{port}"),
            None => bracketed.to_owned(),
        };
        let path_and_query = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        Ok(Self {
            origin: Origin { scheme, host, port },
            host_header,
            path_and_query,
        })
    }

    /// The peer to connect to.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Value of the `Host` header: the host, and the port unless it is the scheme's own.
    pub fn host_header(&self) -> &str {
        &self.host_header
    }

    /// Target of the request: starts with `/`, printable ASCII.
    pub fn path_and_query(&self) -> &str {
        &self.path_and_query
    }
}

/// The two urls that a client registers (`docs/protocol/stateless.md` §9).
///
/// ```
/// use httppubsub_proto::url::ClientUrls;
///
/// let urls = ClientUrls::of_host("http://me.example:3004/prefix")?;
/// assert_eq!(urls.receive.as_str(), "http://me.example:3004/prefix/v1/receive");
/// assert_eq!(urls.recovery.as_str(), "http://me.example:3004/prefix/v1/recover");
/// # Ok::<(), httppubsub_proto::url::UrlTooLong>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientUrls {
    /// The url for RECEIVE.
    pub receive: SubscriberUrl,
    /// The url for MISSED.
    pub recovery: SubscriberUrl,
}

impl ClientUrls {
    /// The urls of the client that is reached at `host`, which may carry a path prefix and a
    /// fragment.
    pub fn of_host(host: &str) -> Result<Self, UrlTooLong> {
        // The paths belong before the fragment, or they would be part of it.
        let split = host.find('#').unwrap_or(host.len());
        let (before, rest) = host.split_at(split);
        Ok(Self {
            receive: SubscriberUrl::new(format!("{before}{RECEIVE}{rest}"))?,
            recovery: SubscriberUrl::new(format!("{before}{RECOVER}{rest}"))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_drops_the_fragment_and_names_the_port() {
        let endpoint = Endpoint::parse_str("http://Example.com/a%20b/?q=1#part").unwrap();
        assert_eq!(endpoint.origin().to_string(), "http://example.com:80");
        assert_eq!(endpoint.host_header(), "example.com");
        assert_eq!(endpoint.path_and_query(), "/a%20b/?q=1");
        let endpoint = Endpoint::parse_str("https://[::1]:8443").unwrap();
        assert_eq!(endpoint.origin().host, "::1");
        assert_eq!(endpoint.host_header(), "[::1]:8443");
        assert_eq!(endpoint.path_and_query(), "/");
    }

    #[test]
    fn what_cannot_be_posted_to_says_why() {
        for (url, want) in [
            ("", "not an absolute url: relative URL without a base"),
            (
                "unix:/tmp/x",
                "the scheme is \"unix\", only http and https are posted to",
            ),
            (
                "file:///etc/passwd",
                "the scheme is \"file\", only http and https are posted to",
            ),
            ("http://", "not an absolute url: empty host"),
            (
                "http://me:pw@host/",
                "the url carries a user name or a password",
            ),
            (
                "http://host/\r\nX: y",
                "the url holds a control character or blank",
            ),
        ] {
            assert_eq!(
                Endpoint::parse_str(url).unwrap_err().to_string(),
                want,
                "{url:?}"
            );
        }
    }

    #[test]
    fn secrets_in_errors_are_stars_in_what_is_quoted_of_a_url() {
        for (url, want) in [
            ("localhost:3003", "localhost:3003"),
            ("http://h:1/a", "http://h:1/a"),
            ("http://me:canary@h:1/a", "http://***@h:1/a"),
            ("http://canary@h", "http://***@h"),
            ("me:canary@h:3003", "***@h:3003"),
            ("http://me:can@ary@h/", "http://***@h/"),
            ("http://me:can/ary@h/", "http://***@h/"),
            ("http://me:can?ary@h/", "http://***@h/"),
            ("http://h/?token=canary", "http://h/?***"),
            ("http://h/#canary", "http://h/?***"),
        ] {
            assert_eq!(redacted(url), want);
        }
    }

    #[test]
    fn a_broadcaster_receives_at_a_url_that_ends_with_the_path_for_it() {
        for (url, want) in [
            ("http://b:3003/v1/receive_for_websockets", true),
            ("http://b/prefix/v1/receive_for_websockets", true),
            ("http://b:3003/v1/missed_for_websockets", false),
            ("http://b:3003/v1/receive_for_websockets#1", false),
            ("http://b:3003/v1/receive_for_websockets/", false),
            ("http://b:3003/V1/receive_for_websockets", false),
            ("http://c/v1/receive", false),
        ] {
            let parsed = SubscriberUrl::new(url).unwrap();
            assert_eq!(parsed.is_broadcaster_receiver(), want, "{url}");
        }
    }

    #[test]
    fn a_url_in_a_log_shows_its_origin_only() {
        let url = SubscriberUrl::new("http://host:1/secret?token=x").unwrap();
        assert_eq!(
            format!("{url} {url:?}"),
            "http://host:1 SubscriberUrl(http://host:1)"
        );
    }
}
