use super::*;
use plumb_core::column::DataType;
use plumb_formats::RecordFormat;
use plumb_source_kafka::{KafkaSecurity, KafkaStart};

fn parse(text: &str, environment: &[(&str, &str)]) -> Result<Settings> {
    let environment = environment.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    Settings::parse("plumb.toml", text, environment)
}

fn refused(text: &str, environment: &[(&str, &str)]) -> String {
    let error = parse(text, environment).expect_err(text);
    assert_eq!(error.kind(), plumb_core::ErrorKind::Invalid);
    let line = error.to_string();
    assert!(!line.contains('\n') && !line.ends_with('.'), "{line}");
    line
}

#[test]
fn the_default_file_is_the_defaults() {
    assert_eq!(parse(DEFAULT_TOML, &[]).unwrap(), Settings::default());
    assert_eq!(parse("", &[]).unwrap(), Settings::default());
}

#[test]
fn the_default_file_shows_every_key() {
    fn keys(prefix: &str, table: &toml::Table, out: &mut Vec<String>) {
        for (key, value) in table {
            match value {
                toml::Value::Table(inner) => keys(&format!("{prefix}{key}."), inner, out),
                _ => out.push(format!("{prefix}{key}")),
            }
        }
    }
    let (mut shown, mut effective) = (Vec::new(), Vec::new());
    keys("", &toml::from_str(DEFAULT_TOML).unwrap(), &mut shown);
    keys("", &toml::from_str(&Settings::default().to_toml()).unwrap(), &mut effective);
    shown.sort();
    effective.sort();
    assert_eq!(shown, effective);
}

#[test]
fn the_default_schema_is_the_contracts() {
    let settings = Settings::default();
    assert_eq!(*settings.schema("default").unwrap(), SourceSchema::default_schema());
    let line = settings.schema("clicks").unwrap_err().to_string();
    assert_eq!(line, "unknown source `clicks`; the configuration has `default`");
}

#[test]
fn what_is_printed_reads_back() {
    let text = r#"
        data_dir = "/var/lib/plumb"
        [sources.clicks]
        kind = "file"
        path = "x y.jsonl"
        min_time = "2001-01-01T00:00:00.5+01:00"
        key_field = "who"
        fields = { who = "string", zebra = "i64", ant = "timestamp" }
        required = ["zebra"]
        [sources.default]
        partitions = 7
        [transforms]
        paths = []
        [run]
        serve = true
        publish_interval = "7us"
        [serve]
        listen = "0.0.0.0:80"
        insecure = true
    "#;
    let settings = parse(text, &[]).unwrap();
    assert_eq!(parse(&settings.to_toml(), &[]).unwrap(), settings);
    let clicks = settings.schema("clicks").unwrap();
    let names: Vec<&str> = clicks.fields.iter().map(|field| field.name.as_str()).collect();
    assert_eq!(names, ["who", "zebra", "ant"], "fields keep their written order");
    assert_eq!(clicks.type_of("ant"), Some(DataType::Timestamp));
    assert!(clicks.fields[1].required && !clicks.fields[0].required);
    assert_eq!(settings.sources["clicks"].min_time_us, 978_303_600_500_000);
    assert_eq!(settings.offline.url, "file:/var/lib/plumb/offline", "the offline store follows data_dir");
}

#[test]
fn the_environment_overrides_the_file() {
    let settings = parse(
        "[run]\ncommit_interval = \"5s\"\n[source]\nkind = \"log\"",
        &[
            ("PLUMB__RUN__COMMIT_INTERVAL", "250ms"),
            ("PLUMB__RUN__SERVE", "true"),
            ("PLUMB__DATA_DIR", "/tmp/d"),
            ("PLUMB__SOURCE__PARTITIONS", "12"),
            ("PLUMB__SOURCE__TIME_FIELD", "123"),
            ("PLUMB__SOURCES__DEFAULT__ID_FIELD", "g"),
            ("PLUMB__SOURCE__FIELDS__COUNTRY", "string"),
            ("PLUMB__SOURCE__FIELDS__USER_ID", "string"),
            ("PLUMB__SOURCE__REQUIRED", "[\"country\"]"),
            ("PLUMB__TRANSFORMS__PATHS", "a.wasm"),
            ("PLUMB_TEST_SKIP_SERVICES", "1"),
            ("PATH", "/bin"),
        ],
    )
    .unwrap();
    assert_eq!(settings.run.commit_interval, Duration::from_millis(250));
    assert!(settings.run.serve);
    assert_eq!(settings.data_dir, Path::new("/tmp/d"));
    let source = &settings.sources["default"];
    assert_eq!((source.partitions, source.time_field.as_str(), source.id_field.as_str()), (12, "123", "g"));
    assert_eq!(source.fields.len(), 2);
    assert_eq!(settings.transforms.paths, ["a.wasm"]);
    let settings = parse("[sources.default]\n", &[("PLUMB__SOURCE__KIND", "file")]).unwrap();
    assert_eq!(settings.sources["default"].kind, SourceKind::File);
    let settings = parse("", &[("PLUMB__SOURCE__FIELDS", "{ user_id = \"string\", n = \"i64\" }")]).unwrap();
    assert_eq!(settings.sources["default"].fields.len(), 2);
}

#[test]
fn mistakes_are_named() {
    for (text, wanted) in [
        ("dat_dir = \"x\"", "plumb.toml: unknown key `dat_dir` at the top level; did you mean `data_dir`?"),
        (
            "[run]\ncommit_intervall = \"5s\"",
            "plumb.toml: unknown key `commit_intervall` in [run]; did you mean `commit_interval`?",
        ),
        ("[sorce]\n", "plumb.toml: unknown key `sorce` at the top level; did you mean `source`?"),
        ("[sources.a]\nx = 1\nkey_field = \"user_id\"", "plumb.toml: unknown key `x` in [sources.a]; known are `kind`"),
        ("[run]\nserve = \"yes\"", "plumb.toml: run.serve is \"yes\", expected true or false"),
        ("[run]\ncommit_interval = 30", "plumb.toml: run.commit_interval is 30, expected a string"),
        (
            "[run]\ncommit_interval = \"30\"",
            "plumb.toml: run.commit_interval = \"30\": duration `30`: write a positive whole number",
        ),
        ("[run]\ncommit_size = \"1MB\"", "run.commit_size = \"1MB\": write a positive whole number and a unit (B, KiB"),
        ("run = 1", "plumb.toml: run is 1, expected a section"),
        ("[run\n", "plumb.toml, line 1: "),
        ("data_dir = \"x\"\nx = \n", "plumb.toml, line 2: "),
        ("data_dir = \"\"", "plumb.toml: data_dir = \"\": must not be empty"),
        ("[source]\nkind = \"tape\"", "source.kind = \"tape\": known kinds are \"log\", \"file\" or \"kafka\""),
        ("[source]\npartitions = 0", "source.partitions is 0, expected a whole number from 1 to 256"),
        ("[source]\npartitions = \"4\"", "source.partitions is \"4\", expected a whole number from 1 to 256"),
        ("[source]\ntime_unit = \"minutes\"", "source.time_unit = \"minutes\": known units are s, ms, us and ns"),
        (
            "[source]\nmin_time = \"1990-01-01T00:00:00\"",
            "source.min_time = \"1990-01-01T00:00:00\": write an RFC 3339 time with its zone",
        ),
        (
            "[source]\nmax_future = \"2h\"",
            "source.allowed_lateness = \"1h\" is less than source.max_future = \"2h\": it must be at least that",
        ),
        (
            "[source]\nfields = { user_id = \"str\" }",
            "plumb.toml: source.fields.user_id = \"str\": type `str`: known types are",
        ),
        ("[source]\nfields = { user_id = 1 }", "plumb.toml: source.fields.user_id is 1, expected a string"),
        ("[source]\nfields = { user_id = \"list<i64>\" }", "a field of events is no list"),
        ("[source]\nfields = { user_id = \"string\", _offset = \"i64\" }", "must not be empty or begin with `_`"),
        (
            "[source]\nfields = { item_id = \"string\" }",
            "key_field = \"user_id\" is no string field: add user_id = \"string\" to source.fields",
        ),
        (
            "[source]\nfields = { user_id = \"string\", event_time = \"timestamp\" }",
            "source.fields must not list \"event_time\": time_field declares it",
        ),
        ("[source]\ntime_field = \"event_id\"", "time_field and id_field are both \"event_id\""),
        (
            "[source]\nrequired = [\"evnt_type\"]",
            "source.required names `evnt_type`, which source.fields does not have; it has `user_id`",
        ),
        ("[source]\nrequired = \"event_type\"", "source.required is \"event_type\", expected a list of strings"),
        ("[source]\n[sources.default]\n", "[source] and [sources.default] are the same section: keep one of them"),
        ("[sources.Clicks]\n", "source name `Clicks`: names are [a-z][a-z0-9_]{0,62} without `__`"),
        ("[sources]\n", "[sources] names no source: write [source] or [sources.NAME]"),
        ("[online]\nurl = \"memcached\"", "online.url = \"memcached\": write \"embedded\""),
        ("[offline]\nurl = \"file:\"", "names no folder"),
        (
            "[offline]\nsnapshots = \"weekly\"",
            "offline.snapshots = \"weekly\": write \"daily\", \"hourly\", \"event\" or \"none\"",
        ),
        ("[serve]\nlisten = \"8080\"", "serve.listen = \"8080\": write host:port"),
        (
            "[serve]\nlisten = \"0.0.0.0:8080\"",
            "serve.listen = \"0.0.0.0:8080\": other machines can reach this address",
        ),
        ("[serve]\nlisten = \"127.0.0.1:8081\"", "[serve]: two listeners have the address 127.0.0.1:8081"),
        ("[serve]\nbatch_limit = 0", "serve.batch_limit is 0, expected a whole number from 1 to 100000"),
    ] {
        let line = refused(text, &[]);
        assert!(line.contains(wanted), "{text}\n  got     {line}\n  wanted  {wanted}");
    }
}

#[test]
fn mistakes_in_the_environment_name_the_variable() {
    for (variable, value, wanted) in [
        (
            "PLUMB__RUN__SRVE",
            "true",
            "environment variable PLUMB__RUN__SRVE: unknown key `srve` in [run]; did you mean `serve`?",
        ),
        (
            "PLUMB__RUN__SERVE",
            "1",
            "environment variable PLUMB__RUN__SERVE: run.serve is \"1\", expected true or false",
        ),
        ("PLUMB__", "1", "overrides read PLUMB__SECTION__KEY"),
        ("PLUMB__RUN", "1", "environment variable PLUMB__RUN: run is \"1\", expected a section"),
        ("PLUMB__DATA_DIR__X", "1", "environment variable PLUMB__DATA_DIR__X: `data_dir` is a value, not a section"),
        ("PLUMB__SOURCE__FIELDS", "user_id", "source.fields is \"user_id\", expected a table"),
    ] {
        let line = refused("data_dir = \"d\"", &[(variable, value)]);
        assert!(line.contains(wanted), "{variable}\n  got     {line}\n  wanted  {wanted}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let error = Settings::load(Some(Path::new("/nonexistent/plumb.toml")), []).unwrap_err();
    assert!(error.to_string().starts_with("cannot read the configuration `/nonexistent/plumb.toml`: "));
}

#[test]
fn passwords_in_urls_are_masked() {
    for (url, masked) in [
        ("embedded", "embedded"),
        ("redis://host:1/0", "redis://host:1/0"),
        ("redis://user@host", "redis://user@host"),
        ("redis://user:p@ss:w@host:1/0", "redis://user:***@host:1/0"),
        ("rediss://:pw@host?x=a@b:c", "rediss://:***@host?x=a@b:c"),
        ("redis://u:not/encoded@host:1", "redis://u:***@host:1"),
        ("redis+cluster://u:pw@a:1,b:2", "redis+cluster://u:***@a:1,b:2"),
    ] {
        assert_eq!(raw::mask_url(url), masked);
    }
}

#[test]
fn component_files_are_globbed_in_order() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["b.wasm", "a.wasm", "c.txt"] {
        std::fs::write(dir.path().join(name), "").unwrap();
    }
    let mut settings = Settings::default();
    let pattern = format!("{}/*.wasm", dir.path().display());
    settings.transforms.paths = vec![format!("{}/b.wasm", dir.path().display()), pattern];
    let names: Vec<_> = settings.component_files().unwrap().iter().map(|f| f.file_name().unwrap().to_owned()).collect();
    assert_eq!(names, ["a.wasm", "b.wasm"]);
    settings.transforms.paths = vec![format!("{}/none.wasm", dir.path().display())];
    assert!(settings.component_files().unwrap_err().to_string().contains("no such file"));
}

#[test]
fn the_services_defaults_are_the_settings() {
    assert_eq!(Settings::default().serve.options(), plumb_serve_http::ServerOptions::default());
}

/// What each kind of service needs, with a key of every kind set.
const SERVICES: &str = r#"
    [source]
    kind = "kafka"
    brokers = "a:9092, b:9093"
    topic = "clicks.v2"
    group = "g"
    start = "latest"
    security = "sasl_ssl"
    sasl_mechanism = "SCRAM-SHA-512"
    sasl_username = "alice"
    sasl_password = "hunter2"
    ssl_ca = "ca.pem"
    ssl_certificate = "own.pem"
    ssl_key = "own.key"
    instance_id = "one"
    session_timeout = "30s"
    dead_letter_topic = "clicks.dead"
    max_message = "1MiB"
    format = "protobuf"
    registry_url = "https://registry:8081/"
    registry_username = "bob"
    registry_password = "hunter3"
    registry_ca = "registry.pem"
    message = "shop.Click"
    dedupe_horizon = "7d"
    [online]
    url = "rediss://carol:hunter4@redis:6380/3"
    namespace = "shop"
    tls_ca = "redis.pem"
    connections = 4
    buckets = 16
    connect_timeout = "3s"
    read_timeout = "300ms"
    write_timeout = "7s"
    [offline]
    url = "s3://bucket/a/b/"
    endpoint = "http://127.0.0.1:9000"
    region = "eu-central-1"
    access_key = "key"
    secret_key = "hunter5"
    allow_http = true
    compaction = "on"
    keep_replaced = "3d"
    [run]
    commit_size = "64MiB"
    max_uncommitted = "256MiB"
    threads = 3
    max_state = "2GiB"
    hot_key = 500
    [telemetry]
    logs = "json"
    otlp_endpoint = "http://127.0.0.1:4318/"
"#;

#[test]
fn services_are_settings() {
    let settings = parse(SERVICES, &[]).unwrap();
    let source = settings.source("default").unwrap();
    let kafka = &source.kafka;
    assert_eq!(source.kind, SourceKind::Kafka);
    assert_eq!(
        (kafka.brokers.as_str(), kafka.topic.as_str(), kafka.group.as_str()),
        ("a:9092, b:9093", "clicks.v2", "g")
    );
    assert_eq!((kafka.start, kafka.security), (KafkaStart::Latest, KafkaSecurity::SaslSsl));
    let sasl = kafka.sasl.as_ref().unwrap();
    assert_eq!((sasl.mechanism.as_str(), sasl.username.as_str()), ("SCRAM-SHA-512", "alice"));
    assert_eq!(sasl.password.reveal(), "hunter2");
    assert_eq!(kafka.tls.key.as_deref(), Some(Path::new("own.key")));
    assert_eq!((kafka.session_timeout, kafka.max_message_bytes), (Duration::from_secs(30), 1 << 20));
    assert_eq!(source.format.format, RecordFormat::Protobuf);
    let registry = source.format.registry.as_ref().unwrap();
    assert_eq!(registry.url, "https://registry:8081");
    assert_eq!(registry.credentials.as_ref().unwrap().1.reveal(), "hunter3");
    assert_eq!(registry.tls_ca.as_deref(), Some(Path::new("registry.pem")));
    let redis = settings.online.redis.as_ref().unwrap();
    assert_eq!((redis.nodes.as_slice(), redis.database), (&[("redis".to_owned(), 6380)][..], 3));
    assert_eq!((redis.namespace.as_str(), redis.connections, redis.buckets), ("shop", 4, 16));
    assert_eq!(redis.password.as_ref().unwrap().reveal(), "hunter4");
    let timeouts = [redis.connect_timeout, redis.read_timeout, redis.write_timeout];
    assert_eq!(timeouts, [3_000, 300, 7_000].map(Duration::from_millis));
    let offline = &settings.offline;
    assert_eq!((offline.compaction, offline.keep_replaced), (Compaction::On, Duration::from_secs(3 * 86_400)));
    assert_eq!((settings.run.commit_size_bytes, settings.run.max_uncommitted_bytes), (64 << 20, 256 << 20));
    let s3 = settings.offline.s3.as_ref().unwrap();
    assert_eq!((s3.bucket.as_str(), s3.prefix.as_str(), s3.region.as_deref()), ("bucket", "a/b", Some("eu-central-1")));
    assert_eq!(s3.secret_key.as_ref().unwrap().reveal(), "hunter5");
    assert_eq!((settings.run.threads, settings.telemetry.logs), (3, LogFormat::Json));
    assert_eq!((settings.run.max_state_bytes, settings.run.hot_key), (2 << 30, 500));
    assert_eq!(settings.telemetry.otlp_endpoint.as_deref(), Some("http://127.0.0.1:4318"));
}

#[test]
fn files_are_merged_where_they_can_be_exchanged_at_once_unless_said_otherwise() {
    let merges = |text: &str| parse(&format!("[offline]\n{text}"), &[]).unwrap().offline.merges_files();
    assert!(merges("") && !merges("url = \"s3://b\""));
    assert!(!merges("compaction = \"off\"") && merges("url = \"s3://b\"\ncompaction = \"on\""));
}

#[test]
fn secrets_are_printed_nowhere() {
    let settings = parse(SERVICES, &[]).unwrap();
    let printed = settings.to_toml();
    assert!(!printed.contains("hunter") && !format!("{settings:?}").contains("hunter"), "{printed}");
    for line in ["sasl_password = \"***\"", "registry_password = \"***\"", "secret_key = \"***\"", "carol:***@redis"] {
        assert!(printed.contains(line), "{line}\n{printed}");
    }
    // What is printed reads back, with the masks in the secrets' places.
    let masked = parse(&printed, &[]).unwrap();
    assert_eq!(masked.to_toml(), printed);
    assert_eq!(masked.source("default").unwrap().kafka.sasl.as_ref().unwrap().password.reveal(), "***");
    let line = refused("[source]\nkind = \"kafka\"\nsecurity = \"sasl_ssl\"\nsasl_password = 31337", &[]);
    assert_eq!(line, "plumb.toml: source.sasl_password is ***, expected a string");
    let line = refused("[online]\nurl = \"redis://u:hunter6/7@h\"", &[]);
    assert_eq!(line, "plumb.toml: online.url = \"redis://u:***@h\": encode `/` in a name or password as %2F");
}

#[test]
fn a_password_may_be_in_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    let text = format!(
        "[source]\nkind = \"kafka\"\nsecurity = \"sasl_plaintext\"\nsasl_username = \"u\"\nsasl_password_file = {:?}",
        file.display().to_string()
    );
    let line = refused(&text, &[]);
    assert!(line.starts_with("plumb.toml: source.sasl_password_file = ") && line.contains("No such file"), "{line}");
    std::fs::write(&file, "\n").unwrap();
    assert!(refused(&text, &[]).ends_with("its first line is empty"));
    std::fs::write(&file, "hunter2\n").unwrap();
    let settings = parse(&text, &[]).unwrap();
    assert_eq!(settings.source("default").unwrap().kafka.sasl.as_ref().unwrap().password.reveal(), "hunter2");
    assert_eq!(parse(&settings.to_toml(), &[]).unwrap(), settings, "the file is printed, not what is in it");
    let line = refused(&text, &[("PLUMB__SOURCE__SASL_PASSWORD", "x")]);
    assert!(line.ends_with("source.sasl_password_file and source.sasl_password are both set"), "{line}");
}

#[test]
fn what_does_not_go_together_is_refused() {
    let kafka = |keys: &str| format!("[source]\nkind = \"kafka\"\n{keys}");
    for (text, wanted) in [
        (
            "[source]\ntopic = \"t\"".to_owned(),
            "plumb.toml: source.topic is a key of kind = \"kafka\", but source.kind is \"log\"",
        ),
        (
            "[source]\nkind = \"file\"\npartitions = 2".to_owned(),
            "plumb.toml: source.partitions is a key of kind = \"log\", but source.kind is \"file\"",
        ),
        (kafka("path = \"x\""), "source.path is a key of kind = \"file\", but source.kind is \"kafka\""),
        ("[sources.a]\ndedupe_horizon = \"1d\"".to_owned(), "sources.a.dedupe_horizon is a key of kind = \"kafka\""),
        (
            kafka("sasl_username = \"u\""),
            "plumb.toml: source.sasl_username is set, but source.security = \"plaintext\" asks for no name and password: \
             set it to \"sasl_ssl\" or \"sasl_plaintext\"",
        ),
        (
            kafka("security = \"ssl\"\nsasl_password = \"p\""),
            "source.sasl_password is set, but source.security = \"ssl\"",
        ),
        (kafka("sasl_mechanism = \"SCRAM-SHA-256\""), "source.sasl_mechanism is set, but source.security"),
        (
            kafka("sasl_mechanism = \"GSSAPI\""),
            "source.sasl_mechanism = \"GSSAPI\": write \"PLAIN\", \"SCRAM-SHA-256\" or \"SCRAM-SHA-512\"",
        ),
        (
            kafka("security = \"sasl_ssl\"\nsasl_password = \"p\""),
            "plumb.toml: source.security = \"sasl_ssl\" needs source.sasl_username",
        ),
        (
            kafka("security = \"sasl_ssl\"\nsasl_username = \"u\""),
            "source.security = \"sasl_ssl\" needs source.sasl_password (or sasl_password_file)",
        ),
        (
            kafka("ssl_ca = \"x\""),
            "source.ssl_ca is set, but source.security = \"plaintext\" does not use TLS: set it to \"ssl\" or \"sasl_ssl\"",
        ),
        (kafka("security = \"ssl\"\nssl_certificate = \"x\""), "source.ssl_certificate needs source.ssl_key too"),
        (kafka("security = \"ssl\"\nssl_key = \"x\""), "source.ssl_key needs source.ssl_certificate too"),
        (
            kafka("security = \"SASL_SSL\""),
            "source.security = \"SASL_SSL\": write \"plaintext\", \"ssl\", \"sasl_plaintext\" or \"sasl_ssl\"",
        ),
        (kafka("brokers = \"a:1,b\""), "source.brokers = \"a:1,b\": write host:port"),
        (kafka("topic = \"a b\""), "source.topic = \"a b\": a topic's name is 1 to 249 of"),
        (kafka("start = \"first\""), "source.start = \"first\": write \"earliest\" or \"latest\""),
        (kafka("session_timeout = \"1h\""), "source.session_timeout = \"1h\": write 1s to 30m"),
        (kafka("max_message = \"2GiB\""), "source.max_message = \"2GiB\": write 1000B to 953MiB"),
        (kafka("topic = \"t\"\ndead_letter_topic = \"t\""), "source.dead_letter_topic is the topic itself"),
        (kafka("format = \"avro\""), "plumb.toml: source.format = \"avro\" needs source.registry_url"),
        (
            kafka("registry_url = \"http://r\""),
            "source.registry_url is set, but source.format = \"json\" needs no registry",
        ),
        (
            kafka("format = \"avro\"\nregistry_url = \"r:8081\""),
            "source.registry_url = \"r:8081\": write http://host:port or https://host",
        ),
        (
            kafka("format = \"avro\"\nregistry_url = \"http://u:pw@r\""),
            "source.registry_url = \"http://u:***@r\": the address must not hold a name and password",
        ),
        (
            kafka("format = \"avro\"\nregistry_url = \"http://r\"\nregistry_username = \"u\""),
            "source.registry_username needs source.registry_password too",
        ),
        (kafka("registry_ca = \"x\""), "source.registry_ca is set, but source.format = \"json\" needs no registry"),
        (
            kafka("format = \"avro\"\nregistry_url = \"http://r\"\nregistry_ca = \"x\""),
            "source.registry_ca is set, but source.registry_url does not use TLS: begin it with https://",
        ),
        (
            kafka("format = \"avro\"\nregistry_url = \"http://r\"\nmessage = \"M\""),
            "source.message names a Protobuf message, but source.format = \"avro\"",
        ),
        (
            "[online]\nnamespace = \"n\"".to_owned(),
            "plumb.toml: online.namespace is a key of an online store in Redis, but online.url = \"embedded\"",
        ),
        (
            "[online]\nurl = \"redis://h\"\ntls_ca = \"x\"".to_owned(),
            "online.tls_ca is set, but online.url does not use TLS: begin it with rediss://",
        ),
        (
            "[online]\nread_timeout = \"2s\"".to_owned(),
            "online.read_timeout is a key of an online store in Redis, but online.url = \"embedded\"",
        ),
        (
            "[online]\nurl = \"redis://h\"\nwrite_timeout = \"1h\"".to_owned(),
            "online.write_timeout = \"1h\": write 10ms to 5m",
        ),
        ("[offline]\nkeep_replaced = \"1m\"".to_owned(), "offline.keep_replaced = \"1m\": write 1h to 365d"),
        (
            "[offline]\ncompaction = \"yes\"".to_owned(),
            "offline.compaction = \"yes\": write \"auto\", \"on\" or \"off\"",
        ),
        (
            "[run]\nmax_uncommitted = \"64MiB\"".to_owned(),
            "plumb.toml: run.max_uncommitted = \"64MiB\" is less than run.commit_size = \"128MiB\": it must be at least that",
        ),
        ("[online]\nurl = \"redis://h\"\nnamespace = \"a:b\"".to_owned(), "online.namespace = \"a:b\": a namespace is"),
        ("[online]\nurl = \"redis://a,b\"".to_owned(), "online.url = \"redis://a,b\": several hosts are a Cluster"),
        (
            "[online]\nurl = \"redis://h\"\nconnections = 0".to_owned(),
            "online.connections is 0, expected a whole number",
        ),
        (
            "[offline]\nregion = \"r\"".to_owned(),
            "plumb.toml: offline.region is a key of an offline store in S3, but offline.url is \"file:data/offline\"",
        ),
        ("[offline]\nurl = \"s3://B\"".to_owned(), "offline.url = \"s3://B\": `B` is no name of a bucket"),
        (
            "[offline]\nurl = \"s3://b\"\naccess_key = \"k\"".to_owned(),
            "offline.access_key needs offline.secret_key too",
        ),
        (
            "[offline]\nurl = \"s3://b\"\nendpoint = \"http://h:1\"".to_owned(),
            "offline.endpoint is not encrypted: write https://, or set offline.allow_http = true",
        ),
        ("[telemetry]\nlogs = \"xml\"".to_owned(), "telemetry.logs = \"xml\": write \"text\" or \"json\""),
        (
            "[telemetry]\notlp_endpoint = \"h:1\"".to_owned(),
            "telemetry.otlp_endpoint = \"h:1\": write http://host:port",
        ),
        ("[telemetry]\nlog = \"json\"".to_owned(), "unknown key `log` in [telemetry]; did you mean `logs`?"),
    ] {
        let line = refused(&text, &[]);
        assert!(line.contains(wanted), "{text}\n  got     {line}\n  wanted  {wanted}");
    }
    let line = refused("", &[("PLUMB__SOURCE__GROUP", "g")]);
    assert_eq!(
        line,
        "environment variable PLUMB__SOURCE__GROUP: source.group is a key of kind = \"kafka\", but source.kind is \"log\""
    );
}
