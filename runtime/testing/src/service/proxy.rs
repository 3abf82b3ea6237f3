//! A TCP proxy that spoils connections on command and counts what it has done.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::free_port;

/// What happens to connections from now on, open ones too.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Fault {
    /// Everything passes.
    #[default]
    None,
    /// Each piece of data waits so long, in both directions.
    Latency(Duration),
    /// Bytes go at most so fast, per second and direction.
    Throttle(u64),
    /// A connection ends after so many more bytes to the server: a request that is cut.
    CutToServer(u64),
    /// A connection ends after so many more bytes to the client: 0 = it is done, and nobody is told.
    CutToClient(u64),
    /// Connections are reset, new ones at once.
    Reset,
    /// Connections are accepted and stay open, and nothing passes until the fault changes.
    BlackHole,
    /// Connections that are open now stay so and pass nothing any more, whatever comes after this; new ones are as
    /// always. A firewall that has forgotten them does that.
    Forgotten,
    /// The server's side is closed, the client's stays open and silent, as when a machine has gone.
    HalfOpen,
    /// An HTTP request is answered with this status, the server never sees it.
    Status(u16),
}

/// What a proxy has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Connections accepted.
    pub connections: u64,
    /// Bytes passed on, both directions.
    pub bytes: u64,
    /// How often a fault met somebody: a piece of data delayed or swallowed, a connection cut or reset, a request
    /// answered in the server's place.
    pub hits: u64,
}

/// A proxy in threads of this process; ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    upstream: Mutex<String>,
    fault: Mutex<(u64, Fault)>,
    connections: AtomicU64,
    bytes: AtomicU64,
    hits: AtomicU64,
    ended: AtomicBool,
}

/// How often a connection looks whether the fault has changed.
const LOOK: Duration = Duration::from_millis(20);

impl Proxy {
    /// Listens on a free port and passes everything to `upstream`, which need not be there yet.
    pub fn start(upstream: impl Into<String>) -> Self {
        let port = free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
        let shared = Arc::new(Shared {
            upstream: Mutex::new(upstream.into()),
            fault: Mutex::default(),
            connections: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        });
        let own = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if own.ended.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(client) = client else { continue };
                own.connections.fetch_add(1, Ordering::Relaxed);
                let own = Arc::clone(&own);
                std::thread::spawn(move || own.serve(client));
            }
        });
        Self { port, shared }
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Passes new connections to another server, as an address does that moves to a promoted replica. Open ones
    /// stay where they are.
    pub fn set_upstream(&self, upstream: impl Into<String>) {
        *self.shared.upstream() = upstream.into();
    }

    /// From now on this happens.
    pub fn set(&self, fault: Fault) {
        let mut now = self.shared.lock();
        *now = (now.0 + 1, fault);
    }

    /// What it has done so far.
    pub fn counts(&self) -> Counts {
        Counts {
            connections: self.shared.connections.load(Ordering::Relaxed),
            bytes: self.shared.bytes.load(Ordering::Relaxed),
            hits: self.shared.hits.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        // Wakes the listener; an error means that it does not listen any more.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
    }
}

/// Which way data go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    ToServer,
    ToClient,
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, (u64, Fault)> {
        self.fault.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn upstream(&self) -> std::sync::MutexGuard<'_, String> {
        self.upstream.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn hit(&self) {
        self.hits.fetch_add(1, Ordering::Relaxed);
    }

    /// The number of the fault that holds now, and the fault.
    fn now(&self) -> (u64, Fault) {
        self.lock().clone()
    }

    fn serve(self: Arc<Self>, client: TcpStream) {
        // A connection of a hung machine is accepted by nobody but its kernel.
        let (mut number, mut fault) = self.now();
        loop {
            match fault {
                Fault::Reset => {
                    self.hit();
                    return reset(&client);
                }
                Fault::Status(status) => {
                    self.hit();
                    return answer(client, status);
                }
                Fault::BlackHole | Fault::HalfOpen => {
                    self.hit();
                    let before = number;
                    while number == before && !self.ended.load(Ordering::Relaxed) {
                        std::thread::sleep(LOOK);
                        (number, fault) = self.now();
                    }
                    if self.ended.load(Ordering::Relaxed) {
                        return;
                    }
                }
                _ => break,
            }
        }
        let upstream = self.upstream().clone();
        let upstream: Option<SocketAddr> = upstream.to_socket_addrs().ok().and_then(|mut found| found.next());
        let Some(Ok(server)) = upstream.map(|address| TcpStream::connect_timeout(&address, Duration::from_secs(5)))
        else {
            return reset(&client);
        };
        for socket in [&client, &server] {
            let set = socket.set_nodelay(true).and_then(|()| socket.set_read_timeout(Some(LOOK)));
            if set.is_err() {
                return;
            }
        }
        let (Ok(client_too), Ok(server_too)) = (client.try_clone(), server.try_clone()) else { return };
        let own = Arc::clone(&self);
        let back = std::thread::spawn(move || own.pass(server_too, client_too, Way::ToClient, number));
        self.pass(client, server, Way::ToServer, number);
        // It has ended as this one has, or will when it looks.
        drop(back.join());
    }

    /// Passes data one way until a side ends or a fault ends it. `born` is the number of the fault that held when the
    /// connection was made.
    fn pass(&self, mut from: TcpStream, mut to: TcpStream, way: Way, born: u64) {
        let mut buffer = vec![0; 64 << 10];
        // What was read and not passed on yet, and whether a fault that holds it was counted.
        let (mut read, mut counted) = (0, false);
        let (mut seen, mut fault) = self.now();
        let mut left = allowance(&fault, way);
        loop {
            let (number, current) = self.now();
            if number != seen {
                (seen, fault) = (number, current);
                left = allowance(&fault, way);
            }
            if self.ended.load(Ordering::Relaxed) {
                return close(&from, &to);
            }
            match &fault {
                Fault::Reset => {
                    self.hit();
                    reset(&from);
                    return reset(&to);
                }
                // Both ends of the pair stay as they are until the fault changes; nothing of a stream is lost that goes
                // on.
                Fault::BlackHole => {
                    if read > 0 && !std::mem::replace(&mut counted, true) {
                        self.hit();
                    }
                    std::thread::sleep(LOOK);
                    continue;
                }
                Fault::Forgotten if born != seen => {
                    self.hit();
                    return self.forget(from, &mut buffer);
                }
                Fault::HalfOpen => {
                    let server = if way == Way::ToServer { &to } else { &from };
                    // An error means that the other direction has closed it.
                    drop(server.shutdown(Shutdown::Both));
                    self.hit();
                    // A client's side that was told nothing; what it sends comes to nobody.
                    let client = if way == Way::ToServer { from } else { to };
                    while self.now().0 == seen && !self.ended.load(Ordering::Relaxed) {
                        std::thread::sleep(LOOK);
                    }
                    return reset(&client);
                }
                _ => {}
            }
            if read == 0 {
                match from.read(&mut buffer) {
                    // The other direction may have closed the server's side for a fault that this one has yet to see.
                    Ok(0) if self.now().0 != seen => {}
                    Ok(0) => {
                        // An error means that it has gone already.
                        drop(to.shutdown(Shutdown::Write));
                        return;
                    }
                    // Looked at once more: the fault may have come while this waited for data.
                    Ok(size) => (read, counted) = (size, false),
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                    Err(_) if self.now().0 != seen => {}
                    Err(_) => return close(&from, &to),
                }
                continue;
            }
            match &fault {
                Fault::Latency(delay) => {
                    self.hit();
                    std::thread::sleep(*delay);
                }
                Fault::Throttle(rate) => {
                    self.hit();
                    std::thread::sleep(Duration::from_secs_f64(read as f64 / *rate as f64));
                }
                _ => {}
            }
            let mut piece = &buffer[..read];
            let cut = left.is_some_and(|left| read as u64 > left);
            if let (true, Some(left)) = (cut, left) {
                piece = &piece[..left as usize];
            }
            if to.write_all(piece).is_err() {
                return close(&from, &to);
            }
            self.bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
            left = left.map(|left| left.saturating_sub(read as u64));
            if cut {
                self.hit();
                return close(&from, &to);
            }
            read = 0;
        }
    }

    /// Takes what a side sends to nobody, until that side gives up.
    fn forget(&self, mut from: TcpStream, buffer: &mut [u8]) {
        while !self.ended.load(Ordering::Relaxed) {
            match from.read(buffer) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => return,
            }
        }
    }
}

/// How many bytes may still pass this way.
fn allowance(fault: &Fault, way: Way) -> Option<u64> {
    match (fault, way) {
        (Fault::CutToServer(bytes), Way::ToServer) | (Fault::CutToClient(bytes), Way::ToClient) => Some(*bytes),
        _ => None,
    }
}

/// Both ends see an end of data; errors mean that they have already.
fn close(one: &TcpStream, other: &TcpStream) {
    drop(one.shutdown(Shutdown::Both));
    drop(other.shutdown(Shutdown::Both));
}

/// The other end sees a reset. An error means that it has gone already.
fn reset(socket: &TcpStream) {
    drop(socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO)));
    // A shutdown for both directions of a socket that lingers for no time sends the reset when it is closed.
    drop(socket.shutdown(Shutdown::Read));
}

/// Reads one HTTP request and answers it.
fn answer(mut client: TcpStream, status: u16) {
    let mut whole = || -> std::io::Result<()> {
        client.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut request = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            if let Some(end) = request.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&request[..end]).to_ascii_lowercase();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
                if request.len() >= end + 4 + length.unwrap_or(0) {
                    break;
                }
            }
            match client.read(&mut buffer)? {
                0 => break,
                read => request.extend_from_slice(&buffer[..read]),
            }
        }
        let answer = format!("HTTP/1.1 {status} Injected\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
        client.write_all(answer.as_bytes())
    };
    // A client that goes before it has its answer has been disturbed all the same.
    drop(whole());
}
