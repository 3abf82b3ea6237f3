//! `plumb run` and `plumb serve`: the embedded service in this process.

use crate::args::{Run, Serve};
use crate::client::Client;
use crate::context::{Output, instant, settings};
use crate::exit::Done;
use crate::telemetry;
use anyhow::{Context, Result};
use plumb_assembly::backend::ServiceBackend;
use plumb_assembly::service::{RunOptions, Service};
use plumb_assembly::shared::SharedBackend;
use plumb_assembly::{Settings, server};
use plumb_serve_http::Server;
use serde_json::json;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// How often a running service is looked at for a failure.
const LOOK: Duration = Duration::from_millis(200);

/// Runs the stream processor.
pub(crate) fn run(arguments: &Run, output: Output) -> Result<Done> {
    let settings = settings(arguments.config.as_deref())?;
    if arguments.check {
        let text = settings.to_toml();
        output.print(&json!({"toml": text}), || text.clone());
        return Ok(Done::Ok);
    }
    let _telemetry = telemetry::start(&settings.telemetry)?;
    let now_us = arguments.now.as_deref().map(|text| instant("--now", text)).transpose()?;
    let options = RunOptions {
        until_end: arguments.until_end,
        now_us,
        replace: arguments.replace,
        from: crate::start::from(arguments, &settings)?,
        accept_gap: arguments.accept_gap,
    };
    if arguments.until_end {
        return until_end(settings, options, output);
    }
    let public = settings.run.serve && !arguments.no_serve;
    follow(settings, options, public)
}

/// Serves over HTTP: in this process, or through the one that owns the data folder.
pub(crate) fn serve(arguments: &Serve) -> Result<Done> {
    let settings = settings(arguments.config.as_deref())?;
    let _telemetry = telemetry::start(&settings.telemetry)?;
    if settings.is_shared() {
        return serve_shared(&settings);
    }
    if let Some(owner) = plumb_embedded::owner_of(&settings.data_dir)?
        && let (Some(listen), Some(admin)) = (&owner.listen, &owner.admin)
    {
        let stop = stop_signal()?;
        let forwarder = server::forward(&settings, listen, admin)?;
        let (folder, address) = (settings.data_dir.display(), forwarder.address());
        let text = format!("process {} owns `{folder}`; serving it on http://{address}", owner.pid);
        telemetry::say("INFO", &text, &[("listen", address.to_string())]);
        stop.recv().context("wait for a signal")?;
        return Ok(Done::Ok);
    }
    follow(settings, RunOptions::default(), true)
}

/// Answers from the shared stores of a job that other processes run.
fn serve_shared(settings: &Settings) -> Result<Done> {
    let stop = stop_signal()?;
    let bound = server::options(settings)?;
    let server = Server::start(bound, Arc::new(SharedBackend::open(settings)?))?;
    say_addresses(&server);
    stop.recv().context("wait for a signal")?;
    server.shutdown();
    Ok(Done::Ok)
}

fn say_addresses(server: &Server) {
    let (listen, admin, metrics) = (server.address(), server.admin_address(), server.metrics_address());
    let text = format!("http://{listen} (admin {admin}, metrics {metrics})");
    let named = |name, address: std::net::SocketAddr| (name, address.to_string());
    let addresses = [named("listen", listen), named("admin_listen", admin), named("metrics_listen", metrics)];
    telemetry::say("INFO", &text, &addresses);
}

/// Ingests to the present end of the sources, commits and stops.
fn until_end(settings: Settings, options: RunOptions, output: Output) -> Result<Done> {
    let start = Instant::now();
    let stop = stop_signal()?;
    let service = Service::start(settings, options)?;
    warn_without_views(&service);
    let bar = crate::context::progress("ingesting");
    let before = service.applied_before();
    let ended = loop {
        let status = service.runtime().status();
        if status.failure.is_some() || service.runtime().has_ended() {
            break true;
        }
        bar.set_position(applied_so_far(&service));
        if stop.recv_timeout(Duration::from_millis(20)).is_ok() {
            break false;
        }
    };
    bar.finish_and_clear();
    let status = service.runtime().status();
    let views = service.runtime().active_views();
    let names: Vec<String> =
        views.iter().map(|view| format!("{} {}", view.name(), view.transform.version_label())).collect();
    drop(views);
    service.stop()?;
    let mut total = plumb_pipeline::accept::Accounting::default();
    for partition in &status.partitions {
        total.read += partition.accounting.read;
        total.applied += partition.accounting.applied;
        total.duplicate += partition.accounting.duplicate;
        total.rejected += partition.accounting.rejected;
        total.late += partition.accounting.late;
        total.dedupe_conflict += partition.accounting.dedupe_conflict;
    }
    let faults: u64 = status.partitions.iter().flat_map(|partition| &partition.views).map(|view| view.faults).sum();
    let seconds = start.elapsed().as_secs_f64();
    let new = total.applied - before.min(total.applied);
    let document = json!({
        "read": total.read,
        "applied": total.applied,
        "applied_now": new,
        "late": total.late,
        "duplicate": total.duplicate,
        "dedupe_conflict": total.dedupe_conflict,
        "rejected": total.rejected,
        "view_faults": faults,
        "partitions": status.partitions.len(),
        "views": names,
        "seconds": seconds,
        "ended": ended,
    });
    output.print(&document, || {
        format!(
            "ingested {new} events in {seconds:.2} s; in all: {} read = {} applied ({} late) + {} duplicate ({} conflicts) \
             + {} rejected; {faults} view faults; {} partitions; {}",
            total.read,
            total.applied,
            total.late,
            total.duplicate,
            total.dedupe_conflict,
            total.rejected,
            status.partitions.len(),
            names.join(", ")
        )
    });
    Ok(Done::Ok)
}

fn applied_so_far(service: &Service) -> u64 {
    service.runtime().status().partitions.iter().map(|partition| partition.accounting.applied).sum()
}

/// Ingests and answers until a signal. Without `public`, only this machine's other plumb commands find it, on free
/// loopback ports.
fn follow(mut settings: Settings, options: RunOptions, public: bool) -> Result<Done> {
    let stop = stop_signal()?;
    if !public {
        private(&mut settings);
    }
    // Ports are taken first: one in use is told before anything is ingested.
    let bound = server::options(&settings)?;
    let service = Service::start(settings, options)?;
    warn_without_views(&service);
    let backend = Arc::new(ServiceBackend::new(&service)?);
    let server = Server::start(bound, backend.clone())?;
    service.announce(Some(server.admin_address().to_string()), Some(server.address().to_string()))?;
    if public {
        say_addresses(&server);
    }
    let failure = loop {
        if stop.recv_timeout(LOOK).is_ok() {
            break None;
        }
        if let Some(failure) = service.runtime().status().failure {
            break Some(failure);
        }
    };
    server.shutdown();
    release(backend)?;
    service.stop()?;
    match failure {
        Some(failure) => Err(plumb_pipeline::Error::internal(failure).into()),
        None => Ok(Done::Ok),
    }
}

/// Says that there will be no features: often the patterns of components are of another folder.
fn warn_without_views(service: &Service) {
    if service.runtime().active_views().is_empty() {
        let paths = service.settings().transforms.paths.join(", ");
        let folder = std::env::current_dir().unwrap_or_default().display().to_string();
        tracing::warn!(
            paths,
            folder,
            "no component matches transforms.paths and none was deployed: events are archived, there are no features"
        );
    }
}

/// Waits for the last request to let go of the backend, so that the service can be stopped whole.
fn release(mut backend: Arc<ServiceBackend>) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        match Arc::try_unwrap(backend) {
            Ok(_last) => return Ok(()),
            Err(shared) => backend = shared,
        }
        if Instant::now() > end {
            return Err(plumb_pipeline::Error::internal("a request did not end within 10 s of the stop").into());
        }
        std::thread::yield_now();
    }
}

/// A channel that gets a message at SIGINT or SIGTERM.
pub(crate) fn stop_signal() -> Result<Receiver<()>> {
    let (sender, receiver) = channel();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the thread that waits for signals")?;
    let mut terminate = {
        let _entered = runtime.enter();
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).context("wait for SIGTERM")?
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => (),
                result = tokio::signal::ctrl_c() => drop(result),
            }
        });
        if sender.send(()).is_err() {
            tracing::debug!("a signal came when the process was ending already");
        }
    });
    Ok(receiver)
}

/// The service to talk to: of the process that owns the data folder, or of this one (which, of a job that several
/// processes share, only reads the stores).
#[derive(Debug)]
pub(crate) struct Local {
    listen: String,
    admin: String,
}

/// How long a command waits for an answer of the service.
const PATIENCE: Duration = Duration::from_secs(120);

impl Local {
    /// A client of the public listener.
    pub(crate) fn client(&self) -> Result<Client> {
        Ok(Client::new(&self.listen, PATIENCE)?)
    }

    /// A client of the admin listener.
    pub(crate) fn admin(&self) -> Result<Client> {
        Ok(Client::new(&self.admin, PATIENCE)?)
    }
}

/// Does something with the service that owns the data folder; if there is none, with one of this process that owns it
/// as long as that takes.
pub(crate) fn with_service<T>(settings: &Settings, work: impl FnOnce(&Local) -> Result<T>) -> Result<T> {
    if settings.is_shared() {
        let mut settings = settings.clone();
        private(&mut settings);
        let server = Server::start(server::options(&settings)?, Arc::new(SharedBackend::open(&settings)?))?;
        let local = Local { listen: server.address().to_string(), admin: server.admin_address().to_string() };
        let done = work(&local);
        server.shutdown();
        return done;
    }
    if let Some(owner) = plumb_embedded::owner_of(&settings.data_dir)? {
        return match (owner.listen, owner.admin) {
            (Some(listen), Some(admin)) => work(&Local { listen, admin }),
            _ => Err(plumb_pipeline::Error::invalid(format!(
                "process {} owns `{}` and answers no requests (it is starting, or runs with --until-end): try again when it is done",
                owner.pid,
                settings.data_dir.display()
            ))
            .into()),
        };
    }
    let mut settings = settings.clone();
    private(&mut settings);
    let service = Service::start(settings.clone(), RunOptions::default())?;
    service.runtime().wait_live()?;
    let backend = Arc::new(ServiceBackend::new(&service)?);
    let server = Server::start(server::options(&settings)?, backend.clone())?;
    service.announce(Some(server.admin_address().to_string()), Some(server.address().to_string()))?;
    let local = Local { listen: server.address().to_string(), admin: server.admin_address().to_string() };
    let done = work(&local);
    server.shutdown();
    release(backend)?;
    service.stop()?;
    done
}

/// Listeners that only this machine's other plumb commands find.
fn private(settings: &mut Settings) {
    settings.serve.listen = "127.0.0.1:0".into();
    settings.serve.admin_listen = "127.0.0.1:0".into();
    settings.serve.metrics_listen = "127.0.0.1:0".into();
}
