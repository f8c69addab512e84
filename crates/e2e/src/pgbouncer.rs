//! PgBouncer for tests, in front of a server of theirs.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Stdio};

use tempfile::TempDir;

use crate::patience::eventually;
use crate::postgres::{Postgres, as_postgres};

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
        let free = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = free.local_addr().expect("it is bound");
        drop(free);
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
        if rustix::process::geteuid().is_root() {
            use std::os::unix::fs::PermissionsExt as _;
            let everybody = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(folder.path(), everybody).expect("it is our own");
        }
        let mut command = as_postgres("pgbouncer");
        command.arg(&config).stdin(Stdio::null());
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child =
            child.expect("pgbouncer can be started (Debian, Ubuntu: the package pgbouncer)");
        eventually("pgbouncer listens", || TcpStream::connect(address).ok());
        Self {
            address,
            child,
            _folder: folder,
        }
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
