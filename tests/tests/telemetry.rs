//! Logs and traces of a running service.

use plumb_testing::process::{PATIENCE, Service, post, request, settings};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// A span as it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Span {
    trace: Vec<u8>,
    id: Vec<u8>,
    parent: Vec<u8>,
    name: String,
    nanos: u64,
    attributes: BTreeSet<String>,
}

/// Takes traces by OTLP over HTTP, as a collector does.
struct FakeCollector {
    address: String,
    spans: Arc<Mutex<Vec<Span>>>,
}

impl FakeCollector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let spans = Arc::new(Mutex::new(Vec::new()));
        let received = spans.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let received = received.clone();
                std::thread::spawn(move || take(stream.unwrap(), &received));
            }
        });
        Self { address, spans }
    }

    fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap().clone()
    }
}

fn take(mut stream: TcpStream, spans: &Mutex<Vec<Span>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if line.trim().is_empty() {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            head.push_str(&line);
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        assert!(head.starts_with("POST /v1/traces HTTP/1.1"), "{head}");
        assert!(head.to_ascii_lowercase().contains("content-type: application/x-protobuf"), "{head}");
        spans.lock().unwrap().extend(decode(&body));
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
    }
}

/// A field of a Protobuf message: a number, or bytes.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let (first, rest) = bytes.split_first().unwrap();
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if *first < 0x80 {
            return value;
        }
    }
    unreachable!()
}

fn fields(mut bytes: &[u8]) -> Vec<(u64, Field<'_>)> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let mut cut = |length: usize| {
            let (taken, rest) = bytes.split_at(length);
            bytes = rest;
            taken
        };
        let field = match tag & 7 {
            0 => Field::Number(varint(&mut bytes)),
            1 => Field::Number(u64::from_le_bytes(cut(8).try_into().unwrap())),
            5 => Field::Number(u32::from_le_bytes(cut(4).try_into().unwrap()).into()),
            2 => {
                let length = varint(&mut bytes) as usize;
                let (taken, rest) = bytes.split_at(length);
                bytes = rest;
                Field::Bytes(taken)
            }
            wire => panic!("wire type {wire}"),
        };
        fields.push((tag >> 3, field));
    }
    fields
}

fn inner(bytes: &[u8], number: u64) -> Vec<&[u8]> {
    let wanted = |(found, field)| match field {
        Field::Bytes(bytes) if found == number => Some(bytes),
        _ => None,
    };
    fields(bytes).into_iter().filter_map(wanted).collect()
}

fn number(bytes: &[u8], number: u64) -> u64 {
    let wanted = |(found, field)| match field {
        Field::Number(value) if found == number => Some(value),
        _ => None,
    };
    fields(bytes).into_iter().find_map(wanted).unwrap_or_default()
}

/// The spans of an `ExportTraceServiceRequest`.
fn decode(body: &[u8]) -> Vec<Span> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let mut spans = Vec::new();
    for resource_spans in inner(body, 1) {
        let resource = inner(resource_spans, 1).concat();
        assert!(String::from_utf8_lossy(&resource).contains("service.name"), "the resource is named");
        for span in inner(resource_spans, 2).into_iter().flat_map(|scope| inner(scope, 2)) {
            let one = |field: u64| inner(span, field).first().map(|bytes| bytes.to_vec()).unwrap_or_default();
            spans.push(Span {
                trace: one(1),
                id: one(2),
                parent: one(4),
                name: text(&one(5)),
                nanos: number(span, 8) - number(span, 7),
                attributes: inner(span, 9).into_iter().map(|attribute| text(inner(attribute, 1)[0])).collect(),
            });
        }
    }
    spans
}

fn start(folder: &Path, telemetry: &str) -> (Service, String) {
    let extra = format!("[run]\nserve = true\ncommit_interval = \"200ms\"\n[telemetry]\n{telemetry}\n");
    let config = settings(folder, 2, &extra);
    let mut service = Service::start(folder, ["run", "--config", config.to_str().unwrap()]);
    let address = service.ready();
    (service, address)
}

fn purchase(address: &str) {
    let event =
        json!({"event_time": "2026-01-01T00:00:00Z", "user_id": "u1", "item_id": "i1", "event_type": "purchase"});
    let (status, text) = request(address, "POST", "/events", event.to_string().as_bytes()).unwrap();
    assert_eq!(status, 200, "{text}");
}

#[test]
fn traces_reach_a_collector() {
    let collector = FakeCollector::start();
    let folder = tempfile::tempdir().unwrap();
    let (service, address) = start(folder.path(), &format!("otlp_endpoint = \"http://{}\"", collector.address));
    let wanted = BTreeSet::from(["batch", "extract", "publish", "commit", "request", "finalize"]);
    let end = Instant::now() + PATIENCE;
    loop {
        purchase(&address);
        post(&address, "/features/vector", &json!({"user_id": "u1", "item_id": "i1"}));
        let spans = collector.spans();
        if wanted.iter().all(|name| spans.iter().any(|span| span.name == *name)) {
            break;
        }
        let found: BTreeSet<&str> = spans.iter().map(|span| span.name.as_str()).collect();
        assert!(Instant::now() < end, "received {found:?}");
    }
    assert_eq!(service.terminate(), Some(0));
    let spans = collector.spans();
    assert!(spans.iter().all(|span| wanted.contains(span.name.as_str())), "{spans:?}");
    let by_id: BTreeMap<&[u8], &Span> = spans.iter().map(|span| (span.id.as_slice(), span)).collect();
    assert_eq!(by_id.len(), spans.len());
    for span in &spans {
        let whole = by_id.get(span.parent.as_slice());
        let kinds = match span.name.as_str() {
            "extract" => ("batch", "view"),
            "finalize" => ("request", "rows"),
            "request" => ("", "status"),
            "commit" => ("", "bytes"),
            _ => ("", "partition"),
        };
        assert_eq!(whole.map_or("", |whole| whole.name.as_str()), kinds.0, "{span:?}");
        assert!(whole.is_none_or(|whole| whole.trace == span.trace && whole.nanos >= span.nanos), "{span:?}");
        assert!(span.attributes.contains(kinds.1), "{span:?}");
        assert!(
            !span.attributes.iter().any(|name| name.starts_with("thread.") || name.starts_with("code.")),
            "{span:?}"
        );
    }
}

#[test]
fn a_collector_that_is_away_stops_nothing() {
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (service, address) = start(folder.path(), &format!("otlp_endpoint = \"http://{unused}\""));
    purchase(&address);
    let end = Instant::now() + PATIENCE;
    loop {
        let answer = post(&address, "/features/vector", &json!({"user_id": "u1"}));
        if answer["views"]["user_activity"]["status"] == "found" {
            break;
        }
        assert!(Instant::now() < end, "{answer}");
    }
    let stopped = Instant::now();
    assert_eq!(service.terminate(), Some(0));
    assert!(stopped.elapsed().as_secs() < 10, "{:?}", stopped.elapsed());
}

#[test]
fn json_logs_are_one_object_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let (service, address) = start(folder.path(), "logs = \"json\"");
    purchase(&address);
    assert_eq!(service.terminate(), Some(0));
    // A second start, refused, tells why in the same way.
    let config = folder.path().join("plumb.toml");
    let text = std::fs::read_to_string(&config).unwrap().replace("user_activity.wasm", "missing.wasm");
    std::fs::write(&config, text).unwrap();
    let refused = plumb_testing::process::run(folder.path(), ["run", "--config", config.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(2));
    let log = std::fs::read_to_string(folder.path().join("service.log")).unwrap();
    let log = format!("{log}{}", String::from_utf8(refused.stderr).unwrap());
    let lines: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect();
    let field = |line: &Value, name: &str| line[name].as_str().unwrap_or_else(|| panic!("{name}: {line}")).to_owned();
    for line in &lines {
        for name in ["timestamp", "level", "message", "target"] {
            field(line, name);
        }
    }
    assert_eq!(field(&lines[0], "listen"), address);
    let last = lines.last().unwrap();
    assert_eq!(field(last, "level"), "ERROR");
    assert!(field(last, "message").contains("missing.wasm"), "{last}");
}
