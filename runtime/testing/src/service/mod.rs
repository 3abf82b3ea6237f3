//! Real services for tests: an Apache Kafka broker, Redis servers, an S3-compatible server, and a proxy that
//! spoils the connections to them. They run from the scripts in `deploy/dev`, on free ports, each in a folder of
//! its own, and end with the test process, however that ends.

pub mod kafka;
pub mod proxy;
pub mod redis;
pub mod s3;
pub mod tls;

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::process::{PATIENCE, repository};

/// Whether tests with services were asked to be left out (`PLUMB_TEST_SKIP_SERVICES=1`). A test that returns
/// because of it says so in a line that `make test` counts. Without it, a service that cannot be had is a failure.
///
/// To be called first: `if service::skipped("name of the test") { return }`.
pub fn skipped(test: &str) -> bool {
    let skip = std::env::var_os("PLUMB_TEST_SKIP_SERVICES").is_some_and(|value| value == "1");
    if skip {
        // To the terminal and past the test harness, which shows a passed test's output to nobody.
        let line = format!("skipped: {test} (PLUMB_TEST_SKIP_SERVICES)\n");
        std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).expect("stderr can be written");
        if let Some(path) = std::env::var_os("PLUMB_TEST_SKIPPED") {
            let log = std::fs::OpenOptions::new().create(true).append(true).open(path);
            let mut log = log.expect("the list of skipped tests can be written");
            std::io::Write::write_all(&mut log, line.as_bytes()).expect("the list of skipped tests can be written");
        }
    }
    skip
}

/// A script of `deploy/dev`.
fn script(name: &str) -> PathBuf {
    repository().join("deploy/dev").join(name)
}

/// A port of this machine that nobody uses and that no test process has given away, below those the kernel gives to
/// clients: a service that was killed finds it free again.
pub fn free_port() -> u16 {
    // A lock on a file says that a port is given away, to other test processes too; it ends with this process.
    static GIVEN: Mutex<BTreeMap<u16, File>> = Mutex::new(BTreeMap::new());
    let mut given = GIVEN.lock().expect("no test panics while it holds this");
    let folder = std::env::temp_dir().join("plumb-test-ports");
    std::fs::create_dir_all(&folder).expect("a folder can be made");
    let mut port = 20_000 + (std::process::id() % 10_000) as u16;
    for _ in 0..10_000 {
        port = if port >= 29_999 { 20_000 } else { port + 1 };
        if given.contains_key(&port) {
            continue;
        }
        let file = File::options().create(true).append(true).open(folder.join(port.to_string()));
        let file = file.expect("a file can be made");
        if file.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            given.insert(port, file);
            return port;
        }
    }
    panic!("no free port");
}

/// Asks until `condition` gives something; fails after [`PATIENCE`] with `what`.
#[track_caller]
pub fn eventually<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, what, condition)
}

/// Asks until `condition` gives something; fails after `limit` with `what`.
#[track_caller]
pub fn within<T>(limit: Duration, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        // Between two looks, not instead of one.
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A child process that ends with the test process, even if that is killed.
#[derive(Debug)]
pub struct Guarded {
    child: Child,
    watch: Child,
    /// Closed by the kernel when this process ends, whatever ended it.
    line: Option<ChildStdin>,
}

impl Guarded {
    /// Starts a command; `folder` is removed if the test process ends without dropping this.
    pub fn spawn(command: &mut Command, folder: Option<&Path>) -> Self {
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mut watch = Command::new("sh");
        watch.args(["-c", "cat >/dev/null; kill -9 \"$1\" 2>/dev/null; [ -z \"$2\" ] || rm -rf \"$2\"", "watch"]);
        watch.arg(child.id().to_string()).arg(folder.unwrap_or(Path::new("")));
        // A group of its own: an interrupt at the terminal ends the tests, and it has to see that.
        watch.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let mut watch = watch.spawn().expect("sh starts");
        let line = watch.stdin.take();
        Self { child, watch, line }
    }

    /// The process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().expect("a child can be asked")
    }

    /// Sends a signal such as `STOP`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(status.expect("kill runs").success(), "signal {name} to {}", self.child.id());
    }

    /// SIGTERM, and waits; fails when it does not end within [`PATIENCE`].
    pub fn terminate(&mut self) -> std::process::ExitStatus {
        self.signal("TERM");
        let what = format!("the end of process {} after SIGTERM", self.child.id());
        eventually(&what, || self.ended())
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // The watch first: it must not kill a process that was given the same id. Errors mean that one of the two
        // has ended already, which is what is wanted.
        drop(self.watch.kill());
        drop(self.watch.wait());
        drop(self.line.take());
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A service in a folder of its own that can be killed, stopped, and started again on the same port.
#[derive(Debug)]
struct Server {
    folder: tempfile::TempDir,
    script: &'static str,
    arguments: Vec<String>,
    running: Mutex<Option<Guarded>>,
}

impl Server {
    fn new(script: &'static str, arguments: Vec<String>) -> Self {
        let folder = tempfile::Builder::new().prefix("plumb-service-").tempdir().expect("a folder can be made");
        Self { folder, script, arguments, running: Mutex::new(None) }
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Option<Guarded>> {
        self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Starts the service and waits until `ready` gets a real answer.
    #[track_caller]
    fn start(&self, mut ready: impl FnMut() -> bool) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.folder.path().join("log"));
        let log = log.expect("a log can be written");
        let mut command = Command::new(script(self.script));
        command.arg("run").arg(self.folder.path()).args(&self.arguments).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a handle can be cloned")).stderr(log).process_group(0);
        let mut running = self.running();
        assert!(running.is_none(), "{} runs already", self.script);
        let mut process = Guarded::spawn(&mut command, Some(self.folder.path()));
        eventually(&format!("an answer of {} {:?}", self.script, self.arguments), || {
            let ended = process.ended();
            assert!(ended.is_none(), "{} ended with {ended:?}:\n{}", self.script, self.log());
            ready().then_some(())
        });
        *running = Some(process);
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn kill(&self) {
        drop(self.running().take().unwrap_or_else(|| panic!("{} does not run", self.script)));
    }

    fn terminate(&self) {
        let running = self.running().take();
        running.unwrap_or_else(|| panic!("{} does not run", self.script)).terminate();
    }

    fn signal(&self, name: &str) {
        self.running().as_ref().unwrap_or_else(|| panic!("{} does not run", self.script)).signal(name);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.running().take());
    }
}

/// Runs a future of a client that has its own threads.
fn wait<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::sync::Arc::new(Unpark(std::thread::current())).into();
    let mut context = std::task::Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        if let std::task::Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        std::thread::park();
    }
}
