//! Certificates without tears: a cluster authority that is two files, and node certificates that are two more.

use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use thiserror::Error;
use tidings_proto::Name;
use time::{Duration, OffsetDateTime};

use super::identity::{BadName, CertInfo, IdentityError, PeerIdentity, authority_uri, name};

/// File name of an authority's certificate; every node needs a copy.
pub const CA_CERT: &str = "ca.pem";
/// File name of an authority's private key; only whoever issues certificates needs it.
pub const CA_KEY: &str = "ca-key.pem";
/// File name of a node's certificate.
pub const NODE_CERT: &str = "node.pem";
/// File name of a node's private key.
pub const NODE_KEY: &str = "node-key.pem";

/// Longest validity, in days.
pub const MAX_DAYS: u32 = 36_500;

/// Certificates are valid from a little in the past, because the clocks of a cluster are not one.
const SKEW: Duration = Duration::minutes(10);

/// Why a certificate operation failed. Files that existed before are as they were.
#[derive(Debug, Error)]
pub enum CertError {
    /// A realm or node name outside the rules.
    #[error(transparent)]
    Name(#[from] BadName),
    /// A host that is neither a DNS name nor an IP address.
    #[error("{0:?} is neither a DNS name nor an IP address")]
    Host(String),
    /// A validity outside 1 to [`MAX_DAYS`] days.
    #[error("a validity of {0} days is outside 1 to {MAX_DAYS}")]
    Days(u32),
    /// The file is there already; nothing was overwritten.
    #[error("{0} exists already and is not overwritten")]
    Exists(PathBuf),
    /// Reading or writing a file failed.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file holds no PEM of the expected sort.
    #[error("{path}: {problem}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The certificate's identity cannot be used.
    #[error("{path}: {source}")]
    Identity {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: IdentityError,
    },
    /// A node's certificate where an authority's was expected.
    #[error("{path}: it is the certificate of node {node}, not an authority's")]
    NotAuthority {
        /// The file.
        path: PathBuf,
        /// The node it speaks for.
        node: Name,
    },
    /// Certificate and key are of different pairs.
    #[error("the key {key} does not belong to the certificate {cert}")]
    KeyMismatch {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// The authority can issue nothing that would be valid.
    #[error("the authority of realm {realm} expired on {until}; make a new one with `tidings ca init`")]
    AuthorityExpired {
        /// Its realm.
        realm: Name,
        /// The end of its validity.
        until: OffsetDateTime,
    },
    /// A certificate of another realm than the authority's.
    #[error("{path}: it is of realm {found}, the authority is of realm {expected}")]
    Realm {
        /// The file.
        path: PathBuf,
        /// The certificate's realm.
        found: Name,
        /// The authority's realm.
        expected: Name,
    },
    /// The certificate could not be made.
    #[error("cannot make the certificate: {0}")]
    Generate(#[from] rcgen::Error),
}

/// From when until when a certificate holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// First moment.
    pub from: OffsetDateTime,
    /// Last moment.
    pub until: OffsetDateTime,
}

impl Validity {
    /// From a few minutes ago until `days` from now.
    pub fn days(days: u32) -> Result<Self, CertError> {
        if !(1..=MAX_DAYS).contains(&days) {
            return Err(CertError::Days(days));
        }
        let now = OffsetDateTime::now_utc();
        Ok(Self { from: now - SKEW, until: now + Duration::days(days.into()) })
    }
}

/// A cluster authority: it says who belongs to its realm.
#[derive(Debug)]
pub struct Authority {
    realm: Name,
    cert: CertificateDer<'static>,
    cert_pem: String,
    from: OffsetDateTime,
    until: OffsetDateTime,
    issuer: Issuer<'static, KeyPair>,
}

/// A node's certificate and private key in PEM.
#[derive(Debug)]
pub struct Issued {
    /// The certificate.
    pub cert_pem: String,
    /// The private key (PKCS #8).
    pub key_pem: String,
}

impl Authority {
    /// Makes an authority in memory.
    pub fn create(realm: &str, validity: Validity) -> Result<Self, CertError> {
        let realm = name("realm", realm)?;
        let key = KeyPair::generate()?;
        let mut params = base_params(&format!("tidings CA {realm}"), validity)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![SanType::URI(authority_uri(&realm).try_into()?)];
        let made = params.self_signed(&key)?;
        Ok(Self {
            realm,
            cert: made.der().clone(),
            cert_pem: made.pem(),
            from: validity.from,
            until: validity.until,
            issuer: Issuer::new(params, key),
        })
    }

    /// Reads `ca.pem` and `ca-key.pem` from `dir`.
    pub fn load(dir: &Path) -> Result<Self, CertError> {
        let (cert_path, key_path) = (dir.join(CA_CERT), dir.join(CA_KEY));
        let (cert, info) = read_cert(&cert_path)?;
        if let Some(node) = info.node {
            return Err(CertError::NotAuthority { path: cert_path, node });
        }
        let pem = read(&key_path)?;
        let key = std::str::from_utf8(&pem)
            .ok()
            .and_then(|pem| KeyPair::from_pem(pem).ok())
            .ok_or_else(|| pem_error(&key_path, "it holds no private key in PEM"))?;
        if key.subject_public_key_info() != info.public_key {
            return Err(CertError::KeyMismatch { cert: cert_path, key: key_path });
        }
        let cert_pem =
            String::from_utf8(read(&cert_path)?).map_err(|_| pem_error(&cert_path, "it is not text"))?;
        let issuer = Issuer::from_ca_cert_der(&cert, key)?;
        Ok(Self { realm: info.realm, cert, cert_pem, from: info.not_before, until: info.not_after, issuer })
    }

    /// Writes `ca.pem` and `ca-key.pem` (mode 0600) into `dir`, which is made if need be. Overwrites nothing.
    pub fn save(&self, dir: &Path) -> Result<(), CertError> {
        make_dir(dir)?;
        let (cert, key) = (dir.join(CA_CERT), dir.join(CA_KEY));
        refuse_existing([&cert, &key])?;
        write_atomically(&key, &self.issuer.key().serialize_pem(), 0o600)?;
        write_atomically(&cert, &self.cert_pem, 0o644)
    }

    /// The cluster it speaks for.
    pub fn realm(&self) -> &Name {
        &self.realm
    }

    /// The end of its validity; nothing it issues lasts longer.
    pub fn until(&self) -> OffsetDateTime {
        self.until
    }

    /// Its certificate in PEM.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// A new key and certificate for `node`, good for both ends of a connection. `hosts` are DNS names and IP
    /// addresses for other software's sake; tidings itself compares only the identity.
    pub fn issue(&self, node: &str, hosts: &[String], validity: Validity) -> Result<Issued, CertError> {
        let key = KeyPair::generate()?;
        let cert_pem = self.certify(node, hosts, validity, &key)?;
        Ok(Issued { cert_pem, key_pem: key.serialize_pem() })
    }

    fn certify(
        &self,
        node: &str,
        hosts: &[String],
        validity: Validity,
        key: &impl PublicKeyData,
    ) -> Result<String, CertError> {
        let node = name("node", node)?;
        let validity = self.within(validity)?;
        let mut params = base_params(node.as_str(), validity)?;
        let identity = PeerIdentity { realm: self.realm.clone(), node };
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.subject_alt_names.push(SanType::URI(identity.uri().try_into()?));
        for host in hosts {
            params.subject_alt_names.push(host_name(host)?);
        }
        Ok(params.signed_by(key, &self.issuer)?.pem())
    }

    /// Cuts a validity to the authority's own.
    fn within(&self, wanted: Validity) -> Result<Validity, CertError> {
        let validity = Validity { from: wanted.from.max(self.from), until: wanted.until.min(self.until) };
        if validity.from >= validity.until || self.until <= OffsetDateTime::now_utc() {
            return Err(CertError::AuthorityExpired { realm: self.realm.clone(), until: self.until });
        }
        Ok(validity)
    }

    /// Issues for `node` into `out`: `node.pem`, `node-key.pem` (mode 0600) and a copy of `ca.pem`. Overwrites
    /// nothing.
    pub fn issue_into(
        &self,
        out: &Path,
        node: &str,
        hosts: &[String],
        validity: Validity,
    ) -> Result<CertInfo, CertError> {
        let issued = self.issue(node, hosts, validity)?;
        make_dir(out)?;
        let (cert, key, ca) = (out.join(NODE_CERT), out.join(NODE_KEY), out.join(CA_CERT));
        refuse_existing([&cert, &key])?;
        self.refuse_foreign(&ca)?;
        write_atomically(&key, &issued.key_pem, 0o600)?;
        write_atomically(&ca, &self.cert_pem, 0o644)?;
        write_atomically(&cert, &issued.cert_pem, 0o644)?;
        Ok(read_cert(&cert)?.1)
    }

    /// A directory that already trusts another authority is not taken over in silence.
    fn refuse_foreign(&self, ca: &Path) -> Result<(), CertError> {
        match fs::symlink_metadata(ca) {
            Ok(_) if read_cert(ca)?.0 == self.cert => Ok(()),
            Ok(_) => Err(CertError::Exists(ca.to_owned())),
            Err(_) => Ok(()),
        }
    }

    /// Issues the certificate in `dir` anew, for the same node and hosts; without a `validity` for as long as the old
    /// one was. The old file stays as `node.pem.old`. With `new_key` the key changes too (old one: `node-key.pem.old`).
    pub fn renew(
        &self,
        dir: &Path,
        validity: Option<Validity>,
        new_key: bool,
    ) -> Result<CertInfo, CertError> {
        let (cert, key) = (dir.join(NODE_CERT), dir.join(NODE_KEY));
        let (_, old) = read_cert(&cert)?;
        let Some(node) = old.node else {
            let source = IdentityError::Authority(old.realm);
            return Err(CertError::Identity { path: cert, source });
        };
        if old.realm != self.realm {
            return Err(CertError::Realm { path: cert, found: old.realm, expected: self.realm.clone() });
        }
        let now = OffsetDateTime::now_utc();
        let validity = validity.unwrap_or(Validity {
            from: now - SKEW,
            until: now + (old.not_after - old.not_before - SKEW).max(Duration::days(1)),
        });
        let (cert_pem, key_pem) = if new_key {
            let issued = self.issue(node.as_str(), &old.hosts, validity)?;
            (issued.cert_pem, Some(issued.key_pem))
        } else {
            let public = SubjectPublicKeyInfo::from_der(&old.public_key)?;
            (self.certify(node.as_str(), &old.hosts, validity, &public)?, None)
        };
        keep_old(&cert)?;
        if let Some(key_pem) = key_pem {
            keep_old(&key)?;
            write_atomically(&key, &key_pem, 0o600)?;
        }
        write_atomically(&cert, &cert_pem, 0o644)?;
        Ok(read_cert(&cert)?.1)
    }

    /// The same authority's key under another realm's name: what a careless or hostile issuer could do.
    #[cfg(test)]
    pub(crate) fn misuse_for_realm(mut self, realm: &str) -> Self {
        self.realm = name("realm", realm).unwrap();
        self
    }
}

/// Reads the first certificate of a PEM file. Neither signature nor validity is checked.
pub fn read_cert(path: &Path) -> Result<(CertificateDer<'static>, CertInfo), CertError> {
    let pem = read(path)?;
    let cert = CertificateDer::from_pem_slice(&pem)
        .map_err(|_| pem_error(path, "it holds no certificate in PEM"))?;
    let info =
        CertInfo::from_der(&cert).map_err(|source| CertError::Identity { path: path.to_owned(), source })?;
    Ok((cert, info))
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, CertError> {
    fs::read(path).map_err(|source| CertError::Io { path: path.to_owned(), source })
}

pub(super) fn pem_error(path: &Path, problem: &str) -> CertError {
    CertError::Pem { path: path.to_owned(), problem: problem.to_owned() }
}

fn base_params(common_name: &str, validity: Validity) -> Result<CertificateParams, CertError> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = validity.from;
    params.not_after = validity.until;
    // By default the serial derives from the key, which would give a renewed certificate its predecessor's.
    let serial: [u8; 16] = (rand::random::<u128>() >> 1 | 1).to_be_bytes();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

fn host_name(host: &str) -> Result<SanType, CertError> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(ip));
    }
    let wrong = || CertError::Host(host.to_owned());
    rustls_pki_types::DnsName::try_from(host).map_err(|_| wrong())?;
    Ok(SanType::DnsName(host.try_into().map_err(|_| wrong())?))
}

fn make_dir(dir: &Path) -> Result<(), CertError> {
    fs::create_dir_all(dir).map_err(|source| CertError::Io { path: dir.to_owned(), source })
}

fn refuse_existing<const N: usize>(paths: [&Path; N]) -> Result<(), CertError> {
    match paths.into_iter().find(|path| fs::symlink_metadata(path).is_ok()) {
        Some(path) => Err(CertError::Exists(path.to_owned())),
        None => Ok(()),
    }
}

/// Copies rather than renames, so that there is never a moment without the file.
fn keep_old(path: &Path) -> Result<(), CertError> {
    let text = String::from_utf8(read(path)?).map_err(|_| pem_error(path, "it is not text"))?;
    let mut old = path.as_os_str().to_owned();
    old.push(".old");
    write_atomically(Path::new(&old), &text, 0o600)
}

fn write_atomically(path: &Path, text: &str, mode: u32) -> Result<(), CertError> {
    let temporary = path.with_extension(format!("tmp-{:016x}", rand::random::<u64>()));
    let written = (|| {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        fs::File::open(path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new(".")))?
            .sync_all()
    })();
    written.map_err(|source| {
        let _ = fs::remove_file(&temporary);
        CertError::Io { path: path.to_owned(), source }
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn authority(days: u32) -> Authority {
        Authority::create("alpha", Validity::days(days).unwrap()).unwrap()
    }

    #[test]
    fn issued_files_carry_the_identity_and_are_private() {
        let dir = tempfile::tempdir().unwrap();
        authority(10).save(dir.path()).unwrap();
        let loaded = Authority::load(dir.path()).unwrap();
        let out = dir.path().join("n1");
        let hosts = ["n1.example".to_owned(), "10.0.0.1".to_owned(), "::1".to_owned()];
        let info = loaded.issue_into(&out, "n1", &hosts, Validity::days(5).unwrap()).unwrap();
        assert_eq!((info.realm.as_str(), info.node.as_ref().map(Name::as_str)), ("alpha", Some("n1")));
        assert_eq!(info.hosts, hosts);
        assert!(info.not_before < OffsetDateTime::now_utc());
        for key in [dir.path().join(CA_KEY), out.join(NODE_KEY)] {
            assert_eq!(fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(fs::read(out.join(CA_CERT)).unwrap(), fs::read(dir.path().join(CA_CERT)).unwrap());
        assert_eq!(fs::read_dir(&out).unwrap().count(), 3, "no temporary file stays behind");
    }

    #[test]
    fn nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let first = authority(10);
        first.save(dir.path()).unwrap();
        let before = fs::read(dir.path().join(CA_KEY)).unwrap();
        assert!(matches!(authority(10).save(dir.path()), Err(CertError::Exists(_))));
        assert_eq!(fs::read(dir.path().join(CA_KEY)).unwrap(), before);
        let out = dir.path().join("n1");
        let days = Validity::days(5).unwrap();
        first.issue_into(&out, "n1", &[], days).unwrap();
        assert!(matches!(first.issue_into(&out, "n1", &[], days), Err(CertError::Exists(_))));
        fs::remove_file(out.join(NODE_CERT)).unwrap();
        fs::remove_file(out.join(NODE_KEY)).unwrap();
        let other = authority(10).issue_into(&out, "n1", &[], days);
        assert!(matches!(other, Err(CertError::Exists(path)) if path.ends_with(CA_CERT)));
    }

    #[test]
    fn a_certificate_never_outlives_its_authority() {
        let authority = authority(3);
        let pem = authority.issue("n1", &[], Validity::days(100).unwrap()).unwrap().cert_pem;
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let info = CertInfo::from_der(&der).unwrap();
        assert_eq!(info.not_after.unix_timestamp(), authority.until().unix_timestamp());
    }

    #[test]
    fn an_expired_authority_issues_nothing() {
        let now = OffsetDateTime::now_utc();
        let past = Validity { from: now - Duration::days(2), until: now - Duration::days(1) };
        let authority = Authority::create("alpha", past).unwrap();
        let refused = authority.issue("n1", &[], Validity::days(1).unwrap());
        assert!(matches!(refused, Err(CertError::AuthorityExpired { .. })));
    }

    #[test]
    fn renewing_keeps_identity_hosts_and_key() {
        let dir = tempfile::tempdir().unwrap();
        let authority = authority(100);
        let hosts = ["n1.example".to_owned()];
        let old = authority.issue_into(dir.path(), "n1", &hosts, Validity::days(5).unwrap()).unwrap();
        let new = authority.renew(dir.path(), Some(Validity::days(9).unwrap()), false).unwrap();
        assert_eq!((&new.realm, &new.node, &new.hosts), (&old.realm, &old.node, &old.hosts));
        assert_eq!(new.public_key, old.public_key);
        assert_ne!(new.serial, old.serial);
        assert!(new.not_after > old.not_after);
        let kept = read_cert(&dir.path().join("node.pem.old")).unwrap().1;
        assert_eq!(kept, old);
        let rotated = authority.renew(dir.path(), None, true).unwrap();
        assert_ne!(rotated.public_key, old.public_key);
        assert!(
            (rotated.not_after - new.not_after).abs() < Duration::minutes(1),
            "as long as the one before"
        );
        assert!(dir.path().join("node-key.pem.old").exists());
    }

    #[test]
    fn another_realms_certificate_is_not_renewed() {
        let dir = tempfile::tempdir().unwrap();
        authority(10).issue_into(dir.path(), "n1", &[], Validity::days(5).unwrap()).unwrap();
        let beta = Authority::create("beta", Validity::days(10).unwrap()).unwrap();
        assert!(matches!(beta.renew(dir.path(), None, false), Err(CertError::Realm { .. })));
    }

    #[test]
    fn a_foreign_key_is_named() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        authority(10).save(one.path()).unwrap();
        authority(10).save(two.path()).unwrap();
        fs::copy(two.path().join(CA_KEY), one.path().join(CA_KEY)).unwrap();
        assert!(matches!(Authority::load(one.path()), Err(CertError::KeyMismatch { .. })));
    }

    #[test]
    fn bad_input_is_refused() {
        assert!(matches!(Validity::days(0), Err(CertError::Days(0))));
        let days = Validity::days(1).unwrap();
        assert!(matches!(Authority::create("Alpha", days), Err(CertError::Name(_))));
        let authority = authority(10);
        assert!(matches!(authority.issue("a b", &[], days), Err(CertError::Name(_))));
        assert!(matches!(authority.issue("a", &["b c".to_owned()], days), Err(CertError::Host(_))));
    }
}
