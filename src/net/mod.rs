//! QUIC between nodes: certificates, TLS, the endpoint, links and dialling.

pub mod certs;
pub mod identity;
mod reason;
pub mod tls;
