//! The real servers: each test starts its own, on loopback ports below the kernel's ephemeral range.

use std::env;
use std::fmt;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::support::certs::Certs;
use crate::support::files::tree;
use crate::support::process::Running;
use crate::support::wait::{PATIENCE, within};

/// A server process that can be killed and started again on the same port.
pub struct Server {
    addr: SocketAddr,
    dir: PathBuf,
    command: Box<dyn Fn() -> Command + Send + Sync>,
    running: Option<Running>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("addr", &self.addr)
            .field("running", &self.running)
            .finish_non_exhaustive()
    }
}

impl Server {
    fn start(dir: &Path, command: impl Fn(SocketAddr) -> Command + Send + Sync + 'static) -> Self {
        let addr = free_port();
        let command = Box::new(move || command(addr));
        let mut server = Self { addr, dir: dir.to_owned(), command, running: None };
        server.run();
        server
    }

    /// `@tus/server` with a file store in `dir`; takes uploads at `/files/`.
    pub fn tus_node(dir: &Path) -> Self {
        let (program, modules) = (installed("bin/node"), installed("node"));
        fs::create_dir_all(dir).expect("the store of the tus server");
        let store = dir.to_owned();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/servers/tus-node.mjs");
        Self::start(dir, move |addr| {
            let mut command = Command::new(&program);
            command.arg(&script).arg(&modules).arg(&store).arg(addr.port().to_string());
            command
        })
    }

    /// `resumable-upload`, in Python, with its store in `dir`; takes uploads at `/files`, gives them back there.
    pub fn tus_python(dir: &Path) -> Self {
        let program = installed("venv").join("bin/resumable-upload");
        fs::create_dir_all(dir).expect("the store of the tus server");
        let store = dir.to_owned();
        Self::start(dir, move |addr| {
            let mut command = Command::new(&program);
            command.args([
                "serve",
                "--host",
                "127.0.0.1",
                "--enable-downloads",
                "--log-level",
                "WARNING",
                "--port",
            ]);
            command.arg(addr.port().to_string()).arg("--upload-dir").arg(&store);
            command.arg("--db-path").arg(store.join("uploads.db"));
            command
        })
    }

    /// `haul serve`, with options; takes uploads at `/files/`, gives finished files as `/files/NAME`.
    pub fn haul(dir: &Path, options: &[&str]) -> Self {
        fs::create_dir_all(dir).expect("the directory to serve");
        let (store, options) = (dir.to_owned(), options.iter().map(|&o| o.to_owned()).collect::<Vec<_>>());
        Self::start(dir, move |addr| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_haul"));
            command.env_remove("HAUL_SESSION").env("HOME", &store);
            command.arg("serve").arg(&store).arg("--listen").arg(addr.to_string()).args(&options);
            command
        })
    }

    /// A receiver of forms in `dir`; takes them at any path. See [`forms_taken`].
    pub fn form_node(dir: &Path) -> Self {
        let (program, modules) = (installed("bin/node"), installed("node"));
        fs::create_dir_all(dir).expect("the store of the form server");
        let store = dir.to_owned();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/servers/form-node.mjs");
        Self::start(dir, move |addr| {
            let mut command = Command::new(&program);
            command.arg(&script).arg(&modules).arg(&store).arg(addr.port().to_string());
            command
        })
    }

    /// nginx that stores what is PUT below `dir`.
    pub fn nginx_dav(dir: &Path) -> Self {
        Self::nginx(dir, "dav_methods PUT; create_full_put_path on; client_max_body_size 0;")
    }

    /// nginx that serves `dir` at `/` over TLS on a port of its own, with further directives; gives its address too.
    pub fn nginx_tls(dir: &Path, certs: &Certs, directives: &str) -> (Self, SocketAddr) {
        let addr = free_port();
        let (cert, key) = (certs.path("server.pem"), certs.path("server.key"));
        let directives = format!(
            "listen {addr} ssl; ssl_certificate {}; ssl_certificate_key {}; {directives}",
            cert.display(),
            key.display()
        );
        (Self::nginx(dir, &directives), addr)
    }

    /// nginx serving `dir` at `/`, with further directives for the server block.
    pub fn nginx(dir: &Path, directives: &str) -> Self {
        fs::create_dir_all(dir).expect("the root of nginx");
        let (root, directives) = (dir.to_owned(), directives.to_owned());
        let program = installed("bin/nginx");
        let home = tempfile::tempdir().expect("a directory for nginx");
        Self::start(dir, move |addr| {
            let own = home.path();
            let conf = own.join("nginx.conf");
            fs::write(&conf, nginx_conf(addr, &root, own, &directives)).expect("write nginx.conf");
            let mut command = Command::new(&program);
            command.arg("-p").arg(own).arg("-c").arg(&conf).args(["-e", "stderr"]);
            command
        })
    }

    fn run(&mut self) {
        let mut running = Running::spawn((self.command)());
        let up = within(PATIENCE, Duration::from_millis(5), || {
            if let Some(status) = running.ended() {
                panic!("a server ended at its start ({status}): {}\n{}", running.stdout(), running.stderr());
            }
            TcpStream::connect(self.addr).ok()
        });
        assert!(up.is_some(), "a server does not listen: {}\n{}", running.stdout(), running.stderr());
        self.running = Some(running);
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// SIGKILL; the store stays.
    pub fn kill(&mut self) {
        if let Some(running) = self.running.take() {
            running.kill();
        }
    }

    /// Starts it again, on the same port and store.
    pub fn restart(&mut self) {
        self.kill();
        self.run();
    }

    /// The files of objects, finished or not: what the store holds without its own books.
    pub fn objects(&self) -> Vec<PathBuf> {
        let own = |path: &Path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.ends_with(".json") || name.starts_with("uploads.db")
        };
        tree(&self.dir).into_iter().filter(|path| !own(path)).map(|path| self.dir.join(path)).collect()
    }

    /// Objects that have exactly `size` bytes.
    pub fn objects_of(&self, size: u64) -> Vec<PathBuf> {
        let mut objects = self.objects();
        objects.retain(|path| fs::metadata(path).is_ok_and(|m| m.len() == size));
        objects
    }

    /// The one object of `size` bytes; panics if there is none, or a second.
    #[track_caller]
    pub fn only_object(&self, size: u64) -> PathBuf {
        let mut found = self.objects_of(size);
        assert_eq!(found.len(), 1, "complete objects of {size} bytes: {found:?} among {:?}", self.objects());
        found.remove(0)
    }

    /// Bytes in the store, over all objects.
    pub fn stored(&self) -> u64 {
        self.objects().iter().filter_map(|path| fs::metadata(path).ok()).map(|m| m.len()).sum()
    }

    /// Empties the store.
    pub fn lose_everything(&mut self) {
        self.kill();
        fs::remove_dir_all(&self.dir).expect("empty the store");
        fs::create_dir_all(&self.dir).expect("a new store");
        self.run();
    }
}

fn nginx_conf(addr: SocketAddr, root: &Path, own: &Path, directives: &str) -> String {
    // As root, nginx would read the files as another user.
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    let (root, own) = (root.display(), own.display());
    format!(
        "daemon off; master_process off; {user} error_log stderr warn; pid {own}/pid;
        events {{ worker_connections 256; }}
        http {{
            access_log off; sendfile on; default_type application/octet-stream;
            client_body_temp_path {own}/body; proxy_temp_path {own}/proxy; fastcgi_temp_path {own}/fastcgi;
            limit_conn_zone $binary_remote_addr zone=client:1m; limit_conn_status 503;
            large_client_header_buffers 4 32k; uwsgi_temp_path {own}/uwsgi; scgi_temp_path {own}/scgi;
            server {{ listen {addr}; root \"{root}\"; {directives} }}
        }}"
    )
}

/// The forms that a form server has taken whole, in order: its record of each.
pub fn forms_taken(dir: &Path) -> Vec<Value> {
    records(&dir.join("taken.json"))
}

/// The POSTs that a form server has had, whole or not: their heads.
pub fn forms_begun(dir: &Path) -> Vec<Value> {
    records(&dir.join("begun.json"))
}

fn records(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("a record of the form server")).collect()
}

/// Where `tests/run` has put a server.
fn installed(part: &str) -> PathBuf {
    let base = env::var_os("HAUL_TEST_SERVERS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/test-servers"), PathBuf::from);
    let path = base.join(part);
    assert!(path.exists(), "{} is missing: tests/run installs the test servers", path.display());
    path.canonicalize().expect("the path of an installed server")
}

/// A loopback port that no test of this run has had and nobody listens on.
pub fn free_port() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 18_000;
    const COUNT: u16 = 12_000;
    let start = u16::try_from(std::process::id() % u32::from(COUNT)).expect("below COUNT");
    for _ in 0..COUNT {
        let port = FIRST + (start + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT) % COUNT;
        let addr = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(addr).is_ok() {
            return addr;
        }
    }
    panic!("no free port from {FIRST} on");
}

/// Writes a secret that only its owner may read.
pub fn write_secret(path: &Path, text: &str) {
    use std::io::Write;
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).expect("create a secret");
    file.write_all(text.as_bytes()).expect("write a secret");
}
