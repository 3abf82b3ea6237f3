//! A job whose log is in Kafka and whose features are in Redis: processes that answer and do not run it, commands that
//! need nothing but the stores, and what only a process that runs it can do.

use plumb_testing::process;
use plumb_testing::service::kafka::Kafka;
use plumb_testing::service::redis::Redis;
use plumb_testing::service::{eventually, skipped};
use plumb_testing::stream::{Online, Stream, generated, record};
use serde_json::{Value, json};

fn stream(partitions: i32) -> Stream {
    let mut stream = Stream::new(Kafka::shared().clone(), Online::Redis(Redis::shared().clone()), partitions);
    stream.run_lines = "publish_interval = \"30ms\"\ncommit_interval = \"1s\"\n".into();
    stream
}

#[track_caller]
fn json_of(output: &std::process::Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn kafka_redis_answers_come_from_processes_that_do_not_run_the_job() {
    if skipped("kafka_redis_answers_come_from_processes_that_do_not_run_the_job") {
        return;
    }
    let stream = stream(4);
    // Before anything ran there is nothing to serve, and that is said.
    let mut early = stream.launch_with("early", &[], &["serve"]);
    let waiting = eventually("the server to listen", || {
        early.must_live();
        process::request(&early.address, "GET", "/ready", b"").ok()
    });
    assert_eq!(waiting.0, 503, "{}", waiting.1);
    assert!(waiting.1.contains("no job has run with this offline store yet"), "{}", waiting.1);

    let lines = generated(4_000, 60, 40, 7);
    stream.send(lines.iter().map(|line| record(line)));
    let mut running = stream.start("running");
    stream.drain(&mut [&mut running]);
    early.wait_until_ready();

    // The same answers, whoever gives them, and from the archive at the same position.
    let request = |feature: &str| {
        json!({"requests": (0..60).map(|user| json!({
        "entities": {"user": format!("u{user:05}")}, "features": [feature], "as_of": "2024-01-20T00:00:00Z",
    })).collect::<Vec<_>>()})
    };
    let from = |address: &str| process::post(address, "/features/batch", &request("user_activity:*"));
    let (own, other) = (from(&running.address), from(&early.address));
    assert_eq!(own, other);
    assert!(own["results"].as_array().unwrap().iter().any(|result| result["entities"]["user"]["status"] == "found"));
    for result in other["results"].as_array().unwrap().iter().filter(|one| one["entities"]["user"]["status"] == "found")
    {
        assert_eq!(result["views"]["user_activity"]["source"], "online");
    }
    let path = "/features/offline/u00001?as_of=2024-01-20T00:00:00Z&features=user_activity:*";
    let position = other["results"][0]["position"].as_str().unwrap();
    let (status, offline) =
        process::request(&early.address, "GET", &format!("{path}&position={position}"), b"").unwrap();
    assert_eq!(status, 200, "{offline}");
    let online = "/features/online/u00001?as_of=2024-01-20T00:00:00Z&features=user_activity:*";
    let (_, online) = process::request(&early.address, "GET", online, b"").unwrap();
    let features = |text: &str| serde_json::from_str::<Value>(text).unwrap()["features"].clone();
    assert_eq!(features(&offline), features(&online));

    // A position that nobody has reached is waited for, then it is for later.
    let (status, problem) =
        process::request(&early.address, "GET", &format!("{path}&position={}:0=1000000", "default"), b"").unwrap();
    assert_eq!(status, 503, "{problem}");
    assert!(problem.contains("try again after the next commit"), "{problem}");

    // Events come in through any of them; other changes need a process that runs the job.
    let event = r#"{"event_id":"posted","event_time":"2024-01-19T00:00:00Z","event_type":"view","user_id":"posted","item_id":"i1"}"#;
    let (status, answer) = process::request(&early.address, "POST", "/events", event.as_bytes()).unwrap();
    assert_eq!(status, 200, "{answer}");
    eventually("the posted event to be answered", || {
        let path = "/features/user/posted?as_of=2024-01-20T00:00:00Z";
        let (status, _) = process::request(&early.address, "GET", path, b"").unwrap();
        (status == 200).then_some(())
    });

    // Commands need the stores only.
    for entity in ["user", "item"] {
        let report =
            json_of(&stream.run("commands", &["--json", "check", "--entity", entity, "--sample", "60", "--exact"]));
        assert_eq!(report["passed"], true, "{report}");
        assert!(report["checked"].as_u64() > Some(20), "{report}");
    }
    let listed = json_of(&stream.run("commands", &["--json", "transforms", "list"]));
    assert_eq!(listed["views"].as_array().unwrap().len(), 2, "{listed}");
    assert!(listed["views"].as_array().unwrap().iter().all(|view| view["state"] == "active"), "{listed}");
    assert_eq!(json_of(&stream.run("commands", &["--json", "registry", "list"]))["views"], listed["views"]);
    let refused = stream.run("commands", &["transforms", "retire", "item_activity"]);
    assert_eq!(refused.status.code(), Some(2));
    let line = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(line.contains("give --admin with the admin address of one of them"), "{line}");

    // It goes on answering when nobody runs the job, and ends when asked.
    assert_eq!(running.service.terminate(), Some(0));
    assert_eq!(from(&early.address)["results"][0]["features"], own["results"][0]["features"]);
    assert_eq!(early.service.terminate(), Some(0));
}

#[test]
fn kafka_redis_dead_letters_go_back_to_the_topic_once() {
    if skipped("kafka_redis_dead_letters_go_back_to_the_topic_once") {
        return;
    }
    let mut stream = stream(2);
    let (first, letters) = (stream.topic.clone(), format!("{}.dead", stream.topic));
    stream.kafka.create_topic(&letters, 1, &[]);
    let plain = stream.source_lines.clone();
    stream.source_lines = format!("{plain}dead_letter_topic = \"{letters}\"\n");
    let far =
        r#"{"event_id":"far","event_time":"2100-01-01T00:00:00Z","event_type":"view","user_id":"u1","item_id":"i1"}"#;
    stream.send([record("not json"), record(far)]);
    let mut running = stream.start("running");
    stream.drain(&mut [&mut running]);
    assert_eq!(running.service.terminate(), Some(0));
    assert_eq!(stream.kafka.read(&letters).len(), 2, "they are in the topic too");

    let listed = json_of(&stream.run("commands", &["--json", "dead-letters", "list"]));
    assert_eq!(listed["matched"], 2, "{listed}");
    let dry = json_of(&stream.run("commands", &["--json", "dead-letters", "replay", "--all", "--dry-run"]));
    assert_eq!((&dry["would_replay"], stream.kafka.read(&first).len()), (&2.into(), 2));
    let replayed = json_of(&stream.run("commands", &["--json", "dead-letters", "replay", "--reason", "2100"]));
    assert_eq!(replayed["replayed"], 1, "{replayed}");
    let again = json_of(&stream.run("commands", &["--json", "dead-letters", "replay", "--all"]));
    assert_eq!(again["replayed"], 1, "the other one: {again}");
    assert_eq!(stream.kafka.read(&first).len(), 4);

    // Where the bound allows it, the record is accepted this time.
    stream.source_lines = format!("{plain}max_future = \"80000d\"\nallowed_lateness = \"80000d\"\n");
    let mut running = stream.start("running");
    stream.drain(&mut [&mut running]);
    assert_eq!(running.metric("plumb_events_total", "class=\"applied\""), Some(1.0));
    assert_eq!(running.service.terminate(), Some(0));
    let listed = json_of(&stream.run("commands", &["--json", "dead-letters", "list"]));
    assert_eq!(listed["matched"], 3, "what is no JSON is one again: {listed}");
}

#[test]
fn kafka_redis_job_begins_where_it_is_told_to() {
    if skipped("kafka_redis_job_begins_where_it_is_told_to") {
        return;
    }
    let stream = stream(1);
    let lines = generated(300, 20, 10, 3);
    stream.send(lines.iter().map(|line| record(line)));
    let output = stream.run("commands", &["run", "--until-end", "--from", "301"]);
    let line = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{line}");
    assert!(line.contains("has the offsets 0 to 300, not 301"), "{line}");
    let report = json_of(&stream.run("commands", &["--json", "run", "--until-end", "--from", "default:0=100"]));
    assert_eq!((&report["read"], &report["ended"]), (&200.into(), &true.into()), "{report}");
    let output = stream.run("commands", &["run", "--until-end", "--from", "0"]);
    let line = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{line}");
    assert!(line.contains("source `default` was processed before, up to default:0=300"), "{line}");
    let report =
        json_of(&stream.run("commands", &["--json", "check", "--entity", "user", "--sample", "20", "--exact"]));
    assert_eq!(report["passed"], true, "{report}");
}
