//! The service over real sockets, before a fake backend.

use crate::backend::{Backend, BackendError, Dependency, RegistryEntry, ViewState};
use crate::told::{Batch, Rebuild, RebuildState, Views};
use crate::{Server, ServerOptions};
use plumb_pipeline::accept::Accounting;
use plumb_pipeline::metrics::Figures;
use plumb_pipeline::query::request::Named;
use plumb_pipeline::query::{
    Answer, EntityAnswer, KeyInput, Position, Query, QueryError, ReadSource, Request, Status, Value, ViewAnswer,
};
use plumb_pipeline::runtime::{Materialize, MaterializePhase, MaterializeStatus};
use plumb_pipeline::worker::{PartitionStatus, Phase, ViewStatus};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Answers from a script of one view, `user_activity`, that counts the key's letters; nothing is computed.
#[derive(Default)]
struct FakeBackend {
    appended: Mutex<Vec<String>>,
    /// Calls with the key "slow" wait here until it is true.
    go: (Mutex<bool>, Condvar),
}

impl FakeBackend {
    fn answer(&self, request: &Request) -> Result<Answer, QueryError> {
        let key = match (&request.entities[..], &request.fields[..]) {
            ([(entity, _)], _) if entity != "user" => {
                return Err(QueryError::Unknown {
                    what: Named::Entity,
                    name: entity.clone(),
                    near: vec!["user".into()],
                    known: Vec::new(),
                });
            }
            ([(_, KeyInput::Value(key))], []) => key.clone(),
            ([], [(_, key)]) => key.clone(),
            other => return Err(QueryError::Invalid(format!("the fake does not know {other:?}"))),
        };
        match key.as_deref() {
            Some("panic") => panic!("as asked"),
            Some("rebuilding") => return Err(QueryError::Rebuilding),
            Some("slow") => {
                let mut go = self.go.0.lock().unwrap();
                while !*go {
                    go = self.go.1.wait(go).unwrap();
                }
            }
            _ => {}
        }
        if let Some(as_of_us) = request.as_of_us.filter(|&us| us > 2_000_000_000_000_000) {
            let as_of = plumb_pipeline::decode::format_rfc3339(as_of_us);
            return Err(QueryError::Future { as_of, now: "2033-05-18T03:33:20.000000Z".into() });
        }
        let found = key.as_deref().is_some_and(|key| !key.starts_with('?'));
        let status = if found { Status::Found } else { Status::NotFound };
        let value = |value| if found { value } else { Value::Null };
        Ok(Answer {
            as_of_us: request.as_of_us.unwrap_or(1_500_000_000_000_001),
            position: Arc::new(Position::of("default", BTreeMap::from([(0, 12), (1, 34)]))),
            features: vec![
                ("user_activity:letters".into(), value(Value::I64(key.as_ref().map_or(0, |key| key.len() as i64)))),
                ("user_activity:mean".into(), value(Value::F64(0.1))),
            ],
            entities: vec![EntityAnswer { entity: "user".into(), status, event_time_us: found.then_some(1) }],
            views: vec![ViewAnswer {
                view: "user_activity".into(),
                version: "1.0.0+ab12cd34".into(),
                status,
                source: ReadSource::Online,
            }],
        })
    }

    fn entry() -> RegistryEntry {
        RegistryEntry {
            view: "user_activity".into(),
            version: "1.0.0+ab12cd34".into(),
            digest: "ab".repeat(32),
            state: ViewState::Active,
            definition: json!({
                "format": 1, "name": "user_activity", "version": "1.0.0", "description": "What a user does.",
                "entity": {"name": "user", "key": ["user_id"]}, "source": "default", "team": "ranking",
                "tags": ["activity"], "fields": [],
                "aggregates": [{"name": "views", "operator": "count", "slots": ["view"]}],
                "features": [{"name": "letters", "type": "i64", "description": "Letters.", "aggregates": ["views"]}],
            }),
        }
    }
}

impl Backend for FakeBackend {
    fn query(&self, query: &Query) -> Result<Vec<Answer>, QueryError> {
        let one = |(index, request): (usize, &Request)| {
            self.answer(request).map_err(|error| QueryError::InBatch { index, error: Box::new(error) })
        };
        query.requests.iter().enumerate().map(one).collect()
    }

    fn history(&self, request: &Request, position: Option<&Position>) -> Result<Answer, QueryError> {
        let mut answer = self.answer(request)?;
        answer.views.iter_mut().for_each(|view| view.source = ReadSource::Offline);
        if let Some(position) = position {
            answer.position = Arc::new(position.clone());
        }
        Ok(answer)
    }

    fn registry(&self) -> Result<Vec<RegistryEntry>, BackendError> {
        Ok(vec![Self::entry()])
    }

    fn deploy(&self, component: Vec<u8>, _replace: bool) -> Result<RegistryEntry, BackendError> {
        match component.as_slice() {
            b"conflict" => Err(BackendError::Conflict("version 1.0.0 is there with another digest".into())),
            b"bad" => Err(BackendError::Invalid("imports `wasi:clocks`".into())),
            _ => Ok(Self::entry()),
        }
    }

    fn rollback(&self, view: &str) -> Result<RegistryEntry, BackendError> {
        match view {
            "user_activity" => Ok(Self::entry()),
            _ => Err(BackendError::NotFound(format!("there is no view `{view}`"))),
        }
    }

    fn retire(&self, view: &str) -> Result<(), BackendError> {
        self.rollback(view).map(drop)
    }

    fn append(&self, source: &str, records: &[&[u8]]) -> Result<Position, BackendError> {
        if source != "default" {
            return Err(BackendError::Invalid(format!("unknown source `{source}`")));
        }
        for (index, record) in records.iter().enumerate() {
            if !String::from_utf8_lossy(record).contains("event_type") {
                return Err(BackendError::Record { index, why: "missing field `event_type`".into() });
            }
        }
        let mut appended = self.appended.lock().unwrap();
        appended.extend(records.iter().map(|record| String::from_utf8_lossy(record).into_owned()));
        Ok(Position::of("default", BTreeMap::from([(0, appended.len() as u64)])))
    }

    fn commit(&self) -> Result<Position, BackendError> {
        Err(BackendError::Unavailable("the disk is full".into()))
    }

    fn materialize(&self, request: Materialize) -> Result<MaterializeStatus, BackendError> {
        if request.from_us >= request.to_us && request.to_us.is_some() {
            return Err(BackendError::Invalid("it ends before it begins".into()));
        }
        let (id, phase) = ("m1".into(), MaterializePhase::Running);
        Ok(MaterializeStatus { id, request, phase, read: 1, total: 2, seconds: 0.5 })
    }

    fn materializing(&self) -> Result<Option<MaterializeStatus>, BackendError> {
        Ok(None)
    }

    fn stop_materializing(&self) -> Result<(), BackendError> {
        Ok(())
    }

    fn readiness(&self) -> Vec<Dependency> {
        let one = |name: &str, ready| Dependency { name: name.into(), ready, detail: String::new() };
        vec![one("online_store", true), one("offline_store", *self.go.0.lock().unwrap())]
    }

    fn figures(&self) -> Figures {
        let view = ViewStatus { view: "user_activity".into(), state_bytes: 99, ..ViewStatus::default() };
        let partition = |partition| PartitionStatus {
            source: "default".into(),
            partition,
            phase: Phase::Live,
            position: 9,
            committed: 5,
            committed_at_us: Some(1_000_000),
            accounting: Accounting { applied: 7, ..Accounting::default() },
            newest_event_time_us: Some(1_500_000),
            views: vec![view.clone()],
            ..PartitionStatus::default()
        };
        Figures {
            partitions: vec![partition(3), partition(4)],
            ready: BTreeMap::from([("user_activity".to_owned(), true)]),
            now_us: 3_500_000,
            ..Figures::default()
        }
    }
}

struct Running {
    server: Option<Server>,
    backend: Arc<FakeBackend>,
}

impl Running {
    fn start(change: impl FnOnce(&mut ServerOptions)) -> Self {
        let any = "127.0.0.1:0".to_owned();
        let mut options = ServerOptions {
            listen: any.clone(),
            admin_listen: any.clone(),
            metrics_listen: any,
            ..ServerOptions::default()
        };
        change(&mut options);
        let backend = Arc::new(FakeBackend::default());
        let server = Server::start(options, backend.clone()).unwrap();
        Self { server: Some(server), backend }
    }

    fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        *self.backend.go.0.lock().unwrap() = true;
        self.backend.go.1.notify_all();
        if let Some(server) = self.server.take() {
            server.shutdown();
        }
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

/// Sends bytes and reads to the end of the connection: status, head, body.
fn raw(address: SocketAddr, bytes: &[u8]) -> (u16, String, String) {
    let mut stream = connect(address);
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    parts(&answer)
}

fn parts(answer: &[u8]) -> (u16, String, String) {
    let text = String::from_utf8_lossy(answer).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, head.to_ascii_lowercase(), body.to_owned())
}

fn get(address: SocketAddr, target: &str) -> (u16, serde_json::Value) {
    let (status, _, body) =
        raw(address, format!("GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes());
    (status, serde_json::from_str(&body).unwrap_or(serde_json::Value::Null))
}

fn post(address: SocketAddr, target: &str, kind: &str, body: &str) -> (u16, serde_json::Value) {
    let kind = if kind.is_empty() { String::new() } else { format!("content-type: {kind}\r\n") };
    let request = format!(
        "POST {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{kind}content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let (status, _, body) = raw(address, request.as_bytes());
    (status, serde_json::from_str(&body).unwrap_or(serde_json::Value::Null))
}

const JSON: &str = "application/json";

#[test]
fn vectors_and_batches() {
    let running = Running::start(|_| {});
    let address = running.server().address();
    let (status, answer) = post(address, "/features/vector", JSON, r#"{"user_id": "u12", "as_of": null}"#);
    assert_eq!(status, 200, "{answer}");
    let wanted = json!({
        "as_of": "2017-07-14T02:40:00.000001Z",
        "position": "default:0=12,1=34",
        "features": {"user_activity:letters": 3, "user_activity:mean": 0.1},
        "entities": {"user": {"status": "found", "event_time": "1970-01-01T00:00:00.000001Z"}},
        "versions": {"user_activity": "1.0.0+ab12cd34"},
        "views": {"user_activity": {"status": "found", "source": "online"}},
    });
    assert_eq!(answer, wanted);
    let (status, answer) = post(address, "/features/vector", "", r#"{"entities": {"user": 1234}, "request": {}}"#);
    assert_eq!((status, &answer["features"]["user_activity:letters"]), (200, &json!(4)));
    let body =
        r#"{"requests": [{"user_id": null}, {"user_id": "a", "as_of": "2001-01-01T00:00:00+01:00"}], "defaults": {}}"#;
    let (status, answer) = post(address, "/features/batch", "application/json; charset=utf-8", body);
    assert_eq!(status, 200);
    assert_eq!(answer["results"][0]["entities"]["user"], json!({"status": "not_found", "event_time": null}));
    assert_eq!(answer["results"][0]["features"]["user_activity:letters"], json!(null));
    assert_eq!(answer["results"][1]["as_of"], json!("2000-12-31T23:00:00.000000Z"));
    let batch: Batch = serde_json::from_value(answer).unwrap();
    assert_eq!((batch.results.len(), batch.results[1].views["user_activity"].source.as_str()), (2, "online"));
    assert_eq!(batch.results[1].position, "default:0=12,1=34");
    assert_eq!(post(address, "/features/batch", JSON, r#"{"requests": []}"#), (200, json!({"results": []})));
}

#[test]
fn one_entity_by_path() {
    let running = Running::start(|_| {});
    let address = running.server().address();
    let (status, answer) = get(address, "/features/user/a%2Fb?as_of=2001-01-01T00:00:00%2B01:00");
    assert_eq!((status, &answer["features"]["user_activity:letters"]), (200, &json!(3)));
    let (status, problem) = get(address, "/features/user/%3Fnobody");
    assert_eq!((status, &problem["type"]), (404, &json!("urn:plumb:entity-not-found")));
    let (status, problem) = get(address, "/features/usr/u1");
    assert_eq!(
        (status, &problem["type"], &problem["near"]),
        (404, &json!("urn:plumb:unknown-entity"), &json!(["user"]))
    );
    let (status, answer) = get(address, "/features/online/u1");
    let wanted = json!({
        "user_id": "u1", "as_of": "2017-07-14T02:40:00.000001Z", "position": "default:0=12,1=34",
        "features": {"user_activity:letters": 2, "user_activity:mean": 0.1}, "source": "online",
    });
    assert_eq!((status, answer), (200, wanted));
    let (status, answer) = get(address, "/features/offline/u1?as_of=2001-01-01T00:00:00Z&position=default:0=3");
    assert_eq!((status, &answer["source"], &answer["position"]), (200, &json!("offline"), &json!("default:0=3")));
}

#[test]
fn bad_requests_are_problems() {
    let running = Running::start(|options| options.batch_limit = 2);
    let address = running.server().address();
    let vector = "/features/vector";
    for (target, kind, body, status, kind_of, detail) in [
        (vector, JSON, "", 400, "invalid-request", "the body is not JSON: EOF"),
        (vector, JSON, "{", 400, "invalid-request", "the body is not JSON: EOF"),
        (vector, JSON, "[]", 400, "invalid-request", "the body must be a JSON object"),
        (vector, JSON, "{}", 400, "invalid-request", "no entity is given"),
        (vector, JSON, r#"{"entities": []}"#, 400, "invalid-request", "`entities` must be an object"),
        (
            vector,
            JSON,
            r#"{"entitys": {"user": "u"}}"#,
            400,
            "invalid-request",
            "unknown member `entitys`; did you mean `entities`?",
        ),
        (
            vector,
            JSON,
            r#"{"user_id": 1.5}"#,
            400,
            "invalid-request",
            "key `user_id` is 1.5, expected a string, an integer or null",
        ),
        (vector, JSON, r#"{"user_id": true}"#, 400, "invalid-request", "key `user_id` is true"),
        (vector, JSON, r#"{"user_id": "u", "features": "a:b"}"#, 400, "invalid-request", "`features` must be an array"),
        (vector, JSON, r#"{"user_id": "u", "features": [1]}"#, 400, "invalid-request", "feature 1 must be a name"),
        (vector, JSON, r#"{"user_id": "u", "request": 1}"#, 400, "invalid-request", "`request` must be an object"),
        (vector, JSON, r#"{"user_id": "u", "defaults": 1}"#, 400, "invalid-request", "`defaults` must be an object"),
        (vector, JSON, r#"{"user_id": "u", "as_of": 5}"#, 400, "invalid-as-of", "as_of \"5\" is no RFC 3339 time"),
        (vector, JSON, r#"{"user_id": "u", "as_of": "2026-01-31T12:00:00"}"#, 400, "invalid-as-of", "has no time zone"),
        (
            vector,
            JSON,
            r#"{"user_id": "u", "as_of": "2126-01-31T12:00:00Z"}"#,
            422,
            "future-as-of",
            "as_of 2126-01-31T12:00:00.000000Z is later than the server's clock",
        ),
        (vector, JSON, r#"{"user_id": "rebuilding"}"#, 503, "rebuilding", "every asked view is being rebuilt"),
        (vector, JSON, r#"{"user_id": "panic"}"#, 500, "internal", "plumb failed to answer; its log says why"),
        (
            vector,
            "text/plain",
            "{}",
            415,
            "unsupported-media-type",
            "content type `text/plain`, expected application/json",
        ),
        ("/features/vector?x=1", JSON, "{}", 400, "invalid-request", "unknown parameter `x`"),
        ("/features/batch", JSON, "{}", 400, "invalid-request", "the body needs `requests`"),
        ("/features/batch", JSON, r#"{"requests": {}}"#, 400, "invalid-request", "`requests` must be an array"),
        (
            "/features/batch",
            JSON,
            r#"{"requests": [{"user_id": "u"}, 7]}"#,
            400,
            "invalid-request",
            "requests[1]: it must be a JSON object",
        ),
        (
            "/features/batch",
            JSON,
            r#"{"requests": [{"user_id": "u"}, {"user_id": "rebuilding"}]}"#,
            503,
            "rebuilding",
            "requests[1]: every",
        ),
        (
            "/features/batch",
            JSON,
            r#"{"requests": [], "request": 1}"#,
            400,
            "invalid-request",
            "unknown member `request`",
        ),
        (
            "/features/batch",
            JSON,
            r#"{"requests": [1, 2, 3]}"#,
            413,
            "too-large",
            "3 requests in a batch, at most 2 are allowed",
        ),
        ("/nothing", JSON, "{}", 404, "no-such-route", "there is no `/nothing`"),
        ("/transforms", JSON, "{}", 404, "no-such-route", "`/transforms` is on another listener, serve.admin_listen"),
        ("/registry", JSON, "{}", 405, "method-not-allowed", "allowed here: GET, HEAD"),
    ] {
        let (got, problem) = post(address, target, kind, body);
        assert_eq!(
            (got, &problem["type"]),
            (status, &json!(format!("urn:plumb:{kind_of}"))),
            "{target} {body} {problem}"
        );
        assert_eq!(problem["status"], json!(status));
        let text = problem["detail"].as_str().unwrap();
        assert!(text.contains(detail), "{target} {body}\n  got     {text}\n  wanted  {detail}");
    }
    let (status, problem) = get(address, "/features/online/u?as_of=yesterday");
    assert_eq!((status, &problem["type"]), (400, &json!("urn:plumb:invalid-as-of")));
    let (status, problem) = get(address, "/features/offline/u?position=x");
    assert_eq!(status, 400, "{problem}");
    let (_, head, _) = raw(address, b"GET /events HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert!(head.contains("allow: post") && head.contains("content-type: application/problem+json"), "{head}");
}

#[test]
fn events_are_appended_or_their_line_is_named() {
    let running = Running::start(|_| {});
    let address = running.server().address();
    let one = r#"{"event_type":"view"}"#;
    let (status, answer) = post(address, "/events", JSON, one);
    assert_eq!((status, answer), (200, json!({"accepted": 1, "position": "default:0=1"})));
    let (status, _) = post(address, "/events?source=default", JSON, &format!("[{one},{one}]"));
    assert_eq!(status, 200);
    let (status, _) = post(address, "/events", "application/x-ndjson", &format!("{one}\n\n{one}\n"));
    assert_eq!(status, 200);
    assert_eq!(running.backend.appended.lock().unwrap().len(), 5);
    let bytes = "application/octet-stream";
    assert_eq!(post(address, "/events", bytes, one).0, 415, "a record as it is must be asked for");
    let whole = " event_type\n of two lines ";
    assert_eq!(post(address, "/events?as_is=true", bytes, whole).1["accepted"], json!(1));
    assert_eq!(running.backend.appended.lock().unwrap().pop().as_deref(), Some(whole));
    let (status, problem) = post(address, "/events", "application/x-ndjson", &format!("{one}\n\n{{}}\n"));
    assert_eq!((status, &problem["line"]), (400, &json!(3)));
    assert_eq!(problem["detail"], json!("line 3: missing field `event_type`"));
    let (status, problem) = post(address, "/events", "application/x-ndjson", &format!("{one}\n{{"));
    assert_eq!((status, &problem["line"]), (400, &json!(2)));
    let (status, problem) = post(address, "/events?source=clicks", JSON, one);
    assert_eq!((status, &problem["detail"]), (400, &json!("unknown source `clicks`")));
    assert_eq!(post(address, "/events", "text/csv", one).0, 415);
    assert_eq!(running.backend.appended.lock().unwrap().len(), 5, "a refused body appends nothing");
}

#[test]
fn registry_and_administration() {
    let running = Running::start(|_| {});
    let (address, admin) = (running.server().address(), running.server().admin_address());
    let (status, list) = get(address, "/registry");
    assert_eq!((status, &list["views"][0]["view"]), (200, &json!("user_activity")));
    let views: Views = serde_json::from_value(list).unwrap();
    assert_eq!((views.views[0].view.as_str(), views.views[0].entity.name.as_str()), ("user_activity", "user"));
    let (status, page) = get(address, "/registry/user_activity");
    assert_eq!((status, &page["version"], &page["state"]), (200, &json!("1.0.0+ab12cd34"), &json!("active")));
    let (status, page) = get(address, "/registry/user_activity/lineage");
    assert_eq!((status, &page["features"][0]["aggregates"][0]["operator"]), (200, &json!("count")));
    let (status, problem) = get(address, "/registry/usr_activity");
    assert_eq!((status, &problem["near"]), (404, &json!(["user_activity"])));
    for (query, found) in
        [("q=LETTERS", 1), ("q=zebra", 0), ("tag=activity&team=ranking&entity=user", 1), ("tag=x", 0), ("", 1)]
    {
        let (_, list) = get(address, &format!("/registry/search?{query}"));
        assert_eq!(list["views"].as_array().unwrap().len(), found, "{query}");
    }
    assert_eq!(get(admin, "/transforms").0, 200);
    assert_eq!(post(admin, "/transforms", "application/wasm", "good").0, 201);
    assert_eq!(post(admin, "/transforms", "application/wasm", "bad").1["detail"], json!("imports `wasi:clocks`"));
    assert_eq!(post(admin, "/transforms", "application/wasm", "conflict").0, 409);
    assert_eq!(post(admin, "/transforms/user_activity/rollback", "", "").1["view"], json!("user_activity"));
    assert_eq!(post(admin, "/transforms/other/rollback", "", "").0, 404);
    let (status, begun) =
        post(admin, "/materialize/state", "application/json", r#"{"from":"2026-01-31T12:00:00+01:00"}"#);
    assert_eq!(
        (status, &begun["state"], &begun["from"]),
        (202, &json!("running"), &json!("2026-01-31T11:00:00.000000Z"))
    );
    let read: Rebuild = serde_json::from_value(begun.clone()).unwrap();
    assert_eq!((read.state, read.to, read.id.as_str()), (RebuildState::Running, None, "m1"));
    assert_eq!((&begun["to"], &begun["events_read"], &begun["id"]), (&json!(null), &json!(1), &json!("m1")));
    for (body, why) in [
        (r#"{"from":"2026-01-31T12:00:00"}"#, "is no RFC 3339 time with a zone"),
        (r#"{"since":"2026-01-31T12:00:00Z"}"#, "unknown field `since`"),
        (r#"{"from":"2026-01-31T12:00:00Z","to":"2026-01-31T12:00:00Z"}"#, "it ends before it begins"),
    ] {
        let (status, problem) = post(admin, "/materialize/state", "application/json", body);
        assert_eq!(status, 400, "{body}");
        assert!(problem["detail"].as_str().unwrap().contains(why), "{problem}");
    }
    assert_eq!(get(admin, "/materialize/state").0, 404);
    let delete = |view: &str| {
        let request = format!("DELETE /transforms/{view} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let (status, _, body) = raw(admin, request.as_bytes());
        (status, body)
    };
    assert_eq!(delete("user_activity"), (200, json!({"retired": "user_activity"}).to_string()));
    assert_eq!(delete("other").0, 404);
    assert_eq!(post(admin, "/transforms", "application/wasm", "").0, 400);
    assert_eq!(post(admin, "/transforms", JSON, "good").0, 415);
    let (status, problem) = post(admin, "/commit", "", "");
    assert_eq!((status, &problem["detail"]), (503, &json!("the disk is full")));
}

#[test]
fn health_and_metrics() {
    let running = Running::start(|_| {});
    let server = running.server();
    for address in [server.address(), server.admin_address(), server.metrics_address()] {
        assert_eq!(get(address, "/health"), (200, json!({"status": "ok"})));
        let (status, ready) = get(address, "/ready");
        assert_eq!((status, &ready["dependencies"][1]["name"]), (503, &json!("offline_store")));
    }
    *running.backend.go.0.lock().unwrap() = true;
    assert_eq!(get(server.address(), "/ready").0, 200);
    assert_eq!(post(server.address(), "/features/vector", JSON, r#"{"user_id":"u"}"#).0, 200);
    let request = b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let (status, head, text) = raw(server.metrics_address(), request);
    assert_eq!(status, 200);
    assert!(head.contains("application/openmetrics-text"));
    for line in [
        "plumb_http_requests_total{route=\"/features/vector\",status=\"200\"} 1",
        "plumb_feature_reads_total{status=\"found\",source=\"online\"} 1",
        "plumb_events_total{source=\"default\",partition=\"3\",class=\"applied\"} 7",
        "plumb_watermark_timestamp_seconds{source=\"default\",partition=\"3\"} 1.5",
        "plumb_commit_age_seconds{source=\"default\",partition=\"3\"} 2.5",
        "plumb_state_bytes{view=\"user_activity\",version=\"\"} 198.0",
        "plumb_view_ready{view=\"user_activity\"} 1.0",
        "# EOF",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert!(!text.contains("kind=\"end\""), "an unknown end is not shown");
}

#[test]
fn half_sent_heads_are_closed() {
    let running = Running::start(|options| options.header_timeout = Duration::from_millis(200));
    let address = running.server().address();
    for half in ["", "G", "PRI * HT", "GET /health HTTP/1.1\r\nhost: x\r\n"] {
        let mut stream = connect(address);
        stream.write_all(half.as_bytes()).unwrap();
        let mut rest = Vec::new();
        // Ends, or is reset, within the timeout of reading; a hung connection would fail with `WouldBlock`.
        match stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{half:?}"),
        }
    }
    assert_eq!(get(address, "/health").0, 200);
}

#[test]
fn slow_bodies_and_slow_answers_end() {
    let running = Running::start(|options| options.request_timeout = Duration::from_millis(300));
    let address = running.server().address();
    let half = b"POST /features/vector HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{\"user_id\"";
    let (status, _, body) = raw(address, half);
    assert_eq!(status, 408, "{body}");
    let (status, problem) = post(address, "/features/vector", JSON, r#"{"user_id":"slow"}"#);
    assert_eq!((status, &problem["type"]), (503, &json!("urn:plumb:deadline")));
}

#[test]
fn bodies_over_the_limit_are_refused() {
    let running = Running::start(|options| {
        options.body_limit_bytes = 1_000;
        options.component_limit_bytes = 2_000;
    });
    let (address, admin) = (running.server().address(), running.server().admin_address());
    let (status, problem) = post(address, "/features/vector", JSON, &" ".repeat(1_001));
    assert_eq!((status, &problem["detail"]), (413, &json!("the body is larger than 1000 bytes")));
    assert_eq!(post(address, "/features/vector", JSON, &" ".repeat(1_000)).0, 400);
    assert_eq!(post(admin, "/transforms", "application/wasm", &"x".repeat(1_500)).0, 201);
    assert_eq!(post(admin, "/transforms", "application/wasm", &"x".repeat(3 << 20)).0, 413);
    // Without a length the limit is found on the way.
    let chunk = format!("3e8\r\n{}\r\n", "x".repeat(1_000));
    let chunked = format!(
        "POST /events HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n{}0\r\n\r\n",
        chunk.repeat(3)
    );
    assert_eq!(raw(address, chunked.as_bytes()).0, 413);
    // A length that will never come is refused at once, not waited for.
    let huge = "POST /events HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 10737418240\r\n\r\n";
    assert_eq!(raw(address, huge.as_bytes()).0, 413);
}

#[test]
fn malformed_http_is_refused() {
    let running = Running::start(|_| {});
    let address = running.server().address();
    assert_eq!(raw(address, b"nonsense\r\n\r\n").0, 400);
    assert_eq!(raw(address, b"GET /health HTTP/1.1\r\nhost: x\r\ncontent-length: x\r\n\r\n").0, 400);
    let long = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(100_000));
    assert!([400, 414, 431].contains(&raw(address, long.as_bytes()).0));
    assert_eq!(get(address, "/health").0, 200);
}

#[test]
fn connections_over_the_limit_are_closed() {
    let running = Running::start(|options| options.connection_limit = 1);
    let address = running.server().address();
    let mut first = connect(address);
    first.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut answer = [0; 12];
    first.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    let mut second = connect(address);
    let mut rest = Vec::new();
    assert_eq!(second.read_to_end(&mut rest).unwrap_or(0), 0, "the second connection is closed without a word");
}

#[test]
fn http2_is_spoken() {
    let running = Running::start(|_| {});
    let address = running.server().address();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let status = runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let io = hyper_util::rt::TokioIo::new(stream);
        let executor = hyper_util::rt::TokioExecutor::new();
        let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
        tokio::spawn(connection);
        let body = http_body_util::Full::new(bytes::Bytes::from_static(b"{\"user_id\":\"u\"}"));
        let request = hyper::Request::post(format!("http://{address}/features/vector")).body(body).unwrap();
        sender.send_request(request).await.unwrap().status()
    });
    assert_eq!(status, 200);
}

#[test]
fn a_stop_lets_open_requests_end() {
    let mut running = Running::start(|_| {});
    let address = running.server().address();
    let mut open = connect(address);
    let body = "{\"user_id\":\"slow\"}";
    let head = format!("POST /features/vector HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    open.write_all(head.as_bytes()).unwrap();
    // An answered request on another connection shows that the first was taken up before the stop.
    assert_eq!(get(address, "/health").0, 200);
    let server = running.server.take().unwrap();
    let stopping = std::thread::spawn(move || server.shutdown());
    *running.backend.go.0.lock().unwrap() = true;
    running.backend.go.1.notify_all();
    let mut answer = Vec::new();
    open.read_to_end(&mut answer).unwrap();
    assert_eq!(parts(&answer).0, 200);
    stopping.join().unwrap();
    assert!(TcpStream::connect(address).is_err(), "nothing listens any more");
}

#[test]
fn a_port_in_use_is_named() {
    let running = Running::start(|_| {});
    let taken = running.server().address().to_string();
    let options = ServerOptions { listen: taken.clone(), ..ServerOptions::default() };
    let error = Server::start(options, Arc::new(FakeBackend::default())).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot listen on {taken} (serve.listen): ")), "{error}");
}
