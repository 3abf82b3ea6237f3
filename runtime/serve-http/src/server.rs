//! Listeners and connections: limits in number and time, HTTP/1.1 and HTTP/2, an orderly stop.
//!
//! hyper's timers are set from the start: without one, a half-sent header holds a connection for ever.

use crate::backend::Backend;
use crate::handle::Service;
use crate::route::Listener;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use plumb_pipeline::{Error, Result};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// The largest head of a request.
const HEAD_BYTES: usize = 64 << 10;
/// The most requests at once on one HTTP/2 connection.
const STREAMS: u32 = 128;
/// How often a silent HTTP/2 peer is asked whether it is there, and how long it has to answer.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause after an `accept` that failed for want of something, such as file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// The pause between looks at the first bytes of a connection that came in part.
const PREFACE_PAUSE: Duration = Duration::from_millis(5);
/// What an HTTP/2 connection begins with.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Addresses and limits of the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerOptions {
    /// The address of features, registry and events; port 0 takes a free one.
    pub listen: String,
    /// The address of what changes something.
    pub admin_listen: String,
    /// The address of metrics.
    pub metrics_listen: String,
    /// How long a client may take to send a head, also the next one of a connection.
    pub header_timeout: Duration,
    /// How long a request may take in all.
    pub request_timeout: Duration,
    /// How long open requests may go on after a stop was asked for.
    pub shutdown_timeout: Duration,
    /// The largest body.
    pub body_limit_bytes: usize,
    /// The largest component.
    pub component_limit_bytes: usize,
    /// The most requests in a batch.
    pub batch_limit: usize,
    /// The most open connections of each listener.
    pub connection_limit: usize,
    /// The most calls of the backend at once; others wait their turn.
    pub calls: usize,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".into(),
            admin_listen: "127.0.0.1:8081".into(),
            metrics_listen: "127.0.0.1:9100".into(),
            header_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(10),
            shutdown_timeout: Duration::from_secs(10),
            body_limit_bytes: 1 << 20,
            component_limit_bytes: 8 << 20,
            batch_limit: 1_000,
            connection_limit: 10_000,
            calls: std::thread::available_parallelism().map_or(4, usize::from) * 2,
        }
    }
}

/// The running service; it stops when dropped, without waiting.
#[derive(Debug)]
pub struct Server {
    runtime: Runtime,
    stop: watch::Sender<bool>,
    listeners: Vec<JoinHandle<()>>,
    addresses: [SocketAddr; 3],
}

impl Server {
    /// Binds the three addresses and serves from then on, on threads of its own.
    pub fn start(options: ServerOptions, backend: Arc<dyn Backend>) -> Result<Self> {
        let bound = [
            bind("serve.listen", &options.listen)?,
            bind("serve.admin_listen", &options.admin_listen)?,
            bind("serve.metrics_listen", &options.metrics_listen)?,
        ];
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 4))
            .max_blocking_threads(options.calls + 4)
            .thread_name("plumb-http")
            .enable_all()
            .build()
            .map_err(|error| Error::unavailable("start the threads of the HTTP service", error))?;
        let service = Arc::new(Service::new(options, backend));
        let (stop, stopped) = watch::channel(false);
        let mut addresses = [SocketAddr::from(([127, 0, 0, 1], 0)); 3];
        let mut listeners = Vec::new();
        let _entered = runtime.enter();
        for (index, (which, listener)) in
            [Listener::Main, Listener::Admin, Listener::Metrics].into_iter().zip(bound).enumerate()
        {
            let failed = |error| Error::unavailable("listen", error);
            addresses[index] = listener.local_addr().map_err(failed)?;
            let listener = TcpListener::from_std(listener).map_err(failed)?;
            listeners.push(runtime.spawn(accept(which, listener, service.clone(), stopped.clone())));
        }
        drop(_entered);
        Ok(Self { runtime, stop, listeners, addresses })
    }

    /// The address of features, registry and events, with its real port.
    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// The address of what changes something.
    pub fn admin_address(&self) -> SocketAddr {
        self.addresses[1]
    }

    /// The address of metrics.
    pub fn metrics_address(&self) -> SocketAddr {
        self.addresses[2]
    }

    /// Accepts nothing more, lets open requests end (within the shutdown timeout) and stops.
    pub fn shutdown(self) {
        self.stop.send_replace(true);
        self.runtime.block_on(async {
            for listener in self.listeners {
                if let Err(error) = listener.await {
                    tracing::error!(%error, "a listener failed");
                }
            }
        });
        self.runtime.shutdown_background();
    }
}

fn bind(key: &str, address: &str) -> Result<std::net::TcpListener> {
    let bound = std::net::TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    bound.map_err(|error| Error::invalid(format!("cannot listen on {address} ({key}): {error}")))
}

async fn accept(which: Listener, listener: TcpListener, service: Arc<Service>, stopped: watch::Receiver<bool>) {
    let graceful = GracefulShutdown::new();
    let slots = Arc::new(Semaphore::new(service.options.connection_limit));
    let mut stop = stopped.clone();
    loop {
        let accepted = tokio::select! {
            _ = stop.changed() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Over the limit the connection is closed at once: waiting would look like a hung service.
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            service.metrics.connection_refused();
            continue;
        };
        let (service, watcher, stopped) = (service.clone(), graceful.watcher(), stopped.clone());
        tokio::spawn(async move {
            connection(which, stream, service, watcher, stopped).await;
            drop(slot);
        });
    }
    drop(listener);
    if timeout(service.options.shutdown_timeout, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests were still open at the end of the shutdown timeout");
    }
}

async fn connection(
    which: Listener,
    stream: TcpStream,
    service: Arc<Service>,
    watcher: Watcher,
    mut stopped: watch::Receiver<bool>,
) {
    let header_timeout = service.options.header_timeout;
    let is_http2 = tokio::select! {
        _ = stopped.wait_for(|&stopped| stopped) => return,
        spoken = timeout(header_timeout, speaks_http2(&stream)) => match spoken {
            Ok(Ok(is_http2)) => is_http2,
            // It sent nothing in time, or went away.
            Ok(Err(_)) | Err(_) => return,
        },
    };
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let answer = service_fn(move |request| {
        let service = service.clone();
        async move { Ok::<_, Infallible>(service.answer(which, request).await) }
    });
    let io = TokioIo::new(stream);
    let served = if is_http2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(HEAD_BYTES as u32)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT);
        watcher.watch(builder.serve_connection(io, answer)).await
    } else {
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(header_timeout).max_buf_size(HEAD_BYTES);
        watcher.watch(builder.serve_connection(io, answer)).await
    };
    if let Err(error) = served {
        // Clients come and go as they like; only debugging asks why.
        tracing::debug!(%error, "connection ended");
    }
}

/// Whether a connection begins as HTTP/2 does; looks without taking the bytes.
async fn speaks_http2(stream: &TcpStream) -> std::io::Result<bool> {
    let mut first = [0; PREFACE.len()];
    loop {
        let seen = stream.peek(&mut first).await?;
        if seen == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if first[..seen] != PREFACE[..seen] {
            return Ok(false);
        }
        if seen == PREFACE.len() {
            return Ok(true);
        }
        sleep(PREFACE_PAUSE).await;
    }
}
