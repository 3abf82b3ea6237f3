//! What is in `deploy/` for people with Docker, as far as it can be checked without: the files parse and name each
//! other rightly, and every metric and label in the dashboard and the alerts exists.

use plumb_pipeline::metrics::{self, Metric};
use plumb_testing::process;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use yaml_rust2::{Yaml, YamlLoader};

fn deploy(name: &str) -> PathBuf {
    process::repository().join("deploy").join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(deploy(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn yaml(name: &str) -> Yaml {
    let mut documents = YamlLoader::load_from_str(&text(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(documents.len(), 1, "{name}");
    documents.remove(0)
}

/// The words of a query that are a metric's, each with the labels its selector names.
fn asked(query: &str) -> Vec<(String, Vec<String>)> {
    let letter = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let mut found = Vec::new();
    for (at, _) in query.match_indices("plumb_") {
        if query[..at].ends_with(letter) {
            continue;
        }
        let name: String = query[at..].chars().take_while(|c| letter(*c)).collect();
        let rest = &query[at + name.len()..];
        let selector = rest.strip_prefix('{').and_then(|rest| rest.split('}').next()).unwrap_or_default();
        let labels = selector.split(',').filter_map(|pair| Some(pair.split(['=', '!']).next()?.trim().to_owned()));
        found.push((name, labels.filter(|label| !label.is_empty()).collect()));
    }
    found
}

/// The labels a query groups by.
fn grouped(query: &str) -> Vec<String> {
    let lists = query.split("by (").skip(1).filter_map(|rest| rest.split(')').next());
    lists.flat_map(|list| list.split(',').map(|label| label.trim().to_owned())).collect()
}

/// Fails unless every metric and label of a query exists.
#[track_caller]
fn exists(query: &str) {
    let known: BTreeMap<String, &Metric> = metrics::ALL
        .iter()
        .flat_map(|(_, area)| area.iter())
        .flat_map(|metric| metric.samples().into_iter().map(move |sample| (sample, metric)))
        .collect();
    let asked = asked(query);
    assert!(!asked.is_empty(), "a query of no metric: {query}");
    let mut labels: Vec<&str> = vec!["le", "instance"];
    for (name, selected) in &asked {
        let metric = known.get(name).unwrap_or_else(|| panic!("no metric {name}: {query}"));
        for label in selected {
            assert!(metric.labels.contains(&label.as_str()), "{name} has no label {label}: {query}");
        }
        labels.extend(metric.labels);
        if name.ends_with("_total") {
            let raised = query.contains("rate(") || query.contains("increase(") || query.starts_with("sum(plumb_");
            assert!(raised, "a counter wants a rate: {query}");
        }
    }
    for label in grouped(query) {
        assert!(labels.contains(&label.as_str()), "no label {label}: {query}");
    }
    assert_eq!(query.matches('(').count(), query.matches(')').count(), "{query}");
}

#[test]
fn every_metric_of_the_dashboard_exists_and_every_metric_is_shown() {
    let dashboard: Value = serde_json::from_str(&text("grafana/dashboards/plumb.json")).unwrap();
    let sources = yaml("grafana/provisioning/datasources/prometheus.yaml");
    let uid = sources["datasources"][0]["uid"].as_str().unwrap();
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        if panel["type"] == "row" {
            continue;
        }
        assert_eq!(panel["datasource"]["uid"], uid, "{panel}");
        for target in panel["targets"].as_array().unwrap() {
            let query = target["expr"].as_str().unwrap();
            exists(query);
            let shown = grouped(query);
            for label in target["legendFormat"].as_str().unwrap().split("{{").skip(1) {
                let label = label.split("}}").next().unwrap().to_owned();
                assert!(shown.contains(&label), "the legend names {label}: {query}");
            }
            queries.push(query.to_owned());
        }
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        let query = variable["query"].as_str().unwrap();
        let (metric, label) = query.trim_start_matches("label_values(").trim_end_matches(')').split_once(", ").unwrap();
        exists(&format!("sum by ({label}) (rate({metric}[1m]))"));
    }
    let asked: Vec<String> = queries.iter().flat_map(|query| asked(query)).map(|(name, _)| name).collect();
    for metric in metrics::ALL.iter().flat_map(|(_, area)| area.iter()) {
        let shown = metric.samples().iter().any(|sample| asked.contains(sample));
        // The version is on no chart; positions are shown as their differences.
        let elsewhere = ["plumb_build_info", "plumb_position", "plumb_watermark_timestamp_seconds", "plumb_generation"];
        assert!(shown || elsewhere.contains(&metric.name), "{} is on no panel", metric.name);
    }
}

#[test]
fn every_metric_of_the_alerts_exists() {
    let alerts = yaml("alerts.yml");
    let rules = alerts["groups"][0]["rules"].as_vec().unwrap();
    assert!(!rules.is_empty());
    for rule in rules {
        exists(rule["expr"].as_str().unwrap());
        assert!(rule["alert"].as_str().is_some() && rule["annotations"]["summary"].as_str().is_some(), "{rule:?}");
    }
}

#[test]
fn the_services_of_compose_fit_together() {
    let compose = yaml("compose.yaml");
    let services = compose["services"].as_hash().unwrap();
    let names: Vec<&str> = services.keys().filter_map(Yaml::as_str).collect();
    for wanted in ["kafka", "redis", "plumb", "prometheus", "grafana"] {
        assert!(names.contains(&wanted), "no service {wanted}");
    }
    for (name, service) in services {
        let name = name.as_str().unwrap();
        let image = service["image"].as_str().unwrap_or_else(|| panic!("{name} has no image"));
        assert!(name == "plumb" || image.contains(':') && !image.ends_with(":latest"), "{name}: {image} is not fixed");
        for volume in service["volumes"].as_vec().into_iter().flatten() {
            let from = volume.as_str().unwrap().split(':').next().unwrap();
            if from.starts_with('.') {
                assert!(deploy(from).exists(), "{name}: {from} is not there");
            } else {
                assert!(!compose["volumes"][from].is_badvalue(), "{name}: no volume {from}");
            }
        }
        for needed in service["depends_on"].as_hash().into_iter().flatten().filter_map(|(needed, _)| needed.as_str()) {
            assert!(names.contains(&needed), "{name} depends on {needed}");
        }
    }
    let settings: toml::Table = text("plumb.toml").parse().unwrap();
    let setting = |section: &str, key: &str| settings[section][key].as_str().unwrap().to_owned();
    let metrics = setting("serve", "metrics_listen");
    let target = yaml("prometheus.yml")["scrape_configs"][0]["static_configs"][0]["targets"][0].clone();
    assert_eq!(target.as_str().unwrap().split_once(':').unwrap(), ("plumb", metrics.rsplit_once(':').unwrap().1));
    let topics = text("compose.yaml");
    for topic in [setting("source", "topic"), setting("source", "dead_letter_topic")] {
        assert!(topics.contains(&format!(" {topic}:")), "compose.yaml does not create {topic}");
    }
    assert!(names.contains(&setting("source", "brokers").split(':').next().unwrap()));
    assert!(setting("online", "url").contains("//redis:") && names.contains(&"redis"));
}

#[test]
fn the_settings_are_plumbs() {
    let output = Command::new(process::plumb())
        .args(["--json", "run", "--check", "--config"])
        .arg(deploy("plumb.toml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_image_takes_what_the_build_makes() {
    let dockerfile = text("Dockerfile");
    for copied in ["/src/target/release/plumb", "/src/target/plumb/"] {
        assert!(dockerfile.contains(&format!("COPY --from=build {copied}")), "{copied}");
    }
    let minimum = std::fs::read_to_string(process::repository().join("Cargo.toml")).unwrap();
    let minimum =
        minimum.lines().find_map(|line| line.strip_prefix("rust-version = \"")).unwrap().trim_end_matches('"');
    assert!(dockerfile.contains(&format!("FROM rust:{minimum}-")), "the image builds with another Rust than {minimum}");
    let settings: toml::Table = text("plumb.toml").parse().unwrap();
    let components = settings["transforms"]["paths"][0].as_str().unwrap().trim_end_matches("*.wasm");
    assert!(dockerfile.contains(components), "{components} is not in the image");
}
