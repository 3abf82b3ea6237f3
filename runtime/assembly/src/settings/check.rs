//! From the raw tree to checked settings: types, bounds, and what does not exist yet.

use super::raw::RawTable;
use super::unit::{format_size, is_loopback, parse_address, parse_size};
use super::{
    DEFAULT_SOURCE, LogFormat, RunSettings, ServeSettings, Settings, SourceKind, SourceSettings, TelemetrySettings,
    TransformSettings, kafka, stores,
};
use crate::{Error, Result};
use plumb_core::column::DataType;
use plumb_core::event::Field;
use plumb_core::time::{format_duration, parse_duration};
use plumb_pipeline::decode::{TimeUnit, parse_rfc3339};
use std::collections::BTreeMap;
use std::time::Duration;

/// The most partitions of an embedded log: each costs a thread's turn and a chain of commits.
const MAX_PARTITIONS: u32 = 256;

pub(super) fn settings(mut raw: RawTable) -> Result<Settings> {
    let defaults = Settings::default();
    let data_dir = raw.string("data_dir", "data")?;
    let settings = Settings {
        sources: sources(&mut raw)?,
        transforms: transforms(raw.section("transforms")?, defaults.transforms)?,
        online: stores::online(raw.section("online")?)?,
        offline: stores::offline(raw.section("offline")?, &data_dir, defaults.offline)?,
        run: run(raw.section("run")?, defaults.run)?,
        serve: serve(raw.section("serve")?, defaults.serve)?,
        telemetry: telemetry(raw.section("telemetry")?, &defaults.telemetry)?,
        data_dir: data_dir.into(),
    };
    raw.finish()?;
    Ok(settings)
}

fn sources(raw: &mut RawTable) -> Result<BTreeMap<String, SourceSettings>> {
    let has_short = raw.has("source");
    let has_named = raw.has("sources");
    let short = raw.section("source")?;
    let named = raw.section("sources")?.sections()?;
    let mut sources = BTreeMap::new();
    if has_short || !has_named {
        sources.insert(DEFAULT_SOURCE.to_owned(), source(short)?);
    }
    for (name, section) in named {
        check_name(&name)?;
        if sources.contains_key(&name) {
            return Err(Error::invalid("[source] and [sources.default] are the same section: keep one of them"));
        }
        sources.insert(name, source(section)?);
    }
    if sources.is_empty() {
        return Err(Error::invalid("[sources] names no source: write [source] or [sources.NAME]"));
    }
    Ok(sources)
}

fn check_name(name: &str) -> Result<()> {
    let mut letters = name.bytes();
    let good = letters.next().is_some_and(|first| first.is_ascii_lowercase())
        && letters.all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'_')
        && name.len() <= 63
        && !name.contains("__");
    if good {
        return Ok(());
    }
    Err(Error::invalid(format!("source name `{name}`: names are [a-z][a-z0-9_]{{0,62}} without `__`")))
}

fn source(mut raw: RawTable) -> Result<SourceSettings> {
    let defaults = SourceSettings::default();
    let kind = raw.text("kind", defaults.kind, |kind| {
        let known = SourceKind::ALL.iter().find(|(name, _)| *name == kind).map(|(_, kind)| *kind);
        known.ok_or_else(|| format!("known kinds are {}", kafka::kinds()))
    })?;
    let (topic, sasl_password_file) = kafka::kafka(&mut raw, defaults.kafka)?;
    let max_future_path = raw.path("max_future");
    let lateness_path = raw.path("allowed_lateness");
    let fields_path = raw.path("fields");
    let settings = SourceSettings {
        kind,
        partitions: raw.integer("partitions", defaults.partitions, (1, MAX_PARTITIONS))?,
        path: raw.string("path", "events.parquet")?.into(),
        kafka: topic,
        sasl_password_file,
        format: kafka::format(&mut raw)?,
        time_field: raw.string("time_field", &defaults.time_field)?,
        time_unit: raw.text("time_unit", defaults.time_unit, |unit| {
            TimeUnit::parse(unit).ok_or("known units are s, ms, us and ns")
        })?,
        id_field: raw.string("id_field", &defaults.id_field)?,
        key_field: raw.string("key_field", &defaults.key_field)?,
        min_time_us: raw.text("min_time", defaults.min_time_us, |text| {
            let zoned = parse_rfc3339(text.as_bytes()).filter(|instant| instant.zoned);
            zoned.map(|instant| instant.us).ok_or("write an RFC 3339 time with its zone, as in 1990-01-01T00:00:00Z")
        })?,
        max_future_us: raw.text("max_future", defaults.max_future_us, parse_duration)?,
        allowed_lateness_us: raw.text("allowed_lateness", defaults.allowed_lateness_us, parse_duration)?,
        dedupe_horizon_us: raw.text("dedupe_horizon", defaults.dedupe_horizon_us, parse_duration)?,
        fields: fields(&mut raw, defaults.fields)?,
    };
    kafka::check_kind(&raw, &settings)?;
    raw.finish()?;
    if settings.allowed_lateness_us < settings.max_future_us {
        return Err(Error::invalid(format!(
            "{lateness_path} = \"{}\" is less than {max_future_path} = \"{}\": it must be at least that",
            format_duration(settings.allowed_lateness_us),
            format_duration(settings.max_future_us)
        )));
    }
    check_fields(&settings, &fields_path)?;
    Ok(settings)
}

fn fields(raw: &mut RawTable, defaults: Vec<Field>) -> Result<Vec<Field>> {
    let path = raw.path("fields");
    let given = raw.pairs("fields")?;
    let mut fields = match given {
        None => defaults,
        Some(pairs) => {
            pairs.into_iter().map(|(name, text, origin)| field(&path, name, &text, &origin)).collect::<Result<_>>()?
        }
    };
    // `event_type` is required by default wherever there is such a field.
    let has_event_type = fields.iter().any(|field| field.name == "event_type");
    let required = raw.strings("required", has_event_type.then(|| "event_type".into()).into_iter().collect())?;
    for name in &required {
        if !fields.iter().any(|field| field.name == *name) {
            let known = plumb_pipeline::near::quoted(fields.iter().map(|field| field.name.as_str()));
            return Err(Error::invalid(format!(
                "{} names `{name}`, which {path} does not have; it has {known}",
                raw.path("required")
            )));
        }
    }
    for field in &mut fields {
        field.required = required.contains(&field.name);
    }
    Ok(fields)
}

fn field(path: &str, name: String, text: &str, origin: &str) -> Result<Field> {
    let bad = |why: &str| Error::invalid(format!("{origin}: {path}.{name} = \"{text}\": {why}"));
    let data_type = DataType::parse(text).map_err(|error| bad(&error.to_string()))?;
    if matches!(data_type, DataType::List(_)) {
        return Err(bad("a field of events is no list"));
    }
    // `_source`, `_offset`, … are the archive's own columns.
    if name.is_empty() || name.starts_with('_') {
        return Err(bad("a field's name must not be empty or begin with `_`"));
    }
    Ok(Field { name, data_type, required: false })
}

/// The special fields are names of their own, but for the key, which is one of the fields, a string.
fn check_fields(settings: &SourceSettings, path: &str) -> Result<()> {
    let key = settings.fields.iter().find(|field| field.name == settings.key_field);
    if key.is_none_or(|field| field.data_type != DataType::Utf8) && settings.key_field != settings.id_field {
        let key = &settings.key_field;
        return Err(Error::invalid(format!(
            "key_field = \"{key}\" is no string field: add {key} = \"string\" to {path}"
        )));
    }
    if settings.time_field == settings.id_field {
        return Err(Error::invalid(format!("time_field and id_field are both \"{}\"", settings.time_field)));
    }
    for (key, name) in [("time_field", &settings.time_field), ("id_field", &settings.id_field)] {
        if settings.fields.iter().any(|field| field.name == *name) {
            return Err(Error::invalid(format!("{path} must not list \"{name}\": {key} declares it")));
        }
    }
    Ok(())
}

fn transforms(mut raw: RawTable, defaults: TransformSettings) -> Result<TransformSettings> {
    let settings = TransformSettings { paths: raw.strings("paths", defaults.paths)? };
    raw.finish()?;
    Ok(settings)
}

/// Checks an address of an HTTP service.
pub(super) fn http_url(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    match rest {
        Some(rest) if rest.contains('@') => Err("the address must not hold a name and password".to_owned()),
        Some(rest) if !rest.is_empty() && !rest.starts_with('/') => Ok(text.trim_end_matches('/').to_owned()),
        _ => Err("write http://host:port or https://host".to_owned()),
    }
}

pub(super) fn duration(text: &str) -> Result<Duration> {
    Ok(Duration::from_micros(parse_duration(text)?.unsigned_abs()))
}

/// Reads a duration within bounds.
pub(super) fn duration_within(bounds: (Duration, Duration)) -> impl Fn(&str) -> Result<Duration> {
    move |text| {
        let given = duration(text)?;
        if (bounds.0..=bounds.1).contains(&given) {
            return Ok(given);
        }
        let word = |bound: Duration| format_duration(i64::try_from(bound.as_micros()).unwrap_or(i64::MAX));
        Err(Error::invalid(format!("write {} to {}", word(bounds.0), word(bounds.1))))
    }
}

fn run(mut raw: RawTable, defaults: RunSettings) -> Result<RunSettings> {
    let settings = RunSettings {
        serve: raw.bool("serve", defaults.serve)?,
        publish_interval: raw.text("publish_interval", defaults.publish_interval, duration)?,
        commit_interval: raw.text("commit_interval", defaults.commit_interval, duration)?,
        commit_size_bytes: raw.text("commit_size", defaults.commit_size_bytes, parse_size)?,
        max_uncommitted_bytes: raw.text("max_uncommitted", defaults.max_uncommitted_bytes, parse_size)?,
        threads: raw.integer("threads", defaults.threads, (0, 1_024))?,
        max_state_bytes: raw.text("max_state", defaults.max_state_bytes, parse_size)?,
        hot_key: raw.integer("hot_key", defaults.hot_key, (1, u32::MAX))?,
    };
    if settings.max_uncommitted_bytes < settings.commit_size_bytes {
        return Err(raw.refuse(
            "max_uncommitted",
            format!(
                "= \"{}\" is less than {} = \"{}\": it must be at least that",
                format_size(settings.max_uncommitted_bytes),
                raw.path("commit_size"),
                format_size(settings.commit_size_bytes)
            ),
        ));
    }
    raw.finish()?;
    Ok(settings)
}

fn telemetry(mut raw: RawTable, defaults: &TelemetrySettings) -> Result<TelemetrySettings> {
    let settings = TelemetrySettings {
        logs: raw.word("logs", defaults.logs, &LogFormat::ALL)?,
        otlp_endpoint: raw.text("otlp_endpoint", None, |url| match url {
            "" => Ok(None),
            _ => http_url(url).map(Some),
        })?,
    };
    raw.finish()?;
    Ok(settings)
}

fn serve(mut raw: RawTable, defaults: ServeSettings) -> Result<ServeSettings> {
    let insecure = raw.bool("insecure", defaults.insecure)?;
    let address = |text: &str| match parse_address(text) {
        Ok(address) if insecure || is_loopback(&address) => Ok(address),
        Ok(_) => Err("other machines can reach this address, and nothing asks them for a key yet: \
             listen on 127.0.0.1, or set serve.insecure = true"
            .to_owned()),
        Err(why) => Err(why),
    };
    let settings = ServeSettings {
        listen: raw.text("listen", defaults.listen, address)?,
        admin_listen: raw.text("admin_listen", defaults.admin_listen, address)?,
        metrics_listen: raw.text("metrics_listen", defaults.metrics_listen, address)?,
        insecure,
        header_timeout: raw.text("header_timeout", defaults.header_timeout, duration)?,
        request_timeout: raw.text("request_timeout", defaults.request_timeout, duration)?,
        shutdown_timeout: raw.text("shutdown_timeout", defaults.shutdown_timeout, duration)?,
        body_limit_bytes: raw.text("body_limit", defaults.body_limit_bytes, parse_size)?,
        component_limit_bytes: raw.text("component_limit", defaults.component_limit_bytes, parse_size)?,
        batch_limit: raw.integer("batch_limit", defaults.batch_limit, (1, 100_000))?,
        connection_limit: raw.integer("connection_limit", defaults.connection_limit, (1, 1_000_000))?,
    };
    raw.finish()?;
    let addresses = [&settings.listen, &settings.admin_listen, &settings.metrics_listen];
    for (index, address) in addresses.iter().enumerate() {
        if !address.ends_with(":0") && addresses[..index].contains(address) {
            return Err(Error::invalid(format!("[serve]: two listeners have the address {address}")));
        }
    }
    Ok(settings)
}
