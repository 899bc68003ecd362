//! Why connections are refused or end: one list for close codes on the wire, metric labels and log lines.

use std::fmt;

use quinn::{ConnectionError, VarInt};

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $label:literal;)*) => {
        /// Why a connection was refused or ended. The numbers are QUIC application close codes and part of the protocol;
        /// those from 64 on are made from what TLS or QUIC report and never sent.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Reason {
            $($(#[$doc])* $name = $code,)*
        }

        impl Reason {
            /// All reasons, in the order of their codes.
            pub const ALL: &[Reason] = &[$(Reason::$name,)*];

            /// The reason as a metric label.
            pub fn label(self) -> &'static str {
                match self { $(Reason::$name => $label,)* }
            }
        }
    };
}

reasons! {
    /// The node is stopping.
    Shutdown = 1, "shutdown";
    /// The pair has a link already, and that one stays. Not an error.
    Duplicate = 2, "duplicate";
    /// A newer connection took the link's place: the peer restarted, or the link was dead on its side.
    Replaced = 3, "replaced";
    /// The address leads to the node itself.
    Itself = 4, "self";
    /// Two running nodes use one certificate.
    SameName = 5, "same_name";
    /// The node closed the link for a reason of its own (a member that left or was forgotten).
    Requested = 6, "requested";
    /// A certificate or HELLO of another realm.
    WrongRealm = 16, "wrong_realm";
    /// The certificate is of the authority but names no node.
    BadIdentity = 17, "bad_identity";
    /// The HELLO is malformed, or names another node than the certificate.
    BadHello = 18, "bad_hello";
    /// No protocol version in common.
    Version = 19, "version";
    /// The TLS handshake or the HELLO did not complete in time.
    HandshakeTimeout = 20, "handshake_timeout";
    /// A bound on connections is reached.
    TooMany = 21, "too_many";
    /// The node above the transport refused the peer.
    Refused = 22, "refused";
    /// A frame over its bound.
    Oversized = 32, "oversized";
    /// A frame that does not decode.
    Malformed = 33, "malformed";
    /// Streams other than the two lanes, or a lane that ended.
    Protocol = 34, "protocol";
    /// The client presented no certificate.
    NoCertificate = 64, "no_certificate";
    /// The certificate is not of the cluster's authority.
    WrongAuthority = 65, "wrong_authority";
    /// The certificate has expired or is not valid yet.
    Expired = 66, "expired";
    /// The certificate is unusable otherwise.
    BadCertificate = 67, "bad_certificate";
    /// The other end does not speak this protocol.
    WrongAlpn = 68, "wrong_alpn";
    /// Nothing was heard within the idle time-out.
    TimedOut = 69, "timed_out";
    /// The peer no longer knows the connection, usually because it restarted.
    Reset = 70, "reset";
    /// Anything else.
    Other = 71, "other";
}

const FIRST_LOCAL: u8 = Reason::NoCertificate as u8;

impl Reason {
    /// The application close code that says this to the peer.
    pub fn code(self) -> VarInt {
        VarInt::from_u32(self as u32)
    }

    fn from_code(code: VarInt) -> Self {
        let sent = |reason: &&Reason| **reason as u64 == code.into_inner() && (**reason as u8) < FIRST_LOCAL;
        Self::ALL.iter().find(sent).copied().unwrap_or(Self::Other)
    }

    /// Whether the end of a link for this reason is business as usual.
    pub fn is_normal(self) -> bool {
        matches!(self, Self::Shutdown | Self::Duplicate | Self::Replaced | Self::Itself | Self::Requested)
    }

    pub(super) fn position(self) -> usize {
        Self::ALL.iter().position(|reason| *reason == self).unwrap_or(0)
    }

    fn from_transport_code(code: u64) -> Self {
        // QUIC carries TLS alerts as 0x100 + alert (RFC 9001, 4.8).
        const CONNECTION_REFUSED: u64 = 0x2;
        match code {
            CONNECTION_REFUSED => Self::TooMany,
            // A foreign authority of the same name signs with another key, which shows as decrypt_error (51).
            0x130 | 0x133 => Self::WrongAuthority,
            0x12d => Self::Expired,
            0x174 => Self::NoCertificate,
            0x178 => Self::WrongAlpn,
            0x12a | 0x12b | 0x12c | 0x12e | 0x12f | 0x131 => Self::BadCertificate,
            _ => Self::Other,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// Why and by whom a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// The reason.
    pub reason: Reason,
    /// Whether the other end said so.
    pub by_peer: bool,
    /// More words, for the log and the operator.
    pub text: String,
}

impl Ending {
    pub(super) fn ours(reason: Reason, text: impl Into<String>) -> Self {
        Self { reason, by_peer: false, text: text.into() }
    }

    /// Reads what became of a connection from QUIC's error.
    pub(super) fn of(error: &ConnectionError) -> Self {
        let (reason, by_peer, text) = match error {
            ConnectionError::ApplicationClosed(close) => {
                let text = String::from_utf8_lossy(&close.reason).into_owned();
                (Reason::from_code(close.error_code), true, text)
            }
            ConnectionError::ConnectionClosed(close) => {
                (Reason::from_transport_code(close.error_code.into()), true, error.to_string())
            }
            ConnectionError::TransportError(transport) => {
                (Reason::from_transport_code(transport.code.into()), false, error.to_string())
            }
            ConnectionError::TimedOut => {
                (Reason::TimedOut, false, "nothing heard within the idle time-out".into())
            }
            ConnectionError::Reset => {
                (Reason::Reset, true, "the peer does not know the connection any more".into())
            }
            // Whoever closes one connection says why (see `Ending::ours`); this is the whole endpoint.
            ConnectionError::LocallyClosed => (Reason::Shutdown, false, "this node is stopping".into()),
            _ => (Reason::Other, false, error.to_string()),
        };
        Self { reason, by_peer, text: printable(&text) }
    }
}

/// The text may come from a stranger and goes to logs and terminals.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = if self.by_peer { " (said the peer)" } else { "" };
        write!(f, "{}{by}: {}", self.reason, self.text)
    }
}
