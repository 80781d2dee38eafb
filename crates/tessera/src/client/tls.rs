//! Which hosts are trusted: those whose certificate comes from the authority that one was given, or else from one that this machine trusts.

use std::path::Path;
use std::sync::Arc;

use rustls_platform_verifier::BuilderVerifierExt;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier, crypto};

use crate::failure::{Failure, Result};

fn failed(error: &dyn std::fmt::Display) -> Failure {
    Failure::internal(format!("TLS: {error}"))
}

fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>> {
    let provider = Arc::new(crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    builder.map_err(|error| failed(&error))
}

/// For connections that are not encrypted: nobody is trusted, and nothing has to be read to know that.
///
/// # Errors
/// If this build of TLS cannot be used.
pub fn unused() -> Result<ClientConfig> {
    Ok(builder()?.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

/// Connections to hosts whose authority is in the file `ca`.
///
/// # Errors
/// If that is no certificate, or this machine knows no authorities.
pub fn config(ca: Option<&Path>) -> Result<ClientConfig> {
    let builder = builder()?;
    let Some(path) = ca else {
        let verified = builder.with_platform_verifier().map_err(|error| failed(&error))?;
        return Ok(verified.with_no_client_auth());
    };
    let wrong = |error: &dyn std::fmt::Display| {
        Failure::input(format!(
            "--ca {}: {error}; it is what the host has as STATE/tls/ca.pem",
            path.display()
        ))
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| wrong(&error))? {
        let added = certificate.map(|certificate| roots.add(certificate));
        added.map_err(|error| wrong(&error))?.map_err(|error| wrong(&error))?;
    }
    if roots.is_empty() {
        return Err(wrong(&"there is no certificate in it (PEM)"));
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
