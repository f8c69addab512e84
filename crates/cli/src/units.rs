//! Durations, sizes, counts and addresses as people write them.
//!
//! Units are taken as written in this program's own documents, in English words, and as other tools
//! print them. A value that could mean two things is refused: a number of bytes with a fraction, a
//! duration below zero.

use std::convert::Infallible;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::num::NonZeroU32;
use std::time::Duration;

use httppubsub_proto::time::FOREVER;

/// The unit of a bare number, unless the flag says otherwise.
const SECOND: Duration = Duration::from_secs(1);

/// The unit of a bare number for `--busy-poll`.
const MICROSECOND: Duration = Duration::from_micros(1);

/// Units by name, each in seconds.
const DURATIONS: [(&str, f64); 14] = [
    ("microseconds", 1e-6),
    ("milliseconds", 1e-3),
    ("seconds", 1.0),
    ("minutes", 60.0),
    ("hours", 3_600.0),
    ("days", 86_400.0),
    ("us", 1e-6),
    ("µs", 1e-6),
    ("ms", 1e-3),
    ("min", 60.0),
    ("s", 1.0),
    ("m", 60.0),
    ("h", 3_600.0),
    ("d", 86_400.0),
];

/// Units by lower-case name, each in bytes.
const SIZES: [(&str, u64); 9] = [
    ("b", 1),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
];

/// A duration such as `500ms`, `1.5s`, `2min` or `1h 30min`; a bare number is of seconds. More than
/// [`FOREVER`] is that.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    duration(text, SECOND)
        .ok_or_else(|| "not a number of seconds, nor a duration such as 500ms or 2min".to_owned())
}

/// The same, but not 0.
pub(crate) fn positive_seconds(text: &str) -> Result<Duration, String> {
    not_zero(seconds(text)?)
}

/// The same, but a bare number is of microseconds.
pub(crate) fn positive_microseconds(text: &str) -> Result<Duration, String> {
    let duration = duration(text, MICROSECOND);
    not_zero(duration.ok_or_else(|| "not a number of microseconds, nor a duration".to_owned())?)
}

/// Refuses 0 where it would mean "at once" and not, as some expect, "never".
fn not_zero(duration: Duration) -> Result<Duration, String> {
    match duration.is_zero() {
        true => Err("must be longer than 0".to_owned()),
        false => Ok(duration),
    }
}

/// The sum of all parts of `text`; a lone number is in the unit `bare`. `None` if a part has no
/// number, no known unit, or is negative or not a number.
fn duration(text: &str, bare: Duration) -> Option<Duration> {
    let text = text.trim();
    let of = |number: f64, unit: f64| {
        let is_one = number >= 0.0 && !number.is_nan();
        // `Duration::from_secs_f64` panics beyond its range.
        let seconds = (number * unit).min(FOREVER.as_secs_f64());
        is_one.then(|| Duration::from_secs_f64(seconds))
    };
    if let Ok(number) = text.parse::<f64>() {
        return of(number, bare.as_secs_f64());
    }
    let mut rest = text;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, unit) = rest.split_at(end);
        let unit = unit.trim_start();
        let end = unit
            .find(|c: char| !c.is_alphabetic())
            .unwrap_or(unit.len());
        let (name, behind) = unit.split_at(end);
        let mut known = DURATIONS.iter();
        let (_, unit) = known.find(|(known, _)| *known == name || is_singular(known, name))?;
        sum = sum.saturating_add(of(number.parse().ok()?, *unit)?);
        rest = behind.trim_start();
    }
    (!text.is_empty()).then(|| sum.min(FOREVER))
}

/// `1 second` is as good as `2 seconds`.
fn is_singular(known: &str, name: &str) -> bool {
    known.len() > 2 && known.strip_suffix('s') == Some(name)
}

/// A size such as `64KiB`, `10 MB` or `1.5GiB`; a bare number is of bytes. KB, MB, GB and TB are
/// powers of 1,000, KiB, MiB, GiB and TiB of 1,024.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let name = unit.trim().to_ascii_lowercase();
    // Case says nothing here: nobody means millibytes or bits by "mb".
    let unit = SIZES.iter().find(|(known, _)| *known == name);
    let unit = match (name.as_str(), unit) {
        ("", _) => 1,
        (_, Some((_, unit))) => *unit,
        (_, None) => {
            return Err("not a number of bytes, nor a size such as 10MiB or 64kB".to_owned());
        }
    };
    let too_many = || "more bytes than there can be".to_owned();
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(unit).ok_or_else(too_many);
    }
    let number: f64 = number
        .parse()
        .map_err(|_| "not a number of bytes, nor a size such as 10MiB or 64kB".to_owned())?;
    // 1.5GiB is a whole number of bytes, 1.5 is not: rounding would hide a mistake.
    let bytes = number * unit as f64;
    match bytes.fract() == 0.0 && bytes < u64::MAX as f64 {
        true => Ok(bytes as u64),
        false if bytes >= u64::MAX as f64 => Err(too_many()),
        false => Err("not a whole number of bytes".to_owned()),
    }
}

/// The same, at least 1 and less than 4 GiB.
pub(crate) fn some_bytes(text: &str) -> Result<NonZeroU32, String> {
    let bytes = u32::try_from(bytes(text)?).map_err(|_| "must be less than 4 GiB".to_owned())?;
    NonZeroU32::new(bytes).ok_or_else(|| "must be at least 1".to_owned())
}

/// A count from 1 to the largest that fits.
pub(crate) fn count(text: &str) -> Result<usize, String> {
    within(text, COUNT_MAX)
}

/// A machine has no use for more, and the runtime starts them all.
pub(crate) fn threads(text: &str) -> Result<usize, String> {
    within(text, THREADS_MAX)
}

/// Far more than a process can have of anything, and small enough to multiply without overflow.
const COUNT_MAX: usize = 1_000_000_000;

const THREADS_MAX: usize = 1_024;

/// A whole number from 1 to `max`.
fn within(text: &str, max: usize) -> Result<usize, String> {
    match text.trim().parse() {
        Ok(0) => Err("must be at least 1".to_owned()),
        Ok(number) if number <= max => Ok(number),
        Ok(_) => Err(format!("must be at most {max}")),
        Err(error) => Err(format!("{error}")),
    }
}

/// An address to listen on: an IP address and a port, or a name such as `localhost` and a port. Of
/// the addresses of a name the first IPv4 address is taken, or else the first.
///
/// # Errors
///
/// Text of another form, and a name that does not resolve now: it is looked up once, at the start.
pub(crate) fn listen_address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let use_this = "use ADDR:PORT, such as 127.0.0.1:3003, [::1]:3003 or localhost:3003";
    let (name, port) = text.rsplit_once(':').ok_or(use_this)?;
    let port: u16 = port.parse().map_err(|_| use_this)?;
    // A url or an IPv6 address without brackets would resolve to something, and not to what was
    // meant.
    if name.is_empty() || name.contains([':', '/', '@', ' ']) {
        return Err(use_this.to_owned());
    }
    let addresses = (name, port)
        .to_socket_addrs()
        .map_err(|error| format!("the name does not resolve: {error}"))?;
    let addresses: Vec<_> = addresses.collect();
    // `localhost` is often both; published peers and most examples use 127.0.0.1.
    let ipv4 = addresses.iter().find(|address| address.is_ipv4());
    let address = ipv4.or(addresses.first()).copied();
    address.ok_or_else(|| "the name resolves to nothing".to_owned())
}

/// The url of an HTTP server; `HOST:PORT` without a scheme is one of plain HTTP.
/// Nothing is checked here: a url that cannot be used is refused where it is used, with a reason.
pub(crate) fn http_url(text: &str) -> Result<String, Infallible> {
    let authority = text.split('/').next().unwrap_or_default();
    let port = authority
        .rsplit_once(':')
        .map(|(_, port)| port.parse::<u16>());
    Ok(match port {
        Some(Ok(_)) => format!("http://{text}"),
        _ => text.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_of_durations_are_those_that_people_write() {
        for (text, milliseconds) in [
            ("30", 30_000),
            ("0.05", 50),
            ("1e3", 1_000_000),
            (" 5 ", 5_000),
            ("500ms", 500),
            ("500 ms", 500),
            ("1.5s", 1_500),
            ("2min", 120_000),
            ("2m", 120_000),
            ("1h30m", 5_400_000),
            ("1h 30min", 5_400_000),
            ("1 hour 1 second", 3_601_000),
            ("7d", 604_800_000),
            ("0", 0),
        ] {
            let want = Duration::from_millis(milliseconds);
            assert_eq!(seconds(text), Ok(want), "{text:?}");
        }
        for text in [
            "", "soon", "-1", "-5s", "nan", "5x", "s", "5 5", "1.2.3s", "ms5", "5s!",
        ] {
            assert!(seconds(text).is_err(), "{text:?}");
        }
        assert_eq!(positive_microseconds("50"), Ok(Duration::from_micros(50)));
        assert_eq!(positive_microseconds("1ms"), Ok(Duration::from_millis(1)));
        for text in ["0", "0s", "0.0", "0 days"] {
            assert!(positive_seconds(text).is_err(), "{text:?}");
        }
        for text in [
            "1e300",
            "inf",
            "18446744073709551615",
            "99999999999999999999d",
        ] {
            assert_eq!(seconds(text), Ok(FOREVER), "{text:?}");
        }
    }

    #[test]
    fn units_of_sizes_are_those_that_people_write() {
        for (text, want) in [
            ("0", 0),
            ("1000", 1_000),
            ("18446744073709551615", u64::MAX),
            ("10MB", 10_000_000),
            ("10 MiB", 10 << 20),
            ("10mib", 10 << 20),
            ("1.5GiB", 3 << 29),
            ("64kB", 64_000),
            ("2TiB", 2 << 40),
            ("7B", 7),
        ] {
            assert_eq!(bytes(text), Ok(want), "{text:?}");
        }
        for text in [
            "",
            "MB",
            "-1",
            "10XB",
            "1.5",
            "0.1B",
            "1e3",
            "99999999TiB",
            "1 MB 2",
            ".",
        ] {
            assert!(bytes(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn units_of_some_bytes_have_bounds() {
        assert_eq!(some_bytes("4MiB").map(NonZeroU32::get), Ok(4 << 20));
        assert!(some_bytes("0").is_err() && some_bytes("4GiB").is_err());
    }

    #[test]
    fn units_of_counts_have_bounds() {
        assert_eq!(count("1"), Ok(1));
        assert_eq!(count("1000000000"), Ok(1_000_000_000));
        for text in [
            "0",
            "-1",
            "1.5",
            "18446744073709551615",
            "99999999999999999999",
            "",
        ] {
            assert!(count(text).is_err(), "{text:?}");
        }
        assert!(threads("1025").is_err());
    }

    #[test]
    fn units_of_addresses_may_be_names() {
        let address = |text: &str| listen_address(text).map(|it| it.to_string());
        assert_eq!(address("127.0.0.1:0").unwrap(), "127.0.0.1:0");
        assert_eq!(address("[::1]:3003").unwrap(), "[::1]:3003");
        assert_eq!(address("localhost:3003").unwrap(), "127.0.0.1:3003");
        for text in [
            "localhost",
            ":3003",
            "3003",
            "http://127.0.0.1:1",
            "::1:3003",
            "a b:1",
            "",
        ] {
            assert!(listen_address(text).is_err(), "{text:?}");
        }
        assert_eq!(http_url("localhost:3003").unwrap(), "http://localhost:3003");
        assert_eq!(http_url("b:80/prefix").unwrap(), "http://b:80/prefix");
        for url in ["https://b/x", "http://b:1", "here", "", "unix:/a:1"] {
            assert_eq!(http_url(url).unwrap(), url);
        }
    }
}
