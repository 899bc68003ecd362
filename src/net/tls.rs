//! Credentials and the TLS configurations made of them: TLS 1.3, both ends with a certificate of the one authority.
//!
//! What is checked where: TLS checks chain, validity and key usage; the names in the certificates are compared with
//! the realm after the handshake and before any stream is served (`peer_identity`). Host names are not looked at:
//! a node is who its certificate says, wherever it runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use thiserror::Error;
use tidings_proto::{ALPN, Name};
use time::OffsetDateTime;

use super::certs::{CA_CERT, CertError, NODE_CERT, NODE_KEY, pem_error, read};
use super::identity::{CertInfo, IdentityError, PeerIdentity};

/// TLS wants a server name; ours are not host names, so all use this one, and it is not sent.
pub(super) const SERVER_NAME: &str = "tidings";

/// Why a node's credentials cannot be used. Those in use, if any, stay in use.
#[derive(Debug, Error)]
pub enum CredentialError {
    /// A file is missing, unreadable or not what it should be.
    #[error(transparent)]
    File(#[from] CertError),
    /// The node's certificate and key are of different pairs, or the key is of an unknown sort.
    #[error("the key {key} does not belong to the certificate {cert}: {source}")]
    Key {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What TLS says.
        source: Box<rustls::Error>,
    },
    /// Expired or not valid yet.
    #[error(
        "{path}: the certificate of node {identity} is valid from {from} until {until}, and now is {now}; \
         `tidings ca renew` makes a new one"
    )]
    Expired {
        /// The certificate's file.
        path: PathBuf,
        /// Whose it is.
        identity: PeerIdentity,
        /// Start of validity.
        from: OffsetDateTime,
        /// End of validity.
        until: OffsetDateTime,
        /// The clock's reading.
        now: OffsetDateTime,
    },
    /// The node's certificate does not come from the authority in the CA file, or is not fit for its use.
    #[error("{cert}: the certificate of node {identity} was not issued by the authority in {ca}: {source}")]
    NotIssued {
        /// The certificate's file.
        cert: PathBuf,
        /// The authority's file.
        ca: PathBuf,
        /// Whose it is.
        identity: PeerIdentity,
        /// What TLS says.
        source: Box<rustls::Error>,
    },
    /// The authority is of another realm than the node's certificate.
    #[error("{ca} is the authority of realm {found}, but {cert} is of realm {expected}")]
    Realm {
        /// The authority's file.
        ca: PathBuf,
        /// Its realm.
        found: Name,
        /// The certificate's file.
        cert: PathBuf,
        /// Its realm.
        expected: Name,
    },
    /// A reload may not change who the node is.
    #[error("the new certificate is of {found}, this node runs as {running}; restart to change that")]
    Changed {
        /// The identity in the new certificate.
        found: PeerIdentity,
        /// The identity in use.
        running: PeerIdentity,
    },
    /// TLS refused the configuration.
    #[error("TLS: {0}")]
    Tls(String),
}

/// Where a node's three files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialFiles {
    /// The authority's certificate; more than one while an authority is being replaced.
    pub ca: PathBuf,
    /// The node's certificate.
    pub cert: PathBuf,
    /// The node's private key.
    pub key: PathBuf,
}

impl CredentialFiles {
    /// The files as `tidings ca issue --out DIR` names them.
    pub fn in_dir(dir: &Path) -> Self {
        Self { ca: dir.join(CA_CERT), cert: dir.join(NODE_CERT), key: dir.join(NODE_KEY) }
    }
}

/// Who a node is, and the means to prove it.
#[derive(Debug)]
pub struct Credentials {
    identity: PeerIdentity,
    not_after: OffsetDateTime,
    authorities: Vec<CertificateDer<'static>>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Credentials {
    /// Reads and checks the files: they parse, key and certificate match, the authority issued it, it is valid now.
    pub fn load(files: &CredentialFiles) -> Result<Self, CredentialError> {
        let (ca, cert, key) = (read(&files.ca)?, read(&files.cert)?, read(&files.key)?);
        let credentials = Self::from_pem(files, &ca, &cert, &key)?;
        credentials.check(files)?;
        Ok(credentials)
    }

    /// If a file is missing: what to tell the operator, with the commands to type. `realm` and `node` are used where
    /// they are known.
    pub fn missing(files: &CredentialFiles, realm: Option<&str>, node: Option<&str>) -> Option<String> {
        let absent = [&files.ca, &files.cert, &files.key].into_iter().find(|path| !path.exists())?;
        let out = files.cert.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Some(format!(
            "there is no {}: nodes exchange data only with certificates of their cluster's authority.\n\
             Make the authority once per cluster, and then a certificate for each node:\n\n    \
             tidings ca init --realm {}\n    tidings ca issue {} --out {}\n",
            absent.display(),
            realm.unwrap_or("REALM"),
            node.unwrap_or("NODE"),
            out.display()
        ))
    }

    /// Who the node is.
    pub fn identity(&self) -> &PeerIdentity {
        &self.identity
    }

    /// The end of the certificate's validity.
    pub fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    /// What the nodes of a realm share and its applications do not know: a hash of the
    /// authority's public key. While an authority is being replaced nodes that know of
    /// another set of them have another one.
    pub fn realm_key(&self) -> [u8; 16] {
        let keys = self.authorities.iter().filter_map(|authority| CertInfo::from_der(authority).ok());
        let derive = |info: CertInfo| blake3::derive_key("tidings realm key 1", &info.public_key);
        let least = keys.map(derive).min().expect("there is an authority, and it was read before");
        *least.first_chunk().expect("a hash has 32 bytes")
    }

    /// A secret that stays the same over restarts with the same key, for `purpose` alone.
    pub(super) fn derive_secret(&self, purpose: &str) -> [u8; 32] {
        blake3::derive_key(purpose, self.key.secret_der())
    }

    fn from_pem(
        files: &CredentialFiles,
        ca: &[u8],
        cert: &[u8],
        key: &[u8],
    ) -> Result<Self, CredentialError> {
        let authorities = certificates(&files.ca, ca)?;
        let chain = certificates(&files.cert, cert)?;
        let identity =
            |path: &Path, source: IdentityError| CertError::Identity { path: path.to_owned(), source };
        let info = CertInfo::from_der(&chain[0]).map_err(|error| identity(&files.cert, error))?;
        let peer = PeerIdentity::from_der(&chain[0]).map_err(|error| identity(&files.cert, error))?;
        for authority in &authorities {
            let found = CertInfo::from_der(authority).map_err(|error| identity(&files.ca, error))?.realm;
            if found != peer.realm {
                let (ca, cert) = (files.ca.clone(), files.cert.clone());
                return Err(CredentialError::Realm { ca, found, cert, expected: peer.realm });
            }
        }
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|_| pem_error(&files.key, "it holds no private key in PEM"))?;
        Ok(Self { identity: peer, not_after: info.not_after, authorities, chain, key })
    }

    fn check(&self, files: &CredentialFiles) -> Result<(), CredentialError> {
        let provider = provider();
        CertifiedKey::from_der(self.chain.clone(), self.key.clone_key(), &provider).map_err(|source| {
            let (cert, key, source) = (files.cert.clone(), files.key.clone(), Box::new(source));
            CredentialError::Key { cert, key, source }
        })?;
        let verifier = AuthorityVerifier { roots: self.roots()?, provider };
        verifier.verify_chain(&self.chain[0], &self.chain[1..], UnixTime::now()).map_err(|source| {
            let (cert, identity) = (files.cert.clone(), self.identity.clone());
            match self.validity_error(&source) {
                Some((from, until)) => CredentialError::Expired {
                    path: cert,
                    identity,
                    from,
                    until,
                    now: OffsetDateTime::now_utc(),
                },
                None => {
                    let (ca, source) = (files.ca.clone(), Box::new(source));
                    CredentialError::NotIssued { cert, ca, identity, source }
                }
            }
        })
    }

    fn validity_error(&self, error: &rustls::Error) -> Option<(OffsetDateTime, OffsetDateTime)> {
        use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
        let rustls::Error::InvalidCertificate(
            Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. },
        ) = error
        else {
            return None;
        };
        let info = CertInfo::from_der(&self.chain[0]).ok()?;
        Some((info.not_before, info.not_after))
    }

    fn roots(&self) -> Result<Arc<RootCertStore>, CredentialError> {
        let mut roots = RootCertStore::empty();
        for authority in &self.authorities {
            roots.add(authority.clone()).map_err(tls_error)?;
        }
        Ok(Arc::new(roots))
    }

    /// The configuration for accepting: a client without a certificate of the authority is refused.
    pub(super) fn server_config(&self) -> Result<QuicServerConfig, CredentialError> {
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots()?, provider())
            .build()
            .map_err(|error| CredentialError::Tls(error.to_string()))?;
        let mut config = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .and_then(|builder| {
                builder
                    .with_client_cert_verifier(verifier)
                    .with_single_cert(self.chain.clone(), self.key.clone_key())
            })
            .map_err(tls_error)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // A resumed session would skip the check of the certificate.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        QuicServerConfig::try_from(config).map_err(|error| CredentialError::Tls(error.to_string()))
    }

    /// The configuration for dialling.
    pub(super) fn client_config(&self) -> Result<QuicClientConfig, CredentialError> {
        let verifier = AuthorityVerifier { roots: self.roots()?, provider: provider() };
        let mut config = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(tls_error)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            .map_err(tls_error)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        QuicClientConfig::try_from(config).map_err(|error| CredentialError::Tls(error.to_string()))
    }
}

/// Who is at the other end, from the certificate that the handshake has verified.
pub(super) fn peer_identity(connection: &quinn::Connection) -> Result<PeerIdentity, IdentityError> {
    let chain = connection
        .peer_identity()
        .and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok())
        .ok_or(IdentityError::Missing)?;
    PeerIdentity::from_der(chain.first().ok_or(IdentityError::Missing)?)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn tls_error(error: rustls::Error) -> CredentialError {
    CredentialError::Tls(error.to_string())
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    found
        .ok()
        .filter(|found| !found.is_empty())
        .ok_or_else(|| pem_error(path, "it holds no certificate in PEM"))
}

/// Verifies a server as the cluster understands it: issued by the authority, valid now, fit to serve.
#[derive(Debug)]
struct AuthorityVerifier {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl AuthorityVerifier {
    fn verify_chain(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let algorithms = self.provider.signature_verification_algorithms.all;
        let cert = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&cert, &self.roots, intermediates, now, algorithms)
    }
}

impl ServerCertVerifier for AuthorityVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify_chain(end_entity, intermediates, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;

    use super::*;
    use crate::net::certs::{Authority, Validity};

    pub(in crate::net) fn authority(realm: &str) -> Authority {
        Authority::create(realm, Validity::days(30).unwrap()).unwrap()
    }

    /// Credentials as they are, without the checks of [`Credentials::load`].
    pub(in crate::net) fn credentials(authority: &Authority, node: &str, validity: Validity) -> Credentials {
        let issued = authority.issue(node, &[], validity).unwrap();
        let files = CredentialFiles::in_dir(Path::new("test"));
        let (ca, cert, key) = (authority.cert_pem(), issued.cert_pem, issued.key_pem);
        let authorities = certificates(&files.ca, ca.as_bytes()).unwrap();
        let chain = certificates(&files.cert, cert.as_bytes()).unwrap();
        Credentials {
            identity: PeerIdentity::from_der(&chain[0]).unwrap(),
            not_after: validity.until,
            authorities,
            chain,
            key: PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        }
    }

    /// A client that need not keep to the rules: any protocol name, with or without a certificate, trusting whatever
    /// the authority of `trust` signed.
    pub(in crate::net) fn raw_client(
        trust: &Credentials,
        own: Option<&Credentials>,
        alpn: &[u8],
    ) -> quinn::ClientConfig {
        let verifier = AuthorityVerifier { roots: trust.roots().unwrap(), provider: provider() };
        let builder = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match own {
            Some(own) => builder.with_client_auth_cert(own.chain.clone(), own.key.clone_key()).unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()))
    }

    fn issued_in(dir: &Path) -> CredentialFiles {
        authority("alpha").issue_into(dir, "n1", &[], Validity::days(5).unwrap()).unwrap();
        CredentialFiles::in_dir(dir)
    }

    #[test]
    fn good_files_load() {
        let dir = tempfile::tempdir().unwrap();
        let files = issued_in(dir.path());
        let credentials = Credentials::load(&files).unwrap();
        assert_eq!(credentials.identity().to_string(), "alpha/n1");
        assert_eq!(Credentials::missing(&files, None, None), None);
    }

    #[test]
    fn missing_files_are_answered_with_the_commands() {
        let files = CredentialFiles::in_dir(Path::new("no/such/dir"));
        let text = Credentials::missing(&files, Some("alpha"), None).unwrap();
        assert!(text.contains("tidings ca init --realm alpha\n"), "{text}");
        assert!(text.contains("tidings ca issue NODE --out no/such/dir\n"), "{text}");
        let error = Credentials::load(&files).unwrap_err().to_string();
        assert!(error.contains("no/such/dir/ca.pem"), "{error}");
    }

    #[test]
    fn each_defect_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let files = issued_in(dir.path());
        let other = tempfile::tempdir().unwrap();
        let foreign = issued_in(other.path());

        fs::copy(&files.key, dir.path().join("good-key")).unwrap();
        fs::copy(&foreign.key, &files.key).unwrap();
        assert!(matches!(Credentials::load(&files), Err(CredentialError::Key { .. })));
        fs::write(&files.key, "no key").unwrap();
        assert!(matches!(Credentials::load(&files), Err(CredentialError::File(CertError::Pem { .. }))));
        fs::copy(dir.path().join("good-key"), &files.key).unwrap();

        fs::copy(&files.ca, dir.path().join("good-ca")).unwrap();
        fs::copy(&foreign.ca, &files.ca).unwrap();
        assert!(matches!(Credentials::load(&files), Err(CredentialError::NotIssued { .. })));
        fs::write(&files.ca, authority("beta").cert_pem()).unwrap();
        assert!(matches!(Credentials::load(&files), Err(CredentialError::Realm { .. })));
        fs::copy(dir.path().join("good-ca"), &files.ca).unwrap();

        fs::copy(&files.ca, &files.cert).unwrap();
        assert!(matches!(Credentials::load(&files), Err(CredentialError::File(CertError::Identity { .. }))));
    }

    #[test]
    fn an_expired_certificate_is_refused_with_its_dates() {
        let dir = tempfile::tempdir().unwrap();
        let now = OffsetDateTime::now_utc();
        let day = time::Duration::DAY;
        let issuer =
            Authority::create("alpha", Validity { from: now - 9 * day, until: now + 9 * day }).unwrap();
        issuer.issue_into(dir.path(), "n1", &[], Validity { from: now - 5 * day, until: now - day }).unwrap();
        let error = Credentials::load(&CredentialFiles::in_dir(dir.path())).unwrap_err();
        assert!(matches!(error, CredentialError::Expired { .. }), "{error}");
        assert!(error.to_string().contains("alpha/n1"), "{error}");
    }
}
