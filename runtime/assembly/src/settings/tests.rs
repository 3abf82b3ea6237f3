use super::*;
use plumb_core::column::DataType;

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
    assert_eq!(settings.offline_dir(), Path::new("/var/lib/plumb/offline"), "the offline store follows data_dir");
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
            ("PLUMB__SOURCE__TOPIC", "123"),
            ("PLUMB__SOURCES__DEFAULT__GROUP", "g"),
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
    assert_eq!((source.partitions, source.kafka.topic.as_str(), source.kafka.group.as_str()), (12, "123", "g"));
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
        (
            "[source]\nkind = \"kafka\"",
            "plumb.toml: source.kind = \"kafka\": a Kafka source comes with a later release; this one has \"log\" and \"file\"",
        ),
        ("[source]\nkind = \"tape\"", "source.kind = \"tape\": known kinds are \"log\" and \"file\""),
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
        (
            "[online]\nurl = \"redis://u:secret@h:6379\"",
            "online.url = \"redis://u:***@h:6379\": an online store in Redis comes with a later release; this one has \"embedded\"",
        ),
        ("[online]\nurl = \"memcached\"", "online.url = \"memcached\": write \"embedded\""),
        (
            "[offline]\nurl = \"s3://b/p\"",
            "offline.url = \"s3://b/p\": an offline store in S3 comes with a later release; this one has \"file:DIR\"",
        ),
        ("[offline]\nurl = \"file:\"", "names no folder"),
        (
            "[offline]\nsnapshots = \"daily\"",
            "offline.snapshots = \"daily\": a snapshot from the running stream comes with a later release; this one has \"none\"",
        ),
        ("[offline]\nsnapshots = \"weekly\"", "offline.snapshots = \"weekly\": write \"none\""),
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
