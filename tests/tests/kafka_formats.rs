//! Avro and Protobuf records from a real topic through a running `plumb`: the answers are those of the same events as
//! JSON, and a schema registry that is away makes records wait.

use plumb_testing::process::post;
use plumb_testing::service::kafka::{Kafka, Sent};
use plumb_testing::service::{eventually, skipped};
use plumb_testing::stream::{Member, Online, Stream};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// The id of the Avro schema, and of the Protobuf one.
const AVRO: u32 = 11;
const PROTOBUF: u32 = 12;

/// Speaks like a registry; the first requests are answered 503.
struct FakeRegistry {
    url: String,
    requests: Arc<AtomicUsize>,
}

impl FakeRegistry {
    fn start(failures: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (requests, failures) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(failures)));
        let counted = requests.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (counted, failures) = (counted.clone(), failures.clone());
                std::thread::spawn(move || serve(stream.unwrap(), &counted, &failures));
            }
        });
        Self { url, requests }
    }
}

fn serve(mut stream: TcpStream, requests: &AtomicUsize, failures: &AtomicU64) {
    let avro = json!({"type": "record", "name": "Event", "fields": [
        {"name": "event_id", "type": "string"},
        {"name": "event_time", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "user_id", "type": "string"},
        {"name": "item_id", "type": "string"},
        {"name": "event_type", "type": {"type": "enum", "name": "Kind", "symbols": ["view", "purchase"]}},
        {"name": "price", "type": ["null", "double"], "default": null},
    ]});
    let protobuf = r#"syntax = "proto3"; message Event { string event_id = 1; int64 event_time = 2; string user_id = 3;
        string item_id = 4; string event_type = 5; optional double price = 6; }"#;
    let mut lines = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut path = String::new();
        loop {
            let mut line = String::new();
            if lines.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if let Some(rest) = line.strip_prefix("GET ") {
                path = rest.split(' ').next().unwrap().to_owned();
            }
            if line.trim().is_empty() {
                break;
            }
        }
        requests.fetch_add(1, Ordering::SeqCst);
        let fail = failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        let (status, body) = match path.as_str() {
            _ if fail => (503, json!({"error_code": 50301, "message": "away"})),
            "/schemas/ids/11" => (200, json!({"schema": avro.to_string()})),
            "/schemas/ids/12" => (200, json!({"schema": protobuf, "schemaType": "PROTOBUF"})),
            _ => (404, json!({"error_code": 40403, "message": "Schema not found"})),
        };
        let body = body.to_string();
        let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

#[derive(Clone)]
struct Event {
    number: u64,
    time_ms: u64,
    purchase: bool,
    price: Option<f64>,
}

impl Event {
    fn all(from_ms: u64) -> Vec<Self> {
        let event = |number: u64| Self {
            number,
            time_ms: from_ms + number * 250,
            purchase: number.is_multiple_of(3),
            price: (!number.is_multiple_of(5)).then_some(number as f64 * 1.25),
        };
        (0..600).map(event).collect()
    }

    fn user(&self) -> String {
        format!("u{}", self.number % 7)
    }

    fn item(&self) -> String {
        format!("i{}", self.number % 4)
    }

    fn kind(&self) -> &'static str {
        if self.purchase { "purchase" } else { "view" }
    }

    fn json(&self) -> Vec<u8> {
        let Self { number, time_ms, price, .. } = self;
        json!({"event_id": format!("e{number}"), "event_time": time_ms, "user_id": self.user(), "item_id": self.item(),
               "event_type": self.kind(), "price": price})
        .to_string()
        .into_bytes()
    }

    fn avro(&self) -> Vec<u8> {
        let mut out = head(AVRO);
        let text = |out: &mut Vec<u8>, text: &str| {
            varint(out, (text.len() as u64) << 1);
            out.extend_from_slice(text.as_bytes());
        };
        text(&mut out, &format!("e{}", self.number));
        varint(&mut out, self.time_ms << 1);
        text(&mut out, &self.user());
        text(&mut out, &self.item());
        varint(&mut out, u64::from(self.purchase) << 1);
        match self.price {
            None => out.push(0),
            Some(price) => {
                out.push(2);
                out.extend_from_slice(&price.to_le_bytes());
            }
        }
        out
    }

    fn protobuf(&self) -> Vec<u8> {
        let mut out = head(PROTOBUF);
        // The first message of its file.
        out.push(0);
        let text = |out: &mut Vec<u8>, number: u8, text: &str| {
            out.push(number << 3 | 2);
            varint(out, text.len() as u64);
            out.extend_from_slice(text.as_bytes());
        };
        text(&mut out, 1, &format!("e{}", self.number));
        out.push(2 << 3);
        varint(&mut out, self.time_ms);
        text(&mut out, 3, &self.user());
        text(&mut out, 4, &self.item());
        text(&mut out, 5, self.kind());
        if let Some(price) = self.price {
            out.push(6 << 3 | 1);
            out.extend_from_slice(&price.to_le_bytes());
        }
        out
    }
}

fn head(schema: u32) -> Vec<u8> {
    [&[0], &schema.to_be_bytes()[..]].concat()
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Starts a process on a new topic with these records and waits until its views answer.
fn start(records: Vec<(String, Vec<u8>)>, lines: &str) -> (Stream, Member) {
    let mut job = Stream::new(Kafka::shared().clone(), Online::Embedded, 2);
    job.source_lines.push_str(lines);
    job.send(records.into_iter().map(|(user, value)| {
        let partition = Some(i32::from(user.as_bytes()[1] % 2));
        Sent { partition, key: Some(user.into_bytes()), value: Some(value), timestamp: None }
    }));
    let member = job.start("a");
    (job, member)
}

/// Every feature of every user and item at an instant, once all events are applied.
fn features(member: &Member, events: usize, as_of: &str) -> Vec<Value> {
    eventually("all events", || {
        let applied = member.metric("plumb_events_total", "class=\"applied\"")?;
        // A partition that has published nothing yet has no position of that kind, and no backlog either.
        let published = member.metric("plumb_position", "kind=\"published\"")?;
        let processed = member.metric("plumb_position", "kind=\"processed\"")?;
        (applied == events as f64 && published == processed).then_some(())
    });
    (0..7)
        .map(|number| {
            let body = json!({"user_id": format!("u{number}"), "item_id": format!("i{}", number % 4), "as_of": as_of});
            post(&member.address, "/features/vector", &body)["features"].clone()
        })
        .collect()
}

#[test]
fn kafka_records_of_avro_and_protobuf_give_the_answers_of_json() {
    if skipped("kafka_records_of_avro_and_protobuf_give_the_answers_of_json") {
        return;
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let end_ms = now.as_millis() as u64 - 10_000;
    let events = Event::all(end_ms - 600 * 250);
    let as_of = plumb_pipeline::decode::format_rfc3339(end_ms as i64 * 1_000);
    let of =
        |encode: fn(&Event) -> Vec<u8>| events.iter().map(|event| (event.user(), encode(event))).collect::<Vec<_>>();

    let (_json_job, json_member) = start(of(Event::json), "");
    let expected = features(&json_member, events.len(), &as_of);
    let count = expected[1]["user_activity:purchase_count_1h"].as_i64();
    assert!(count.is_some_and(|count| count > 10), "{}", expected[1]);
    assert_eq!(json_member.service.terminate(), Some(0));

    for (format, encode) in [("avro", Event::avro as fn(&Event) -> Vec<u8>), ("protobuf", Event::protobuf)] {
        // Several askings fail whole before one succeeds.
        let registry = FakeRegistry::start(9);
        let mut records = of(encode);
        let unknown = [head(99), b"whatever".to_vec()].concat();
        records.insert(100, ("u3".into(), unknown));
        let lines = format!("format = \"{format}\"\nregistry_url = \"{}\"\n", registry.url);
        let (_job, member) = start(records, &lines);
        assert_eq!(features(&member, events.len(), &as_of), expected, "{format}");
        assert_eq!(member.metric("plumb_dead_letters_total", "reason=\"schema\""), Some(1.0), "{format}");
        assert_eq!(
            member.metric("plumb_events_total", "class=\"rejected\""),
            Some(1.0),
            "{format}: none for a registry away"
        );
        let requests = registry.requests.load(Ordering::SeqCst);
        assert!((11..20).contains(&requests), "{format}: {requests} requests for two schemas and nine failures");
        assert_eq!(member.service.terminate(), Some(0));
    }
}
