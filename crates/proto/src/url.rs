//! Where subscribers are reached: the url as it was registered, and what of it a request needs.

use std::sync::Arc;

use crate::limits::FIELD_BYTES_MAX;

/// A receive or recovery url exactly as it was registered: UTF-8, at most [`FIELD_BYTES_MAX`]
/// bytes, compared byte for byte and never normalized. It need not be a usable url
/// (`docs/protocol/subscriptions.md` §1); [`Endpoint::parse`] tells.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubscriberUrl(Arc<str>);

/// A url has more bytes than the wire can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the url has {bytes} bytes, {FIELD_BYTES_MAX} are allowed")]
pub struct UrlTooLong {
    /// How many there are.
    pub bytes: usize,
}

impl SubscriberUrl {
    /// The url that is spelled so.
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

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its text up to the fragment, which is not sent and which signatures of deliveries leave out
    /// (`docs/protocol/auth.md` §6).
    pub fn without_fragment(&self) -> &str {
        self.0.split_once('#').map_or(&self.0, |(before, _)| before)
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

/// A url, or what was meant as one, as an error may quote it: `***` stands for a user name and password,
/// and what may be a query or fragment is left out. Where it is not clear what a character means, less is
/// shown.
pub fn redacted(text: &str) -> String {
    let start = text.find("://").map_or(0, |at| at + "://".len());
    let (scheme, rest) = text.split_at(start);
    let (userinfo, rest) = match rest.rsplit_once('@') {
        Some((_, rest)) => ("***@", rest),
        None => ("", rest),
    };
    match rest.split_once(['?', '#']) {
        Some((rest, _)) => format!("{scheme}{userinfo}{rest}?***"),
        None => format!("{scheme}{userinfo}{rest}"),
    }
}

/// Why nothing can be posted to a url.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// It is not an absolute url with a host.
    #[error("not an absolute url: {0}")]
    Syntax(::url::ParseError),
    /// Its scheme is neither `http` nor `https`.
    #[error("the scheme is {0:?}, only http and https are posted to")]
    Scheme(String),
    /// It has no host.
    #[error("the url has no host")]
    NoHost,
    /// It carries a user name or password, which would have to be sent to be of use.
    #[error("the url carries a user name or a password")]
    UserInfo,
    /// It holds a control character.
    #[error("the url holds a control character or blank")]
    Control,
}

/// How the peer is spoken with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain text.
    Http,
    /// TLS.
    Https,
}

/// Who is connected to: scheme, host and port. Requests to one origin share connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// How the peer is spoken with.
    pub scheme: Scheme,
    /// Lower-case name, IPv4 address, or IPv6 address without brackets.
    pub host: String,
    /// The port, always said.
    pub port: u16,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

/// What a request needs of a url: whom to connect to and what to ask for there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    origin: Origin,
    host_header: String,
    path_and_query: String,
}

impl Endpoint {
    /// What a request to `url` needs. The fragment is dropped.
    pub fn parse(url: &SubscriberUrl) -> Result<Self, EndpointError> {
        Self::parse_str(url.as_str())
    }

    /// What a request to the url spelled `text` needs. The fragment is dropped.
    pub fn parse_str(text: &str) -> Result<Self, EndpointError> {
        if text
            .bytes()
            .any(|byte| byte.is_ascii_control() || byte == b' ')
        {
            return Err(EndpointError::Control);
        }
        let url = ::url::Url::parse(text).map_err(EndpointError::Syntax)?;
        let scheme = match url.scheme() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            other => return Err(EndpointError::Scheme(other.to_owned())),
        };
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

    /// Whom to connect to.
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientUrls {
    /// Where it takes RECEIVE.
    pub receive: SubscriberUrl,
    /// Where it takes MISSED.
    pub recovery: SubscriberUrl,
}

impl ClientUrls {
    /// The urls of the client that is reached at `host`, which may carry a path prefix and a
    /// fragment.
    pub fn of_host(host: &str) -> Result<Self, UrlTooLong> {
        let split = host.find('#').unwrap_or(host.len());
        let (before, rest) = host.split_at(split);
        Ok(Self {
            receive: SubscriberUrl::new(format!("{before}/v1/receive{rest}"))?,
            recovery: SubscriberUrl::new(format!("{before}/v1/recover{rest}"))?,
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
    fn a_url_in_a_log_shows_its_origin_only() {
        let url = SubscriberUrl::new("http://host:1/secret?token=x").unwrap();
        assert_eq!(
            format!("{url} {url:?}"),
            "http://host:1 SubscriberUrl(http://host:1)"
        );
    }
}
