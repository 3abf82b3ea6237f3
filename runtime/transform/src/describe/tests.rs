use super::*;
use serde_json::{Value, json};

const EXAMPLE: &str = include_str!("../../../../wit/describe.example.json");

fn refused(change: impl FnOnce(&mut Value)) -> String {
    let mut view: Value = serde_json::from_str(EXAMPLE).unwrap();
    change(&mut view);
    parse(&view.to_string()).expect_err("the change makes the text wrong").to_string()
}

#[test]
fn the_example_is_read_and_written_back() {
    let described = parse(EXAMPLE).unwrap();
    let def = &described.def;
    assert_eq!((def.name.as_str(), def.version.to_string().as_str()), ("item_activity", "1.0.0"));
    assert_eq!(def.entity.key, ["item_id"]);
    assert_eq!(def.freshness_us, Some(5_000_000));
    assert_eq!(def.aggregates[2].window, WindowSpec::Hopping { width_us: 3_600_000_000, hop_us: 60_000_000 });
    assert_eq!(def.aggregates[3].operator, Operator::SessionCount { gap_us: 1_800_000_000 });
    assert_eq!(def.features[0].aggregates, [0]);
    let written = to_json(def, &described.consumers);
    assert_eq!(written, serde_json::from_str::<Value>(EXAMPLE).unwrap());
    assert_eq!(parse(&written.to_string()).unwrap(), described);
}

#[test]
fn unknown_things_are_named_with_what_is_known() {
    let text = refused(|view| view["format"] = json!(2));
    assert!(text.contains("format 2") && text.contains("format 1"), "{text}");
    let text = refused(|view| view["colour"] = json!("red"));
    assert!(text.contains("`colour`") && text.contains("`aggregates`"), "{text}");
    let text = refused(|view| view["aggregates"][0]["operator"] = json!("median"));
    assert!(text.contains("`view_count_1h`") && text.contains("`median`") && text.contains("top_k"), "{text}");
    let text = refused(|view| view["aggregates"][0]["window"]["kind"] = json!("session"));
    assert!(text.contains("`session`") && text.contains("tumbling"), "{text}");
    let text = refused(|view| view["aggregates"][0]["slots"] = json!(["views"]));
    assert!(text.contains("`views`") && text.contains("view, amount"), "{text}");
    let text = refused(|view| view["aggregates"][0]["params"] = json!({ "gap": "1s" }));
    assert!(text.contains("no parameter `gap`"), "{text}");
    let text = refused(|view| view["slots"][0]["type"] = json!("u8"));
    assert!(text.contains("`u8`") && text.contains("mark"), "{text}");
    let text = refused(|view| view["features"][0]["aggregates"] = json!(["nope"]));
    assert!(text.contains("unknown aggregate `nope`"), "{text}");
    let text = refused(|view| view["upstream"] = json!(["user_activity:x"]));
    assert!(text.contains("`upstream`"), "{text}");
}

#[test]
fn names_types_and_durations_are_checked() {
    for name in ["", "A", "a__b", "1a", "a-b", &"a".repeat(64)] {
        assert!(refused(|view| view["name"] = json!(name)).contains("view `"), "{name}");
    }
    for name in ["online", "offline", "vector", "batch"] {
        assert!(refused(|view| view["entity"]["name"] = json!(name)).contains("reserved"));
    }
    assert!(refused(|view| view["features"][0]["name"] = json!("event_time")).contains("reserved"));
    assert!(refused(|view| view["features"][0]["type"] = json!("bytes")).contains("bytes"));
    assert!(refused(|view| view["features"][0]["type"] = json!("list<list<i64>>")).contains("known types"));
    assert!(refused(|view| view["features"] = json!([])).contains("at least one feature"));
    assert!(refused(|view| view["fields"][1]["name"] = json!("event_type")).contains("declared twice"));
    assert!(refused(|view| view["fields"][1]["type"] = json!("list<i64>")).contains("not lists"));
    assert!(refused(|view| view["version"] = json!("1.0")).contains("semantic version"));
    assert!(refused(|view| view["version"] = json!("1.0.0+x")).contains("leave out `+x`"));
    assert!(refused(|view| view["ttl"] = json!("soon")).contains("`ttl`"));
    assert!(refused(|view| view["aggregates"][0]["window"]["hop"] = json!("2h")).contains("longer than"));
    assert!(refused(|view| view["aggregates"][1]["slots"] = json!(["view"])).contains("does not take"));
    assert!(refused(|view| view["aggregates"][3]["params"] = json!({})).contains("needs the parameter `gap`"));
    assert!(refused(|view| view["entity"]["key"] = json!([])).contains("names no field"));
}

#[test]
fn every_operator_is_read_and_written_back() {
    let operators = [
        ("min", json!({}), Operator::Min),
        ("max", json!({}), Operator::Max),
        ("variance", json!({}), Operator::Variance),
        ("stddev", json!({}), Operator::StdDev),
        ("quantile", json!({ "q": 0.5 }), Operator::Quantile { ppm: 500_000 }),
        ("quantile", json!({ "q": 0.999 }), Operator::Quantile { ppm: 999_000 }),
        ("quantile", json!({ "q": 0.000001 }), Operator::Quantile { ppm: 1 }),
    ];
    for (name, params, operator) in operators {
        let mut view: Value = serde_json::from_str(EXAMPLE).unwrap();
        view["aggregates"][1]["operator"] = json!(name);
        if params != json!({}) {
            view["aggregates"][1]["params"] = params;
        }
        let described = parse(&view.to_string()).unwrap();
        assert_eq!(described.def.aggregates[1].operator, operator);
        assert_eq!(to_json(&described.def, &[]), view);
    }
    let operators = [
        ("count_distinct", json!({}), Operator::CountDistinct),
        ("approx_distinct", json!({ "k": 1024 }), Operator::ApproxDistinct { k: 1024 }),
        ("collect_set", json!({ "k": 64 }), Operator::CollectSet { k: 64 }),
    ];
    for (name, params, operator) in operators {
        let mut view: Value = serde_json::from_str(EXAMPLE).unwrap();
        view["slots"][1]["type"] = json!("string");
        view["aggregates"][1]["operator"] = json!(name);
        if params != json!({}) {
            view["aggregates"][1]["params"] = params;
        }
        let described = parse(&view.to_string()).unwrap();
        assert_eq!(described.def.aggregates[1].operator, operator);
        assert_eq!(to_json(&described.def, &[]), view);
    }
}

#[test]
fn wrong_parameters_are_refused() {
    let with = |operator: &str, params: Value| {
        refused(|view| {
            view["aggregates"][1]["operator"] = json!(operator);
            view["aggregates"][1]["params"] = params;
        })
    };
    assert!(with("quantile", json!({})).contains("needs the parameter `q`"));
    assert!(with("sum", json!({ "q": 0.5 })).contains("no parameter `q`"));
    for q in [json!(0), json!(1), json!(-0.5), json!(0.0000001), json!(0.1234567)] {
        assert!(with("quantile", json!({ "q": q })).contains("above 0 and below 1"), "{q}");
    }
    assert!(with("collect_set", json!({ "k": 5 })).contains("does not take"));
    for (operator, k) in [("collect_set", 0), ("collect_set", 5_000), ("approx_distinct", 0)] {
        let text = refused(|view| {
            view["slots"][1]["type"] = json!("string");
            view["aggregates"][1]["operator"] = json!(operator);
            view["aggregates"][1]["params"] = json!({ "k": k });
        });
        assert!(text.contains("at most 4096"), "{text}");
    }
    let text = refused(|view| view["aggregates"][0]["operator"] = json!("max"));
    assert!(text.contains("does not take a slot of type mark"), "{text}");
}

#[test]
fn tumbling_is_hopping_by_its_width() {
    let mut view: Value = serde_json::from_str(EXAMPLE).unwrap();
    view["aggregates"][0]["window"] = json!({ "kind": "tumbling", "width": "5m" });
    let described = parse(&view.to_string()).unwrap();
    assert_eq!(described.def.aggregates[0].window, WindowSpec::Hopping { width_us: 300_000_000, hop_us: 300_000_000 });
    assert_eq!(to_json(&described.def, &[]), view);
}

#[test]
fn state_depends_on_what_extract_and_aggregates_see() {
    let def = parse(EXAMPLE).unwrap().def;
    let mut other = def.clone();
    other.description = "another".into();
    other.features[0].name = "renamed".into();
    assert_eq!(state_text(&def), state_text(&other));
    other.aggregates[0].window = WindowSpec::Lifetime;
    assert_ne!(state_text(&def), state_text(&other));
}
