//! `lockstep pod`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use lockstep_net::tls::provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::connect::block_on;
use crate::output::{Output, Row, table};

/// Bytes of an answer at most: 5,000 nodes and a hundred volumes take less.
const LARGEST: usize = 256 << 20;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Characters that a name in Kubernetes has, which a path may hold as they are.
const IN_NAMES: &str = "-.";

/// `lockstep pod …`.
#[derive(Subcommand)]
pub enum PodCommand {
    /// On which nodes a pod can run, where it runs best, and why, as the scheduler is told
    #[command(
        after_help = "Examples:\n  lockstep pod explain shop/pg-0\n  lockstep pod explain shop/pg-0 -o json\n  lockstep pod explain shop/pg-0 --extender 10.0.0.1:7430 --extender-certs ./certs"
    )]
    Explain(ExplainArgs),
}

/// `lockstep pod explain`.
#[derive(Args)]
pub struct ExplainArgs {
    /// NAMESPACE/NAME
    #[arg(value_parser = pod_name)]
    pod: String,
    /// The scheduler extender that is asked
    #[arg(
        long,
        env = "LOCKSTEP_EXTENDER",
        default_value = "127.0.0.1:7430",
        value_name = "HOST:PORT"
    )]
    extender: String,
    /// A folder with ca.crt, client.crt and client.key to show to it
    #[arg(
        long,
        env = "LOCKSTEP_EXTENDER_CERTS",
        default_value = "/etc/lockstep/extender",
        value_name = "DIR"
    )]
    extender_certs: PathBuf,
}

/// What the extender answers.
#[derive(Serialize, Deserialize)]
struct PodView {
    pod: String,
    node: String,
    locality: String,
    notes: Vec<String>,
    nodes: Vec<NodeView>,
}

#[derive(Serialize, Deserialize)]
struct NodeView {
    node: String,
    stays: bool,
    reason: String,
    code: String,
    score: u8,
    volumes: Vec<VolumeView>,
}

#[derive(Serialize, Deserialize)]
struct VolumeView {
    claim: String,
    points: f64,
    why: String,
}

/// Runs it.
pub fn run(command: PodCommand, output: &Output) -> anyhow::Result<()> {
    let PodCommand::Explain(args) = command;
    block_on(async {
        let path = format!("/explain/{}", args.pod);
        let asked = ask(&args.extender, &args.extender_certs, &path);
        let answer = tokio::time::timeout(PATIENCE, asked).await;
        let answer = answer.unwrap_or_else(|_| bail!("no answer in {} s", PATIENCE.as_secs()));
        let answer = answer
            .with_context(|| format!("the scheduler extender at {} was asked", args.extender))?;
        let view: PodView = serde_json::from_slice(&answer).with_context(|| {
            format!(
                "{} answers, but not as a scheduler extender of this release",
                args.extender
            )
        })?;
        output.one(&view, &view.text())
    })
}

async fn ask(address: &str, certs: &Path, path: &str) -> anyhow::Result<Bytes> {
    let connector = TlsConnector::from(Arc::new(client_config(certs)?));
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let name = ServerName::try_from(host).context("that is no address; give HOST:PORT")?;
    let stream = TcpStream::connect(address).await.context(
        "nobody listens there; it runs beside each kube-scheduler, and --extender names another",
    )?;
    let stream = connector.connect(name, stream).await?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await?;
    let connection = tokio::spawn(connection);
    let request = Request::get(path)
        .header(hyper::header::HOST, address)
        .body(Empty::<Bytes>::new())?;
    let answered = sender.send_request(request).await;
    let response = match answered {
        Ok(response) => response,
        // Under TLS 1.3 a refused certificate is heard of only now, by the connection.
        Err(error) => {
            let why = connection.await.ok().and_then(Result::err).unwrap_or(error);
            return Err(why)
                .context("it broke off; does it take the certificate of --extender-certs?");
        }
    };
    let status = response.status();
    let body = Limited::new(response.into_body(), LARGEST).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("the answer broke off: {error}"))?;
    let body = body.to_bytes();
    if status != StatusCode::OK {
        let words = String::from_utf8_lossy(&body).trim().to_owned();
        bail!(
            "{}",
            if words.is_empty() {
                status.to_string()
            } else {
                words
            }
        );
    }
    Ok(body)
}

fn client_config(certs: &Path) -> anyhow::Result<ClientConfig> {
    let read = |name: &str| {
        let path = certs.join(name);
        std::fs::read(&path).with_context(|| {
            format!(
                "{} cannot be read; --extender-certs names another folder",
                path.display()
            )
        })
    };
    let certificates = |name: &str| -> anyhow::Result<Vec<CertificateDer<'static>>> {
        let pem = read(name)?;
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        all.with_context(|| format!("{name} holds no certificates"))
    };
    let mut roots = RootCertStore::empty();
    for root in certificates("ca.crt")? {
        roots
            .add(root)
            .context("ca.crt holds what is no authority")?;
    }
    let key =
        PrivateKeyDer::from_pem_slice(&read("client.key")?).context("client.key holds no key")?;
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(certificates("client.crt")?, key)
        .context("client.key does not belong to client.crt")?;
    Ok(config)
}

/// NAMESPACE/NAME, of characters that Kubernetes allows: it becomes a path.
fn pod_name(text: &str) -> Result<String, String> {
    let allowed = |part: &str| {
        let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || IN_NAMES.contains(c);
        !part.is_empty() && part.len() <= 253 && part.chars().all(inside) && !part.starts_with('.')
    };
    match text.split_once('/') {
        Some((namespace, name)) if allowed(namespace) && allowed(name) => Ok(text.to_owned()),
        _ => Err("a pod is NAMESPACE/NAME, like shop/pg-0".into()),
    }
}

impl Row for NodeView {
    const COLUMNS: &'static [&'static str] = &["NODE", "SCORE", "VERDICT", "WHY"];

    fn cells(&self) -> Vec<String> {
        let verdict = if self.stays { "stays" } else { "goes" };
        vec![
            self.node.clone(),
            self.score.to_string(),
            verdict.to_owned(),
            self.why(),
        ]
    }
}

impl NodeView {
    fn why(&self) -> String {
        if !self.stays {
            return self.reason.clone();
        }
        match self.volumes.as_slice() {
            [one] => one.why.clone(),
            several => {
                let each = several.iter().map(|it| format!("{}: {}", it.claim, it.why));
                each.collect::<Vec<_>>().join("; ")
            }
        }
    }
}

impl PodView {
    fn text(&self) -> String {
        let place = match self.node.as_str() {
            "" => "is not placed yet".to_owned(),
            node => format!("runs on {node}"),
        };
        let mut text = format!("pod {} {place}", self.pod);
        if !self.locality.is_empty() {
            text.push_str(&format!("; it asks for locality {}", self.locality));
        }
        for note in &self.notes {
            text.push_str(&format!("\n  {note}"));
        }
        text.push_str("\n\n");
        text.push_str(&table(&self.nodes));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by the extender's tests.
    const ANSWER: &str = include_str!("../../../scheduler-extender/tests/golden/explain.json");

    #[test]
    fn the_extender_s_answer_is_shown() {
        let view: PodView = serde_json::from_str(ANSWER).expect("the extender's answer");
        let text = view.text();
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("pod shop/pg-0 is not placed yet"));
        let nodes: Vec<&str> = lines
            .skip_while(|line| !line.trim_start().starts_with("NODE"))
            .collect();
        let words = |line: &str| {
            line.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(words(nodes[0]), ["NODE", "SCORE", "VERDICT", "WHY"]);
        assert_eq!(words(nodes[1])[..3], ["a1", "10", "stays"]);
        assert!(nodes[1].contains("certified copy here"), "{text}");
        let last = nodes.last().expect("a node");
        assert!(
            last.contains("goes") && last.contains("no healthy Lockstep daemon"),
            "{text}"
        );
    }

    #[test]
    fn programs_get_what_the_extender_said() {
        let view: PodView = serde_json::from_str(ANSWER).expect("the extender's answer");
        let again = serde_json::to_value(&view).expect("serialises");
        let said: serde_json::Value = serde_json::from_str(ANSWER).expect("JSON");
        assert_eq!(again, said);
    }

    #[test]
    fn only_what_can_name_a_pod_becomes_a_path() {
        assert_eq!(pod_name("shop/pg-0").as_deref(), Ok("shop/pg-0"));
        for bad in [
            "",
            "pg-0",
            "/pg-0",
            "shop/",
            "shop/../x",
            "shop/a/b",
            "Shop/pg",
            "s/a?b",
            "s/a b",
        ] {
            assert!(pod_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let empty = tempfile::tempdir().expect("a folder");
        let error = client_config(empty.path()).expect_err("nothing there");
        let words = format!("{error:#}");
        assert!(
            words.contains("ca.crt") && words.contains("--extender-certs"),
            "{words}"
        );
    }
}
