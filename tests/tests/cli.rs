//! The command line by what it prints and how it exits: bad input gets one clear line, exit code 2, and leaves
//! nothing half-written; what is asked for as JSON is one document.

use plumb_testing::{archive, process};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

/// A folder with components and events under short names, so that messages are the same anywhere.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (view, short) in [("user_activity", "user.wasm"), ("item_activity", "item.wasm")] {
        std::fs::copy(process::component(view), folder.path().join(short)).unwrap();
    }
    folder
}

fn write(folder: &Path, name: &str, content: impl AsRef<[u8]>) {
    std::fs::write(folder.join(name), content).unwrap();
}

/// Settings of a service over the folder's own components.
fn settings(folder: &Path, source: &str, components: &str) {
    write(
        folder,
        "plumb.toml",
        format!(
            "[source]\n{source}\n[transforms]\npaths = [{components}]\n[serve]\nlisten = \"127.0.0.1:0\"\n\
             admin_listen = \"127.0.0.1:0\"\nmetrics_listen = \"127.0.0.1:0\"\n"
        ),
    );
}

fn plumb(folder: &Path, words: &str) -> Output {
    process::run(folder, words.split_whitespace())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs and demands an exit code and exactly this on stderr, and that the folder holds no new file.
#[track_caller]
fn refused(folder: &Path, words: &str, line: &str) {
    let before = files(folder);
    let output = plumb(folder, words);
    assert_eq!(text(&output.stderr), format!("{line}\n"), "plumb {words}");
    assert_eq!(output.status.code(), Some(2), "plumb {words}");
    assert_eq!(text(&output.stdout), "", "plumb {words}");
    assert_eq!(files(folder), before, "plumb {words}: nothing is half-written");
}

/// The files below a folder with their bytes, but for the data folder's.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .filter(|path| path.is_file())
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap()))
        .collect()
}

#[track_caller]
fn json(folder: &Path, words: &str) -> Value {
    let output = plumb(folder, &format!("--json {words}"));
    assert!(output.status.success(), "plumb {words}: {}", text(&output.stderr));
    let stdout = text(&output.stdout);
    assert_eq!(stdout.lines().count(), 1, "plumb {words}: one document: {stdout}");
    serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("plumb {words}: {error}: {stdout}"))
}

#[test]
fn files_that_are_no_events_or_labels() {
    let folder = folder();
    let here = folder.path();
    process::run_ok(here, "generate --events 200 --users 9 --items 5 --days 2 --seed 1 --out ev.parquet".split(' '));
    process::run_ok(here, "generate --events 200 --users 9 --items 5 --days 2 --seed 1 --out ev.jsonl".split(' '));
    let whole = std::fs::read(here.join("ev.parquet")).unwrap();
    write(here, "cut.parquet", &whole[..3000]);
    for empty in ["empty.jsonl", "empty.csv", "empty.parquet"] {
        write(here, empty, "");
    }
    write(here, "nokey.csv", "label,event_time\n1,2024-01-02T00:00:00Z\n");
    write(here, "notime.csv", "label,user_id\n1,u1\n");
    write(here, "badtime.csv", "user_id,event_time\nu1,2024-01-02T00:00:00Z\nu1,yesterday\n");
    write(here, "labels.csv", "user_id,event_time\nu1,2024-01-02T00:00:00Z\n");
    for (events, line) in [
        ("empty.jsonl", "`empty.jsonl` is empty (0 bytes), expected events"),
        ("empty.csv", "`empty.csv` is empty (0 bytes), expected events"),
        ("empty.parquet", "`empty.parquet` is empty (0 bytes), expected a Parquet file"),
        (
            "cut.parquet",
            "`cut.parquet` is not a Parquet file, or is cut short or damaged (3000 bytes): Parquet error: Invalid \
             Parquet file. Corrupt footer",
        ),
        ("nowhere.jsonl", "`nowhere.jsonl` does not exist"),
    ] {
        let line = format!("plumb: {line}");
        refused(here, &format!("test user.wasm --events {events}"), &line);
        refused(here, &format!("join --transform user.wasm --events {events} --labels labels.csv --out o.csv"), &line);
    }
    let join = "join --transform user.wasm --events ev.jsonl";
    for (words, line) in [
        ("--labels nokey.csv --out o.csv", "`nokey.csv` has no column `user_id`; it has label, event_time"),
        ("--labels notime.csv --out o.csv", "`notime.csv` has no column `event_time`; it has label, user_id"),
        (
            "--labels labels.csv --out o.csv --features user_activity:purchase_count_1",
            "unknown feature `user_activity:purchase_count_1`; did you mean `purchase_count_1h`, `purchase_count_24h`?",
        ),
        (
            "--labels labels.csv --out o.csv --features user_activty:*",
            "unknown view `user_activty`; did you mean `user_activity`?",
        ),
        ("--labels labels.csv --out o.txt", "`o.txt` should end in .parquet or .csv"),
    ] {
        refused(here, &format!("{join} {words}"), &format!("plumb: {line}"));
    }
    let output = plumb(here, &format!("{join} --labels badtime.csv --out o.csv"));
    assert_eq!(output.status.code(), Some(2));
    let line = text(&output.stderr);
    assert!(line.contains("badtime.csv") && line.contains("event_time") && line.contains("yesterday"), "{line}");
    assert!(!here.join("o.csv").exists());
}

#[test]
fn words_and_settings() {
    let folder = folder();
    let here = folder.path();
    for (name, content) in [
        ("key.toml", "dat_dir = \"x\"\n"),
        ("type.toml", "[serve]\nlisten = 5\n"),
        ("time.toml", "[run]\ncommit_interval = \"soon\"\n"),
        ("syntax.toml", "a = [\n"),
    ] {
        write(here, name, content);
    }
    for (words, line) in [
        ("run --config key.toml", "plumb: key.toml: unknown key `dat_dir` at the top level; did you mean `data_dir`?"),
        ("run --config type.toml", "plumb: type.toml: serve.listen is 5, expected a string"),
        (
            "run --config time.toml",
            "plumb: time.toml: run.commit_interval = \"soon\": duration `soon`: write a positive whole number and a \
             unit (us, ms, s, m, h, d), as in \"30m\"",
        ),
        ("run --config syntax.toml", "plumb: syntax.toml, line 1: unclosed array, expected `]`"),
        (
            "run --config none.toml",
            "plumb: cannot read the configuration `none.toml`: No such file or directory (os error 2)",
        ),
        ("generate --events 5 --out e.txt", "plumb: `e.txt`: expected a file name ending in .parquet, .jsonl or .csv"),
        ("generate --events 5 --start x --out e.csv", "plumb: --start x: write an instant as in 2024-01-31T12:00:00Z"),
    ] {
        refused(here, words, line);
    }
    for (words, says) in [
        ("join --labeltime x", "tip: a similar argument exists: '--label-time'"),
        ("generate --events many --out e.csv", "invalid value 'many' for '--events <EVENTS>'"),
        ("jion", "unrecognized subcommand 'jion'"),
    ] {
        let output = plumb(here, words);
        assert_eq!(output.status.code(), Some(2), "plumb {words}");
        assert!(text(&output.stderr).contains(says), "plumb {words}: {}", text(&output.stderr));
    }
    let mut command = Command::new(process::plumb());
    let output = command.args(["run", "--check"]).current_dir(here).env("PLUMB__RUN__COMIT", "1s").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("PLUMB__RUN__COMIT"), "{}", text(&output.stderr));
}

#[test]
fn components_that_are_none() {
    let folder = folder();
    let here = folder.path();
    write(here, "module.wasm", b"\0asm\x01\0\0\0");
    write(here, "text.wasm", "hello");
    // The same component of another version of the interface.
    let mut other = std::fs::read(here.join("user.wasm")).unwrap();
    let version = b"plumb:transform/view@0.1.0";
    let at: Vec<usize> = (0..other.len() - version.len()).filter(|&at| other[at..].starts_with(version)).collect();
    assert!(!at.is_empty());
    at.iter().for_each(|at| other[at + version.len() - 3] = b'2');
    write(here, "other.wasm", &other);
    let clock = wat::parse_str(
        "(component (import \"wasi:clocks/monotonic-clock@0.2.0\" (instance (export \"now\" (func (result u64))))))",
    );
    write(here, "clock.wasm", clock.unwrap());
    for (file, says) in [
        ("module.wasm", "it is a core module, not a component: run `plumb build`"),
        ("text.wasm", "it does not begin like WebAssembly: give the file that `plumb build` made"),
        ("other.wasm", "it exports `plumb:transform/view@0.2.0`, another version: build it with the SDK of this plumb"),
        ("clock.wasm", "wasi:clocks/monotonic-clock@0.2.0"),
        ("none.wasm", "o such file"),
    ] {
        write(here, "ev.jsonl", r#"{"event_id":"a","event_time":"2024-01-01T00:00:00Z","event_type":"view"}"#);
        settings(here, "kind = \"log\"", &format!("\"user.wasm\", \"{file}\""));
        for words in [format!("inspect {file}"), format!("test {file} --events ev.jsonl"), "run --until-end".to_owned()]
        {
            let output = plumb(here, &words);
            let line = text(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "plumb {words}: {line}");
            assert_eq!(line.lines().count(), 1, "plumb {words}: {line}");
            assert!(line.contains(says) && line.contains(file), "plumb {words}: {line}");
        }
        assert!(!here.join("data/offline/manifest").exists(), "nothing was begun with {file}");
    }
}

/// A good record, six bad ones and another good one, with what each bad one's reason must say.
const RECORDS: [(&str, Option<&str>); 8] = [
    (r#"{"event_id":"a","event_time":"2024-01-01T00:00:00Z","user_id":"u","event_type":"purchase","price":1.5}"#, None),
    (r#"{"event_id":"b","event_time":"2024-01-01T00:00:00Z","user_id":"u","#, Some("JSON")),
    (
        r#"{"event_id":"c","event_time":"2024-01-01T00:00:00Z","user_id":"u","event_type":"view","price":"dear"}"#,
        Some("price"),
    ),
    (r#"{"event_id":"d","event_time":"2024-01-01T00:00:00Z","user_id":"u"}"#, Some("event_type")),
    (r#"{"event_id":"e","user_id":"u","event_type":"view"}"#, Some("event_time")),
    (r#"{"event_id":"f","event_time":1700000000,"user_id":"u","event_type":"view"}"#, Some("min_time")),
    (r#"{"event_id":"g","event_time":"2099-01-01T00:00:00Z","user_id":"u","event_type":"view"}"#, Some("max_future")),
    (r#"{"event_id":"h","event_time":"2024-01-01T00:00:01Z","user_id":"u","event_type":"view"}"#, None),
];

fn records() -> String {
    RECORDS.iter().map(|(record, _)| format!("{record}\n")).collect()
}

#[track_caller]
fn check_dead_letters(here: &Path) {
    let letters = archive::dead_letters(&here.join("data/offline/dead_letters"));
    let mut wanted: BTreeMap<&[u8], &str> =
        RECORDS.iter().filter_map(|(record, says)| says.map(|says| (record.as_bytes(), says))).collect();
    for letter in &letters {
        let says = wanted.remove(letter.bytes.as_slice()).expect("the letter is a bad record byte for byte, once");
        assert!(letter.reason.contains(says), "`{says}` is not in: {}", letter.reason);
    }
    assert!(wanted.is_empty(), "not among the dead letters: {wanted:?}");
    let ids: Vec<_> =
        archive::read(&here.join("data/offline/events")).into_iter().filter_map(|event| event.event.id).collect();
    assert_eq!(ids.len(), 2);
    assert!(ids.contains(&"a".to_owned()) && ids.contains(&"h".to_owned()));
}

#[test]
fn bad_records_are_dead_lettered_and_the_rest_goes_on() {
    for kind in ["log", "file", "owner"] {
        let folder = folder();
        let here = folder.path();
        write(here, "ev.jsonl", records());
        let source = match kind {
            "file" => "kind = \"file\"\npath = \"ev.jsonl\"",
            _ => "kind = \"log\"\npartitions = 1",
        };
        settings(here, source, "\"user.wasm\"");
        match kind {
            "log" => assert_eq!(json(here, "produce ev.jsonl")["published"], 8),
            "owner" => {
                let mut service = process::Service::start(here, ["run"]);
                service.ready();
                assert_eq!(json(here, "produce ev.jsonl")["published"], 8);
                assert_eq!(service.terminate(), Some(0));
            }
            _ => {}
        }
        let run = json(here, "run --until-end");
        assert_eq!(
            (run["read"].as_u64(), run["applied"].as_u64(), run["rejected"].as_u64()),
            (Some(8), Some(2), Some(6))
        );
        assert_eq!(run["applied_now"].as_u64(), Some(if kind == "owner" { 0 } else { 2 }), "{kind}");
        check_dead_letters(here);
        assert_eq!(json(here, "run --until-end")["applied_now"], 0, "a restart replays nothing");
        check_dead_letters(here);
    }
    // Without a service the same records are counted, named by row, and left out.
    let folder = folder();
    write(folder.path(), "ev.jsonl", records());
    let output = plumb(folder.path(), "test user.wasm --events ev.jsonl");
    let said = text(&output.stderr);
    assert!(said.contains("6 of 8 records rejected") || text(&output.stdout).contains("6 rejected"), "{said}");
}

#[test]
fn a_component_that_misbehaves_on_one_record_loses_only_that() {
    let folder = folder();
    let here = folder.path();
    let guest = process::repository().join("tests/guests/hostile");
    process::run_ok(
        &process::repository(),
        ["build".as_ref(), guest.as_os_str(), "-o".as_ref(), here.join("hostile.wasm").as_os_str()],
    );
    let record = |id: &str, second: u32, category: &str| {
        format!(
            "{{\"event_id\":\"{id}\",\"event_time\":\"2024-01-01T00:00:0{second}Z\",\"user_id\":\"u\",\
             \"event_type\":\"view\",\"category\":\"{category}\"}}\n"
        )
    };
    let poisons = ["loop", "memory", "trap", "stack", "type", "error"];
    let mut events = record("good1", 0, "x");
    poisons.iter().for_each(|kind| events += &record(kind, 1, &format!("poison:{kind}")));
    events += &record("good2", 2, "y");
    write(here, "ev.jsonl", &events);
    settings(here, "kind = \"log\"\npartitions = 1", "\"user.wasm\", \"hostile.wasm\"");
    process::run_ok(here, ["produce", "ev.jsonl"]);
    let run = json(here, "run --until-end");
    assert_eq!((run["applied"].as_u64(), run["rejected"].as_u64()), (Some(8), Some(0)), "the events are good");
    assert_eq!(run["view_faults"], poisons.len());
    let letters = archive::dead_letters(&here.join("data/offline/dead_letters"));
    assert_eq!(letters.len(), poisons.len());
    for (letter, kind) in letters.iter().zip(poisons) {
        assert!(letter.view.as_deref().is_some_and(|view| view.starts_with("hostile@1.0.0+")), "{letter:?}");
        assert!(text(&letter.bytes).contains(&format!("poison:{kind}")), "{letter:?}");
        assert!(!letter.reason.is_empty() && !letter.reason.contains('\n'), "{letter:?}");
    }
    let listed = json(here, "dead-letters list --view hostile --limit 2");
    assert_eq!((&listed["matched"], listed["dead_letters"].as_array().unwrap().len()), (&6.into(), 2));
    assert_eq!(json(here, "dead-letters list --view user_activity")["matched"], 0);
    // The events are in the archive: another copy would be a duplicate.
    let why = "the fault of a view, whose event is in the archive: deploy a version that takes it";
    let replayed = serde_json::json!({"replayed": 0, "positions": [], "skipped": {why: 6}});
    assert_eq!(json(here, "dead-letters replay --all"), replayed);
    let mut service = process::Service::start(here, ["serve"]);
    let address = service.ready();
    let asked = serde_json::json!({"entities": {"user": "u"}, "features": ["hostile:*", "user_activity:*"],
        "as_of": "2024-01-01T00:00:03Z"});
    let answer = process::post(&address, "/features/vector", &asked);
    assert_eq!(answer["features"]["hostile:events"], 2, "the good ones");
    assert_eq!(answer["features"]["hostile:last_category"], "y");
    assert_eq!(answer["features"]["user_activity:item_view_count_1h"], 8, "the other view has them all");
    assert_eq!(service.terminate(), Some(0));
    // `plumb test` says so and exits 1.
    let output = plumb(here, "test hostile.wasm --events ev.jsonl");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).starts_with("plumb: view `hostile`: extract failed on 6 rows"));
}

#[test]
fn a_port_in_use_is_named_before_anything_begins() {
    let folder = folder();
    let here = folder.path();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for key in ["listen", "admin_listen", "metrics_listen"] {
        settings(here, "kind = \"log\"", "\"user.wasm\"");
        let at = std::fs::read_to_string(here.join("plumb.toml")).unwrap();
        let at = at.replace(&format!("\n{key} = \"127.0.0.1:0\""), &format!("\n{key} = \"{address}\""));
        write(here, "plumb.toml", at);
        let line = format!(
            "plumb: serve.{key} = \"{address}\": Address already in use (os error 98); choose another address or port 0"
        );
        refused(here, "serve", &line);
        assert!(!here.join("data/offline").exists());
    }
}

#[test]
fn generated_events_are_a_function_of_the_seed() {
    let folder = folder();
    let here = folder.path();
    for (file, seed) in [("a", 1), ("b", 1), ("c", 2)] {
        for ending in ["jsonl", "csv", "parquet"] {
            let words =
                format!("generate --events 500 --users 20 --items 9 --days 3 --seed {seed} --out {file}.{ending}");
            process::run_ok(here, words.split(' '));
        }
    }
    let files = files(here);
    for ending in ["jsonl", "csv", "parquet"] {
        assert!(files[&format!("a.{ending}")] == files[&format!("b.{ending}")], "{ending}");
        assert!(files[&format!("a.{ending}")] != files[&format!("c.{ending}")], "{ending}");
    }
    // The three forms say the same.
    let rows = |ending: &str| json(here, &format!("test user.wasm --events a.{ending} --limit 100"))["rows"].clone();
    assert_eq!(rows("jsonl"), rows("csv"));
    assert_eq!(rows("jsonl"), rows("parquet"));
}

#[test]
fn every_command_answers_in_json() {
    let folder = folder();
    let here = folder.path();
    settings(here, "kind = \"log\"\npartitions = 2", "\"user.wasm\", \"item.wasm\"");
    assert!(json(here, "run --check")["toml"].as_str().unwrap().contains("partitions = 2"));
    json(here, "generate --events 400 --users 20 --items 9 --days 3 --seed 4 --out ev.parquet");
    assert_eq!(json(here, "inspect user.wasm")["name"], "user_activity");
    assert_eq!(json(here, "produce ev.parquet")["published"], 400);
    assert_eq!(json(here, "run --until-end")["read"], 400);
    let views = json(here, "registry list");
    assert_eq!(views["views"].as_array().unwrap().len(), 2);
    json(here, "registry search rating");
    json(here, "registry show item_activity");
    json(here, "registry lineage item_activity");
    let check = json(here, "check --entity user --sample 20 --exact");
    assert_eq!(check["passed"], true, "{check}");
    write(
        here,
        "labels.csv",
        "user_id,item_id,event_time,label\nu00001,i00001,2024-01-03T00:00:00Z,1\nnobody,,2024-01-03T00:00:00Z,0\n",
    );
    let both = "--transform user.wasm --transform item.wasm --events ev.parquet";
    let join = json(here, &format!("join {both} --labels labels.csv --out set.parquet"));
    assert_eq!((join["rows_in"].as_u64(), join["rows_kept"].as_u64()), (Some(2), Some(2)));
    json(here, &format!("audit set.parquet {both} --labels labels.csv"));
    json(here, &format!("backfill {both} --every 1d --out snapshots"));
    json(here, "test item.wasm --events ev.parquet");
    let mut service = process::Service::start(here, ["run"]);
    service.ready();
    assert_eq!(json(here, "transforms list")["views"].as_array().unwrap().len(), 2);
    let output = plumb(here, "registry show item_activty");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("did you mean `item_activity`"), "{}", text(&output.stderr));
    assert_eq!(service.terminate(), Some(0));
}

#[test]
fn a_catalogue_without_views_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let output = plumb(folder.path(), "registry show user_activity");
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text(&output.stderr).ends_with(": unknown view `user_activity`; none is loaded\n"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn a_start_may_not_leave_out_or_repeat_what_is_committed() {
    let folder = folder();
    let here = folder.path();
    settings(here, "kind = \"log\"\npartitions = 1", "\"user.wasm\"");
    process::run_ok(here, "generate --events 300 --users 9 --items 5 --days 2 --seed 1 --out ev.jsonl".split(' '));
    process::run_ok(here, ["produce", "ev.jsonl"]);
    refused(
        here,
        "run --until-end --from somewhere",
        "plumb: --from somewhere: write earliest, latest, an offset, offsets by partition as in 0=12,1=34, a position \
         token, or an instant as in 2024-01-31T12:00:00Z",
    );
    refused(
        here,
        "run --until-end --accept-gap",
        "plumb: --accept-gap: no source reads from Kafka, and files and the embedded log lose no records",
    );
    refused(
        here,
        "run --until-end --from clicks:0=1",
        "plumb: unknown source `clicks`; the configuration has `default`",
    );
    let output = plumb(here, "run --until-end --from 301");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("partition 0 has the offsets 0 to 300, not 301"), "{}", text(&output.stderr));
    // A new job begins there, and says so in what it has read.
    let report = json(here, "run --until-end --from default:0=100");
    assert_eq!((&report["applied"], &report["read"]), (&200.into(), &200.into()));
    let line = "plumb: --from: source `default` was processed before, up to default:0=300: what is committed is not read \
                again; a new view gets it from the archive, then the log from there. To read the log anew, run another \
                job: another offline.url, online.namespace and group";
    for from in ["0=0", "100", "latest", "2024-01-01T00:00:00Z", "earliest"] {
        refused(here, &format!("run --until-end --from {from}"), line);
    }
    // A view that is new gets all of the archive.
    settings(here, "kind = \"log\"\npartitions = 1", "\"user.wasm\", \"item.wasm\"");
    let report = json(here, "run --until-end --from earliest");
    assert_eq!((&report["applied"], &report["views"].as_array().unwrap().len()), (&200.into(), &2));
    for entity in ["user", "item"] {
        assert_eq!(json(here, &format!("check --entity {entity} --sample 50 --exact"))["passed"], true);
    }
    refused(here, "run --until-end --from earliest", line);
    settings(here, "kind = \"file\"\npath = \"ev.jsonl\"", "\"user.wasm\"");
    refused(
        here,
        "run --until-end --from 3",
        "plumb: --from 3: every source reads files, which begin at their first row",
    );
}

#[test]
fn a_shared_job_says_which_service_is_away_and_owns_no_folder() {
    let folder = folder();
    let here = folder.path();
    // A port that nobody listens on.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    settings(here, "kind = \"kafka\"\nbrokers = \"127.0.0.1:1\"", "\"user.wasm\"");
    let text_of = std::fs::read_to_string(here.join("plumb.toml")).unwrap();
    write(here, "plumb.toml", format!("{text_of}[online]\nurl = \"redis://u:hunter2@{free}\"\n"));
    for words in ["run", "run --until-end", "serve", "check --entity user", "registry list", "transforms list"] {
        let output = plumb(here, words);
        let line = text(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "plumb {words}: {line}");
        assert!(line.lines().count() == 1 && line.contains(&free.to_string()), "plumb {words}: {line}");
        assert!(!line.contains("hunter2"), "{line}");
    }
    assert!(!here.join("data/owner").exists(), "nothing of it is this folder's");
    refused(
        here,
        "transforms retire user_activity",
        "plumb: several processes may run this job: give --admin with the admin address of one of them, which `plumb \
         run` prints where run.serve = true",
    );
    let check = json(here, "run --check");
    assert!(check["toml"].as_str().unwrap().contains("redis://u:***@"), "{check}");
    refused(
        here,
        "run --from latest=3",
        "plumb: --from latest=3: write earliest, latest, an offset, offsets by partition as in 0=12,1=34, a position \
         token, or an instant as in 2024-01-31T12:00:00Z",
    );
}

#[test]
fn help_names_every_command_and_no_service_is_said_so() {
    let folder = folder();
    let help = process::run_ok(folder.path(), ["--help"]);
    for command in [
        "new",
        "build",
        "inspect",
        "test",
        "generate",
        "produce",
        "run",
        "serve",
        "backfill",
        "join",
        "audit",
        "stats",
        "compare",
        "check",
        "dead-letters",
        "transforms",
        "registry",
    ] {
        assert!(help.contains(&format!("\n  {command} ")), "{command}");
        assert!(!process::run_ok(folder.path(), [command, "--help"]).is_empty());
    }
    refused(
        folder.path(),
        "transforms list",
        "plumb: no running service owns `data`: start `plumb run` or `plumb serve`, or give --admin",
    );
}

#[test]
fn a_job_without_any_view_says_so_and_archives_all_the_same() {
    let folder = folder();
    let here = folder.path();
    settings(here, "kind = \"file\"\npath = \"events.jsonl\"", "\"elsewhere/*.wasm\"");
    write(
        here,
        "events.jsonl",
        "{\"event_id\":\"a\",\"event_time\":1700000000000,\"user_id\":\"u\",\"event_type\":\"view\"}\n",
    );
    let output = plumb(here, "run --until-end --no-serve");
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(
        stderr.contains("no component matches transforms.paths") && stderr.contains("elsewhere/*.wasm"),
        "{stderr}"
    );
    assert_eq!(archive::read(&here.join("data/offline/events")).len(), 1);
}
