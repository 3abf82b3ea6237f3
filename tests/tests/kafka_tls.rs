//! A whole job with nothing in the clear: a broker that asks for a password by SCRAM or for a certificate, a Redis
//! behind TLS, a schema registry behind TLS.

use plumb_formats::{Registry, RegistrySettings};
use plumb_testing::process::request;
use plumb_testing::reader::Reader;
use plumb_testing::service::kafka::Kafka;
use plumb_testing::service::redis::Redis;
use plumb_testing::service::{Guarded, eventually, free_port, skipped, tls};
use plumb_testing::stream::{Online, Stream, careless, generated, questions};
use serde_json::Value;
use std::process::{Command, Stdio};
use std::sync::Arc;

#[test]
fn kafka_with_scram_and_certificates_to_redis_over_tls() {
    if skipped("kafka_with_scram_and_certificates_to_redis_over_tls") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    tls::authority(folder.path(), "ca");
    tls::server(folder.path());
    let port = free_port();
    let redis = Arc::new(Redis::start_with_tls(folder.path(), port));
    let lines =
        format!("url = \"rediss://127.0.0.1:{port}\"\ntls_ca = \"{}\"\n", folder.path().join("ca.pem").display());
    let kafka = Arc::new(Kafka::start_secured());
    let mut job = Stream::new(kafka.clone(), Online::Under(redis, lines), 2);
    let (password, letters) = (folder.path().join("password"), format!("{}-letters", job.topic));
    std::fs::write(&password, "secret\n").unwrap();
    kafka.create_topic(&letters, 1, &[]);
    let common = format!(
        "session_timeout = \"3s\"\nssl_ca = \"{}\"\ndead_letter_topic = \"{letters}\"\n",
        kafka.authority().display()
    );
    job.brokers = kafka.secured_address();
    job.source_lines = format!(
        "{common}security = \"sasl_ssl\"\nsasl_mechanism = \"SCRAM-SHA-512\"\nsasl_username = \"plumb\"\n\
         sasl_password_file = \"{}\"\n",
        password.display()
    );
    let lines = generated(8000, 100, 40, 71);
    let feeder = job.feed(careless(&lines, 8), 1000);
    let mut member = job.start("a");
    eventually("commits", || {
        member.must_live();
        (job.committed().values().sum::<u64>() > 1000).then_some(())
    });
    member.service.kill();
    let mut member = job.start("a");
    let reader = Reader::start(vec![member.address.clone()], questions(&lines));
    // Another one that shows a certificate, and takes one of the two partitions.
    job.brokers = kafka.mutual_address();
    let (certificate, key) = kafka.client_certificate();
    job.source_lines = format!(
        "{common}security = \"ssl\"\nssl_certificate = \"{}\"\nssl_key = \"{}\"\n",
        certificate.display(),
        key.display()
    );
    let mut other = job.start("b");
    reader.ask(vec![member.address.clone(), other.address.clone()]);
    eventually("a partition of the one with the certificate", || {
        other.must_live();
        (other.metric("plumb_owned_partitions", "") == Some(1.0)).then_some(())
    });
    feeder.finish();
    let (truth, compared) = job.check(&mut [&mut member, &mut other]);
    let met = reader.end(&truth, true);
    println!("{compared:?} {met:?}");
    assert!(met.found > 100 && met.broken == 0, "{met:?}");
    assert!(!kafka.read(&letters).is_empty() && !truth.rejected.is_empty(), "dead letters go to their topic");

    // Brokers that cannot be reached are said, and answers go on.
    let ready = |address: &str| {
        let (status, body) = request(address, "GET", "/ready", b"").unwrap();
        let body: Value = serde_json::from_slice(body.as_bytes()).unwrap();
        let list = body["dependencies"].as_array().unwrap().clone();
        let source = list.into_iter().find(|one| one["name"] == "source default").expect("the source is listed");
        (status, source["detail"].as_str().unwrap().to_owned())
    };
    assert_eq!(ready(&member.address), (200, String::new()));
    kafka.kill();
    eventually("no broker to be reached", || {
        member.must_live();
        (member.metric("plumb_source_reachable", "") == Some(0.0)).then_some(())
    });
    let (status, detail) = ready(&member.address);
    assert!(status == 200 && detail.contains("no broker of"), "{status} {detail}");
    kafka.restart();
    eventually("brokers to be reached again", || {
        member.must_live();
        (member.metric("plumb_source_reachable", "") == Some(1.0)).then_some(())
    });
    for member in [member, other] {
        let log = member.service.log();
        assert!(!log.contains("secret"), "{log}");
        assert_eq!(member.service.terminate(), Some(0));
    }
}

#[test]
fn kafka_schema_registry_over_tls_is_who_it_says_it_is() {
    if skipped("kafka_schema_registry_over_tls_is_who_it_says_it_is") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    tls::authority(here, "ca");
    tls::authority(here, "other");
    tls::server(here);
    std::fs::create_dir_all(here.join("schemas/ids")).unwrap();
    std::fs::write(here.join("schemas/ids/7"), r#"{"schema": "\"string\""}"#).unwrap();
    let port = free_port();
    let mut command = Command::new("openssl");
    command.args(["s_server", "-accept", &port.to_string(), "-cert", "server.pem", "-key", "server.key", "-WWW"]);
    command.current_dir(here).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let _server = Guarded::spawn(&mut command, None);
    let open = |host: &str, ca: &str| {
        let url = format!("https://{host}:{port}");
        Registry::new(&RegistrySettings { url, credentials: None, tls_ca: Some(here.join(ca)) })
    };
    let registry = open("127.0.0.1", "ca.pem").unwrap();
    // Asked until the server has come.
    let schema = eventually("a schema", || registry.schema(7).ok());
    assert_eq!(schema.unwrap().text, "\"string\"");
    for (host, ca) in [("127.0.0.1", "other.pem"), ("localhost", "ca.pem")] {
        let registry = open(host, ca).unwrap();
        let refused = eventually("a refusal", || match registry.schema(7) {
            Err(error) if error.to_string().contains("has not answered yet") => None,
            answer => Some(answer),
        });
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("certificate"), "{host} {ca}: {error}");
    }
    for (ca, wanted) in [("none.pem", "No such file"), ("names", "it holds no certificate")] {
        let error = open("127.0.0.1", ca).unwrap_err().to_string();
        assert!(error.contains("registry_ca") && error.contains(ca) && error.contains(wanted), "{error}");
    }
}
