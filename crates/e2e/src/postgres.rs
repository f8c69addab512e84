//! PostgreSQL for tests: the server that `HTTPPUBSUB_TEST_POSTGRES` names, or one of their own.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Names the server to be used, as the url of a database in which others can be made.
const VARIABLE: &str = "HTTPPUBSUB_TEST_POSTGRES";

/// A server, in which each test has a database of its own.
#[derive(Debug)]
pub struct Postgres {
    /// Up to the name of the database.
    base: String,
    own: Option<Own>,
}

/// A server in a temporary folder, gone when this is dropped.
#[derive(Debug)]
struct Own {
    folder: TempDir,
    port: u16,
    settings: Vec<String>,
    server: Mutex<Child>,
}

impl Postgres {
    /// The server that all tests of this process share.
    ///
    /// # Panics
    ///
    /// If none is named and none can be started.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(|| match std::env::var(VARIABLE) {
            Ok(url) => Self {
                base: base_of(&url).to_owned(),
                own: None,
            },
            // It keeps what processes that are killed have left anyway; the disk may lose power.
            Err(_) => Self::own(&["fsync=off"]),
        })
    }

    /// [`Postgres::own`], for tests that do to it what one may not do to another's; `None`, with a
    /// word about it, where a server is named and there are no programs to start another.
    pub fn own_if_possible(settings: &[&str]) -> Option<Self> {
        if std::env::var_os(VARIABLE).is_some() && !Path::new(&program("initdb")).exists() {
            eprintln!("left out: this needs a PostgreSQL of its own, and none is installed here");
            return None;
        }
        Some(Self::own(settings))
    }

    /// A server of one's own, with these settings, such as `fsync=off`.
    pub fn own(settings: &[&str]) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("httppubsub-postgres-")
            .tempdir()
            .expect("a temporary folder can be made");
        let data = folder.path().join("data");
        std::fs::create_dir(&data).expect("the test's own folder can be written");
        if rustix::process::geteuid().is_root() {
            let everybody = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(folder.path(), everybody).expect("it is our own");
            run(Command::new("chown").arg("postgres").arg(&data));
        }
        run(as_postgres("initdb").arg("-D").arg(&data).args([
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
        ]));
        // Namespaces of the same machine.
        let rules = data.join("pg_hba.conf");
        let mut text = std::fs::read_to_string(&rules).expect("initdb has written it");
        text += "host all all 10.0.0.0/8 trust\n";
        std::fs::write(&rules, text).expect("it is our own");
        let port = free_port();
        let settings: Vec<_> = settings.iter().map(|it| (*it).to_owned()).collect();
        let server = Mutex::new(start(&data, port, &settings));
        let mut own = Own {
            folder,
            port,
            settings,
            server,
        };
        // Another may have taken the port meanwhile, but not time and again.
        let mut starts = 1;
        while !own.becomes_ready() {
            starts += 1;
            assert!(
                starts <= STARTS_MAX,
                "PostgreSQL ended {STARTS_MAX} times: HTTPPUBSUB_TEST_LOG=1 shows what it says"
            );
            own.port = free_port();
            let server = start(&data, own.port, &own.settings);
            *own.server.get_mut().unwrap_or_else(PoisonError::into_inner) = server;
        }
        let port = own.port;
        Self {
            base: format!("postgres://postgres@127.0.0.1:{port}"),
            own: Some(own),
        }
    }

    /// The same, that shows this certificate to who wants TLS; both in PEM.
    pub fn own_with_tls(certificate: &str, key: &str) -> Self {
        let files = tempfile::Builder::new()
            .prefix("httppubsub-postgres-tls-")
            .tempdir()
            .expect("a temporary folder can be made");
        let files = files.keep();
        for (name, text) in [("server.crt", certificate), ("server.key", key)] {
            let path = files.join(name);
            std::fs::write(&path, text).expect("the test's own folder can be written");
            let mode = std::fs::Permissions::from_mode(0o600);
            std::fs::set_permissions(&path, mode).expect("it is our own");
        }
        if rustix::process::geteuid().is_root() {
            run(Command::new("chown").args(["-R", "postgres"]).arg(&files));
        }
        let file = |name: &str| files.join(name).display().to_string();
        let server = Self::own(&[
            "fsync=off",
            "ssl=on",
            &format!("ssl_cert_file={}", file("server.crt")),
            &format!("ssl_key_file={}", file("server.key")),
        ]);
        std::fs::remove_dir_all(&files).expect("it is our own");
        server
    }

    /// Where it listens, if it is of our own.
    pub fn port(&self) -> Option<u16> {
        self.own.as_ref().map(|own| own.port)
    }

    /// A new and empty database.
    pub async fn database(&self) -> String {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("httppubsub_test_{}_{number}", std::process::id());
        let client = self.client("postgres").await;
        client
            .batch_execute(&format!("CREATE DATABASE {name}"))
            .await
            .expect("a database can be made");
        format!("{}/{name}", self.base)
    }

    /// A connection of one's own to the database at `url`.
    pub async fn connect(url: &str) -> tokio_postgres::Client {
        let connected = tokio_postgres::connect(url, tokio_postgres::NoTls).await;
        let (client, connection) = connected.unwrap_or_else(|error| panic!("{url}: {error}"));
        tokio::spawn(connection);
        client
    }

    async fn client(&self, database: &str) -> tokio_postgres::Client {
        Self::connect(&format!("{}/{database}", self.base)).await
    }

    /// Stops at once, as `pg_ctl restart -m immediate` does, and starts again.
    pub fn restart(&self) {
        self.stop();
        self.start();
    }

    /// Stops at once, as `pg_ctl stop -m immediate` does.
    pub fn stop(&self) {
        let own = self.own.as_ref().expect("it is a server of our own");
        let mut server = own.server.lock().unwrap_or_else(PoisonError::into_inner);
        let pid = rustix::process::Pid::from_child(&server);
        rustix::process::kill_process(pid, rustix::process::Signal::QUIT).expect("it runs");
        server.wait().expect("it is our child");
    }

    /// Starts after a stop; returns when it answers.
    pub fn start(&self) {
        let own = self.own.as_ref().expect("it is a server of our own");
        let data = own.folder.path().join("data");
        let server = start(&data, own.port, &own.settings);
        *own.server.lock().unwrap_or_else(PoisonError::into_inner) = server;
        assert!(own.becomes_ready(), "PostgreSQL ended at once");
    }
}

/// Starts of one server, each with another port. Only a port that was taken meanwhile needs a
/// second.
const STARTS_MAX: usize = 10;

pub(crate) fn free_port() -> u16 {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    free.local_addr().expect("it is bound").port()
}

impl Own {
    /// Waits until it answers. `false` if it has ended before.
    fn becomes_ready(&self) -> bool {
        let port = self.port.to_string();
        let began = Instant::now();
        loop {
            let mut ready = Command::new(program("pg_isready"));
            ready.args(["-q", "-h", "127.0.0.1", "-p", &port]);
            let answers = ready.status().is_ok_and(|status| status.success());
            let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
            if server.try_wait().is_ok_and(|ended| ended.is_some()) {
                return false;
            }
            // At a port that ours did not get the server of another test may answer.
            let pid = server.id();
            drop(server);
            if answers && self.says_it_is_ready(pid) {
                return true;
            }
            assert!(
                began.elapsed() < Duration::from_secs(120),
                "PostgreSQL does not answer"
            );
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Own {
    /// `true` if the server that has this `pid` has written into its folder that it takes
    /// connections.
    fn says_it_is_ready(&self, pid: u32) -> bool {
        let file = self.folder.path().join("data").join("postmaster.pid");
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let is_own = text.lines().next() == Some(&pid.to_string());
        is_own && text.lines().nth(7).map(str::trim) == Some("ready")
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        let pid = rustix::process::Pid::from_child(&server);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
        let _ = server.wait();
    }
}

/// Starts the server; it ends with this process, however that ends.
fn start(data: &Path, port: u16, settings: &[String]) -> Child {
    let mut command = as_postgres("postgres");
    command.arg("-D").arg(data).args([
        "-c",
        "listen_addresses=127.0.0.1",
        "-c",
        "unix_socket_directories=",
        "-c",
        &format!("port={port}"),
    ]);
    for setting in settings {
        command.args(["-c", setting]);
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let (sender, started) = mpsc::channel();
    // The kernel looks at the thread that started it, so that one lives for ever.
    thread::spawn(move || {
        let mut child = command.spawn().expect("postgres can be started");
        let log = child.stderr.take().expect("it is piped");
        sender.send(child).expect("somebody waits");
        // Until it ends; what it says is of use when it does not start.
        for line in BufReader::new(log).lines().map_while(Result::ok) {
            if line.contains("FATAL") && std::env::var_os("HTTPPUBSUB_TEST_LOG").is_some() {
                eprintln!("postgres: {line}");
            }
        }
        loop {
            thread::park();
        }
    });
    started.recv().expect("it is started")
}

/// A program of PostgreSQL that is not run by root, which it refuses.
pub(crate) fn as_postgres(name: &str) -> Command {
    let program = program(name);
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "QUIT"]);
    if rustix::process::geteuid().is_root() {
        command.args([
            "--reuid",
            "postgres",
            "--regid",
            "postgres",
            "--clear-groups",
        ]);
    }
    command.arg(program).current_dir("/");
    command
}

/// Debian keeps the programs of each version in a folder of their own.
fn program(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten();
    let mut folders: Vec<_> = versions
        .filter_map(|version| Some(version.ok()?.path().join("bin").join(name)))
        // Who is not root may not have it in its path.
        .chain([Path::new("/usr/sbin").join(name)])
        .filter(|path| path.exists())
        .collect();
    folders.sort();
    folders.pop().unwrap_or_else(|| name.into())
}

fn run(command: &mut Command) {
    let done = command.output();
    match done {
        Ok(done) if done.status.success() => {}
        Ok(done) => panic!("{command:?}: {}", String::from_utf8_lossy(&done.stderr)),
        Err(error) => panic!(
            "{command:?}: {error}: install PostgreSQL 15 or newer (Debian, Ubuntu: `apt-get \
             install \
             postgresql`), or name a server in {VARIABLE}, such as postgres://user@host/postgres"
        ),
    }
}

fn base_of(url: &str) -> &str {
    let after_scheme = url.find("://").map_or(0, |at| at + 3);
    match url[after_scheme..].find('/') {
        Some(at) => &url[..after_scheme + at],
        None => url,
    }
}
