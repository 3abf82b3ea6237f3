//! An S3-compatible server; its objects live in its memory.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use super::{Server, free_port};

/// Any keys do; these are the ones to give to a client.
pub const ACCESS_KEY: &str = "test";
/// See [`ACCESS_KEY`].
pub const SECRET_KEY: &str = "not-a-secret";
/// The region to give to a client.
pub const REGION: &str = "us-east-1";

/// A running server; ends when dropped, and with the test process.
#[derive(Debug)]
pub struct S3 {
    server: Server,
    port: u16,
}

impl S3 {
    /// Starts a server with a bucket, and makes sure that of two conditional creates the second fails.
    pub fn start(bucket: &str) -> Self {
        let port = free_port();
        let s3 = Self { server: Server::new("s3.sh", vec!["--port".to_owned(), port.to_string()]), port };
        s3.server.start(|| s3.request("GET", "/", &[], b"").is_ok_and(|(status, _)| status == 200));
        s3.create_bucket(bucket);
        let put = |body: &[u8]| s3.ask("PUT", &format!("/{bucket}/probe"), &[("If-None-Match", "*")], body).0;
        assert_eq!((put(b"first"), put(b"second")), (200, 412), "of two conditional creates the second has to fail");
        s3.delete(bucket, "probe");
        s3
    }

    /// The server that the tests of this process share, with a bucket `plumb`; each test uses a prefix of its own.
    pub fn shared() -> &'static Arc<Self> {
        static SHARED: LazyLock<Arc<S3>> = LazyLock::new(|| Arc::new(S3::start("plumb")));
        &SHARED
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `http://host:port`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address())
    }

    /// SIGSTOP: connections stay, nothing is answered.
    pub fn pause(&self) {
        self.server.signal("STOP");
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.server.signal("CONT");
    }

    /// Makes a bucket.
    pub fn create_bucket(&self, name: &str) {
        assert_eq!(self.ask("PUT", &format!("/{name}"), &[], b"").0, 200, "bucket {name}");
    }

    /// The keys of a bucket that begin with a prefix, in byte order.
    pub fn list(&self, bucket: &str, prefix: &str) -> Vec<String> {
        let mut keys = Vec::new();
        let mut after = String::new();
        loop {
            let path = format!("/{bucket}?list-type=2&prefix={}&start-after={}", encoded(prefix), encoded(&after));
            let (status, body) = self.ask("GET", &path, &[], b"");
            let text = String::from_utf8_lossy(&body);
            assert_eq!(status, 200, "{path}: {text}");
            let page: Vec<String> = text
                .split("<Key>")
                .skip(1)
                .map(|rest| rest.split("</Key>").next().unwrap_or_default().replace("&amp;", "&"))
                .collect();
            let Some(last) = page.last() else { return keys };
            after = last.clone();
            keys.extend(page);
        }
    }

    /// The bytes of an object; `None` = there is none.
    pub fn get(&self, bucket: &str, key: &str) -> Option<Vec<u8>> {
        let (status, body) = self.ask("GET", &format!("/{bucket}/{}", encoded(key)), &[], b"");
        assert!(matches!(status, 200 | 404), "{key}: {status} {}", String::from_utf8_lossy(&body));
        (status == 200).then_some(body)
    }

    /// Writes an object.
    pub fn put(&self, bucket: &str, key: &str, bytes: &[u8]) {
        let (status, body) = self.ask("PUT", &format!("/{bucket}/{}", encoded(key)), &[], bytes);
        assert_eq!(status, 200, "{key}: {}", String::from_utf8_lossy(&body));
    }

    /// Removes an object.
    pub fn delete(&self, bucket: &str, key: &str) {
        assert_eq!(self.ask("DELETE", &format!("/{bucket}/{}", encoded(key)), &[], b"").0, 204, "{key}");
    }

    /// Copies what lies below a prefix to a folder, to be looked at as if the store had been one.
    pub fn download(&self, bucket: &str, prefix: &str, to: &Path) {
        for key in self.list(bucket, prefix) {
            // Removed since it was listed.
            let Some(bytes) = self.get(bucket, &key) else { continue };
            let path = to.join(key[prefix.len()..].trim_start_matches('/'));
            std::fs::create_dir_all(path.parent().expect("a key has a folder")).expect("a folder can be made");
            std::fs::write(path, bytes).expect("a file can be written");
        }
    }

    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> (u16, Vec<u8>) {
        let answer = self.request(method, path, headers, body);
        answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<(u16, Vec<u8>)> {
        let mut socket = TcpStream::connect(self.address())?;
        socket.set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n", self.address());
        // The server checks no signature, but takes a request without one for a stranger's.
        head += &format!(
            "authorization: AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/20260101/{REGION}/s3/aws4_request, \
             SignedHeaders=host, Signature=0\r\ncontent-type: application/octet-stream\r\n"
        );
        headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
        head += &format!("content-length: {}\r\n\r\n", body.len());
        socket.write_all(head.as_bytes())?;
        socket.write_all(body)?;
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer)?;
        let bad = || std::io::Error::other(format!("no HTTP answer: {}", String::from_utf8_lossy(&answer)));
        let status = answer.get(9..12).and_then(|code| std::str::from_utf8(code).ok()?.parse().ok());
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").ok_or_else(bad)?;
        Ok((status.ok_or_else(bad)?, answer[end + 4..].to_vec()))
    }
}

fn encoded(key: &str) -> String {
    key.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
