//! The real `plumb` binary as a child process, and a small HTTP client to ask it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use crate::service::Guarded;

/// How long anything may take before the test fails instead of hanging.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The folder of build outputs: where the running test binary lies, two levels up.
pub fn release_dir() -> PathBuf {
    let own = std::env::current_exe().expect("a test has a path");
    own.parent().and_then(Path::parent).expect("a test lies in <target>/release/deps").to_owned()
}

/// The `plumb` binary, another one than that of `make build` where `PLUMB_TEST_BINARY` names one; fails with the reason
/// when it is not there.
pub fn plumb() -> PathBuf {
    let path = std::env::var_os("PLUMB_TEST_BINARY").map_or_else(|| release_dir().join("plumb"), PathBuf::from);
    assert!(path.exists(), "{} is missing: run `make build` first, or mend PLUMB_TEST_BINARY", path.display());
    path
}

/// The repository's root.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository exists")
}

/// A shipped component; fails with the reason when it is not built.
pub fn component(view: &str) -> PathBuf {
    let path = repository().join(format!("target/plumb/{view}.wasm"));
    assert!(path.exists(), "{} is missing: run `make build` first", path.display());
    path
}

/// Runs `plumb` with arguments in a folder.
pub fn run<S: AsRef<std::ffi::OsStr>>(folder: &Path, arguments: impl IntoIterator<Item = S>) -> Output {
    Command::new(plumb()).args(arguments).current_dir(folder).output().expect("plumb starts")
}

/// Runs `plumb` and demands exit 0; gives its stdout.
pub fn run_ok<S: AsRef<std::ffi::OsStr>>(folder: &Path, arguments: impl IntoIterator<Item = S>) -> String {
    let output = run(folder, arguments);
    assert!(
        output.status.success(),
        "exit {:?}\n{}{}",
        output.status.code(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text")
}

/// Runs `plumb` with arguments in a folder, with a SIGKILL at the n-th `call` that one of its threads makes; whether it
/// was killed before it ended.
pub fn killed_at<S: AsRef<std::ffi::OsStr>>(
    folder: &Path,
    call: &str,
    n: usize,
    arguments: impl IntoIterator<Item = S>,
) -> bool {
    let status = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")])
        .args(["-e", &format!("inject={call}:signal=KILL:when={n}")])
        .arg(plumb())
        .args(arguments)
        .current_dir(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("strace is there (scripts/setup-tests.sh installs it)");
    assert!(status.success() || status.signal() == Some(9), "{call} number {n}: neither ended nor killed: {status}");
    !status.success()
}

/// Settings of an embedded service in a folder of its own, on free ports.
pub fn settings(folder: &Path, partitions: u32, extra: &str) -> PathBuf {
    let components = repository().join("target/plumb");
    let text = format!(
        "data_dir = \"{0}/data\"\n[source]\nkind = \"log\"\npartitions = {partitions}\n[transforms]\npaths = [\"{1}/user_activity.wasm\", \"{1}/item_activity.wasm\"]\n\
         [serve]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\nmetrics_listen = \"127.0.0.1:0\"\n{extra}",
        folder.display(),
        components.display()
    );
    let path = folder.join("plumb.toml");
    std::fs::write(&path, text).expect("settings can be written");
    path
}

/// A `plumb` that keeps running; killed when dropped, and when the test process ends.
#[derive(Debug)]
pub struct Service {
    process: Guarded,
    data_dir: PathBuf,
}

impl Service {
    /// Starts `plumb` with arguments in a folder whose data folder is `data`.
    pub fn start<S: AsRef<std::ffi::OsStr>>(folder: &Path, arguments: impl IntoIterator<Item = S>) -> Self {
        Self::start_as(Command::new(plumb()).args(arguments), folder)
    }

    /// Starts a command that becomes `plumb` (`strace … plumb …`) in a folder whose data folder is `data`.
    pub fn start_as(command: &mut Command, folder: &Path) -> Self {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(folder.join("service.log"))
            .expect("the log can be written");
        command
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a handle can be cloned"))
            .stderr(log);
        Self { process: Guarded::spawn(command, None), data_dir: folder.join("data") }
    }

    /// Waits until the service is ready; gives its address.
    pub fn ready(&mut self) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.ended() {
                panic!("the service ended with {status}:\n{}", self.log());
            }
            if let Some(address) = self.address("listen")
                && matches!(request(&address, "GET", "/ready", b""), Ok((200, _)))
            {
                return address;
            }
            assert!(Instant::now() < end, "the service did not become ready in {PATIENCE:?}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// An address out of the data folder's `owner` file, if this process wrote it.
    pub fn address(&self, field: &str) -> Option<String> {
        let owner: serde_json::Value =
            serde_json::from_slice(&std::fs::read(self.data_dir.join("owner")).ok()?).ok()?;
        (owner["pid"].as_u64() == Some(u64::from(self.process.id())))
            .then(|| owner[field].as_str().map(str::to_owned))
            .flatten()
    }

    /// What it and those before it in this folder have printed.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.data_dir.with_file_name("service.log")).unwrap_or_default()
    }

    /// The id of the process.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Whether it has ended by itself, and how.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.ended()
    }

    /// Sends a signal such as `STOP`.
    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// kill -9.
    pub fn kill(self) {
        drop(self.process);
    }

    /// SIGTERM, and waits; gives the exit code.
    pub fn terminate(mut self) -> Option<i32> {
        self.stop()
    }

    /// SIGTERM, and waits; gives the exit code.
    pub fn stop(&mut self) -> Option<i32> {
        self.process.terminate().code()
    }
}

/// One HTTP/1.1 request with `connection: close`; status and body.
pub fn request(address: &str, method: &str, path: &str, body: &[u8]) -> std::io::Result<(u16, String)> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    write!(
        socket,
        "{method} {path} HTTP/1.1\r\nhost: plumb\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )?;
    socket.write_all(body)?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer)?;
    let text = String::from_utf8_lossy(&answer);
    let bad = || std::io::Error::other(format!("no HTTP answer: {text}"));
    let status = text.get(9..12).and_then(|code| code.parse().ok()).ok_or_else(bad)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(bad)?;
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return Ok((status, unchunk(body)));
    }
    Ok((status, body.to_owned()))
}

fn unchunk(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        if size == 0 {
            break;
        }
        whole.push_str(&rest[..size]);
        body = rest[size..].trim_start_matches("\r\n");
    }
    whole
}

/// POSTs JSON and demands 200; gives the answer.
pub fn post(address: &str, path: &str, body: &serde_json::Value) -> serde_json::Value {
    let (status, text) = request(address, "POST", path, body.to_string().as_bytes()).expect("the service answers");
    assert_eq!(status, 200, "{path}: {text}");
    serde_json::from_str(&text).expect("JSON")
}
