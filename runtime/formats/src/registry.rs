//! A Confluent-compatible schema registry: schemas by id, asked for once.
//!
//! A schema under an id never changes, so an answer is kept for good; that an id is unknown is kept for a short while only.
//! Asking happens on a thread of its own: whoever needs a schema waits for a moment and is then told to try again, so that
//! other partitions of the same worker go on while a registry is slow or away.

use crate::settings::RegistrySettings;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use plumb_pipeline::{Error, Result};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

/// How long somebody who needs a schema waits for it.
const WAIT: Duration = Duration::from_millis(50);

/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(5);

/// The pauses between the tries of one asking.
const PAUSES: [Duration; 3] = [Duration::from_millis(100), Duration::from_millis(300), Duration::from_millis(1_000)];

/// How long after a failure is asked again at the earliest.
const FAILED_FOR: Duration = Duration::from_millis(500);

/// How long an unknown id is taken to stay unknown.
const UNKNOWN_FOR: Duration = Duration::from_secs(30);

/// How many unknown ids are remembered; records of garbage have as many as there are records.
const UNKNOWN_MAX: usize = 4_096;

/// The largest answer that is read, in bytes.
const ANSWER_MAX: u64 = 8 << 20;

/// How deep references may refer.
const REFERENCES_MAX: usize = 256;

/// What a schema is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaKind {
    /// Avro.
    Avro,
    /// Protobuf.
    Protobuf,
    /// Something else (JSON Schema).
    Other,
}

/// A schema as registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistrySchema {
    /// What it is written in.
    pub kind: SchemaKind,
    /// Its text.
    pub text: String,
    /// Names and texts of the schemas it refers to, theirs included.
    pub references: Vec<(String, String)>,
}

#[derive(Debug, Clone)]
enum Entry {
    /// Being asked for.
    Asked,
    Known(Arc<RegistrySchema>),
    Unknown(Instant),
    Failed(Instant, String),
}

/// The schemas of a registry. Cheap to clone; clones share what they know.
#[derive(Debug, Clone)]
pub struct Registry(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    client: Client,
    entries: Mutex<BTreeMap<u32, Entry>>,
    answered: Condvar,
}

impl Registry {
    /// A registry that has not been asked anything yet. The error, of kind `Invalid`, is about the file of its
    /// authorities.
    pub fn new(settings: &RegistrySettings) -> Result<Self> {
        let client = Client::new(settings)?;
        Ok(Self(Arc::new(Shared { client, entries: Mutex::default(), answered: Condvar::new() })))
    }

    /// The schema of an id, `None` if there is none. While it is not known, an error of kind `Unavailable`: try again.
    pub fn schema(&self, id: u32) -> Result<Option<Arc<RegistrySchema>>> {
        let mut entries = self.0.lock();
        let stale = match entries.get(&id) {
            None => true,
            Some(Entry::Unknown(since)) => since.elapsed() >= UNKNOWN_FOR,
            Some(Entry::Failed(since, _)) => since.elapsed() >= FAILED_FOR,
            Some(Entry::Asked | Entry::Known(_)) => false,
        };
        if stale {
            self.ask(&mut entries, id)?;
        }
        let still_asked = |entries: &mut BTreeMap<u32, Entry>| matches!(entries.get(&id), Some(Entry::Asked));
        let waited = self.0.answered.wait_timeout_while(entries, WAIT, still_asked);
        let (entries, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match entries.get(&id) {
            Some(Entry::Known(schema)) => Ok(Some(schema.clone())),
            Some(Entry::Unknown(_)) => Ok(None),
            Some(Entry::Failed(_, why)) => Err(self.away(id, why)),
            Some(Entry::Asked) | None => Err(self.away(id, "it has not answered yet")),
        }
    }

    /// Asks for an id on a thread of its own.
    fn ask(&self, entries: &mut BTreeMap<u32, Entry>, id: u32) -> Result<()> {
        let shared = self.0.clone();
        let ask = move || {
            let entry = match shared.client.schema(id) {
                Ok(Some(schema)) => Entry::Known(Arc::new(schema)),
                Ok(None) => Entry::Unknown(Instant::now()),
                Err(why) => Entry::Failed(Instant::now(), why),
            };
            let mut entries = shared.lock();
            entries.retain(|_, entry| !matches!(entry, Entry::Unknown(since) if since.elapsed() >= UNKNOWN_FOR));
            if entries.values().filter(|entry| matches!(entry, Entry::Unknown(_))).count() >= UNKNOWN_MAX {
                entries.retain(|_, entry| !matches!(entry, Entry::Unknown(_)));
            }
            entries.insert(id, entry);
            drop(entries);
            shared.answered.notify_all();
        };
        let thread = std::thread::Builder::new().name("plumb-registry".into()).spawn(ask);
        thread.map_err(|error| Error::unavailable("start a thread", error))?;
        entries.insert(id, Entry::Asked);
        Ok(())
    }

    fn away(&self, id: u32, why: &str) -> Error {
        Error::unavailable(format!("ask the schema registry {} for schema {id}", self.0.client.url), why)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Entry>> {
        // An entry is put in whole.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The HTTP side.
struct Client {
    url: String,
    agent: ureq::Agent,
    authorization: Option<String>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Client {
    fn new(settings: &RegistrySettings) -> Result<Self> {
        let mut config = ureq::Agent::config_builder()
            .timeout_global(Some(REQUEST))
            .http_status_as_error(false)
            // Credentials go to where the operator said and nowhere else.
            .max_redirects(0)
            .user_agent(concat!("plumb/", env!("CARGO_PKG_VERSION")));
        if let Some(file) = &settings.tls_ca {
            let roots = RootCerts::new_with_certs(&authorities(file)?);
            config = config.tls_config(TlsConfig::builder().root_certs(roots).build());
        }
        let authorization = settings
            .credentials
            .as_ref()
            .map(|(name, password)| format!("Basic {}", BASE64.encode(format!("{name}:{}", password.reveal()))));
        Ok(Self { url: settings.url.clone(), agent: config.build().into(), authorization })
    }

    /// A schema with all it refers to; `None` if the id is unknown.
    fn schema(&self, id: u32) -> Result<Option<RegistrySchema>, String> {
        let Some(answer) = self.get(&format!("/schemas/ids/{id}"))? else { return Ok(None) };
        let kind = match answer["schemaType"].as_str() {
            None | Some("AVRO") => SchemaKind::Avro,
            Some("PROTOBUF") => SchemaKind::Protobuf,
            Some(_) => SchemaKind::Other,
        };
        let mut schema = RegistrySchema { kind, text: text_of(&answer)?, references: Vec::new() };
        let mut names = BTreeSet::new();
        let mut open = vec![answer["references"].clone()];
        while let Some(references) = open.pop() {
            for reference in references.as_array().into_iter().flatten() {
                let (Some(name), Some(subject), Some(version)) =
                    (reference["name"].as_str(), reference["subject"].as_str(), reference["version"].as_u64())
                else {
                    return Err("a reference of the schema lacks its name, subject or version".into());
                };
                if !names.insert(name.to_owned()) {
                    continue;
                }
                if names.len() > REFERENCES_MAX {
                    return Err(format!("the schema refers to more than {REFERENCES_MAX} others"));
                }
                let path = format!("/subjects/{}/versions/{version}", escape(subject));
                let answer = self.get(&path)?.ok_or_else(|| format!("`{subject}` version {version} is missing"))?;
                schema.references.push((name.to_owned(), text_of(&answer)?));
                open.push(answer["references"].clone());
            }
        }
        Ok(Some(schema))
    }

    /// The JSON of a path, `None` if it does not exist, trying again while the registry is away.
    fn get(&self, path: &str) -> Result<Option<Value>, String> {
        let mut pauses = PAUSES.iter();
        loop {
            let (why, again) = match self.try_get(path) {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            match pauses.next().filter(|_| again) {
                Some(pause) => std::thread::sleep(*pause),
                None => return Err(why),
            }
        }
    }

    /// One request. The error says why it failed, and whether another may not.
    fn try_get(&self, path: &str) -> Result<Option<Value>, (String, bool)> {
        let mut request = self.agent.get(format!("{}{path}", self.url));
        request = request.header("accept", "application/vnd.schemaregistry.v1+json, application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        let mut answer = request.call().map_err(|error| (error.to_string(), true))?;
        let status = answer.status().as_u16();
        let body = answer.body_mut().with_config().limit(ANSWER_MAX).read_to_vec();
        let body = body.map_err(|error| (error.to_string(), true))?;
        let json: Option<Value> = serde_json::from_slice(&body).ok();
        let said = json.as_ref().and_then(|json| json["message"].as_str()).unwrap_or_default();
        match (status, json.as_ref()) {
            (200, Some(_)) => Ok(json),
            // The registry's own 404 has a code; another server's says nothing about the schema.
            (404, Some(error)) if error["error_code"].is_number() => Ok(None),
            (401 | 403, _) => {
                Err((format!("it answers {status}: check registry_username and registry_password"), false))
            }
            _ => Err((format!("it answers {status} {said}").trim_end().to_owned(), status >= 500 || status == 429)),
        }
    }
}

/// The certificates of a PEM file.
fn authorities(file: &Path) -> Result<Vec<Certificate<'static>>> {
    let bad = |why: &dyn std::fmt::Display| Error::invalid(format!("registry_ca `{}`: {why}", file.display()));
    let pem = std::fs::read(file).map_err(|error| bad(&error))?;
    let mut certificates = Vec::new();
    for item in parse_pem(&pem) {
        if let PemItem::Certificate(certificate) = item.map_err(|error| bad(&error))? {
            certificates.push(certificate);
        }
    }
    if certificates.is_empty() { Err(bad(&"it holds no certificate")) } else { Ok(certificates) }
}

fn text_of(answer: &Value) -> Result<String, String> {
    answer["schema"].as_str().map(str::to_owned).ok_or_else(|| "its answer has no schema".to_owned())
}

/// A subject as a part of a path.
fn escape(subject: &str) -> String {
    let mut escaped = String::with_capacity(subject.len());
    for byte in subject.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => escaped.push(byte.into()),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}
