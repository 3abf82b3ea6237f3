//! The keys of a Kafka source: its topic, how to reach it, and how its records are encoded.

use super::raw::{RawTable, either};
use super::unit::{parse_address, parse_size};
use super::{SourceKind, SourceSettings, check};
use crate::Result;
use crate::instance::AUTO;
use plumb_core::time::{DAY_US, format_duration};
use plumb_formats::{FormatSettings, RecordFormat, RegistrySettings};
use plumb_pipeline::Secret;
use plumb_source_kafka::settings::SASL_MECHANISMS;
use plumb_source_kafka::{KafkaSasl, KafkaSecurity, KafkaSettings, KafkaStart, KafkaTls};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a group may wait for a silent member: what brokers take, generously.
const SESSION_TIMEOUT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(1800));

/// The bounds of the largest record, in bytes: what librdkafka takes.
const MAX_MESSAGE_BYTES: (u64, u64) = (1_000, 1_000_000_000);

/// The topic of a source with how to reach it, and the file of the password.
pub(super) fn kafka(raw: &mut RawTable, defaults: KafkaSettings) -> Result<(KafkaSettings, Option<PathBuf>)> {
    let brokers = raw.text("brokers", defaults.brokers, |brokers| {
        brokers.split(',').try_for_each(|one| parse_address(one.trim()).map(drop))?;
        Ok::<_, String>(brokers.to_owned())
    })?;
    let security = raw.word("security", defaults.security, &KafkaSecurity::ALL)?;
    let (sasl, sasl_password_file) = sasl(raw, security)?;
    let settings = KafkaSettings {
        brokers,
        topic: raw.text("topic", defaults.topic, topic)?,
        group: raw.string("group", &defaults.group)?,
        start: raw.word("start", defaults.start, &KafkaStart::ALL)?,
        security,
        sasl,
        tls: tls(raw, security)?,
        instance_id: Some(raw.text("instance_id", AUTO.to_owned(), |text| Ok::<_, String>(text.to_owned()))?)
            .filter(|text| !text.is_empty()),
        session_timeout: raw.text(
            "session_timeout",
            defaults.session_timeout,
            check::duration_within(SESSION_TIMEOUT),
        )?,
        dead_letter_topic: match raw.text("dead_letter_topic", String::new(), |text| match text {
            "" => Ok(String::new()),
            _ => topic(text),
        })? {
            none if none.is_empty() => None,
            name => Some(name),
        },
        max_message_bytes: raw.text("max_message", defaults.max_message_bytes, max_message)?,
    };
    if settings.dead_letter_topic.as_ref() == Some(&settings.topic) {
        return Err(
            raw.refuse("dead_letter_topic", "is the topic itself: what is rejected would come in again; name another")
        );
    }
    Ok((settings, sasl_password_file))
}

fn topic(name: &str) -> Result<String, String> {
    let letter = |letter: u8| letter.is_ascii_alphanumeric() || b"._-".contains(&letter);
    let good = (1..=249).contains(&name.len()) && name.bytes().all(letter) && name != "." && name != "..";
    good.then(|| name.to_owned()).ok_or_else(|| "a topic's name is 1 to 249 of a-z, A-Z, 0-9, `.`, `_` and `-`".into())
}

fn max_message(text: &str) -> Result<u32, String> {
    let bytes = parse_size(text)?;
    let within = (MAX_MESSAGE_BYTES.0..=MAX_MESSAGE_BYTES.1).contains(&bytes).then_some(bytes);
    let bytes = within.and_then(|bytes| u32::try_from(bytes).ok());
    bytes.ok_or_else(|| "write 1000B to 953MiB".to_owned())
}

fn sasl(raw: &mut RawTable, security: KafkaSecurity) -> Result<(Option<KafkaSasl>, Option<PathBuf>)> {
    let default = SASL_MECHANISMS[0];
    let words = SASL_MECHANISMS.map(|mechanism| (mechanism, mechanism));
    let mechanism = raw.word("sasl_mechanism", default, &words)?;
    let username = raw.optional("sasl_username")?;
    let password = raw.secret("sasl_password")?;
    let file = raw.optional_path("sasl_password_file")?;
    if !security.has_sasl() {
        let set = [
            ("sasl_mechanism", mechanism != default),
            ("sasl_username", username.is_some()),
            ("sasl_password", password.is_some()),
            ("sasl_password_file", file.is_some()),
        ];
        raw.refuse_set(&set, || {
            format!(
                "is set, but {} = \"{}\" asks for no name and password: set it to \"sasl_ssl\" or \"sasl_plaintext\"",
                raw.path("security"),
                security.name()
            )
        })?;
        return Ok((None, None));
    }
    if password.is_some() && file.is_some() {
        return Err(raw.refuse("sasl_password_file", format!("and {} are both set", raw.path("sasl_password"))));
    }
    let from_file = match &file {
        Some(file) => Some(read_secret(file).map_err(|why| raw.refuse("sasl_password_file", why))?),
        None => None,
    };
    let needs = |key| raw.refuse("security", format!("= \"{}\" needs {}", security.name(), raw.path(key)));
    let username = username.ok_or_else(|| needs("sasl_username"))?;
    let password = password.or(from_file).ok_or_else(|| needs("sasl_password (or sasl_password_file)"))?;
    Ok((Some(KafkaSasl { mechanism: mechanism.to_owned(), username, password }), file))
}

/// The first line of a file.
fn read_secret(file: &Path) -> Result<Secret, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("= \"{}\": {error}", file.display()))?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(Secret::new(line)),
        _ => Err(format!("= \"{}\": its first line is empty", file.display())),
    }
}

fn tls(raw: &mut RawTable, security: KafkaSecurity) -> Result<KafkaTls> {
    let tls = KafkaTls {
        ca: raw.optional_path("ssl_ca")?,
        certificate: raw.optional_path("ssl_certificate")?,
        key: raw.optional_path("ssl_key")?,
    };
    if !security.has_tls() {
        let set = [
            ("ssl_ca", tls.ca.is_some()),
            ("ssl_certificate", tls.certificate.is_some()),
            ("ssl_key", tls.key.is_some()),
        ];
        raw.refuse_set(&set, || {
            format!(
                "is set, but {} = \"{}\" does not use TLS: set it to \"ssl\" or \"sasl_ssl\"",
                raw.path("security"),
                security.name()
            )
        })?;
    }
    match (&tls.certificate, &tls.key) {
        (Some(_), None) => Err(raw.refuse("ssl_certificate", format!("needs {} too", raw.path("ssl_key")))),
        (None, Some(_)) => Err(raw.refuse("ssl_key", format!("needs {} too", raw.path("ssl_certificate")))),
        _ => Ok(tls),
    }
}

/// How records are encoded.
pub(super) fn format(raw: &mut RawTable) -> Result<FormatSettings> {
    let format = raw.word("format", RecordFormat::Json, &RecordFormat::ALL)?;
    let url = raw.text("registry_url", None, |url| match url {
        "" => Ok(None),
        _ => check::http_url(url).map(Some),
    })?;
    let username = raw.optional("registry_username")?;
    let password = raw.secret("registry_password")?;
    let tls_ca = raw.optional_path("registry_ca")?;
    let message = raw.optional("message")?;
    if format == RecordFormat::Json {
        let set = [
            ("registry_url", url.is_some()),
            ("registry_username", username.is_some()),
            ("registry_password", password.is_some()),
            ("registry_ca", tls_ca.is_some()),
        ];
        raw.refuse_set(&set, || {
            let path = raw.path("format");
            format!("is set, but {path} = \"json\" needs no registry: set it to \"avro\" or \"protobuf\"")
        })?;
    }
    raw.refuse_set(&[("message", message.is_some() && format != RecordFormat::Protobuf)], || {
        format!("names a Protobuf message, but {} = \"{}\"", raw.path("format"), format.name())
    })?;
    let credentials = match (username, password) {
        (Some(username), Some(password)) => Some((username, password)),
        (Some(_), None) => {
            return Err(raw.refuse("registry_username", format!("needs {} too", raw.path("registry_password"))));
        }
        (None, Some(_)) => {
            return Err(raw.refuse("registry_password", format!("needs {} too", raw.path("registry_username"))));
        }
        (None, None) => None,
    };
    if tls_ca.is_some() && url.as_ref().is_some_and(|url| url.starts_with("http://")) {
        let why = format!("is set, but {} does not use TLS: begin it with https://", raw.path("registry_url"));
        return Err(raw.refuse("registry_ca", why));
    }
    let registry = url.map(|url| RegistrySettings { url, credentials, tls_ca });
    if format != RecordFormat::Json && registry.is_none() {
        let why = format!("= \"{}\" needs {}", format.name(), raw.path("registry_url"));
        return Err(raw.refuse("format", why));
    }
    Ok(FormatSettings { format, registry, message })
}

/// Refuses keys of another kind of source than this one: they would be ignored.
pub(super) fn check_kind(raw: &RawTable, settings: &SourceSettings) -> Result<()> {
    let defaults = SourceSettings::default();
    let (kafka, format) = (&settings.kafka, &settings.format);
    let of_kafka = [
        ("brokers", kafka.brokers != defaults.kafka.brokers),
        ("topic", kafka.topic != defaults.kafka.topic),
        ("group", kafka.group != defaults.kafka.group),
        ("start", kafka.start != defaults.kafka.start),
        ("security", kafka.security != defaults.kafka.security),
        ("instance_id", kafka.instance_id != defaults.kafka.instance_id),
        ("session_timeout", kafka.session_timeout != defaults.kafka.session_timeout),
        ("dead_letter_topic", kafka.dead_letter_topic.is_some()),
        ("max_message", kafka.max_message_bytes != defaults.kafka.max_message_bytes),
        ("format", format.format != RecordFormat::Json),
        ("dedupe_horizon", settings.dedupe_horizon_us != defaults.dedupe_horizon_us),
    ];
    let kinds = [
        (SourceKind::Log, &[("partitions", settings.partitions != defaults.partitions)][..]),
        (SourceKind::File, &[("path", settings.path != defaults.path)]),
        (SourceKind::Kafka, &of_kafka),
    ];
    for (kind, keys) in kinds {
        if kind != settings.kind {
            let (of, path, own) = (kind.name(), raw.path("kind"), settings.kind.name());
            raw.refuse_set(keys, || format!("is a key of kind = \"{of}\", but {path} is \"{own}\""))?;
        }
    }
    if settings.kind == SourceKind::Kafka && settings.dedupe_horizon_us > MAX_HORIZON_US {
        let given = format_duration(settings.dedupe_horizon_us);
        return Err(
            raw.refuse("dedupe_horizon", format!("= \"{given}\" is more than {}", format_duration(MAX_HORIZON_US)))
        );
    }
    Ok(())
}

/// Ids are kept in memory; nobody means to keep those of centuries.
const MAX_HORIZON_US: i64 = 3_660 * DAY_US;

/// The words of [`SourceKind`].
pub(super) fn kinds() -> String {
    either(SourceKind::ALL.iter().map(|(word, _)| *word))
}
