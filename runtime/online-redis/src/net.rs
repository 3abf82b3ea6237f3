//! One connection to one server: every exchange has a deadline, whatever arrives in between.

use crate::fault::Fault;
use crate::resp::{Commands, Incoming, More, Value};
use crate::settings::RedisSettings;
use plumb_pipeline::{Error, Result};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A buffer that grew beyond this for one reply is given back.
const BUFFER_KEPT: usize = 1 << 20;

/// A connection that lay idle for so long is looked at before it is used.
const LOOK_AFTER: Duration = Duration::from_millis(100);

/// What every connection of a store needs to know.
pub(crate) struct Dial {
    pub(crate) tls: Option<Arc<ClientConfig>>,
    username: Option<String>,
    password: Option<plumb_pipeline::Secret>,
    database: u32,
    /// Whether the server must be a primary. In a Cluster the slots say who is.
    primary: bool,
    pub(crate) timeout: Duration,
}

impl Dial {
    pub(crate) fn new(settings: &RedisSettings) -> Result<Self> {
        Ok(Self {
            tls: if settings.tls { Some(tls_config(settings)?) } else { None },
            username: settings.username.clone(),
            password: settings.password.clone(),
            database: settings.database,
            primary: !settings.cluster,
            timeout: settings.connect_timeout,
        })
    }
}

fn tls_config(settings: &RedisSettings) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    match &settings.tls_ca {
        Some(path) => {
            let bad = |why: String| Error::invalid(format!("tls_ca `{}`: {why}", path.display()));
            let certificates = CertificateDer::pem_file_iter(path).map_err(|error| bad(error.to_string()))?;
            for certificate in certificates {
                let certificate = certificate.map_err(|error| bad(error.to_string()))?;
                roots.add(certificate).map_err(|error| bad(error.to_string()))?;
            }
            if roots.is_empty() {
                return Err(bad("it holds no certificate in PEM".into()));
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                return Err(Error::invalid("the system has no certificate authorities; name a file with `tls_ca`"));
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::internal(format!("TLS cannot be set up: {error}")))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    fn tcp(&self) -> &TcpStream {
        match self {
            Stream::Plain(tcp) => tcp,
            Stream::Tls(tls) => tls.get_ref(),
        }
    }

    fn wait_at_most(&self, deadline: Instant) -> io::Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // A TLS stream may read while it writes and the other way round.
        self.tcp().set_read_timeout(Some(left))?;
        self.tcp().set_write_timeout(Some(left))
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(tcp) => tcp.read(buffer),
            Stream::Tls(tls) => tls.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(tcp) => tcp.write(bytes),
            Stream::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(tcp) => tcp.flush(),
            Stream::Tls(tls) => tls.flush(),
        }
    }
}

/// The stream with the deadline of the present exchange.
struct Timed<'a> {
    stream: &'a mut Stream,
    deadline: Instant,
}

impl More for Timed<'_> {
    fn more(&mut self, space: &mut [u8]) -> io::Result<usize> {
        loop {
            self.stream.wait_at_most(self.deadline)?;
            match self.stream.read(space) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed")),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }
}

/// A connection. After an error it is out of step and of no more use.
pub(crate) struct Connection {
    stream: Stream,
    incoming: Incoming,
    used: Instant,
}

impl Connection {
    /// Connects, with TLS and the password where there are, and checks that it is the right kind of server.
    pub(crate) fn open(dial: &Dial, host: &str, port: u16, deadline: Instant) -> Result<Self, Fault> {
        let deadline = deadline.min(Instant::now() + dial.timeout);
        let tcp = connect(host, port, deadline).map_err(|error| Fault::io("connect", &error))?;
        let stream = match &dial.tls {
            None => Stream::Plain(tcp),
            Some(config) => {
                let name = ServerName::try_from(host.to_owned())
                    .map_err(|_| Fault::other(format!("`{host}` is no name that a certificate could have")))?;
                let client = ClientConnection::new(config.clone(), name)
                    .map_err(|error| Fault::other(format!("TLS: {error}")))?;
                Stream::Tls(Box::new(StreamOwned::new(client, tcp)))
            }
        };
        let mut connection = Self { stream, incoming: Incoming::default(), used: Instant::now() };
        connection.greet(dial, deadline)?;
        Ok(connection)
    }

    fn greet(&mut self, dial: &Dial, deadline: Instant) -> Result<(), Fault> {
        let mut commands = Commands::default();
        match (&dial.username, &dial.password) {
            (Some(name), password) => {
                let password = password.as_ref().map_or("", |password| password.reveal());
                commands.command(&[b"AUTH", name.as_bytes(), password.as_bytes()]);
            }
            (None, Some(password)) => commands.command(&[b"AUTH", password.reveal().as_bytes()]),
            (None, None) => commands.command(&[b"PING"]),
        }
        commands.begin(2);
        commands.arg(b"SELECT");
        commands.number(dial.database);
        commands.command(&[b"ROLE"]);
        self.send(&commands.bytes, deadline)?;
        let (auth, select, role) = (self.receive(deadline)?, self.receive(deadline)?, self.receive(deadline)?);
        if let Value::Error(text) = auth {
            return Err(Fault::refused(text));
        }
        if let Value::Error(text) = select {
            return Err(Fault::refused(format!("database {}: {text}", dial.database)));
        }
        // Where this user may not ask for the role, writes will tell.
        if let Value::Array(role) = role
            && let Some(role) = role.first().and_then(Value::text)
            && dial.primary
            && role != "master"
        {
            return Err(Fault::replica());
        }
        Ok(())
    }

    /// Sends packed commands.
    pub(crate) fn send(&mut self, mut bytes: &[u8], deadline: Instant) -> Result<(), Fault> {
        let sent = (|| {
            while !bytes.is_empty() {
                self.stream.wait_at_most(deadline)?;
                match self.stream.write(bytes) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(written) => bytes = &bytes[written..],
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            self.stream.flush()
        })();
        sent.map_err(|error| Fault::io("send", &error))
    }

    /// Reads the next reply.
    pub(crate) fn receive(&mut self, deadline: Instant) -> Result<Value, Fault> {
        let value = self.incoming.value(&mut Timed { stream: &mut self.stream, deadline });
        value.map_err(|error| Fault::io("receive", &error))
    }

    /// One command and its reply.
    pub(crate) fn ask(&mut self, args: &[&[u8]], deadline: Instant) -> Result<Value, Fault> {
        let mut commands = Commands::default();
        commands.command(args);
        self.send(&commands.bytes, deadline)?;
        self.receive(deadline)
    }

    /// Notes that an exchange is over.
    pub(crate) fn rest(&mut self) {
        self.incoming.give_back(BUFFER_KEPT);
        self.used = Instant::now();
    }

    /// Whether it can be used again: nothing is left of the last exchange, and the other side has not closed it.
    pub(crate) fn is_fresh(&self) -> bool {
        if !self.incoming.is_empty() {
            return false;
        }
        if self.used.elapsed() < LOOK_AFTER {
            return true;
        }
        let tcp = self.stream.tcp();
        if tcp.set_nonblocking(true).is_err() {
            return false;
        }
        let open = match tcp.peek(&mut [0]) {
            Ok(0) => false,
            // With TLS there may be messages of its own.
            Ok(_) => matches!(self.stream, Stream::Tls(_)),
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        };
        open && tcp.set_nonblocking(false).is_ok()
    }
}

fn connect(host: &str, port: u16, deadline: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (host, port).to_socket_addrs()? {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match TcpStream::connect_timeout(&address, left) {
            Ok(tcp) => {
                tcp.set_nodelay(true)?;
                return Ok(tcp);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}
