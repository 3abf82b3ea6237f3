use crate::settings::{FormatSettings, RecordFormat, RegistrySettings};
use crate::{Formats, Registry};
use apache_avro::types::Value as Avro;
use apache_avro::{Schema, to_avro_datum};
use plumb_core::ErrorKind;
use plumb_core::column::DataType;
use plumb_core::event::{EventBatch, Field, SourceSchema};
use plumb_pipeline::Secret;
use plumb_pipeline::accept::AcceptRules;
use plumb_pipeline::decode::json::encode;
use plumb_pipeline::decode::{JsonDecoder, Record, RecordDecoder, TimeUnit};
use plumb_pipeline::port::SourceBatch;
use proptest::prelude::*;
use prost_reflect::prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, Value as Proto};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long anything may take before a test fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(60);

/// 2026-01-01T00:00:00Z in ms.
const NOW_MS: i64 = 1_767_225_600_000;

/// A registry on a free port, which ends with the test.
struct FakeRegistry {
    url: String,
    state: Arc<FakeState>,
}

#[derive(Default)]
struct FakeState {
    /// Status and body by path.
    answers: Mutex<BTreeMap<String, (u16, String)>>,
    /// The header that is asked for.
    authorization: Mutex<Option<String>>,
    /// So many requests are answered 503 first.
    failures: AtomicU64,
    requests: AtomicUsize,
}

impl FakeRegistry {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(FakeState::default());
        let served = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let served = served.clone();
                std::thread::spawn(move || serve(stream.unwrap(), &served));
            }
        });
        Self { url, state }
    }

    fn answer(&self, path: &str, status: u16, body: serde_json::Value) {
        self.state.answers.lock().unwrap().insert(path.to_owned(), (status, body.to_string()));
    }

    fn schema(&self, id: u32, kind: &str, text: &str) {
        let answer = match kind {
            // As registries answer for the default.
            "AVRO" => json!({"schema": text}),
            kind => json!({"schema": text, "schemaType": kind}),
        };
        self.answer(&format!("/schemas/ids/{id}"), 200, answer);
    }

    fn settings(&self, format: RecordFormat) -> FormatSettings {
        let registry = RegistrySettings { url: self.url.clone(), credentials: None, tls_ca: None };
        FormatSettings { format, registry: Some(registry), message: None }
    }

    fn requests(&self) -> usize {
        self.state.requests.load(Ordering::SeqCst)
    }
}

fn serve(stream: TcpStream, state: &FakeState) {
    let mut lines = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if lines.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if line.trim().is_empty() {
                break;
            }
            head.push(line.trim().to_owned());
        }
        state.requests.fetch_add(1, Ordering::SeqCst);
        let path = head[0].split(' ').nth(1).unwrap().to_owned();
        let wanted = state.authorization.lock().unwrap().clone();
        let given = head.iter().find_map(|line| line.strip_prefix("authorization: "));
        let fail = state.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        let (status, body) = match state.answers.lock().unwrap().get(&path) {
            _ if fail => (503, "{}".to_owned()),
            _ if wanted.is_some() && wanted.as_deref() != given => (401, r#"{"error_code":401}"#.to_owned()),
            Some(answer) => answer.clone(),
            None => (404, r#"{"error_code":40403,"message":"Schema not found"}"#.to_owned()),
        };
        let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn field(name: &str, data_type: DataType, required: bool) -> Field {
    Field { name: name.into(), data_type, required }
}

/// A source with a field of every type.
fn every_type() -> Arc<SourceSchema> {
    Arc::new(SourceSchema {
        source: "default".into(),
        time_field: "event_time".into(),
        id_field: "event_id".into(),
        key_field: "user_id".into(),
        fields: vec![
            field("user_id", DataType::Utf8, false),
            field("event_type", DataType::Utf8, true),
            field("price", DataType::F64, false),
            field("quantity", DataType::I64, false),
            field("member", DataType::Bool, false),
            field("token", DataType::Bytes, false),
            field("ordered_at", DataType::Timestamp, false),
        ],
    })
}

fn empty(schema: &Arc<SourceSchema>) -> SourceBatch {
    SourceBatch { events: EventBatch::new(schema.clone()), rejected: Vec::new(), next_offset: 0 }
}

fn framed(id: u32, body: &[u8]) -> Vec<u8> {
    [&[0], &id.to_be_bytes()[..], body].concat()
}

/// Decodes as a partition's reader does: what is to be tried again is tried again.
fn decode(decoder: &mut dyn RecordDecoder, batch: &mut SourceBatch, bytes: &[u8]) {
    let record = Record { offset: batch.next_offset, record_time_us: NOW_MS * 1_000, bytes };
    let end = Instant::now() + PATIENCE;
    while let Err(error) = decoder.decode_into(batch, record) {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(Instant::now() < end, "{error}");
    }
}

fn decoder(settings: &FormatSettings, schema: &Arc<SourceSchema>) -> Box<dyn RecordDecoder> {
    Formats::new(settings, schema.clone(), TimeUnit::Ms, AcceptRules::default()).unwrap().decoder()
}

/// The JSON of the only row, or why there is none.
fn outcome(decoder: &mut dyn RecordDecoder, schema: &Arc<SourceSchema>, bytes: &[u8]) -> Result<String, String> {
    let mut batch = empty(schema);
    decode(decoder, &mut batch, bytes);
    assert_eq!(batch.events.len() + batch.rejected.len(), 1);
    assert!(batch.events.columns.iter().all(|column| column.len() == batch.events.len()), "columns are of one length");
    match batch.rejected.pop() {
        Some(rejected) => {
            assert_eq!(rejected.bytes, bytes);
            Err(rejected.reason)
        }
        None => {
            let mut json = Vec::new();
            encode(&batch.events, 0, &mut json);
            Ok(String::from_utf8(json).unwrap())
        }
    }
}

const AVRO: &str = r#"{"type": "record", "name": "Event", "namespace": "shop", "fields": [
    {"name": "event_id", "type": ["null", "string"], "default": null},
    {"name": "event_time", "type": {"type": "long", "logicalType": "timestamp-micros"}},
    {"name": "user_id", "type": ["null", "string"]},
    {"name": "event_type", "type": "string"},
    {"name": "price", "type": ["null", "double"]},
    {"name": "quantity", "type": ["null", "long"]},
    {"name": "member", "type": ["null", "boolean"]},
    {"name": "token", "type": ["null", "bytes"]},
    {"name": "ordered_at", "type": ["null", {"type": "long", "logicalType": "timestamp-micros"}]}
]}"#;

const PROTOBUF: &str = r#"
    syntax = "proto3";
    package shop;
    import "google/protobuf/timestamp.proto";
    message Event {
        optional string event_id = 1;
        google.protobuf.Timestamp event_time = 2;
        optional string user_id = 3;
        string event_type = 4;
        optional double price = 5;
        optional int64 quantity = 16;
        optional bool member = 7;
        optional bytes token = 8;
        google.protobuf.Timestamp ordered_at = 9;
    }"#;

/// An event with everything it may have.
#[derive(Debug, Clone)]
struct Event {
    event_id: Option<String>,
    time_us: i64,
    user_id: Option<String>,
    event_type: String,
    price: Option<f64>,
    quantity: Option<i64>,
    member: Option<bool>,
    token: Option<Vec<u8>>,
    ordered_at: Option<i64>,
}

fn event() -> impl Strategy<Value = Event> {
    let time = 662_688_000_000_000..NOW_MS * 1_000;
    let text = || prop::option::of(".{0,12}");
    let price = prop::num::f64::NORMAL | prop::num::f64::ZERO | prop::num::f64::SUBNORMAL;
    (
        (text(), time.clone(), text(), ".{1,9}", prop::option::of(price), prop::option::of(any::<i64>())),
        (
            prop::option::of(any::<bool>()),
            prop::option::of(prop::collection::vec(any::<u8>(), 0..20)),
            prop::option::of(time),
        ),
    )
        .prop_map(|((event_id, time_us, user_id, event_type, price, quantity), (member, token, ordered_at))| {
            Event { event_id, time_us, user_id, event_type, price, quantity, member, token, ordered_at }
        })
}

impl Event {
    fn json(&self) -> Vec<u8> {
        use base64::Engine as _;
        let token = self.token.as_ref().map(|token| base64::engine::general_purpose::STANDARD.encode(token));
        let instant = |us: i64| plumb_pipeline::decode::format_rfc3339(us);
        json!({
            "event_id": self.event_id, "event_time": instant(self.time_us), "user_id": self.user_id,
            "event_type": self.event_type, "price": self.price, "quantity": self.quantity, "member": self.member,
            "token": token, "ordered_at": self.ordered_at.map(instant),
        })
        .to_string()
        .into_bytes()
    }

    fn avro(&self, schema: &Schema) -> Vec<u8> {
        let or_null = |value: Option<Avro>| match value {
            Some(value) => Avro::Union(1, Box::new(value)),
            None => Avro::Union(0, Box::new(Avro::Null)),
        };
        let fields = vec![
            ("event_id".to_owned(), or_null(self.event_id.clone().map(Avro::String))),
            ("event_time".to_owned(), Avro::TimestampMicros(self.time_us)),
            ("user_id".to_owned(), or_null(self.user_id.clone().map(Avro::String))),
            ("event_type".to_owned(), Avro::String(self.event_type.clone())),
            ("price".to_owned(), or_null(self.price.map(Avro::Double))),
            ("quantity".to_owned(), or_null(self.quantity.map(Avro::Long))),
            ("member".to_owned(), or_null(self.member.map(Avro::Boolean))),
            ("token".to_owned(), or_null(self.token.clone().map(Avro::Bytes))),
            ("ordered_at".to_owned(), or_null(self.ordered_at.map(Avro::TimestampMicros))),
        ];
        to_avro_datum(schema, Avro::Record(fields)).unwrap()
    }

    fn protobuf(&self, pool: &DescriptorPool) -> Vec<u8> {
        let mut message = DynamicMessage::new(pool.get_message_by_name("shop.Event").unwrap());
        let instant = |us: i64| {
            let mut stamp = DynamicMessage::new(pool.get_message_by_name("google.protobuf.Timestamp").unwrap());
            stamp.set_field_by_name("seconds", Proto::I64(us.div_euclid(1_000_000)));
            stamp.set_field_by_name("nanos", Proto::I32(us.rem_euclid(1_000_000) as i32 * 1_000));
            Proto::Message(stamp)
        };
        let mut set = |name: &str, value: Option<Proto>| {
            if let Some(value) = value {
                message.set_field_by_name(name, value);
            }
        };
        set("event_id", self.event_id.clone().map(Proto::String));
        set("event_time", Some(instant(self.time_us)));
        set("user_id", self.user_id.clone().map(Proto::String));
        set("event_type", Some(Proto::String(self.event_type.clone())));
        set("price", self.price.map(Proto::F64));
        set("quantity", self.quantity.map(Proto::I64));
        set("member", self.member.map(Proto::Bool));
        set("token", self.token.clone().map(|token| Proto::Bytes(token.into())));
        set("ordered_at", self.ordered_at.map(instant));
        message.encode_to_vec()
    }
}

/// The compiled messages of a file without imports of its own.
fn pool(text: &str) -> DescriptorPool {
    struct One(String);
    impl protox::file::FileResolver for One {
        fn open_file(&self, name: &str) -> Result<protox::file::File, protox::Error> {
            match name {
                "one.proto" => protox::file::File::from_source(name, &self.0),
                _ => protox::file::GoogleFileResolver::new().open_file(name),
            }
        }
    }
    let mut compiler = protox::Compiler::with_file_resolver(One(text.to_owned()));
    compiler.open_file("one.proto").unwrap().descriptor_pool()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn an_event_is_the_same_in_every_format(events in prop::collection::vec(event(), 1..20)) {
        let registry = FakeRegistry::start();
        registry.schema(7, "AVRO", AVRO);
        registry.schema(8, "PROTOBUF", PROTOBUF);
        let schema = every_type();
        let (avro_schema, pool) = (Schema::parse_str(AVRO).unwrap(), pool(PROTOBUF));
        let mut json = JsonDecoder::new(schema.clone(), TimeUnit::Ms).with_rules(AcceptRules::default());
        let mut avro = decoder(&registry.settings(RecordFormat::Avro), &schema);
        let mut protobuf = decoder(&registry.settings(RecordFormat::Protobuf), &schema);
        let mut batches = [empty(&schema), empty(&schema), empty(&schema)];
        for event in &events {
            decode(&mut json, &mut batches[0], &event.json());
            decode(avro.as_mut(), &mut batches[1], &framed(7, &event.avro(&avro_schema)));
            decode(protobuf.as_mut(), &mut batches[2], &framed(8, &[&[0], &event.protobuf(&pool)[..]].concat()));
        }
        prop_assert_eq!(batches[0].events.len(), events.len(), "{:?}", batches[0].rejected);
        prop_assert_eq!(&batches[0], &batches[1]);
        prop_assert_eq!(&batches[0], &batches[2]);
    }

    #[test]
    fn no_bytes_make_a_decoder_panic_or_leave_half_a_row(body in prop::collection::vec(any::<u8>(), 0..80)) {
        let registry = FakeRegistry::start();
        registry.schema(7, "AVRO", SKIPPED);
        registry.schema(8, "PROTOBUF", PROTOBUF);
        let schema = every_type();
        for (id, format) in [(7, RecordFormat::Avro), (8, RecordFormat::Protobuf)] {
            let mut decoder = decoder(&registry.settings(format), &schema);
            let _verdict = outcome(decoder.as_mut(), &schema, &framed(id, &body));
            let _verdict = outcome(decoder.as_mut(), &schema, &body);
        }
    }
}

#[test]
fn golden_records() {
    let registry = FakeRegistry::start();
    registry.schema(7, "AVRO", AVRO);
    registry.schema(0x0102_0304, "PROTOBUF", PROTOBUF);
    let schema = every_type();
    let expected = r#"{"event_id":"e1","event_time":"2025-01-01T00:00:00.000001Z","user_id":"u","event_type":"buy","price":1.5,"quantity":-3,"member":true,"token":"/w==","ordered_at":"2025-01-01T00:00:00.000000Z"}"#;
    let avro = b"\x00\x00\x00\x00\x07\
        \x02\x04e1\
        \x82\x80\xe3\xa0\xb7\xa6\x95\x06\
        \x02\x02u\
        \x06buy\
        \x02\x00\x00\x00\x00\x00\x00\xf8\x3f\
        \x02\x05\
        \x02\x01\
        \x02\x02\xff\
        \x02\x80\x80\xe3\xa0\xb7\xa6\x95\x06";
    let mut decoder_of_avro = decoder(&registry.settings(RecordFormat::Avro), &schema);
    assert_eq!(outcome(decoder_of_avro.as_mut(), &schema, avro).as_deref(), Ok(expected));
    let protobuf = b"\x00\x01\x02\x03\x04\x00\
        \x0a\x02e1\
        \x12\x09\x08\x80\x8b\xd2\xbb\x06\x10\xe8\x07\
        \x1a\x01u\
        \x22\x03buy\
        \x29\x00\x00\x00\x00\x00\x00\xf8\x3f\
        \x38\x01\
        \x42\x01\xff\
        \x4a\x06\x08\x80\x8b\xd2\xbb\x06\
        \x80\x01\xfd\xff\xff\xff\xff\xff\xff\xff\xff\x01";
    let mut decoder_of_protobuf = decoder(&registry.settings(RecordFormat::Protobuf), &schema);
    assert_eq!(outcome(decoder_of_protobuf.as_mut(), &schema, protobuf).as_deref(), Ok(expected));
    // Cut anywhere, a record is refused or, at the end of a field, lacks what follows; it is never something else.
    for end in 0..avro.len() {
        let reason = outcome(decoder_of_avro.as_mut(), &schema, &avro[..end]).unwrap_err();
        assert!(reason.starts_with("not Avro: ") || reason.starts_with("no registry record: "), "{end}: {reason}");
    }
    for end in 0..protobuf.len() {
        match outcome(decoder_of_protobuf.as_mut(), &schema, &protobuf[..end]) {
            Ok(row) => {
                let whole: serde_json::Value = serde_json::from_str(expected).unwrap();
                let row: serde_json::Value = serde_json::from_str(&row).unwrap();
                for (name, value) in row.as_object().unwrap() {
                    // Cut between two fields it is a message without the rest; what it has is as it was.
                    assert_eq!(*value, whole[name], "{end}: {name}");
                }
            }
            Err(reason) => {
                let known = ["not Protobuf: ", "no registry record: ", "missing field `event_t"];
                assert!(known.iter().any(|known| reason.starts_with(known)), "{end}: {reason}");
            }
        }
    }
}

/// Fields of every type that nobody declared, around the ones that are.
const SKIPPED: &str = r#"{"type": "record", "name": "Event", "fields": [
    {"name": "a", "type": {"type": "array", "items": {"type": "map", "values": "long"}}},
    {"name": "b", "type": {"type": "record", "name": "B", "namespace": "x", "fields": [
        {"name": "event_type", "type": "string"}, {"name": "next", "type": ["null", "B"]}]}},
    {"name": "c", "type": {"type": "fixed", "name": "C", "size": 3}},
    {"name": "d", "type": ["null", "x.B", "C", "float"]},
    {"name": "event_time", "type": "long"},
    {"name": "e", "type": {"type": "enum", "name": "E", "symbols": ["no", "yes"]}},
    {"name": "f", "type": {"type": "array", "items": "null"}},
    {"name": "event_type", "type": "E"},
    {"name": "g", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
    {"name": "h", "type": {"type": "int", "logicalType": "date"}},
    {"name": "i", "type": {"type": "string", "logicalType": "uuid"}},
    {"name": "j", "type": "double"},
    {"name": "k", "type": "boolean"}
]}"#;

#[test]
fn fields_nobody_declared_are_passed_over() {
    let registry = FakeRegistry::start();
    registry.schema(1, "AVRO", SKIPPED);
    let schema = every_type();
    let mut decoder = decoder(&registry.settings(RecordFormat::Avro), &schema);
    let parsed = Schema::parse_str(SKIPPED).unwrap();
    let b = |next: Avro| Avro::Record(vec![("event_type".into(), Avro::String("inner".into())), ("next".into(), next)]);
    let inner = b(Avro::Union(1, Box::new(b(Avro::Union(0, Box::new(Avro::Null))))));
    let map = Avro::Map([("k".to_owned(), Avro::Long(5)), ("l".to_owned(), Avro::Long(-5))].into());
    let record = |nulls: usize| {
        Avro::Record(vec![
            ("a".into(), Avro::Array(vec![map.clone(), map.clone()])),
            ("b".into(), inner.clone()),
            ("c".into(), Avro::Fixed(3, vec![1, 2, 3])),
            ("d".into(), Avro::Union(1, Box::new(inner.clone()))),
            ("event_time".into(), Avro::Long(NOW_MS)),
            ("e".into(), Avro::Enum(0, "no".into())),
            ("f".into(), Avro::Array(vec![Avro::Null; nulls])),
            ("event_type".into(), Avro::Enum(1, "yes".into())),
            ("g".into(), Avro::Decimal(apache_avro::Decimal::from(vec![1, 2]))),
            ("h".into(), Avro::Date(20_000)),
            ("i".into(), Avro::String("c0ffee00-0000-4000-8000-000000000000".into())),
            ("j".into(), Avro::Double(1.0)),
            ("k".into(), Avro::Boolean(true)),
        ])
    };
    let bytes = framed(1, &to_avro_datum(&parsed, record(3)).unwrap());
    let expected = r#"{"event_time":"2026-01-01T00:00:00.000000Z","event_type":"yes"}"#;
    assert_eq!(outcome(decoder.as_mut(), &schema, &bytes).as_deref(), Ok(expected));
    // A few bytes must not keep a worker busy for ever.
    let bomb = framed(1, &to_avro_datum(&parsed, record(2_000)).unwrap());
    let reason = outcome(decoder.as_mut(), &schema, &bomb).unwrap_err();
    assert_eq!(reason, "not Avro: more values than it has bytes");
}

/// What becomes of a field of another type, by its Avro schema.
fn avro_field(name: &str, schema: &str, value: Avro) -> Result<String, String> {
    let registry = FakeRegistry::start();
    let text = format!(
        r#"{{"type": "record", "name": "Event", "fields": [
            {{"name": "event_time", "type": {{"type": "long", "logicalType": "timestamp-millis"}}}},
            {{"name": "event_type", "type": "string"}}, {{"name": "{name}", "type": {schema}}}]}}"#
    );
    registry.schema(1, "AVRO", &text);
    let record = Avro::Record(vec![
        ("event_time".into(), Avro::TimestampMillis(NOW_MS)),
        ("event_type".into(), Avro::String("buy".into())),
        (name.into(), value),
    ]);
    let bytes = framed(1, &to_avro_datum(&Schema::parse_str(&text).unwrap(), record).unwrap());
    let source = every_type();
    let mut decoder = decoder(&registry.settings(RecordFormat::Avro), &source);
    let row = outcome(decoder.as_mut(), &source, &bytes)?;
    let others = [r#""event_time":"2026-01-01T00:00:00.000000Z","#, r#","event_type":"buy""#, r#""event_type":"buy""#];
    Ok(others.iter().fold(row, |row, other| row.replace(other, "")).replace("{,", "{"))
}

#[test]
fn avro_types_meet_declared_types() {
    let decimal = |bytes: &[u8]| Avro::Decimal(apache_avro::Decimal::from(bytes));
    let decimal_schema = r#"{"type": "bytes", "logicalType": "decimal", "precision": 30, "scale": 2}"#;
    let uuid = Avro::Uuid("c0ffee00-0000-4000-8000-000000000000".parse().unwrap());
    for (name, schema, value, expected) in [
        ("price", r#""int""#, Avro::Int(3), r#""price":3.0"#),
        ("price", r#""float""#, Avro::Float(0.5), r#""price":0.5"#),
        ("price", decimal_schema, decimal(&[0x30, 0x39]), r#""price":123.45"#),
        ("price", decimal_schema, decimal(&[0xff]), r#""price":-0.01"#),
        ("quantity", r#""int""#, Avro::Int(-3), r#""quantity":-3"#),
        ("user_id", r#""long""#, Avro::Long(42), r#""user_id":"42""#),
        (
            "user_id",
            r#"{"type": "string", "logicalType": "uuid"}"#,
            uuid,
            r#""user_id":"c0ffee00-0000-4000-8000-000000000000""#,
        ),
        ("token", r#"{"type": "fixed", "name": "T", "size": 1}"#, Avro::Fixed(1, vec![255]), r#""token":"/w==""#),
        ("ordered_at", r#""long""#, Avro::Long(1_000), r#""ordered_at":"1970-01-01T00:00:01.000000Z""#),
        (
            "ordered_at",
            r#"{"type": "long", "logicalType": "timestamp-nanos"}"#,
            Avro::TimestampNanos(1_999),
            r#""ordered_at":"1970-01-01T00:00:00.000001Z""#,
        ),
        (
            "ordered_at",
            r#"{"type": "long", "logicalType": "local-timestamp-millis"}"#,
            Avro::LocalTimestampMillis(1),
            r#""ordered_at":"1970-01-01T00:00:00.001000Z""#,
        ),
        (
            "ordered_at",
            r#""string""#,
            Avro::String("1970-01-01T01:00:00+01:00".into()),
            r#""ordered_at":"1970-01-01T00:00:00.000000Z""#,
        ),
        ("price", r#"["null", "string", "double"]"#, Avro::Union(2, Box::new(Avro::Double(2.0))), r#""price":2.0"#),
        ("unknown", r#"{"type": "array", "items": "int"}"#, Avro::Array(vec![Avro::Int(1)]), ""),
    ] {
        assert_eq!(avro_field(name, schema, value), Ok(format!("{{{expected}}}")), "{name}: {schema}");
    }
    for (name, schema, value, expected) in [
        (
            "price",
            r#""string""#,
            Avro::String("1.5".into()),
            "field `price`: expected a number, found the string `1.5`",
        ),
        (
            "price",
            r#"["null", "string", "double"]"#,
            Avro::Union(1, Box::new(Avro::String("x".into()))),
            "field `price`: expected a number, found the string `x`",
        ),
        (
            "price",
            decimal_schema,
            decimal(&[1; 17]),
            "field `price`: expected a number, found a decimal of more than 128 bits",
        ),
        ("quantity", decimal_schema, decimal(&[1]), "field `quantity`: expected an integer, found a decimal"),
        ("quantity", r#""double""#, Avro::Double(1.0), "field `quantity`: expected an integer, found the number 1"),
        ("member", r#""int""#, Avro::Int(1), "field `member`: expected true or false, found the number 1"),
        (
            "user_id",
            r#""bytes""#,
            Avro::Bytes(vec![1, 2]),
            "field `user_id`: expected a string or an integer, found 2 bytes",
        ),
        (
            "ordered_at",
            r#"{"type": "int", "logicalType": "date"}"#,
            Avro::Date(1),
            "field `ordered_at`: expected an instant, an RFC 3339 string or an integer, found a date",
        ),
        (
            "ordered_at",
            r#""string""#,
            Avro::String("today".into()),
            "field `ordered_at`: `today` is no RFC 3339 instant",
        ),
        (
            "user_id",
            r#"{"type": "array", "items": "string"}"#,
            Avro::Array(vec![]),
            "field `user_id`: expected a string or an integer, found an array",
        ),
        (
            "user_id",
            r#"{"type": "record", "name": "U", "fields": []}"#,
            Avro::Record(vec![]),
            "field `user_id`: expected a string or an integer, found a record",
        ),
    ] {
        assert_eq!(avro_field(name, schema, value).unwrap_err(), expected, "{name}: {schema}");
    }
}

#[test]
fn what_a_writer_does_not_have_is_null_and_what_is_required_must_be_there() {
    let registry = FakeRegistry::start();
    registry.schema(1, "AVRO", r#"{"type":"record","name":"E","fields":[{"name":"event_time","type":"long"}]}"#);
    registry.schema(2, "AVRO", r#"{"type":"record","name":"E","fields":[{"name":"event_type","type":"string"}]}"#);
    registry.schema(3, "AVRO", r#""string""#);
    registry.schema(4, "AVRO", "{");
    registry.schema(5, "JSON", "{}");
    registry.schema(6, "AVRO", r#"[{"type":"record","name":"A","fields":[{"name":"x","type":"int"}]},
        {"type":"record","name":"E","fields":[{"name":"event_time","type":"long"},{"name":"event_type","type":"string"}]}]"#);
    let schema = every_type();
    let mut decoder = decoder(&registry.settings(RecordFormat::Avro), &schema);
    let mut reason = |id: u32, body: &[u8]| outcome(decoder.as_mut(), &schema, &framed(id, body));
    assert_eq!(reason(1, b"\x02").unwrap_err(), "missing field `event_type`");
    assert_eq!(reason(2, b"\x06buy").unwrap_err(), "missing field `event_time`");
    assert_eq!(reason(2, b"\x06buyx").unwrap_err(), "not Avro: 1 bytes are left after the record");
    assert_eq!(reason(3, b"\x02a").unwrap_err(), "schema 3: it is no record");
    assert!(reason(4, b"").unwrap_err().starts_with("schema 4: not an Avro schema: "));
    assert_eq!(reason(5, b"").unwrap_err(), "schema 5: it is not of format \"avro\"");
    assert_eq!(reason(9, b"").unwrap_err(), "schema 9 is unknown to the registry");
    let time = [&[2][..], &to_avro_datum(&Schema::Long, Avro::Long(NOW_MS)).unwrap(), b"\x06buy"].concat();
    assert_eq!(reason(6, &time).unwrap(), r#"{"event_time":"2026-01-01T00:00:00.000000Z","event_type":"buy"}"#);
    assert!(reason(1, &to_avro_datum(&Schema::Long, Avro::Long(NOW_MS / 1_000)).unwrap()).is_err());
    let asked = registry.requests();
    assert_eq!(reason(9, b"").unwrap_err(), "schema 9 is unknown to the registry");
    assert_eq!(registry.requests(), asked, "an unknown id is not asked for with every record");
}

#[test]
fn seconds_read_as_milliseconds_are_refused_with_the_records_own_bytes() {
    let registry = FakeRegistry::start();
    let text = r#"{"type":"record","name":"E","fields":[{"name":"event_time","type":"long"},{"name":"event_type","type":"string"}]}"#;
    registry.schema(1, "AVRO", text);
    let schema = every_type();
    let mut decoder = decoder(&registry.settings(RecordFormat::Avro), &schema);
    let seconds = to_avro_datum(&Schema::Long, Avro::Long(NOW_MS / 1_000)).unwrap();
    let reason = outcome(decoder.as_mut(), &schema, &framed(1, &[&seconds[..], b"\x06buy"].concat())).unwrap_err();
    assert!(reason.contains("is before min_time"), "{reason}");
}

#[test]
fn references_are_fetched_with_the_schema() {
    let registry = FakeRegistry::start();
    let avro = r#"{"type":"record","name":"E","namespace":"shop","fields":[{"name":"event_time","type":"long"},
        {"name":"event_type","type":"shop.Kind"},{"name":"price","type":["null","money.Amount"]}]}"#;
    let reference =
        |name: &str, subject: &str, version: u32| json!({"name": name, "subject": subject, "version": version});
    registry.answer("/schemas/ids/1", 200, json!({"schema": avro, "references": [reference("shop.Kind", "kinds/a", 3), reference("money.Amount", "amount", 1)]}));
    registry.answer(
        "/subjects/kinds%2Fa/versions/3",
        200,
        json!({"schema": r#"{"type":"enum","name":"Kind","namespace":"shop","symbols":["view","buy"]}"#}),
    );
    registry.answer("/subjects/amount/versions/1", 200, json!({"schema": r#"{"type":"fixed","name":"Amount","namespace":"money","size":4,"logicalType":"decimal","precision":9,"scale":2}"#}));
    let schema = every_type();
    let mut decoder_of_avro = decoder(&registry.settings(RecordFormat::Avro), &schema);
    let time = to_avro_datum(&Schema::Long, Avro::Long(NOW_MS)).unwrap();
    let bytes = framed(1, &[&time[..], b"\x02\x02\x00\x00\x00\xfa"].concat());
    let expected = r#"{"event_time":"2026-01-01T00:00:00.000000Z","event_type":"buy","price":2.5}"#;
    assert_eq!(outcome(decoder_of_avro.as_mut(), &schema, &bytes).as_deref(), Ok(expected));

    let main = r#"syntax = "proto3"; package shop; import "kinds.proto"; import "google/protobuf/wrappers.proto";
        message Other {} message Outer { map<string, int32> m = 1; message Event {
            int64 event_time = 1; kinds.Kind event_type = 2; google.protobuf.DoubleValue price = 3; kinds.Place user_id = 4; } }"#;
    let kinds = r#"syntax = "proto3"; package kinds; import "place.proto"; enum Kind { VIEW = 0; BUY = 1; } message Place { where.Point p = 1; }"#;
    let place = r#"syntax = "proto3"; package where; message Point { double x = 1; }"#;
    registry.answer(
        "/schemas/ids/2",
        200,
        json!({"schema": main, "schemaType": "PROTOBUF", "references": [reference("kinds.proto", "kinds", 1)]}),
    );
    registry.answer(
        "/subjects/kinds/versions/1",
        200,
        json!({"schema": kinds, "references": [reference("place.proto", "place", 7)]}),
    );
    registry.answer("/subjects/place/versions/7", 200, json!({"schema": place}));
    let mut settings = registry.settings(RecordFormat::Protobuf);
    let mut decoder_of_protobuf = decoder(&settings, &schema);
    // Message index [1, 0]: two numbers, 1 and 0.
    let head = b"\x04\x02\x00\x08\x80\xd0\xea\xb6\xb7\x33";
    let event = |rest: &[u8]| framed(2, &[&head[..], rest].concat());
    let row = |rest: &str| format!(r#"{{"event_time":"2026-01-01T00:00:00.000000Z","event_type":{rest}}}"#);
    let mut outcome_of = |bytes: &[u8]| outcome(decoder_of_protobuf.as_mut(), &schema, bytes);
    assert_eq!(
        outcome_of(&event(b"\x10\x01\x1a\x09\x09\x00\x00\x00\x00\x00\x00\x04\x40")),
        Ok(row(r#""BUY","price":2.5"#))
    );
    assert_eq!(outcome_of(&event(b"\x1a\x00")), Ok(row(r#""VIEW","price":0.0"#)), "defaults");
    assert_eq!(outcome_of(&event(b"\x10\x09")), Ok(row(r#""9""#)), "a symbol of a later schema");
    let refused = "field `user_id`: expected a string or an integer, found a message";
    assert_eq!(outcome_of(&event(b"\x22\x00")).unwrap_err(), refused);
    assert_eq!(outcome_of(&framed(2, b"\x02\x0a")).unwrap_err(), "schema 2: it has no message [5]");
    assert_eq!(outcome_of(&framed(2, b"\x04")).unwrap_err(), "no registry record: its message index cannot be read");
    settings.message = Some("shop.Outer.Event".into());
    let mut of_one = decoder(&settings, &schema);
    assert_eq!(outcome(of_one.as_mut(), &schema, &event(b"\x10\x01")), Ok(row(r#""BUY""#)));
    let reason = outcome(of_one.as_mut(), &schema, &framed(2, b"\x00")).unwrap_err();
    assert_eq!(reason, "schema 2: a record of message `shop.Other`, the source's is `shop.Outer.Event`");
}

#[test]
fn protobuf_fields_that_are_absent() {
    let registry = FakeRegistry::start();
    let text = r#"syntax = "proto3"; message Event {
        int64 event_time = 1; string event_type = 2; string event_id = 3; string user_id = 4;
        double price = 5; optional int64 quantity = 6; bool member = 7; bytes token = 8; repeated int32 unknown = 9; }"#;
    registry.schema(1, "PROTOBUF", text);
    let schema = every_type();
    let mut decoder = decoder(&registry.settings(RecordFormat::Protobuf), &schema);
    let time = b"\x00\x08\x80\xd0\xea\xb6\xb7\x33";
    let mut of = |rest: &[u8]| outcome(decoder.as_mut(), &schema, &framed(1, &[&time[..], rest].concat()));
    let row = r#"{"event_time":"2026-01-01T00:00:00.000000Z","event_type":"buy","price":0.0,"member":false}"#;
    assert_eq!(of(b"\x12\x03buy").as_deref(), Ok(row), "numbers are 0, strings null");
    assert_eq!(of(b"\x12\x03buy\x1a\x00\x22\x00\x4a\x02\x01\x02").as_deref(), Ok(row), "empty strings are null too");
    assert_eq!(
        of(b"\x12\x01x\x12\x03buy\x9b\x06\x08\x01\x9c\x06").as_deref(),
        Ok(row),
        "the last counts; groups are passed over"
    );
    assert_eq!(of(b"\x12\x03buy\x30\x00").unwrap(), row.replace(r#","member"#, r#","quantity":0,"member"#));
    assert_eq!(of(b"").unwrap_err(), "missing field `event_type`");
    assert_eq!(
        of(b"\x10\x01").unwrap_err(),
        "not Protobuf: a declared field has wire type 0, which its schema does not write"
    );
    assert_eq!(of(b"\x12\x01\xff").unwrap_err(), "not Protobuf: a string is not UTF-8");
    assert_eq!(of(&[0xfb, 0x06].repeat(100)).unwrap_err(), "not Protobuf: groups are nested more than 64 deep");
    let mut no_time = |body: &[u8]| outcome(decoder.as_mut(), &schema, &framed(1, body));
    assert_eq!(no_time(b"\x00\x12\x03buy").unwrap_err(), "missing field `event_time`");
}

#[test]
fn a_registry_that_is_away_loses_no_record() {
    let registry = FakeRegistry::start();
    registry.schema(7, "AVRO", AVRO);
    let schema = every_type();
    // More than one asking tries, so that the first fails.
    registry.state.failures.store(6, Ordering::SeqCst);
    let formats =
        Formats::new(&registry.settings(RecordFormat::Avro), schema.clone(), TimeUnit::Ms, AcceptRules::default())
            .unwrap();
    let mut decoder = formats.decoder();
    let event = Event {
        event_id: None,
        time_us: NOW_MS * 1_000,
        user_id: None,
        event_type: "buy".into(),
        price: None,
        quantity: None,
        member: None,
        token: None,
        ordered_at: None,
    };
    let bytes = framed(7, &event.avro(&Schema::parse_str(AVRO).unwrap()));
    let mut batch = empty(&schema);
    let record = Record { offset: 0, record_time_us: NOW_MS * 1_000, bytes: &bytes };
    let mut reasons = Vec::new();
    let end = Instant::now() + PATIENCE;
    while let Err(error) = decoder.decode_into(&mut batch, record) {
        assert_eq!((error.kind(), batch.events.len(), batch.rejected.len()), (ErrorKind::Unavailable, 0, 0), "{error}");
        assert!(Instant::now() < end, "{error}");
        reasons.push(error.to_string());
    }
    assert!(reasons.iter().any(|reason| reason.contains("it has not answered yet")), "nobody waits long: {reasons:?}");
    assert!(reasons.iter().any(|reason| reason.ends_with("it answers 503")), "{reasons:?}");
    assert_eq!((batch.events.len(), batch.next_offset), (1, 1));
    // From then on nothing is asked, and other partitions know it too.
    let asked = registry.requests();
    let mut other = formats.decoder();
    for _ in 0..1_000 {
        decode(decoder.as_mut(), &mut batch, &bytes);
        decode(other.as_mut(), &mut batch, &bytes);
    }
    assert_eq!((batch.events.len(), registry.requests()), (2_001, asked));
}

#[test]
fn credentials_are_sent_and_never_shown() {
    let registry = FakeRegistry::start();
    registry.schema(7, "AVRO", AVRO);
    *registry.state.authorization.lock().unwrap() = Some("Basic YWxpY2U6aHVudGVyMg==".into());
    let settings = |password: &str| RegistrySettings {
        url: registry.url.clone(),
        credentials: Some(("alice".into(), Secret::new(password))),
        tls_ca: None,
    };
    let ask = |password: &str| {
        let asked = Registry::new(&settings(password)).unwrap();
        let end = Instant::now() + PATIENCE;
        loop {
            match asked.schema(7) {
                Err(error) if error.to_string().contains("not answered") => assert!(Instant::now() < end, "{error}"),
                answer => return (answer, format!("{asked:?}")),
            }
        }
    };
    let (answer, shown) = ask("hunter2");
    assert_eq!(answer.unwrap().unwrap().text, AVRO);
    assert!(!shown.contains("hunter2") && !shown.contains("aHVudGVyMg"), "{shown}");
    let error = ask("wrong").0.unwrap_err().to_string();
    assert!(error.contains("401: check registry_username"), "{error}");
}

#[test]
fn another_servers_404_is_not_an_unknown_schema() {
    let registry = FakeRegistry::start();
    registry.answer("/schemas/ids/7", 404, json!("nothing here"));
    let schema = every_type();
    let mut decoder = decoder(&registry.settings(RecordFormat::Avro), &schema);
    let mut batch = empty(&schema);
    let record = Record { offset: 0, record_time_us: 0, bytes: &framed(7, b"") };
    let end = Instant::now() + PATIENCE;
    loop {
        let error = decoder.decode_into(&mut batch, record).unwrap_err().to_string();
        if error.ends_with("it answers 404") {
            break;
        }
        assert!(Instant::now() < end, "{error}");
    }
}

#[test]
fn a_format_with_schemas_needs_a_registry() {
    let settings = FormatSettings { format: RecordFormat::Avro, ..FormatSettings::default() };
    let formats = Formats::new(&settings, every_type(), TimeUnit::Ms, AcceptRules::default());
    assert!(formats.unwrap_err().to_string().contains("needs the address of a schema registry"));
}
