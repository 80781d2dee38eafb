//! Encrypted connections (TLS 1.2 and 1.3): a certificate authority of this host's own, made at its first start, and certificates of it for
//! each address that people connect to; or a certificate that somebody else gave.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use time::OffsetDateTime;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::{self, ServerConfig};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long the authority is trusted.
const AUTHORITY_LIFE: Duration = Duration::from_secs(3650 * 24 * 3600);
/// How long a certificate is good. It lives in memory only: each start of the daemon makes new ones.
const LIFE: Duration = Duration::from_secs(90 * 24 * 3600);
/// When it is made anew.
const RENEWAL: Duration = Duration::from_secs(30 * 24 * 3600);
/// For how many of the machine's addresses there are certificates at once.
const MOST: usize = 64;

/// Connections cannot be encrypted.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file.
    #[error("{0}: {1}")]
    File(PathBuf, io::Error),
    /// A file that holds something else.
    #[error("{0}: {1}")]
    Content(PathBuf, String),
    /// A certificate cannot be made.
    #[error("a certificate cannot be made: {0}")]
    Make(#[from] rcgen::Error),
    /// Key and certificate do not go together, or are of a kind that nobody knows.
    #[error("the certificate cannot be used: {0}")]
    Use(#[from] rustls::Error),
}

/// A certificate that somebody else gave: PEM files.
#[derive(Debug, Clone)]
pub struct Given {
    /// The certificate, and those that lead from it to an authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

struct Issued {
    at: Instant,
    /// When the file of a given certificate was written.
    written: Option<SystemTime>,
    config: Arc<ServerConfig>,
}

/// The certificates of a host.
pub struct Certificates {
    authority: Issuer<'static, KeyPair>,
    /// The authority's own certificate, PEM.
    pem: String,
    host_name: String,
    given: Option<Given>,
    issued: Mutex<HashMap<Option<IpAddr>, Issued>>,
}

fn authority_params(id: api::Id, host_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, format!("Tessera host {id}"));
    name.push(DnType::OrganizationName, if host_name.is_empty() { "Tessera" } else { host_name });
    params.distinguished_name = name;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = lasting(AUTHORITY_LIFE);
    params
}

/// From yesterday, because clocks differ, on for as long as `life`.
fn lasting(life: Duration) -> (OffsetDateTime, OffsetDateTime) {
    let now = OffsetDateTime::now_utc();
    (now - DAY, now + life)
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), TlsError> {
    let told = |error| TlsError::File(path.to_owned(), error);
    let partial = path.with_extension("new");
    let mut options = fs::OpenOptions::new();
    let mut file = options.create(true).truncate(true).write(true).mode(mode).open(&partial).map_err(told)?;
    io::Write::write_all(&mut file, text.as_bytes()).and_then(|()| file.sync_all()).map_err(told)?;
    fs::rename(&partial, path).map_err(told)
}

impl Certificates {
    /// The certificates of the host `id`, whose authority is in `folder`; it is made if there is none.
    ///
    /// # Errors
    /// If the files cannot be read or written, or hold something else.
    pub fn open(folder: &Path, id: api::Id, host_name: &str, given: Option<Given>) -> Result<Self, TlsError> {
        let (key_path, pem_path, name_path) =
            (folder.join("ca.key"), folder.join("ca.pem"), folder.join("ca.name"));
        let told = |path: &Path| {
            let path = path.to_owned();
            move |error| TlsError::File(path, error)
        };
        if !pem_path.exists() {
            let key = KeyPair::generate()?;
            let certificate = authority_params(id, host_name).self_signed(&key)?;
            write(&key_path, &key.serialize_pem(), 0o600)?;
            // Its name is part of the authority; that of the machine may change.
            write(&name_path, host_name, 0o600)?;
            write(&pem_path, &certificate.pem(), 0o644)?;
        }
        let pem = fs::read_to_string(&pem_path).map_err(told(&pem_path))?;
        let name = fs::read_to_string(&name_path).map_err(told(&name_path))?;
        let key = fs::read_to_string(&key_path).map_err(told(&key_path))?;
        let key = KeyPair::from_pem(&key).map_err(|error| TlsError::Content(key_path, error.to_string()))?;
        let authority = Issuer::new(authority_params(id, &name), key);
        let host_name = host_name.to_owned();
        let certificates = Self { authority, pem, host_name, given, issued: Mutex::default() };
        // What is wrong is told at the start, not to the first who connects.
        certificates.acceptor(IpAddr::from([127, 0, 0, 1]))?;
        Ok(certificates)
    }

    /// Until when the certificate that somebody else gave is good. Those of the host's own authority are made anew in time.
    pub fn given_until(&self) -> Option<api::Time> {
        let (chain, _) = read(self.given.as_ref()?).ok()?;
        let (_, first) = x509_parser::parse_x509_certificate(chain.first()?).ok()?;
        api::Time::from_second(first.validity().not_after.timestamp()).ok()
    }

    /// The authority's certificate, PEM: whoever trusts it trusts this host.
    pub fn authority(&self) -> &str {
        &self.pem
    }

    /// What answers those who connect to this address of the machine.
    ///
    /// # Errors
    /// If there is no certificate for it.
    pub fn acceptor(&self, own: IpAddr) -> Result<TlsAcceptor, TlsError> {
        let own = own.to_canonical();
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        let written =
            self.given.as_ref().and_then(|given| fs::metadata(&given.certificate).ok()?.modified().ok());
        let whose = self.given.is_none().then_some(own);
        let fresh = |known: &&Issued| known.at.elapsed() < RENEWAL && known.written == written;
        if let Some(known) = issued.get(&whose).filter(fresh) {
            return Ok(Arc::clone(&known.config).into());
        }
        let (chain, key) = match &self.given {
            Some(given) => read(given)?,
            None => self.issue(own)?,
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let mut config = builder.with_no_client_auth().with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let config = Arc::new(config);
        if issued.len() >= MOST {
            issued.clear();
        }
        issued.insert(whose, Issued { at: Instant::now(), written, config: Arc::clone(&config) });
        Ok(config.into())
    }

    /// A certificate for this machine's name and one of its addresses.
    fn issue(&self, own: IpAddr) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        let mut names = vec!["localhost".to_owned(), own.to_string()];
        if !self.host_name.is_empty() {
            names.push(self.host_name.clone());
        }
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "Tessera host");
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        (params.not_before, params.not_after) = lasting(LIFE);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.authority)?;
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        Ok((vec![certificate.der().clone()], key.into()))
    }
}

fn read(given: &Given) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let wrong =
        |path: &Path, error: &dyn std::fmt::Display| TlsError::Content(path.to_owned(), error.to_string());
    let path = &given.certificate;
    let chain = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|error| wrong(path, &error))?;
    if chain.is_empty() {
        return Err(wrong(path, &"there is no certificate in it (PEM)"));
    }
    let key = PrivateKeyDer::from_pem_file(&given.key).map_err(|error| wrong(&given.key, &error))?;
    Ok((chain, key))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_rustls::TlsConnector;
    use tokio_rustls::rustls::pki_types::ServerName;
    use tokio_rustls::rustls::{ClientConfig, RootCertStore};

    use super::*;

    fn connector(pem: &str) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        Arc::new(builder.with_root_certificates(roots).with_no_client_auth()).into()
    }

    /// Whether a client that trusts `pem` talks to `name`.
    async fn talks(certificates: &Certificates, pem: &str, name: &str) -> bool {
        let (client, server) = tokio::io::duplex(1 << 16);
        let acceptor = certificates.acceptor("192.0.2.7".parse().unwrap()).unwrap();
        let serving = tokio::spawn(async move { acceptor.accept(server).await?.write_all(b"x").await });
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let talked = match connector(pem).connect(name, client).await {
            Ok(mut stream) => stream.read_u8().await.is_ok(),
            Err(_) => false,
        };
        let _ = serving.await;
        talked
    }

    #[tokio::test]
    async fn who_trusts_the_authority_trusts_the_host_also_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let id = api::Id::new();
        let first = Certificates::open(folder.path(), id, "here", None).unwrap();
        let pem = first.authority().to_owned();
        let again = Certificates::open(folder.path(), id, "renamed", None).unwrap();
        assert_eq!(again.authority(), pem);
        assert!(talks(&again, &pem, "192.0.2.7").await);
        assert!(talks(&again, &pem, "renamed").await);
        assert!(!talks(&again, &pem, "192.0.2.8").await, "another address");
        let other = Certificates::open(tempfile::tempdir().unwrap().path(), id, "here", None).unwrap();
        assert!(!talks(&again, other.authority(), "192.0.2.7").await, "another authority");
    }

    #[tokio::test]
    async fn a_given_certificate_is_used_and_a_wrong_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec!["given.example".into()]).unwrap().self_signed(&key).unwrap();
        let given = Given { certificate: folder.path().join("c.pem"), key: folder.path().join("k.pem") };
        fs::write(&given.certificate, certificate.pem()).unwrap();
        fs::write(&given.key, key.serialize_pem()).unwrap();
        let open = |given: &Given| Certificates::open(folder.path(), api::Id::new(), "", Some(given.clone()));
        let certificates = open(&given).unwrap();
        assert!(talks(&certificates, &certificate.pem(), "given.example").await);
        let swapped = Given { certificate: given.key.clone(), key: given.certificate.clone() };
        let error = open(&swapped).err().unwrap().to_string();
        assert!(error.contains("k.pem"), "{error}");
    }

    #[test]
    fn the_key_is_for_nobody_else_to_read() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        Certificates::open(folder.path(), api::Id::new(), "", None).unwrap();
        let mode = fs::metadata(folder.path().join("ca.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
