//! Hot loading in a running service: what is deployed answers like a backfill over everything that came before and
//! after; what fails changes nothing; a restart keeps what is active.

use plumb_testing::process::{self, Service};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Past every event.
const AS_OF: &str = "2024-01-03T00:30:00Z";

/// Builds a changed copy of `user_activity` the way an author would: `plumb new`, its source, `plumb build`.
fn build_changed(folder: &Path, out: &str, version: &str, changes: &[(&str, &str)]) -> PathBuf {
    let krate = folder.join(out);
    std::fs::create_dir(&krate).unwrap();
    let run = |words: &[&str], folder: &Path| {
        // One folder for all, so that the SDK is compiled once.
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("authoring");
        let mut command = Command::new(process::plumb());
        let output = command.args(words).current_dir(folder).env("CARGO_TARGET_DIR", target).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    run(&["new", "user_activity"], &krate);
    let krate = krate.join("user_activity");
    let mut source =
        std::fs::read_to_string(process::repository().join("transforms/user_activity/src/lib.rs")).unwrap();
    source = source.replace("\n#[cfg(test)]\nmod tests;\n", "");
    for (from, to) in changes {
        assert!(source.contains(from), "the transform has no `{from}`");
        source = source.replace(from, to);
    }
    std::fs::write(krate.join("src/lib.rs"), source).unwrap();
    let manifest = std::fs::read_to_string(krate.join("Cargo.toml")).unwrap();
    let line = manifest.lines().find(|line| line.starts_with("version")).unwrap().to_owned();
    std::fs::write(krate.join("Cargo.toml"), manifest.replacen(&line, &format!("version = \"{version}\""), 1)).unwrap();
    let file = folder.join(format!("{out}.wasm"));
    run(&["build", ".", "-o", file.to_str().unwrap()], &krate);
    file
}

fn deploy(folder: &Path, file: &Path, more: &[&str]) -> Output {
    let mut words = vec!["transforms", "deploy", file.to_str().unwrap()];
    words.extend(more);
    process::run(folder, words)
}

#[track_caller]
fn refused(output: &Output, says: &str) {
    let line = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{line}");
    assert!(line.lines().count() == 1 && line.contains(says), "`{says}` is not in: {line}");
}

fn versions(folder: &Path) -> BTreeMap<String, String> {
    let listed: Value = serde_json::from_str(&process::run_ok(folder, ["--json", "transforms", "list"])).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    listed["views"].as_array().unwrap().iter().map(|view| (text(&view["view"]), text(&view["version"]))).collect()
}

/// Every user's and item's answers of the views.
fn answers(address: &str, users: &[String], items: &[String], views: &[&str]) -> Vec<Value> {
    let ask = |entity: &str, key: &String, view: &str| {
        let mut entities = serde_json::Map::new();
        entities.insert(entity.to_owned(), json!(key));
        json!({"entities": entities, "features": [format!("{view}:*")], "as_of": AS_OF})
    };
    let requests: Vec<Value> = views
        .iter()
        .flat_map(|view| {
            let (entity, keys) = if view.starts_with("user") { ("user", users) } else { ("item", items) };
            keys.iter().map(move |key| ask(entity, key, view))
        })
        .collect();
    let answer = process::post(address, "/features/batch", &json!({"requests": requests}));
    answer["results"].as_array().unwrap().iter().map(|result| result["features"].clone()).collect()
}

/// The same from a training set over the events' file: the offline way, which a backfill shares.
fn offline(folder: &Path, component: &Path, view: &str, users: &[String], items: &[String]) -> Vec<Value> {
    let (field, keys) = if view.starts_with("user") { ("user_id", users) } else { ("item_id", items) };
    let labels: String =
        format!("{field},event_time\n") + &keys.iter().map(|key| format!("{key},{AS_OF}\n")).collect::<String>();
    std::fs::write(folder.join("labels.csv"), labels).unwrap();
    let words = ["join", "--events", "sent.jsonl", "--labels", "labels.csv", "--out", "set.csv", "--transform"];
    process::run_ok(folder, words.into_iter().chain([component.to_str().unwrap()]));
    let text = std::fs::read_to_string(folder.join("set.csv")).unwrap();
    text.lines().map(|line| json!(line)).collect()
}

/// An answer as a line of that training set, as far as numbers go.
fn same(set: &[Value], answers: &[Value], view: &str) {
    let header: Vec<&str> = set[0].as_str().unwrap().split(',').collect();
    assert_eq!(set.len(), answers.len() + 1);
    let mut compared = 0;
    for (line, answer) in set[1..].iter().zip(answers) {
        // The one list column is quoted and may hold commas: it is compared by the laws' own tests.
        let line = line.as_str().unwrap();
        let plain = match (line.find('"'), line.rfind('"')) {
            (Some(from), Some(to)) => format!("{}{}", &line[..from], &line[to + 1..]),
            _ => line.to_owned(),
        };
        for (name, cell) in header.iter().zip(plain.split(',')) {
            let Some(feature) = name.strip_prefix(&format!("{view}__")) else { continue };
            let served = &answer[format!("{view}:{feature}")];
            if feature == "event_time" || feature == "category_affinity" {
                continue;
            }
            let cell: Option<f64> = (!cell.is_empty()).then(|| cell.parse().unwrap());
            assert_eq!(served.as_f64().map(f64::to_bits), cell.map(f64::to_bits), "{view}:{feature} of {line}");
            compared += 1;
        }
    }
    assert!(compared >= 5 * answers.len(), "{compared} values compared");
}

#[test]
fn deploying_changes_answers_as_a_backfill_would_or_not_at_all() {
    let root = tempfile::tempdir().unwrap();
    let here = root.path();
    let words =
        "generate --events 5000 --users 40 --items 25 --days 2 --seed 5 --start 2024-01-01T00:00:00Z --out all.jsonl";
    process::run_ok(here, words.split(' '));
    let text = std::fs::read_to_string(here.join("all.jsonl")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let field = |name: &str| {
        let mut values: Vec<String> = lines
            .iter()
            .filter_map(|line| serde_json::from_str::<Value>(line).unwrap()[name].as_str().map(str::to_owned))
            .collect();
        values.sort();
        values.dedup();
        values
    };
    let (users, items) = (field("user_id"), field("item_id"));

    let gap = ("\"30m\"", "\"10m\"");
    let newer = build_changed(here, "newer", "1.1.0", &[gap]);
    let twin = build_changed(here, "twin", "1.1.0", &[gap, ("What a user does.", "What one user does.")]);
    let changed_name = [("\"user_activity\", env!", "\"user_more\", env!"), gap];
    let another = build_changed(here, "another", "1.0.0", &changed_name);
    let (shipped_user, shipped_item) = (process::component("user_activity"), process::component("item_activity"));

    let config = process::settings(here, 3, "[offline]\nurl = \"file:data/offline\"\n[run]\nserve = true\n");
    let settings = std::fs::read_to_string(&config).unwrap();
    let only_user = settings.replace(&format!(", \"{}\"", shipped_item.display()), "");
    assert_ne!(settings, only_user);
    std::fs::write(&config, only_user).unwrap();
    let mut service = Service::start(here, ["run"]);
    let mut address = service.ready();
    let send = |address: &str, part: usize| {
        let body = lines.chunks(1000).nth(part).unwrap().join("\n");
        let (status, text) = process::request(address, "POST", "/events", body.as_bytes()).unwrap();
        assert_eq!(status, 200, "{text}");
        std::fs::write(here.join("sent.jsonl"), lines[..(part + 1) * 1000].join("\n") + "\n").unwrap();
    };
    let commit = |service: &Service| {
        let admin = service.address("admin").unwrap();
        assert_eq!(process::request(&admin, "POST", "/commit", b"").unwrap().0, 200);
    };
    let check = |address: &str, views: &[(&str, &Path)]| {
        for (view, component) in views {
            same(&offline(here, component, view, &users, &items), &answers(address, &users, &items, &[view]), view);
        }
        for entity in ["user", "item"] {
            if !views.iter().any(|(view, _)| view.starts_with(entity)) {
                continue;
            }
            let words = ["--json", "check", "--entity", entity, "--sample", "40", "--exact"];
            let report: Value = serde_json::from_str(&process::run_ok(here, words)).unwrap();
            assert_eq!(report["passed"], true, "{report}");
        }
    };

    // A new view over what has been.
    send(&address, 0);
    assert!(deploy(here, &shipped_item, &[]).status.success());
    commit(&service);
    check(&address, &[("user_activity", &shipped_user), ("item_activity", &shipped_item)]);

    // A new version while events come, and another view from the same source.
    let sender = std::thread::scope(|scope| {
        let sending = scope.spawn(|| send(&address, 1));
        let deployed = deploy(here, &newer, &[]);
        assert!(deployed.status.success(), "{}", String::from_utf8_lossy(&deployed.stderr));
        sending.join()
    });
    sender.unwrap();
    assert!(deploy(here, &another, &[]).status.success());
    send(&address, 2);
    commit(&service);
    let active = versions(here);
    assert!(active["user_activity"].starts_with("1.1.0+"), "{active:?}");
    assert_eq!(active.keys().collect::<Vec<_>>(), ["item_activity", "user_activity", "user_more"]);
    let now: [(&str, &Path); 3] =
        [("user_activity", &newer), ("item_activity", &shipped_item), ("user_more", &another)];
    check(&address, &now);
    let new_sessions = answers(&address, &users, &items, &["user_activity"]);
    let old_sessions = offline(here, &shipped_user, "user_activity", &users, &items);
    let new_set = offline(here, &newer, "user_activity", &users, &items);
    assert_ne!(old_sessions, new_set, "the change shows");

    // What fails changes nothing.
    refused(&deploy(here, &twin, &[]), "has version 1.1.0 already, as another component");
    refused(&deploy(here, &shipped_user, &[]), "newer than 1.0.0");
    std::fs::write(here.join("module.wasm"), b"\0asm\x01\0\0\0").unwrap();
    refused(&deploy(here, &here.join("module.wasm"), &[]), "it is a core module, not a component");
    std::fs::write(here.join("half.wasm"), &std::fs::read(&newer).unwrap()[..20_000]).unwrap();
    assert_eq!(deploy(here, &here.join("half.wasm"), &[]).status.code(), Some(2));
    refused(&deploy(here, &here.join("none.wasm"), &[]), "cannot read the component");
    assert_eq!(versions(here), active);
    assert_eq!(answers(&address, &users, &items, &["user_activity"]), new_sessions);

    // A restart keeps what is active, whichever way the process ended, though the settings name the old one.
    service.kill();
    service = Service::start(here, ["run"]);
    address = service.ready();
    assert_eq!(versions(here), active);
    send(&address, 3);
    commit(&service);
    check(&address, &now);

    // The same version with other bytes goes in when that is asked for.
    assert!(deploy(here, &twin, &["--replace"]).status.success());
    assert_ne!(versions(here)["user_activity"], active["user_activity"]);
    let replaced: [(&str, &Path); 2] = [("user_activity", &twin), ("item_activity", &shipped_item)];
    check(&address, &replaced);
    assert_eq!(service.terminate(), Some(0));
    let mut service = Service::start(here, ["run"]);
    let address = service.ready();
    check(&address, &replaced);

    // Back to the version before, by events that the twin had seen only; then out, and in again at the next start.
    send(&address, 4);
    commit(&service);
    process::run_ok(here, ["transforms", "rollback", "user_activity"]);
    assert_eq!(versions(here)["user_activity"], active["user_activity"]);
    check(&address, &now);
    refused(&process::run(here, ["transforms", "rollback", "user_activty"]), "did you mean `user_activity`");
    refused(&process::run(here, ["transforms", "rollback", "item_activity"]), "has no earlier version to go back to");
    refused(&process::run(here, ["transforms", "retire", "user_mor"]), "there is no view `user_mor`; did you mean");
    process::run_ok(here, ["transforms", "retire", "item_activity"]);
    assert_eq!(versions(here).into_keys().collect::<Vec<_>>(), ["user_activity", "user_more"]);
    let (status, problem) = process::request(&address, "GET", "/features/item/i1", b"").unwrap();
    assert!(status == 404 && problem.contains("unknown-entity"), "{status} {problem}");
    check(&address, &now[..1]);
    process::run_ok(here, ["transforms", "rollback", "item_activity"]);
    check(&address, &now);
    assert_eq!(service.terminate(), Some(0));
}
