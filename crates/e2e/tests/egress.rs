//! A broadcaster posts only where it may (T1, T2, T3): at a port of loopback that is forbidden,
//! nobody ever knocks.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io;
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::process::Output;

use httppubsub_e2e::{
    Act, Asked, Home, Server, Subscriber, eventually, exact, http_answer, httppubsub, url,
};
use httppubsub_proto::subscription::{Subscription, SubscriptionSet};

const MESSAGE: &[u8] = b"a message";

/// Notices whenever anything connects to a port of loopback.
struct Canary {
    listeners: Vec<TcpListener>,
    port: u16,
}

impl Canary {
    fn new() -> Self {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        let mut listeners = vec![first];
        // Where there is IPv6, and nobody else has this port.
        listeners.extend(TcpListener::bind((Ipv6Addr::LOCALHOST, port)));
        for listener in &listeners {
            listener.set_nonblocking(true).unwrap();
        }
        Self { listeners, port }
    }

    fn url(&self, host: &str) -> String {
        format!("http://{host}:{}/", self.port)
    }

    #[track_caller]
    fn lives(&self) {
        for listener in &self.listeners {
            match listener.accept() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                came => panic!("something came: {came:?}"),
            }
        }
    }
}

/// Urls that a public broadcaster refuses, and with which status.
fn refused(canary: &Canary) -> Vec<(String, u16)> {
    let unusable = [
        "",
        "/v1/receive",
        "//127.0.0.1:PORT/",
        "file:///etc/passwd",
        "unix:/run/docker.sock",
        "ftp://127.0.0.1:PORT/",
        "gopher://127.0.0.1:PORT/_POST",
        "ws://127.0.0.1:PORT/",
        "javascript:alert(1)",
        "http://user:pw@127.0.0.1:PORT/",
        "http://1.1.1.1@127.0.0.1:PORT/",
        "http://127.0.0.1:PORT/\r\nX-Injected: yes",
        "http://127.0.0.1:PORT\t/",
        "http://[fe80::1%25eth0]:PORT/",
    ];
    let forbidden = [
        // This machine.
        "127.0.0.1",
        "127.0.0.1.",
        "127.1",
        "127.0.1",
        "127.8.8.8",
        "2130706433",
        "0x7f000001",
        "0x7F.0.0.0x1",
        "017700000001",
        "0177.0.0.01",
        "%31%32%37.0.0.1",
        "\u{ff11}27.0.0.1",
        "127\u{3002}0.0.1",
        "localhost",
        "LocalHost.",
        "any.localhost",
        "localhost.localdomain",
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "[64:ff9b:1::127.0.0.1]",
        "[2002:7f00:1::]",
        "[2001:0:7f00:1::1]",
        // Any machine, which is this one.
        "0.0.0.0",
        "0",
        "0x0",
        "[::]",
        "[::ffff:0.0.0.0]",
        // Those on this link.
        "169.254.1.1",
        "[fe80::1]",
        "[::ffff:169.254.1.1]",
        // The clouds.
        "169.254.169.254",
        "169.254.169.254.",
        "2852039166",
        "0xa9fea9fe",
        "0251.0376.0251.0376",
        "[::ffff:a9fe:a9fe]",
        "[64:ff9b::169.254.169.254]",
        "[fd00:ec2::254]",
        "[fd20:ce::254]",
        "100.100.100.200",
        "192.0.0.192",
        "168.63.129.16",
        "metadata.google.internal",
        // Many machines.
        "224.0.0.1",
        "255.255.255.255",
        "[ff02::1]",
        // Those of a network of one's own.
        "10.0.0.1",
        "167772161",
        "172.16.0.1",
        "192.168.0.1",
        "100.64.0.1",
        "192.0.2.1",
        "198.18.0.1",
        "240.0.0.1",
        "[fd00::1]",
        "[2001:db8::1]",
        "[::ffff:10.0.0.1]",
        "[64:ff9b::10.0.0.1]",
    ];
    assert!(forbidden.len() >= 60, "{}", forbidden.len());
    let port = canary.port.to_string();
    let unusable = unusable.map(|url| (url.replace("PORT", &port), 400));
    let forbidden = forbidden.map(|host| (canary.url(host), 403));
    unusable.into_iter().chain(forbidden).collect()
}

fn check_url(flags: &[&str], url: &str) -> Output {
    let mut command = httppubsub();
    command.arg("check-url").args(flags).arg(url);
    command.output().unwrap()
}

/// Every request that asks for deliveries or notices to `odd`.
fn requests(server: &Server, odd: &str) -> Vec<Asked> {
    let signer = &server.door.signer;
    let good = "http://1.1.1.1/";
    let ask = |receive: &str, recovery: &str| {
        let (receive, recovery) = (url(receive), Some(url(recovery)));
        let set: SubscriptionSet = [(exact("t"), recovery.clone())].into_iter().collect();
        let subscription = Subscription {
            url: receive.clone(),
            interest: exact("t"),
            recovery,
        };
        [signer.subscribe(&subscription), signer.set(&receive, &set)]
    };
    let mut requests = ask(odd, good).to_vec();
    // An empty recovery url means that none is wanted.
    if !odd.is_empty() {
        requests.extend(ask(good, odd));
    }
    requests
}

#[test]
fn forbidden_urls_are_refused_and_reach_nothing() {
    let home = Home::new();
    let server = home.serve(&["--egress", "public"]);
    let canary = Canary::new();
    let mut connection = server.door.connect();
    for (odd, status) in refused(&canary) {
        for asked in requests(&server, &odd) {
            let response = connection.ask(&asked);
            let (path, text) = (&asked.path, response.text());
            assert_eq!(response.status, status, "{path} {odd:?}: {text}");
            let start = match status {
                400 => "nothing can be posted to the ",
                _ => "the egress policy forbids the ",
            };
            assert!(text.starts_with(start), "{odd:?}: {text}");
            assert!(odd.is_empty() || !text.contains(&odd), "{text}");
        }
        // Beforehand it is told the same.
        let output = check_url(&["--egress", "public"], &odd);
        let word = String::from_utf8(output.stdout).unwrap();
        let want = if status == 400 {
            "unusable: "
        } else {
            "forbidden: "
        };
        assert!(word.starts_with(want), "{odd:?}: {word}");
        assert_eq!(output.status.code(), Some(1), "{odd:?}");
    }
    assert_eq!(home.rows(), []);
    // What others have stored can be looked at and removed.
    let odd = canary.url("127.1");
    home.store(&odd, exact("t"), Some(&odd));
    server.door.etag(&odd);
    let unsubscribe = server.door.signer.unsubscribe(&url(&odd), &exact("t"));
    assert_eq!(server.door.ask(&unsubscribe).status, 200);
    server.door.set(&odd, &SubscriptionSet::default());
    canary.lives();
}

#[test]
fn forbidden_urls_that_others_stored_reach_nothing_and_are_told_once() {
    let home = Home::new();
    let mut server = home.serve(&["--egress", "public"]);
    let canary = Canary::new();
    for (odd, status) in refused(&canary) {
        if status == 403 {
            home.store(&odd, exact("t"), Some(&odd));
        }
    }
    for _ in 0..2 {
        assert_eq!(server.door.notify("t", MESSAGE), 0);
    }
    assert!(home.rows().iter().all(|row| row.is_owed_a_notice));
    eventually("every notice has failed", || {
        let rows = home.rows();
        let failed = |attempts: Option<u32>| attempts.is_some_and(|it| it > 0);
        rows.iter().all(|row| failed(row.attempts)).then_some(())
    });
    server.process.terminate();
    server.process.end_well();
    let warned = |origin: &str| {
        let log = server.process.log();
        let lines = log.lines();
        lines
            .filter(|line| line.contains("egress policy forbids") && line.contains(origin))
            .count()
    };
    // Many of them are one peer.
    assert_eq!(warned(canary.url("127.0.0.1").trim_end_matches('/')), 1);
    assert_eq!(warned("http://metadata.google.internal:"), 1);
    canary.lives();
}

#[test]
fn redirects_are_not_followed() {
    let home = Home::new();
    let server = home.serve(&[]);
    let canary = Canary::new();
    let subscriber = Subscriber::start(home.signer());
    let location = format!("Location: {}\r\n", canary.url("127.0.0.1"));
    let statuses = [301, 302, 303, 307, 308];
    for status in statuses {
        let (receive, recovery) = (
            subscriber.url(&format!("/{status}")),
            subscriber.recovery(&format!("/{status}")),
        );
        for url in [&receive, &recovery] {
            let location = location.clone();
            subscriber.on(url, move |_| {
                vec![Act::Say(http_answer(status, &location, b""))]
            });
        }
        server.door.subscribe(&receive, exact("t"), Some(&recovery));
    }
    assert_eq!(server.door.notify("t", MESSAGE), 0);
    assert!(home.rows().iter().all(|row| row.is_owed_a_notice));
    for status in statuses {
        let path = format!("/{status}");
        assert_eq!(subscriber.deliveries_to(&subscriber.url(&path)).len(), 1);
        subscriber.await_deliveries(&subscriber.recovery(&path), 1);
    }
    eventually("every notice has failed", || {
        let rows = home.rows();
        let failed = |attempts: Option<u32>| attempts.is_some_and(|it| it > 0);
        rows.iter().all(|row| failed(row.attempts)).then_some(())
    });
    canary.lives();
}

/// A name is harmless as such; what it resolves to when something is posted is not.
#[test]
fn a_name_that_leads_to_a_forbidden_address_reaches_nothing() {
    let home = Home::new();
    let server = home.serve(&["--egress-deny", "127.0.0.0/8", "--egress-deny", "::1"]);
    let canary = Canary::new();
    let name = canary.url("localhost");
    server.door.subscribe(&name, exact("t"), Some(&name));
    assert_eq!(server.door.notify("t", MESSAGE), 0);
    server.process.log_line("by the rule \"deny ");
    eventually("the notice has failed", || {
        let attempts = home.rows()[0].attempts;
        attempts.is_some_and(|it| it > 0).then_some(())
    });
    canary.lives();
}

#[test]
fn what_was_allowed_once_is_forbidden_by_a_stricter_policy_and_back_with_a_laxer_one() {
    let home = Home::new();
    let subscriber = Subscriber::start(home.signer());
    let (receive, recovery) = (subscriber.url("/"), subscriber.recovery("/"));
    let mut lax = home.serve(&[]);
    lax.door.subscribe(&receive, exact("t"), Some(&recovery));
    assert_eq!(lax.door.notify("t", MESSAGE), 1);
    lax.process.terminate();
    lax.process.end_well();

    let mut strict = home.serve(&["--egress", "public"]);
    assert_eq!(strict.door.notify("t", MESSAGE), 0);
    eventually("the notice has failed", || {
        let attempts = home.rows()[0].attempts;
        attempts.is_some_and(|it| it > 0).then_some(())
    });
    strict.process.terminate();
    strict.process.end_well();
    assert_eq!(subscriber.deliveries().len(), 1, "nothing came");

    let lax = home.serve(&["--egress", "public", "--egress-allow", "127.0.0.1"]);
    subscriber.await_deliveries(&recovery, 1);
    assert_eq!(lax.door.notify("t", MESSAGE), 1);
}

#[test]
fn loopback_is_for_broadcasters_on_loopback() {
    let home = Home::new();
    let subscriber = Subscriber::start(home.signer());
    let subscription = Subscription {
        url: url(&subscriber.url("/")),
        interest: exact("t"),
        recovery: None,
    };
    let everywhere = ["--db", "memory", "--listen", "0.0.0.0:0"];
    for (flags, is_allowed) in [
        (vec!["--db", "memory"], true),
        (everywhere.to_vec(), false),
        ([&everywhere[..], &["--egress-loopback"]].concat(), true),
        (
            [&everywhere[..], &["--egress-allow", "127.0.0.0/8"]].concat(),
            true,
        ),
    ] {
        let mut server = home.serve(&flags);
        let port = server.door.address.port();
        server.door.address = SocketAddr::from(([127, 0, 0, 1], port));
        let before = subscriber.deliveries().len();
        let subscribe = server.door.signer.subscribe(&subscription);
        let response = server.door.ask(&subscribe);
        if is_allowed {
            assert_eq!(response.status, 200, "{flags:?}: {}", response.text());
            assert_eq!(server.door.notify("t", MESSAGE), 1, "{flags:?}");
        } else {
            assert_eq!(response.status, 403, "{flags:?}");
            let why = "the egress policy forbids the url: loopback addresses are posted to only \
                       where that is allowed (profile internal)\n";
            assert_eq!(response.text(), why);
            assert_eq!(server.door.notify("t", MESSAGE), 0, "{flags:?}");
        }
        let came = subscriber.deliveries().len() - before;
        assert_eq!(came, usize::from(is_allowed), "{flags:?}");
    }
}

#[test]
fn a_url_can_be_checked_beforehand() {
    for (flags, url, status, says) in [
        (
            &[][..],
            "http://10.0.0.7/hook",
            0,
            "allowed: private addresses are posted to (profile internal)\n",
        ),
        (
            &["--egress", "public"],
            "http://10.0.0.7/hook",
            1,
            "forbidden: private addresses are not posted to (profile public)\n",
        ),
        // Of the rules, the first that matches decides.
        (
            &["--egress-deny", "10.0.0.0/8", "--egress-allow", "10.0.0.7"],
            "http://10.0.0.7/hook",
            1,
            "forbidden: by the rule \"deny 10.0.0.0/8\"\n",
        ),
        (
            &["--egress-allow", "10.0.0.7", "--egress-deny", "10.0.0.0/8"],
            "http://10.0.0.7/hook",
            0,
            "allowed: by the rule \"allow 10.0.0.7/32\"\n",
        ),
        (
            &["--egress-deny", "*.evil.example"],
            "https://hooks.EVIL.example./",
            1,
            "forbidden: by the rule \"deny *.evil.example\"\n",
        ),
        (
            &["--listen", "0.0.0.0:3003"],
            "http://localhost:8080/",
            1,
            "forbidden: loopback addresses are posted to only where that is allowed (profile \
             internal)\n",
        ),
        (
            &[],
            "ftp://10.0.0.7/",
            1,
            "unusable: the scheme is \"ftp\", only http and https are posted to\n",
        ),
    ] {
        let output = check_url(flags, url);
        assert_eq!(String::from_utf8(output.stdout).unwrap(), says, "{flags:?}");
        assert_eq!(output.status.code(), Some(status), "{flags:?}");
    }
    // A name is judged by its addresses.
    let output = check_url(&["--json"], "http://localhost:8080/");
    assert_eq!(output.status.code(), Some(0));
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["verdict"], "allowed");
    let addresses = told["addresses"].as_array().unwrap();
    assert!(!addresses.is_empty());
    for address in addresses {
        assert_eq!(address["verdict"], "allowed");
        let rule = "loopback addresses are posted to (profile internal)";
        assert_eq!(address["rule"], rule);
        let address = address["address"].as_str().unwrap();
        assert!(["127.0.0.1", "::1"].contains(&address), "{address}");
    }
    let deny = ["--egress-deny", "127.0.0.0/8", "--egress-deny", "::1"];
    let output = check_url(&deny, "http://localhost:8080/");
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.starts_with(b"forbidden: by the rule \"deny "));
    // Wrong usage.
    for flags in [["--egress", "some"], ["--egress-allow", "http://host/"]] {
        let output = check_url(&flags, "http://10.0.0.7/");
        assert_eq!(output.status.code(), Some(2), "{flags:?}");
    }
}
