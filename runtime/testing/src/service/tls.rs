//! Certificates for servers on this machine, made by the `openssl` command.

use std::path::Path;
use std::process::Command;

fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output();
    let output = output.expect("openssl runs");
    assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Makes an authority, `NAME.pem` with its `NAME.key`, in a folder.
pub fn authority(folder: &Path, name: &str) {
    let subject = format!("-subj /CN=plumb-test-{name} -keyout {name}.key -out {name}.pem");
    openssl(folder, &format!("req -x509 -newkey rsa:2048 -nodes -days 2 {subject}"));
}

/// Makes a certificate of the authority `ca` of the folder for a server at 127.0.0.1: `server.pem` with `server.key`.
pub fn server(folder: &Path) {
    openssl(folder, "req -new -newkey rsa:2048 -nodes -subj /CN=server -keyout server.key -out server.csr");
    std::fs::write(folder.join("names"), "subjectAltName=IP:127.0.0.1").expect("a file can be written");
    let signed = "-CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.pem";
    openssl(folder, &format!("x509 -req -in server.csr {signed}"));
}
