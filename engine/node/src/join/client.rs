//! The joiner's side.

use std::io;
use std::time::Duration;

use anyhow::{Context, bail};
use lockstep_net::tls::join_client_config;
use lockstep_net::verify::refusal_of_io;
use lockstep_net::{Certificates, Issued, JoinToken, NodeRequest};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::protocol::{JoinReply, JoinRequest, Joined, MAX_FRAME, from_hex, to_hex};
use crate::config::{Config, NodeConfig, RoleName, render};
use crate::directory::{self, Directory, Identity};
use crate::listener::ALPN_JOIN;
use crate::{frame, mint};

/// How long one member may take to answer: it commits twice before it does.
const ANSWER: Duration = Duration::from_secs(15);

/// What a node says of itself when it founds or joins.
#[derive(Clone, Debug)]
pub struct NewNode {
    /// Name, place and role.
    pub node: NodeConfig,
    /// Listen address of control.
    pub control: String,
    /// Listen address of replication.
    pub data: String,
    /// Listen address of metrics.
    pub metrics: Option<String>,
}

impl NewNode {
    /// The text of its `node.toml`, checked by reading it back.
    ///
    /// # Errors
    /// What [`Config::parse`] refuses.
    pub fn config(&self, directory: &Directory) -> anyhow::Result<(String, Config)> {
        let text = render(
            &self.node,
            &self.control,
            &self.data,
            self.metrics.as_deref(),
        );
        let config = Config::parse(&directory.config(), &text)?;
        Ok((text, config))
    }
}

/// Joins the token's cluster: makes the data directory, from which `lockstep daemon` starts.
///
/// # Errors
/// The directory is used already, no member answers, or the cluster refuses.
pub async fn join(
    directory: &Directory,
    token: &JoinToken,
    new: &NewNode,
) -> anyhow::Result<Identity> {
    refuse_used(directory)?;
    let (text, config) = new.config(directory)?;
    let key = NodeRequest::generate()?;
    let node = mint::id();
    let role = config.node.role;
    let request = JoinRequest {
        token: token.id,
        secret: to_hex(&token.secret),
        node: format!("{node:032x}"),
        name: config.node.name.clone(),
        site: config.node.site.clone(),
        zone: config.node.zone.clone(),
        rack: config.node.rack.clone(),
        role: role.into(),
        control_address: config.advertised_control(),
        data_addresses: if role == RoleName::Data {
            vec![config.advertised_data()]
        } else {
            Vec::new()
        },
        certificate_request: key.pem().to_owned(),
    };
    let joined = ask_members(token, &request).await?;
    directory
        .create()
        .with_context(|| format!("cannot create {}", directory.root().display()))?;
    let issued = Issued {
        certificate: joined.certificate,
        key: key.key_pem(),
    };
    Certificates::install(&directory.certificates(), &joined.ca_certificate, &issued)?;
    if let Some(secret) = &joined.cluster_secret {
        let secret = from_hex(secret).context("the member sent a damaged cluster secret")?;
        directory.write_cluster_secret(&secret)?;
    }
    directory::replace(&directory.config(), text.as_bytes())?;
    let identity = Identity {
        cluster: joined.cluster,
        node: request.node,
        founder: false,
        cluster_name: String::new(),
        members: joined.members,
    };
    // Last: a directory without it is not a node's.
    directory.write_identity(&identity)?;
    Ok(identity)
}

/// Refuses a directory in which a node lives already.
///
/// # Errors
/// It is one.
pub fn refuse_used(directory: &Directory) -> anyhow::Result<()> {
    if directory.root().join("identity.toml").exists() {
        bail!(
            "{} belongs to a node already; choose another --dir, or remove that node and its directory first",
            directory.root().display()
        );
    }
    Ok(())
}

async fn ask_members(token: &JoinToken, request: &JoinRequest) -> anyhow::Result<Joined> {
    let mut failures = Vec::new();
    for address in &token.addresses {
        let answer = tokio::time::timeout(ANSWER, ask(address, token, request)).await;
        match answer {
            Ok(Ok(JoinReply::Joined(joined))) => return Ok(joined),
            Ok(Ok(JoinReply::Refused {
                why,
                ask_another: true,
            })) => failures.push(format!("{address}: {why}")),
            Ok(Ok(JoinReply::Refused { why, .. })) => bail!("the cluster refused: {why}"),
            Ok(Err(error)) => {
                let why = refusal_of_io(&error)
                    .map_or_else(|| error.to_string(), |refused| refused.to_string());
                failures.push(format!("{address}: {why}"));
            }
            Err(_) => failures.push(format!(
                "{address}: no answer within {} s",
                ANSWER.as_secs()
            )),
        }
    }
    bail!(
        "no member of the token let this node in; check that one of them runs, can be reached and has a quorum:\n  {}",
        failures.join("\n  ")
    )
}

async fn ask(address: &str, token: &JoinToken, request: &JoinRequest) -> io::Result<JoinReply> {
    let config = join_client_config(token.ca_sha256, &[ALPN_JOIN]).map_err(io::Error::other)?;
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from("join.lockstep").expect("a DNS name");
    let mut stream = TlsConnector::from(config).connect(name, stream).await?;
    frame::write_json(&mut stream, request).await?;
    frame::read_json(&mut stream, MAX_FRAME).await
}
