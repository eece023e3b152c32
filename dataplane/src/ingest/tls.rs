//! TLS by two files, read again when they change.
//!
//! A connection keeps the certificate that it began with, so a renewal cuts nobody. Files that cannot be used leave
//! the last good ones in force: while they are being swapped one by one, key and certificate do not fit each other. Files
//! that could not be read are read again at the next look.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use penstock_dataplane_config::TlsFiles;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::metrics::IngestMetrics;
use super::reload::{Identity, identity};
use crate::process::Dependency;

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The certificate in force. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Tls(Arc<ArcSwap<ServerConfig>>);

impl Tls {
    /// Shakes hands with one connection.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.0.load_full())
    }
}

/// Keeps the certificate in force in step with the files.
#[derive(Debug)]
pub(crate) struct TlsReload {
    files: TlsFiles,
    tls: Tls,
    /// The files that were read last.
    seen: Option<[Identity; 2]>,
    metrics: IngestMetrics,
    dependency: Dependency,
}

impl TlsReload {
    /// Reads the files for the first time; without them there is nothing to serve with.
    pub(crate) fn open(
        files: TlsFiles,
        metrics: IngestMetrics,
        dependency: Dependency,
    ) -> Result<(Tls, Self), String> {
        let seen = identities(&files).ok();
        let tls = Tls(Arc::new(ArcSwap::from_pointee(parse(&files, &read(&files)?)?)));
        dependency.found();
        let reload = Self {
            files,
            tls: tls.clone(),
            seen,
            metrics,
            dependency,
        };
        Ok((tls, reload))
    }

    /// Looks until dropped.
    pub(crate) async fn run(mut self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            self.look();
        }
    }

    /// One look; reads the files when one has changed, or could not be read.
    fn look(&mut self) {
        let now = match identities(&self.files) {
            Ok(now) => now,
            Err(why) => {
                self.seen = None;
                return self.refuse(why);
            }
        };
        if self.seen == Some(now) {
            return;
        }
        let pems = match read(&self.files) {
            Ok(pems) => pems,
            // Not seen, so the next look tries again.
            Err(why) => return self.refuse(why),
        };
        self.seen = Some(now);
        match parse(&self.files, &pems) {
            Ok(config) => {
                self.tls.0.store(Arc::new(config));
                self.metrics.certificates_reloaded.inc();
                self.dependency.found();
                tracing::info!("another certificate is in force");
            }
            Err(why) => self.refuse(why),
        }
    }

    fn refuse(&self, why: String) {
        self.metrics.certificates_refused.inc();
        tracing::error!(
            why,
            "the TLS files cannot be used; the last good ones stay in force"
        );
        self.dependency.lost(why);
    }
}

/// Of the certificate's file, then of the key's.
fn of_both<T>(files: &TlsFiles, get: impl Fn(&Path) -> io::Result<T>) -> Result<[T; 2], String> {
    let of = |path: &Path| get(path).map_err(|error| format!("{}: {error}", path.display()));
    Ok([of(&files.cert_file)?, of(&files.key_file)?])
}

fn identities(files: &TlsFiles) -> Result<[Identity; 2], String> {
    of_both(files, identity)
}

fn read(files: &TlsFiles) -> Result<[Vec<u8>; 2], String> {
    of_both(files, |path| std::fs::read(path))
}

/// Certificate and key, which must fit each other.
fn parse(files: &TlsFiles, [cert, key]: &[Vec<u8>; 2]) -> Result<ServerConfig, String> {
    let of = |path: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let chain = CertificateDer::pem_slice_iter(cert)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| of(&files.cert_file, &error))?;
    if chain.is_empty() {
        return Err(of(&files.cert_file, &"holds no certificate"));
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| of(&files.key_file, &error))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| of(&files.cert_file, &error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::process::{Needed, Process};

    /// A certificate and its key.
    fn pair() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["ingest.test".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    /// A folder without files, and what a look at it tells.
    fn place() -> (TempDir, TlsFiles, IngestMetrics, Dependency) {
        let process = Process::new();
        let directory = tempfile::tempdir().unwrap();
        let files = TlsFiles {
            cert_file: directory.path().join("tls.crt"),
            key_file: directory.path().join("tls.key"),
        };
        let metrics = IngestMetrics::new(&process.metrics);
        let dependency = process.dependencies.add("tls", Needed::Never);
        (directory, files, metrics, dependency)
    }

    #[test]
    fn files_that_do_not_fit_leave_the_last_good_ones_in_force() {
        let (_directory, files, metrics, dependency) = place();
        let open = || TlsReload::open(files.clone(), metrics.clone(), dependency.clone());
        assert!(open().unwrap_err().contains("tls.crt"), "no files yet");

        let ((cert, key), (other_cert, other_key)) = (pair(), pair());
        std::fs::write(&files.cert_file, "").unwrap();
        std::fs::write(&files.key_file, &key).unwrap();
        assert!(open().unwrap_err().contains("no certificate"));
        std::fs::write(&files.cert_file, &other_cert).unwrap();
        assert!(open().is_err(), "another's key");
        std::fs::write(&files.cert_file, &cert).unwrap();
        let (tls, mut reload) = open().unwrap();
        let first = tls.0.load_full();

        reload.look();
        assert!(Arc::ptr_eq(&first, &tls.0.load_full()), "nothing has changed");
        for (path, text) in [
            (&files.cert_file, other_cert.as_str()),
            (&files.key_file, "no key"),
        ] {
            std::fs::write(path, text).unwrap();
            reload.look();
            assert!(Arc::ptr_eq(&first, &tls.0.load_full()) && !dependency.is_up());
        }
        std::fs::write(&files.key_file, &other_key).unwrap();
        reload.look();
        assert!(!Arc::ptr_eq(&first, &tls.0.load_full()) && dependency.is_up());

        std::fs::remove_file(&files.key_file).unwrap();
        let second = tls.0.load_full();
        reload.look();
        assert!(Arc::ptr_eq(&second, &tls.0.load_full()) && !dependency.is_up());
    }

    #[test]
    fn a_file_that_could_not_be_read_is_read_again() {
        let (_directory, files, metrics, dependency) = place();
        let (cert, key) = pair();
        std::fs::write(&files.cert_file, cert).unwrap();
        std::fs::write(&files.key_file, &key).unwrap();
        let (_, mut reload) = TlsReload::open(files.clone(), metrics.clone(), dependency.clone()).unwrap();

        // A directory is there, and cannot be read as a file.
        std::fs::remove_file(&files.key_file).unwrap();
        std::fs::create_dir(&files.key_file).unwrap();
        for times in 1..4 {
            reload.look();
            assert_eq!(
                (metrics.certificates_refused.get(), dependency.is_up()),
                (times, false)
            );
        }
        // What was read and cannot be used is not read again.
        std::fs::remove_dir(&files.key_file).unwrap();
        std::fs::write(&files.key_file, "no key").unwrap();
        for _ in 0..2 {
            reload.look();
            assert_eq!(metrics.certificates_refused.get(), 4);
        }
        std::fs::write(&files.key_file, &key).unwrap();
        reload.look();
        assert_eq!(
            (metrics.certificates_reloaded.get(), dependency.is_up()),
            (1, true)
        );
    }
}
