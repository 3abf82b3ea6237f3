//! The HTTP service of settings, and the forwarder to the process that owns a data folder.

use crate::{Error, Result, Settings};
use plumb_serve_http::ServerOptions;
use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

/// Addresses and limits as configured; an address that is taken is refused here.
pub fn options(settings: &Settings) -> Result<ServerOptions> {
    let serve = &settings.serve;
    let bytes = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    let options = ServerOptions {
        listen: serve.listen.clone(),
        admin_listen: serve.admin_listen.clone(),
        metrics_listen: serve.metrics_listen.clone(),
        header_timeout: serve.header_timeout,
        request_timeout: serve.request_timeout,
        shutdown_timeout: serve.shutdown_timeout,
        body_limit_bytes: bytes(serve.body_limit_bytes),
        component_limit_bytes: bytes(serve.component_limit_bytes),
        batch_limit: serve.batch_limit as usize,
        connection_limit: serve.connection_limit as usize,
        ..ServerOptions::default()
    };
    for (key, address) in [
        ("listen", &options.listen),
        ("admin_listen", &options.admin_listen),
        ("metrics_listen", &options.metrics_listen),
    ] {
        std::net::TcpListener::bind(address).map_err(|error| {
            Error::invalid(format!("serve.{key} = \"{address}\": {error}; choose another address or port 0"))
        })?;
    }
    Ok(options)
}

/// Forwards connections while it lives.
#[derive(Debug)]
pub struct Forwarder {
    address: SocketAddr,
    _runtime: Runtime,
}

impl Forwarder {
    /// The address of features, registry and events.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Listens on the configured addresses and passes connections on to the owner's: `listen` to its public listener,
/// `admin_listen` to its admin one.
pub fn forward(settings: &Settings, listen: &str, admin: &str) -> Result<Forwarder> {
    let failed = |what: &str, error: std::io::Error| Error::unavailable(what.to_owned(), error);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| failed("start the forwarder's threads", error))?;
    let bind = |key: &str, address: &str| {
        runtime.block_on(TcpListener::bind(address)).map_err(|error| {
            Error::invalid(format!("serve.{key} = \"{address}\": {error}; choose another address or port 0"))
        })
    };
    let public = bind("listen", &settings.serve.listen)?;
    let admin_listener = bind("admin_listen", &settings.serve.admin_listen)?;
    let address = public.local_addr().map_err(|error| failed("listen", error))?;
    runtime.spawn(pass_on(public, listen.to_owned()));
    runtime.spawn(pass_on(admin_listener, admin.to_owned()));
    Ok(Forwarder { address, _runtime: runtime })
}

async fn pass_on(listener: TcpListener, to: String) {
    loop {
        let Ok((mut from, _)) = listener.accept().await else { continue };
        let to = to.clone();
        tokio::spawn(async move {
            match TcpStream::connect(&to).await {
                Ok(mut owner) => {
                    if let Err(error) = tokio::io::copy_bidirectional(&mut from, &mut owner).await {
                        tracing::debug!(%error, "a forwarded connection ended early");
                    }
                }
                Err(error) => tracing::warn!(owner = to, %error, "the owner of the data folder does not answer"),
            }
        });
    }
}
