//! From a request to a response: body, backend, JSON. Nothing here computes on an async thread; every call
//! of the backend is made on a blocking one, under the request's deadline.

use crate::backend::{Backend, BackendError};
use crate::metrics::Metrics;
use crate::problem::Problem;
use crate::route::{Listener, Route, find};
use crate::uri::Parameters;
use crate::{ServerOptions, catalogue, events, materialize, read, write};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Request, Response, StatusCode};
use plumb_pipeline::TRACE;
use plumb_pipeline::query::{self, KeyInput, Position, Query, QueryError, Status};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::Instrument;
use tracing::field::Empty;

/// How long a deployment or a commit may take: it may read the whole archive.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(600);

/// How much of a body that is too large is read and dropped, so that the client gets to read the answer.
const DRAIN_BYTES: usize = 16 << 20;
/// How long that may take.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// What all connections share.
pub(crate) struct Service {
    pub(crate) options: ServerOptions,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) metrics: Arc<Metrics>,
    /// One permit for each call of the backend under way.
    calls: Arc<Semaphore>,
}

type Reply = Response<Full<Bytes>>;

impl Service {
    pub(crate) fn new(options: ServerOptions, backend: Arc<dyn Backend>) -> Self {
        let metrics = Arc::new(Metrics::new(backend.clone()));
        let calls = Arc::new(Semaphore::new(options.calls));
        Self { options, backend, metrics, calls }
    }

    /// Answers a request, whatever it is.
    pub(crate) async fn answer(&self, listener: Listener, request: Request<Incoming>) -> Reply {
        let started = Instant::now();
        let (pattern, reply) = match find(listener, request.method(), request.uri().path()) {
            Ok(route) => {
                let pattern = route.pattern();
                let span = tracing::info_span!(target: TRACE, "request", route = pattern, status = Empty);
                let answer = self.route(route, request, started).instrument(span.clone()).await;
                let reply = answer.unwrap_or_else(Problem::into_response);
                span.record("status", reply.status().as_u16());
                (pattern, reply)
            }
            Err(problem) => ("none", problem.into_response()),
        };
        self.metrics.request(pattern, reply.status().as_u16(), started.elapsed());
        reply
    }

    async fn route(&self, route: Route, request: Request<Incoming>, started: Instant) -> Result<Reply, Problem> {
        let (head, body) = request.into_parts();
        let parameters = |allowed: &[&str]| Parameters::parse(head.uri.query(), allowed);
        let admin = matches!(route, Route::Deploy | Route::Rollback { .. } | Route::Retire { .. } | Route::Commit);
        let longest =
            if admin { ADMIN_TIMEOUT.max(self.options.request_timeout) } else { self.options.request_timeout };
        let call = Call { service: self, deadline: started + longest };
        match route {
            Route::Health => Ok(json_reply(StatusCode::OK, json!({"status": "ok"}).to_string())),
            Route::Ready => call.ready().await,
            Route::Metrics => call.metrics().await,
            Route::Vector => {
                parameters(&[])?;
                let body = call.body(&head.headers, body, JSON).await?;
                call.vector(body).await
            }
            Route::Batch => {
                parameters(&[])?;
                let body = call.body(&head.headers, body, JSON).await?;
                call.batch(body).await
            }
            Route::Entity { entity, id } => {
                let request = entity_request(entity.clone(), id.clone(), &parameters(&["features", "as_of"])?)?;
                call.entity(entity, id, request).await
            }
            Route::Online { id } => {
                let request = user_request(&id, &parameters(&["features", "as_of"])?)?;
                call.online(id, request).await
            }
            Route::Offline { id } => {
                let parameters = parameters(&["features", "as_of", "position"])?;
                let position = parameters.get("position").map(Position::parse).transpose();
                let position = position.map_err(|error| Problem::bad_request(error.to_string()))?;
                call.offline(id.clone(), user_request(&id, &parameters)?, position).await
            }
            Route::Registry | Route::Transforms => {
                parameters(&[])?;
                let entries = call.run(|backend| Ok(backend.registry()?)).await?;
                let views: Vec<_> = entries.iter().map(catalogue::entry).collect();
                Ok(json_reply(StatusCode::OK, json!({"views": views}).to_string()))
            }
            Route::RegistrySearch => {
                let parameters = parameters(&["q", "tag", "entity", "team"])?;
                let entries = call.run(|backend| Ok(backend.registry()?)).await?;
                let found = catalogue::search(&entries, &parameters);
                let views: Vec<_> = found.into_iter().map(catalogue::entry).collect();
                Ok(json_reply(StatusCode::OK, json!({"views": views}).to_string()))
            }
            Route::RegistryView { view } => {
                parameters(&[])?;
                let entries = call.run(|backend| Ok(backend.registry()?)).await?;
                let page = catalogue::entry(catalogue::find(&entries, &view)?);
                Ok(json_reply(StatusCode::OK, page.to_string()))
            }
            Route::Lineage { view } => {
                parameters(&[])?;
                let entries = call.run(|backend| Ok(backend.registry()?)).await?;
                let page = catalogue::lineage(catalogue::find(&entries, &view)?);
                Ok(json_reply(StatusCode::OK, page.to_string()))
            }
            Route::Events => {
                let parameters = parameters(&["source", "as_is"])?;
                let source = parameters.get("source").unwrap_or("default").to_owned();
                let as_is = parameters.get("as_is") == Some("true");
                let shape = match media_type(&head.headers).as_deref() {
                    Some(BYTES) if as_is => events::Shape::One,
                    Some(kind) if LINES.contains(&kind) && as_is => events::Shape::AsIs,
                    Some(kind) if LINES.contains(&kind) => events::Shape::Lines,
                    _ => events::Shape::Json,
                };
                let kind = if as_is { RECORDS } else { EVENTS };
                let body = call.body(&head.headers, body, kind).await?;
                call.events(source, shape, body).await
            }
            Route::Deploy => {
                let parameters = parameters(&["replace"])?;
                let replace = match parameters.get("replace") {
                    None | Some("false") => false,
                    Some("true") => true,
                    Some(other) => {
                        return Err(Problem::bad_request(format!("replace is `{other}`, expected true or false")));
                    }
                };
                let body = call.body(&head.headers, body, WASM).await?;
                if body.is_empty() {
                    return Err(Problem::bad_request("the body is empty, expected a component (.wasm)"));
                }
                let entry = call.run(move |backend| Ok(backend.deploy(body.into(), replace)?)).await?;
                Ok(json_reply(StatusCode::CREATED, catalogue::entry(&entry).to_string()))
            }
            Route::Rollback { view } => {
                parameters(&[])?;
                let entry = call.run(move |backend| Ok(backend.rollback(&view)?)).await?;
                Ok(json_reply(StatusCode::OK, catalogue::entry(&entry).to_string()))
            }
            Route::Retire { view } => {
                parameters(&[])?;
                let retired = json!({"retired": view}).to_string();
                call.run(move |backend| Ok(backend.retire(&view)?)).await?;
                Ok(json_reply(StatusCode::OK, retired))
            }
            Route::Commit => {
                parameters(&[])?;
                let position = call.run(|backend| Ok(backend.commit()?)).await?;
                Ok(json_reply(StatusCode::OK, json!({"position": position.to_string()}).to_string()))
            }
            Route::Materialize => {
                parameters(&[])?;
                let body = call.body(&head.headers, body, JSON).await?;
                let request = materialize::request(&body)?;
                let status = call.run(move |backend| Ok(backend.materialize(request)?)).await?;
                Ok(json_reply(StatusCode::ACCEPTED, materialize::status(&status).to_string()))
            }
            Route::Materializing => {
                parameters(&[])?;
                let status = call.run(|backend| Ok(backend.materializing()?)).await?;
                let status = status.ok_or_else(|| Problem::no_route("no state was rebuilt since the start"))?;
                Ok(json_reply(StatusCode::OK, materialize::status(&status).to_string()))
            }
            Route::StopMaterializing => {
                parameters(&[])?;
                call.run(|backend| Ok(backend.stop_materializing()?)).await?;
                Ok(json_reply(StatusCode::ACCEPTED, json!({"stopping": true}).to_string()))
            }
        }
    }
}

/// A kind of body: what to call it, its media types, its limit.
#[derive(Clone, Copy)]
struct BodyKind {
    wanted: &'static str,
    media_types: &'static [&'static str],
    limit: fn(&ServerOptions) -> usize,
}

const LINES: &[&str] = &["application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"];
const JSON: BodyKind = BodyKind {
    wanted: "application/json",
    media_types: &["application/json"],
    limit: |options| options.body_limit_bytes,
};
const EVENTS: BodyKind = BodyKind {
    wanted: "application/json or application/x-ndjson",
    media_types: &["application/json", LINES[0], LINES[1], LINES[2], LINES[3]],
    limit: |options| options.body_limit_bytes,
};
/// Records that need not be events, for `as_is`.
const RECORDS: BodyKind = BodyKind {
    wanted: "application/json, application/x-ndjson or, for one record, application/octet-stream",
    media_types: &["application/json", LINES[0], LINES[1], LINES[2], LINES[3], BYTES],
    limit: |options| options.body_limit_bytes,
};
const BYTES: &str = "application/octet-stream";
const WASM: BodyKind = BodyKind {
    wanted: "application/wasm",
    media_types: &["application/wasm", "application/octet-stream"],
    limit: |options| options.component_limit_bytes,
};

/// One request's dealings with the backend.
struct Call<'a> {
    service: &'a Service,
    deadline: Instant,
}

impl Call<'_> {
    /// Runs `work` on a blocking thread, when there is one free, before the deadline.
    async fn run<T, F>(&self, work: F) -> Result<T, Problem>
    where
        T: Send + 'static,
        F: FnOnce(&dyn Backend) -> Result<T, Problem> + Send + 'static,
    {
        let late = || Problem::unavailable("deadline", "the request was not answered in time");
        let permit = timeout_at(self.deadline, self.service.calls.clone().acquire_owned()).await;
        let permit = permit.map_err(|_| late())?.map_err(|_| Problem::unavailable("stopping", "the service stops"))?;
        let backend = self.service.backend.clone();
        let span = tracing::Span::current();
        let task = tokio::task::spawn_blocking(move || {
            let done = span.in_scope(|| work(backend.as_ref()));
            // The permit goes with the work, not with the request, which may have given up before.
            drop(permit);
            done
        });
        match timeout_at(self.deadline, task).await {
            Err(_) => Err(late()),
            Ok(Err(failed)) => Err(Problem::internal(&failed.to_string())),
            Ok(Ok(done)) => done,
        }
    }

    /// The body, if it is of the right kind and size and comes in time.
    async fn body(&self, headers: &HeaderMap, mut body: Incoming, kind: BodyKind) -> Result<Bytes, Problem> {
        if let Some(found) = media_type(headers)
            && !kind.media_types.contains(&found.as_str())
        {
            return Err(Problem::media_type(&found, kind.wanted));
        }
        let limit = (kind.limit)(&self.service.options);
        let too_large = || Problem::too_large(format!("the body is larger than {limit} bytes"));
        if body.size_hint().lower() > limit as u64 {
            drain(&mut body).await;
            return Err(too_large());
        }
        let mut bytes = Vec::new();
        loop {
            let frame = timeout_at(self.deadline, body.frame()).await.map_err(|_| Problem::body_timeout())?;
            let Some(frame) = frame else { return Ok(bytes.into()) };
            let frame = frame.map_err(|error| Problem::bad_request(format!("the body broke off: {error}")))?;
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > limit {
                drain(&mut body).await;
                return Err(too_large());
            }
            bytes.extend_from_slice(&data);
        }
    }

    async fn ready(&self) -> Result<Reply, Problem> {
        let dependencies = self.run(|backend| Ok(backend.readiness())).await?;
        let ready = dependencies.iter().all(|dependency| dependency.ready);
        let list: Vec<_> = dependencies
            .iter()
            .map(|one| json!({"name": one.name, "ready": one.ready, "detail": one.detail}))
            .collect();
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        Ok(json_reply(status, json!({"ready": ready, "dependencies": list}).to_string()))
    }

    async fn metrics(&self) -> Result<Reply, Problem> {
        // A source may have to be asked where it ends. Not among the calls that answers wait for: a service that is
        // stuck still tells its figures.
        let metrics = self.service.metrics.clone();
        let text = tokio::task::spawn_blocking(move || metrics.encode());
        let text = match timeout_at(self.deadline, text).await {
            Ok(Ok(text)) => text,
            Ok(Err(failed)) => return Err(Problem::internal(&failed.to_string())),
            Err(_) => return Err(Problem::unavailable("deadline", "the figures were not told in time")),
        };
        let mut reply = Response::new(Full::new(Bytes::from(text)));
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        Ok(reply)
    }

    async fn vector(&self, body: Bytes) -> Result<Reply, Problem> {
        let (answers, json) = self
            .run(move |backend| {
                let query = read::vector(&body)?;
                // A single request is not "requests[0]" to its caller.
                let answers = backend.query(&query).map_err(unbatched)?;
                let json = write::vector(one(&answers)?);
                Ok((answers, json))
            })
            .await?;
        self.service.metrics.answers(&answers);
        Ok(json_reply(StatusCode::OK, json))
    }

    async fn batch(&self, body: Bytes) -> Result<Reply, Problem> {
        let limit = self.service.options.batch_limit;
        let (answers, json) = self
            .run(move |backend| {
                let query = read::batch(&body, limit)?;
                let answers = if query.requests.is_empty() { Vec::new() } else { backend.query(&query)? };
                let json = write::batch(&answers);
                Ok((answers, json))
            })
            .await?;
        self.service.metrics.answers(&answers);
        Ok(json_reply(StatusCode::OK, json))
    }

    async fn entity(&self, entity: String, id: String, request: query::Request) -> Result<Reply, Problem> {
        let (answers, json) = self
            .run(move |backend| {
                let query = Query { requests: vec![request], defaults: Vec::new() };
                let answers = backend.query(&query).map_err(|error| in_path(unbatched(error)))?;
                let answer = one(&answers)?;
                let status = answer.entities.first().map(|entity| entity.status);
                if status == Some(Status::NotFound) {
                    return Err(QueryError::NotFound { entity, key: id }.into());
                }
                let json = write::vector(answer);
                Ok((answers, json))
            })
            .await?;
        self.service.metrics.answers(&answers);
        Ok(json_reply(StatusCode::OK, json))
    }

    async fn online(&self, id: String, request: query::Request) -> Result<Reply, Problem> {
        let (answers, json) = self
            .run(move |backend| {
                let query = Query { requests: vec![request], defaults: Vec::new() };
                let answers = backend.query(&query).map_err(unbatched)?;
                let json = write::user(&id, one(&answers)?);
                Ok((answers, json))
            })
            .await?;
        self.service.metrics.answers(&answers);
        Ok(json_reply(StatusCode::OK, json))
    }

    async fn offline(&self, id: String, request: query::Request, position: Option<Position>) -> Result<Reply, Problem> {
        let (answers, json) = self
            .run(move |backend| {
                let answer = backend.history(&request, position.as_ref()).map_err(unbatched)?;
                let json = write::user(&id, &answer);
                Ok((vec![answer], json))
            })
            .await?;
        self.service.metrics.answers(&answers);
        Ok(json_reply(StatusCode::OK, json))
    }

    async fn events(&self, source: String, shape: events::Shape, body: Bytes) -> Result<Reply, Problem> {
        let (accepted, position) = self
            .run(move |backend| {
                let records = events::split(&body, shape)?;
                let bytes: Vec<&[u8]> = records.iter().map(|record| record.bytes).collect();
                match backend.append(&source, &bytes) {
                    Ok(position) => Ok((records.len(), position)),
                    Err(BackendError::Record { index, why }) => {
                        Err(events::at_line(records.get(index).map_or(0, |record| record.line), &why))
                    }
                    Err(error) => Err(error.into()),
                }
            })
            .await?;
        Ok(json_reply(StatusCode::OK, json!({"accepted": accepted, "position": position.to_string()}).to_string()))
    }
}

/// Reads what is left of a body, within limits, and drops it.
async fn drain(body: &mut Incoming) {
    let mut left = DRAIN_BYTES;
    let read = async {
        while let Some(Ok(frame)) = body.frame().await {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            if bytes > left {
                break;
            }
            left -= bytes;
        }
    };
    // Whether it was read to its end or given up, the answer is the same.
    drop(timeout(DRAIN_TIMEOUT, read).await);
}

/// The content type without its parameters, in lower case.
fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(CONTENT_TYPE)?;
    let text = String::from_utf8_lossy(value.as_bytes());
    Some(text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

fn json_reply(status: StatusCode, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}

fn one(answers: &[query::Answer]) -> Result<&query::Answer, Problem> {
    answers.first().ok_or_else(|| Problem::internal("the backend gave no answer to a request"))
}

fn unbatched(error: QueryError) -> QueryError {
    match error {
        QueryError::InBatch { error, .. } => *error,
        other => other,
    }
}

/// An unknown entity in a path is a path that does not exist.
fn in_path(error: QueryError) -> Problem {
    let is_entity = matches!(&error, QueryError::Unknown { what: query::request::Named::Entity, .. });
    let problem = Problem::from(error);
    if is_entity { Problem { status: StatusCode::NOT_FOUND, ..problem } } else { problem }
}

fn entity_request(entity: String, id: String, parameters: &Parameters) -> Result<query::Request, Problem> {
    Ok(query::Request {
        entities: vec![(entity, KeyInput::Value(Some(id)))],
        fields: Vec::new(),
        features: parameters.get("features").map(read::feature_list),
        as_of_us: parameters.get("as_of").map(read::as_of).transpose()?,
    })
}

fn user_request(id: &str, parameters: &Parameters) -> Result<query::Request, Problem> {
    Ok(query::Request {
        entities: Vec::new(),
        fields: vec![("user_id".to_owned(), Some(id.to_owned()))],
        features: parameters.get("features").map(read::feature_list),
        as_of_us: parameters.get("as_of").map(read::as_of).transpose()?,
    })
}
