//! The client's side of TLS, from PEM files.

use std::path::Path;

use penstock_dataplane_config::ClientTls;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};

use crate::{Unusable, bytes};

/// Trusts the authorities of the file, or the system's without one; shows a certificate where there is one.
pub(crate) fn client(tls: &ClientTls) -> Result<ClientConfig, Unusable> {
    let builder = builder()?.with_root_certificates(roots(tls.ca_file.as_deref())?);
    let (Some(chain), Some(key)) = (&tls.cert_file, &tls.key_file) else {
        return Ok(builder.with_no_client_auth());
    };
    let private = PrivateKeyDer::from_pem_slice(&bytes(key)?).map_err(|error| Unusable::new(key, error))?;
    builder
        .with_client_auth_cert(certificates(chain)?, private)
        .map_err(|error| Unusable::new(chain, error))
}

/// Shakes hands with nobody.
pub(crate) fn trusting_nobody() -> Result<ClientConfig, Unusable> {
    let none = RootCertStore::empty();
    Ok(builder()?.with_root_certificates(none).with_no_client_auth())
}

fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, Unusable> {
    ClientConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .map_err(|error| Unusable::new(Path::new("TLS"), error))
}

fn roots(file: Option<&Path>) -> Result<RootCertStore, Unusable> {
    let mut roots = RootCertStore::empty();
    let Some(file) = file else {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        return match (roots.is_empty(), found.errors.first()) {
            (false, _) => Ok(roots),
            (true, Some(error)) => Err(Unusable::new(Path::new("the system's authorities"), error)),
            (true, None) => Err(Unusable::new(
                Path::new("the system's authorities"),
                "there are none; name a CA file",
            )),
        };
    };
    for certificate in certificates(file)? {
        roots
            .add(certificate)
            .map_err(|error| Unusable::new(file, error))?;
    }
    Ok(roots)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(&bytes(file)?)
        .collect::<Result<_, _>>()
        .map_err(|error| Unusable::new(file, error))?;
    match found.is_empty() {
        true => Err(Unusable::new(file, "holds no certificate")),
        false => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn files_that_cannot_be_used_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let pair = rcgen::generate_simple_self_signed(["kafka".to_owned()]).unwrap();
        let file = |name: &str, content: &str| -> PathBuf {
            let path = directory.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        let (cert, key) = (pair.cert.pem(), pair.signing_key.serialize_pem());
        let other = rcgen::generate_simple_self_signed(["other".to_owned()]).unwrap();
        let whole = ClientTls {
            ca_file: Some(file("ca.crt", &cert)),
            cert_file: Some(file("tls.crt", &cert)),
            key_file: Some(file("tls.key", &key)),
        };
        assert!(client(&whole).is_ok());
        for (name, content) in [
            ("ca.crt", ""),
            (
                "tls.crt",
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            ),
            ("tls.key", "none"),
            ("tls.key", &other.signing_key.serialize_pem()),
        ] {
            let good = std::fs::read(directory.path().join(name)).unwrap();
            file(name, content);
            let refused = client(&whole).unwrap_err();
            // That a key is another certificate's is said of the certificate.
            assert!(refused.path.starts_with(directory.path()), "{refused}");
            file(name, std::str::from_utf8(&good).unwrap());
        }
    }
}
