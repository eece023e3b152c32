//! The encrypted end of a service, of one test's own: what it shows can be exchanged, which at the kit's services would
//! concern all that run beside.
//!
//! ```text
//! pods, operator -- TLS, with the certificate that is shown now --> Front -- plain --> the kit's service
//! ```

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use penstock_e2e::instance::NODE_ADDRESS;
use penstock_e2e::secured::Issued;
use penstock_e2e::trial::port;
use penstock_e2e::{Error, Result};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// What is shown, and the addresses of those who have trusted it.
struct Shown {
    acceptor: TlsAcceptor,
    trusting: Mutex<HashSet<IpAddr>>,
}

/// Listens until it is dropped.
pub(super) struct Front {
    address: SocketAddr,
    shown: watch::Sender<Arc<Shown>>,
    _runtime: Runtime,
}

impl Front {
    /// Where pods reach it, before what listens at `target`.
    pub(super) fn start(target: &str, issued: &Issued) -> Result<Self> {
        let target: SocketAddr = target.parse().map_err(failed)?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(failed)?;
        let address = SocketAddr::from((NODE_ADDRESS, port()));
        let listener = runtime.block_on(TcpListener::bind(address)).map_err(failed)?;
        let (shown, watched) = watch::channel(shown(issued)?);
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, target, watched.clone()));
            }
        });
        Ok(Self {
            address,
            shown,
            _runtime: runtime,
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Shows another certificate from now on. Who has seen the one before is cut off, in the middle of what it says.
    pub(super) fn show(&self, issued: &Issued) -> Result<()> {
        self.shown.send_replace(shown(issued)?);
        Ok(())
    }

    /// How many pods have trusted what is shown.
    pub(super) fn trusting(&self) -> usize {
        self.shown.borrow().trusting.lock().expect("no panic").len()
    }
}

async fn pass(
    client: TcpStream,
    target: SocketAddr,
    mut watched: watch::Receiver<Arc<Shown>>,
) -> std::io::Result<()> {
    let shown = Arc::clone(&watched.borrow_and_update());
    let mut client = shown.acceptor.accept(client).await?;
    let peer = client.get_ref().0.peer_addr()?.ip();
    shown.trusting.lock().expect("no panic").insert(peer);
    let mut server = TcpStream::connect(target).await?;
    tokio::select! {
        passed = copy_bidirectional(&mut client, &mut server) => passed.map(drop),
        _ = watched.changed() => Ok(()),
    }
}

fn shown(issued: &Issued) -> Result<Arc<Shown>> {
    let chain = CertificateDer::pem_slice_iter(issued.certificate.as_bytes())
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(failed)?;
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).map_err(failed)?;
    let config = ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(failed)?;
    Ok(Arc::new(Shown {
        acceptor: TlsAcceptor::from(Arc::new(config)),
        trusting: Mutex::default(),
    }))
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::new(error.to_string())
}
