//! Which bucket, and how to reach it.

use plumb_pipeline::Secret;

/// A bucket of S3 or of a store that speaks its protocol, as checked by the configuration. What is `None` comes from
/// the environment (`AWS_ENDPOINT_URL`, `AWS_REGION`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
/// `AWS_SESSION_TOKEN`, and the machine's or container's own credentials).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct S3Settings {
    /// The bucket.
    pub bucket: String,
    /// The folder in it, without slashes at either end; empty for the whole bucket.
    pub prefix: String,
    /// The address of a store other than Amazon's, `http://…` or `https://…`.
    pub endpoint: Option<String>,
    /// The region.
    pub region: Option<String>,
    /// The name of the key.
    pub access_key: Option<String>,
    /// The key itself; set if and only if `access_key` is.
    pub secret_key: Option<Secret>,
    /// Whether an endpoint without TLS is allowed.
    pub allow_http: bool,
}

impl S3Settings {
    /// Reads `s3://bucket` or `s3://bucket/prefix`; the rest is unset.
    pub fn parse(url: &str) -> Result<Self, String> {
        let rest = url.strip_prefix("s3://").ok_or("write s3://bucket/prefix")?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let letter = |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit() || b".-_".contains(&letter);
        if bucket.is_empty() || !bucket.bytes().all(letter) {
            return Err(format!("`{bucket}` is no name of a bucket: write s3://bucket/prefix"));
        }
        let prefix = prefix.trim_matches('/');
        if prefix.split('/').any(|part| part == "." || part == "..") || prefix.contains("//") {
            return Err(format!("`{prefix}` is no folder of a bucket"));
        }
        Ok(Self { bucket: bucket.to_owned(), prefix: prefix.to_owned(), ..Self::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        for (url, bucket, prefix) in
            [("s3://b", "b", ""), ("s3://my-bucket.x/", "my-bucket.x", ""), ("s3://b/p/q/", "b", "p/q")]
        {
            let settings = S3Settings::parse(url).unwrap();
            assert_eq!((settings.bucket.as_str(), settings.prefix.as_str()), (bucket, prefix));
        }
        for url in ["s3:b", "s3://", "s3:///p", "s3://B/p", "s3://b:9000/p", "s3://b/../c", "s3://b/a//c"] {
            assert!(S3Settings::parse(url).is_err(), "{url}");
        }
    }
}
