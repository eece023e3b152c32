//! The cluster's certificates and the kubeconfigs that carry them: made once per instance, all signed by one CA.

use std::fs;
use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use time::{Duration, OffsetDateTime};

use crate::error::{Context, Result};
use crate::file;
use crate::instance::{API_PORT, Instance, NODE_ADDRESS};

const VALID_FOR: Duration = Duration::days(3650);
/// The first address of the service range is the API server's.
const API_SERVICE: [u8; 4] = [10, 96, 0, 1];

/// Who signs certificates: an instance's own authority, or one that a test puts in its place.
#[derive(Debug)]
pub struct Authority {
    /// Its own certificate, as PEM.
    pub certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, as PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    /// One of this name that nobody trusts yet.
    pub fn new(name: &str) -> Result<Self> {
        let key = KeyPair::generate().doing("making the CA's key")?;
        let certificate = ca_params(name).self_signed(&key).doing("making the CA")?;
        Ok(Self {
            certificate: certificate.pem(),
            issuer: Issuer::new(ca_params(name), key),
        })
    }

    /// For a client of the services.
    pub fn client(&self, name: &str) -> Result<Issued> {
        self.issue(&client("client", name, None))
    }

    /// For the services themselves.
    pub fn services(&self) -> Result<Issued> {
        self.issue(&services()?)
    }

    fn issue(&self, subject: &Subject) -> Result<Issued> {
        let key = KeyPair::generate().doing("making a key")?;
        let certificate = params(subject)
            .signed_by(&key, &self.issuer)
            .doing(format_args!("making the certificate of {}", subject.file))?;
        Ok(Issued {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

/// Who a certificate speaks for.
#[derive(Debug, Clone)]
struct Subject {
    file: &'static str,
    name: String,
    organization: Option<&'static str>,
    /// Names and addresses it serves under; none makes it a client's.
    serves: Vec<SanType>,
}

/// Clients that have a kubeconfig of their own: the file's name, beside the certificate's.
const CLIENTS: [&str; 5] = [
    "admin",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "kubelet",
];

impl Instance {
    /// Makes what is missing. A CA that exists is kept, so certificates of running components stay good.
    pub(crate) fn create_pki(&self) -> Result<()> {
        let directory = self.pki_dir();
        let (ca_file, ca_key_file) = (directory.join("ca.crt"), directory.join("ca.key"));
        if !ca_file.exists() || !ca_key_file.exists() {
            let new = Authority::new(&self.scope())?;
            file::write(&ca_key_file, new.issuer.key().serialize_pem().as_bytes(), 0o600)?;
            file::write(&ca_file, new.certificate.as_bytes(), 0o644)?;
        }
        let authority = self.authority()?;
        for subject in subjects(&self.scope())? {
            let (certificate_file, key_file) = (
                directory.join(format!("{}.crt", subject.file)),
                directory.join(format!("{}.key", subject.file)),
            );
            if certificate_file.exists() && key_file.exists() {
                continue;
            }
            let issued = authority.issue(&subject)?;
            file::write(&key_file, issued.key.as_bytes(), 0o600)?;
            file::write(&certificate_file, issued.certificate.as_bytes(), 0o644)?;
        }
        let service_account_key = directory.join("service-account.key");
        let service_account_public = directory.join("service-account.pub");
        if !service_account_key.exists() || !service_account_public.exists() {
            let key = KeyPair::generate().doing("making the key of service accounts")?;
            file::write(&service_account_public, key.public_key_pem().as_bytes(), 0o644)?;
            file::write(&service_account_key, key.serialize_pem().as_bytes(), 0o600)?;
        }
        for client in CLIENTS {
            file::write(
                &self.kubeconfig_of(client),
                self.render_kubeconfig(client).as_bytes(),
                0o600,
            )?;
        }
        Ok(())
    }

    /// Who has signed everything in `pki/`.
    pub fn authority(&self) -> Result<Authority> {
        let read = |name: &str| {
            let path = self.pki_dir().join(name);
            fs::read_to_string(&path).doing(format_args!("reading {}", path.display()))
        };
        let key = KeyPair::from_pem(&read("ca.key")?).doing("reading the CA's key")?;
        Ok(Authority {
            certificate: read("ca.crt")?,
            // What a signature says of its issuer is the name and the key, and both are the same every time.
            issuer: Issuer::new(ca_params(&self.scope()), key),
        })
    }

    pub(crate) fn kubeconfig_of(&self, client: &str) -> std::path::PathBuf {
        if client == "admin" {
            self.kubeconfig()
        } else {
            self.pki_dir().join(format!("{client}.kubeconfig"))
        }
    }

    fn render_kubeconfig(&self, client: &str) -> String {
        let pki = self.pki_dir();
        file::render(
            include_str!("../manifests/kubeconfig.yaml"),
            &[
                ("server", &format!("https://{NODE_ADDRESS}:{API_PORT}")),
                ("cluster", &self.scope()),
                ("client", client),
                ("pki", &pki.display().to_string()),
            ],
        )
    }
}

fn dns(name: &str) -> Result<SanType> {
    let name = name.to_owned().try_into().doing("naming a certificate")?;
    Ok(SanType::DnsName(name))
}

fn address(address: [u8; 4]) -> SanType {
    SanType::IpAddress(IpAddr::from(address))
}

fn client(file: &'static str, name: &str, organization: Option<&'static str>) -> Subject {
    Subject {
        file,
        name: name.into(),
        organization,
        serves: Vec::new(),
    }
}

fn services() -> Result<Subject> {
    Ok(Subject {
        file: "services",
        name: "services".into(),
        organization: None,
        serves: vec![
            dns("localhost")?,
            address(NODE_ADDRESS.octets()),
            address([127, 0, 0, 1]),
        ],
    })
}

fn subjects(node: &str) -> Result<Vec<Subject>> {
    let api_server = vec![
        dns("kubernetes")?,
        dns("kubernetes.default")?,
        dns("kubernetes.default.svc")?,
        dns("kubernetes.default.svc.cluster.local")?,
        dns("localhost")?,
        address(API_SERVICE),
        address(NODE_ADDRESS.octets()),
        address([127, 0, 0, 1]),
    ];
    Ok(vec![
        Subject {
            file: "kube-apiserver",
            name: "kube-apiserver".into(),
            organization: None,
            serves: api_server,
        },
        Subject {
            file: "kubelet-server",
            name: format!("system:node:{node}"),
            organization: Some("system:nodes"),
            serves: vec![
                dns(node)?,
                address(NODE_ADDRESS.octets()),
                address([127, 0, 0, 1]),
            ],
        },
        services()?,
        client("penstock-client", "penstock", None),
        client("admin", "kubernetes-admin", Some("system:masters")),
        client(
            "kube-apiserver-kubelet-client",
            "kube-apiserver-kubelet-client",
            Some("system:masters"),
        ),
        client("kube-controller-manager", "system:kube-controller-manager", None),
        client("kube-scheduler", "system:kube-scheduler", None),
        client("kube-proxy", "system:kube-proxy", None),
        client("kubelet", &format!("system:node:{node}"), Some("system:nodes")),
    ])
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished(name, None);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    with_validity(params)
}

fn params(subject: &Subject) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished(&subject.name, subject.organization);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![if subject.serves.is_empty() {
        ExtendedKeyUsagePurpose::ClientAuth
    } else {
        ExtendedKeyUsagePurpose::ServerAuth
    }];
    params.subject_alt_names.clone_from(&subject.serves);
    with_validity(params)
}

/// From an hour ago, for a clock that is set back.
fn with_validity(mut params: CertificateParams) -> CertificateParams {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - Duration::hours(1);
    params.not_after = now + VALID_FOR;
    params
}

fn distinguished(name: &str, organization: Option<&str>) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    if let Some(organization) = organization {
        distinguished.push(DnType::OrganizationName, organization);
    }
    distinguished.push(DnType::CommonName, name);
    distinguished
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn every_certificate_is_signed_by_the_ca_and_kept() {
        let base = std::env::temp_dir().join(format!("penstock-pki-{}", std::process::id()));
        let instance = Instance::below(&base);
        instance.create_pki().unwrap();
        let pki = instance.pki_dir();
        let ca = fs::read(pki.join("ca.crt")).unwrap();
        for subject in subjects(&instance.scope()).unwrap() {
            let certificate = pki.join(format!("{}.crt", subject.file));
            let verified = Command::new("openssl")
                .args(["verify", "-CAfile"])
                .args([pki.join("ca.crt"), certificate])
                .output()
                .unwrap();
            assert!(verified.status.success(), "{}: {verified:?}", subject.file);
        }
        let other = instance.authority().unwrap().client("another").unwrap();
        let file = base.join("another.crt");
        fs::write(&file, other.certificate).unwrap();
        let verified = Command::new("openssl")
            .args(["verify", "-CAfile"])
            .args([pki.join("ca.crt"), file])
            .output()
            .unwrap();
        assert!(verified.status.success(), "{verified:?}");
        instance.create_pki().unwrap();
        assert_eq!(
            fs::read(pki.join("ca.crt")).unwrap(),
            ca,
            "a second run changes nothing"
        );
        for client in CLIENTS {
            let text = fs::read_to_string(instance.kubeconfig_of(client)).unwrap();
            assert!(!text.contains("{{"), "{text}");
            assert!(
                text.contains(&format!("{}/{client}.crt", pki.display())),
                "{text}"
            );
            assert!(pki.join(format!("{client}.crt")).exists());
        }
        fs::remove_dir_all(base).unwrap();
    }
}
