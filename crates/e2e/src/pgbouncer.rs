//! PgBouncer for tests, in front of a server of theirs.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStderr, Stdio};
use std::thread;

use tempfile::TempDir;

use crate::postgres::{Postgres, as_postgres, free_port};

/// A pooler that keeps sessions, gone when this is dropped.
#[derive(Debug)]
pub struct PgBouncer {
    address: SocketAddr,
    child: Child,
    _folder: TempDir,
}

impl PgBouncer {
    /// In front of `postgres`, which must be of the test's own, with pools of `sessions` each.
    ///
    /// # Panics
    ///
    /// If the program `pgbouncer` is not installed.
    pub fn start(postgres: &Postgres, sessions: usize) -> Self {
        let server = postgres.port().expect("it is a server of our own");
        let folder = tempfile::Builder::new()
            .prefix("httppubsub-pgbouncer-")
            .tempdir()
            .expect("a temporary folder can be made");
        if rustix::process::geteuid().is_root() {
            use std::os::unix::fs::PermissionsExt as _;
            let everybody = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(folder.path(), everybody).expect("it is our own");
        }
        for _ in 0..STARTS_MAX {
            let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
            let config = folder.path().join("pgbouncer.ini");
            let settings = format!(
                "[databases]\n\
                 * = host=127.0.0.1 port={server} user=postgres\n\
                 [pgbouncer]\n\
                 listen_addr = 127.0.0.1\n\
                 listen_port = {}\n\
                 unix_socket_dir =\n\
                 auth_type = any\n\
                 pool_mode = session\n\
                 default_pool_size = {sessions}\n",
                address.port()
            );
            std::fs::write(&config, settings).expect("the test's own folder can be written");
            let mut command = as_postgres("pgbouncer");
            command.arg(&config).stdin(Stdio::null());
            command.stdout(Stdio::null()).stderr(Stdio::piped());
            let mut child = command.spawn().expect("setpriv can be started");
            let log = child.stderr.take().expect("it is piped");
            if listens(log, address) {
                return Self {
                    address,
                    child,
                    _folder: folder,
                };
            }
            // Another has taken the port meanwhile.
            let _ = child.kill();
            let _ = child.wait();
        }
        panic!(
            "pgbouncer did not listen, at {STARTS_MAX} ports: is it installed (Debian, Ubuntu: the \
             package pgbouncer)?"
        );
    }

    /// The way through it to the database at `url` of its server.
    pub fn url(&self, url: &str) -> String {
        let database = url.rsplit('/').next().unwrap_or_default();
        format!("postgres://postgres@{}/{database}", self.address)
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts, each with another port. Only a port that was taken meanwhile needs a second.
const STARTS_MAX: usize = 10;

/// Waits until pgbouncer says that it listens at `address`, which a stranger there could not say
/// for it; `false` if it ends before. What it says later is read and thrown away.
fn listens(log: ChildStderr, address: SocketAddr) -> bool {
    let wanted = format!("listening on {address}");
    let mut lines = BufReader::new(log).lines().map_while(Result::ok);
    let listens = lines.any(|line| line.contains(&wanted));
    thread::spawn(move || lines.for_each(drop));
    listens
}
