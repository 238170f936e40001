//! rustls configurations: TLS 1.3 only, both ends authenticated by the cluster's CA. The same
//! `Arc<ServerConfig>` and `Arc<ClientConfig>` serve tokio-rustls, tonic and the ring.
//!
//! Sessions are never resumed: a resumed session skips the certificate check, so that an expired
//! or withdrawn certificate would keep opening connections. Connections are few and long.

use std::sync::{Arc, LazyLock};

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::NoServerSessionStorage;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::certificates::Certificates;
use crate::error::NetError;
use crate::identity::RoleSet;
use crate::verify::{JoinVerifier, PeerVerifier};

/// aws-lc-rs with the TLS 1.3 suites only, AES-128-GCM first: it is the cheapest a byte on every
/// machine with AES instructions.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let suites = vec![
            aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
            aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
            aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ];
        Arc::new(CryptoProvider {
            cipher_suites: suites,
            ..aws_lc_rs::default_provider()
        })
    });
    Arc::clone(&PROVIDER)
}

/// For listening: lets in peers of this cluster with one of the `allowed` roles.
///
/// # Errors
/// rustls refuses the configuration (a programming error, reported rather than hidden).
pub fn server_config(
    certificates: &Arc<Certificates>,
    allowed: RoleSet,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, NetError> {
    let verifier = Arc::new(PeerVerifier::new(Arc::clone(certificates), allowed));
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::clone(certificates) as _);
    Ok(Arc::new(finish_server(config, alpn)))
}

/// For dialling: checks the server against the name given at connect
/// ([`crate::verify::dialled_name`]) and shows this node's certificate.
///
/// # Errors
/// As [`server_config`].
pub fn client_config(
    certificates: &Arc<Certificates>,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, NetError> {
    let verifier = Arc::new(PeerVerifier::new(Arc::clone(certificates), RoleSet::ANY));
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous() // our own verifier: chain and identity instead of chain and DNS name
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::clone(certificates) as _);
    Ok(Arc::new(finish_client(config, alpn)))
}

/// For the join port alone: a joiner has no certificate yet, so none is asked for; it proves
/// itself by the token's secret inside the encrypted connection, and may do nothing else.
///
/// # Errors
/// As [`server_config`].
pub fn join_server_config(
    certificates: &Arc<Certificates>,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, NetError> {
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(certificates) as _);
    Ok(Arc::new(finish_server(config, alpn)))
}

/// For a joiner: accepts only a daemon under the CA whose hash its token carries. Dial it with
/// any server name.
///
/// # Errors
/// As [`server_config`].
pub fn join_client_config(
    ca_sha256: [u8; 32],
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, NetError> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous() // our own verifier: the CA is known by its hash
        .with_custom_certificate_verifier(Arc::new(JoinVerifier::new(ca_sha256)))
        .with_no_client_auth();
    Ok(Arc::new(finish_client(config, alpn)))
}

/// [`server_config`] for tokio.
///
/// # Errors
/// As [`server_config`].
pub fn acceptor(
    certificates: &Arc<Certificates>,
    allowed: RoleSet,
    alpn: &[&[u8]],
) -> Result<TlsAcceptor, NetError> {
    Ok(TlsAcceptor::from(server_config(
        certificates,
        allowed,
        alpn,
    )?))
}

/// [`client_config`] for tokio.
///
/// # Errors
/// As [`server_config`].
pub fn connector(
    certificates: &Arc<Certificates>,
    alpn: &[&[u8]],
) -> Result<TlsConnector, NetError> {
    Ok(TlsConnector::from(client_config(certificates, alpn)?))
}

fn finish_server(mut config: ServerConfig, alpn: &[&[u8]]) -> ServerConfig {
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config
}

fn finish_client(mut config: ClientConfig, alpn: &[&[u8]]) -> ClientConfig {
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config
}
