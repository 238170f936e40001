//! NBD by TCP: under TLS with a certificate of the cluster, and not otherwise.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use e2e::{Cluster, wait_for};

const PATIENCE: Duration = Duration::from_secs(60);

/// A port that nobody listens on, outside the range of connections going out.
fn free_port() -> u16 {
    (19_000..20_000)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

/// A directory of certificates as QEMU wants it; without a client's own if `own` is not given.
fn credentials(cluster: &Cluster, name: &str, own: Option<&Path>) -> PathBuf {
    let place = cluster.path().join(name);
    std::fs::create_dir(&place).expect("a directory");
    let copy = |from: &Path, to: &str| {
        std::fs::copy(from, place.join(to)).expect("copied");
    };
    copy(&cluster.path().join("a1/certs/ca.pem"), "ca-cert.pem");
    if let Some(own) = own {
        copy(&own.join("node.pem"), "client-cert.pem");
        copy(&own.join("node.key"), "client-key.pem");
    }
    place
}

fn qemu_io(port: u16, export: &str, credentials: Option<&Path>, commands: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    command.args(["60", "qemu-io"]);
    let mut image = format!("driver=nbd,host=127.0.0.1,port={port},export={export}");
    if let Some(place) = credentials {
        // The node's certificate names a node of the cluster, not a host: QEMU checks that it is the
        // cluster's and the node that the client is.
        let object = format!(
            "tls-creds-x509,id=tls,endpoint=client,verify-peer=off,dir={}",
            place.display()
        );
        command.args(["--object", &object]);
        image.push_str(",tls-creds=tls");
    }
    for each in commands {
        command.args(["-c", each]);
    }
    command.args(["--image-opts", &image]);
    command.output().expect("qemu-io runs")
}

/// Everything a tool said.
fn said(output: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

#[test]
fn a_remote_client_needs_tls_and_a_certificate_of_the_cluster() {
    let cluster = Cluster::up(1);
    cluster.good(&[
        "volume", "create", "far", "--size", "32MiB", "--copies", "*=1",
    ]);
    cluster.good(&["volume", "attach", "far", "--node", "a1"]);
    let port = free_port();
    let config = cluster.path().join("a1/node.toml");
    let text = std::fs::read_to_string(&config).expect("read");
    let text = text.replace(
        "[listen]\n",
        &format!("[listen]\nnbd = \"127.0.0.1:{port}\"\n"),
    );
    std::fs::write(&config, text).expect("written");
    cluster.kill("a1");
    let mut daemon = cluster.restart("a1");
    let own = credentials(&cluster, "own", Some(&cluster.path().join("b1/certs")));
    let write = [
        "write -P 5 1M 1M",
        "read -P 5 1M 1M",
        "read -P 0 4M 1M",
        "flush",
    ];
    wait_for("the volume being open", PATIENCE, || {
        let output = qemu_io(port, "far", Some(&own), &write);
        (output.status.success() && !said(&output).contains("failed")).then_some(())
    });
    // What was written under TLS is what the local socket reads.
    let uri = format!(
        "nbd+unix:///far?socket={}",
        cluster.socket("a1", "far").display()
    );
    let local = Command::new("timeout")
        .args(["60", "qemu-io", "-f", "raw", "-c", "read -P 5 1M 1M", &uri])
        .output()
        .expect("qemu-io runs");
    assert!(
        local.status.success() && !said(&local).contains("failed"),
        "{}",
        said(&local)
    );
    let read = ["read 0 4k"];
    for (name, refused) in [
        ("in the clear", qemu_io(port, "far", None, &read)),
        ("without a certificate", {
            let none = credentials(&cluster, "none", None);
            qemu_io(port, "far", Some(&none), &read)
        }),
        (
            "an unknown volume",
            qemu_io(port, "near", Some(&own), &read),
        ),
    ] {
        assert!(!refused.status.success(), "{name}: {}", said(&refused));
    }
    // A certificate of another cluster.
    let stranger = Cluster::up(1);
    let foreign = credentials(&cluster, "foreign", Some(&stranger.path().join("b1/certs")));
    let refused = qemu_io(port, "far", Some(&foreign), &read);
    assert!(!refused.status.success(), "foreign: {}", said(&refused));
    assert!(
        qemu_io(port, "far", Some(&own), &read).status.success(),
        "it still serves"
    );
    cluster.down();
    daemon.wait().expect("reaped");
}
