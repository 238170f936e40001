//! Certificates made in the cluster, for an extender that runs there beside its scheduler: a CA of its own, kept in one
//! Secret that several of these processes share, and for each process a certificate to serve with and one for its
//! scheduler to show. Those live in the pod only, and are made anew long before they end.
//!
//! The API server asks without a certificate, and verifies ours by the CA in the webhook's configuration, which is put
//! there from here.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use serde_json::json;

/// Keys of the Secret.
const CA: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
/// How long the CA is good for: it goes with the Secret.
const CA_LASTS: Duration = Duration::from_secs(20 * 365 * 86_400);
/// How long what it signs is good for.
const LASTS: Duration = Duration::from_secs(30 * 86_400);
/// How often that is made anew.
const ANEW: Duration = Duration::from_secs(86_400);
/// Before what failed is tried again.
const AGAIN: Duration = Duration::from_secs(60);
/// Clocks may disagree by this much.
const BACKDATE: Duration = Duration::from_secs(86_400);

/// Where certificates come from and go to.
pub struct Issue {
    /// Asked as a pod.
    pub client: Client,
    /// The Secret with the CA, which is there, and empty at first.
    pub secret: (String, String),
    /// The names under which the API server asks; none if it does not.
    pub service: Option<String>,
    /// The webhook's configuration.
    pub webhook: Option<String>,
    /// Where `ca.crt`, `tls.crt`, `tls.key`, `client.crt` and `client.key` are written.
    pub directory: PathBuf,
}

impl Issue {
    /// Makes certificates, and the CA if there is none.
    ///
    /// # Errors
    /// The API server does not answer or refuses; the directory cannot be written.
    pub async fn once(&self) -> anyhow::Result<()> {
        let authority = self.authority().await?;
        let mut names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        names.extend(self.service.clone());
        let server = authority.sign(
            "lockstep-scheduler-extender",
            names,
            ExtendedKeyUsagePurpose::ServerAuth,
        )?;
        let scheduler = authority.sign(
            "lockstep-scheduler",
            Vec::new(),
            ExtendedKeyUsagePurpose::ClientAuth,
        )?;
        let files = [
            ("ca.crt", &authority.certificate),
            ("tls.crt", &server.0),
            ("tls.key", &server.1),
            ("client.crt", &scheduler.0),
            ("client.key", &scheduler.1),
        ];
        for (name, text) in files {
            write(&self.directory, name, text)?;
        }
        if let Some(webhook) = &self.webhook {
            self.tell_webhook(webhook, &authority.certificate).await?;
        }
        Ok(())
    }

    /// Makes them anew every day, for as long as it is polled.
    pub async fn keep(&self) {
        let mut wait = ANEW;
        loop {
            tokio::time::sleep(wait).await;
            wait = match self.once().await {
                Ok(()) => ANEW,
                Err(error) => {
                    let error = format!("{error:#}");
                    tracing::warn!(
                        error,
                        "certificates are made anew later; the old ones last 30 days"
                    );
                    AGAIN
                }
            };
        }
    }

    /// The CA of the Secret. Of several processes that find none, one makes it, and the others find that one.
    async fn authority(&self) -> anyhow::Result<Authority> {
        let (namespace, name) = &self.secret;
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        for _ in 0..5 {
            let secret = secrets.get(name).await;
            let secret =
                secret.with_context(|| format!("reading the Secret {namespace}/{name}"))?;
            let text = |key: &str| {
                let value = secret.data.as_ref()?.get(key)?;
                String::from_utf8(value.0.clone()).ok()
            };
            if let (Some(certificate), Some(key)) = (text(CA), text(CA_KEY)) {
                return Authority::read(certificate, &key)
                    .with_context(|| format!("the CA in the Secret {namespace}/{name}; remove {CA} and {CA_KEY} from it and another is made"));
            }
            let (certificate, key) = Authority::make()?;
            let patch = json!({
                "metadata": {"resourceVersion": secret.resource_version()},
                "data": {CA: ByteString(certificate.into()), CA_KEY: ByteString(key.into())},
            });
            match secrets
                .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
                .await
            {
                Ok(_) => tracing::info!(secret = name, "made a CA for schedulers"),
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => return Err(error).context("keeping a CA in the Secret"),
            }
        }
        bail!("the Secret {namespace}/{name} is changed by others all the time");
    }

    async fn tell_webhook(&self, name: &str, certificate: &str) -> anyhow::Result<()> {
        let all: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        let bundle = ByteString(certificate.as_bytes().to_vec());
        let found = all.get(name).await;
        let found = found.with_context(|| format!("reading the webhook's configuration {name}"))?;
        let told = found.webhooks.iter().flatten();
        if told
            .into_iter()
            .all(|it| it.client_config.ca_bundle.as_ref() == Some(&bundle))
        {
            return Ok(());
        }
        let add = |number: usize| {
            let path = format!("/webhooks/{number}/clientConfig/caBundle");
            json!({"op": "add", "path": path, "value": bundle})
        };
        let count = found.webhooks.iter().flatten().count();
        let patch: json_patch::Patch = serde_json::from_value((0..count).map(add).collect())?;
        let params = PatchParams::default();
        let patched = all.patch(name, &params, &Patch::Json::<()>(patch)).await;
        patched
            .map(drop)
            .with_context(|| format!("telling the webhook's configuration {name} of the CA"))
    }
}

/// Who signs.
struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A certificate and its key.
    fn make() -> anyhow::Result<(String, String)> {
        let key = KeyPair::generate()?;
        let mut params = named("lockstep schedulers")?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        lasting(&mut params, CA_LASTS);
        let certificate = params.self_signed(&key)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    fn read(certificate: String, key: &str) -> anyhow::Result<Self> {
        let issuer = Issuer::from_ca_cert_pem(&certificate, KeyPair::from_pem(key)?)?;
        Ok(Self {
            certificate,
            issuer,
        })
    }

    fn sign(
        &self,
        name: &str,
        hosts: Vec<String>,
        usage: ExtendedKeyUsagePurpose,
    ) -> anyhow::Result<(String, String)> {
        let key = KeyPair::generate()?;
        let mut params = named(name)?;
        params.subject_alt_names = CertificateParams::new(hosts)?.subject_alt_names;
        params.extended_key_usages = vec![usage];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        lasting(&mut params, LASTS);
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }
}

fn named(name: &str) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}

fn lasting(params: &mut CertificateParams, time: Duration) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or_default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(BACKDATE);
    params.not_after = epoch + now + time;
}

/// Whole, or not at all.
fn write(directory: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    let path = directory.join(name);
    let new = directory.join(format!(".{name}.new"));
    let write = || -> std::io::Result<()> {
        let mut options = fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(text.as_bytes())?;
        fs::rename(&new, &path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::{Clients, Tls};

    #[test]
    fn what_is_made_is_what_is_read() {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let _ = provider.install_default();
        let (certificate, key) = Authority::make().expect("a CA");
        let authority = Authority::read(certificate.clone(), &key).expect("it is one");
        let names = vec!["127.0.0.1".to_owned(), "x.y.svc".to_owned()];
        let usage = ExtendedKeyUsagePurpose::ServerAuth;
        let (tls, key) = authority.sign("s", names, usage).expect("signed");
        let directory = tempfile::tempdir().expect("a directory");
        for (name, text) in [
            ("ca.crt", &certificate),
            ("tls.crt", &tls),
            ("tls.key", &key),
        ] {
            write(directory.path(), name, text).expect("written");
        }
        let tls = Tls::open(directory.path()).expect("usable");
        drop(tls.acceptor(Clients::Certified));
        assert!(!tls.reload().expect("readable"), "nothing has changed");
    }
}
