//! Strangers at the doors: they get nothing, they are counted, and they harm nobody.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use quinn::crypto::rustls::QuicClientConfig;
use rand::RngExt;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tidings::net::certs::{Authority, Issued, Validity};
use time::{Duration, OffsetDateTime};

use super::cluster::{Cluster, Node, REALM, path};
use super::http;
use super::process::{PATIENCE, tidings, wait_for};
use super::resp::{Redis, bulk, ok};

pub(crate) const ALPN: &str = "tidings/1";

/// Who knocks: without a certificate or with one.
pub(crate) struct Stranger {
    pub(crate) identity: Option<Issued>,
    pub(crate) alpn: &'static str,
}

/// Believes every server: the other side is what is tested.
#[derive(Debug)]
struct Trusting(Arc<CryptoProvider>);

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

impl Stranger {
    pub(crate) fn config(&self) -> quinn::ClientConfig {
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Trusting(provider)));
        let mut config = match &self.identity {
            None => config.with_no_client_auth(),
            Some(issued) => {
                let chain = vec![CertificateDer::from_pem_slice(issued.cert_pem.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
                config.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = vec![self.alpn.into()];
        quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()))
    }

    /// Connects, says something, and takes all it is given until it is shown the door.
    /// Returns the bytes it was given, and how it ended.
    async fn knock(&self, node: SocketAddr) -> (usize, String) {
        let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let connecting = endpoint.connect_with(self.config(), node, "tidings").unwrap();
        let connection = match connecting.await {
            Ok(connection) => connection,
            Err(error) => return (0, error.to_string()),
        };
        if let Ok(mut stream) = connection.open_uni().await {
            let _ = stream.write_all(&[0xa5; 4_096]).await;
        }
        let mut given = 0;
        while let Ok(mut stream) = connection.accept_uni().await {
            given += stream.read_to_end(1 << 20).await.map_or(0, |bytes| bytes.len());
        }
        (given, connection.closed().await.to_string())
    }
}

fn refused(node: &Node, reason: &str) -> u64 {
    let label = format!("reason=\"{reason}\"");
    let ours =
        |series: &str| series.starts_with("tidings_connections_refused_total{") && series.contains(&label);
    node.metrics().iter().filter(|(series, _)| ours(series)).map(|(_, count)| *count as u64).sum()
}

/// A certificate of the cluster's own authority that speaks for another realm.
fn of_another_realm(ca: &Path) -> Issued {
    let text = |name: &str| fs::read_to_string(ca.join(name)).unwrap();
    let key = rcgen::KeyPair::from_pem(&text("ca-key.pem")).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(&text("ca.pem"), key).unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.subject_alt_names = vec![rcgen::SanType::URI("tidings://elsewhere/n1".try_into().unwrap())];
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = params.signed_by(&key, &issuer).unwrap();
    Issued { cert_pem: cert.pem(), key_pem: key.serialize_pem() }
}

#[test]
fn strangers_are_given_nothing_and_counted_by_reason() {
    let cluster = Cluster::start(2, &[]);
    let node = &cluster.nodes[0];
    assert_eq!(node.redis().call(&["SET", "secret", "value"]), ok());
    let ca = cluster.dir.path().join("ca");
    let authority = Authority::load(&ca).unwrap();
    let now = OffsetDateTime::now_utc();
    let past = Validity { from: now - Duration::minutes(9), until: now - Duration::minutes(1) };
    let days = Validity::days(1).unwrap();
    let foreign = Authority::create(REALM, days).unwrap();
    let issued = |authority: &Authority, validity| Some(authority.issue("n9", &[], validity).unwrap());
    let strangers = [
        ("no_certificate", Stranger { identity: None, alpn: ALPN }),
        ("wrong_authority", Stranger { identity: issued(&foreign, days), alpn: ALPN }),
        ("expired", Stranger { identity: issued(&authority, past), alpn: ALPN }),
        ("wrong_realm", Stranger { identity: Some(of_another_realm(&ca)), alpn: ALPN }),
        ("wrong_alpn", Stranger { identity: issued(&authority, days), alpn: "h3" }),
        // The right certificate does not make garbage a greeting.
        ("bad_hello", Stranger { identity: issued(&authority, days), alpn: ALPN }),
    ];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (reason, stranger) in strangers {
        let before = refused(node, reason);
        let knocked =
            runtime.block_on(async { tokio::time::timeout(PATIENCE, stranger.knock(node.quic)).await });
        let (given, end) = knocked.unwrap_or_else(|_| panic!("{reason}: it was never shown the door"));
        // Nodes greet each other once both certificates are right; a greeting holds no data.
        let greeting = if reason == "bad_hello" { 512 } else { 0 };
        assert!(given <= greeting, "{reason}: it was given {given} bytes ({end})");
        wait_for(&format!("{reason} to be counted"), || {
            let count = refused(node, reason);
            if count > before { Ok(()) } else { Err(format!("{count}; it ended with {end}\n{}", node.log())) }
        });
    }
    assert_eq!(node.redis().call(&["GET", "secret"]), bulk("value"));
    assert_eq!(node.linked(), ["n2"]);
}

#[test]
fn a_node_of_another_authority_exchanges_nothing() {
    let cluster = Cluster::start(2, &[]);
    assert_eq!(cluster.nodes[0].redis().call(&["SET", "secret", "value"]), ok());
    let foreign = foreign(&cluster);
    wait_for("the stranger to be counted", || {
        let node = &cluster.nodes[0];
        // The one that dials is refused by us, the one that we dial would refuse us.
        let count = refused(node, "wrong_authority");
        if count > 0 { Ok(()) } else { Err(format!("{count}\n{}", node.log())) }
    });
    wait_for("the stranger to say why", || {
        let peers = foreign.json(&["peers"]);
        let row = &peers[0];
        let error = row["error"].as_str().unwrap_or_default();
        if row["linked"] == false && error.contains("wrong_authority") {
            Ok(())
        } else {
            Err(peers.to_string())
        }
    });
    assert!(foreign.dump().is_empty());
    assert_eq!(cluster.nodes[0].linked(), ["n2"]);
}

/// A running node of a realm of the same name, under another authority, that joins the first.
fn foreign(cluster: &Cluster) -> Node {
    let ca = cluster.dir.path().join("foreign-ca");
    let home = cluster.dir.path().join("foreign");
    tidings(["ca", "init", "--realm", REALM, "--dir", path(&ca)]).done();
    tidings(["ca", "issue", "foreign", "--dir", path(&ca), "--out", path(&home)]).done();
    let mut node = Node::at("foreign", home);
    node.join = vec![cluster.nodes[0].quic.to_string()];
    node.start();
    node
}

#[test]
fn garbage_harms_nobody() {
    let cluster = Cluster::start(2, &[]);
    let node = &cluster.nodes[0];
    let mut witness = node.redis();
    assert_eq!(witness.call(&["SET", "k", "v"]), ok());
    let mut random = vec![0; 64 << 10];
    rand::rng().fill(&mut random[..]);

    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    for chunk in random.chunks(1_200) {
        udp.send_to(chunk, node.quic).unwrap();
        // As a first packet of QUIC version 1 begins.
        let long: Vec<u8> = [&[0xc3, 0, 0, 0, 1, 8][..], chunk].concat();
        udp.send_to(&long[..1_200.min(long.len())], node.quic).unwrap();
    }

    let malformed: [&[u8]; 6] = [
        b"*1\r\n:5\r\n",
        b"*1\r\n$-5\r\n",
        b"*99999999999\r\n",
        b"*1\r\n$99999999999\r\n",
        b"*x\r\n",
        b"*1\r\n$3\r\nfooXX\r\n",
    ];
    for garbage in malformed.into_iter().chain([&random[..]]) {
        let mut stream = TcpStream::connect(node.resp).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = stream.write_all(garbage);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        if garbage.len() < 100 {
            let answer = String::from_utf8_lossy(&answer);
            assert!(answer.starts_with("-ERR Protocol error"), "{garbage:?}: {answer}");
        }
    }
    wait_for("malformed frames to be counted", || {
        let count = node.metric("tidings_resp_malformed_total");
        if count >= 6 { Ok(()) } else { Err(count.to_string()) }
    });

    for garbage in
        [&random[..], b"GET / HTTP/9.9\r\n\r\n", b"POST /metrics HTTP/1.1\r\ncontent-length: -1\r\n\r\n"]
    {
        let mut tcp = TcpStream::connect(node.http).unwrap();
        let _ = tcp.write_all(garbage);
        let mut unix = UnixStream::connect(node.admin()).unwrap();
        let _ = unix.write_all(garbage);
    }
    let answer = http::admin(&node.admin(), "PUT", "/v1/keys/k", "{\"value\": 7").unwrap();
    assert_eq!(answer.status, 400, "{answer:?}");
    let answer = http::admin(&node.admin(), "GET", "/v1/keys/%zz", "").unwrap();
    assert_eq!(answer.status, 400, "{answer:?}");

    assert_eq!(witness.call(&["GET", "k"]), bulk("v"));
    assert_eq!(http::get(node.http, "/readyz").unwrap().status, 200);
    assert_eq!(node.ask("/v1/status")["node"], "n1");
    assert_eq!(node.linked(), ["n2"]);
    assert_eq!(witness.call(&["SET", "k", "w"]), ok());
    super::process::wait_equal("a write after all that", &bulk("w"), || {
        Redis::connect(cluster.nodes[1].resp).unwrap().call(&["GET", "k"])
    });
}
