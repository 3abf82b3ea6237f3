//! Errors as RFC 9457 problem details. The types are stable: clients may match on them.

use crate::backend::BackendError;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use plumb_core::ErrorKind;
use plumb_pipeline::query::QueryError;
use plumb_pipeline::query::request::Named;
use serde_json::{Map, Value, json};

/// The media type of problem details.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// What went wrong, for the caller.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    /// The HTTP status.
    pub status: StatusCode,
    /// The last part of the type `urn:plumb:…`.
    pub kind: &'static str,
    /// The type in words.
    pub title: &'static str,
    /// What happened this time.
    pub detail: String,
    /// Further members.
    pub extra: Map<String, Value>,
    /// For 405: the methods that are allowed.
    pub allow: Option<&'static str>,
}

impl Problem {
    /// A problem.
    pub fn new(status: StatusCode, kind: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self { status, kind, title, detail: detail.into(), extra: Map::new(), allow: None }
    }

    /// 400: the request is malformed.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid-request", "Invalid request", detail)
    }

    /// 404: no such route.
    pub fn no_route(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "no-such-route", "No such route", detail)
    }

    /// 404: no such view.
    pub fn unknown_view(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "unknown-view", "Unknown view", detail)
    }

    /// 405: the route has other methods.
    pub fn method_not_allowed(allow: &'static str) -> Self {
        let detail = format!("allowed here: {allow}");
        let problem = Self::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed", detail);
        Self { allow: Some(allow), ..problem }
    }

    /// 408: the body did not come in time.
    pub fn body_timeout() -> Self {
        let detail = "the request's body did not arrive in time";
        Self::new(StatusCode::REQUEST_TIMEOUT, "request-timeout", "Request timeout", detail)
    }

    /// 413: the body, or the number of requests in it, is too large.
    pub fn too_large(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "Content too large", detail)
    }

    /// 415: another media type is wanted.
    pub fn media_type(found: &str, wanted: &str) -> Self {
        let detail = format!("content type `{found}`, expected {wanted}");
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", "Unsupported media type", detail)
    }

    /// 503: later it may work.
    pub fn unavailable(kind: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, kind, "Service unavailable", detail)
    }

    /// 500: our fault. The detail goes to the log, not to the caller.
    pub fn internal(detail: &str) -> Self {
        tracing::error!(detail, "request failed");
        let detail = "plumb failed to answer; its log says why";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal error", detail)
    }

    /// Adds a member.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.extra.insert(name.to_owned(), value.into());
        self
    }

    /// The response.
    pub fn into_response(self) -> Response<Full<Bytes>> {
        let mut body = json!({
            "type": format!("urn:plumb:{}", self.kind),
            "title": self.title,
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        if let Value::Object(members) = &mut body {
            members.extend(self.extra);
        }
        let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<QueryError> for Problem {
    fn from(error: QueryError) -> Self {
        let detail = error.to_string();
        match &error {
            QueryError::Unknown { what, near, .. } => {
                let (kind, title) = match what {
                    Named::Feature => ("unknown-feature", "Unknown feature"),
                    Named::View => ("unknown-view", "Unknown view"),
                    Named::Entity => ("unknown-entity", "Unknown entity"),
                    Named::Field => ("unknown-field", "Unknown field"),
                };
                Problem::new(StatusCode::BAD_REQUEST, kind, title, detail).with("near", near.clone())
            }
            QueryError::MissingEntity { entity, .. } => {
                let title = "Missing entity";
                Problem::new(StatusCode::BAD_REQUEST, "missing-entity", title, detail).with("entity", entity.as_str())
            }
            QueryError::Future { .. } => {
                let title = "Instant in the future";
                Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "future-as-of", title, detail)
            }
            QueryError::NotFound { .. } => {
                Problem::new(StatusCode::NOT_FOUND, "entity-not-found", "Entity not found", detail)
            }
            QueryError::Rebuilding => Problem::unavailable("rebuilding", detail),
            QueryError::InBatch { .. } => {
                let QueryError::InBatch { index, error } = error else {
                    return Problem::internal("a batch error changed its kind");
                };
                let inner = Problem::from(*error);
                let detail = format!("requests[{index}]: {}", inner.detail);
                Problem { detail, ..inner }.with("request", index)
            }
            QueryError::Flow(flow) => match flow.kind() {
                ErrorKind::Invalid | ErrorKind::Reject => Problem::bad_request(detail),
                ErrorKind::Unavailable => Problem::unavailable("unavailable", detail),
                ErrorKind::Internal => Problem::internal(&detail),
            },
            _ => Problem::bad_request(detail),
        }
    }
}

impl From<BackendError> for Problem {
    fn from(error: BackendError) -> Self {
        match error {
            BackendError::NotFound(detail) => Problem::new(StatusCode::NOT_FOUND, "not-found", "Not found", detail),
            BackendError::Conflict(detail) => Problem::new(StatusCode::CONFLICT, "conflict", "Conflict", detail),
            BackendError::Unavailable(detail) => Problem::unavailable("unavailable", detail),
            BackendError::Internal(detail) => Problem::internal(&detail),
            BackendError::Record { index, why } => {
                Problem::bad_request(format!("record {index}: {why}")).with("record", index)
            }
            BackendError::Invalid(detail) => Problem::bad_request(detail),
        }
    }
}
