//! The door for eyes and probes: `/metrics`, `/healthz`, `/readyz`, and a status page for people at `/`.
//! It only reads, and says nothing of keys and values.

pub mod metrics;
mod page;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ::metrics_exporter_prometheus::PrometheusHandle;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::http::Bounded;
use crate::node::api::Operator;

/// Most connections at once; further ones wait.
const CONNECTIONS: usize = 256;
/// After this a connection on which nothing moves is closed.
const IDLE: Duration = Duration::from_secs(60);
/// How often samples of histograms are folded into buckets, for they pile up while nobody scrapes.
const UPKEEP: Duration = Duration::from_secs(5);
/// How long requests under way may go on when the node stops.
const GRACE: Duration = Duration::from_secs(1);

/// Why nobody is served.
#[derive(Debug, thiserror::Error)]
#[error("http address {address}: {source}")]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    /// Why.
    pub source: std::io::Error,
}

/// The port, listening and not yet served.
#[derive(Debug)]
pub struct Web {
    listener: TcpListener,
    address: SocketAddr,
}

#[derive(Clone)]
struct Shared {
    operator: Arc<dyn Operator>,
    metrics: PrometheusHandle,
}

impl Web {
    /// Binds the port.
    pub async fn bind(address: SocketAddr) -> Result<Self, BindError> {
        let bound = async {
            let listener = TcpListener::bind(address).await?;
            let address = listener.local_addr()?;
            Ok(Self { listener, address })
        };
        bound.await.map_err(|source| BindError { address, source })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop`.
    pub async fn serve(
        self,
        operator: Arc<dyn Operator>,
        metrics: PrometheusHandle,
        stop: CancellationToken,
    ) {
        let router = router(Shared { operator, metrics: metrics.clone() });
        let served = axum::serve(Bounded::new(self.listener, CONNECTIONS, IDLE), router)
            .with_graceful_shutdown(stop.clone().cancelled_owned())
            .into_future();
        tokio::select! {
            _ = served => {}
            () = upkeep(metrics) => {}
            () = async { stop.cancelled().await; sleep(GRACE).await } => {}
        }
    }
}

async fn upkeep(metrics: PrometheusHandle) {
    let mut ticks = interval(UPKEEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        metrics.run_upkeep();
    }
}

fn router(shared: Shared) -> Router {
    Router::new()
        .route("/", get(status_page))
        .route("/metrics", get(scrape))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(shared)
}

async fn scrape(State(shared): State<Shared>) -> impl IntoResponse {
    let text = metrics::render(&shared.metrics, &shared.operator.facts());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

async fn ready(State(shared): State<Shared>) -> Response {
    match shared.operator.not_ready() {
        None => "ready\n".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")).into_response(),
    }
}

async fn status_page(State(shared): State<Shared>) -> impl IntoResponse {
    let operator = &shared.operator;
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, page::render(&operator.status(), &operator.members(), &operator.peers()))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::node::fake::Fake;

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn probes_and_people_are_answered() {
        let web = Web::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = web.address();
        assert!(Web::bind(address).await.unwrap_err().to_string().contains(&address.to_string()));
        let fake = Arc::new(Fake::default());
        fake.facts.lock().gossip.ops_sent = 5;
        *fake.not_ready.lock() = Some("no state yet".to_owned());
        *fake.zone.lock() = "<script>alert('x')</script>".to_owned();
        let (handle, _) = metrics::install();
        let stop = CancellationToken::new();
        let served = tokio::spawn(web.serve(fake.clone(), handle, stop.clone()));

        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        let answer = get(address, "/readyz").await;
        assert!(
            answer.starts_with("HTTP/1.1 503") && answer.ends_with("not ready: no state yet\n"),
            "{answer}"
        );
        *fake.not_ready.lock() = None;
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        let answer = get(address, "/metrics").await;
        assert!(answer.contains("\ntidings_ops_sent_total 5\n"), "{answer}");
        let answer = get(address, "/").await;
        assert!(answer.contains("&lt;script&gt;") && !answer.contains("<script"), "{answer}");
        assert!(get(address, "/v1/status").await.starts_with("HTTP/1.1 404"));

        stop.cancel();
        served.await.unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }
}
