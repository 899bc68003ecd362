//! Who a certificate speaks for: the names, and how they are read back from X.509.
//!
//! A node's certificate carries the URI `tidings://REALM/NODE` as a subject alternative name, an authority's
//! `tidings://REALM`. Chain validation does not look at URIs, so both ends of a connection read them here.

use std::fmt;
use std::net::IpAddr;

use thiserror::Error;
use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::X509Certificate;

/// Longest realm or node name, in bytes.
pub const MAX_NAME: usize = 63;

const SCHEME: &str = "tidings://";

/// A realm or node name that cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the {what} name {name:?} {problem}")]
pub struct NameError {
    what: &'static str,
    name: String,
    problem: String,
}

/// Accepts 1 to 63 bytes of `a-z 0-9 . _ -` that start with a letter or a digit. `what` is "realm" or "node".
pub fn check_name(what: &'static str, name: &str) -> Result<(), NameError> {
    let refuse = |problem: String| {
        let name = name.chars().take(MAX_NAME + 1).collect();
        Err(NameError { what, name, problem })
    };
    let Some(first) = name.chars().next() else {
        return refuse("is empty".into());
    };
    if name.len() > MAX_NAME {
        return refuse(format!("has {} bytes, at most {MAX_NAME} are allowed", name.len()));
    }
    if let Some(bad) = name.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '.' | '_' | '-')) {
        return refuse(format!("contains {bad:?}, only a-z, 0-9, '.', '_' and '-' are allowed"));
    }
    if !first.is_ascii_alphanumeric() {
        return refuse(format!("starts with {first:?}, it must start with a letter or a digit"));
    }
    Ok(())
}

/// The realm and node a verified certificate speaks for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PeerIdentity {
    /// The cluster.
    pub realm: String,
    /// The node within it.
    pub node: String,
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
pub(crate) fn authority_uri(realm: &str) -> String {
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
    Name(#[from] NameError),
    /// An authority's certificate where a node's was expected.
    #[error("it is the authority of realm {0}, not a node's certificate")]
    Authority(String),
}

/// What `tidings ca show` prints of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertInfo {
    /// The cluster.
    pub realm: String,
    /// The node; none for an authority.
    pub node: Option<String>,
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
        check_name("realm", realm)?;
        if let Some(node) = node {
            check_name("node", node)?;
        }
        let at = |seconds| OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| IdentityError::Parse);
        Ok(Self {
            realm: realm.to_owned(),
            node: node.map(str::to_owned),
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
    fn names_within_the_rules_are_accepted() {
        for name in ["a", "0", "node-1", "eu.west_1", &"x".repeat(63)] {
            check_name("node", name).unwrap();
        }
    }

    #[test]
    fn a_refused_name_says_what_is_wrong() {
        let problem = |name: &str| check_name("node", name).unwrap_err().to_string();
        assert!(problem("").contains("is empty"));
        assert!(problem(&"x".repeat(64)).contains("has 64 bytes"));
        assert!(problem("Node").contains("contains 'N'"));
        assert!(problem("a/b").contains("contains '/'"));
        assert!(problem("naïve").contains("contains 'ï'"));
        assert!(problem("-a").contains("starts with '-'"));
        assert!(problem("bad one").starts_with("the node name \"bad one\""));
    }

    #[test]
    fn garbage_is_no_certificate() {
        assert_eq!(PeerIdentity::from_der(b"nonsense"), Err(IdentityError::Parse));
    }
}
