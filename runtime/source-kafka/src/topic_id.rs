//! The id that a cluster gave a topic when it was created: a topic that was deleted and created again under its
//! old name is another one, and its offsets mean other records.

use rdkafka::bindings as sys;
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use std::ffi::{CStr, CString};
use std::os::raw::c_char;
use std::time::Duration;

/// What a cluster knows of a topic's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TopicId {
    /// The topic's id, in Kafka's own notation.
    Known(String),
    /// There is no such topic.
    Missing,
}

/// Asks for a topic's id. The safe interface of `rdkafka` has no request for it.
#[expect(unsafe_code, reason = "only librdkafka's own interface asks for a topic's id; see SAFETY")]
pub(crate) fn topic_id<C: ClientContext>(client: &Client<C>, topic: &str, timeout: Duration) -> KafkaResult<TopicId> {
    let name = CString::new(topic)?;
    let mut names: [*const c_char; 1] = [name.as_ptr()];
    let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    let handle = client.native_ptr();
    let mut text: [c_char; 512] = [0; 512];
    // SAFETY: `handle` is a live client as long as `client` is borrowed. Every object made here is destroyed here
    // exactly once, the event after the last use of what it owns (result, descriptions, id and its text); pointers
    // handed in outlive their calls, and librdkafka copies what it keeps.
    unsafe {
        let queue = sys::rd_kafka_queue_new(handle);
        let topics = sys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
        let options =
            sys::rd_kafka_AdminOptions_new(handle, sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
        sys::rd_kafka_AdminOptions_set_request_timeout(options, timeout_ms, text.as_mut_ptr(), text.len());
        sys::rd_kafka_DescribeTopics(handle, topics, options, queue);
        sys::rd_kafka_AdminOptions_destroy(options);
        sys::rd_kafka_TopicCollection_destroy(topics);
        // The request ends by itself at its timeout; the event of that is on its way then.
        let event = sys::rd_kafka_queue_poll(queue, timeout_ms.saturating_add(1_000));
        let answer = if event.is_null() {
            Err(KafkaError::AdminOp(RDKafkaErrorCode::OperationTimedOut))
        } else {
            described(event)
        };
        if !event.is_null() {
            sys::rd_kafka_event_destroy(event);
        }
        sys::rd_kafka_queue_destroy(queue);
        answer
    }
}

/// The id in the answer to a request for one topic.
///
/// # Safety
/// `event` is a live event of that request.
#[expect(unsafe_code, reason = "reads librdkafka's answer; see SAFETY")]
unsafe fn described(event: *mut sys::rd_kafka_event_t) -> KafkaResult<TopicId> {
    // SAFETY: the event lives until its caller destroys it, and owns everything read here; every pointer is checked
    // before it is followed.
    unsafe {
        let error = RDKafkaErrorCode::from(sys::rd_kafka_event_error(event));
        if error != RDKafkaErrorCode::NoError {
            return Err(KafkaError::AdminOp(error));
        }
        let result = sys::rd_kafka_event_DescribeTopics_result(event);
        if result.is_null() {
            return Err(KafkaError::AdminOp(RDKafkaErrorCode::BadMessage));
        }
        let mut count = 0;
        let descriptions = sys::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        if descriptions.is_null() || count != 1 {
            return Err(KafkaError::AdminOp(RDKafkaErrorCode::BadMessage));
        }
        let description = *descriptions;
        let error = sys::rd_kafka_TopicDescription_error(description);
        // A null error is none.
        match RDKafkaErrorCode::from(sys::rd_kafka_error_code(error)) {
            RDKafkaErrorCode::NoError => {}
            RDKafkaErrorCode::UnknownTopicOrPartition => return Ok(TopicId::Missing),
            error => return Err(KafkaError::AdminOp(error)),
        }
        let id = sys::rd_kafka_TopicDescription_topic_id(description);
        let text = if id.is_null() { std::ptr::null() } else { sys::rd_kafka_Uuid_base64str(id) };
        if text.is_null() {
            return Err(KafkaError::AdminOp(RDKafkaErrorCode::BadMessage));
        }
        Ok(TopicId::Known(CStr::from_ptr(text).to_string_lossy().into_owned()))
    }
}
