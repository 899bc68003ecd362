//! S3 over the HTTP client and the TLS that the program has anyway: no second stack, no second cryptography.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::Response;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{Client, connect};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use object_store::aws::AmazonS3Builder;
use object_store::client::{
    ClientOptions, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody,
    HttpResponse, HttpResponseBody, HttpService,
};
use object_store::{BackoffConfig, ObjectStore, RetryConfig};

use crate::config::Access;

/// How long a service may be silent.
const PATIENCE: Duration = Duration::from_secs(60);
/// The slowest connection that an upload may have, in bytes a second.
const SLOWEST: usize = 64 << 10;
/// How often, and for how long at most, one request is tried again; the worker comes back to what fails for longer.
const RETRIES: (usize, Duration) = (2, Duration::from_secs(30));

/// Opens a bucket. What `access` leaves open the environment says.
pub(super) fn open(bucket: &str, access: &Access) -> object_store::Result<Arc<dyn ObjectStore>> {
    let (max_retries, retry_timeout) = RETRIES;
    let retry = RetryConfig { backoff: BackoffConfig::default(), max_retries, retry_timeout };
    let mut builder =
        AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(retry).with_http_connector(Connector);
    let endpoint = access.endpoint.as_str();
    if !endpoint.is_empty() {
        builder = builder.with_endpoint(endpoint).with_allow_http(endpoint.starts_with("http://"));
    }
    if !access.region.as_str().is_empty() {
        builder = builder.with_region(access.region.as_str());
    }
    if !access.access_key.is_empty() {
        builder = builder
            .with_access_key_id(access.access_key.reveal())
            .with_secret_access_key(access.secret_key.reveal());
    }
    Ok(Arc::new(builder.build()?))
}

#[derive(Debug)]
struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        let provider = rustls::crypto::ring::default_provider();
        let roots = HttpsConnectorBuilder::new().with_provider_and_native_roots(provider);
        let tls = match roots {
            Ok(builder) => builder,
            // Without roots nobody can be trusted; an endpoint without TLS, as beside the node, needs none.
            Err(_) => HttpsConnectorBuilder::new().with_tls_config(trusting_nobody()?),
        };
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(PATIENCE)
            .build(tls.https_or_http().enable_http1().build());
        Ok(HttpClient::new(Service(client)))
    }
}

fn trusting_nobody() -> object_store::Result<rustls::ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder =
        builder.map_err(|error| object_store::Error::Generic { store: "S3", source: Box::new(error) })?;
    Ok(builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth())
}

#[derive(Debug)]
struct Service(Client<HttpsConnector<connect::HttpConnector>, HttpRequestBody>);

impl Service {
    async fn ask(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let slowest = Duration::from_secs((request.body().content_length() / SLOWEST) as u64);
        let answer = tokio::time::timeout(PATIENCE + slowest, self.0.request(request)).await;
        let answer = answer.map_err(|late| HttpError::new(HttpErrorKind::Timeout, late))?;
        let answer = answer.map_err(|error| {
            let kind = if error.is_connect() { HttpErrorKind::Connect } else { HttpErrorKind::Request };
            HttpError::new(kind, error)
        })?;
        let (parts, body) = Response::into_parts(answer);
        let body = Full::new(collect(body).await?).map_err(|never| match never {});
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)))
    }
}

async fn collect(mut body: Incoming) -> Result<Bytes, HttpError> {
    let mut bytes = BytesMut::new();
    loop {
        let frame = tokio::time::timeout(PATIENCE, body.frame()).await;
        let frame = frame.map_err(|late| HttpError::new(HttpErrorKind::Timeout, late))?;
        let Some(frame) = frame else { return Ok(bytes.freeze()) };
        let frame = frame.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, error))?;
        if let Ok(data) = frame.into_data() {
            bytes.extend_from_slice(&data);
        }
    }
}

impl HttpService for Service {
    fn call<'a, 'b>(
        &'a self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(self.ask(request))
    }
}
