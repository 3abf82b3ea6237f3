//! A small blocking HTTP client for the service of another process: the owner of a data folder.
//!
//! One connection a call, one deadline over all of it; every error names the address. Answers that are
//! problem details (RFC 9457) become an error with their `detail`.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

/// Why a call failed.
#[derive(Debug)]
pub(crate) enum ClientError {
    /// Nothing answers there, or the connection broke.
    Unreachable(String),
    /// The service refused: its status and words.
    Refused {
        /// The HTTP status.
        status: u16,
        /// The problem's detail, with the address.
        message: String,
    },
    /// It answered, but not as this version expects.
    Unexpected(String),
}

impl std::fmt::Display for ClientError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ClientError::Unreachable(message)
            | ClientError::Refused { message, .. }
            | ClientError::Unexpected(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for ClientError {}

impl From<ClientError> for plumb_pipeline::Error {
    fn from(error: ClientError) -> Self {
        match &error {
            ClientError::Refused { status: 400..500, message } => Self::invalid(message.clone()),
            _ => Self::unavailable("ask the running plumb", error.to_string()),
        }
    }
}

/// A client of one listener.
#[derive(Debug)]
pub(crate) struct Client {
    address: String,
    timeout: Duration,
    runtime: Runtime,
}

impl Client {
    /// A client of `host:port`; `timeout` is for each call as a whole.
    pub(crate) fn new(address: &str, timeout: Duration) -> Result<Self, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| ClientError::Unreachable(format!("cannot start the client of {address}: {error}")))?;
        Ok(Self { address: address.to_owned(), timeout, runtime })
    }

    /// `GET` a JSON document; `target` is a path with its query, percent-encoded.
    pub(crate) fn get(&self, target: &str) -> Result<serde_json::Value, ClientError> {
        self.json(Method::GET, target, None, Bytes::new())
    }

    /// `POST` a JSON document.
    pub(crate) fn post(&self, target: &str, body: &serde_json::Value) -> Result<serde_json::Value, ClientError> {
        self.json(Method::POST, target, Some("application/json"), Bytes::from(body.to_string()))
    }

    /// `POST` bytes of a content type, such as a component or events as lines.
    pub(crate) fn post_bytes(
        &self,
        target: &str,
        content_type: &str,
        body: Vec<u8>,
    ) -> Result<serde_json::Value, ClientError> {
        self.json(Method::POST, target, Some(content_type), Bytes::from(body))
    }

    /// `DELETE`.
    pub(crate) fn delete(&self, target: &str) -> Result<serde_json::Value, ClientError> {
        self.json(Method::DELETE, target, None, Bytes::new())
    }

    /// Reads an answer to `route` (such as `GET /registry`) as what it is; a member that is missing or of another type is an
    /// error that names both.
    pub(crate) fn read<T: DeserializeOwned>(
        &self,
        route: &str,
        document: &serde_json::Value,
    ) -> Result<T, ClientError> {
        serde_path_to_error::deserialize(document).map_err(|error| {
            let at = match error.path().to_string() {
                whole if whole == "." => String::new(),
                path => format!("`{path}`: "),
            };
            self.unexpected(route, &format!("{at}{}", error.inner()))
        })
    }

    /// The error where the answer to a route is not as expected.
    pub(crate) fn unexpected(&self, route: &str, what: &str) -> ClientError {
        ClientError::Unexpected(format!(
            "{}: cannot use the answer to {route}: {what}; is that a plumb of another version ({} here)?",
            self.address,
            env!("CARGO_PKG_VERSION")
        ))
    }

    fn json(
        &self,
        method: Method,
        target: &str,
        content_type: Option<&str>,
        body: Bytes,
    ) -> Result<serde_json::Value, ClientError> {
        let (status, body) = self.call(method, target, content_type, body)?;
        let document: Option<serde_json::Value> = serde_json::from_slice(&body).ok();
        if status.is_success() {
            return document.ok_or_else(|| self.unexpected(target, "it is not JSON"));
        }
        let detail = document.as_ref().and_then(|problem| problem.get("detail")?.as_str()).map(str::to_owned);
        let detail = detail.unwrap_or_else(|| format!("{target} answered {status}"));
        Err(ClientError::Refused { status: status.as_u16(), message: format!("{}: {detail}", self.address) })
    }

    fn call(
        &self,
        method: Method,
        target: &str,
        content_type: Option<&str>,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let failed = |what: &str, why: String| {
            ClientError::Unreachable(format!("cannot {what} plumb at {}: {why}", self.address))
        };
        let mut request = Request::builder().method(method).uri(target).header(HOST, &self.address);
        if let Some(content_type) = content_type {
            request = request.header(CONTENT_TYPE, content_type);
        }
        let request = request.body(Full::new(body)).map_err(|error| failed("ask", error.to_string()))?;
        let exchange = async {
            let stream =
                TcpStream::connect(&self.address).await.map_err(|error| failed("connect to", error.to_string()))?;
            let broken = |error: hyper::Error| failed("talk to", error.to_string());
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
            let exchange = async {
                let answer = sender.send_request(request).await.map_err(broken)?;
                let status = answer.status();
                let body = answer.into_body().collect().await.map_err(broken)?.to_bytes();
                Ok((status, body))
            };
            // The connection must be driven while the exchange goes on; the exchange says how it went.
            let driven = async {
                match connection.await {
                    Ok(()) => std::future::pending().await,
                    Err(error) => Err(broken(error)),
                }
            };
            tokio::select! {
                biased;
                done = exchange => done,
                done = driven => done,
            }
        };
        self.runtime.block_on(async {
            match tokio::time::timeout(self.timeout, exchange).await {
                Ok(done) => done,
                Err(_) => Err(failed("wait for", format!("no answer within {} s", self.timeout.as_secs_f64()))),
            }
        })
    }
}

/// Percent-encodes a path segment or a query value.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// Answers one connection with these bytes; returns the address and what was asked.
    fn answering(answer: &'static str) -> (String, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let served = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = Vec::new();
            let mut piece = [0; 1024];
            while !asked.ends_with(b"}") && !asked.ends_with(b"\r\n\r\n") {
                let read = stream.read(&mut piece).unwrap();
                if read == 0 {
                    break;
                }
                asked.extend_from_slice(&piece[..read]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8(asked).unwrap()
        });
        (address, served)
    }

    fn client(address: &str) -> Client {
        Client::new(address, Duration::from_secs(10)).unwrap()
    }

    #[test]
    fn sends_and_reads_json() {
        let (address, served) = answering("HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n{\"a\":1}");
        let answer = client(&address).post("/events?source=x", &serde_json::json!({"k": "v"})).unwrap();
        assert_eq!(answer, serde_json::json!({"a": 1}));
        let asked = served.join().unwrap();
        assert!(asked.starts_with("POST /events?source=x HTTP/1.1\r\n"), "{asked}");
        assert!(asked.contains("content-type: application/json") && asked.ends_with("{\"k\":\"v\"}"), "{asked}");
    }

    #[test]
    fn problems_are_errors_with_their_words() {
        let (address, served) = answering("HTTP/1.1 409 Conflict\r\ncontent-length: 4\r\n\r\noops");
        let error = client(&address).get("/x").unwrap_err();
        assert_eq!(error.to_string(), format!("{address}: /x answered 409 Conflict"));
        assert!(matches!(error, ClientError::Refused { status: 409, .. }));
        served.join().unwrap();
        let (address, served) =
            answering("HTTP/1.1 400 Bad Request\r\ncontent-length: 24\r\n\r\n{\"detail\":\"not so fast\"}");
        let error = client(&address).get("/x").unwrap_err();
        assert_eq!(error.to_string(), format!("{address}: not so fast"));
        assert_eq!(plumb_pipeline::Error::from(error).kind(), plumb_core::ErrorKind::Invalid);
        served.join().unwrap();
    }

    #[test]
    fn answers_of_another_shape_name_the_route_and_the_member() {
        let client = client("127.0.0.1:8080");
        let read = |document: serde_json::Value| {
            let error = client.read::<plumb_serve_http::told::Views>("GET /registry", &document).unwrap_err();
            assert!(matches!(error, ClientError::Unexpected(_)));
            error.to_string()
        };
        let begin = "127.0.0.1:8080: cannot use the answer to GET /registry: ";
        let end = format!("; is that a plumb of another version ({} here)?", env!("CARGO_PKG_VERSION"));
        for (document, why) in [
            (serde_json::json!({}), "missing field `views`"),
            (serde_json::json!({"views": [{"view": "v"}]}), "`views[0]`: missing field `version`"),
            (
                serde_json::json!({"views": [{"view": "v", "version": 1}]}),
                "`views[0].version`: invalid type: integer `1`, expected a string",
            ),
            (serde_json::json!([]), "invalid length 0, expected struct Views with 1 element"),
        ] {
            assert_eq!(read(document), format!("{begin}{why}{end}"));
        }
    }

    #[test]
    fn nobody_there_is_named() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let error = client(&free).get("/health").unwrap_err();
        assert!(error.to_string().starts_with(&format!("cannot connect to plumb at {free}: ")), "{error}");
        assert_eq!(plumb_pipeline::Error::from(error).kind(), plumb_core::ErrorKind::Unavailable);
    }

    #[test]
    fn silence_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let error = Client::new(&address, Duration::from_millis(50)).unwrap().get("/health").unwrap_err();
        assert_eq!(error.to_string(), format!("cannot wait for plumb at {address}: no answer within 0.05 s"));
    }

    #[test]
    fn encodes_what_is_not_unreserved() {
        assert_eq!(encode("a b/é+~"), "a%20b%2F%C3%A9%2B~");
    }
}
