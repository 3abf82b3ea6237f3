//! Object stores: the local one and one in a bucket do the same, and say what is wrong in words.

use plumb_core::ErrorKind;
use plumb_pipeline::Secret;
use plumb_store_object::{LocalStore, S3Settings, open_s3};
use plumb_testing::service::proxy::{Fault, Proxy};
use plumb_testing::service::s3::{ACCESS_KEY, REGION, S3, SECRET_KEY};
use plumb_testing::service::skipped;
use plumb_testing::store::conforms;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn settings(endpoint: String, bucket: &str, prefix: &str) -> S3Settings {
    S3Settings {
        bucket: bucket.into(),
        prefix: prefix.into(),
        endpoint: Some(endpoint),
        region: Some(REGION.into()),
        access_key: Some(ACCESS_KEY.into()),
        secret_key: Some(Secret::new(SECRET_KEY)),
        allow_http: true,
    }
}

#[test]
fn a_local_folder_is_a_store() {
    let folder = tempfile::tempdir().unwrap();
    conforms(&|| Arc::new(LocalStore::open(folder.path().join("offline")).unwrap()));
}

#[test]
fn an_s3_bucket_is_a_store() {
    if skipped("an_s3_bucket_is_a_store") {
        return;
    }
    let s3 = S3::shared();
    // With a folder and without: a bucket's root is one too.
    s3.create_bucket("whole");
    for (bucket, prefix) in [("plumb", "stores/one"), ("whole", "")] {
        conforms(&|| open_s3(&settings(s3.endpoint(), bucket, prefix)).unwrap());
    }
    // But for the last one who was alone.
    let own = s3.list("plumb", "stores/one/_tmp");
    assert_eq!(own.len(), 2, "the store's own objects are removed: {own:?}");
    assert!(own.iter().all(|key| key.contains("/alone/")), "{own:?}");
}

/// The settings of a store behind a proxy that has gone bad, and the message of a call.
fn refused<T>(result: plumb_pipeline::Result<T>, kind: ErrorKind, text: &str) {
    let error = result.map(drop).unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(text), "expected `{text}`: {error}");
    assert!(!error.to_string().contains(SECRET_KEY), "{error}");
}

#[test]
fn what_is_wrong_with_an_s3_bucket_is_said() {
    if skipped("what_is_wrong_with_an_s3_bucket_is_said") {
        return;
    }
    let s3 = S3::shared();
    let missing = settings(s3.endpoint(), "no-such-bucket", "");
    refused(open_s3(&missing), ErrorKind::Invalid, "bucket `no-such-bucket` does not exist");
    let nobody = settings(format!("http://127.0.0.1:{}", plumb_testing::service::free_port()), "plumb", "");
    let begun = Instant::now();
    refused(open_s3(&nobody), ErrorKind::Unavailable, "refused");
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    let plain = S3Settings { allow_http: false, ..settings(s3.endpoint(), "plumb", "") };
    assert!(open_s3(&plain).is_err(), "HTTP has to be allowed");

    let proxy = Proxy::start(s3.address());
    let behind = settings(format!("http://{}", proxy.address()), "plumb", "wrong");
    proxy.set(Fault::Status(403));
    refused(open_s3(&behind), ErrorKind::Invalid, "access denied");
    proxy.set(Fault::None);
    let store = open_s3(&behind).unwrap();
    store.put("a", vec![1]).unwrap();
    proxy.set(Fault::Status(403));
    // A key may be given its rights back: whoever can wait does.
    refused(store.put("a", vec![2]), ErrorKind::Unavailable, "access denied");
    proxy.set(Fault::Status(503));
    let begun = Instant::now();
    let calls: [(&str, plumb_pipeline::Result<()>); 6] = [
        ("put", store.put("a", vec![2])),
        ("create", store.create("b", b"2").map(drop)),
        ("get", store.get("a").map(drop)),
        ("list", store.list("").map(drop)),
        ("rename", store.rename("a", "c")),
        ("delete", store.delete("a")),
    ];
    for (name, result) in calls {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{name}: {error}");
        assert!(error.to_string().contains("s3://plumb/wrong"), "{name}: {error}");
    }
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    assert!(proxy.counts().hits > 12, "tried again: {:?}", proxy.counts());
    proxy.set(Fault::None);
    assert_eq!(store.get("a").unwrap().unwrap(), [1]);
    assert_eq!(store.list("").unwrap(), [("a".to_owned(), 1)]);
}

#[test]
fn an_s3_server_that_hangs_or_goes_away_is_not_waited_for_for_ever() {
    if skipped("an_s3_server_that_hangs_or_goes_away_is_not_waited_for_for_ever") {
        return;
    }
    let s3 = S3::shared();
    let proxy = Proxy::start(s3.address());
    let store = open_s3(&settings(format!("http://{}", proxy.address()), "plumb", "hangs")).unwrap();
    proxy.set(Fault::BlackHole);
    let begun = Instant::now();
    refused(store.put("a", vec![1]), ErrorKind::Unavailable, "hangs/a");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    proxy.set(Fault::None);
    // A reply that is lost: the object is there, and whoever created it learns that it exists.
    proxy.set(Fault::CutToClient(0));
    let lost = store.create("manifest/1", b"mine");
    assert!(proxy.counts().hits > 0);
    proxy.set(Fault::None);
    assert!(!matches!(lost, Ok(true)), "nobody said so");
    let end = Instant::now() + Duration::from_secs(20);
    while store.get("manifest/1").unwrap().as_deref() != Some(b"mine") {
        assert!(Instant::now() < end, "the create had reached the server");
    }
    assert!(!store.create("manifest/1", b"mine").unwrap());
}

/// Answers every request as a server would that has never heard of conditions.
fn careless_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            std::thread::spawn(move || {
                let mut buffer = [0; 16 << 10];
                while let Ok(1..) = socket.read(&mut buffer) {
                    let answer = "HTTP/1.1 200 OK\r\netag: \"1\"\r\ncontent-length: 0\r\n\r\n";
                    if socket.write_all(answer.as_bytes()).is_err() {
                        break;
                    }
                }
            });
        }
    });
    format!("http://{address}")
}

#[test]
fn a_server_that_ignores_conditions_is_refused() {
    let careless = settings(careless_server(), "plumb", "");
    refused(open_s3(&careless), ErrorKind::Invalid, "ignores If-None-Match");
}
