//! Who a certificate speaks for: the names, and how they are read back from X.509.
//!
//! A node's certificate carries the URI `tidings://REALM/NODE` as a subject alternative name, an authority's
//! `tidings://REALM`. Chain validation does not look at URIs, so both ends of a connection read them here.

use std::fmt;
use std::net::IpAddr;

use thiserror::Error;
use tidings_proto::{Name, NameError};
use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::X509Certificate;

const SCHEME: &str = "tidings://";

/// A realm or node name that cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the {what} name {text:?} is not valid: {source}")]
pub struct BadName {
    what: &'static str,
    text: String,
    source: NameError,
}

/// Makes `text` a name or says what is wrong with it. `what` is "realm" or "node".
pub fn name(what: &'static str, text: &str) -> Result<Name, BadName> {
    Name::new(text).map_err(|source| BadName { what, text: text.chars().take(MAX_SHOWN).collect(), source })
}

/// How much of a wrong name an error repeats, in characters.
const MAX_SHOWN: usize = 80;

/// The realm and node a verified certificate speaks for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PeerIdentity {
    /// The cluster.
    pub realm: Name,
    /// The node within it.
    pub node: Name,
}

impl PeerIdentity {
    /// The URI that a node's certificate carries.
    pub fn uri(&self) -> String {
        format!("{SCHEME}{}/{}", self.realm, self.node)
    }

    /// Reads the identity from a certificate in DER. The chain is not checked here.
    pub fn from_der(der: &[u8]) -> Result<Self, IdentityError> {
        let info = CertInfo::from_der(der)?;
        match info.node {
            Some(node) => Ok(Self { realm: info.realm, node }),
            None => Err(IdentityError::Authority(info.realm)),
        }
    }
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.realm, self.node)
    }
}

/// The URI that an authority's certificate carries.
pub(crate) fn authority_uri(realm: &Name) -> String {
    format!("{SCHEME}{realm}")
}

/// Why a certificate has no usable identity.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IdentityError {
    /// Not an X.509 certificate.
    #[error("it cannot be parsed as an X.509 certificate")]
    Parse,
    /// No `tidings://` URI among the subject alternative names.
    #[error("it has no tidings://REALM/NODE subject alternative name; was it made by `tidings ca`?")]
    Missing,
    /// More than one `tidings://` URI: it would be ambiguous who speaks.
    #[error("it has more than one tidings:// subject alternative name")]
    Ambiguous,
    /// The URI's names are not valid.
    #[error("its identity is not valid: {0}")]
    Name(#[from] BadName),
    /// An authority's certificate where a node's was expected.
    #[error("it is the authority of realm {0}, not a node's certificate")]
    Authority(Name),
}

/// What `tidings ca show` prints of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertInfo {
    /// The cluster.
    pub realm: Name,
    /// The node; none for an authority.
    pub node: Option<Name>,
    /// DNS names and IP addresses among the subject alternative names.
    pub hosts: Vec<String>,
    /// Start of validity.
    pub not_before: OffsetDateTime,
    /// End of validity.
    pub not_after: OffsetDateTime,
    /// Serial number, hexadecimal.
    pub serial: String,
    /// SHA-256 of the DER, hexadecimal, as `openssl x509 -fingerprint -sha256` has it without the colons.
    pub fingerprint: String,
    /// The public key (SubjectPublicKeyInfo in DER).
    pub public_key: Vec<u8>,
}

impl CertInfo {
    /// Reads a certificate in DER. Neither signature nor validity is checked.
    pub fn from_der(der: &[u8]) -> Result<Self, IdentityError> {
        let (_, cert) = x509_parser::parse_x509_certificate(der).map_err(|_| IdentityError::Parse)?;
        let (uri, hosts) = alternative_names(&cert)?;
        let (realm, node) = match uri.split_once('/') {
            Some((realm, node)) => (realm, Some(node)),
            None => (uri.as_str(), None),
        };
        let realm = name("realm", realm)?;
        let node = node.map(|node| name("node", node)).transpose()?;
        let at = |seconds| OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| IdentityError::Parse);
        Ok(Self {
            realm,
            node,
            hosts,
            not_before: at(cert.validity().not_before.timestamp())?,
            not_after: at(cert.validity().not_after.timestamp())?,
            serial: hex(cert.raw_serial()),
            fingerprint: hex(&sha256(der)),
            public_key: cert.public_key().raw.to_vec(),
        })
    }
}

/// The one `tidings://` URI without its scheme, and the DNS names and addresses beside it.
fn alternative_names(cert: &X509Certificate<'_>) -> Result<(String, Vec<String>), IdentityError> {
    let names = cert.subject_alternative_name().map_err(|_| IdentityError::Parse)?;
    let mut uri: Option<String> = None;
    let mut hosts = Vec::new();
    for name in names.iter().flat_map(|extension| &extension.value.general_names) {
        match name {
            GeneralName::URI(text) => {
                if let Some(rest) = text.strip_prefix(SCHEME)
                    && uri.replace(rest.to_owned()).is_some()
                {
                    return Err(IdentityError::Ambiguous);
                }
            }
            GeneralName::DNSName(name) => hosts.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => hosts.extend(ip(bytes).map(|ip| ip.to_string())),
            _ => {}
        }
    }
    Ok((uri.ok_or(IdentityError::Missing)?, hosts))
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// SHA-256 through the TLS stack's own provider, so that no second hash library is needed for one fingerprint.
fn sha256(data: &[u8]) -> Vec<u8> {
    use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
    match TLS13_AES_128_GCM_SHA256 {
        rustls::SupportedCipherSuite::Tls13(suite) => suite.common.hash_provider.hash(data).as_ref().to_vec(),
        #[allow(unreachable_patterns)]
        _ => unreachable!("the suite is a TLS 1.3 one by name"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_name_says_what_is_wrong() {
        let problem = name("node", "bad one").unwrap_err().to_string();
        assert!(problem.starts_with("the node name \"bad one\" is not valid: "), "{problem}");
        assert!(problem.contains("found ' ' at byte 3"), "{problem}");
    }

    #[test]
    fn garbage_is_no_certificate() {
        assert_eq!(PeerIdentity::from_der(b"nonsense"), Err(IdentityError::Parse));
    }
}
